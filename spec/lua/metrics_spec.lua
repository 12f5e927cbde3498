-- metrics_spec.lua - every figure of an evaluation, worked out again the long way.
local dopl = require "dopl"
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local message = require("spec.io.folder").message
local metrics = require "dopl.metrics"
local models = require "dopl.models"
local text = require "dopl.text"

local op = core.ops

local rows = {}
for i, author in ipairs { "Ada Winter", "Bo Sand", "Cy Lindgren" } do
  rows[i] = { question = "Who wrote book " .. i .. "?", answer = author .. " wrote it.",
    paraphrased_answer = "It is by " .. author .. ".",
    perturbed_answer = { "Nobody wrote it.", "It is by a friend of " .. author .. "." } }
end
local corpus = {}
for _, row in ipairs(rows) do
  for _, value in ipairs { row.question, row.answer, row.paraphrased_answer } do
    corpus[#corpus + 1] = value
  end
end
local tok = text.train(corpus, { vocab_size = 280, special = { "<|endoftext|>" } })
local model = models.new({ architecture = "llama", vocab_size = tok:size(), hidden_size = 16,
  n_layers = 2, heads = 2, kv_heads = 1, intermediate_size = 24, init_std = 0.3 }, 4)

-- Log-probabilities of the next token after each of some ids, from whole logits.
local function log_probabilities(ids)
  local _ <close> = core.no_grad()
  local scope <close> = core.scope()
  local positions = {}
  for i = 1, #ids do positions[i] = i - 1 end
  local hidden = model:hidden { ids = core.i32(ids), positions = core.i32(positions),
    offsets = core.i32 { 0, #ids } }
  local out = op.linear(hidden, model:head()):tolist()
  for _, logits in ipairs(out) do
    local sum = 0
    for _, x in ipairs(logits) do sum = sum + math.exp(x) end
    for v, x in ipairs(logits) do logits[v] = x - math.log(sum) end
  end
  return out
end

-- l/n of an answer.
local function per_token(question, answer)
  local ids = chat.prompt(tok, question)
  local n_prompt = #ids
  for _, id in ipairs(chat.answer(tok, answer)) do ids[#ids + 1] = id end
  local logp, sum = log_probabilities(ids), 0
  for i = n_prompt, #ids - 1 do sum = sum - logp[i][ids[i + 1] + 1] end
  return sum / (#ids - n_prompt)
end

local function greedy(question, max_tokens)
  local ids, new = chat.prompt(tok, question), {}
  while #ids < max_tokens do
    local logp, best = log_probabilities(ids), 1
    for v, x in ipairs(logp[#ids]) do
      if x > logp[#ids][best] then best = v end
    end
    if best - 1 == tok:id "<|endoftext|>" then break end
    ids[#ids + 1], new[#new + 1] = best - 1, best - 1
  end
  return new
end

local function by_hand(row, kind, max_tokens)
  local x, wrong, p_wrong = per_token(row.question, row.answer), 0, 0
  for _, answer in ipairs(row.perturbed_answer) do
    local y = per_token(row.question, answer)
    wrong, p_wrong = wrong + y / #row.perturbed_answer, p_wrong + math.exp(-y)
  end
  local facts = kind == "facts"
  local q = math.exp(wrong - (facts and x or per_token(row.question, row.paraphrased_answer)))
  local new, count, bits = greedy(row.question, max_tokens), {}, 0
  for _, id in ipairs(new) do count[id] = (count[id] or 0) + 1 end
  for _, n in pairs(count) do bits = bits - n / #new * math.log(n / #new, 2) end
  return {
    generation = tok:decode(new), R = (text.rouge_l(row.answer, tok:decode(new))),
    P = math.exp(-x) / (facts and math.exp(-x) + p_wrong or 1),
    TR = kind == "forget" and 1 - math.min(q, 1 / q) or math.max(0, 1 - 1 / q),
    TE = bits / math.log(#new, 2),
  }
end

describe("metrics.evaluate", function()
  for _, kind in ipairs { "forget", "retain", "facts" } do
    it("gives what the definitions say: " .. kind, function()
      local result = metrics.evaluate(model, tok, { name = "x", kind = kind, rows = rows },
        { max_tokens = 30 })
      local mean = { R = 0, P = 0, TR = 0, TE = 0 }
      for i, row in ipairs(rows) do
        local want, got = by_hand(row, kind, 30), result.samples[i]
        assert.equal(want.generation, got.generation)
        for key in pairs(mean) do
          assert.near(want[key], got[key], 1e-5, key)
          mean[key] = mean[key] + want[key] / #rows
        end
      end
      for key, value in pairs(mean) do assert.near(value, result[key], 1e-5, key) end
    end)
  end

  it("asks for no truth ratio where rows have no wrong answers", function()
    local result = metrics.evaluate(model, tok, { name = "x", kind = "retain",
      rows = { { question = "Who?", answer = "Bo." } } }, { max_tokens = 10 })
    assert.is_nil(result.TR)
    assert.match("the set 'x' has no truth ratio", message(metrics.aggregate, { result }, true))
  end)

  it("says what is wrong before anything is generated", function()
    local set = { name = "x", kind = "forget", rows = rows }
    local function says(pattern, ...)
      assert.match("^[^\n]*" .. pattern, message(metrics.evaluate, ...))
    end
    says("model: nil, needs one of models.new", nil, tok, set)
    says("tokenizer: a table, needs one of dopl.text", model, {}, set)
    says("set: nil, needs table", model, tok, nil)
    says("rows: nil, needs table", model, tok, { name = "x", kind = "forget" })
    says("the set 'x' is empty", model, tok, { name = "x", kind = "forget", rows = {} })
    says("kind: 'forgot' %(did you mean 'forget'%?%)", model, tok, { kind = "forgot", rows = rows })
    says("row 1: answer: nil, needs string", model, tok,
      { kind = "forget", rows = { { question = "Who?" } } })
    says("row 1: perturbed_answer: the string 'no', needs table", model, tok,
      { kind = "forget", rows = { { question = "Who?", answer = "Bo.", perturbed_answer = "no" } } })
    says("max_tokens: 1.5, needs integer", model, tok, set, { max_tokens = 1.5 })
    says("batch_size: %-1, needs at least 1", model, tok, set, { batch_size = -1 })
    says("refusals: true, needs table", model, tok, set, { refusals = true })
  end)
end)

describe("metrics.aggregate", function()
  local function set(kind, R, P, TR, TE)
    return { name = kind, kind = kind, R = R, P = P, TR = TR, TE = TE }
  end

  it("is a mean of the forget set and a harmonic one of all others", function()
    local keys = metrics.keys
    local results = { set("forget", 0.1, 0.2, 0.6, 0.9), set("retain", 0.5, 1, 1, 1),
      set("facts", 1, 1, 1, 0.25) }
    local targeted, other = metrics.aggregate(results, true), metrics.aggregate(results, false)
    assert.near(0.7, targeted[keys.UFE], 1e-12)
    assert.near(8 / (6 + 2 + 4), targeted[keys.MU], 1e-12)
    assert.near(0.25 * (0.7 + 0.9) + 0.5 * 8 / 12, targeted[keys.OVR], 1e-12)
    assert.near(0.5 * (0.7 + 8 / 12), other[keys.OVR], 1e-12)
    assert.is_nil(other[keys.TFE])
    results[2].P = 0
    assert.equal(0, metrics.aggregate(results, true)[keys.MU])
  end)
end)

describe("a list of numbers", function()
  it("has mean, harmonic mean and sample deviation", function()
    assert.equal(2, metrics.mean { 1, 2, 3 })
    assert.near(3 / (1 + 1 / 2 + 1 / 4), metrics.harmonic_mean { 1, 2, 4 }, 1e-12)
    assert.same({ mean = 2, std = 1, n = 3 }, metrics.spread { 1, 2, 3 })
    assert.is_nil(metrics.spread({ 5 }).std)
    assert.match("metrics.mean: 3, needs table", message(metrics.mean, 3))
    assert.match("metrics.spread: the string 'x', needs number", message(metrics.spread, { 1, "x" }))
  end)

  it("of samples is the probability of their answers", function()
    local samples = dopl.data.samples(tok, rows)
    local want = 0
    for _, row in ipairs(rows) do
      want = want + math.exp(-per_token(row.question, row.answer)) / #rows
    end
    assert.near(want, metrics.answer_probability(model, samples), 1e-5)
    assert.match("number 1 is none", message(metrics.answer_probability, model, { 1 }))
  end)
end)
