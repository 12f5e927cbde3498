--- train/diagnostics.lua - the optimizer watched at work: do the objectives pull together or apart?
--
-- `train.fit { diagnostics = { every = n } }` writes a row of metrics (kind = "diagnostics") every n
-- steps, from the first two consecutive steps at or after it that serve different objectives (under
-- a joint schedule: from one step). Over all parameters, and by layer in `layers`:
--
--     from, to                    the two objectives, in the order of their steps
--     cos_update                  cosine of their updates theta_after - theta_before, weight decay
--                                 included (not under a joint schedule: it has one update)
--     cos_grad                    cosine of their gradients
--     cos_grad_ema                the same of moving averages, factor 0.9, of every gradient so far
--     delta_over_base_<m>_<obj>   with base_delta: |D^| / |B^| of moment m, bias corrected, after
--                                 the second step
--     near_zero_<v>_<obj>         with base_delta: share of elements whose denominator is below 1% of
--                                 the base's, sqrt |v^_B + v^_D| < 0.01 sqrt v^_B, as that
--                                 objective's step had it, before any floor
--     seconds                     the time this took
--
-- It costs memory for copies, 12 bytes a parameter, 4 more an objective and 4 with base_delta, and
-- time: one pass over the gradients each step for the averages, and some ten to twenty over the
-- parameters for a watched step (`seconds` of the row). No number of the training changes.
-- @module dopl.train.diagnostics

local check = require "dopl.util.check"
local core = require "dopl.core"

local diagnostics = {}
local Diagnostics = {}
Diagnostics.__index = Diagnostics

local EMA <const> = 0.9
local NEAR <const> = 0.01 -- of the base's square root

--- The layer of a parameter: its name to the first number, or all of it.
function diagnostics.layer(name)
  return name:match "^.-%.%d+%f[.]" or name
end

local function buffers(params)
  local list = {}
  for i, p in ipairs(params) do list[i] = core.zeros(p.tensor:shape()) end
  return list
end

-- The configuration that parameter i follows: not all need be under the same rule.
local function config_of(self, i)
  return self.optimizer:config_of(self.optimizer.params[i])
end

-- Second moments: what the square root of a denominator is taken of.
local function nonnegative_moments(self, i)
  local list, moments = {}, config_of(self, i).rule.moments
  for _, key in ipairs(check.keys(moments)) do
    local moment = moments[key]
    if moment.nonnegative then list[#list + 1] = moment end
  end
  return list
end

--- Bytes of the copies that diagnostics keep, for a plan.
-- @tparam Parameters parameters
-- @tparam integer objectives their number
-- @tparam boolean base_delta whether the scheme is that
function diagnostics.bytes(parameters, objectives, base_delta)
  return 4 * parameters:numel() * (3 + objectives + (base_delta and 1 or 0))
end

--- Starts watching.
-- @tparam table options every = steps between rows
-- @tparam table subject parameters = a model's, optimizer = attached, objectives = names,
-- joint = whether every step serves all
-- @treturn Diagnostics
function diagnostics.new(options, subject)
  local o = check.options("train.fit: diagnostics", options, { every = check.required }, 5)
  check.range("train.fit: diagnostics: every",
    check.type("train.fit: diagnostics: every", o.every, "integer", 5), 1, math.huge, 5)
  if #subject.objectives < 2 then
    error("train.fit: diagnostics: it compares objectives, and there is only one", 4)
  end
  local params = subject.parameters
  local self = setmetatable({ every = o.every, params = params, optimizer = subject.optimizer,
    joint = subject.joint, objectives = subject.objectives, left = 0, ema = {}, near = {},
    bases = {}, before = buffers(params),
    previous = { update = buffers(params), grad = buffers(params) } }, Diagnostics)
  for _, name in ipairs(subject.objectives) do self.ema[name] = buffers(params) end
  local scheme = self.optimizer.scheme
  self.base_delta = scheme.kind == "base_delta" and scheme or nil
  for i, p in ipairs(self.base_delta and params or {}) do
    for _, moment in ipairs(nonnegative_moments(self, i)) do
      self.bases[moment.name] = self.bases[moment.name] or {}
      self.bases[moment.name][i] = core.zeros(p.tensor:numel())
    end
  end
  return self
end

-- ---- sums by layer

-- Adds x to the sum `key` of a layer and of all.
local function add(sums, layer, key, x)
  for _, where in ipairs { layer, "" } do
    local s = sums[where]
    if not s then
      s = {}
      sums[where] = s
    end
    s[key] = (s[key] or 0.0) + x
  end
end

local function add_pair(sums, layer, key, a, b)
  add(sums, layer, key .. "_ab", a:dot(b))
  add(sums, layer, key .. "_aa", a:dot(a))
  add(sums, layer, key .. "_bb", b:dot(b))
end

local function cosine(s, key)
  local size = math.sqrt((s[key .. "_aa"] or 0) * (s[key .. "_bb"] or 0))
  return size > 0 and s[key .. "_ab"] / size or nil
end

-- ---- base and delta

local function number_of(value, objective)
  if type(value) == "table" then return value[objective] end
  return value
end

-- What bias correction multiplies a moment with after n pushes.
local function correction(self, i, moment, objective, n)
  if moment.kind == "sum" or not moment.correct or n == 0 then return 1.0 end
  local decay = moment.decay
  if type(decay) == "string" then
    local base = objective == nil and self.optimizer.base_hyper["base_" .. decay]
    decay = base or number_of(config_of(self, i).hyper[decay], objective or self.any)
  end
  return 1 / (1 - decay ^ n)
end

-- Base and delta, corrected, of a moment as the direction of the step just taken saw them.
local function seen_by_step(self, i, moment, objective, counters)
  local name, key = self.params[i].name, moment.name
  local old = self.base_delta.timing == "after_theta"
  local base = old and self.bases[key][i] or self.optimizer:state(name, key .. ".base")
  base = base * correction(self, i, moment, nil, old and counters.step - 1 or counters.step)
  return base, self.optimizer:state(name, key .. ".own." .. objective)
    * correction(self, i, moment, objective, counters.objectives[objective])
end

-- Counts elements with |B + D| < NEAR^2 B for the step just taken.
local function count_near_zero(self, objective)
  if not self.base_delta then return end
  local counters, counts = self.optimizer:counters(), {}
  for i, p in ipairs(self.params) do
    for _, moment in ipairs(nonnegative_moments(self, i)) do
      local scope <close> = core.scope()
      local base, delta = seen_by_step(self, i, moment, objective, counters)
      local short = core.ops.abs(base + delta) - base * NEAR ^ 2 -- negative where too small
      local mark = core.ops.clamp(core.ops.clamp(short, -1e-30, 0) * 1e30, -1, 0)
      -- what is smaller than 1e-30 counts by its part; a second moment of 0 does not count at all
      add(counts, diagnostics.layer(p.name), "near_zero_" .. moment.name, mark:dot(mark))
      add(counts, diagnostics.layer(p.name), "numel", p.tensor:numel())
    end
  end
  self.near[objective] = counts
end

local function add_norms(self, sums)
  if not self.base_delta then return end
  local optimizer = self.optimizer
  local counters = optimizer:counters()
  for i, p in ipairs(self.params) do
    local moments = config_of(self, i).rule.moments
    for _, key in ipairs(check.keys(moments)) do
      local moment = moments[key]
      local scope <close> = core.scope()
      local layer, base = diagnostics.layer(p.name), optimizer:state(p.name, key .. ".base")
      add(sums, layer, "base_" .. key, base:dot(base) * correction(self, i, moment, nil,
        counters.step) ^ 2)
      for _, name in ipairs(optimizer.objectives) do
        local delta = optimizer:state(p.name, key .. ".own." .. name)
        local size = delta:dot(delta)
          * correction(self, i, moment, name, counters.objectives[name]) ^ 2
        add(sums, layer, ("delta_%s_%s"):format(key, name), size)
      end
    end
  end
end

-- ---- rows

-- The figures of one layer, or of all.
local function figures(self, s, where)
  local out = { cos_update = cosine(s, "update"), cos_grad = cosine(s, "grad"),
    cos_grad_ema = cosine(s, "ema") }
  for _, key in ipairs(check.keys(s)) do
    local moment = key:match "^base_(.+)$"
    for _, name in ipairs(moment and s[key] > 0 and self.optimizer.objectives or {}) do
      out[("delta_over_base_%s_%s"):format(moment, name)] =
        math.sqrt(s[("delta_%s_%s"):format(moment, name)] / s[key])
    end
  end
  for _, name in ipairs(check.keys(self.near)) do
    local counts = self.near[name][where]
    for _, key in ipairs(check.keys(counts or {})) do
      if key ~= "numel" then out[key .. "_" .. name] = counts[key] / counts.numel end
    end
  end
  return out
end

local function make_row(self, sums, from, to)
  add_norms(self, sums)
  local row = figures(self, sums[""], "")
  row.from, row.to, row.layers = from, to, {}
  for _, layer in ipairs(check.keys(sums)) do
    if layer ~= "" then row.layers[layer] = figures(self, sums[layer], layer) end
  end
  return row
end

-- Adds the cosines of parameter i's gradients' averages.
local function add_ema(self, sums, i, from, to)
  local layer = diagnostics.layer(self.params[i].name)
  add_pair(sums, layer, "ema", self.ema[from][i], self.ema[to][i])
end

-- ---- what train.fit calls

-- The gradient of the objective just served: under a joint schedule, what it added to the sum.
local function own_gradient(self, i, grad)
  if not self.joint or self.first then return grad end
  return grad - self.before[i]
end

local function watch_joint(self, name)
  local sums = {}
  for i, p in ipairs(self.params) do
    local scope <close> = core.scope()
    local total = p.tensor:grad()
    if total then
      local g = own_gradient(self, i, total)
      if self.last then
        add_pair(sums, diagnostics.layer(p.name), "grad", self.previous.grad[i], g)
        add_ema(self, sums, i, self.last, name)
      end
      self.previous.grad[i]:copy(g)
    end
  end
  if self.last then self.rows[#self.rows + 1] = make_row(self, sums, self.last, name) end
  self.last = name
end

-- Moving averages of every gradient; under a joint schedule also what the sum was.
local function average(self, name)
  for i, p in ipairs(self.params) do
    local scope <close> = core.scope()
    local grad = p.tensor:grad()
    if grad then
      local e = self.ema[name][i]
      e:copy(e * EMA + own_gradient(self, i, grad) * (1 - EMA))
    end
  end
end

-- What the step is going to change; under a joint schedule, the sum so far.
local function keep_what_was(self)
  for i, p in ipairs(self.params) do
    local grad = self.joint and p.tensor:grad()
    if grad then
      self.before[i]:copy(grad)
    elseif self.joint then
      self.before[i]:fill(0)
    elseif self.left > 0 then
      self.before[i]:copy(p.tensor)
    end
  end
  if self.left == 0 then return end
  for _, key in ipairs(check.keys(self.bases)) do
    for i, p in ipairs(self.params) do
      local scope <close> = core.scope()
      local base = self.bases[key][i]
      if base then base:copy(self.optimizer:state(p.name, key .. ".base")) end
    end
  end
end

--- After an objective's gradient was added, before the step.
-- @tparam integer t the step, from 0
-- @tparam string name
function Diagnostics:gradient(t, name)
  local _ <close> = core.no_grad()
  local began = core.clock()
  if t ~= self.t then
    self.t, self.first, self.last, self.rows, self.seconds = t, true, nil, {}, 0.0
    if t % self.every == 0 and self.left == 0 then
      self.left = #self.objectives - 1
      if self.every > 1 or self.watched ~= t - 1 then self.from, self.near = nil, {} end
    end
  end
  average(self, name)
  if self.left > 0 and self.joint then watch_joint(self, name) end
  keep_what_was(self)
  self.first = false
  self.seconds = self.seconds + core.clock() - began
end

local function watch_step(self, name)
  self.watched, self.any = self.t, name
  count_near_zero(self, name)
  local previous, sums = self.previous, {}
  local paired = self.from ~= nil and self.from ~= name
  for i, p in ipairs(self.params) do
    local scope <close> = core.scope()
    local update, grad = p.tensor:to("f32") - self.before[i], p.tensor:grad()
    local layer = diagnostics.layer(p.name)
    if paired then
      add_pair(sums, layer, "update", previous.update[i], update)
      if grad then add_pair(sums, layer, "grad", previous.grad[i], grad) end
      add_ema(self, sums, i, self.from, name)
    end
    previous.update[i]:copy(update)
    if grad then previous.grad[i]:copy(grad) end
  end
  if paired then
    self.rows[1] = make_row(self, sums, self.from, name)
    self.left = self.left - 1
  end
  self.from = name
end

--- After the step.
-- @tparam ?string name of the objective; nil under a joint schedule
-- @treturn {table,...} rows of metrics, less label and step
function Diagnostics:after(name)
  if self.left == 0 then return {} end
  local _ <close> = core.no_grad()
  local began = core.clock()
  if self.joint then self.left = 0 else watch_step(self, name) end
  for _, row in ipairs(self.rows) do
    row.seconds = self.seconds + core.clock() - began
  end
  return self.rows
end

-- ---- checkpoints

--- What it remembers between steps, in a fixed order.
-- @treturn {{name=string,tensor=tensor},...}
function Diagnostics:tensors()
  local out = {}
  local function list(name, tensors)
    for i, p in ipairs(self.params) do
      out[#out + 1] = { name = ("%s.%s"):format(name, p.name), tensor = tensors[i] }
    end
  end
  for _, name in ipairs(self.objectives) do list("ema." .. name, self.ema[name]) end
  list("update", self.previous.update)
  list("grad", self.previous.grad)
  return out
end

--- The rest of it: plain data.
function Diagnostics:state()
  return { left = self.left, from = self.from, watched = self.watched, near = self.near }
end

--- Goes on where `tensors` and `state` were taken.
-- @tparam {[string]=tensor} tensors by name
-- @tparam table state
function Diagnostics:restore(tensors, state)
  for _, own in ipairs(self:tensors()) do
    if not tensors[own.name] then error(("diagnostics: no tensor '%s'"):format(own.name), 2) end
    own.tensor:copy(tensors[own.name])
  end
  self.left, self.from, self.watched = state.left, state.from, state.watched
  self.near = state.near or {}
end

return diagnostics
