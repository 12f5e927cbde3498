--- experiments/range.lua - variants over a range of one number: a curve, a table, the best of each.
--
-- A range reads the rows of a study whose labels hold a series and a number ("DO+, 0.001"): one series
-- for each method, one column for each value.
--
--     local r = range.of(study.run(p, run, variants), { x = "learning rate", log = true })
--     study.report(run, p, { r:part { title = "OVR", paper = "table1" } }, { ..., charts = { ... } })
-- @module dopl.experiments.range

local check = require "dopl.util.check"
local metrics = require "dopl.metrics"
local order = require "dopl.experiments.order"
local plot = require "dopl.report.plot"

local range = {}
local Range = {}
Range.__index = Range

local PERCENT <const> = 100

local OF <const> = check.fields("experiments.range.of", {
  x = { type = "string", required = true, "what the number is" },
  log = { default = false, "a logarithmic axis" },
  pattern = { default = "^(.-), (%S+)$", "a Lua pattern with two captures: series and number" },
})
local PART <const> = check.fields("range:part", {
  title = { type = "string", required = true, "title of the table" },
  paper = { type = "string", "a table of a paper" },
})

--- Reads a study.
-- @param study from dopl.experiments.study
-- @tparam table options
-- @treturn Range keys = the study's; names = the series, values = the numbers, in the order in which
-- they come
function range.of(study, options)
  local o = check.options(OF, options)
  local self = setmetatable({ study = study, keys = study.keys, x = o.x, log = o.log, names = {},
    values = {}, rows = {} }, Range)
  local seen = {}
  for _, row in ipairs(study.rows) do
    local name, value = row.label:match(o.pattern)
    value = tonumber(value)
    if not value then
      error(("range.of: the label '%s' does not have the form of '%s'"):format(row.label, o.pattern), 2)
    end
    if not self.rows[name] then
      self.names[#self.names + 1], self.rows[name] = name, {}
    end
    if not seen[value] then
      self.values[#self.values + 1], seen[value] = value, true
    end
    self.rows[name][value] = row
  end
  return self
end

-- Mean and half the 95% interval of a figure.
local function figure(self, row, key)
  local units = row and self.study:units(row.label, key)
  return units and { mean = metrics.mean(units), std = order.interval(units) }
end

--- A figure in percent against the number, one line for each series; shaded is its 95% interval.
-- @tparam string key of the figure
-- @tparam string title
-- @treturn string SVG
function Range:curves(key, title)
  local list = {}
  for i, name in ipairs(self.names) do
    local s = { name = name, x = {}, y = {}, low = {}, high = {} }
    for _, value in ipairs(self.values) do
      local f = figure(self, self.rows[name][value], key)
      if f then
        local half = f.std or 0
        s.x[#s.x + 1], s.y[#s.y + 1] = value, PERCENT * f.mean
        s.low[#s.low + 1], s.high[#s.high + 1] = PERCENT * (f.mean - half), PERCENT * (f.mean + half)
      end
    end
    list[i] = s
  end
  return plot.line { title = title, x = { label = self.x, log = self.log },
    y = { label = "%", min = 0, max = PERCENT }, series = list }
end

--- The value at which a series has its highest mean, and that mean's figure.
-- @tparam string name of a series
-- @tparam string key of the figure
-- @treturn number
-- @treturn table mean, std = half the 95% interval
function Range:best(name, key)
  local at, best
  for _, value in ipairs(self.values) do
    local f = figure(self, self.rows[name][value], key)
    if f and (not best or f.mean > best.mean) then at, best = value, f end
  end
  return at, best
end

-- Kendall's tau of the series' order at a value and in a paper's table.
local function tau_at(self, value, key, found, column)
  local ours, theirs = {}, {}
  for _, name in ipairs(self.names) do
    local f, reference = figure(self, self.rows[name][value], key), found.rows[name]
    if f and reference and reference[column] then
      ours[#ours + 1], theirs[#theirs + 1] = f.mean, reference[column]
    end
  end
  return #ours > 1 and order.tau(ours, theirs) or nil
end

--- A table of OVR by series and value, the best of each series, and how each value's order compares
-- with a paper's.
-- @tparam table options
-- @treturn table for `study.report`
function Range:part(options)
  local o = check.options(PART, options)
  local key, rows, columns, sentences = self.study.keys.OVR, {}, {}, {}
  for i, value in ipairs(self.values) do
    columns[i] = { key = ("%g"):format(value), digits = 1, scale = PERCENT, better = "higher" }
  end
  local best, low, high = {}, math.huge, -math.huge
  for i, name in ipairs(self.names) do
    rows[i] = { label = name }
    for _, value in ipairs(self.values) do
      rows[i][("%g"):format(value)] = figure(self, self.rows[name][value], key)
    end
    local at, f = self:best(name, key)
    best[i] = ("%s %.1f (%g)"):format(name, PERCENT * f.mean, at)
    low, high = math.min(low, f.mean), math.max(high, f.mean)
  end
  sentences[1] = ("With the best %s for each, the means of %s lie within %.1f points: %s. The choice "
    .. "used the forget sets reported here, which favours all of them equally."):format(self.x, key,
      PERCENT * (high - low), table.concat(best, ", "))
  local found = o.paper and self.study:paper_table(o.paper)
  if found then
    local list = {}
    for _, value in ipairs(self.values) do
      local tau = tau_at(self, value, key, found, "OVR")
      list[#list + 1] = tau and ("%+.2f at %g"):format(tau, value)
    end
    sentences[2] = ("Kendall's tau of the order with the paper's, at one %s for all: %s."):format(
      self.x, table.concat(list, ", "))
  end
  return { rows = rows, columns = columns, title = o.title .. ", ± half the 95% interval",
    short = o.title, sentences = sentences, parameters = self.study.parameters,
    charts = { { svg = self:curves(key, o.title), caption = "Shaded: the 95% interval over forget "
      .. "sets." } } }
end

return range
