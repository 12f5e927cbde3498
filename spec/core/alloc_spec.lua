-- alloc_spec.lua - a training step in which the first, second, third ... allocation fails.
--
-- That no collection of garbage would have helped is given here: it must be a clean error, leak
-- nothing, and leave a state in which the step can be taken again.
local array = require "op.array"
local batch = require "dopl.data.batch"
local core = require "dopl.core"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local nn = require "dopl.nn"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"

local config <const> = { architecture = "llama", vocab_size = 30, hidden_size = 8, n_layers = 2,
  heads = 2, kv_heads = 1, intermediate_size = 12 }

local twice <const> = nn.operator {
  name = "twice", forward = function(x) return x * 2 end,
  backward = function(dy) return dy * 2 end,
}

local function samples()
  local list = {}
  for s = 1, 3 do list[s] = { ids = { s, 5, 9 + s, 0 }, labels_from = 2, key = "s" .. s } end
  return list
end

-- Forward, loss, backward and, where it gets that far, the optimizer's step.
local function step(model, optimizer)
  local scope <close> = core.scope()
  local b <close> = batch.pack(samples())
  model.parameters:zero_grad()
  local l = twice((loss.of_batch(model, loss.gd(), b)))
  l:backward()
  optimizer:step { objective = "forget", norm = true }
  return l:item()
end

local function weights(model)
  local list = {}
  for i, p in ipairs(model.parameters) do list[i] = array.of(p.tensor) end
  return list
end

local function fresh(checkpoint) -- layers that are run again in weights that are decoded again
  local c = { checkpoint_layers = checkpoint, dtype = checkpoint and "bf16" or "f32" }
  for key, value in pairs(config) do c[key] = value end
  local model = models.new(c, 1)
  local optimizer = optim.adamw { lr = 1e-2 }:with(scheme.base_delta {})
    :attach(model.parameters, { objectives = { "forget", "retain" } })
  return model, optimizer
end

local function settle()
  collectgarbage()
  collectgarbage()
  return core.blocks()
end

for _, checkpoint in ipairs { false, true } do
  describe("a training step short of memory" .. (checkpoint and ", in bf16, layers recomputed" or ""),
    function()
      after_each(function() core.fail_alloc(0) end)

      it("fails cleanly, whichever allocation fails", function()
        local right
        do
          local model, optimizer = fresh(checkpoint)
          right = { step(model, optimizer), weights(model), step(model, optimizer), weights(model) }
        end
        local n = 0
        local model, optimizer = fresh(checkpoint)
        model.parameters:zero_grad()
        local blocks = settle()
        while true do
          n = n + 1
          core.fail_alloc(n)
          local ok, message = pcall(step, model, optimizer)
          local reached = core.fail_alloc(0) == 0
          if ok then
            assert.equal(right[1], message)
            if not reached then break end -- the step makes fewer than n allocations
          else
            assert.truthy(tostring(message):find("out of memory", 1, true), message)
            assert.is_true(core.grad_enabled())
            model.parameters:zero_grad()
            assert.equal(0, core.tape_size())
            assert.equal(blocks, settle(), ("after failure %d"):format(n))
            -- usable: the same step again, with the right numbers
            assert.equal(right[1], step(model, optimizer))
          end
          assert.same(right[2], weights(model))
          assert.equal(right[3], step(model, optimizer))
          assert.same(right[4], weights(model))
          model, optimizer = nil, nil -- luacheck: ignore 311
          settle()
          model, optimizer = fresh(checkpoint)
          blocks = settle()
        end
        assert.is_true(n > 70, ("%d allocations"):format(n))
      end)
    end)
end
