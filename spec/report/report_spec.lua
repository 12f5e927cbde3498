-- report_spec.lua - the table lines up, the page is whole and safe whatever the recipe puts in.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local grid = require "dopl.report.grid"
local highlight = require "dopl.report.highlight"
local paper = require "dopl.report.paper"
local report = require "dopl.report"
local run = require "dopl.run"
local message = folder.message

local ROWS = {
  { label = "Original", reference = true, UFE = 6.1, MU = 93.2 },
  { label = "Joint", UFE = { mean = 72.55, std = 1.2 }, MU = { mean = 36.26, std = 10.11 } },
  { label = "DO+", UFE = { mean = 67.63, std = 0.8 }, MU = { mean = 51.52, std = 0.4 } },
}

describe("report.text", function()
  it("lines means up with means", function()
    assert.equal([[
                 UFE ↑           MU ↑
─────────────────────────────────────
Original   6.10         93.20
Joint     72.55 ± 1.20  36.26 ± 10.11
DO+       67.63 ± 0.80  51.52 ±  0.40
]], report.text(ROWS))
  end)

  it("shows the paper's figures of the same rows beside ours", function()
    assert.equal([[
timing        OVR ↑  │    OVR
─────────────────────────────
before_delta  50.00  │  58.93
after_theta   51.25  │  59.57
other             –  │      –
right of the bar: DualOptim+, Table 5 (Phi 1.5, IDK+GD, forget05: when the base state is updated)
]], report.text({ { label = "before_delta", OVR = 50 }, { label = "after_theta", OVR = 51.25 },
      { label = "other" } }, { columns = { "OVR" }, paper = "table5", head = "timing" }))
  end)

  it("counts columns of a terminal, not bytes", function()
    assert.equal(4, grid.width("日本"))
    assert.equal(1, grid.width("e\u{301}"))
    assert.equal(2, grid.width("\xff\xfe"))
    local first, rule = report.text({ { label = "日本", n = 1 } }):match("^(.-)\n(.-)\n")
    assert.equal(grid.width(first), utf8.len(rule))
  end)

  it("chooses decimals by column, and takes counts, fractions, words and nothing", function()
    assert.equal([[
   n    p ↓  word
─────────────────
a  3  0.250  x
b  4    NaN  –
]], report.text({ { label = "a", n = 3, p = 0.25, word = "x" },
      { label = "b", n = 4, p = 0 / 0 } },
      { columns = { "n", { key = "p", better = "lower" }, "word" } }))
    assert.equal("\n\n", report.text({}, {}))
  end)

  it("marks the best of those that compete", function()
    local g = grid.lay_out(ROWS)
    assert.same({ [2] = true }, g.columns[1].best)
    assert.same({ [3] = true }, g.columns[2].best) -- the original does not compete
    local function best(digits, better, ...)
      local rows = {}
      for i, x in ipairs { ... } do rows[i] = { x = x } end
      return grid.lay_out(rows, { columns = { { key = "x", better = better, digits = digits } } })
        .columns[1].best
    end
    assert.same({ [2] = true }, best(1, "lower", 3, 1))
    assert.same({ [1] = true, [3] = true }, best(1, "higher", 1, 0.5, 0.99)) -- as they are printed
    assert.is_nil(best(1, "higher", 1, 0.99, 0.98))
    assert.is_nil(grid.lay_out({ { UFE = 1 } }).columns[1].best)
    assert.is_nil(grid.lay_out({ { UFE = 1 }, { UFE = 1 } }).columns[1].best) -- none of them is
  end)

  it("refuses values that are not rows or columns", function()
    assert.error_matches(function() report.write({}, {}) end, "report.write: run: a table, needs")
    assert.error_matches(function() report.text { 1, 2 } end, "report.table: row 1: 1, needs table")
    assert.error_matches(function() report.text({ { x = 1 } }, { columns = "x" }) end,
      "report.table: columns: the string 'x', needs a list")
    assert.error_matches(function() report.text({ { x = 1 } }, { columns = { 1 } }) end,
      "report.table: column: a number, a table of options is needed")
  end)

  it("refuses what it does not know", function()
    assert.match("unknown field 'colums' %(did you mean 'columns'%?%)",
      message(report.text, {}, { colums = {} }))
    assert.match("paper table: 'table99' %(did you mean 'table", message(report.text, {},
      { paper = "table99" }))
    assert.match("split of DualOptim%+, Table 1: 'forget5' %(did you mean 'forget05'",
      message(report.text, {}, { paper = { "table1", split = "forget5" } }))
    assert.match("column: better: 'up'", message(report.text, {},
      { columns = { { key = "x", better = "up" } } }))
  end)
end)

describe("dopl.paper", function()
  it("holds figures that obey the paper's own formula", function()
    for _, split in ipairs { "forget01", "forget05", "forget10" } do
      for _, row in pairs(paper.table("table1", split).rows) do
        assert.near(0.25 * (row.UFE + row.TFE) + 0.5 * row.MU, row.OVR, 0.021)
      end
    end
    for _, row in pairs(paper.table("table5").rows) do
      assert.near(0.25 * (row.UFE + row.TFE) + 0.5 * row.MU, row.OVR, 0.021)
    end
  end)
end)

describe("report.curves", function()
  local function log_of(values, options)
    local rows = {}
    for i, x in ipairs(values) do rows[i] = { step = i, loss = x } end
    local svg = report.curves(rows, { fields = { "loss" }, y = options })
    return svg:find(">0.01<", 1, true) ~= nil and svg:find(">0.1<", 1, true) ~= nil
  end

  it("draws more than two decades on a logarithmic axis, unless log = false", function()
    assert.is_true(log_of { 3, 0.3, 0.012 })
    assert.is_false(log_of { 3, 1, 0.04 })
    assert.is_false(log_of { 3, 0.3, 0.012, -1 })
    assert.is_false(log_of { 3, 0.3, 0.012, 0 })
    assert.is_false(log_of({ 3, 0.3, 0.012 }, { log = false }))
  end)
end)

describe("report.html", function()
  local evil = [["><script>alert(1)</script><img src=x onerror=y>&amp;']]

  local function page(extra)
    local curves = report.curves({ { step = 1, loss = 2 }, { step = 2, loss = 1 } },
      { fields = { "loss" } })
    local bars = report.bars(ROWS, { columns = { "UFE" } })
    local options = { title = "T", charts = { curves, { svg = bars, caption = "c" } },
      tables = { { rows = ROWS, paper = { "table1", split = "forget05" } } },
      samples = { { tag = "forget", question = "Q?", reference = "R.",
        answers = { { label = "DO+", text = "I don't know." }, { label = "Joint", text = "" } } } },
      params = { steps = 300, adamw = { lr = 1e-4, betas = { 0.9, 0.95 } } },
      versions = { dopl = "0.1" }, recipe = "local x = 1 -- <one>\n", notes = { "n" } }
    for key, value in pairs(extra or {}) do options[key] = value end
    return report.html(options)
  end

  it("gives the width of a figure to the page, not to the chart's own style", function()
    local html = page()
    assert.is_truthy(html:find("figure .dp{", 1, true)) -- more particular than ".dp{"
    assert.is_truthy(html:find("\n.dp{", 1, true))
  end)

  it("holds everything it was given", function()
    local html = page()
    for _, text in ipairs { "<title>T</title>", "72.55", "± 1.20", ">0.0001<", ">0.9, 0.95<",
      ">DualOptim+, Table 1, forget05<", "forget</span>Q?", ">R.<", "I don&#39;t know.",
      "(nothing)", "adamw.lr", ">0.1<", "&lt;one&gt;", "<figcaption>c<", "<p>n</p>",
      'class="n best"' } do
      assert.is_truthy(html:find(text, 1, true), text)
    end
  end)

  it("fetches nothing", function()
    local html = page():gsub('xmlns="http://www.w3.org/2000/svg"', "")
    for _, word in ipairs { "http", "src=", "href", "url(", "@import", "<script", "<link" } do
      assert.is_nil(html:find(word, 1, true), word)
    end
  end)

  it("lets no text become markup", function()
    local html = page { title = evil, lead = evil, notes = { evil }, recipe = evil,
      facts = { { evil, evil } }, tiles = { { label = evil, value = evil, note = evil } },
      params = { [evil] = evil }, versions = { [evil] = evil },
      tables = { { title = evil, note = evil, head = evil, rows = { { label = evil, x = evil } },
        columns = { { key = "x", label = evil } } } },
      samples = { { tag = evil, question = evil, reference = evil,
        answers = { { label = evil, text = evil } } } },
      charts = { { svg = report.bars({ { label = evil, x = 1 } }, { columns = { "x" },
        title = evil }), caption = evil } } }
    assert.is_nil(html:find("<script", 1, true))
    assert.is_nil(html:find("<img", 1, true))
  end)

  it("is whole with next to nothing in it", function()
    local html = report.html { title = "Empty" }
    assert.match("^<!doctype html>", html)
    assert.match("</html>\n$", html)
  end)

  it("refuses what it does not know", function()
    assert.match("report.html: 'title' is missing", message(report.html, {}))
    assert.match("unknown field 'sample' %(did you mean 'samples'%?%)",
      message(report.html, { title = "x", sample = {} }))
    assert.match("report sample: unknown field 'answer'",
      message(page, { samples = { { question = "q", answer = {} } } }))
  end)

  it("goes into the run's folder whole", function()
    local dir = folder.new()
    do
      local r <close> = run.open { out = dir, seed = 5, name = "quick" }
      local path = report.write(r, { tables = { { rows = ROWS } }, charts = {
        report.bars(ROWS, { columns = { "UFE" }, title = "Efficacy <&> more" }),
        { svg = report.curves({}, { fields = {} }) } } })
      assert.same({ "01-efficacy-more.svg", "02.svg" }, core.files.list(dir .. "/charts"))
      assert.match("^<svg ", core.files.read(dir .. "/charts/02.svg"))
      assert.equal(dir .. "/report.html", path)
      local html = core.files.read(path)
      assert.is_truthy(html:find("<title>quick</title>", 1, true))
      assert.is_truthy(html:find("seed <b>5</b>", 1, true))
    end
    folder.remove(dir)
  end)
end)

describe("report.highlight", function()
  it("marks tokens and loses nothing", function()
    assert.equal('<span class="keyword">local</span> x = <span class="number">1e-5</span> '
      .. '<span class="comment">-- c</span>\n', highlight("local x = 1e-5 -- c\n"))
    assert.equal('<span class="string">[[a\nb]]</span>', highlight("[[a\nb]]"))
    assert.equal('<span class="comment">--[=[ ]] ]=]</span>x', highlight("--[=[ ]] ]=]x"))
    assert.equal('<span class="string">&quot;a\\&quot;b&quot;</span>', highlight([["a\"b"]]))
    assert.equal("t[1]", (highlight("t[1]"):gsub("<.->", "")))
    for _, text in ipairs { "", "--", "--[[", '"', "'\\", "[==[", "0x", "a-b", "-", "\0\xff",
      "]]" } do
      local plain = highlight(text):gsub("<.->", ""):gsub("&quot;", '"'):gsub("&#39;", "'")
      assert.equal((text:gsub("%z", " ")), plain)
    end
  end)
end)
