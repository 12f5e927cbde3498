--- optim/optimizer.lua - an optimizer at work: parameters, their states, one step at a time.
--
-- A step touches every parameter that has a gradient; one without is left alone, states and all, as
-- torch does. A frozen parameter, which requires no gradient, has no states. Counters are global: t
-- counts steps, t_k the steps of objective k.
-- @module dopl.optim.optimizer
local check = require "dopl.util.check"
local core = require "dopl.core"
local layout = require "dopl.optim.layout"
local rng = require "dopl.util.rng"
local rule_class = require "dopl.optim.rule"
local trace = require "dopl.optim.trace"

local optimizer = {}
optimizer.__index = optimizer
optimizer.__name = "dopl.optimizer"

-- Weight decay touches these only; 8-bit states leave "embedding" and "head" alone unless asked.
local kinds = { matrix = true, embedding = true, head = true, bias = false, norm = false }

-- The storage of one state. The delta of a non-negative signal can be negative, and so can a base
-- fed with deltas: these take the signed codec.
local function storage_kind(scheme, part, quantized)
  local is_base = part.part == "base"
  local stored = scheme.stored[is_base and "base" or "own"]
  if stored ~= "8bit" then return stored end
  if not quantized then return "f32" end
  local unsigned = part.moment.nonnegative
  if scheme.kind == "base_delta" then
    unsigned = unsigned and is_base and scheme.source == "g"
  elseif scheme.kind == "scaffold" then
    unsigned = false
  end
  return unsigned and "u8" or "q8"
end

local function read_params(params, scheme)
  check.type("attach: parameters", params, "table", 4)
  local out, seen = {}, {}
  for i, given in ipairs(params) do
    local p = check.options(("attach: parameter %d"):format(i), given,
      { name = check.required, tensor = check.required, kind = "matrix" }, 4)
    if kinds[p.kind] == nil then
      check.choice(("attach: kind of '%s'"):format(p.name), p.kind, check.keys(kinds), 4)
    end
    if seen[p.name] then error(("attach: two parameters named '%s'"):format(p.name), 3) end
    seen[p.name] = true
    local dtype = p.tensor:dtype()
    if dtype ~= "f32" and dtype ~= "bf16" then
      error(("attach: '%s' is %s, need f32 or bf16"):format(p.name, dtype), 3)
    end
    p.n, p.weights = p.tensor:numel(), dtype == "bf16" and scheme.weights or nil
    p.stream = rng.hash(p.name .. ".theta")
    local shape = p.tensor:shape()
    p.matrix, p.rows, p.cols = p.kind == "matrix" and #shape == 2, shape[1], shape[2]
    p.decayed = kinds[p.kind]
    local embedding = p.kind == "embedding" or p.kind == "head"
    p.quantized = p.n >= scheme.quantize_min and (scheme.quantize_embeddings or not embedding)
    p.state = {}
    if p.tensor:requires_grad() then out[#out + 1] = p end
  end
  if #params == 0 then error("attach: no parameters", 3) end
  if #out == 0 then
    error(("attach: all %d parameters are frozen; model:unfreeze(names) trains some"):format(
      #params), 3)
  end
  return out
end

-- The f32 copy that a bf16 parameter is written from.
local function add_master(param)
  local scope <close> = core.scope()
  local value = core.optim.state(param.n, "f32")
  value:copy(core.ops.view(core.optim.decode(param.tensor, nil, "bf16"), param.n))
  param.state.master = { kind = "f32", value = value, part = "master", stream = 0 }
end

-- A rule, and the one of parameters that its transform does not concern.
local function rules_of(config)
  return { config.rule, config.otherwise and config.otherwise.rule }
end

local function base_decays(config, level)
  local given, map, has_beta2, decays = config.scheme.base_betas, {}, false, {}
  if given == nil then return map, {} end
  for _, rule in ipairs(rules_of(config)) do
    has_beta2 = has_beta2 or rule.hyper.beta2 ~= nil
    for _, moment in pairs(rule.moments) do decays[moment.decay] = true end -- a set
  end
  local values = given
  if #given > 0 then
    if #given ~= 2 or not has_beta2 then
      error("scheme.base_delta: base_betas is a list, need { beta1, beta2 } and a rule with both, "
        .. "or a table by name", level)
    end
    values = { beta1 = given[1], beta2 = given[2] }
  end
  local hyper = {}
  for _, name in ipairs(check.keys(values)) do
    if not decays[name] then
      check.choice("scheme.base_delta: base_betas", name, check.keys(decays), level + 1)
    end
    check.range("scheme.base_delta: base_betas." .. name, values[name], 0, 1 - 2 ^ -53, level + 1)
    map[name], hyper["base_" .. name] = "base_" .. name, values[name]
  end
  return map, hyper
end

local function check_objectives(self, config, options)
  local scheme, list = config.scheme, options.objectives
  if list == nil then
    if scheme.kind ~= "joint" and scheme.kind ~= "shared" then
      error(("attach: scheme.%s keeps states by objective: give objectives = { \"forget\", "
        .. "\"retain\" }"):format(scheme.kind), 4)
    end
    list = {}
  end
  self.objectives, self.count = {}, {}
  for i, name in ipairs(check.type("attach: objectives", list, "table", 5)) do
    check.type(("attach: objective %d"):format(i), name, "string", 5)
    if self.count[name] then error(("attach: two objectives named '%s'"):format(name), 4) end
    self.objectives[i], self.count[name] = name, 0
  end
  if options.period ~= nil then
    check.range("attach: period", check.type("attach: period", options.period, "integer", 5), 1,
      math.huge, 5)
  elseif scheme.period_end then
    error(("attach: scheme.%s acts at the end of a period: give period = its steps"):format(
      scheme.kind), 4)
  end
end

-- Objectives named in options by name must exist.
local function check_by_objective(self, what, values)
  if type(values) ~= "table" or #self.objectives == 0 then return end
  for _, name in ipairs(check.keys(values)) do
    if self.count[name] == nil then check.choice(what, name, self.objectives, 5) end
  end
end

-- Every objective that follows a value by objective must have one: said now, not at its first step.
local function check_complete(self, what, values, follows)
  check_by_objective(self, what, values)
  if type(values) ~= "table" then return end
  for _, name in ipairs(self.objectives) do
    if values[name] == nil and follows(name) then
      error(("%s is given by objective, and has none for '%s'"):format(what, name), 4)
    end
  end
end

local function check_hyper(self, config, follows)
  for _, name in ipairs(check.keys(config.hyper)) do
    check_complete(self, ("optim.%s: %s"):format(config.rule.name, name), config.hyper[name],
      follows)
  end
end

-- The configuration of each objective that has its own (scheme.decoupled's `rules`).
local function own_rules(self)
  local rules = self.scheme.rules
  if rules == nil then return {} end
  check_by_objective(self, "scheme.decoupled: rules", rules)
  for _, name in ipairs(check.keys(rules)) do
    if not rule_class.is_config(rules[name]) then
      error(("scheme.decoupled: the rule of '%s' is a %s, need one like optim.sgd { lr = 1e-3 }")
        :format(name, type(rules[name])), 4)
    end
  end
  return rules
end

local ATTACH <const> = check.fields("config:attach", {
  objectives = { of = "string", "names of the objectives that steps will have" },
  period = { type = "integer", min = 1, "steps of a full period, for federated schemes" },
  seed = { default = 0, "seed of stochastic rounding" },
})

--- Ties a configuration to parameters. Reached as `config:attach(params, options)`.
-- @tparam config config rule and scheme
-- @tparam {{name=string,tensor=tensor,kind=string},...} params kind: "matrix" (default),
--   "embedding", "head", "bias" or "norm"; frozen ones (t:requires_grad() is false) are left out
-- @tparam ?table options
function optimizer.new(config, params, options)
  options = check.options(ATTACH, options, 4, "attach")
  local scheme = config.scheme
  local self = setmetatable({
    config = config, rule = config.rule, scheme = scheme, t = 0, period = options.period,
    plans = {}, scratch = {}, seed = options.seed,
  }, optimizer)
  check_objectives(self, config, options)
  check_complete(self, "scheme: lr", scheme.lr, function() return true end)
  self.own_rules = own_rules(self)
  local function follows_main(name) return self.own_rules[name] == nil end
  check_hyper(self, config, follows_main)
  if config.otherwise then check_hyper(self, config.otherwise, follows_main) end
  for _, objective in ipairs(check.keys(self.own_rules)) do
    check_hyper(self, self.own_rules[objective], function(name) return name == objective end)
  end
  self.params = read_params(params, scheme)
  for _, p in ipairs(self.params) do
    if p.weights == "master" then add_master(p) end
  end
  self.trace_options = {
    timing = scheme.timing, source = scheme.source, split = scheme.split,
    objectives = self.objectives,
  }
  for _, name in ipairs(scheme.only or {}) do
    local known = {}
    for _, rule in ipairs(rules_of(config)) do
      for _, moment in ipairs(rule.moment_names) do known[moment] = true end
    end
    if not known[name] then check.choice("scheme.decoupled: only", name, check.keys(known), 4) end
  end
  self.trace_options.base_decay, self.base_hyper = base_decays(config, 4)
  self:build()
  return self
end

-- The state tensors of a part for one parameter, allocated on first sight.
function optimizer:state_of(param, part, objective)
  local owner = part.part == "own" and (part.objective or objective) or nil
  local key = trace.state_name(part.moment.name, part.part, owner)
  local state = param.state[key]
  if not state then
    local kind = storage_kind(self.scheme, part, param.quantized)
    local value, scales = core.optim.state(param.n, kind)
    state = {
      kind = kind, value = value, scales = scales, part = part.part, moment = part.moment.name,
      stream = rng.hash(param.name .. "." .. key),
    }
    param.state[key] = state
  end
  return state
end

-- The configuration that a parameter follows at a step of an objective.
function optimizer:config_of(param, objective)
  local config = self.own_rules[objective] or self.config
  if config.rule.transform and not param.matrix then return config.otherwise end
  return config
end

-- The passes of an objective's step, or of a period's end, laid over every parameter.
function optimizer:lay(trace_of, objective)
  return layout.new(self.params, function(param)
    local config = self:config_of(param, objective)
    return trace_of(config.rule), config
  end, function(param, part)
    return self:state_of(param, part, objective)
  end, self.scratch)
end

-- `trace`, once for each rule.
local function tracer(self, trace_pass)
  local known = {}
  return function(rule)
    known[rule] = known[rule] or trace_pass(rule, self.scheme, self.trace_options)
    return known[rule]
  end
end

function optimizer:build()
  local step = tracer(self, trace.step)
  local by_objective = self.scheme.rules ~= nil
  for _, param in ipairs(self.params) do
    local cx = step(self:config_of(param).rule)
    for _, name in ipairs(cx.order) do
      by_objective = by_objective or cx.parts[name].part == "own"
    end
  end
  if by_objective then
    if #self.objectives == 0 then error("attach: objectives is empty, need at least one", 4) end
    for _, objective in ipairs(self.objectives) do
      self.plans[objective] = self:lay(step, objective)
    end
  else
    self.shared_plan = self:lay(step)
  end
  if self.scheme.period_end then self.ending = self:lay(tracer(self, trace.period_end)) end
end

-- ---- a step

function optimizer:check_objective(objective)
  if self.scheme.one_objective then
    if objective ~= nil and objective ~= "joint" then
      error(("step: scheme.joint has one objective, not '%s': sum the losses, or take "
        .. "scheme.shared"):format(tostring(objective)), 3)
    end
    return
  end
  if #self.objectives == 0 then return end
  if objective == nil then
    error(("step: which objective? give objective = \"%s\""):format(self.objectives[1]), 3)
  end
  if self.count[objective] == nil then
    check.choice("step: objective", objective, self.objectives, 4)
  end
end

local function for_objective(what, value, objective)
  if type(value) ~= "table" then return value end
  local v = value[objective]
  if objective == nil then
    error(("step: %s is given by objective, and this step names none: give step { objective = ... }, "
      .. "or one number for %s"):format(what, what), 4)
  elseif v == nil then
    error(("step: %s is given by objective, and has none for '%s'"):format(what,
      tostring(objective)), 4)
  end
  return v
end

function optimizer:numbers(config, objective, options, t, t_k, clip)
  local env = { step = t, objective_step = t_k, clip = clip }
  for name, value in pairs(config.hyper) do -- the order changes nothing
    env[name] = for_objective(name, value, objective)
  end
  for name, value in pairs(self.base_hyper) do env[name] = value end
  for name, n in pairs(self.count) do env["count:" .. name] = n end
  local lr, main = options.lr, self.own_rules[objective] or self.config
  if lr == nil and self.scheme.lr ~= nil then
    lr = for_objective("lr", self.scheme.lr, objective)
  end
  if lr ~= nil and config == main then
    env.lr = lr
  elseif lr ~= nil then -- the two rates keep their ratio
    local own = for_objective("lr", main.hyper.lr, objective)
    env.lr = own > 0 and env.lr * lr / own or env.lr
  end
  env.lr = env.lr * options.lr_scale
  return env
end

-- The numbers of a step, by configuration.
function optimizer:environment(plan, ...)
  local env = {}
  for _, config in ipairs(plan.configs) do env[config] = self:numbers(config, ...) end
  return env
end

function optimizer:check_norm(norm, objective)
  if norm ~= norm or norm == math.huge then
    error(("step: the gradient norm is %s (objective '%s', step %d): nothing was changed; try "
      .. "a smaller learning rate"):format(norm, tostring(objective), self.t + 1), 3)
  end
end

-- Notes the norm in a step's result; returns the factor that clips it.
function optimizer:take_norm(result, norm, o)
  result.grad_norm = norm
  if o.norm and (norm ~= norm or norm == math.huge) then
    result.skipped = true
    return 0.0
  elseif o.clip == nil then
    return 1.0
  end
  self:check_norm(norm, o.objective)
  local scale = math.min(1.0, o.clip / (norm + 1e-6)) -- torch's clip_grad_norm_
  result.clipped = scale < 1
  return scale
end

local STEP <const> = check.fields("optim.optimizer:step", {
  objective = { type = "string", "the objective that the gradients are of" },
  lr = { type = "number", min = 0, shown = "the configured one", "learning rate" },
  lr_scale = { type = "number", min = 0, default = 1.0, "a schedule's factor on the learning rate" },
  clip = { type = "number", min = 0, "largest global norm of the gradient" },
  norm = { default = false, "measures the norm without clipping" },
})

--- One step with the gradients the parameters hold.
-- @tparam ?table options
-- @treturn table { lr, grad_norm (where clip or norm is given), clipped }; where norm is given and
--   the norm is not finite, nothing is changed and `skipped` is true
function optimizer:step(options)
  local o = check.options(STEP, options, 3, "step")
  self:check_objective(o.objective)
  local plan = self.shared_plan or self.plans[o.objective]
  local result, scale = { clipped = false }, 1.0
  local measured = o.clip ~= nil or o.norm
  local deferred = measured and plan:defers()
  if deferred then
    plan:clip(o.clip or math.huge)
  elseif measured then
    scale = self:take_norm(result, plan:norm(), o)
    if result.skipped then return result end
  end
  local t_k = o.objective and self.count[o.objective] and self.count[o.objective] + 1 or self.t + 1
  local main = self.own_rules[o.objective] or self.config
  local numbers = self:numbers(main, o.objective, o, self.t + 1, t_k, scale)
  local env = self:environment(plan, o.objective, o, self.t + 1, t_k, scale)
  if plan:run(env, { self.seed, 2 * self.t }) == 0 then
    error("step: no parameter has a gradient: call loss:backward() first", 2)
  end
  if deferred then
    self:take_norm(result, plan:clip_norm(), o)
    if result.skipped then return result end
  end
  self.t = self.t + 1
  if self.count[o.objective] then self.count[o.objective] = t_k end
  if self.ending and self.t % self.period == 0 then
    local last = self:environment(self.ending, o.objective, o, self.t, t_k, 1.0)
    self.ending:run(last, { self.seed, 2 * self.t - 1 })
  end
  result.lr = numbers.lr
  return result
end

-- ---- states

--- Every state tensor, for a checkpoint.
-- @treturn {{name=string,tensor=tensor},...} in a fixed order; an 8-bit state is two, "x.codes" and
--   "x.scales"
function optimizer:states()
  local out = {}
  for _, param in ipairs(self.params) do
    for _, key in ipairs(check.keys(param.state)) do
      local state, name = param.state[key], param.name .. "." .. key
      if state.scales then
        out[#out + 1] = { name = name .. ".codes", tensor = state.value }
        out[#out + 1] = { name = name .. ".scales", tensor = state.scales }
      else
        out[#out + 1] = { name = name, tensor = state.value }
      end
    end
  end
  return out
end

--- A state's values as f32, decoded where it is stored otherwise.
-- @tparam string param name of the parameter
-- @tparam string state "m", "m.base", "m.own.forget", ..., "master"
-- @treturn tensor
function optimizer:state(param, state)
  for _, p in ipairs(self.params) do
    if p.name == param then
      local s = p.state[state]
      if not s then check.choice("state of " .. param, state, check.keys(p.state)) end
      return s.kind == "f32" and s.value or core.optim.decode(s.value, s.scales, s.kind)
    end
  end
  error(("state: no parameter '%s'"):format(tostring(param)), 2)
end

--- Steps taken, in all and by objective, and the seed of stochastic rounding.
function optimizer:counters()
  local by_objective = {}
  for _, name in ipairs(self.objectives) do by_objective[name] = self.count[name] end
  return { step = self.t, objectives = by_objective, seed = self.seed }
end

--- Takes up where a checkpoint left off.
-- @tparam {[string]=tensor} states by the names of `states()`
-- @tparam table counters as `counters()` gave them
function optimizer:restore(states, counters)
  local own = self:states()
  for _, s in ipairs(own) do
    if not states[s.name] then error(("restore: no state '%s'"):format(s.name), 2) end
  end
  check.type("restore: counters.step", counters.step, "integer")
  for _, s in ipairs(own) do s.tensor:copy(states[s.name]) end
  self:set_counters(counters)
end

--- Counts on from `counters()`; an objective that has no number there counts from 0.
function optimizer:set_counters(counters)
  self.t, self.seed = counters.step, counters.seed or self.seed
  for _, name in ipairs(self.objectives) do
    self.count[name] = counters.objectives and counters.objectives[name] or 0
  end
end

--- Bytes the optimizer holds, codes and scales included.
-- @treturn table { base, own, master, scratch, total }: moments of the base and all others, f32
--   copies of bf16 parameters, what matrix steps work on
function optimizer:state_bytes()
  local bytes = { base = 0, own = 0, master = 0, scratch = 0, total = 0 }
  local function count(part, n)
    bytes[part], bytes.total = bytes[part] + n, bytes.total + n
  end
  for _, param in ipairs(self.params) do
    for _, state in pairs(param.state) do -- sums: the order changes nothing
      count(bytes[state.part] and state.part or "own",
        state.value:bytes() + (state.scales and state.scales:bytes() or 0))
    end
  end
  for _, scratch in pairs(self.scratch) do count("scratch", scratch:bytes()) end
  return bytes
end

--- The compiled passes as text, one instruction a line.
-- @tparam ?string target "cuda": the kernels they become on a GPU
-- @treturn string
function optimizer:listing(target)
  return (self.shared_plan or self.plans[self.objectives[1]]):listing(target)
end

return optimizer
