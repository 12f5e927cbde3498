-- plot_spec.lua - charts are well-formed whatever the data, and hold nothing but data.
local plot = require "dopl.report.plot"
local message = require("spec.io.folder").message

-- Walks the tags of an SVG or HTML text: every one closed in order, every & an entity.
local VOID = { meta = true, br = true }
local function well_formed(text)
  local stack = {}
  text = text:gsub("^<!doctype html>", ""):gsub("<style>.-</style>", "")
  for slash, name, rest in text:gmatch("<(/?)([%a][%w]*)(.-)>") do
    if slash == "/" then
      assert.equal(table.remove(stack), name)
    elseif rest:sub(-1) ~= "/" and not VOID[name] then
      stack[#stack + 1] = name
    end
  end
  assert.same({}, stack)
  for entity in text:gmatch("&([^;%s]*)") do
    assert.match("^[#%w]+$", entity)
  end
  assert.is_nil(text:find("nan", 1, true))
  assert.is_nil(text:find("inf", 1, true))
  return text
end

describe("plot.line", function()
  it("draws series, spreads and ticks", function()
    local svg = well_formed(plot.line { title = "Loss", x = { label = "step" },
      y = { label = "nats" }, series = { { name = "forget", x = { 0, 50, 100 }, y = { 3, 2, 1 },
        low = { 2.5, 1.5, 0.5 }, high = { 3.5, 2.5, 1.5 } }, { name = "retain", y = { 1, 1 } } } })
    for _, text in ipairs { ">Loss<", ">step<", ">nats<", ">forget<", ">retain<", ">100<" } do
      assert.is_truthy(svg:find(text, 1, true), text)
    end
    assert.equal(1, select(2, svg:gsub('opacity=".18"', "")))
  end)

  it("survives any numbers", function()
    local odd = { 0 / 0, math.huge, -math.huge, 0, -1, 1e300, 1e-300, 5 }
    for _, log in ipairs { false, true } do
      well_formed(plot.line { y = { log = log }, series = { { y = odd } } })
      well_formed(plot.line { y = { log = log }, series = {} })
      well_formed(plot.line { y = { log = log }, series = { { y = {} }, { y = { 0 / 0 } } } })
      well_formed(plot.line { y = { log = log }, series = { { y = { 3 } } } })
      well_formed(plot.line { y = { log = log }, series = { { y = { 7, 7, 7 } } } })
      well_formed(plot.line { y = { log = log }, series = { { y = { 1e-9, 2e9 } } } })
    end
  end)

  it("leaves a gap where a value is missing", function()
    local svg = plot.line { series = { { y = { 1, 2, 0 / 0, 4, 5 } } } }
    assert.equal(2, select(2, svg:gsub('class="dp%-line"', "")))
  end)

  it("keeps spikes of long curves, in a text of bounded size", function()
    local y = {}
    for i = 1, 100000 do y[i] = 1 end
    y[77777] = 9
    local svg = well_formed(plot.line { series = { { y = y } } })
    assert.is_true(#svg < 30000)
    assert.is_truthy(svg:find(">10<", 1, true))
  end)

  it("escapes every text", function()
    local evil = [[</text><script>alert("x")</script>&'\0]]
    local svg = well_formed(plot.line { title = evil, x = { label = evil }, y = { label = evil },
      series = { { name = evil, y = { 1, 2 } } } })
    assert.is_nil(svg:find("<script", 1, true))
  end)

  it("refuses unknown fields", function()
    assert.match("plot.line: 'series' is missing", message(plot.line, {}))
    assert.match("plot.line: unknown field 'titel' %(did you mean 'title'%?%)",
      message(plot.line, { titel = "x", series = {} }))
    assert.match("plot.line: y: unknown field 'lable'",
      message(plot.line, { y = { lable = "x" }, series = {} }))
    assert.match("plot.line: series: element 1: 'y' is missing",
      message(plot.line, { series = { {} } }))
  end)

  it("refuses what cannot be drawn, and changes nothing it was given", function()
    local function says(pattern, options)
      options.series = options.series or { { y = { 1 } } }
      assert.match("^[^\n]*plot.line: " .. pattern, message(plot.line, options))
    end
    says("series: 3, needs a list", { series = 3 })
    says("series: element 1: y: 3, needs a table", { series = { { y = 3 } } })
    says("series: element 1: low: true, needs a table", { series = { { y = { 1 }, low = true } } })
    says("width: 1.5, needs an integer", { width = 1.5 })
    says("height: 0, needs an integer from 50 to 100000", { height = 0 })
    says("x: min: the string '0', needs a number", { x = { min = "0" } })
    assert.match("plot.bars: groups: 1, needs a list", message(plot.bars, { groups = 1, series = {} }))
    local series = { { name = 7, values = { 1 } } }
    well_formed(plot.bars { groups = { true }, series = series })
    assert.same({ { name = 7, values = { 1 } } }, series)
  end)
end)

describe("plot.bars", function()
  it("draws a bar a value, with its error bar", function()
    local svg = well_formed(plot.bars { title = "MU", groups = { "Joint", "DO+" }, series = {
      { name = "MU", values = { 36, 51 }, errors = { 2, 0 } }, { name = "FE", values = { 60 } } } })
    assert.equal(3, select(2, svg:gsub(': [%d.]+</title></rect>', "")))
    assert.equal(1, select(2, svg:gsub('class="dp%-error"', "")))
  end)

  it("slants names that have no room side by side, and cuts none of a common length", function()
    local groups = {}
    for i = 1, 9 do groups[i] = ("SGD (F) + Adam %d (R)"):format(i) end
    local svg = well_formed(plot.bars { groups = groups,
      series = { { name = "OVR", values = { 1, 2, 3, 4, 5, 6, 7, 8, 9 } } } })
    assert.equal(9, select(2, svg:gsub('rotate%(%-50 [%d.]+ [%d.]+%)"', "")))
    assert.equal(9, select(2, svg:gsub("SGD %(F%) %+ Adam %d %(R%)</text>", "")))
    for x in svg:gmatch '<text x="([%d.-]+)" y="[%d.]+" text%-anchor="end" transform' do
      assert.is_true(tonumber(x) - #groups[1] * 7.28 * math.cos(math.rad(50)) > -1)
    end
  end)

  it("survives any numbers and none", function()
    well_formed(plot.bars { groups = {}, series = {} })
    well_formed(plot.bars { groups = { "a" }, series = {} })
    well_formed(plot.bars { groups = { "a", "b", "c" },
      series = { { values = { 0 / 0, -3, math.huge }, errors = { 1, 0 / 0, -1 } } } })
    well_formed(plot.bars { groups = { "日本語の長い名前 <&>", "b", "c", "d", "e", "f", "g", "h" },
      series = { { name = "<", values = { 0, 0, 0 } } } })
  end)
end)

describe("plot.escape", function()
  it("leaves no markup and no control characters", function()
    assert.equal("&lt;a href=&quot;x&quot;&gt;&amp;&#39; \n", plot.escape('<a href="x">&\'\1\n'))
  end)
end)
