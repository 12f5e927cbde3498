-- combinations.lua - every rule, scheme and storage, for the specs that walk over all of them.
local optim = require "dopl.optim"

local combinations = {}

-- A rule the library does not have: RMSprop with momentum. A large eps, here and below: where
-- v^_B + v^_D is next to zero one rounding more or less would move theta by any amount.
local rmsprop = optim.rule {
  name = "rmsprop",
  hyper = { lr = 1e-3, alpha = 0.95, momentum = 0.9, eps = 0.1 },
  moments = {
    v = { decay = "alpha", correct = false, nonnegative = true,
          signal = function(g) return g * g end },
    m = { decay = "momentum", kind = "sum",
          signal = function(g, h, mom) return g / (optim.sqrt(optim.abs(mom.v)) + h.eps) end },
  },
  direction = function(mom) return mom.m end,
}

local adam = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-2, weight_decay = 0.01 }
local momentum = { lr = 1e-2, momentum = 0.9, weight_decay = 0.01 }

combinations.rules = {
  { name = "sgd", rule = optim.sgd, hyper = momentum, moments = { "m" } },
  { name = "nesterov", rule = optim.nesterov, hyper = momentum, moments = { "m" } },
  { name = "adam", rule = optim.adam, hyper = adam, moments = { "m", "v" } },
  { name = "adamw", rule = optim.adamw, hyper = adam, moments = { "m", "v" } },
  { name = "lion", rule = optim.lion, moments = { "m" },
    hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01 } },
  { name = "muon", rule = optim.muon, hyper = momentum, moments = { "m" }, shape = { 4, 68 } },
  { name = "rmsprop", rule = rmsprop, moments = { "m", "v" },
    hyper = { lr = 1e-3, alpha = 0.95, momentum = 0.9, eps = 0.1 } },
}

-- { label, fields of a case } of every scheme with every option that changes the passes.
local function schemes(rule)
  local list = {}
  local function add(label, fields) list[#list + 1] = { label, fields } end
  for _, kind in ipairs { "joint", "shared", "decoupled", "scaffold", "fedcm", "local_adam" } do
    add(kind, { scheme = kind })
  end
  for _, moment in ipairs(rule.moments) do
    add("decoupled, only " .. moment, { scheme = "decoupled", decouple = { moment } })
  end
  local other = rule.name == "sgd" and { optim.adam, adam } or { optim.sgd, momentum }
  add("decoupled, a rule each", { scheme = "decoupled", rules = { nil, other } })
  add("scaffold, a floor", { scheme = "scaffold", floor = 0.1 })
  for _, source in ipairs { "g", "g-delta" } do
    for _, timing in ipairs { "after_theta", "after_delta", "before_delta" } do
      if source == "g" or timing ~= "before_delta" then
        add(("base_delta, %s, %s"):format(timing, source),
          { scheme = "base_delta", timing = timing, source = source })
      end
    end
  end
  return list
end

combinations.storages = { "f32", "bf16", "8bit" }
combinations.weights = { "f32", "master", "stochastic", "nearest" } -- f32 ones; bf16 ones

--- Calls visit(rule, label, case) for each rule and scheme; `store` makes it one storage's.
function combinations.each(rule, visit)
  for _, item in ipairs(schemes(rule)) do
    local case = { frequency = { 1, 2 }, elements = 272, shape = rule.shape, hyper = rule.hyper,
      timing = "after_theta", source = "g", seed = 7 }
    for key, value in pairs(item[2]) do case[key] = value end
    visit(item[1], case)
  end
end

--- The case with its states and weights stored so.
function combinations.store(case, storage, weights)
  local out = {}
  for key, value in pairs(case) do out[key] = value end
  out.storage = { base = storage, delta = storage }
  out.weights = weights ~= "f32" and weights or nil
  return out
end

return combinations
