-- sizes_spec.lua - a model with more rows than its tokenizer has ids, and one with fewer.
local dopl = require "dopl"
local batch = require "dopl.data.batch"
local causal_lm = require "dopl.task.causal_lm"
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local loss = require "dopl.train.loss"
local metrics = require "dopl.metrics"
local models = require "dopl.models"
local text = require "dopl.text"

local rows = {
  { question = "Who wrote it?", answer = "Ada wrote it.", paraphrased_answer = "It is Ada's.",
    perturbed_answer = { "Bo wrote it." } },
  { question = "Who read it?", answer = "Bo read it.", paraphrased_answer = "It was Bo.",
    perturbed_answer = { "Ada read it." } },
}
local tok = text.train({ "Who wrote it? Ada wrote it. Bo read it." },
  { vocab_size = 270, special = { "<|endoftext|>" }, min_count = 1 })

local function model_of(vocab_size)
  return models.new({ architecture = "llama", vocab_size = vocab_size, hidden_size = 16, n_layers = 1,
    heads = 2, kv_heads = 1, intermediate_size = 24, tie_embeddings = false, init_std = 0.3 }, 4)
end

-- Runs with what it notes as a list.
local function noting(run)
  local notes, note = {}, core.note
  core.note = function(line) notes[#notes + 1] = line end
  local ok, value = pcall(run)
  core.note = note
  assert(ok, value)
  return value, notes
end

describe("a model larger than its tokenizer", function()
  it("is evaluated where it generates ids without a token, and that is said once", function()
    local model = model_of(tok:size() + 400)
    local function evaluate()
      return noting(function()
        return metrics.evaluate(model, tok, { name = "f", kind = "forget", rows = rows },
          { max_tokens = 60 })
      end)
    end
    local beyond, prompts = 0, { chat.prompt(tok, rows[1].question) }
    for _, id in ipairs(dopl.generate.run(model, prompts, { eos = 0, max_tokens = 60 })[1]) do
      if id >= tok:size() then beyond = beyond + 1 end
    end
    assert.is_true(beyond > 0)
    local result, notes = evaluate()
    assert.equal(2, result.n)
    for _, key in ipairs { "R", "P", "TR", "TE" } do assert.is_true(result[key] == result[key]) end
    assert.equal(1, #notes)
    assert.match("the model has 670 tokens, its tokenizer 270", notes[1])
    local again, none = evaluate()
    assert.same({}, none)
    assert.equal(result.P, again.P)
  end)

  it("says nothing where sizes are equal", function()
    local _, notes = noting(function()
      return metrics.evaluate(model_of(tok:size()), tok,
        { name = "f", kind = "forget", rows = rows }, { max_tokens = 60 })
    end)
    assert.same({}, notes)
  end)
end)

describe("a tokenizer larger than its model", function()
  local names <const> = "holds the token id %d+, and the model has ids up to 259: the tokenizer is "
    .. "larger than the model's vocabulary; make the model with vocab_size = tok:size%(%)"

  it("is named by whatever meets the id", function()
    local model = model_of(260)
    local samples = chat.encode_all(tok, rows)
    local together = {}
    for i = 1, 2 do together[i] = { loss = loss.gd(), batch = batch.pack(samples) } end
    local shares_passes = causal_lm.shares_passes
    causal_lm.shares_passes = function() return true end
    finally(function() causal_lm.shares_passes = shares_passes end)
    assert.error_matches(function()
      causal_lm.scores_of(model, batch.pack(samples))
    end, "a sample " .. names)
    assert.error_matches(function()
      loss.of_batches(model, together)
    end, "a sample " .. names)
    assert.error_matches(function()
      noting(function()
        return metrics.evaluate(model, tok, { name = "f", kind = "forget", rows = rows })
      end)
    end, "generate: prompt %d " .. names)
    assert.error_matches(function()
      dopl.reference.new(model):add(batch.pack(samples), "hidden")
    end, "a sample " .. names)
  end)

  it("is named for an id that is a label only", function()
    local sample = { ids = { 1, 2, 260 }, labels_from = 3, n_labels = 1, key = "x" }
    assert.error_matches(function() causal_lm.scores_of(model_of(260), batch.pack { sample }) end,
      "a sample holds the token id 260")
  end)

  it("serves texts that hold none of the others", function()
    local sample = { ids = { 1, 2, 259 }, labels_from = 3, n_labels = 1, key = "x" }
    assert.equal(1, #causal_lm.scores_of(model_of(260), batch.pack { sample }).nll:tolist())
  end)
end)

describe("the ends of a generation", function()
  it("are the tags', the tokenizer's and <|endoftext|>", function()
    local bpe = text.train({}, { vocab_size = 259,
      special = { "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>" } })
    assert.same({ 0 }, chat.ends(bpe))
    assert.same({ 1, 0 }, chat.ends(bpe, "llama-3"))
    local with_eos = text.from_json((bpe:json():gsub('"post_processor": null', '"post_processor": '
      .. '{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"e"}}'
      .. '],"special_tokens":{"e":{"ids":[2]}}}')))
    assert.same({ 1, 2, 0 }, chat.ends(with_eos, "llama-3"))
    assert.same({ 0, 2 }, chat.ends(with_eos))
  end)
end)
