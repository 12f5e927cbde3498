--- report/init.lua - the results of a recipe: a table on the terminal, a page in the run's folder.
-- @module dopl.report
local check = require("dopl.util.check")
local grid = require("dopl.report.grid")
local measuring = require("dopl.util.measuring")
local page = require("dopl.report.page")
local plot = require("dopl.report.plot")

local report = {}

--- Rows of results as aligned text.
-- @tparam table rows { label = "DO+", UFE = 67.2 | { mean =, std = }, ..., reference = true where
-- a row stands for comparison only }
-- @tparam[opt] table options as for `report.table`
-- @treturn string ends in a newline
function report.text(rows, options)
  return grid.text(grid.lay_out(rows, options))
end

--- Prints rows of results as an aligned table.
-- @tparam table rows as for `report.text`
-- @tparam[opt] table options
-- @usage report.table(rows, { columns = { "UFE", { key = "MU", digits = 1, better = "higher" } } })
function report.table(rows, options)
  if measuring.recorder() then return end -- its figures are of a part
  local text = grid.text(grid.lay_out(rows, options))
  print((text:gsub("\n$", "")))
end

-- Whether values are all positive and lie more than two decades apart.
local function spans_decades(series)
  local low, high = math.huge, 0
  for _, s in ipairs(series) do
    for _, y in ipairs(s.y) do
      if y <= 0 then return false end
      if y < math.huge then low, high = math.min(low, y), math.max(high, y) end
    end
  end
  return high > 100 * low
end

local CURVES <const> = check.fields("report.curves", {
  x = { default = "step", "the field along the bottom" },
  fields = { of = "string", required = true, "the fields to draw" },
  title = { type = "string", "the chart's title" },
  y = { type = "table", default = {},
    "the axis, as for report.plot.line; logarithmic over two decades unless log = false" },
  by = { type = "string", "a field whose values make a series each" },
})
local BARS <const> = check.fields("report.bars", {
  columns = { of = "string", required = true, "keys of the rows, a bar each" },
  title = { type = "string", "the chart's title" },
  y = { type = "table", default = {}, "the axis, as for report.plot.bars" },
})

--- Curves of a run, from the rows it logged.
-- @tparam table metrics rows of metrics.jsonl, or any tables with the same fields
-- @tparam table options
-- @treturn string SVG
-- @usage report.curves(rows, { fields = { "loss_forget", "loss_retain" } })
function report.curves(metrics, options)
  options = check.options(CURVES, options)
  local series, index = {}, {}
  for _, field in ipairs(options.fields) do
    for _, row in ipairs(metrics) do
      if type(row[field]) == "number" and type(row[options.x]) == "number" then
        local name = field
        if options.by then
          name = tostring(row[options.by]) .. (#options.fields > 1 and " " .. field or "")
        end
        local s = index[name]
        if not s then
          s = { name = name, x = {}, y = {} }
          series[#series + 1], index[name] = s, s
        end
        s.x[#s.x + 1], s.y[#s.y + 1] = row[options.x], row[field]
      end
    end
  end
  local y = { log = spans_decades(series) }
  for key, value in pairs(options.y) do y[key] = value end
  return plot.line { title = options.title, x = { label = options.x }, y = y, series = series }
end

--- Result rows as grouped bars: one group per row, one bar per column, with spreads.
-- @tparam table rows as for `report.text`
-- @tparam table options
-- @treturn string SVG
function report.bars(rows, options)
  options = check.options(BARS, options)
  local groups, series = {}, {}
  for r, row in ipairs(rows) do groups[r] = tostring(row.label or r) end
  for i, key in ipairs(options.columns) do
    local values, errors = {}, {}
    for r, row in ipairs(rows) do
      local cell = row[key]
      values[r] = type(cell) == "table" and cell.mean or cell
      errors[r] = type(cell) == "table" and cell.std or 0
    end
    series[i] = { name = key, values = values, errors = errors }
  end
  return plot.bars { title = options.title, y = options.y, groups = groups, series = series }
end

--- The report as one self-contained page.
-- @tparam table options
-- @treturn string HTML
function report.html(options)
  return page(options)
end

-- A chart's file name: its title in plain letters, its number where it has none.
local function chart_name(svg, i)
  local title = svg:match('class="dp%-title"[^>]*>([^<]*)<') or ""
  title = title:gsub("&%w+;", ""):lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", "")
  return ("charts/%02d%s.svg"):format(i, title ~= "" and "-" .. title or "")
end

--- Writes report.html into a run's folder, and each chart as a separate SVG file. What the run
-- knows (versions, seed, threads, when it began) is added. While a recipe is measured for a plan,
-- nothing is written.
-- @tparam Run run from `dopl.run.open`
-- @tparam table options as for `report.html`
-- @treturn string the page's path
function report.write(run, options)
  if measuring.recorder() then return "" end
  check.has("report.write: run", run, "about", "one of dopl.run.open")
  check.type("report.write: options", options, "table")
  local about, full = run.about, {}
  for key, value in pairs(options) do full[key] = value end
  full.title = full.title or about.name
  full.versions = full.versions or about.versions
  if not full.facts then
    full.facts = { { "started", (about.started:gsub("T", " "):gsub("Z", " UTC")) },
      { "took", ("%.0f s"):format(run:seconds()) } }
    for _, key in ipairs { "seed", "device", "threads" } do
      if about[key] ~= nil then full.facts[#full.facts + 1] = { key, about[key] } end
    end
  end
  local html = page(full)
  for i, chart in ipairs(full.charts or {}) do
    local svg = type(chart) == "table" and chart.svg or chart
    run:write(chart_name(svg, i), svg)
  end
  return run:write("report.html", html)
end

return report
