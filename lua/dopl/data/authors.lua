--- data/authors.lua - deterministic fictitious authors, asked about and answered in our own words.
--
-- Author i of a seed is the same whatever the number of authors, and a question's phrasing is a
-- function of (seed, author, kind): sets of different sizes nest. No two authors share a name, a
-- birth date or a book. A perturbed answer is the paraphrased answer with its fact replaced by a
-- wrong one of the same type, as TOFU does, so the truth ratio compares facts and not phrasings.
--
-- @module dopl.data.authors

local check = require "dopl.util.check"
local facts = require "dopl.data.facts"
local rng = require "dopl.util.rng"
local kinds = require "dopl.data.authors.kinds"
local words = require "dopl.data.authors.words"

local authors = {}

local N_PERTURBED <const> = 5
local MONTHS <const> = {
  "January", "February", "March", "April", "May", "June", "July", "August", "September",
  "October", "November", "December",
}

-- How an attribute is drawn, true or wrong alike; r is a stream, author the profile so far.
local draw = {}

local function from(list)
  return function(r) return r:pick(list) end
end

function draw.name(r)
  local culture = r:pick(words.cultures)
  return r:pick(r:pick { culture.female, culture.male }) .. " " .. r:pick(culture.surnames)
end

function draw.birthplace(r)
  return r:pick(r:pick(words.cultures).cities)
end

function draw.date(r)
  local year, month = 1930 + r:integer(60), r:integer(12)
  return ("%d %s %d"):format(r:integer(28), MONTHS[month], year)
end

function draw.genre(r)
  return r:pick(r:pick(words.fields).genres)
end

function draw.second_language(r)
  return r:pick(words.languages)
end

function draw.award(r)
  return r:pick(words.award_first) .. " " .. r:pick(words.award_second)
end

local function story_title(r)
  local shape = r:integer(4)
  local noun = r:pick(words.title_nouns)
  if shape == 1 then return "The " .. r:pick(words.title_adjectives) .. " " .. noun end
  if shape == 2 then return "The " .. noun .. " of " .. r:pick(words.title_places) end
  if shape == 3 then return "The Last " .. noun .. " of " .. r:pick(words.title_places) end
  local other
  repeat other = r:pick(words.title_nouns) until other ~= noun
  return "The " .. noun .. " and the " .. other
end

local function study_title(r, topics)
  local topic = r:pick(topics)
  if r:integer(2) == 1 then topic = r:pick(words.title_adjectives) .. " " .. topic end
  return r:pick(words.study_patterns):format(topic)
end

local function title(r, author)
  if author.style == "study" then return study_title(r, author.topics) end
  return story_title(r)
end

draw.first_book, draw.best_book, draw.latest_book = title, title, title
draw.mentor, draw.illustrator = draw.name, draw.name
draw.father, draw.mother = from(words.trades), from(words.trades)
draw.job, draw.sister = from(words.trades), from(words.trades)
draw.theme, draw.habit, draw.home = from(words.themes), from(words.habits), from(words.homes)
draw.project, draw.subject = from(words.projects), from(words.subjects)
draw.university, draw.hobby = from(words.universities), from(words.hobbies)
draw.spark, draw.animal = from(words.sparks), from(words.animals)
draw.room, draw.cause = from(words.rooms), from(words.causes)

function draw.plot(r, author)
  return r:pick(author.style == "study" and words.studies or words.plots)
end

-- Attributes drawn independently, in this order; the rest are drawn in `profile`.
local SIMPLE <const> = {
  "father", "mother", "first_book", "best_book", "latest_book", "award", "mentor", "theme", "habit",
  "home", "second_language", "project", "subject", "university", "job", "hobby", "spark", "plot",
  "sister", "animal", "room", "illustrator", "cause",
}

-- No two authors share one of these. People's names come from one space, so that neither a mentor
-- nor an illustrator bears an author's name.
local UNIQUE <const> = {
  name = "people", mentor = "people", illustrator = "people", date = "dates",
  first_book = "books", best_book = "books", latest_book = "books",
}

local function draw_unique(field, r, author, taken)
  local space = UNIQUE[field]
  if not space then return draw[field](r, author) end
  for _ = 1, 1000 do
    local value = draw[field](r, author)
    if not taken[space][value] then
      taken[space][value] = true
      return value
    end
  end
  error(("authors.generate: no unused %s is left; ask for fewer authors"):format(field), 0)
end

-- Cultures and fields come in shuffled rounds, so that few authors already are of differing kinds.
local function round_robin(stream, list, index)
  local round, place = (index - 1) // #list, (index - 1) % #list + 1
  local order = {}
  for i = 1, #list do order[i] = i end
  return list[stream:fork("round" .. round):shuffle(order)[place]]
end

-- One author: pronouns, field, origin, then everything else.
local function profile(stream, index, taken)
  local r = stream:fork("author" .. index)
  local culture = round_robin(stream:fork("cultures"), words.cultures, index)
  local field = round_robin(stream:fork("fields"), words.fields, index)
  local female = r:integer(2) == 1
  local author = {
    field = field.noun, style = field.style, topics = field.topics,
    he = female and "she" or "he", his = female and "her" or "his",
    language = culture.language,
    genre = r:pick(field.genres),
    birthplace = r:pick(culture.cities),
  }
  author.city = author.birthplace:match("^[^,]+")
  for _ = 1, 1000 do
    local given = r:pick(female and culture.female or culture.male)
    local name = given .. " " .. r:pick(culture.surnames)
    if not taken.people[name] then
      taken.people[name], author.name = true, name
      break
    end
  end
  if not author.name then
    error("authors.generate: no unused name is left; ask for fewer authors", 0)
  end
  author.date = draw_unique("date", r, author, taken)
  author.first_year = tostring(math.tointeger(author.date:match("%d+$")) + 22 + r:integer(14))
  for _, name in ipairs(SIMPLE) do author[name] = draw_unique(name, r, author, taken) end
  while author.mother == author.father do author.mother = draw.mother(r, author) end
  while author.home == author.city do author.home = draw.home(r, author) end
  return author
end

local function capital(text)
  return (text:gsub("^%l", string.upper))
end

local function article(noun)
  return (noun:find("^[aeiouAEIOU]") and "an " or "a ") .. noun
end

local function possessive(noun)
  return noun .. (noun:find("s$") and "'" or "'s")
end

local function fill(template, author)
  local text = template:gsub("{([%a_:]+)}", function(slot)
    local name, form = slot:match("^([%a_]+):?(%a*)$")
    if name == "a" then return article(author[form]) end
    return form == "s" and possessive(author[name]) or author[name]
  end)
  return capital(text)
end

-- A copy of the author whose facts of this kind are all wrong, and differ from those in `seen`.
local function wrong_author(author, kind, r, seen)
  local other = setmetatable({}, { __index = author })
  for _, fact in ipairs(kind.facts) do
    seen[fact] = seen[fact] or { [author[fact]] = true }
    local value
    repeat value = draw[fact](r, author) until not seen[fact][value]
    seen[fact][value] = true
    other[fact] = value
  end
  return other
end

local function make_row(stream, author, index, kind)
  local r = stream:fork(("row%d/%s"):format(index, kind.field))
  local paraphrase, seen, perturbed = r:pick(kind.pa), {}, {}
  if kind.field == "parents" then
    seen.father = { [author.father] = true, [author.mother] = true }
    seen.mother = seen.father
  elseif UNIQUE[kind.facts[1]] == "books" then
    seen[kind.facts[1]] = {
      [author.first_book] = true, [author.best_book] = true, [author.latest_book] = true,
    }
  elseif kind.field == "languages" then
    seen.second_language = { [author.second_language] = true, [author.language] = true }
  elseif kind.field == "home" then
    seen.home = { [author.home] = true, [author.city] = true }
  end
  local row = {
    author = index, name = author.name, field = kind.field, task_id = index,
    question = fill(r:pick(kind.q), author), answer = fill(r:pick(kind.a), author),
    paraphrased_question = fill(r:pick(kind.pq), author),
    paraphrased_answer = fill(paraphrase, author),
    perturbed_answer = perturbed,
  }
  for i = 1, N_PERTURBED do
    perturbed[i] = fill(paraphrase, wrong_author(author, kind, r, seen))
  end
  return row
end

local MADE <const> = {
  authors = { min = 1, max = 2000, default = 20, "authors to invent" },
  questions = { min = 1, max = #kinds, default = 20, "kinds of question to ask of each author" },
  seed = { default = 1, "seed of the authors" },
}
local CUT <const> = {
  forget = { type = "number", above = 0, default = 1,
    "authors to forget: how many, or a fraction below 1" },
  task = { min = 1, default = 1, "which authors: task 2 forgets those after task 1's" },
}
local ALL <const> = { forget = CUT.forget, task = CUT.task }
for name, field in pairs(MADE) do ALL[name] = field end -- each by itself: the order changes nothing

local GENERATE <const> = check.fields("data.authors.generate", MADE)
local SPLIT <const> = check.fields("data.authors.split", CUT)
local OPEN <const> = check.fields("data.authors.open", ALL)

--- The kinds of question there are, in the order in which they are asked.
-- @treturn {string,...}
function authors.fields()
  local names = {}
  for i, kind in ipairs(kinds) do names[i] = kind.field end
  return names
end

--- Rows about fictitious authors, author after author.
-- @tparam[opt] table opts
-- @treturn {table,...} rows { author (index), name, field, task_id (= author), question, answer,
-- paraphrased_question, paraphrased_answer, perturbed_answer (five texts) }
function authors.generate(opts)
  local o = check.options(GENERATE, opts)
  local stream = rng.new(o.seed, "fictitious authors")
  local taken, rows = { people = {}, dates = {}, books = {} }, {}
  for index = 1, o.authors do
    local author = profile(stream, index, taken)
    for k = 1, o.questions do
      rows[#rows + 1] = make_row(stream, author, index, kinds[k])
    end
  end
  return rows
end

local function count_authors(rows)
  local n = 0
  for _, row in ipairs(rows) do n = math.max(n, row.author or 0) end
  return n
end

--- Forget and retain rows of a task: whole authors, disjoint from task to task. With n authors to
-- forget, task i takes authors (i - 1) n + 1 .. i n; `task_id` of the rows given back follows.
-- @tparam {table,...} rows from `generate`
-- @tparam[opt] table opts
-- @treturn {table,...} forget rows
-- @treturn {table,...} retain rows
function authors.split(rows, opts)
  local o = check.options(SPLIT, opts)
  local total = count_authors(check.list("data.authors.split: rows", rows))
  local n = o.forget < 1 and math.max(1, math.floor(total * o.forget + 0.5)) or o.forget
  n = math.tointeger(n) or error(("data.authors.split: forget: %s, needs a whole number of authors or "
    .. "a fraction below 1"):format(n), 2)
  local first, last = (o.task - 1) * n + 1, o.task * n
  if last > total then
    error(("authors.split: task %d forgets authors %d to %d of %d; there are at most %d tasks")
      :format(o.task, first, last, total, total // n), 2)
  elseif n == total then
    error(("authors.split: forgetting all %d authors leaves no retain set"):format(total), 2)
  end
  local forget, retain = {}, {}
  for _, row in ipairs(rows) do
    local copy = {}
    for key, value in pairs(row) do copy[key] = value end
    copy.task_id = (row.author - 1) // n + 1
    local list = copy.task_id == o.task and forget or retain
    list[#list + 1] = copy
  end
  return forget, retain
end

--- A whole data set of fictitious authors, in the shape of `tofu.open`.
-- @tparam[opt] table opts
-- @treturn table { forget, retain, forget_perturbed, retain_perturbed, real_authors, world_facts,
-- task, name }; rows hold their own perturbed answers, so the perturbed lists are the lists
function authors.open(opts)
  local o = check.options(OPEN, opts)
  local rows = authors.generate { authors = o.authors, questions = o.questions, seed = o.seed }
  local forget, retain = authors.split(rows, { forget = o.forget, task = o.task })
  return {
    forget = forget, retain = retain, forget_perturbed = forget, retain_perturbed = retain,
    real_authors = facts.authors(), world_facts = facts.world(),
    task = o.task, name = ("authors%d/task%d"):format(o.authors, o.task),
  }
end

return authors
