-- generate_spec.lua - a cache, packing and the company of other prompts change no token.
local core = require "dopl.core"
local generate = require "dopl.task.generate"
local models = require "dopl.models"

local op = core.ops

local config <const> = { vocab_size = 40, hidden_size = 24, n_layers = 2, heads = 4,
  init_std = 0.4 }

local function model_of(architecture)
  local c = { architecture = architecture }
  for key, value in pairs(config) do c[key] = value end
  if architecture == "llama" then c.kv_heads, c.intermediate_size = 2, 20 end
  return models.new(c, 5)
end

local prompts <const> = { { 1, 2, 3 }, { 7 }, { 5, 5, 5, 9, 9 }, { 7, 2 }, { 30, 31, 1, 4 } }

-- Greedy continuation by a whole forward pass a token.
local function recompute(model, prompt, eos, max_tokens)
  local ids, new = table.move(prompt, 1, #prompt, 1, {}), {}
  local _ <close> = core.no_grad()
  while #ids < max_tokens do
    local scope <close> = core.scope()
    local positions = {}
    for i = 1, #ids do positions[i] = i - 1 end
    local hidden = model:hidden {
      ids = core.i32(ids), positions = core.i32(positions), offsets = core.i32 { 0, #ids },
    }
    local last = op.slice(hidden, #ids - 1, 1)
    local token = op.argmax(op.linear(last, model:head())):at(1)
    if token == eos then break end
    ids[#ids + 1], new[#new + 1] = token, token
  end
  return new
end

for _, architecture in ipairs(models.architectures) do
  describe("greedy generation of " .. architecture, function()
    it("is what whole forward passes give", function()
      local model = model_of(architecture)
      local got = generate.run(model, prompts, { eos = 0, max_tokens = 30 })
      for i, prompt in ipairs(prompts) do
        assert.same(recompute(model, prompt, 0, 30), got[i])
      end
    end)

    it("does not depend on what else is in the batch", function()
      local model = model_of(architecture)
      local together = generate.run(model, prompts, { eos = 0, max_tokens = 20 })
      for _, batch_size in ipairs { 1, 2, 3 } do
        assert.same(together, generate.run(model, prompts,
          { eos = 0, max_tokens = 20, batch_size = batch_size }))
      end
      local alone = generate.run(model, { prompts[3] }, { eos = 0, max_tokens = 20 })
      assert.same({ together[3] }, alone)
    end)
  end)
end

describe("generate.run", function()
  local model
  setup(function() model = model_of "llama" end)
  teardown(function() model = nil end)

  it("ends at eos and leaves it out", function()
    local free = generate.run(model, { prompts[1] }, { eos = -1, max_tokens = 12 })[1]
    assert.equal(9, #free)
    local eos = free[4]
    local first
    for i, token in ipairs(free) do
      if token == eos then first = first or i end
    end
    local cut = generate.run(model, { prompts[1] }, { eos = eos, max_tokens = 12 })[1]
    assert.same(table.move(free, 1, first - 1, 1, {}), cut)
  end)

  it("ends at any of several eos", function()
    local free = generate.run(model, { prompts[1] }, { eos = -1, max_tokens = 12 })[1]
    for _, eos in ipairs { { free[4], free[2] }, { free[2], free[4] }, { -1, free[2], 39 } } do
      local first
      for i, token in ipairs(free) do
        for _, id in ipairs(eos) do first = first or token == id and i or nil end
      end
      local cut = generate.run(model, { prompts[1] }, { eos = eos, max_tokens = 12 })[1]
      assert.same(table.move(free, 1, first - 1, 1, {}), cut)
    end
  end)

  it("counts the prompt, and answers nothing where it leaves no room", function()
    local got = generate.run(model, prompts, { eos = -1, max_tokens = 4 })
    local lengths = {}
    for i, new in ipairs(got) do lengths[i] = #new end
    assert.same({ 1, 3, 0, 2, 0 }, lengths)
    assert.same({}, generate.run(model, {}, { eos = 0 }))
  end)

  it("is reproducible when it samples, and another seed says something else", function()
    local function sampled(seed, top_p)
      return generate.run(model, prompts,
        { eos = 0, max_tokens = 20, temperature = 1.5, seed = seed, top_p = top_p })
    end
    assert.same(sampled(1), sampled(1))
    local one = generate.run(model, prompts,
      { eos = 0, max_tokens = 20, temperature = 1.5, seed = 1, batch_size = 1 })
    assert.same(sampled(1), one) -- whatever runs beside it
    assert.not_same(sampled(1), sampled(2))
    local greedy = generate.run(model, prompts, { eos = 0, max_tokens = 20 })
    assert.same(greedy, sampled(3, 1e-6)) -- nothing but the likeliest token is left
  end)

  it("frees what it used and turns recording back on", function()
    collectgarbage()
    collectgarbage()
    local blocks, size = core.blocks(), core.tape_size()
    generate.run(model, prompts, { eos = 0, max_tokens = 20 })
    assert.equal(blocks, core.blocks())
    assert.equal(size, core.tape_size())
    assert.is_true(core.grad_enabled())
  end)

  it("ends where learned positions do", function()
    local short = models.new({ architecture = "gpt2", vocab_size = 40, hidden_size = 24, n_layers = 1,
      heads = 2, max_positions = 6, init_std = 0.4 }, 5)
    local got = generate.run(short, prompts, { eos = -1, max_tokens = 20 })
    for i, prompt in ipairs(prompts) do assert.equal(6, #prompt + #got[i]) end
    assert.error_matches(function()
      generate.run(short, { { 1 }, { 1, 2, 3, 4, 5, 6, 7 } }, { eos = -1 })
    end, "generate: prompt 2 has 7 tokens, the model has positions for 6")
  end)

  it("refuses empty prompts, unknown options and a missing eos", function()
    assert.error_matches(function() generate.run(model, { { 1 }, {} }, { eos = 0 }) end,
      "generate: prompt 2 is empty")
    assert.error_matches(function() generate.run(model, prompts, { eos = 0, temprature = 1 }) end,
      "temprature.*temperature")
    assert.error_matches(function() generate.run(model, prompts, {}) end, "eos")
    assert.error_matches(function() generate.run(model, { { 99 } }, { eos = 0 }) end,
      "generate: prompt 1 holds the token id 99, and the model has ids up to 39: the tokenizer")
    assert.error_matches(function() generate.run(model, { { "x" } }, { eos = 0 }) end,
      "generate: prompt 1: id: the string 'x', needs integer")
    assert.error_matches(function() generate.run(model, prompts, { eos = {} }) end,
      "generate: eos: an empty list")
    assert.error_matches(function() generate.run(model, prompts, { eos = { 1, "2" } }) end,
      "generate: eos: the string '2', needs integer")
    assert.error_matches(function() generate.run(nil, prompts, { eos = 0 }) end,
      "generate: model: nil, needs one of models.new")
    assert.error_matches(function() generate.run(model, { 1, 2 }, { eos = 0 }) end,
      "generate: prompt 1: 1, needs table")
    for name, wrong in pairs { eos = true, max_tokens = 1.5, batch_size = 0 / 0 } do
      local options = { eos = 0 }
      options[name] = wrong
      assert.error_matches(function() generate.run(model, prompts, options) end,
        "generate: " .. name .. ": .* needs integer")
    end
    assert.error_matches(function() generate.run(model, prompts, { eos = 0, batch_size = 0 }) end,
      "generate: batch_size: 0, needs at least 1")
  end)
end)
