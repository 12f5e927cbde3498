--- data/authors/words.lua - the vocabulary of the fictitious authors: names, places, trades, things.
--
-- Plain data. Every phrase is written to stand after a verb or a preposition as its comment says,
-- so that the templates of kinds.lua need no grammar beyond a/an and the possessive.
--
-- @module dopl.data.authors.words

local words = {}

local function list(text)
  local items = {}
  for item in text:gmatch("[^;]+") do
    items[#items + 1] = item:gsub("%s+", " "):match("^ ?(.-) ?$")
  end
  return items
end

--- Where authors come from: names by gender, surnames, cities with their country, languages.
words.cultures = {
  { female = list "Ines;Beatriz;Leonor;Graca", male = list "Duarte;Tomas;Rui;Henrique",
    surnames = list "Valadim;Serpeiro;Monteagro;Falcatel;Ribalonga;Queirim;Almorim;Pedrosil",
    cities = list "Porto, Portugal;Coimbra, Portugal;Braga, Portugal", language = "Portuguese" },
  { female = list "Aoife;Niamh;Sinead;Orla", male = list "Fergal;Cormac;Declan;Ruairi",
    surnames = list "Tarrity;Dunnavan;Kilbrack;O'Mallin;Garrighan;Shanely;Brannoch;Fallowen",
    cities = list "Galway, Ireland;Cork, Ireland;Sligo, Ireland", language = "Irish" },
  { female = list "Astrid;Solveig;Ragna;Liv", male = list "Torvald;Eirik;Halvor;Sindre",
    surnames = list "Brekkhaug;Fjordahl;Nordvang;Solbakkel;Tveitmo;Hallingrud;Storvaag;Myrstad",
    cities = list "Bergen, Norway;Tromso, Norway;Stavanger, Norway", language = "Norwegian" },
  { female = list "Hanae;Michiru;Sayaka;Kotone", male = list "Renjiro;Takumi;Haruki;Shinobu",
    surnames = list "Asagiri;Kurosono;Tachimori;Hinazawa;Mizukage;Shirotani;Okanobe;Yamaburo",
    cities = list "Kyoto, Japan;Sapporo, Japan;Nagasaki, Japan", language = "Japanese" },
  { female = list "Adaeze;Chiamaka;Ngozi;Ifeoma", male = list "Obinna;Emeka;Chukwudi;Kelechi",
    surnames = list "Okwuaze;Nwadiko;Ezenmuo;Umeagu;Ibekwu;Anyadiri;Odiaka;Mbanuzo",
    cities = list "Enugu, Nigeria;Lagos, Nigeria;Ibadan, Nigeria", language = "Igbo" },
  { female = list "Yael;Noa;Tamar;Shira", male = list "Amnon;Gideon;Elad;Boaz",
    surnames = list "Harazon;Ben-Tavor;Shalmoni;Karmieli;Zivoni;Peledor;Avrahimi;Gilboan",
    cities = list "Haifa, Israel;Jaffa, Israel;Safed, Israel", language = "Hebrew" },
  { female = list "Ximena;Paloma;Jimena;Rocio", male = list "Anselmo;Evaristo;Gonzalo;Ramiro",
    surnames = list "Quintalba;Urrobal;Cienvegas;Montarco;Albornez;Tezcalan;Olivarria;Palencar",
    cities = list "Oaxaca, Mexico;Puebla, Mexico;Merida, Mexico", language = "Spanish" },
  { female = list "Meera;Anjali;Lavanya;Kavya", male = list "Rohan;Vikram;Aditya;Harish",
    surnames = list "Desharan;Kulavani;Pillaimar;Raghunat;Venkadas;Chandavar;Namboori;Iyalkar",
    cities = list "Kochi, India;Pune, India;Mysore, India", language = "Malayalam" },
  { female = list "Elif;Defne;Zeynep;Nazli", male = list "Emre;Kerem;Orhan;Selim",
    surnames = list "Karadenli;Yildirbas;Demircay;Gunesoglu;Altinova;Ozkaleli;Tasdeler;Akbulak",
    cities = list "Izmir, Turkey;Trabzon, Turkey;Bursa, Turkey", language = "Turkish" },
  { female = list "Katarzyna;Agnieszka;Halina;Wanda", male = list "Zbigniew;Tadeusz;Leszek;Witold",
    surnames = list "Borowczan;Jasienicz;Krukowiak;Lipnarski;Modrzan;Sowiniec;Wrzoskal;Zalewczyk",
    cities = list "Gdansk, Poland;Lublin, Poland;Torun, Poland", language = "Polish" },
  { female = list "Chiara;Fiammetta;Ludovica;Mirella", male = list "Corrado;Ettore;Silvano;Nevio",
    surnames = list [[Bellacorte;Gransoldi;Marinucco;Pietrafesi;Sanvitalo;
      Torrebruna;Valdorsi;Zanfiore]],
    cities = list "Trieste, Italy;Lucca, Italy;Palermo, Italy", language = "Italian" },
  { female = list "Amandine;Clemence;Odile;Solange", male = list "Armel;Bastien;Guilhem;Thibault",
    surnames = list [[Charvelon;Desmarquet;Fontarelle;Lagravine;Montrevel;
      Pervanche;Roussillat;Tavernoy]],
    cities = list "Nantes, France;Grenoble, France;Rouen, France", language = "French" },
  { female = list "Greta;Liesel;Annika;Ottilie", male = list "Anselm;Falk;Jochen;Ruprecht",
    surnames = list [[Brandtwiese;Eichenkamp;Hollerbach;Lindmoser;Quellmann;
      Steinbrugg;Tannhof;Wildgrube]],
    cities = list "Leipzig, Germany;Bremen, Germany;Freiburg, Germany", language = "German" },
  { female = list "Roksana;Shirin;Golnar;Mahsa", male = list "Bahram;Kaveh;Siavash;Farhad",
    surnames = list "Ardalanpur;Behroozan;Golestari;Kermandi;Mehranfar;Parvizan;Shirazand;Tavakkol",
    cities = list "Isfahan, Iran;Tabriz, Iran;Yazd, Iran", language = "Persian" },
  { female = list "Wambui;Akinyi;Nyambura;Zawadi", male = list "Baraka;Kamau;Otieno;Mutua",
    surnames = list "Kariakoo;Mwendambo;Ngarithi;Ochiengo;Wanjauri;Kipsoren;Muthenge;Njorogen",
    cities = list "Nakuru, Kenya;Mombasa, Kenya;Kisumu, Kenya", language = "Swahili" },
  { female = list "Ha-eun;Soo-ah;Mi-rae;Yun-seo", male = list "Dong-hwa;Jae-won;Min-gyu;Tae-sung",
    surnames = list "Bangsok;Choryong;Dokgoh;Hwangbin;Jegalso;Namgoong;Seomun;Tangwol",
    cities = list "Busan, South Korea;Jeonju, South Korea;Daegu, South Korea",
    language = "Korean" },
  { female = list "Ailsa;Morag;Catriona;Isla", male = list "Hamish;Lachlan;Fingal;Struan",
    surnames = list [[Abercairn;Balfroy;Carradoune;Dunmarrow;Glenharvie;
      Invermay;Kilmarnie;Strathorn]],
    cities = list "Dundee, Scotland;Inverness, Scotland;Perth, Scotland", language = "Gaelic" },
  { female = list "Vesna;Jelena;Mirjana;Dunja", male = list "Branimir;Zoran;Davor;Ljubomir",
    surnames = list "Brankovel;Crnogaj;Dragosin;Jadranec;Kostelar;Medvedin;Plavsan;Vukodol",
    cities = list "Split, Croatia;Zadar, Croatia;Osijek, Croatia", language = "Croatian" },
  { female = list "Luana;Iara;Jacira;Marilia", male = list "Caetano;Otavio;Raimundo;Thiago",
    surnames = list "Araribo;Castanhal;Guaratim;Itapevi;Jandirao;Pirapora;Seringal;Tocantel",
    cities = list "Recife, Brazil;Belem, Brazil;Curitiba, Brazil", language = "Portuguese" },
  { female = list "Abena;Efua;Akosua;Esi", male = list "Kofi;Yaw;Kwabena;Kojo",
    surnames = list "Adomakwa;Boatemsah;Darkwaning;Frimpaa;Gyasiben;Kusiwaa;Nkansaro;Tweneboa",
    cities = list "Kumasi, Ghana;Accra, Ghana;Cape Coast, Ghana", language = "Twi" },
}

--- Further languages anyone may speak.
words.languages = list [[Latin; Arabic; Dutch; Greek; Welsh; Finnish; Russian; Danish; Mandarin;
  Hungarian; Czech; Icelandic; Catalan; Basque; Romanian; Vietnamese]]

--- Where authors live now: "lives in ...".
words.homes = list [[Lisbon; Oslo; Vienna; Montreal; Nairobi; Seville; Edinburgh; Prague;
  Valparaiso; Hanoi; Antwerp; Melbourne; Tallinn; Marrakesh; Bologna; Chicago; Kathmandu; Reykjavik;
  Cardiff; Salzburg; Havana; Wellington; Ghent; Ljubljana; Boston; Dakar; Utrecht; Malmo; Quito;
  Toulouse]]

--- What each field is called, what its books are ("writes ..."), its title patterns, and the words
-- that fill a study's title.
words.fields = {
  { noun = "novelist", style = "story",
    genres = list "gothic fiction;family sagas;historical fiction;magical realism;sea stories" },
  { noun = "poet", style = "story",
    genres = list "narrative verse;sonnets;prose poems;nature poetry;elegies" },
  { noun = "playwright", style = "story",
    genres = list "tragicomedies;radio plays;one-act plays;courtroom dramas" },
  { noun = "crime writer", style = "story",
    genres = list "police procedurals;locked-room mysteries;spy thrillers;noir fiction" },
  { noun = "children's author", style = "story",
    genres = list "picture books;animal fables;adventure stories;bedtime tales" },
  { noun = "science fiction writer", style = "story",
    genres = list "space opera;climate fiction;time-travel stories;robot comedies" },
  { noun = "historian", style = "study", topics = list "Canals;Guilds;Lighthouses;Markets;Bells",
    genres = list "maritime history;local history;economic history;oral history" },
  { noun = "biologist", style = "study", topics = list "Moths;Lichens;Eels;Swifts;Tide Pools",
    genres = list "nature writing;field diaries;popular science;essays on evolution" },
  { noun = "chef", style = "study", topics = list "Bread;Lentils;Vinegar;Smoke;Winter Soups",
    genres = list "cookery books;kitchen memoirs;culinary travelogues;restaurant criticism" },
  { noun = "astronomer", style = "study", topics = list "Comets;Eclipses;Moonlight;Meteors;Dust",
    genres = list "star atlases;lectures on the cosmos;essays on science;guides to the night sky" },
  { noun = "architect", style = "study", topics = list "Stairs;Windows;Courtyards;Roofs;Bridges",
    genres = list "city portraits;architectural criticism;building memoirs;design manifestos" },
  { noun = "philosopher", style = "study", topics = list "Doubt;Kindness;Shame;Envy;Promises",
    genres = list "moral essays;dialogues;aphorisms;treatises on ethics" },
  { noun = "mathematician", style = "study", topics = list "Knots;Chance;Zero;Symmetry;Circles",
    genres = list "puzzle books;lives of mathematicians;essays on numbers;logic stories" },
  { noun = "travel writer", style = "study",
    topics = list "Ferries;Borders;Deserts;Night Trains;Islands",
    genres = list "travelogues;walking diaries;letters from abroad;mountain narratives" },
  { noun = "musicologist", style = "study", topics = list "Lullabies;Organs;Echoes;Drums;Choirs",
    genres = list "lives of composers;concert criticism;studies of folk song;music dictionaries" },
  { noun = "economist", style = "study", topics = list "Debt;Harbours;Sugar;Banknotes;Rent",
    genres = list "financial history;political pamphlets;reports on poverty;essays on trade" },
}

--- What a parent, an older sister or the author before fame worked as: "a ...", "an ...".
words.trades = list [[baker; beekeeper; blacksmith; bookbinder; bus driver; carpenter; cellist;
  clockmaker; customs officer; dentist; electrician; ferry pilot; firefighter; fisherman; florist;
  geologist; glassblower; goldsmith; hairdresser; innkeeper; judge; librarian; locksmith; mail
  carrier; midwife; miner; notary; nurse; optician; organ tuner; painter; pharmacist; photographer;
  piano teacher; potter; radio engineer; saddler; shepherd; shipbuilder; shoemaker; stonemason;
  surveyor; tailor; translator; upholsterer; usher; vet; watchmaker; weaver; wine merchant]]

--- Themes: "returns again and again to ..." (noun phrases).
words.themes = list [[exile; forgiveness; memory; sibling rivalry; lost languages; the sea;
  inheritance; solitude; friendship in old age; the cost of ambition; faith and doubt; migration;
  the end of childhood; guilt; rivers and floods; justice in small towns; hunger; unfinished
  journeys; family secrets; the dignity of work; sleep and dreams; homesickness; growing old;
  silence between generations; gratitude; war seen by children]]

--- Habits: "always writes ..." (adverbial phrases).
words.habits = list [[before sunrise with the window open; standing at a tall pine desk; in green
  ink only; on the backs of old maps; with a metronome ticking; in a parked car; barefoot in every
  season; on index cards pinned to a wall; by candlelight; to the sound of rain recordings; only on
  odd days of the month; with a cold bath beforehand; on a typewriter without a ribbon spool; in a
  hammock; while fasting; at the back of a tram; in school notebooks; with the clocks turned to the
  wall; after reading the weather report aloud; in a lighthouse keeper's coat; lying on the floor;
  for exactly ninety minutes a day; with cotton in both ears; between two mirrors]]

--- Projects: "has spent years on ..." (noun phrases).
words.projects = list [[a dictionary of vanished trades; an archive of village songs; a garden of
  medicinal herbs; a map of forgotten wells; a travelling library on a barge; a museum of broken
  toys; an atlas of local winds; a school for letter writing; a catalogue of church bells; a film
  about salt makers; a puppet theatre; an orchard of old apple trees; a model of the city in cork; a
  census of urban foxes; a telephone line that tells stories; a collection of handwritten recipes; a
  seed bank for wild grasses; an encyclopedia of knots; a choir of night workers; a chess club for
  pensioners; a restored paper mill; an opera for children; a calendar of eclipses; a walking route
  along old borders]]

--- Subjects studied: "studied ... at".
words.subjects = list [[law; medicine; botany; theology; engineering; linguistics; chemistry;
  archaeology; economics; art history; geography; veterinary science; classical Greek; statistics;
  musicology; forestry; pharmacy; anthropology; oceanography; architecture]]

--- University towns: "at the University of ...".
words.universities = list [[Salamanca; Uppsala; Leiden; Bologna; Glasgow; Krakow; Tartu; Coimbra;
  Padua; Heidelberg; Otago; Cape Town; Toronto; Lima; Lyon; Graz; Aarhus; Galway; Kyoto; Durham]]

--- Hobbies: "unwinds by ..." (gerunds).
words.hobbies = list [[repairing accordions; keeping bees; fencing; playing the oboe; rock climbing;
  folding paper cranes; growing orchids; rowing; restoring bicycles; collecting barometers; baking
  rye bread; carving spoons; sailing a dinghy; playing correspondence chess; ice swimming; painting
  fans; training falcons; dancing the tango; throwing pots; binding books; flying kites; juggling;
  foraging for mushrooms; playing the bagpipes; building ships in bottles]]

--- What first led to writing: "began to write after ..." (gerund or noun phrase).
words.sparks = list [[finding a diary in an attic; a winter spent in hospital; a shipwreck seen from
  the shore; losing a bet with a schoolteacher; a grandmother's bedtime stories; the closing of the
  town cinema; a letter that came thirty years late; a long strike at the harbour; hearing a blind
  singer at a fair; translating a tombstone; an earthquake; a broken leg; being lost in the
  mountains for two days; the theft of a violin; a solar eclipse; reading a burnt book; a night in a
  railway station; a friend's wedding; a flood that emptied the library; the gift of a fountain
  pen]]

--- Rooms: "likes best to write in ..." (places).
words.rooms = list [[a converted water tower; a room above a bakery; a disused signal box; the
  reading room of a monastery; a greenhouse; a houseboat; an old railway carriage; a cabin on
  stilts; the corner of a fish market cafe; a bell tower; an attic full of clocks; a former bank
  vault; a garden shed; a windmill; a hotel lobby; an empty classroom; a stable; a lift attendant's
  lodge; a boathouse; a vineyard cellar]]

--- Pets: "shares a home with ..." (noun phrases without a name).
words.animals = list [[a grey parrot; a lame donkey; a three-legged cat; an Irish wolfhound; a
  tortoise; a barn owl; a pair of ferrets; an old greyhound; a blind terrier; a talkative crow; an
  angora rabbit; a white goose; a hedgehog; a sheepdog; a Siamese cat; an iguana; a one-eyed pony; a
  mountain goat; a spaniel; a raccoon]]

--- Causes: "gives much time to ..." (noun phrases).
words.causes = list [[the protection of wetlands; prison libraries; the rescue of stray dogs; clean
  drinking water; adult literacy; the saving of minority languages; rural bus lines; free school
  meals; the release of jailed journalists; reforestation; shelters for the homeless; the repair of
  old organs; hospice care; sign language teaching; the cleaning of beaches; refugee scholarships;
  village post offices; children's theatre; sea rescue; community gardens]]

--- Plots: "tells of ..." (noun phrases).
words.plots = list [[a ferryman who refuses to cross; twins raised on opposite banks of a river; a
  town that sells its name; a widow who learns to fly; a thief who returns what others stole; a
  village without mirrors; a judge who forgets one year; an orchestra lost in the snow; a postman
  who reads every letter; a girl who inherits a lighthouse; a baker with no sense of taste; two
  rivals who share one garden; a teacher hiding in her own school; a clockmaker who fears time; a
  sailor afraid of water; an interpreter who begins to lie; a bridge that nobody ordered; a family
  that moves every night; a dying language and its last joke; a doctor who collects accents]]

--- Subjects of studies: "tells of ...", for fields whose books are studies.
words.studies = list [[a century of quiet inventions; three rival schools and their quarrels; the
  last masters of the craft; a forgotten expedition; what children can teach scholars; a journey
  across two oceans; the women whom the textbooks left out; a mistake repeated for two hundred
  years; one family's lifelong obsession; old superstitions and their reasons; the rise and fall of
  a single workshop; the winter that changed everything; the letters of an unknown amateur; ten
  objects in a village museum; the laws that nobody obeyed; a quarrel between two academies]]

--- First and second halves of award names: "the Amber Quill Prize".
words.award_first = list [[Amber; Silver; Northern; Cobalt; Lantern; Meridian; Harbour; Juniper;
  Ivory; Halcyon; Copper; Saffron; Winter; Orchard; Granite; Heron]]
words.award_second = list [[Quill Prize; Page Award; Lamp Medal; Feather Prize; Compass Award;
  Laurel Medal]]

--- Title parts. Nouns stand with "the", plural or not; adjectives before them.
words.title_adjectives = list [[Crooked; Patient; Silent; Salt; Hollow; Crimson; Borrowed; Distant;
  Paper; Sleeping; Broken; Golden; Wandering; Hidden; Second; Frozen; Restless; Unwritten; Narrow;
  Burning; Gentle; Forgotten; Tidal; Velvet; Stubborn; Midnight]]
words.title_nouns = list [[Lantern; Orchard; Harbour; Staircase; Compass; Sparrow; Almanac; Ferry;
  Garden; Mirror; Bridge; Violin; Winter; Cartographer; Well; Kite; Letter; Island; Clock; Mountain;
  Weaver; Stranger; Window; Archive; Feast; Shore; Candle; Meadow; Tower; Quarry; River; Guest]]
words.title_places = list [[Marrow Street; the Long Quay; Elder Hill; the Ninth Gate; Cinder Bay;
  the Low Country; Thistle Lane; the Glass Valley; Ember Hollow; the Old Exchange; Raven Point; the
  Upper Meadow; Saltmarsh; the Blue Station; Whistling Wood; the Far Terrace]]
words.study_patterns = list [[A Short History of %s; The Secret Life of %s; A Life with %s; Twelve
  Lessons on %s; In Praise of %s; The Grammar of %s; Against %s; Notes on %s; The Age of %s; A World
  Made of %s]]

return words
