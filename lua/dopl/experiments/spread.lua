--- experiments/spread.lua - the distance between the final weights of several training runs.
-- @module dopl.experiments.spread

local core = require "dopl.core"

local spread = {}

-- The squared distance of two snapshots.
local function distance2(a, b)
  local _ <close> = core.no_grad()
  local sum = 0
  for i = 1, #a do
    local scope <close> = core.scope()
    local d = a[i]:to("f32") - b[i]:to("f32")
    sum = sum + d:dot(d)
  end
  return sum
end

local function numel(snapshot)
  local n = 0
  for _, tensor in ipairs(snapshot) do n = n + tensor:numel() end
  return n
end

--- The standard deviation of a parameter over training runs: the root of the mean of all variances.
-- @tparam {{tensor,...},...} snapshots at least two, from `parameters:snapshot()`
-- @treturn number
function spread.of(snapshots)
  local sum, n = 0, #snapshots
  for i = 1, n do
    for j = i + 1, n do sum = sum + distance2(snapshots[i], snapshots[j]) end
  end
  return math.sqrt(sum / (n * (n - 1)) / numel(snapshots[1]))
end

--- The distance that a parameter moved: root mean square over parameters and training runs.
-- @tparam {{tensor,...},...} snapshots
-- @tparam {tensor,...} start where they began
-- @treturn number
function spread.moved(snapshots, start)
  local sum = 0
  for _, snapshot in ipairs(snapshots) do sum = sum + distance2(snapshot, start) end
  return math.sqrt(sum / #snapshots / numel(start))
end

return spread
