-- How much longer does the first step of a new rule take than the second? compile.lua runs this and
-- reads the answer. Rules of the library come first, so that device and compiler are already warm.
local dopl = require "dopl"
local core, optim, scheme = dopl.core, dopl.optim, dopl.scheme
local json = require "dopl.util.json"

local w = core.randn(1, 1, 0.02, 64, 128):requires_grad(true)
w:set_grad(core.randn(1, 2, 0.02, 64, 128))

local function seconds_of(o)
  core.sync()
  local begin = core.clock()
  o:step { objective = "forget" }
  core.sync()
  return core.clock() - begin
end

local function beyond(config)
  local _ <close> = core.scope()
  local o = config:attach({ { name = "w", tensor = w } }, { objectives = { "forget", "retain" } })
  local first = seconds_of(o)
  return first - seconds_of(o)
end

-- AdamW with another root, which needs a new kernel.
local new = optim.rule {
  name = "new", hyper = { lr = 1e-5, beta1 = 0.9, beta2 = 0.95, eps = 1e-8 },
  moments = {
    m = { decay = "beta1" },
    v = { decay = "beta2", nonnegative = true, signal = function(g) return optim.abs(g) ^ 1.5 end },
  },
  direction = function(mom, g, h) return mom.m / (optim.tanh(optim.abs(mom.v)) + h.eps) + h.eps * g end,
}

beyond(optim.adamw { lr = 1e-5 }:with(scheme.shared {}))
local rows = {}
for _, kind in ipairs { "shared", "base_delta" } do
  for _, storage in ipairs(scheme.storages) do
    rows[#rows + 1] = { name = kind .. " " .. storage,
      seconds = beyond(new { lr = 1e-5 }:with(scheme[kind] { storage = storage, quantize_min = 0 })) }
  end
end
print(json.encode(rows))
