-- reference_spec.lua - the starting model is asked once about each sample, before it changes.
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local loader = require "dopl.data.loader"
local causal_lm = require "dopl.task.causal_lm"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local reference = require "dopl.train.reference"

local tok <const> = require "spec.data.bytes"

local function new_model()
  return models.new({ architecture = "llama", vocab_size = 257, hidden_size = 16, n_layers = 1,
    heads = 2, kv_heads = 1, intermediate_size = 24, init_std = 0.3 }, 1)
end

local function new_loader(options)
  local rows = {}
  for i = 1, 7 do rows[i] = { question = "Q" .. i, answer = ("a"):rep(i) } end
  local o = { samples = chat.encode_all(tok, rows), batch_size = 3, seed = 1 }
  for key, value in pairs(options or {}) do o[key] = value end
  return loader.new(o)
end

describe("dopl.reference", function()
  it("says what the model says, of samples and refusal pairs", function()
    local model = new_model()
    local l = new_loader { refusals = { "No.", "Not known." }, refuse = "twin" }
    local r = reference.new(model)
    r:prepare(l, 5, "nll", 64)
    assert.equal(0, l:state().step)
    for _ = 1, 5 do
      local b <close> = causal_lm.pack(l:next())
      local want = causal_lm.scores_of(model, b).nll:tolist()
      local want_twin = causal_lm.scores_of(model, b.twin).nll:tolist()
      local got, got_twin = r:values("nll", b):tolist(), r:values("nll", b.twin):tolist()
      for i = 1, #want do
        assert.near(want[i], got[i], 1e-5 * want[i])
        assert.near(want_twin[i], got_twin[i], 1e-5 * want_twin[i])
      end
    end
  end)

  it("keeps hidden states, whose KL to the model itself is 0", function()
    local model, l = new_model(), new_loader()
    local r = reference.new(model)
    r:prepare(l, 3, "hidden", 20)
    local b <close> = causal_lm.pack(l:next())
    assert.near(0, loss.of_batch(model, loss.kl(), b, r):item(), 1e-6)
    local states = 0
    for i = 1, 7 do states = states + (i + 1) * 16 * 4 end -- every answer and its eos
    assert.equal(states + 257 * 16 * 4, r:bytes())
  end)

  it("does not follow the model as it changes", function()
    local model, l = new_model(), new_loader()
    local r = reference.new(model)
    r:prepare(l, 3, "hidden", 64)
    r:prepare(l, 3, "nll", 64)
    local b <close> = causal_lm.pack(l:next())
    local before = r:values("nll", b):tolist()
    for _, p in ipairs(model.parameters) do p.tensor:copy(p.tensor * 1.5) end
    assert.same(before, r:values("nll", b):tolist())
    assert.is_true(loss.of_batch(model, loss.kl(), b, r):item() > 1e-3)
  end)

  it("knows every batch to come, also where epochs leave samples out", function()
    local model, l = new_model(), new_loader { drop_last = true }
    local r = reference.new(model)
    r:prepare(l, 40, "nll", 64)
    for _ = 1, 40 do
      local b <close> = causal_lm.pack(l:next())
      assert.equal(3, #r:values("nll", b))
    end
  end)

  it("says which kinds of answers a task has", function()
    assert.error_matches(function()
      reference.new(new_model()):add(new_loader():next(), "hiden")
    end, "reference:add: kind: 'hiden' %(did you mean 'hidden'%?%)")
  end)

  it("asks about each sample once, and records nothing", function()
    local model, l = new_model(), new_loader()
    local calls, hidden = 0, model.hidden
    function model.hidden(...)
      calls = calls + 1
      assert.is_false(core.grad_enabled())
      return hidden(...)
    end
    local r = reference.new(model)
    r:prepare(l, 20, "nll", 4096)
    local after = calls
    r:prepare(l, 20, "nll", 4096)
    assert.equal(after, calls)
    assert.equal(3, calls) -- an epoch is three batches; a second one finds all known
  end)
end)
