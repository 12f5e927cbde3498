--- schedule.lua - which objective a step serves, and how the learning rate moves.
--
-- A schedule answers, for step t (from 0), with the name of one objective, or with nil: all of them,
-- in one step on their weighted sum. Any Lua function of (t, live) is a schedule too, where live
-- holds the last losses and evaluation results; `schedule.of` gives it a name.
-- @module dopl.schedule

local check = require "dopl.check"

local schedule = {}
local Schedule = {}
Schedule.__index = Schedule
function Schedule:__tostring() return self.text end

--- Every step serves all objectives: one gradient of the weighted sum of the losses.
function schedule.joint()
  return setmetatable({ kind = "joint", text = "schedule.joint()", period = 1,
    at = function() return nil end }, Schedule)
end

local function check_counts(counts)
  local names = check.keys(counts)
  if #names == 0 then error("schedule.alternate: give at least one { objective = steps }", 3) end
  for _, name in ipairs(names) do
    local n = counts[name]
    if math.type(n) ~= "integer" or n < 1 then
      error(("schedule.alternate: %s = %s, needs an integer of at least 1")
        :format(name, tostring(n)), 3)
    end
  end
  return names
end

--- Objectives in turn, each for a number of steps. With { forget = F_f, retain = F_r }, step t
-- belongs to the forget objective where t mod (F_f + F_r) < F_f. (The paper prints a 1-based <=,
-- which would give F_f + 1 forget steps; this is what its authors' code does.)
-- @tparam table counts { objective = steps }
-- @tparam[opt] {string,...} order of the objectives; default: forget first, then by name
function schedule.alternate(counts, order)
  local names = check_counts(counts)
  if not order then
    order = {}
    if counts.forget then order[1] = "forget" end
    for _, name in ipairs(names) do
      if name ~= "forget" then order[#order + 1] = name end
    end
  end
  local turn, parts, seen = {}, {}, {}
  for _, name in ipairs(order) do
    if seen[name] then
      error(("schedule.alternate: '%s' is in the order twice"):format(name), 2)
    end
    seen[name] = true
    if not counts[name] then
      error(("schedule.alternate: '%s' is in the order but has no steps"):format(name), 2)
    end
    for _ = 1, counts[name] do turn[#turn + 1] = name end
    parts[#parts + 1] = ("%s = %d"):format(name, counts[name])
  end
  if #order ~= #names then error("schedule.alternate: the order leaves out an objective", 2) end
  return setmetatable({
    kind = "alternate", period = #turn, objectives = order, counts = counts,
    text = ("schedule.alternate { %s }"):format(table.concat(parts, ", ")),
    at = function(_, t) return turn[t % #turn + 1] end,
  }, Schedule)
end

--- A function as a schedule.
-- @tparam function at at(t, live) -> name of an objective, or nil for all of them
-- @tparam[opt] string text how it prints
function schedule.of(at, text)
  check.type("schedule.of", at, "function")
  return setmetatable({ kind = "function", text = text or "schedule.of(function)",
    at = function(_, t, live) return at(t, live) end }, Schedule)
end

--- A schedule from what a recipe gave: a schedule, or a function.
function schedule.from(value)
  if type(value) == "function" then return schedule.of(value) end
  if getmetatable(value) ~= Schedule then
    error(("schedule: a %s given; use schedule.alternate, schedule.joint or a function of the step")
      :format(type(value)), 3)
  end
  return value
end

--- How many of the first `steps` steps serve an objective; nil where only running can tell.
function Schedule:count(objective, steps)
  if self.kind == "joint" then return steps end
  if self.kind == "function" then return nil end
  local n = 0
  for t = 0, steps - 1 do
    if self:at(t) == objective then n = n + 1 end
  end
  return n
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
