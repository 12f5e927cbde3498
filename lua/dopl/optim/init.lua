--- optim/init.lua - optimizers: a rule x a scheme x a storage.
--
--     local opt = optim.adamw { lr = 1e-5, betas = { 0.9, 0.95 }, weight_decay = 0.01 }
--                   :with(scheme.base_delta { quantize = { "base", "delta" } })
--     local o = opt:attach(params, { objectives = { "forget", "retain" } })
--     o:step { objective = "forget" }
--
-- The rules below are complete: you write your own rule in the same way.
-- @module dopl.optim
local expr = require "dopl.optim.expr"
local matrix = require "dopl.optim.matrix"
local rule = require "dopl.optim.rule"

local optim = {
  rule = rule.new, newton_schulz = matrix.newton_schulz, transpose = matrix.transpose,
}

-- Functions for rules: sqrt, abs, sign, exp, log, tanh of one value; min, max of two.
for name, f in pairs(expr.functions) do optim[name] = f end
local sqrt, abs, sign = optim.sqrt, optim.abs, optim.sign

-- Decoupled: theta shrinks by lr wd before the step. Coupled: the gradient pulls towards zero.
local function shrink(theta, h) return theta * (1 - h.lr * h.weight_decay) end
local function pull(g, theta, h) return g + h.weight_decay * theta end

local function square(g) return g * g end

--- Stochastic gradient descent; momentum 0 is plain.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.sgd = optim.rule {
  name = "sgd",
  hyper = { lr = 1e-3, momentum = 0, weight_decay = 0 },
  moments = { m = { decay = "momentum", kind = "sum" } },
  couple = pull,
  direction = function(mom) return mom.m end,
}

--- Momentum looked at one step ahead.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.nesterov = optim.rule {
  name = "nesterov",
  hyper = { lr = 1e-3, momentum = 0.9, weight_decay = 0 },
  moments = { m = { decay = "momentum", kind = "sum" } },
  couple = pull,
  direction = function(mom, g, h) return g + h.momentum * mom.m end,
}

local adam_hyper = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0 }
local adam_moments = {
  m = { decay = "beta1" },
  v = { decay = "beta2", signal = square, nonnegative = true },
}
-- a delta of v may make the sum negative: hence abs
local function adam_direction(mom, _, h) return mom.m / (sqrt(abs(mom.v)) + h.eps) end

--- Adam, weight decay through the gradient.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.adam = optim.rule {
  name = "adam", hyper = adam_hyper, moments = adam_moments, direction = adam_direction,
  couple = pull,
}

--- Adam, weight decay apart from the gradient.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.adamw = optim.rule {
  name = "adamw", hyper = adam_hyper, moments = adam_moments, direction = adam_direction,
  decay = shrink,
}

--- The sign of an interpolation between momentum and gradient.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.lion = optim.rule {
  name = "lion",
  hyper = { lr = 1e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0 },
  ranges = { beta1 = { 0, 1 } }, -- no moment's decay, which would say it
  moments = { m = { decay = "beta2", correct = false } },
  lagged = true,
  decay = shrink,
  direction = function(mom, g, h) return sign(h.beta1 * mom.m + (1 - h.beta1) * g) end,
}

--- Momentum, orthogonalized: a step of matrices in which every direction counts the same. Other
-- parameters follow adamw, or what `otherwise` says.
-- @treturn config callable: `:with(scheme)`, `:attach(params)`
optim.muon = optim.rule {
  name = "muon",
  hyper = { lr = 2e-3, momentum = 0.95, weight_decay = 0 },
  moments = { m = { decay = "momentum", kind = "sum" } },
  direction = function(mom) return mom.m end,
  transform = matrix.newton_schulz {},
  decay = shrink,
  otherwise = optim.adamw {},
}

return optim
