--- train/schedule.lua - which objective a step serves, for how long, and how the learning rate moves.
--
-- A schedule answers, for step t (from 0), with the name of one objective, or with nil: all of them,
-- in one step on their weighted sum. Any Lua function of (t, live) is a schedule too, where live
-- holds the last losses and evaluation results; `schedule.of` gives it a name. A schedule prints
-- itself as it would be written.
--
-- A training run never changes a value: `train.fit` works with what `resolve` returns, which knows
-- how long the objectives' epochs are and, for `schedule.phases`, in which phase it is.
-- @module dopl.train.schedule

local check = require "dopl.util.check"
local core = require "dopl.core"
local rng = require "dopl.util.rng"

local schedule = {}
local Schedule = {}
Schedule.__index = Schedule
function Schedule:__tostring() return self.text end

local Passes = {}
Passes.__index = Passes
function Passes:__tostring() return self.text end

local function new(fields) return setmetatable(fields, Schedule) end

-- ---- values as they are written

local KEYWORDS <const> = " and break do else elseif end false for function goto if in local nil not "
  .. "or repeat return then true until while "

local function written_key(name)
  if name:match "^[%a_][%w_]*$" and not KEYWORDS:find(" " .. name .. " ", 1, true) then
    return name
  end
  return ("[%q]"):format(name)
end

local function written_number(x)
  local text = tostring(x)
  return tonumber(text) == x and text or ("%.17g"):format(x)
end

-- { a = 1, b = 2 } in the order of the names.
local function written_table(names, values)
  local parts = {}
  for i, name in ipairs(names) do
    parts[i] = ("%s = %s"):format(written_key(name), written_number(values[name]))
  end
  return #parts > 0 and "{ " .. table.concat(parts, ", ") .. " }" or "{}"
end

local function written_list(names)
  local parts = {}
  for i, name in ipairs(names) do parts[i] = ("%q"):format(name) end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

-- A call with one table reads best without parentheses.
local function written_call(name, first, second)
  if second == nil then return ("schedule.%s %s"):format(name, first) end
  return ("schedule.%s(%s, %s)"):format(name, first, second)
end

-- ---- tables by objective

local MOST_STEPS <const> = 1000000 -- of one objective on end

local function is_count(x) return math.type(x) == "integer" and x >= 1 end
local function is_turn(x) return is_count(x) and x <= MOST_STEPS end

-- The names of a table by objective: forget first, the others in order.
local function names_of(where, values, need, fits)
  local names = check.named(where, values, "objective = " .. need, 4)
  for i, name in ipairs(names) do
    if not fits(values[name]) then
      error(("%s: %s = %s, needs %s"):format(where, name, tostring(values[name]),
        need ~= "steps" and "a positive number" or is_count(values[name])
          and ("at most %d"):format(MOST_STEPS) or "an integer of at least 1"), 3)
    end
    if name == "forget" then table.insert(names, 1, table.remove(names, i)) end
  end
  return names
end

local function is_weight(x) return type(x) == "number" and x > 0 and x < math.huge end

-- ---- one objective, or all in one step

--- Every step serves all objectives: one gradient of the weighted sum of the losses.
-- @tparam[opt] table weights { objective = weight }, for every objective; they multiply the weights
-- the objectives have themselves
function schedule.joint(weights)
  if weights == nil then
    return new { kind = "joint", text = "schedule.joint()", period = 1,
      at = function() return nil end }
  end
  local names = names_of("schedule.joint", weights, "weight", is_weight)
  return new { kind = "joint", text = "schedule.joint " .. written_table(names, weights), period = 1,
    objectives = names, weights = weights, at = function() return nil end }
end

--- Every step serves one objective.
-- @tparam string name
function schedule.only(name)
  check.type("schedule.only", name, "string")
  return new { kind = "only", text = ("schedule.only %q"):format(name), period = 1,
    objectives = { name }, at = function() return name end }
end

-- ---- in turn

local function check_order(order, names, counts)
  local seen = {}
  check.list("schedule.alternate: order", order, 4)
  for _, name in ipairs(order) do
    check.type("schedule.alternate: order", name, "string", 4)
    if seen[name] then
      error(("schedule.alternate: '%s' is in the order twice"):format(name), 3)
    end
    seen[name] = true
    if not counts[name] then
      error(("schedule.alternate: '%s' is in the order but has no steps"):format(name), 3)
    end
  end
  if #order ~= #names then error("schedule.alternate: the order leaves out an objective", 3) end
end

--- Objectives in turn, each for a number of steps. With { forget = F_f, retain = F_r }, step t
-- belongs to the forget objective where t mod (F_f + F_r) < F_f. (The paper prints a 1-based <=,
-- which would give F_f + 1 forget steps; this is what its authors' code does.)
-- @tparam table counts { objective = steps }, any number of objectives
-- @tparam[opt] {string,...} order of the objectives; default: forget first, then by name
function schedule.alternate(counts, order)
  local names = names_of("schedule.alternate", counts, "steps", is_turn)
  if order ~= nil then check_order(order, names, counts) end
  local turn = {}
  for _, name in ipairs(order or names) do
    for _ = 1, counts[name] do turn[#turn + 1] = name end
  end
  return new {
    kind = "alternate", period = #turn, objectives = order or names, counts = counts,
    text = written_call("alternate", written_table(order or names, counts),
      order and written_list(order)),
    at = function(_, t) return turn[t % #turn + 1] end,
  }
end

-- ---- by chance

local function seed_of(where, seed)
  if seed == nil then return core.options and core.options.seed or 1 end
  return check.type(where .. ": seed", seed, "integer", 4)
end

-- Step t's objective is a function of seed and t alone: nothing to save, and no other draw moves it.
local function draw(names, weights, seed)
  local total = 0
  for _, name in ipairs(names) do total = total + weights[name] end
  return function(_, t)
    local x = rng.new(seed, ("schedule/%d"):format(t)):uniform() * total
    for i, name in ipairs(names) do
      x = x - weights[name]
      if x < 0 or i == #names then return name end
    end
  end
end

--- An objective by chance at each step, all alike.
-- @tparam {string,...} names
-- @tparam[opt] integer seed default: the run's
function schedule.random(names, seed)
  check.list("schedule.random", names)
  if #names == 0 then error("schedule.random: give at least one objective's name", 2) end
  local alike = {}
  for i, name in ipairs(names) do
    check.type(("schedule.random: objective %d"):format(i), name, "string")
    if alike[name] then error(("schedule.random: '%s' is there twice"):format(name), 2) end
    alike[name] = 1
  end
  return new { kind = "random", objectives = names,
    text = written_call("random", written_list(names), seed),
    at = draw(names, alike, seed_of("schedule.random", seed)) }
end

--- An objective by chance at each step, in proportion to shares or, where none are given, to how
-- many samples each objective has.
-- @tparam[opt] table shares { objective = share }
-- @tparam[opt] integer seed default: the run's
function schedule.proportional(shares, seed)
  local number = seed_of("schedule.proportional", seed)
  if shares ~= nil then
    local names = names_of("schedule.proportional", shares, "share", is_weight)
    return new { kind = "proportional", objectives = names, at = draw(names, shares, number),
      text = written_call("proportional", written_table(names, shares), seed) }
  end
  return new { kind = "proportional",
    text = ("schedule.proportional(%s)"):format(seed and "nil, " .. seed or ""),
    at = function() error("schedule.proportional: only train.fit knows how many samples there "
      .. "are; give shares", 2) end,
    resolve = function(self, sizes)
      return new { kind = self.kind, text = self.text, objectives = sizes.names,
        at = draw(sizes.names, sizes.samples, number) }
    end }
end

-- ---- functions

--- A function as a schedule.
-- @tparam function at at(t, live) -> name of an objective, or nil for all of them
-- @tparam[opt] string text how it prints
-- @tparam[opt] integer period steps after which it repeats, for schemes that act at a period's end
function schedule.of(at, text, period)
  check.type("schedule.of", at, "function")
  check.type("schedule.of: text", text or "", "string")
  if period ~= nil and not is_count(period) then
    error(("schedule.of: period = %s, needs an integer of at least 1"):format(tostring(period)), 2)
  end
  return new { kind = "function", text = text or "schedule.of(function)", by_running = true,
    period = period,
    at = function(_, t, live) return at(t, live) end }
end

--- A schedule from what a recipe gave: a schedule, or a function.
function schedule.from(value)
  for _, name in ipairs(check.keys(schedule)) do
    if value == schedule[name] then
      error(("schedule: schedule.%s itself is given; call it: schedule.%s { ... }"):format(name,
        name), 3)
    end
  end
  if type(value) == "function" then return schedule.of(value) end
  if getmetatable(value) ~= Schedule then
    error(("schedule: a %s given; use schedule.alternate, schedule.joint or a function of the step")
      :format(type(value)), 3)
  end
  return value
end

-- ---- lengths

--- A length in passes over an objective's data (epochs), for `steps` of train.fit and for phases. A
-- schedule with a period is taken to the end of it.
-- @tparam number n may be a fraction
-- @tparam[opt] string objective default: forget, or the first where there is none
function schedule.passes(n, objective)
  if not is_weight(n) then
    error(("schedule.passes: %s, needs a positive number"):format(tostring(n)), 2)
  end
  if objective ~= nil then check.type("schedule.passes: objective", objective, "string") end
  return setmetatable({ n = n, objective = objective, text = ("schedule.passes(%s%s)"):format(
    written_number(n), objective and (", %q"):format(objective) or "") }, Passes)
end

--- What lengths and shares depend on.
-- @tparam {table,...} objectives { name =, data = a loader }
-- @treturn table { names =, epochs = { [name] = steps }, samples = { [name] = number } }
function schedule.sizes(objectives)
  local sizes = { names = {}, epochs = {}, samples = {} }
  for i, o in ipairs(objectives) do
    sizes.names[i] = o.name
    sizes.epochs[o.name] = o.data:steps_per_epoch()
    sizes.samples[o.name] = o.data.samples and #o.data.samples or 1
  end
  return sizes
end

local function includes(list, name)
  for _, each in ipairs(list) do
    if each == name then return true end
  end
  return false
end

local MOST_LENGTH <const> = 10000000 -- steps: what a length can mean, who counts them gets to an end
local PATIENCE <const> = 1000000 -- steps without the objective: it will not come

--- A length in steps.
-- @tparam integer|Passes length
-- @tparam table sizes from schedule.sizes
-- @tparam[opt="length"] string what for messages
function Schedule:length(length, sizes, what)
  what = what or "length"
  if getmetatable(length) ~= Passes then
    if math.type(length) == "integer" and length >= 0 then
      if length <= MOST_LENGTH then return length end
      error(("%s = %d, needs at most %d; `stop` ends a training run before"):format(what, length,
        MOST_LENGTH), 3)
    end
    error(("%s = %s, needs an integer of at least 0 or schedule.passes(n)"):format(what,
      tostring(length)), 3)
  end
  local served = self.objectives or sizes.names
  local name = length.objective or includes(served, "forget") and "forget" or served[1]
  if not includes(served, name) or not sizes.epochs[name] then
    check.choice(("%s = %s: objective"):format(what, length.text), name, served, 4)
  end
  local left = math.ceil(length.n * sizes.epochs[name])
  if left > MOST_LENGTH then
    error(("%s = %s: %.0f steps of '%s', more than any training has"):format(what, length.text,
      left, name), 3)
  end
  if self.kind == "joint" then return left end
  if self.by_running then
    error(("%s = %s: how often %s serves '%s' shows only in running; give steps"):format(what,
      length.text, self.text, name), 3)
  end
  local plan, t, last = self:resolve(sizes), 0, 0
  while left > 0 do
    if plan:at(t) == name then left, last = left - 1, t end
    t = t + 1
    if t - last > PATIENCE then
      error(("%s = %s: %s serves '%s' too seldom"):format(what, length.text, self.text, name), 3)
    end
  end
  local period = self.period or 1
  return (t + period - 1) // period * period
end

-- ---- phases

local compare = {
  ["<"] = function(a, b) return a < b end, ["<="] = function(a, b) return a <= b end,
  [">"] = function(a, b) return a > b end, [">="] = function(a, b) return a >= b end,
}

-- The value of a live metric, or nil while it is not known since step `began`.
local function metric(live, name, began)
  local objective = name:match "^loss_(.+)$"
  if objective and live.losses and live.losses[objective] then return live.losses[objective] end
  if name == "grad_norm" then return live.grad_norm end
  if not live.result or (live.evaluated or math.huge) <= began then return nil end
  local value = live.result[name]
  if type(value) ~= "number" then
    error(("schedule.phases: the evaluation gave no number '%s' (it has %s)"):format(name,
      table.concat(check.keys(live.result), ", ")), 0)
  end
  return value
end

-- "P < 0.1" or a function, as function(live, t, began).
local function condition(where, given, level)
  if type(given) == "function" then
    return function(live, t) return given(live, t) end, false
  end
  check.type(where, given, "string|function", level + 1)
  local name, sign, text = given:match "^%s*(.-)%s*([<>]=?)%s*([^<>=%s]+)%s*$"
  local limit = tonumber(text)
  if not limit or name == "" then
    error(("%s: '%s', needs 'metric < number' or 'metric > number'"):format(where, given), level)
  end
  local loss_of = name:match "^loss_(.+)$"
  return function(live, _, began)
    local value = metric(live, name, began)
    return value ~= nil and compare[sign](value, limit)
  end, name ~= "grad_norm" and not loss_of, loss_of
end

local phase_fields = {
  serve = check.required, steps = check.optional, passes = check.optional, ends = check.optional,
}

local function read_phase(i, given, n)
  local where = ("schedule.phases: phase %d"):format(i)
  local p = check.options(where, given, phase_fields, 5)
  local text = type(p.serve) == "string" and ("serve = %q"):format(p.serve)
  if not text and type(p.serve) ~= "function" and getmetatable(p.serve) ~= Schedule then
    error(("%s: serve is a %s, needs an objective's name or a schedule"):format(where,
      type(p.serve)), 4)
  end
  p.plan = text and schedule.only(p.serve) or schedule.from(p.serve)
  if p.plan.kind == "joint" then
    error(where .. ": a step of all objectives at once is no phase; states are kept by objective", 4)
  end
  local parts = { text or "serve = " .. p.plan.text }
  if p.steps then
    if not is_count(p.steps) then
      error(("%s: steps = %s, needs an integer of at least 1"):format(where, tostring(p.steps)), 4)
    end
    parts[#parts + 1] = ("steps = %d"):format(p.steps)
  end
  if p.passes then
    parts[#parts + 1] = "passes = " .. (type(p.passes) == "number" and written_number(p.passes)
      or tostring(p.passes))
    if getmetatable(p.passes) ~= Passes then
      if not is_weight(p.passes) then
        error(("%s: passes = %s, needs a positive number"):format(where, tostring(p.passes)), 4)
      end
      p.passes = schedule.passes(p.passes)
    end
  end
  if p.ends then
    parts[#parts + 1] = "ends = " .. (type(p.ends) == "string" and ("%q"):format(p.ends)
      or "function")
    p.ended, p.needs_result, p.loss_of = condition(where .. ": ends", p.ends, 5)
  end
  if (#parts == 1) ~= (i == n) then
    error(where .. (i == n and ": the last one lasts until the training ends: no steps, passes, ends"
      or ": when is it over? give steps, passes or ends"), 4)
  end
  p.text = "{ " .. table.concat(parts, ", ") .. " }"
  return p
end

local function phase_over(p, t, live, began)
  if p.passes then
    error("schedule.phases: how long a pass is only train.fit knows (schedule:resolve)", 0)
  end
  if t == began then return false end
  if p.steps and t - began >= p.steps then return true end
  return p.ended ~= nil and (p.ended(live or {}, t, began) or false) and true
end

local function phases_at(self, t, live)
  while self.phase < #self.phases and phase_over(self.phases[self.phase], t, live, self.began) do
    self.phase, self.began = self.phase + 1, t
  end
  return self.phases[self.phase].plan:at(t - self.began, live)
end

-- A copy in its first phase, passes turned into steps.
local function phases_resolve(self, sizes)
  local copy = {}
  for key, value in pairs(self) do copy[key] = value end -- a copy: the order changes nothing
  copy.phases, copy.phase, copy.began = {}, 1, 0
  for i, p in ipairs(self.phases) do
    if sizes and p.loss_of then
      check.choice(("schedule.phases: phase %d: ends: loss of"):format(i), p.loss_of, sizes.names, 4)
    end
    local steps = p.passes and p.plan:length(p.passes, sizes, "schedule.phases: passes")
    copy.phases[i] = { plan = p.plan:resolve(sizes), ended = p.ended,
      steps = steps and math.min(steps, p.steps or steps) or p.steps }
  end
  return new(copy)
end

--- One schedule after another.
--
--     schedule.phases {                          -- forget until P < 0.1, then retain only
--       { serve = "forget", ends = "P < 0.1" },
--       { serve = "retain" },
--     }
--
-- @tparam {table,...} list of { serve = an objective's name or a schedule, and when it is over,
-- whichever comes first: steps = n; passes = n (or schedule.passes(n, objective)); ends = a condition
-- on a number of the last evaluation, on "loss_<objective>" or "grad_norm", or function(live, t) }.
-- The last one has no end. An evaluation from before the phase does not end it.
function schedule.phases(list)
  check.list("schedule.phases", list)
  if #list == 0 then error("schedule.phases: give at least one phase", 2) end
  local phases, texts, names, seen = {}, {}, {}, {}
  local by_running, needs_result = false, false
  for i, given in ipairs(list) do
    local p = read_phase(i, given, #list)
    phases[i], texts[i] = p, p.text
    by_running = by_running or p.ended ~= nil or p.plan.by_running == true
    needs_result = needs_result or p.needs_result == true or p.plan.needs_result == true
    for _, name in ipairs(p.plan.objectives or {}) do
      if not seen[name] then names[#names + 1], seen[name] = name, true end
    end
  end
  return new { kind = "phases", phases = phases, objectives = names, phase = 1, began = 0,
    by_running = by_running, needs_result = needs_result, at = phases_at, resolve = phases_resolve,
    text = ("schedule.phases { %s }"):format(table.concat(texts, ", ")) }
end

-- ---- what every schedule can tell

--- The schedule for objectives of known sizes, as a training run uses it.
-- @tparam table _ from schedule.sizes
function Schedule:resolve(_) return self end

--- The weight of an objective in a joint step.
function Schedule:weight(name) return self.weights and self.weights[name] or 1.0 end

--- How many of the first `steps` steps serve an objective; nil where only running can tell.
function Schedule:count(objective, steps)
  if self.kind == "joint" then return steps end
  if self.by_running then return nil end
  local plan, n = self.phases and phases_resolve(self) or self, 0 -- asking moves no phase
  for t = 0, steps - 1 do
    if plan:at(t) == objective then n = n + 1 end
  end
  return n
end

--- Where a schedule stands beyond the step, for a checkpoint; plain data.
function Schedule:state()
  if not self.phases then return {} end
  return { phase = self.phase, began = self.began,
    inner = self.phases[self.phase].plan:state() }
end

--- Goes on where `state` was taken.
function Schedule:restore(state)
  if not self.phases then return end
  check.range("schedule: phase", state.phase, 1, #self.phases)
  self.phase, self.began = state.phase, state.began
  self.phases[self.phase].plan:restore(state.inner or {})
end

--- The factor of the learning rate at step t (from 0): linear warm-up over the first `warmup` steps,
-- then linear decay to 0 after the last.
-- @tparam integer t
-- @tparam integer steps
-- @tparam integer warmup
-- @tparam[opt="linear"] string decay "linear" or "none"
function schedule.rate(t, steps, warmup, decay)
  if t < warmup then return (t + 1) / warmup end
  if decay == "none" then return 1 end
  return math.max(0, (steps - t) / math.max(1, steps - warmup))
end

return schedule
