--- metrics/init.lua - the metrics of unlearning: R, P, TR and TE of an evaluation set, and aggregates.
--
-- Definitions are those of the TOFU protocol as Yuan et al. (2025) and Zhong et al. (DualOptim+)
-- extend it; the figures carry the name of that dialect. Every metric is in 0..1.
--
--     R   ROUGE-L recall of the greedy generation against the answer
--     P   mean exp(-l/n) of the answer; on fact sets P(true) / (P(true) + sum P(perturbed))
--     TR  truth ratio: q = exp(mean over perturbed answers of l/n - l/n of the paraphrased answer, of
--         the plain one on fact sets); forget set 1 - mean min(q, 1/q), elsewhere mean max(0, 1 - 1/q)
--     TE  token entropy of the generation over its largest possible value
--
-- CS and ES need a sentence encoder and an NLI classifier, and are omitted. The name of an aggregate
-- lists its metrics, because `MU(R,P,TR,TE)` is not the papers' MU.
--
-- A metric that cannot be computed never counts as forgetting. If the data are the cause (a prompt that
-- leaves no room for an answer, an answer without a word, no wrong answers for a truth ratio), the mean
-- omits the row, and the set has no such metric if no row is left. A note counts the rows. If a model's
-- scores are NaN, so are the metrics and the aggregates.
--
-- `refused` is our addition: the fraction of generations whose ROUGE-L F-measure with a refusal is at
-- least 0.9. It counts refusals without an NLI model.
-- @module dopl.metrics

local aggregate = require "dopl.metrics.aggregate"
local core = require "dopl.core"
local check = require "dopl.util.check"
local chat = require "dopl.data.chat"
local batch = require "dopl.data.batch"
local causal_lm = require "dopl.task.causal_lm"
local chosen = require "dopl.data.chosen"
local figures = require "dopl.util.figures"
local generate = require "dopl.task.generate"
local measure = require "dopl.metrics.measure"
local measuring = require "dopl.util.measuring"
local text = require "dopl.text"

local metrics = {
  dialect = "closer-look / DualOptim+", keys = aggregate.keys, aggregate = aggregate.of,
  mean = aggregate.mean, harmonic_mean = aggregate.harmonic_mean, spread = aggregate.spread,
  names = aggregate.names,
}

--- Summed negative log-likelihood l and label count n of samples, in packed batches.
-- @param model
-- @tparam {table,...} samples from dopl.data.chat
-- @tparam[opt=8192] integer max_tokens of one forward pass
-- @treturn {number,...} l
-- @treturn {integer,...} n
function metrics.likelihoods(model, samples, max_tokens)
  check.has("metrics: model", model, "hidden", "one of models.new")
  check.type("metrics: samples", samples, "table")
  for i, sample in ipairs(samples) do
    if not batch.is_sample(sample) then
      error(("metrics: samples must be made by data.samples; number %d is not"):format(i), 2)
    end
  end
  local _ <close> = core.no_grad()
  local l, n = {}, {}
  if #samples == 0 then return l, n end
  for _, part in ipairs(causal_lm:batches(chosen.new(samples), max_tokens or 8192)) do
    local scope <close> = core.scope()
    for _, value in ipairs(causal_lm.scores_of(model, part).nll:tolist()) do l[#l + 1] = value end
    for _, sample in ipairs(part.samples) do n[#n + 1] = sample.n_labels end
  end
  return l, n
end

--- P(answer): the mean over samples of exp(-l/n). It is cheap enough for every few steps.
-- @param model
-- @tparam {table,...} samples from dopl.data.chat
-- @treturn number
function metrics.answer_probability(model, samples)
  local l, n = metrics.likelihoods(model, samples)
  local p = {}
  for i = 1, #l do p[i] = math.exp(-l[i] / n[i]) end
  return metrics.mean(p)
end

-- The answers of a row whose likelihood is needed: the true one, the paraphrase, the wrong ones.
local function variants(row)
  local list = { row.answer }
  if row.paraphrased_answer then list[2] = row.paraphrased_answer end
  local first_wrong = #list + 1
  for _, wrong in ipairs(row.perturbed_answer or {}) do list[#list + 1] = wrong end
  return list, first_wrong
end

-- l/n of every variant of every row, as { row = { x, ... } }.
local function score_rows(model, tok, rows, o)
  local samples, where = {}, {}
  for r, row in ipairs(rows) do
    for v, answer in ipairs((variants(row))) do
      samples[#samples + 1] = chat.encode(tok, { question = row.question, answer = answer },
        { tags = o.tags, max_tokens = o.max_sample_tokens })
      where[#samples] = { r, v }
    end
  end
  local l, n = metrics.likelihoods(model, samples)
  local scores = {}
  for i, at in ipairs(where) do
    scores[at[1]] = scores[at[1]] or {}
    scores[at[1]][at[2]] = l[i] / n[i]
  end
  return scores
end

-- P and the truth ratio's q of one row from its l/n; nil if the row lacks their fields.
local function judge(row, x, kind)
  local _, first_wrong = variants(row)
  local facts = kind == "facts"
  local count, sum, least = #x - first_wrong + 1, 0, x[1]
  for v = first_wrong, #x do sum, least = sum + x[v], math.min(least, x[v]) end
  if count == 0 then return not facts and math.exp(-x[1]) or nil end
  local p, all = math.exp(-x[1]), 0
  if facts then -- all relative to the likeliest answer, for exp(-x) may be 0 for every one of them
    p = math.exp(least - x[1])
    for v = first_wrong, #x do all = all + math.exp(least - x[v]) end
    p = p / (p + all)
  end
  local anchor = not facts and row.paraphrased_answer and x[2] or x[1]
  return p, math.exp(sum / count - anchor)
end

--- The truth ratio of one row from its q.
-- @tparam number q
-- @tparam string kind of the set
function metrics.truth_ratio(q, kind)
  check.type("metrics.truth_ratio: q", q, "number")
  if q ~= q then return q end -- math.max would turn it into 0
  if kind == "forget" then return 1 - math.min(q, 1 / q) end
  return math.max(0, 1 - 1 / q)
end

local function refused(generation, refusals)
  for _, refusal in ipairs(refusals or {}) do
    local _, _, f = text.rouge_l(refusal, generation)
    if f >= 0.9 then return 1 end
  end
  return 0
end

local EVALUATION <const> = {
  tags = { type = "string|table", default = "plain", "tags of a prompt, as for data.samples" },
  max_tokens = { min = 1, default = 200, "most tokens of a prompt and its generation together" },
  max_sample_tokens = { min = 2, default = 500, "most tokens of an answer to be scored" },
  refusals = { of = "string", "what counts as refusing" },
  batch_size = { min = 1, default = 64, "prompts that are continued at a time" },
}
local EVALUATE <const> = check.fields("metrics.evaluate", EVALUATION)
local INSPECT <const> = check.fields("metrics.inspect", EVALUATION)

-- Checks the texts of a row before any evaluation.
local function check_row(row, where)
  check.type(where, row, "table", 6)
  for _, field in ipairs { "question", "answer" } do
    check.type(("%s: %s"):format(where, field), row[field], "string", 6)
  end
  check.type(where .. ": paraphrased_answer", row.paraphrased_answer or "", "string", 6)
  for _, wrong in ipairs(check.list(where .. ": perturbed_answer", row.perturbed_answer or {}, 6)) do
    check.type(where .. ": perturbed_answer", wrong, "string", 6)
  end
end

-- Notes once per model that it has another number of tokens than its tokenizer.
local sizes_noted = setmetatable({}, { __mode = "k" })
local function note_sizes(model, tok)
  local rows, ids = model:head():shape(1), tok.size and tok:size()
  if not ids or rows == ids or sizes_noted[model] then return end
  sizes_noted[model] = true
  core.note(("metrics.evaluate: the model has %d tokens, its tokenizer %d; %s"):format(
    rows, ids, rows > ids and "generated ids that the tokenizer lacks become no text"
    or "a text with a token that the model lacks is an error"))
end

local function check_set(set)
  check.type("metrics.evaluate: set", set, "table", 5)
  check.choice("metrics.evaluate: kind", set.kind, { "facts", "forget", "retain" }, 5)
  check.type("metrics.evaluate: rows", set.rows, "table", 5)
  if #set.rows == 0 then
    error(("metrics.evaluate: the set '%s' is empty"):format(set.name), 4)
  end
  for i, row in ipairs(set.rows) do check_row(row, ("metrics.evaluate: row %d"):format(i)) end
end

-- The metrics that a set's rows allow; see `metrics.inspect`.
local function inspect(tok, set, o, limit)
  check.has("metrics.evaluate: tokenizer", tok, "encode", "one of dopl.text", 4)
  check_set(set)
  local found = { name = set.name, kind = set.kind, prompts = {}, has_room = {}, has_word = {} }
  local counts, total = {}, #set.rows
  local function count(what, is)
    counts[what] = (counts[what] or 0) + (is and 1 or 0)
    return is
  end
  for i, row in ipairs(set.rows) do
    local prompt = chat.prompt(tok, row.question, o.tags)
    local room = limit - #prompt
    local words = select(4, text.rouge_l(row.answer, ""))
    local wrong = row.perturbed_answer and #row.perturbed_answer > 0
    found.prompts[i], found.has_room[i], found.has_word[i] = prompt, room > 0, words ~= nil
    count("full", room <= 0)
    count("short", room > 0 and room < #chat.answer(tok, row.answer, o.tags))
    count("wordless", not words)
    count("beyond", words == "unicode")
    count("plain", not wrong)
    count("unparaphrased", wrong and set.kind ~= "facts" and not row.paraphrased_answer)
    found.R = found.R or room > 0 and words ~= nil or nil
    found.TE = found.TE or room > 0 or nil
    found.TR = found.TR or wrong or nil
    found.P = found.P or set.kind ~= "facts" or wrong or nil
  end
  found.notes = {}
  local function note(what, says, ...)
    if counts[what] == 0 then return end
    local share = counts[what] == total and ("all %d "):format(total)
      or ("%d of %d "):format(counts[what], total)
    found.notes[#found.notes + 1] = set.name .. ": " .. share .. says:format(...)
  end
  note("full", "prompts leave no room for an answer within max_tokens = %d, so these rows have "
    .. "neither R nor TE", limit)
  note("short", "prompts leave less room within max_tokens = %d than the answer takes, so R cannot "
    .. "reach 1 there", limit)
  note("wordless", "answers have no word, so these rows have no R")
  note("beyond", "answers are mostly beyond ASCII; R uses words of any script, because rouge_score "
    .. "would find none")
  note("plain", "rows have no perturbed answers, so they have no TR%s",
    set.kind == "facts" and " and no P" or "")
  note("unparaphrased", "rows have no paraphrased answer; their TR uses the answer itself")
  return found
end

--- Finds what can be computed for a set, from its rows alone, without a model.
-- @param tok tokenizer
-- @tparam table set as for `metrics.evaluate`
-- @tparam[opt] table options
-- @treturn table { name, kind, R, P, TR, TE (each true, or nil where no row has it), notes (how many
-- rows lack what) }, which `metrics.names` takes
function metrics.inspect(tok, set, options)
  local o = check.options(INSPECT, options)
  return inspect(tok, set, o, o.max_tokens)
end

-- The figures of a row whose answer was generated. If the scores are NaN, all figures of the row are
-- NaN, because its answer then says nothing about the model.
local function judge_row(row, set, x, ids, generation, o)
  local p, q = judge(row, x, set.kind)
  local s = { P = p, q = q, TR = q and metrics.truth_ratio(q, set.kind),
    R = text.rouge_l(row.answer, generation), TE = text.token_entropy(ids),
    refused = refused(generation, o.refusals) }
  if x[1] ~= x[1] then s.R, s.TE, s.refused = x[1], x[1], x[1] end
  return s
end

local function evaluate(model, tok, set, options)
  local o = check.options(EVALUATE, options)
  check.has("metrics.evaluate: model", model, "hidden", "one of models.new")
  local limit = generate.limit(model, o.max_tokens)
  local found = inspect(tok, set, o, limit)
  collectgarbage() -- the last training run's states look like a few bytes to Lua
  note_sizes(model, tok)
  local answers = generate.run(model, found.prompts, { eos = chat.ends(tok, o.tags),
    max_tokens = limit, batch_size = o.batch_size })
  local scores = score_rows(model, tok, set.rows, o)
  local samples, broken = {}, 0
  local lists = { R = {}, P = {}, TR = {}, TE = {}, refused = {} }
  for i, row in ipairs(set.rows) do
    local generation = tok:decode(answers[i])
    local s = judge_row(row, set, scores[i], answers[i], generation, o)
    if not found.has_room[i] then s.R, s.TE, s.refused = nil, nil, nil end
    if not found.has_word[i] then s.R = nil end
    if s.P ~= s.P or s.q ~= s.q or s.TE ~= s.TE then broken = broken + 1 end
    s.set, s.index, s.question, s.answer = set.name, i, row.question, row.answer
    s.generation = generation
    samples[i] = s
    for key, list in pairs(lists) do list[#list + 1] = s[key] end -- each list is its own
  end
  local result = { name = set.name, kind = set.kind, n = #samples, samples = samples,
    notes = found.notes, faults = {} }
  if broken > 0 then
    result.faults[1] = ("%s: the model's scores of %d of %d rows are NaN, and so are the metrics "
      .. "that use them"):format(set.name, broken, #samples)
  end
  for key, list in pairs(lists) do result[key] = #list > 0 and metrics.mean(list) or nil end
  return figures.row(result)
end

--- Evaluates one set; each answer is generated once. While a recipe is measured for a plan, the first
-- rows of a set stand for it.
-- @param model
-- @param tok tokenizer
-- @tparam table set { name, kind = "forget", "retain" or "facts", rows }
-- @tparam table options tags, max_tokens = 200 (of a prompt and its generation), refusals (list)
-- @treturn table { name, kind, R, P, TR, TE, refused, n, samples = { one table a row }, notes = { what
-- some rows lack }, faults = { what went wrong with this model } }; a metric that no row has is nil
function metrics.evaluate(model, tok, set, options)
  local recorder = measuring.recorder()
  if recorder then return measure.evaluate(recorder, evaluate, model, tok, set, options) end
  return evaluate(model, tok, set, options)
end

return metrics
