--- metrics.lua - what unlearning is judged by: R, P, TR, TE of an evaluation set, and aggregates.
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
-- CS and ES need a sentence encoder and an NLI classifier. They are left out, and an aggregate says
-- what it holds: `MU(R,P,TR,TE)` is not the papers' MU.
--
-- `refused` is ours: the share of generations whose ROUGE-L F-measure against one of the refusals is
-- at least 0.9, a plain count of "does it refuse" where no NLI model can be asked.
-- @module dopl.metrics

local core = require "dopl.core"
local check = require "dopl.check"
local chat = require "dopl.data.chat"
local batch = require "dopl.data.batch"
local generate = require "dopl.generate"
local loss = require "dopl.loss"
local text = require "dopl.text"

local metrics = { dialect = "closer-look / DualOptim+" }

--- Keys of the aggregates, which say what they hold.
metrics.keys = {
  UFE = "UFE(R,P,TR)", TFE = "TFE(TE)", MU = "MU(R,P,TR,TE)", OVR = "OVR(R,P,TR,TE)",
}

local function check_numbers(name, list)
  check.type(name, list, "table", 4)
  for _, x in ipairs(list) do check.type(name, x, "number", 4) end
end

--- Mean of a list of numbers.
function metrics.mean(list)
  check_numbers("metrics.mean", list)
  local sum = 0
  for _, x in ipairs(list) do sum = sum + x end
  return sum / #list
end

--- Harmonic mean; 0 where one of them is 0.
function metrics.harmonic_mean(list)
  check_numbers("metrics.harmonic_mean", list)
  local sum = 0
  for _, x in ipairs(list) do
    if x <= 0 then return 0 end
    sum = sum + 1 / x
  end
  return #list / sum
end

--- Mean and sample standard deviation.
-- @treturn table { mean, std, n }; a single number has no deviation
function metrics.spread(list)
  check_numbers("metrics.spread", list)
  local mean, ss = metrics.mean(list), 0
  for _, x in ipairs(list) do ss = ss + (x - mean) ^ 2 end
  return { mean = mean, std = #list > 1 and math.sqrt(ss / (#list - 1)) or nil, n = #list }
end

--- Summed negative log-likelihood l and label count n of samples, in packed batches.
-- @param model
-- @tparam {table,...} samples from dopl.data.chat
-- @tparam[opt=8192] integer max_tokens of one forward pass
-- @treturn {number,...} l
-- @treturn {integer,...} n
function metrics.likelihoods(model, samples, max_tokens)
  check.has("metrics: model", model, "hidden", "one of models.new")
  check.type("metrics: samples", samples, "table")
  local _ <close> = core.no_grad()
  local l, n = {}, {}
  if #samples == 0 then return l, n end
  for _, part in ipairs(batch.pack(samples):split { max_tokens = max_tokens or 8192 }) do
    local scope <close> = core.scope()
    for _, value in ipairs(loss.score(model, part).nll:tolist()) do l[#l + 1] = value end
    for _, sample in ipairs(part.samples) do n[#n + 1] = sample.n_labels end
  end
  return l, n
end

--- P(answer): the mean over samples of exp(-l/n), cheap enough to ask every few steps.
-- @param model
-- @tparam {table,...} samples from dopl.data.chat
-- @treturn number
function metrics.answer_probability(model, samples)
  local l, n = metrics.likelihoods(model, samples)
  local p = {}
  for i = 1, #l do p[i] = math.exp(-l[i] / n[i]) end
  return metrics.mean(p)
end

-- The answers of a row whose likelihood is asked for: the true one, the paraphrase, the wrong ones.
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

-- P and the truth ratio's q of one row from its l/n.
local function judge(row, x, kind)
  local _, first_wrong = variants(row)
  local p = math.exp(-x[1])
  local count, sum, p_wrong = 0, 0, 0
  for v = first_wrong, #x do
    count, sum, p_wrong = count + 1, sum + x[v], p_wrong + math.exp(-x[v])
  end
  if kind == "facts" then p = p / (p + p_wrong) end
  if count == 0 then return p end
  local anchor = kind == "facts" and x[1] or x[2] or x[1]
  return p, math.exp(sum / count - anchor)
end

--- The truth ratio of one row from its q.
-- @tparam number q
-- @tparam string kind of the set
function metrics.truth_ratio(q, kind)
  check.type("metrics.truth_ratio: q", q, "number")
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

local defaults = {
  tags = "plain", max_tokens = 200, max_sample_tokens = 500, refusals = check.optional,
  batch_size = 64,
}

-- Texts of a row, said before the first of them is asked for.
local function check_row(row, where)
  check.type(where, row, "table", 5)
  for _, field in ipairs { "question", "answer" } do
    check.type(("%s: %s"):format(where, field), row[field], "string", 5)
  end
  check.type(where .. ": paraphrased_answer", row.paraphrased_answer or "", "string", 5)
  for _, wrong in ipairs(check.list(where .. ": perturbed_answer", row.perturbed_answer or {}, 4)) do
    check.type(where .. ": perturbed_answer", wrong, "string", 5)
  end
end

-- Says once for each model that its rows are not as many as the tokenizer's ids.
local sizes_noted = setmetatable({}, { __mode = "k" })
local function note_sizes(model, tok)
  local rows, ids = model:head():shape(1), tok.size and tok:size()
  if not ids or rows == ids or sizes_noted[model] then return end
  sizes_noted[model] = true
  core.note(("metrics.evaluate: sizes differ: the model has %d tokens, its tokenizer %d; %s"):format(
    rows, ids, rows > ids and "a generated id that the tokenizer lacks is no text"
    or "a text with one of the others is refused"))
end

local function check_set(set)
  check.type("metrics.evaluate: set", set, "table", 4)
  check.choice("metrics.evaluate: kind", set.kind, { "facts", "forget", "retain" }, 4)
  check.type("metrics.evaluate: rows", set.rows, "table", 4)
  if #set.rows == 0 then
    error(("metrics.evaluate: the set '%s' is empty"):format(set.name), 3)
  end
  for i, row in ipairs(set.rows) do check_row(row, ("metrics.evaluate: row %d"):format(i)) end
end

--- Evaluates one set; each answer is generated once.
-- @param model
-- @param tok tokenizer
-- @tparam table set { name, kind = "forget", "retain" or "facts", rows }
-- @tparam table options tags, max_tokens = 200 (of a prompt and its generation), refusals (list)
-- @treturn table { name, kind, R, P, TR, TE, refused, n, samples = { one table a row } }
function metrics.evaluate(model, tok, set, options)
  local o = check.options("metrics.evaluate", options, defaults)
  check.has("metrics.evaluate: model", model, "hidden", "one of models.new")
  check.has("metrics.evaluate: tokenizer", tok, "encode", "one of dopl.text")
  check_set(set)
  for _, refusal in ipairs(check.list("metrics.evaluate: refusals", o.refusals or {})) do
    check.type("metrics.evaluate: refusals", refusal, "string")
  end
  collectgarbage() -- what a training left: to Lua a few bytes, in truth gigabytes
  local prompts = {}
  for i, row in ipairs(set.rows) do prompts[i] = chat.prompt(tok, row.question, o.tags) end
  note_sizes(model, tok)
  local answers = generate.run(model, prompts, { eos = chat.ends(tok, o.tags),
    max_tokens = o.max_tokens, batch_size = o.batch_size })
  local scores = score_rows(model, tok, set.rows, o)
  local samples, lists = {}, { R = {}, P = {}, TR = {}, TE = {}, refused = {} }
  for i, row in ipairs(set.rows) do
    local generation = tok:decode(answers[i])
    local p, q = judge(row, scores[i], set.kind)
    local s = {
      set = set.name, index = i, question = row.question, answer = row.answer,
      generation = generation, R = text.rouge_l(row.answer, generation), P = p, q = q,
      TR = q and metrics.truth_ratio(q, set.kind), TE = text.token_entropy(answers[i]),
      refused = refused(generation, o.refusals),
    }
    samples[i] = s
    for key, list in pairs(lists) do list[#list + 1] = s[key] end -- each list is its own
  end
  local result = { name = set.name, kind = set.kind, n = #samples, samples = samples }
  for key, list in pairs(lists) do result[key] = #list > 0 and metrics.mean(list) or nil end
  return result
end

--- Aggregates of evaluated sets, under names that say what they hold.
-- @tparam {table,...} results from `metrics.evaluate`
-- @tparam boolean targeted whether the loss aims at refusals (idk, dpo): OVR then weighs TFE in
-- @treturn table { [metrics.keys.UFE] = ..., ... }
function metrics.aggregate(results, targeted)
  check.type("metrics.aggregate: results", results, "table")
  local keys, utility = metrics.keys, {}
  local out = {}
  for _, r in ipairs(results) do
    check.type("metrics.aggregate: a result", r, "table")
    if not r.TR then
      error(("metrics.aggregate: the set '%s' has no truth ratio: its rows need perturbed answers")
        :format(r.name), 2)
    end
    if r.kind == "forget" then
      out[keys.UFE] = 1 - metrics.mean { r.R, r.P, r.TR }
      out[keys.TFE] = targeted and r.TE or nil
    else
      for _, x in ipairs { r.R, r.P, r.TR, r.TE } do utility[#utility + 1] = x end
    end
  end
  if #utility > 0 then out[keys.MU] = metrics.harmonic_mean(utility) end
  local ufe, mu = out[keys.UFE], out[keys.MU]
  if ufe and mu then
    out[keys.OVR] = targeted and 0.25 * (ufe + out[keys.TFE]) + 0.5 * mu or 0.5 * (ufe + mu)
  end
  return out
end

return metrics
