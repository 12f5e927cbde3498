-- metrics_spec.lua - every figure of an evaluation, computed again in plain Lua.
local dopl = require "dopl"
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local causal_lm = require "dopl.task.causal_lm"
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

  local function evaluate(list, kind, options)
    return metrics.evaluate(model, tok, { name = "x", kind = kind or "forget", rows = list }, options)
  end

  it("has no truth ratio where rows have no wrong answers, and says so", function()
    local result = evaluate({ { question = "Who?", answer = "Bo." } }, "retain", { max_tokens = 10 })
    assert.is_nil(result.TR)
    assert.same({ "x: all 1 rows have no perturbed answers, so they have no TR" }, result.notes)
    local facts = evaluate({ { question = "Who?", answer = "Bo." } }, "facts", { max_tokens = 10 })
    assert.is_nil(facts.P) -- of one answer alone it would be 1, whatever the model
    assert.match("so they have no TR and no P", facts.notes[1])
  end)

  it("takes a truth ratio against the answer where there is no paraphrase", function()
    local row = { question = "Who wrote book 1?", answer = "Ada Winter wrote it.",
      perturbed_answer = { "Bo.", "Cy Lindgren wrote it, too." } }
    local result = evaluate({ row }, "retain", { max_tokens = 60 })
    local wrong = (per_token(row.question, row.perturbed_answer[1])
      + per_token(row.question, row.perturbed_answer[2])) / 2
    local q = math.exp(wrong - per_token(row.question, row.answer))
    assert.near(q, result.samples[1].q, 1e-5 * q)
    assert.match("all 1 rows have no paraphrased answer", result.notes[1])
  end)

  it("does not take a prompt that leaves no room for forgetting", function()
    local long = { question = ("Who wrote it? "):rep(40), answer = "Ada Winter wrote it." }
    local result = evaluate { long }
    assert.equal("", result.samples[1].generation)
    assert.same({}, { result.R, result.TE, result.refused })
    assert.match("all 1 prompts leave no room for an answer within max_tokens = 200",
      result.notes[1])
    local both = evaluate { rows[1], long }
    local one = evaluate { rows[1] }
    assert.near(one.R, both.R, 1e-12)
    assert.near(one.TE, both.TE, 1e-12)
    assert.match("x: 1 of 2 prompts leave no room", both.notes[1])
    local prompt = #chat.prompt(tok, rows[1].question)
    local short = evaluate({ rows[1] }, "forget", { max_tokens = prompt + 1 })
    assert.match("all 1 prompts leave less room within max_tokens = %d+ than the answer takes",
      short.notes[1])
    assert.is_true(evaluate({ rows[1] }, "forget", { max_tokens = prompt }).R == nil)
  end)

  it("reads answers of any script, and leaves out those without a word", function()
    local chinese = { question = "北京?", answer = "北京在中国。" }
    local result = evaluate({ chinese, { question = "?", answer = "..." } })
    assert.match("1 of 2 answers have no word, so these rows have no R", result.notes[1])
    assert.match("1 of 2 answers are mostly beyond ASCII", result.notes[2])
    assert.is_nil(result.samples[2].R)
    assert.equal(result.samples[1].R, result.R)
    assert.is_nil(evaluate({ { question = "?", answer = "..." } }).R)
  end)

  it("compares the likelihoods of facts, however small they are", function()
    local score = causal_lm.scores_of
    local l = { 2000, 1000, 1001, 3000 }
    causal_lm.scores_of = function(_, b) -- per sample: the answer, its paraphrase, two wrong ones
      local nll = {}
      for i = 1, b.n_samples do nll[i] = l[i] * b.samples[i].n_labels end
      return { nll = core.tensor(nll) }
    end
    local ok, result = pcall(evaluate, { rows[1] }, "facts", { max_tokens = 30 })
    l = { 1000, 5, 1001, 1002 }
    local again, near = pcall(evaluate, { rows[1] }, "facts", { max_tokens = 30 })
    causal_lm.scores_of = score
    assert(ok, result)
    assert(again, near)
    assert.equal(0, result.P)
    assert.near(1 / (1 + math.exp(-1) + math.exp(-2)), near.P, 1e-6)
    assert.same({}, near.faults)
  end)

  it("is NaN, and says so, where the model's scores are", function()
    local broken = models.new({ architecture = "llama", vocab_size = tok:size(), hidden_size = 16,
      n_layers = 1, heads = 2, kv_heads = 1, intermediate_size = 24 }, 4)
    local weights = broken:export()
    weights["model.norm.weight"] = core.full(0 / 0, 16)
    broken:import(weights)
    for _, kind in ipairs { "forget", "retain", "facts" } do
      local result = metrics.evaluate(broken, tok, { name = "x", kind = kind, rows = rows },
        { max_tokens = 30, refusals = { "No." } })
      for _, key in ipairs { "R", "P", "TR", "TE", "refused" } do
        assert.is_true(result[key] ~= result[key], key)
      end
      assert.match("x: the model's scores of 3 of 3 rows are NaN", result.faults[1])
      local out, keys = metrics.aggregate({ result }, true)
      local figure = out[kind == "forget" and keys.UFE or keys.MU]
      assert.is_true(figure ~= figure)
    end
  end)

  it("says before it asks what a set's rows allow", function()
    local found = metrics.inspect(tok, { name = "x", kind = "forget", rows = { { question = "Who?",
      answer = "Bo." } } })
    assert.same({ true, true, true }, { found.R, found.P, found.TE })
    assert.is_nil(found.TR)
    assert.match("no perturbed answers", found.notes[1])
    assert.match("max_tokens: 0.5, needs an integer", message(metrics.inspect, tok,
      { name = "x", kind = "forget", rows = rows }, { max_tokens = 0.5 }))
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
    says("max_tokens: 1.5, needs an integer", model, tok, set, { max_tokens = 1.5 })
    says("batch_size: %-1, needs an integer of at least 1", model, tok, set, { batch_size = -1 })
    says("refusals: true, needs a list of strings", model, tok, set, { refusals = true })
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

  it("is named for what the sets have", function()
    local function names(forget, ...)
      local sets = { set("forget", table.unpack(forget)) }
      for i, list in ipairs { ... } do sets[i + 1] = set("retain", table.unpack(list)) end
      return metrics.names(sets)
    end
    assert.same({ UFE = "UFE(R,P,TR)", TFE = "TFE(TE)", MU = "MU(R,P,TR,TE)",
      OVR = "OVR(R,P,TR,TE)" }, metrics.keys)
    assert.same({ UFE = "UFE(R,P)", TFE = "TFE(TE)", MU = "MU(R,P,TE)", OVR = "OVR(R,P,TE)" },
      names({ 1, 1, nil, 1 }, { 1, 1, nil, 1 }))
    -- a metric that one of the sets lacks is in no mean over them
    assert.equal("MU(R,P,TE)", names({ 1, 1, 1, 1 }, { 1, 1, 1, 1 }, { 1, 1, nil, 1 }).MU)
    assert.equal("OVR(UFE(R,P),MU(R,P,TR,TE))", names({ 1, 1, nil, 1 }, { 1, 1, 1, 1 }).OVR)
    assert.same({ UFE = "UFE(R,P,TR)", TFE = "TFE(TE)" }, names({ 1, 1, 1, 1 }))
    assert.same({ MU = "MU(P)" }, metrics.names { set("retain", nil, 1) })
  end)

  it("holds what is there, and is as worked out by hand", function()
    local results = { set("forget", 0.1, 0.3, nil, 0.9), set("retain", 0.5, 1, nil, 1),
      set("facts", 1, 1, 0.2, 0.25) }
    local out, keys = metrics.aggregate(results, true)
    local mu = 6 / (2 + 1 + 1 + 1 + 1 + 4)
    assert.same({ ["UFE(R,P)"] = 0.8, ["TFE(TE)"] = 0.9, ["MU(R,P,TE)"] = mu,
      ["OVR(R,P,TE)"] = 0.25 * (0.8 + 0.9) + 0.5 * mu }, out)
    assert.equal("OVR(R,P,TE)", keys.OVR)
    results[1].TE = nil -- no prompt of the forget set leaves room
    assert.is_nil(metrics.aggregate(results, true)[keys.OVR])
  end)

  it("is NaN where a figure is, be another 0 or not", function()
    for _, P in ipairs { 0, 0.9 } do
      local out, keys = metrics.aggregate({ set("forget", 0.1, 0 / 0, 0.2, 0.3),
        set("retain", P, 0 / 0, 0.9, 0.9) }, true)
      for _, key in ipairs { keys.UFE, keys.MU, keys.OVR } do
        assert.is_true(out[key] ~= out[key], key)
      end
    end
  end)
end)

describe("a list of numbers", function()
  it("has mean, harmonic mean and sample deviation", function()
    assert.equal(2, metrics.mean { 1, 2, 3 })
    assert.near(3 / (1 + 1 / 2 + 1 / 4), metrics.harmonic_mean { 1, 2, 4 }, 1e-12)
    assert.equal(0, metrics.harmonic_mean { 0, 0.5 })
    for _, list in ipairs { { 0 / 0, 0.5 }, { 0, 0 / 0 }, {} } do
      assert.is_true(metrics.harmonic_mean(list) ~= metrics.harmonic_mean(list))
    end
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
    assert.match("number 1 is not", message(metrics.answer_probability, model, { 1 }))
  end)
end)
