--- train/measure.lua - train.fit while a recipe is measured: a few real steps, for memory and time.
--
-- The first step of each objective takes the batch with the largest micro-batch, to measure the peak.
-- Later steps take batches in their order, to measure the time. Nothing is evaluated on the way and
-- nothing is written. The recorder gets the figures of the whole training, extrapolated.
-- @module dopl.train.measure

local check = require "dopl.util.check"
local core = require "dopl.core"
local diagnostics = require "dopl.train.diagnostics"
local measuring = require "dopl.util.measuring"
local reference = require "dopl.train.reference"
local schedule = require "dopl.train.schedule"
local settings = require "dopl.train.settings"

local measure = {}

local SERVED <const> = 2      -- measured steps of each objective
local MOST_STEPS <const> = 40 -- measured, where an objective is rarely served
local SEARCHED <const> = 200  -- batches among which the largest is looked for

-- ---- batches

-- Where the loader stands before its batch with the largest micro-batch, that one's cost, and the
-- mean cost of a batch.
local function survey(loader, task, micro)
  local start, at, most, sum = loader:state(), nil, -1, 0
  local n = math.min(SEARCHED, loader:steps_per_epoch())
  for _ = 1, n do
    local before = loader:state()
    local _, costs = loader:next():split { max = micro, cost = task.cost }
    for _, cost in ipairs(costs) do
      sum = sum + cost
      if cost > most then at, most = before, cost end
    end
  end
  loader:restore(start)
  return { at = at, largest = most, mean = sum / n }
end

-- A loader whose first batch is the largest.
local function largest_first(loader, at)
  local calls, self = 0, {}
  function self.next()
    calls = calls + 1
    if calls > 1 then return loader:next() end
    local now = loader:state()
    loader:restore(at)
    local chosen = loader:next()
    loader:restore(now)
    return chosen
  end
  function self.state() return { loader = loader:state(), calls = calls } end
  function self.restore(_, s)
    loader:restore(s.loader)
    calls = s.calls
  end
  return setmetatable(self, { __index = loader })
end

-- ---- steps

-- How many steps to measure.
local function steps_to_measure(plan, names, steps)
  if plan.kind == "joint" then return math.min(steps, SERVED + 1) end
  if plan.by_running then return math.min(steps, 3 * SERVED) end
  local left, served = {}, plan.objectives or names
  for _, name in ipairs(served) do left[name] = SERVED end
  local n = 0
  for t = 0, math.min(steps, MOST_STEPS) - 1 do
    local name, waiting = plan:at(t), false
    left[name] = left[name] and left[name] - 1
    n = t + 1
    for _, each in ipairs(served) do waiting = waiting or left[each] > 0 end
    if not waiting then break end
  end
  return n
end

-- Steps of each objective in the whole training; all of each where the schedule is joint. What only
-- running can tell is taken to be shared alike.
local function counts_of(plan, names, steps)
  local counts = {}
  for _, name in ipairs(names) do counts[name] = plan:count(name, steps) or steps / #names end
  return counts
end

-- The same without the steps that a fork's parent took.
local function counts_left(plan, names, steps, done)
  local counts, before = counts_of(plan, names, steps), counts_of(plan, names, done)
  for _, name in ipairs(names) do counts[name] = counts[name] - before[name] end
  return counts
end

local OMITTED <const> = { "evaluate", "every", "stop", "keep_best", "checkpoint", "from", "run" }

-- The options of the measured steps: no evaluation, no files; the data in another order.
local function measured_options(m)
  local o, given = {}, m.given
  for key, value in pairs(given) do o[key] = value end -- a copy: the order changes nothing
  for _, key in ipairs(OMITTED) do o[key] = nil end
  o.steps, o.progress, o.objectives = steps_to_measure(m.plan, m.names, m.steps), false, {}
  -- the schedule was asked to wait for evaluations; here it stays in its first phase
  if m.plan.needs_result then o.evaluate, o.every = function() return {} end, m.steps + 1 end
  for i, objective in ipairs(given.objectives) do
    local copy = {}
    for key, value in pairs(objective) do copy[key] = value end
    copy.data = largest_first(objective.data, m.surveys[i].at)
    o.objectives[i] = copy
    if objective.loss.needs.reference and not o.reference then
      o.reference = reference.new(o.model, m.task)
    end
  end
  return o
end

-- Seconds of a step by objective: the mean of all but the first, which warms up.
local function stopwatch(o)
  local clock, first, times = core.clock(), {}, {}
  o.on_step = function(live)
    local name, now = live.objective or "joint", core.clock()
    local seconds = now - clock
    if first[name] then
      times[name] = times[name] or { 0, 0 }
      times[name][1], times[name][2] = times[name][1] + seconds, times[name][2] + 1
    end
    first[name] = first[name] or seconds
    clock = core.clock()
  end
  return function(name)
    local sum = times[name]
    return sum and sum[1] / sum[2] or first[name]
  end
end

-- ---- figures

local function bytes_of(parameters)
  local sum = 0
  for _, p in ipairs(parameters) do sum = sum + p.tensor:bytes() end
  return sum
end

-- Bytes of each state by its name, masters of bf16 parameters and scratch of matrix steps among
-- them, and what 8-bit storage would take off.
local function states_of(optimizer)
  local scratch = optimizer:state_bytes().scratch
  local bytes, total, saved = { scratch = scratch }, scratch, 0
  for _, p in ipairs(optimizer.params) do
    for _, key in ipairs(check.keys(p.state)) do
      local s = p.state[key]
      local n = s.value:bytes() + (s.scales and s.scales:bytes() or 0)
      bytes[key], total = (bytes[key] or 0) + n, total + n
      if s.part ~= "master" and p.quantized and not s.scales then
        saved = saved + n - p.n - p.n // 64
      end
    end
  end
  return bytes, total, saved
end

-- What the reference will hold beyond what the measured steps made it hold.
local function reference_to_come(m, o)
  local total = 0
  for _, objective in ipairs(m.given.objectives) do
    local kind = objective.loss.needs.reference
    local bytes = kind and m.task.references[kind].bytes
    if bytes then
      local data = objective.data
      local share = math.min(1, m.counts[objective.name] / data:steps_per_epoch())
      total = total + share * bytes(o.model, data.samples)
    end
  end
  if total == 0 then return 0 end
  local now, kept = o.reference:bytes()
  return math.max(0, total + kept - now)
end

-- The largest cost of a forward pass.
local function largest_of(m, o)
  local largest, together = 0, 0
  for _, each in ipairs(m.surveys) do
    largest, together = math.max(largest, each.largest), together + each.largest
  end
  if m.plan.kind == "joint" and m.task.shares_passes(o.model) then
    largest = math.max(largest, math.min(together, m.micro))
  end
  return largest
end

-- Memory of the training, by kind. `before`: what was there; `more`: what the reference will add.
local function measure_memory(m, o, result, before, more)
  local parameters = o.model.parameters
  local fit = { label = m.given.label or settings.defaults.label, micro = m.micro,
    unit = m.task.unit, config = o.model.config or {}, largest = largest_of(m, o),
    parameters = bytes_of(parameters), reference = more, scheme = result.optimizer.scheme.kind }
  fit.peak = measuring.memory().peak + more
  fit.gradients = core.memory((core.device())).at_peak.gradients -- backward makes them one by one
  m.recorder:note_peak(more)
  fit.states, fit.state_bytes, fit.quantizable = states_of(result.optimizer)
  fit.held = before - fit.parameters
  fit.best = m.given.keep_best and fit.parameters or 0
  fit.diagnostics = m.given.diagnostics and diagnostics.bytes(parameters:trained(), #m.names,
    fit.scheme == "base_delta") or 0
  local rest = fit.peak - before - more - fit.gradients - fit.state_bytes - fit.best - fit.diagnostics
  fit.logits = math.max(0, math.min(rest, m.task.scratch(o.model, fit.largest)))
  fit.activations = math.max(0, rest - fit.logits)
  return fit
end

-- Tokens and seconds of the whole training.
local function extrapolate(m, fit, seconds_of)
  fit.steps, fit.tokens, fit.seconds = m.steps - m.done, 0, 0
  local joint = m.plan.kind == "joint"
  for i, name in ipairs(m.names) do
    fit.tokens = fit.tokens + m.counts[name] * m.surveys[i].mean
    if not joint then fit.seconds = fit.seconds + m.counts[name] * (seconds_of(name) or 0) end
  end
  if joint then fit.seconds = fit.steps * (seconds_of "joint" or 0) end
end

-- ---- one training

-- What is known before a step is taken.
local function prepare(recorder, given)
  local m = { recorder = recorder, given = given, surveys = {},
    task = given.task or settings.defaults.task,
    micro = given.micro_tokens or settings.defaults.micro_tokens }
  local sizes = schedule.sizes(given.objectives)
  local plan = schedule.from(given.schedule or schedule.joint())
  m.names, m.steps = sizes.names, plan:length(given.steps, sizes, "train.fit: steps")
  m.plan = plan:resolve(sizes)
  m.done = given.from and math.min(given.from.step, m.steps) or 0
  m.counts = counts_left(m.plan, m.names, m.steps, m.done)
  for i, objective in ipairs(given.objectives) do
    m.surveys[i] = survey(objective.data, m.task, m.micro)
  end
  return m
end

-- The last evaluation of the training, made; the others add their time.
local function evaluate(m)
  local given = m.given
  if not given.evaluate then return nil end
  local clock = core.clock()
  local result = given.evaluate(given.model, m.steps)
  local times = given.every and m.steps // given.every or 0
  m.recorder:add_seconds(times * (core.clock() - clock))
  return result
end

--- Stands for a training run.
-- @tparam Recorder recorder
-- @tparam table given options of train.fit
-- @tparam function run trains
-- @treturn table as train.fit returns
function measure.fit(recorder, given, run)
  if type(given) ~= "table" or type(given.objectives) ~= "table" or #given.objectives == 0
    or given.steps == nil or given.model == nil then
    return run(given) -- which says what is wrong
  end
  local m = prepare(recorder, given)
  local o = measured_options(m)
  local seconds_of = stopwatch(o)
  collectgarbage()
  recorder:note_peak()
  local before = measuring.memory().live
  local best <const> = given.keep_best and o.model.parameters:snapshot() -- it counts in the peak
  local result = run(o)
  local fit = measure_memory(m, o, result, before, reference_to_come(m, o))
  extrapolate(m, fit, seconds_of)
  recorder:add_fit(fit)
  local evaluated = evaluate(m)
  return { steps = m.steps, losses = result.losses, stopped = false, tokens = fit.tokens,
    result = evaluated, best_step = best and m.steps or nil, optimizer = result.optimizer,
    seconds = fit.seconds }
end

return measure
