--- report/page.lua - the report as one HTML page that loads nothing from the network.
-- @module dopl.report.page
local check = require("dopl.util.check")
local grid = require("dopl.report.grid")
local highlight = require("dopl.report.highlight")
local plot = require("dopl.report.plot")
local escape = plot.escape

local STYLE = [[
:root{--ink:#1c2126;--soft:#5d6770;--line:#e2e6ea;--back:#fff;--card:#f6f8fa;--accent:#0072b2;
--good:#006b4d;--good-back:#e3f5ee;--bad:#a34400;--bad-back:#fdeee3}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa4ad;--line:#2c333a;--back:#15191d;
--card:#1c2126;--accent:#5fb4ec;
--good:#4fd6ab;--good-back:#12352b;--bad:#ff9d66;--bad-back:#3a2314}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);line-height:1.55;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:68rem;margin:0 auto;padding:3rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:3rem 0 1rem;letter-spacing:-.005em}
.lead{font-size:1.1rem;color:var(--soft);margin:0 0 1rem;max-width:46rem}
.facts{display:flex;flex-wrap:wrap;gap:.35rem 1.5rem;color:var(--soft);font-size:.875rem;margin:0;
padding:.9rem 0 0;border-top:1px solid var(--line)}
.facts b{font-weight:600;color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;
margin:2rem 0 0}
.tile{background:var(--card);border-radius:.6rem;padding:1rem 1.1rem}
.tile span{display:block;color:var(--soft);font-size:.875rem}
.tile b{display:block;font-size:1.75rem;line-height:1.3;letter-spacing:-.02em}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.95rem;font-variant-numeric:tabular-nums}
th,td{padding:.5rem .55rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--soft);font-weight:600;font-size:.85rem;vertical-align:bottom;white-space:normal}
tbody th{font-weight:500;white-space:normal;min-width:7rem;line-height:1.35}
th:first-child{padding-left:0;position:sticky;left:0;background:var(--back)}
td.n,th.n{text-align:right}
.paper{color:var(--soft)}.first-paper{border-left:1px solid var(--line)}
th.group{text-align:center;border-bottom:0;padding-bottom:0;font-weight:500}
tr.reference>*{color:var(--soft)}
td .spread{display:inline-block;color:var(--soft);font-weight:400}
td.best{font-weight:700;color:var(--accent)}
.note{color:var(--soft);font-size:.875rem;margin:.6rem 0 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));
gap:2rem 2.5rem}
figure{margin:0}figure .dp{width:100%;max-width:42rem}
figcaption{color:var(--soft);font-size:.875rem;margin-top:.3rem}
.sample{background:var(--card);border-radius:.6rem;padding:1.1rem 1.25rem;margin:0 0 1rem}
.sample h3{font-size:1.02rem;line-height:1.45;margin:0 0 .8rem;font-weight:600}
.chip{display:inline-block;font-size:.75rem;font-weight:600;padding:.1rem .55rem;border-radius:1rem;
margin-right:.55rem;vertical-align:.1em;background:var(--line);color:var(--soft)}
.chip.forget{background:var(--bad-back);color:var(--bad)}
.chip.retain{background:var(--good-back);color:var(--good)}
.sample dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;margin:0}
.sample dt,.sample dd{margin:0;padding:.45rem 0;border-top:1px solid var(--line)}
.sample dt{color:var(--soft);font-size:.875rem;padding-right:1.25rem;padding-top:.52rem}
.sample dd{overflow-wrap:anywhere;white-space:pre-wrap}
.sample .reference{color:var(--soft);font-style:italic}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));
gap:0 2.5rem;margin:0;font-size:.925rem}
.pairs div{display:flex;justify-content:space-between;gap:1rem;padding:.35rem 0;
border-bottom:1px solid var(--line)}
.pairs dt{color:var(--soft)}.pairs dd{margin:0;text-align:right;overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
pre{background:var(--card);border-radius:.6rem;padding:1.1rem 1.25rem;overflow-x:auto;margin:0;
font:.82rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
tab-size:4}
pre .comment{color:var(--soft)}pre .string{color:var(--good)}
pre .number{color:var(--bad)}pre .keyword{color:var(--accent)}
footer{margin-top:3.5rem;color:var(--soft);font-size:.85rem}
@media(max-width:36rem){main{padding:2rem 1rem 3rem}h1{font-size:1.6rem}
.sample dl{display:block}.sample dt{padding:.6rem 0 0}.sample dd{border:0;padding:.1rem 0 .5rem}
th,td{padding:.5rem .6rem}}
@media print{main{max-width:none;padding:0}.sample,figure{break-inside:avoid}}]]

local Page = {}
Page.__index = Page

function Page:add(text) self[#self + 1] = text end
function Page:heading(text) self:add(("<h2>%s</h2>"):format(escape(text))) end

-- A value of a parameter as text: tables as their keys and values, in order.
local function plain(value)
  if type(value) ~= "table" then
    if math.type(value) == "float" then return ("%.10g"):format(value) end
    return tostring(value)
  end
  local out = {}
  for _, v in ipairs(value) do out[#out + 1] = plain(v) end
  for _, key in ipairs(check.keys(value)) do out[#out + 1] = key .. " " .. plain(value[key]) end
  return table.concat(out, ", ")
end

-- Tables of tables become one list with dotted names.
local function flatten(out, prefix, t)
  for _, key in ipairs(check.keys(t)) do
    local value = t[key]
    if type(value) == "table" and #value == 0 and next(value) ~= nil then
      flatten(out, prefix .. key .. ".", value)
    else
      out[#out + 1] = { prefix .. key, plain(value) }
    end
  end
  return out
end

function Page:pairs(heading, t)
  local list = flatten({}, "", t)
  if #list == 0 then return end
  self:heading(heading)
  self:add('<dl class="pairs">')
  for _, pair in ipairs(list) do
    self:add(("<div><dt>%s</dt><dd>%s</dd></div>"):format(escape(pair[1]),
      escape(pair[2] == "" and "–" or pair[2])))
  end
  self:add("</dl>")
end

local function table_head(g)
  local ours, theirs, heads = 0, 0, {}
  for _, column in ipairs(g.columns) do
    local class = column.number and "n" or ""
    if column.paper then
      class = class .. " paper" .. (theirs == 0 and " first-paper" or "")
      theirs = theirs + 1
    else
      ours = ours + 1
    end
    local arrow = column.better == "higher" and "&nbsp;↑"
      or column.better == "lower" and "&nbsp;↓" or ""
    heads[#heads + 1] = ('<th class="%s" scope="col">%s%s</th>'):format(class,
      escape(column.label), arrow)
  end
  local groups = ""
  if g.paper then
    groups = ('<tr><th class="group"></th><th class="group" colspan="%d">this run</th>'
      .. '<th class="group first-paper" colspan="%d">%s</th></tr>'):format(math.max(ours, 1),
      math.max(theirs, 1), escape(g.paper.title))
  end
  return ('<thead>%s<tr><th scope="col">%s</th>%s</tr></thead>'):format(groups, escape(g.head),
    table.concat(heads))
end

function Page:table(g)
  if g.title then self:heading(g.title) end
  self:add('<div class="scroll"><table>' .. table_head(g) .. "<tbody>")
  for r, label in ipairs(g.labels) do
    local cells, theirs = {}, 0
    for _, column in ipairs(g.columns) do
      local class = column.number and "n" or ""
      if column.best and column.best[r] then class = class .. " best" end
      if column.paper then
        class = class .. " paper" .. (theirs == 0 and " first-paper" or "")
        theirs = theirs + 1
      end
      local spread = column.spreads[r] and "± " .. column.spreads[r] or ""
      if column.spread_width > 0 then -- its own box, so that means line up
        spread = ('<span class="spread" style="min-width:%gch">%s</span>'):format(
          column.spread_width + 2.2, spread)
      end
      cells[#cells + 1] = ('<td class="%s">%s%s</td>'):format(class, escape(column.cells[r]),
        spread)
    end
    self:add(('<tr%s><th scope="row">%s</th>%s</tr>'):format(
      g.reference[r] and ' class="reference"' or "", escape(label), table.concat(cells)))
  end
  self:add("</tbody></table></div>")
  if g.paper then
    self:add(('<p class="note">%s: %s</p>'):format(escape(g.paper.title), escape(g.paper.setting)))
  end
  if g.note then self:add(('<p class="note">%s</p>'):format(escape(g.note))) end
end

function Page:charts(charts)
  self:heading("Charts")
  self:add('<div class="charts">')
  for _, chart in ipairs(charts) do
    if type(chart) == "string" then chart = { svg = chart } end
    local svg = chart.svg:gsub("<style>.-</style>", "", 1) -- the page has it once
    self:add("<figure>" .. svg)
    if chart.caption then
      self:add(("<figcaption>%s</figcaption>"):format(escape(chart.caption)))
    end
    self:add("</figure>")
  end
  self:add("</div>")
end

local function answer_row(class, label, text)
  if text == "" then text = "(nothing)" end
  return ('<dt>%s</dt><dd class="%s">%s</dd>'):format(escape(label), class, escape(text))
end

local SAMPLE <const> = check.fields("", {
  question = { type = "string", required = true, "what was asked" },
  reference = { type = "string", "the right answer" },
  answers = { type = "list", default = {}, "{ label =, text = } of each model" },
  tag = { type = "string", "what the sample is of, such as forget" },
})

function Page:samples(samples)
  self:heading("Answers of the models")
  for _, sample in ipairs(samples) do
    sample = check.options(SAMPLE, sample, 6, "report sample")
    local tag = sample.tag and ('<span class="chip %s">%s</span>'):format(
      (tostring(sample.tag):gsub("[^%w-]", "")), escape(sample.tag)) or ""
    self:add(('<section class="sample"><h3>%s%s</h3><dl>'):format(tag, escape(sample.question)))
    if sample.reference then self:add(answer_row("reference", "reference", sample.reference)) end
    for _, answer in ipairs(sample.answers) do
      self:add(answer_row("answer", answer.label, answer.text))
    end
    self:add("</dl></section>")
  end
end

local function head(self, o)
  self:add(("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    .. '<meta name="viewport" content="width=device-width,initial-scale=1">'
    .. '<meta name="color-scheme" content="light dark"><title>%s</title><style>%s\n%s</style>'
    .. "</head><body><main>"):format(escape(o.title), STYLE, plot.style))
  self:add(("<h1>%s</h1>"):format(escape(o.title)))
  if o.lead then self:add(('<p class="lead">%s</p>'):format(escape(o.lead))) end
  local facts = {}
  for _, fact in ipairs(o.facts) do
    facts[#facts + 1] = ("<span>%s <b>%s</b></span>"):format(escape(fact[1]), escape(fact[2]))
  end
  if #facts > 0 then self:add('<p class="facts">' .. table.concat(facts) .. "</p>") end
  if #o.tiles > 0 then
    self:add('<div class="tiles">')
    for _, tile in ipairs(o.tiles) do
      self:add(('<div class="tile"><span>%s</span><b>%s</b><span>%s</span></div>'):format(
        escape(tile.label), escape(tile.value), escape(tile.note or "")))
    end
    self:add("</div>")
  end
end

local HTML <const> = check.fields("report.html", {
  title = { type = "string", required = true, "title of the page" },
  lead = { type = "string", "a sentence below it" },
  facts = { type = "list", default = {}, "pairs such as { \"seed\", 1 }" },
  tiles = { type = "list", default = {}, "{ label =, value =, note = }" },
  tables = { type = "list", default = {}, "{ rows =, title =, columns =, paper =, note = }" },
  charts = { type = "list", default = {}, "SVG strings, or { svg =, caption = }" },
  samples = { type = "list", default = {},
    "{ question =, reference =, tag =, answers = { { label =, text = } } }" },
  notes = { type = "list", default = {}, "sentences" },
  params = { type = "table", default = {}, "the recipe's parameters" },
  versions = { type = "table", default = {}, "versions of what computed" },
  recipe = { type = "string", "the recipe's text" },
})

--- Builds the page; see `dopl.report.html` for the fields.
-- @tparam table o
-- @treturn string
return function(o)
  o = check.options(HTML, o, 5)
  local self = setmetatable({}, Page)
  head(self, o)
  for i, t in ipairs(o.tables) do
    local options = { columns = t.columns, paper = t.paper, head = t.head, note = t.note,
      title = t.title or (i == 1 and "Results" or nil) }
    self:table(grid.lay_out(t.rows, options))
  end
  if #o.charts > 0 then self:charts(o.charts) end
  if #o.samples > 0 then self:samples(o.samples) end
  if #o.notes > 0 then
    self:heading("Notes")
    for _, note in ipairs(o.notes) do self:add(("<p>%s</p>"):format(escape(note))) end
  end
  self:pairs("Parameters", o.params)
  if o.recipe then
    self:heading("Recipe")
    self:add("<pre><code>" .. highlight(o.recipe) .. "</code></pre>")
  end
  self:pairs("Versions", o.versions)
  self:add("<footer>Made by dopl.</footer></main></body></html>\n")
  return table.concat(self, "\n")
end
