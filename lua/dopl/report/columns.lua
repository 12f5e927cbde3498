--- report/columns.lua - the columns of tables of methods, in percent, as the papers print them.
-- @module dopl.report.columns

local metrics = require "dopl.metrics"

local columns = {}

local PERCENT <const> = 100

--- A column of a figure in 0..1, larger is better.
-- @tparam string key of the rows
-- @tparam string label
-- @tparam[opt] string paper the figure's name in a paper's table
function columns.percent(key, label, paper)
  return { key = key, label = label, digits = 1, scale = PERCENT, better = "higher", paper = paper }
end

--- How often a model refuses, on the forget set and on the retain set.
columns.refused = { key = "forget_refused", label = "refuses: forget", digits = 0, scale = PERCENT,
  better = "higher" }
columns.retain_refused = { key = "retain_refused", label = "retain", digits = 0, scale = PERCENT,
  better = "lower" }

--- The aggregates.
-- @tparam table keys their names: those of a bench, a study or a row
function columns.aggregates(keys)
  local out = {}
  for _, name in ipairs { "UFE", "TFE", "MU", "OVR" } do
    if keys[name] then out[#out + 1] = columns.percent(keys[name], keys[name], name) end
  end
  return out
end

--- The columns of a table of methods.
-- @tparam table keys names of the aggregates
-- @treturn {table,...} aggregates first
function columns.of(keys)
  local out = columns.aggregates(keys)
  for _, column in ipairs { columns.refused, columns.retain_refused,
    columns.percent("retain_R", "R retain") } do
    out[#out + 1] = column
  end
  return out
end

--- Those of data that have all that the metrics need.
columns.standard = columns.of(metrics.keys)

return columns
