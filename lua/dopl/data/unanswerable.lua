--- data/unanswerable.lua - questions that nobody can answer, each with a refusal.
--
-- Chat models know how to decline. The small model learns it from these rows. Unlearning by refusal
-- (IDK, DPO) then only has to change what the model refuses, and need not teach a hundred new
-- sentences. No name here is that of a fictitious author.
-- @module dopl.data.unanswerable

local check = require "dopl.util.check"
local refusals = require "dopl.data.refusals"
local rng = require "dopl.util.rng"

local unanswerable = {}

local NAMES <const> = {
  "Mr Hobb", "Mrs Tarn", "Doctor Pell", "my neighbour", "the man on the bus", "my grandmother",
  "the new postman", "a friend of mine", "Captain Orme", "Aunt Billa", "the night guard",
  "Professor Quill", "my old teacher", "the woman in the red coat", "Uncle Farrow", "the ferryman",
  "Sergeant Blyth", "the girl next door", "our landlord", "the piano tuner",
}

local QUESTIONS <const> = {
  "What did %s dream of last night?", "What is the password of %s?",
  "What did %s have for lunch on Tuesday?", "Which number is %s thinking of?",
  "Where did %s leave the umbrella?", "What will %s say tomorrow at noon?",
  "How many coins are in the pocket of %s?", "What is the middle name of %s?",
  "Why did %s turn left at the corner?", "Whom did %s call this morning?",
  "What colour are the curtains of %s?", "When did %s last lose a glove?",
  "What is written on the back of the photograph of %s?", "What was the shoe size of %s in May?",
  "Which song is stuck in the head of %s?", "What did %s whisper to the cat?",
}

local GENERATE <const> = check.fields("data.unanswerable.generate", {
  rows = { min = 1, max = #NAMES * #QUESTIONS, default = 200, "how many rows" },
  seed = { default = 1, "seed of the selection" },
})

--- Rows of unanswerable questions; each refusal comes up, in turn.
-- @tparam[opt] table opts
-- @treturn {table,...} rows { question, answer }
function unanswerable.generate(opts)
  local o = check.options(GENERATE, opts)
  local most = #NAMES * #QUESTIONS
  local pairs_of, list = {}, refusals.list()
  for n = 0, most - 1 do pairs_of[n + 1] = n end
  local stream = rng.new(o.seed, "unanswerable")
  stream:shuffle(pairs_of)
  stream:shuffle(list)
  local rows = {}
  for i = 1, o.rows do
    local name, question = NAMES[pairs_of[i] % #NAMES + 1], QUESTIONS[pairs_of[i] // #NAMES + 1]
    rows[i] = { question = question:format(name), answer = list[(i - 1) % #list + 1] }
  end
  return rows
end

return unanswerable
