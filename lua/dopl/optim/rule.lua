--- optim/rule.lua - rules: how moments and theta move, as Lua over symbolic values.
--
--     optim.adamw = optim.rule {
--       name      = "adamw",
--       hyper     = { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0 },
--       moments   = { m = { decay = "beta1", signal = function(g) return g end },
--                     v = { decay = "beta2", signal = function(g) return g * g end,
--                           nonnegative = true } },
--       decay     = function(theta, h) return theta * (1 - h.lr * h.weight_decay) end,
--       direction = function(mom, g, h) return mom.m / (sqrt(abs(mom.v)) + h.eps) end,
--     }
--
-- A rule is called with values for its hyper-parameters and gives a configuration, which joins a
-- scheme (`:with`) and parameters (`:attach`).
-- @module dopl.optim.rule
local check = require "dopl.util.check"
local scheme = require "dopl.optim.scheme"

local rule = {}

local rule_class = { __name = "dopl.optim.rule" }
rule_class.__index = rule_class

local config = { __name = "dopl.optim" }
config.__index = config

--- Ranges of hyper-parameters by name; a rule may add its own in `ranges`.
local ranges = {
  lr = { 0, math.huge }, eps = { 0, math.huge }, weight_decay = { 0, math.huge },
}
local below_one = 1 - 2 ^ -53

local MOMENT <const> = check.fields("", {
  decay = { type = "number|string", required = true, "a number, or the name of a hyper-parameter" },
  signal = { type = "function", shown = "the gradient", "function(g, h, mom): what is averaged" },
  kind = { choice = { "ema", "sum" }, default = "ema", "a moving average, or a decaying sum" },
  nonnegative = { default = false, "whether it never falls below 0" },
  correct = { type = "boolean", shown = "the rule's", "whether it is bias corrected" },
})
local RULE <const> = check.fields("optim.rule", {
  name = { default = "rule", "the name in messages" },
  hyper = { type = "table", required = true, "defaults of hyper-parameters by name, lr among them" },
  moments = { type = "table", default = {},
    "by name, each { decay =, signal =, kind =, nonnegative =, correct = }" },
  direction = { type = "function", required = true,
    "function(mom, g, h): theta becomes theta - lr * direction" },
  decay = { type = "function", "function(theta, h): theta before the step (decoupled weight decay)" },
  couple = { type = "function", "function(g, theta, h): the gradient to use (coupled weight decay)" },
  correct = { default = true, "whether moving averages are bias corrected" },
  lagged = { default = false, "whether the direction sees the moments before the step's update" },
  ranges = { type = "table", default = {}, "{ low, high } of hyper-parameters by name" },
  transform = { type = "function", "function(M, h): a step for 2-D parameters of kind \"matrix\"; M is "
    .. "the direction as a [R, C] tensor, h numbers, and theta becomes theta - lr * transform" },
  otherwise = { type = "table", "with transform: the configuration for all other parameters" },
})

-- What the usual hyper-parameters are.
local HYPER <const> = {
  lr = "learning rate", beta1 = "decay of the first moment", beta2 = "decay of the second moment",
  eps = "added to the root of the second moment", weight_decay = "weight decay",
  momentum = "decay of the momentum",
}

local function copy(list)
  local out = {}
  for k, v in pairs(list) do out[k] = v end -- the order changes nothing
  return out
end

local function identity(g)
  return g
end

local function read_moment(where, name, given, correct, hyper)
  local m = check.options(MOMENT, given, 5, ("%s: moment '%s'"):format(where, name))
  m.signal = m.signal or identity
  if m.correct == nil then m.correct = correct end
  if type(m.decay) == "string" and hyper[m.decay] == nil then
    check.choice(("%s: decay of moment '%s'"):format(where, name), m.decay, check.keys(hyper), 5)
  end
  m.name = name
  return m
end

-- Operands of a pass that are no states.
local reserved = { theta = true, g = true, direction = true, master = true }

-- The configuration of parameters a transform does not concern. It has no own scheme.
local function read_otherwise(where, given, level)
  if not rule.is_config(given) then
    error(("%s is a %s, need what follows where there is no matrix, like optim.adamw { lr = 1e-3 }")
      :format(where, type(given)), level)
  elseif given.rule.transform then
    error(("%s: optim.%s needs matrices too"):format(where, given.rule.name), level)
  elseif given.chosen then
    error(("%s: the scheme is that of the whole; leave :with(...) out"):format(where), level)
  end
  return setmetatable({ rule = given.rule, hyper = given.hyper, given = given.given }, config)
end

-- The description of a rule's hyper-parameters.
local function describe(self)
  local described = {}
  for name, default in pairs(self.hyper) do -- each by itself: the order changes nothing
    described[name] = { type = "number|table", default = default,
      (HYPER[name] or "a hyper-parameter of the rule") .. ", or one by objective" }
  end
  if self.hyper.beta2 ~= nil then
    described.betas = { of = "number", "beta1 and beta2 in one list" }
  end
  if self.transform then
    described.otherwise = { type = "table", shown = tostring(self.otherwise),
      "the configuration for parameters that are no matrices" }
  end
  return check.fields("optim." .. self.name, described)
end

--- Declares a rule.
-- @tparam table given
-- @treturn rule callable with hyper-parameters
function rule.new(given)
  local self = check.options(RULE, given)
  local where = ("optim rule '%s'"):format(self.name)
  if type(self.hyper.lr) ~= "number" then
    error(("%s: hyper.lr is missing: every rule has a learning rate"):format(where), 2)
  end
  if self.transform then
    self.otherwise = read_otherwise(where .. ": otherwise", self.otherwise, 3)
  elseif self.otherwise ~= nil then
    error(where .. ": otherwise is for a rule with a transform", 2)
  end
  local moments = {}
  self.moment_names = check.keys(self.moments)
  for _, name in ipairs(self.moment_names) do
    if reserved[name] then
      error(("%s: '%s' cannot be the name of a moment"):format(where, name), 2)
    end
    moments[name] = read_moment(where, name, self.moments[name], self.correct, self.hyper)
  end
  self.moments, self.options = moments, describe(self)
  return setmetatable(self, rule_class)
end

function rule_class:__tostring()
  return ("optim.%s %s"):format(self.name, scheme.show(self.hyper))
end

local function check_value(self, name, value, level)
  local where = ("optim.%s: %s"):format(self.name, name)
  check.type(where, value, "number", level + 1)
  local range = self.ranges[name] or ranges[name]
  for _, moment in pairs(self.moments) do -- the order changes nothing
    if moment.decay == name then range = range or { 0, below_one } end
  end
  if not range then return end
  if value >= range[1] and value <= range[2] and value < math.huge then return end
  local high = range[2] == below_one and "below 1"
    or range[2] == math.huge and "finite" or ("at most %g"):format(range[2])
  error(("%s = %g, need at least %g and %s"):format(where, value, range[1], high), level)
end

-- `betas = { a, b }` stands for beta1 and beta2 where the rule has both.
local function expand_betas(self, given, level)
  if given.betas == nil then return given end
  local out = copy(given)
  local betas = given.betas
  if type(betas) ~= "table" or #betas ~= 2 or self.hyper.beta2 == nil then
    error(("optim.%s: betas needs two numbers and a rule with beta1 and beta2"):format(self.name),
      level)
  end
  for i, name in ipairs { "beta1", "beta2" } do
    if given[name] ~= nil and given[name] ~= betas[i] then
      error(("optim.%s: betas and %s are both given: one of them says it"):format(self.name, name),
        level)
    end
  end
  out.betas, out.beta1, out.beta2 = nil, betas[1], betas[2]
  return out
end

--- A configuration: the rule with values for its hyper-parameters. A value may be a table by
-- objective: `lr = { forget = 1.5e-5, retain = 1e-5 }`.
function rule_class:__call(given)
  given = given or {}
  check.type("optim." .. self.name, given, "table", 3)
  local expanded, otherwise = expand_betas(self, given, 3), self.otherwise
  if self.transform and given.otherwise ~= nil then
    otherwise = read_otherwise(("optim.%s: otherwise"):format(self.name), given.otherwise, 3)
    given = copy(given)
    given.otherwise = otherwise
    expanded = copy(expanded)
    expanded.otherwise = nil
  end
  local hyper = check.options(self.options, expanded)
  for _, name in ipairs(check.keys(hyper)) do
    local value = hyper[name]
    if type(value) == "table" then
      local what = ("optim.%s: %s"):format(self.name, name)
      for _, objective in ipairs(check.named(what, value, "objective = " .. name, 3)) do
        check_value(self, name, value[objective], 3)
      end
    else
      check_value(self, name, value, 3)
    end
  end
  return setmetatable({
    rule = self, hyper = hyper, given = given, otherwise = otherwise, scheme = scheme.shared {},
  }, config)
end

--- The same rule under another scheme.
-- @tparam scheme s from dopl.scheme
function config:with(s)
  if not scheme.is_scheme(s) then
    error(("optim.%s: with() needs a scheme (scheme.base_delta {}, ...), not a %s"):format(
      self.rule.name, type(s)), 2)
  end
  local other = copy(self)
  other.scheme, other.chosen = s, true
  return setmetatable(other, config)
end

--- Ties the configuration to parameters: allocates the states.
-- @tparam table params a model's parameters, or a list of { name =, tensor =, kind = }
-- @tparam[opt] table options
-- @treturn optimizer
-- @see dopl.optim.optimizer
function config:attach(params, options)
  return require("dopl.optim.optimizer").new(self, params, options)
end

function config:__tostring()
  if not self.scheme then return ("optim.%s %s"):format(self.rule.name, scheme.show(self.given)) end
  return ("optim.%s %s:with(%s)"):format(self.rule.name, scheme.show(self.given),
    tostring(self.scheme))
end

function rule.is_config(x)
  return getmetatable(x) == config
end

return rule
