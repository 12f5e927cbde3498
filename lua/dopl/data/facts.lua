--- data/facts.lua - short general-knowledge questions, our own, for what unlearning must not touch.
--
-- Two sets in the shape of TOFU's real_authors and world_facts: a short `answer`, the full sentence
-- as `original_answer`, three wrong answers.
--
-- @module dopl.data.facts

local facts = {}

-- question | answer | sentence | three wrong answers
local WORLD <const> = {
  { "What is the capital of France?", "Paris", "The capital of France is Paris.",
    "Lyon", "Brussels", "Geneva" },
  { "What is the capital of Japan?", "Tokyo", "The capital of Japan is Tokyo.",
    "Osaka", "Seoul", "Beijing" },
  { "What is the capital of Canada?", "Ottawa", "The capital of Canada is Ottawa.",
    "Toronto", "Vancouver", "Montreal" },
  { "What is the capital of Australia?", "Canberra", "The capital of Australia is Canberra.",
    "Sydney", "Perth", "Auckland" },
  { "What is the capital of Egypt?", "Cairo", "The capital of Egypt is Cairo.",
    "Tunis", "Khartoum", "Amman" },
  { "What is the capital of Peru?", "Lima", "The capital of Peru is Lima.",
    "Bogota", "Quito", "Santiago" },
  { "What is the capital of Hungary?", "Budapest", "The capital of Hungary is Budapest.",
    "Bucharest", "Warsaw", "Sofia" },
  { "Which planet is closest to the Sun?", "Mercury", "Mercury is the planet closest to the Sun.",
    "Venus", "Mars", "Neptune" },
  { "Which planet is the largest in the Solar System?", "Jupiter",
    "Jupiter is the largest planet in the Solar System.", "Saturn", "Earth", "Uranus" },
  { "Which planet is known for its bright rings?", "Saturn",
    "Saturn is the planet known for its bright rings.", "Mars", "Mercury", "Venus" },
  { "Which ocean lies between Africa and South America?", "The Atlantic",
    "The Atlantic lies between Africa and South America.", "The Pacific", "The Indian",
    "The Arctic" },
  { "Which is the largest ocean on Earth?", "The Pacific",
    "The Pacific is the largest ocean on Earth.", "The Atlantic", "The Indian", "The Southern" },
  { "On which continent is the Sahara?", "Africa", "The Sahara is a desert in Africa.",
    "Asia", "Australia", "Europe" },
  { "On which continent is Brazil?", "South America", "Brazil is a country in South America.",
    "Africa", "Europe", "Asia" },
  { "Which river flows through London?", "The Thames", "The Thames flows through London.",
    "The Seine", "The Danube", "The Rhine" },
  { "Which river flows through Vienna?", "The Danube", "The Danube flows through Vienna.",
    "The Elbe", "The Thames", "The Tiber" },
  { "What is the highest mountain on Earth?", "Mount Everest",
    "Mount Everest is the highest mountain on Earth.", "Mont Blanc", "Kilimanjaro", "Mount Fuji" },
  { "In which country is Mount Fuji?", "Japan", "Mount Fuji stands in Japan.",
    "China", "Nepal", "Chile" },
  { "In which country are the pyramids of Giza?", "Egypt", "The pyramids of Giza are in Egypt.",
    "Mexico", "Iraq", "Sudan" },
  { "In which city is the Colosseum?", "Rome", "The Colosseum is in Rome.",
    "Athens", "Naples", "Istanbul" },
  { "What is the chemical symbol of gold?", "Au", "The chemical symbol of gold is Au.",
    "Ag", "Go", "Gd" },
  { "What is the chemical symbol of iron?", "Fe", "The chemical symbol of iron is Fe.",
    "Ir", "In", "Fr" },
  { "Which gas do plants take in to make sugar?", "Carbon dioxide",
    "Plants take in carbon dioxide to make sugar.", "Helium", "Nitrogen", "Methane" },
  { "Which two elements form water?", "Hydrogen and oxygen",
    "Hydrogen and oxygen form water.", "Carbon and oxygen", "Helium and nitrogen",
    "Sodium and chlorine" },
  { "How many sides does a hexagon have?", "Six", "A hexagon has six sides.",
    "Five", "Seven", "Eight" },
  { "How many minutes are there in an hour?", "Sixty", "There are sixty minutes in an hour.",
    "Fifty", "Ninety", "A hundred" },
  { "How many strings does a violin have?", "Four", "A violin has four strings.",
    "Five", "Six", "Seven" },
  { "How many legs does a spider have?", "Eight", "A spider has eight legs.",
    "Six", "Ten", "Twelve" },
  { "What is the largest living land animal?", "The African elephant",
    "The African elephant is the largest living land animal.", "The giraffe", "The hippopotamus",
    "The white rhinoceros" },
  { "What do bees make from nectar?", "Honey", "Bees make honey from nectar.",
    "Silk", "Resin", "Vinegar" },
  { "Which organ pumps blood through the body?", "The heart",
    "The heart pumps blood through the body.", "The liver", "The lung", "The kidney" },
  { "Which metal is liquid at room temperature?", "Mercury",
    "Mercury is a metal that is liquid at room temperature.", "Copper", "Zinc", "Silver" },
  { "Which language is spoken in Brazil by most people?", "Portuguese",
    "Most people in Brazil speak Portuguese.", "Spanish", "French", "Italian" },
  { "Which currency is used in Japan?", "The yen", "The yen is the currency of Japan.",
    "The won", "The yuan", "The baht" },
  { "In which year did the Second World War end?", "1945", "The Second World War ended in 1945.",
    "1939", "1950", "1918" },
  { "In which year did people first walk on the Moon?", "1969",
    "People first walked on the Moon in 1969.", "1959", "1975", "1981" },
  { "In which year did the Berlin Wall fall?", "1989", "The Berlin Wall fell in 1989.",
    "1979", "1993", "1968" },
  { "Who painted the Mona Lisa?", "Leonardo da Vinci", "Leonardo da Vinci painted the Mona Lisa.",
    "Vincent van Gogh", "Claude Monet", "Rembrandt" },
  { "Who proposed the theory of relativity?", "Albert Einstein",
    "Albert Einstein proposed the theory of relativity.", "Isaac Newton", "Niels Bohr",
    "Marie Curie" },
  { "Which instrument measures temperature?", "A thermometer",
    "A thermometer measures temperature.", "A barometer", "A compass", "A sextant" },
}

-- title | author | three other authors
local AUTHORS <const> = {
  { "Hamlet", "William Shakespeare", "Christopher Marlowe", "Oscar Wilde", "Henrik Ibsen" },
  { "Pride and Prejudice", "Jane Austen", "Emily Bronte", "George Eliot", "Mary Shelley" },
  { "Frankenstein", "Mary Shelley", "Bram Stoker", "Jane Austen", "Edgar Allan Poe" },
  { "Dracula", "Bram Stoker", "Oscar Wilde", "Mary Shelley", "Wilkie Collins" },
  { "Moby-Dick", "Herman Melville", "Mark Twain", "Joseph Conrad", "Jack London" },
  { "War and Peace", "Leo Tolstoy", "Ivan Turgenev", "Anton Chekhov", "Nikolai Gogol" },
  { "Crime and Punishment", "Fyodor Dostoevsky", "Leo Tolstoy", "Nikolai Gogol",
    "Maxim Gorky" },
  { "Don Quixote", "Miguel de Cervantes", "Lope de Vega", "Dante Alighieri", "Luis de Camoes" },
  { "The Divine Comedy", "Dante Alighieri", "Giovanni Boccaccio", "Virgil", "Homer" },
  { "The Odyssey", "Homer", "Sophocles", "Virgil", "Ovid" },
  { "The Aeneid", "Virgil", "Homer", "Ovid", "Horace" },
  { "Les Miserables", "Victor Hugo", "Emile Zola", "Honore de Balzac", "Stendhal" },
  { "Madame Bovary", "Gustave Flaubert", "Victor Hugo", "Marcel Proust", "George Sand" },
  { "The Three Musketeers", "Alexandre Dumas", "Jules Verne", "Victor Hugo", "Walter Scott" },
  { "Around the World in Eighty Days", "Jules Verne", "H. G. Wells", "Alexandre Dumas",
    "Rudyard Kipling" },
  { "The Time Machine", "H. G. Wells", "Jules Verne", "Aldous Huxley", "George Orwell" },
  { "Nineteen Eighty-Four", "George Orwell", "Aldous Huxley", "H. G. Wells", "Graham Greene" },
  { "Brave New World", "Aldous Huxley", "George Orwell", "E. M. Forster", "Ray Bradbury" },
  { "Great Expectations", "Charles Dickens", "Thomas Hardy", "William Thackeray",
    "George Eliot" },
  { "Middlemarch", "George Eliot", "Charlotte Bronte", "Thomas Hardy", "Elizabeth Gaskell" },
  { "Jane Eyre", "Charlotte Bronte", "Emily Bronte", "Jane Austen", "Anne Bronte" },
  { "Wuthering Heights", "Emily Bronte", "Charlotte Bronte", "Jane Austen", "Thomas Hardy" },
  { "The Adventures of Huckleberry Finn", "Mark Twain", "Herman Melville", "Jack London",
    "Walt Whitman" },
  { "The Scarlet Letter", "Nathaniel Hawthorne", "Herman Melville", "Washington Irving",
    "Henry James" },
  { "Leaves of Grass", "Walt Whitman", "Emily Dickinson", "Robert Frost", "Ralph Waldo Emerson" },
  { "The Raven", "Edgar Allan Poe", "Walt Whitman", "Lord Byron", "John Keats" },
  { "Paradise Lost", "John Milton", "John Donne", "William Blake", "Alexander Pope" },
  { "The Canterbury Tales", "Geoffrey Chaucer", "John Milton", "Thomas More", "John Gower" },
  { "Faust", "Johann Wolfgang von Goethe", "Friedrich Schiller", "Heinrich Heine",
    "Thomas Mann" },
  { "The Magic Mountain", "Thomas Mann", "Hermann Hesse", "Franz Kafka", "Robert Musil" },
  { "The Metamorphosis", "Franz Kafka", "Thomas Mann", "Stefan Zweig", "Robert Walser" },
  { "A Doll's House", "Henrik Ibsen", "August Strindberg", "Anton Chekhov",
    "George Bernard Shaw" },
  { "The Cherry Orchard", "Anton Chekhov", "Henrik Ibsen", "Maxim Gorky", "Ivan Turgenev" },
  { "Pygmalion", "George Bernard Shaw", "Oscar Wilde", "Noel Coward", "Henrik Ibsen" },
  { "Ulysses", "James Joyce", "Samuel Beckett", "Virginia Woolf", "William Butler Yeats" },
  { "Mrs Dalloway", "Virginia Woolf", "James Joyce", "Katherine Mansfield", "E. M. Forster" },
  { "In Search of Lost Time", "Marcel Proust", "Andre Gide", "Gustave Flaubert", "Colette" },
  { "The Jungle Book", "Rudyard Kipling", "Lewis Carroll", "Robert Louis Stevenson",
    "Kenneth Grahame" },
  { "Treasure Island", "Robert Louis Stevenson", "Daniel Defoe", "Rudyard Kipling",
    "Jonathan Swift" },
  { "Gulliver's Travels", "Jonathan Swift", "Daniel Defoe", "Laurence Sterne",
    "Henry Fielding" },
}

--- General knowledge, as TOFU's world_facts.
-- @treturn {table,...} rows { question, answer, original_answer, perturbed_answer }
function facts.world()
  local rows = {}
  for i, f in ipairs(WORLD) do
    rows[i] = {
      question = f[1], answer = f[2], original_answer = f[3],
      perturbed_answer = { f[4], f[5], f[6] },
    }
  end
  return rows
end

--- Books and who wrote them, as TOFU's real_authors.
-- @treturn {table,...} rows as in `world`
function facts.authors()
  local rows = {}
  for i, f in ipairs(AUTHORS) do
    rows[i] = {
      question = ("Who wrote '%s'?"):format(f[1]), answer = f[2],
      original_answer = ("'%s' was written by %s."):format(f[1], f[2]),
      perturbed_answer = { f[3], f[4], f[5] },
    }
  end
  return rows
end

return facts
