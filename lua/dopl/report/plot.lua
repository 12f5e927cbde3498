--- report/plot.lua - charts as SVG: lines and grouped bars.
-- A chart is one self-contained string for a file or a page. Readers with any colour vision can
-- distinguish its colours, which follow the light or dark setting.
-- @module dopl.report.plot
local check = require("dopl.util.check")

local plot = {}

-- Okabe and Ito's palette, ordered by contrast; the second row is for dark backgrounds.
local LIGHT = { "#0072b2", "#d55e00", "#009e73", "#b8528f", "#8a6d00", "#3a9bd1", "#6b6b6b" }
local DARK = { "#5fb4ec", "#ff8f4d", "#33c79c", "#e59cc7", "#e8c547", "#9ad4f5", "#b0b0b0" }
local DASHES = { "", "6 4", "2 3", "9 3 2 3" } -- once the colours are used up
local FONT = 13
local GLYPH <const>, DIGIT <const> = 0.56 * FONT, 0.64 * FONT -- mean widths of characters
local WIDER <const>, NARROWER <const> = 0.25, 0.4 -- capitals and their like; i, l, points and spaces

--- Escapes text for HTML or SVG, in elements and quoted attributes. Control characters, which are not
-- allowed in either, become spaces.
function plot.escape(text)
  return (tostring(text):gsub("[%c\127]", function(c)
    return (c == "\n" or c == "\t") and c or " "
  end):gsub("[&<>\"']", {
    ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;",
  }))
end
local escape = plot.escape

local function colours(list)
  local out = {}
  for i, colour in ipairs(list) do out[i] = ("--c%d:%s"):format(i, colour) end
  return table.concat(out, ";")
end

--- The style every chart carries. Class names begin with "dp-", so that charts share a page.
plot.style = ([[
.dp{%s;--ink:#24292f;--soft:#667079;--grid:#e3e6e9;
font:%dpx system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color-scheme:light dark;
max-width:100%%;height:auto}
@media(prefers-color-scheme:dark){.dp{%s;--ink:#e6e8ea;--soft:#9aa4ad;--grid:#2f363d}}
.dp text{fill:var(--soft)}.dp .dp-name{fill:var(--ink)}
.dp .dp-title{fill:var(--ink);font-weight:600;font-size:15px}
.dp .dp-grid{stroke:var(--grid)}.dp .dp-axis{stroke:var(--soft)}
.dp .dp-line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.dp .dp-error{stroke:var(--ink);stroke-width:1.5;opacity:.75}]]):format(
  colours(LIGHT), FONT, colours(DARK))

local function colour(i) return ("var(--c%d)"):format((i - 1) % #LIGHT + 1) end
local function dash(i)
  local pattern = DASHES[(i - 1) // #LIGHT % #DASHES + 1]
  return pattern ~= "" and (' stroke-dasharray="%s"'):format(pattern) or ""
end

local function finite(x) return type(x) == "number" and x == x and math.abs(x) < math.huge end

-- Grows `range` to hold x.
local function include(range, x)
  if not finite(x) then return end
  range.low = math.min(range.low or x, x)
  range.high = math.max(range.high or x, x)
end

-- About `n` round numbers across the range; the range is widened to a bit more than the data where
-- all of it is one value.
local function linear_ticks(low, high, n, whole)
  if high - low < 1e-12 * math.max(math.abs(low), math.abs(high), 1e-300) then
    local pad = low == 0 and 1 or math.abs(low) * 0.1
    low, high = low - pad, high + pad
  end
  local raw = (high - low) / n
  local power = 10.0 ^ math.floor(math.log(raw, 10))
  local step = power * 10
  for _, k in ipairs { 1, 2, 5 } do
    if raw <= k * power * 1.0001 then step = k * power break end
  end
  if whole then step = math.max(step, 1) end
  local ticks = {}
  for i = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do
    ticks[#ticks + 1] = i * step
  end
  return ticks, step, low, high
end

local function log_ticks(low, high)
  local first, last = math.floor(math.log(low, 10) + 1e-9), math.ceil(math.log(high, 10) - 1e-9)
  if last - first <= 2 then -- 1, 2, 5, from the last one below the data to the first one above it
    local steps, from, to = {}, 1, nil
    for i = 0, 3 * (last - first) + 3 do
      steps[#steps + 1] = ({ 1, 2, 5 })[i % 3 + 1] * 10.0 ^ (first + i // 3)
      if steps[#steps] <= low * (1 + 1e-9) then from = #steps end
      if not to and #steps > from and steps[#steps] >= high * (1 - 1e-9) then to = #steps end
    end
    return table.move(steps, from, to, 1, {}), steps[from], steps[to]
  end
  local stride = math.max(1, (last - first) // 5)
  local ticks = {}
  for i = first, last, stride do ticks[#ticks + 1] = 10.0 ^ i end
  return ticks, 10.0 ^ first, 10.0 ^ last
end

-- A tick as text, with as many decimals as its step needs.
local function tick_text(x, step)
  if x == 0 then return "0" end
  local size = math.abs(x)
  if size >= 1e6 or size < 1e-4 then
    return (("%.3g"):format(x):gsub("e([+-])0*", function(s) return s == "-" and "e-" or "e" end))
  end
  local decimals = math.max(0, -math.floor(math.log(step, 10) + 1e-9))
  return ("%." .. math.min(decimals, 6) .. "f"):format(x)
end

-- An axis over `range`: where a value lies between 0 and 1, and its ticks with their text.
local function make_axis(range, options, n_ticks, tight)
  local low, high = options.min or range.low or 0, options.max or range.high or 1
  local axis = { ticks = {} }
  if options.log and low > 0 then
    local ticks, bottom, top = log_ticks(low, high)
    for i, x in ipairs(ticks) do axis.ticks[i] = { at = x, text = tick_text(x, x) } end
    local a, b = math.log(bottom), math.log(top)
    function axis.place(x) return x > 0 and (math.log(x) - a) / (b - a) or nil end
    return axis
  end
  local ticks, step, bottom, top = linear_ticks(low, high, n_ticks, range.whole)
  if not tight then -- out to whole ticks
    bottom = math.min(bottom, math.floor(bottom / step + 1e-9) * step)
    top = math.max(top, math.ceil(top / step - 1e-9) * step)
    ticks = linear_ticks(bottom, top, (top - bottom) / step)
  end
  for i, x in ipairs(ticks) do axis.ticks[i] = { at = x, text = tick_text(x, step) } end
  function axis.place(x) return (x - bottom) / (top - bottom) end
  return axis
end

local function width_of(text)
  local _, wide = text:gsub("[%u%%+&@mw]", "")
  local _, narrow = text:gsub("[ijl.,:;|'!%s]", "")
  return ((utf8.len(text) or #text) + WIDER * wide - NARROWER * narrow) * GLYPH
end

-- The names of the series above the chart, wrapped; returns the SVG and its height.
local function legend(names, width, top, swatch)
  local out, x, y = {}, 0, top
  for i, name in ipairs(names) do
    local w = width_of(name) + 36
    if x > 0 and x + w > width then x, y = 0, y + 20 end
    out[#out + 1] = swatch(i, x, y) .. ('<text class="dp-name" x="%g" y="%g">%s</text>'):format(
      x + 22, y + 4, escape(name))
    x = x + w
  end
  return table.concat(out), #names > 0 and y - top + 24 or 0
end

local Canvas = {}
Canvas.__index = Canvas

function Canvas:add(format, ...) self[#self + 1] = format:format(...) end

-- Title, legend, horizontal grid and the y axis. The frame's place is in left, right, top, bottom.
local function canvas(options, names, swatch, y_axis)
  local self = setmetatable({ width = options.width, height = options.height }, Canvas)
  local top = 8
  if options.title then
    self:add('<text class="dp-title" x="0" y="18">%s</text>', escape(options.title))
    top = 38
  end
  local names_svg, names_height = legend(names, options.width, top, swatch)
  self:add("%s", names_svg)
  top = top + names_height
  if options.y.label then
    self:add('<text x="0" y="%g">%s</text>', top + 4, escape(options.y.label))
    top = top + 16
  end
  local widest = 0
  for _, tick in ipairs(y_axis.ticks) do widest = math.max(widest, #tick.text * DIGIT) end
  self.left, self.right = math.max(widest + 10, options.before or 0), options.width - 16
  self.top, self.bottom = top + 4, options.height - (options.below or options.x.label and 42 or 24)
  function self.y(v)
    local at = y_axis.place(v)
    return at and self.bottom - (self.bottom - self.top) * at
  end
  for _, tick in ipairs(y_axis.ticks) do
    local y = self.y(tick.at)
    self:add('<path class="dp-grid" d="M%.1f %.1fH%.1f"/>', self.left, y, self.right)
    self:add('<text x="%.1f" y="%.1f" text-anchor="end">%s</text>', self.left - 7, y + 4, tick.text)
  end
  if options.x.label then
    self:add('<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>',
      (self.left + self.right) / 2, self.height - 6, escape(options.x.label))
  end
  return self
end

function Canvas:finish(options)
  return ('<svg class="dp" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" '
    .. 'height="%d" role="img" aria-label="%s"><style>%s</style>%s</svg>'):format(self.width,
    self.height, self.width, self.height, escape(options.title or options.y.label or "chart"),
    plot.style, table.concat(self))
end

local AXIS <const> = check.fields("", {
  label = { type = "string", "what the axis shows" },
  log = { default = false, "a logarithmic axis" },
  min = { type = "number", "where the axis begins at the latest" },
  max = { type = "number", "where the axis ends at the earliest" },
})

local function chart_fields(name, extra)
  local described = {
    title = { type = "string", "the chart's title" },
    width = { min = 50, max = 100000, default = 520, "pixels" },
    height = { min = 50, max = 100000, default = 300, "pixels" },
    x = { fields = AXIS, "the horizontal axis" },
    y = { fields = AXIS, "the vertical axis" },
  }
  for key, field in pairs(extra) do described[key] = field end -- the order changes nothing
  return check.fields(name, described)
end

local NAME <const> = { type = "string|number", "the name in the legend" }
local LINE <const> = chart_fields("report.plot.line", {
  series = { required = true, "the lines", of = check.fields("", {
    name = NAME,
    y = { type = "table", required = true, "numbers" },
    x = { type = "table", shown = "1, 2, ...", "numbers" },
    low = { type = "table", "lower ends of a shaded spread" },
    high = { type = "table", "upper ends of it" },
  }) },
})
local BARS <const> = chart_fields("report.plot.bars", {
  groups = { type = "list", required = true, "names along the bottom" },
  series = { required = true, "the bars of each group", of = check.fields("", {
    name = NAME,
    values = { type = "table", required = true, "one number a group" },
    errors = { type = "table", default = {}, "half-lengths of whiskers" },
  }) },
})

local function names_of(list)
  local names = {}
  for i, series in ipairs(list) do names[i] = series.name and tostring(series.name) end
  return names
end

-- At most about `limit` points: the smallest and largest of every bucket, so that spikes remain.
local function thin(points, limit)
  if #points <= limit then return points end
  local out, bucket = {}, math.ceil(#points / (limit / 2))
  for from = 1, #points, bucket do
    local low, high = from, from
    for i = from, math.min(from + bucket - 1, #points) do
      if points[i].y < points[low].y then low = i end
      if points[i].y > points[high].y then high = i end
    end
    out[#out + 1] = points[math.min(low, high)]
    if low ~= high then out[#out + 1] = points[math.max(low, high)] end
  end
  return out
end

-- Runs of points that a line can join. A missing value or a NaN ends a run.
local function runs_of(series)
  local runs, run = {}, {}
  for i = 1, math.max(#series.y, series.x and #series.x or 0) do
    local x, y = series.x and series.x[i] or i, series.y[i]
    if finite(x) and finite(y) then
      local low, high = series.low and series.low[i], series.high and series.high[i]
      run[#run + 1] = { x = x, y = y, low = finite(low) and low or y,
        high = finite(high) and high or y }
    elseif #run > 0 then
      runs[#runs + 1], run = run, {}
    end
  end
  if #run > 0 then runs[#runs + 1] = run end
  return runs
end

local function path_of(points, x, y, field)
  local out = {}
  for _, p in ipairs(points) do
    local at = y(p[field])
    if at then out[#out + 1] = ("%.1f %.1f"):format(x(p.x), at) end
  end
  return table.concat(out, "L"), #out
end

-- The spread between low and high as an area.
local function band(points, x, y)
  local back = {}
  for i = #points, 1, -1 do back[#back + 1] = points[i] end
  local over, n = path_of(points, x, y, "high")
  local under = path_of(back, x, y, "low")
  return n > 1 and "M" .. over .. "L" .. under .. "Z" or ""
end

--- A line chart.
-- Values that are no finite numbers leave gaps.
-- @tparam table options
-- @treturn string SVG
function plot.line(options)
  options = check.options(LINE, options)
  local x_range, y_range, all, spread = {}, {}, {}, {}
  local names = names_of(options.series)
  for i, series in ipairs(options.series) do
    all[i], spread[i] = runs_of(series), series.low ~= nil and series.high ~= nil
    for _, run in ipairs(all[i]) do
      for _, p in ipairs(run) do
        include(x_range, p.x)
        x_range.whole = x_range.whole ~= false and p.x % 1 == 0
        for _, field in ipairs { "y", "low", "high" } do
          if not options.y.log or p[field] > 0 then include(y_range, p[field]) end
        end
      end
    end
  end
  local x_axis = make_axis(x_range, options.x, 6, true)
  local y_axis = make_axis(y_range, options.y, 5, false)
  local self = canvas(options, names, function(i, x, y)
    return ('<path class="dp-line" d="M%g %gh16" stroke="%s"%s/>'):format(x, y, colour(i), dash(i))
  end, y_axis)
  local function x(v) return self.left + (self.right - self.left) * (x_axis.place(v) or 0) end
  for _, tick in ipairs(x_axis.ticks) do
    self:add('<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>', x(tick.at),
      self.bottom + 17, tick.text)
  end
  self:add('<path class="dp-axis" d="M%.1f %.1fH%.1f"/>', self.left, self.bottom, self.right)
  for i, runs in ipairs(all) do
    for _, run in ipairs(runs) do
      if spread[i] then
        self:add('<path d="%s" fill="%s" opacity=".18"/>', band(run, x, self.y), colour(i))
      end
    end
  end
  for i, runs in ipairs(all) do
    for _, run in ipairs(runs) do
      local line, n = path_of(thin(run, 800), x, self.y, "y")
      if n > 1 then
        self:add('<path class="dp-line" d="M%s" stroke="%s"%s/>', line, colour(i), dash(i))
      end
      for _, p in ipairs(#run <= 25 and run or {}) do
        local y = self.y(p.y)
        if y then
          self:add('<circle cx="%.1f" cy="%.1f" r="2.8" fill="%s"><title>%s%.6g, %.6g</title>'
            .. "</circle>", x(p.x), y, colour(i), names[i] and escape(names[i]) .. ": " or "",
            p.x, p.y)
        end
      end
    end
  end
  return self:finish(options)
end

local SLANT <const> = math.rad(50)
local LONGEST <const> = 26 -- characters of a slanted name

local function cut(text, n)
  if (utf8.len(text) or #text) <= n then return text end
  return text:sub(1, (utf8.offset(text, n) or #text + 1) - 1) .. "…"
end

-- Slanted names of groups, if they do not fit side by side. They need room below the chart and, for the
-- first ones, left of it.
local function slant(options)
  local room, widest = (options.width - 60) / #options.groups, 0
  for _, group in ipairs(options.groups) do widest = math.max(widest, width_of(group)) end
  if #options.groups < 2 or widest <= 0.95 * room then return nil end
  local names, longest, before = {}, 0, 0
  for g, group in ipairs(options.groups) do
    names[g] = cut(group, LONGEST)
    local w = width_of(names[g])
    longest = math.max(longest, w)
    before = math.max(before, w * math.cos(SLANT) - (g - 0.5) * room)
  end
  options.before, options.below = before + 12, 16 + longest * math.sin(SLANT)
  options.height = math.ceil(options.height + options.below - 24)
  return names
end

--- A grouped bar chart. Names of groups that are too long to stand side by side are slanted.
-- A missing value leaves its place empty.
-- @tparam table options
-- @treturn string SVG
function plot.bars(options)
  options = check.options(BARS, options)
  local groups = {}
  for g, group in ipairs(options.groups) do
    groups[g] = tostring(group)
  end
  options.groups = groups
  local range, names = { low = 0, high = 0 }, names_of(options.series)
  for _, series in ipairs(options.series) do
    for g = 1, #options.groups do
      local value, spread = series.values[g], series.errors and series.errors[g] or 0
      if finite(value) then
        include(range, value + (finite(spread) and spread or 0))
        include(range, value - (finite(spread) and spread or 0))
      end
    end
  end
  if range.high == 0 and range.low == 0 then range.high = 1 end
  options.y.log = false
  local slanted = slant(options)
  local self = canvas(options, names, function(i, x, y)
    return ('<rect x="%g" y="%g" width="14" height="10" rx="2" fill="%s"/>'):format(x, y - 5,
      colour(i))
  end, make_axis(range, options.y, 5, false))
  local n_groups, n_series = #options.groups, #options.series
  local room = (self.right - self.left) / math.max(n_groups, 1)
  local bar = math.min(room * 0.8 / math.max(n_series, 1), 44)
  local zero = self.y(0)
  for g, group in ipairs(options.groups) do
    local middle = self.left + (g - 0.5) * room
    local below = self.bottom + (slanted and 14 or 17)
    self:add('<text x="%.1f" y="%.1f" text-anchor="%s"%s><title>%s</title>%s</text>', middle, below,
      slanted and "end" or "middle", slanted and (' transform="rotate(%.0f %.1f %.1f)"'):format(
        -math.deg(SLANT), middle, below) or "", escape(group), escape(slanted and slanted[g] or group))
    for i, series in ipairs(options.series) do
      local value, spread = series.values[g], series.errors and series.errors[g]
      if finite(value) then
        local x, y = middle + (i - 1 - n_series / 2) * bar, self.y(value)
        self:add('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="%s">'
          .. "<title>%s, %s: %.6g</title></rect>", x + 1, math.min(y, zero), math.max(bar - 2, 1),
          math.abs(y - zero), colour(i), escape(group), escape(series.name or ""), value)
        if finite(spread) and spread > 0 then
          local low, high, centre = self.y(value - spread), self.y(value + spread), x + bar / 2
          self:add('<path class="dp-error" d="M%.1f %.1fV%.1fM%.1f %.1fh6M%.1f %.1fh6"/>', centre,
            low, high, centre - 3, low, centre - 3, high)
        end
      end
    end
  end
  self:add('<path class="dp-axis" d="M%.1f %.1fH%.1f"/>', self.left, zero, self.right)
  return self:finish(options)
end

return plot
