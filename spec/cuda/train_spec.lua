-- train_spec.lua - training on a device: the CPU's numbers, and no wait in the middle of a step.
--
-- Runs with DOPL_DEVICE=cuda, on a GPU or on the emulator (spec/cuda/README.md).
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local loader = require "dopl.data.loader"
local loss = require "dopl.train.loss"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local small = require "spec.train.small"
local train = require "dopl.train"

local tok <const> = require "spec.data.bytes"

local function samples(letter)
  local rows = {}
  for i = 1, 6 do rows[i] = { question = letter .. i, answer = letter:rep(1 + i * 5 % 7) } end
  return chat.encode_all(tok, rows)
end

local function objective(name, l, twins)
  return { name = name, loss = l, data = loader.new { samples = samples(name:sub(1, 1)),
    batch_size = 3, seed = 1, stream = name, refuse = twins and "twin", refusals = twins } }
end

-- Six steps of forgetting and retaining; given overrides. Returns losses by step.
local function fit(dtype, given)
  local losses, model = {}, small.model { dtype = dtype }
  local o = { model = model, steps = 6, progress = false, warmup = 0, clip = 1.0,
    objectives = { objective("forget", loss.npo { beta = 0.1 }), objective("retain", loss.gd()) },
    schedule = schedule.alternate { forget = 1, retain = 2 }, micro_tokens = 12,
    -- eps: without it a step is ill-conditioned wherever v of base and delta cancel
    optimizer = optim.adamw { lr = 1e-2, eps = 1e-3 }
      :with(scheme.base_delta { storage = "8bit", quantize_min = 0 }),
    on_step = function(live) losses[live.step] = live.losses[live.objective] end }
  for key, value in pairs(given or {}) do o[key] = value end
  train.fit(o)
  return losses
end

-- Two joint steps of dpo and gd. Returns the losses of both, and the tokens of each forward pass.
local function fit_jointly(micro_tokens)
  local losses, passes, model = {}, {}, small.model()
  local hidden = model.hidden
  model.hidden = function(self, batch, ...)
    passes[#passes + 1] = batch.ids:numel()
    return hidden(self, batch, ...)
  end
  train.fit { model = model, steps = 2, progress = false, warmup = 0, schedule = schedule.joint(),
    objectives = { objective("forget", loss.dpo(), { "No.", "Not known." }),
      objective("retain", loss.gd()) },
    micro_tokens = micro_tokens, optimizer = optim.sgd { lr = 0.1 },
    on_step = function(live)
      table.move({ live.losses.forget, live.losses.retain }, 1, 2, #losses + 1, losses)
    end }
  return losses, passes
end

local function on_cpu(f)
  core.device "cpu"
  local results = table.pack(f())
  core.device "cuda"
  return table.unpack(results)
end

describe("training on a device", function()
  it("gives the CPU's losses", function()
    local here = fit("f32")
    local there = on_cpu(function() return fit("f32") end)
    for i = 1, 6 do assert.near(there[i], here[i], 1e-4 * (1 + math.abs(there[i]))) end
  end)

  it("gives them in bf16, to the rounding of activations", function()
    local here = fit("bf16")
    local there = on_cpu(function() return fit("bf16") end)
    for i = 1, 6 do assert.near(there[i], here[i], 3e-2 * (1 + math.abs(there[i]))) end
  end)

  it("sends the batches of a joint step through the model together, as far as they fit", function()
    local here, passes = fit_jointly(4096)
    local there, apart = on_cpu(function() return fit_jointly(4096) end)
    for i, value in ipairs(there) do assert.near(value, here[i], 1e-4 * (1 + math.abs(value))) end
    local n = #passes -- before these the reference was asked
    assert.equal(apart[#apart - 2] + apart[#apart - 1] + apart[#apart], passes[n])
    assert.equal(apart[#apart - 5] + apart[#apart - 4] + apart[#apart - 3], passes[n - 1])
    local cut, more = fit_jointly(40)
    for i, value in ipairs(there) do assert.near(value, cut[i], 1e-4 * (1 + math.abs(value))) end
    for i = #more - 3, #more do assert.is_true(more[i] <= 40) end
  end)

  it("repeats to the bit", function()
    assert.same(fit("bf16"), fit("bf16"))
  end)

  it("waits for the device only when a step is queued to its end", function()
    local adamw = optim.adamw { lr = 1e-2 }
    local waits, last = {}, core.waits()
    local watched = setmetatable({ attach = function(_, ...)
      local optimizer = adamw:attach(...)
      local step = optimizer.step
      optimizer.step = function(self, options)
        waits[#waits + 1] = core.waits() - last
        local run = self.shared_plan.run
        self.shared_plan.run = function(...)
          local before = core.waits()
          local n = run(...)
          waits[#waits + 1] = core.waits() - before
          return n
        end
        local result = step(self, options)
        self.shared_plan.run = nil
        return result
      end
      return optimizer
    end }, { __index = adamw })
    fit("bf16", { optimizer = watched, objectives = { objective("retain", loss.gd()) },
      schedule = schedule.joint(), on_step = function() last = core.waits() end })
    assert.equal(12, #waits)
    for i = 3, 12 do assert.equal(0, waits[i]) end -- the first step sends and compiles
  end)
end)
