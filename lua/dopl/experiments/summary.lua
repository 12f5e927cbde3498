--- experiments/summary.lua - the table, answers and report that close a recipe.
-- @module dopl.experiments.summary

local check = require "dopl.util.check"
local core = require "dopl.core"
local figures = require "dopl.util.figures"
local json = require "dopl.util.json"
local metrics = require "dopl.metrics"
local columns = require "dopl.report.columns"
local diagnostics = require "dopl.report.diagnostics"
local report = require "dopl.report"

local summary = {}

local PERCENT <const> = 100

local interval <const> = { key = "interval", label = "95% ±", digits = 1, scale = PERCENT }
local gap_deviation <const> = { key = "deviation", label = "deviation", digits = 1, scale = PERCENT,
  better = "lower", paper = "Std" }

--- The columns of a table of methods: see dopl.report.columns.
summary.columns_of = columns.of

--- The columns of a study: the aggregates that a row has, the interval of OVR, and refusals for
-- targeted losses.
-- @tparam table keys
-- @tparam table row
-- @tparam boolean repeated whether there is an interval
function summary.study_columns(keys, row, repeated)
  local out = {}
  for _, column in ipairs(columns.aggregates(keys)) do
    if row[column.key] then out[#out + 1] = column end
  end
  if repeated then out[#out + 1] = interval end
  if keys.TFE and row[keys.TFE] then out[#out + 1] = columns.refused end
  return out
end

--- Columns of a table from DualOptim. Its figures are gaps to the retrained model on CIFAR-10 and
-- deviations over runs, where smaller is better. OVR and its deviation stand beside them.
function summary.gap_columns(keys)
  local out = {}
  for _, column in ipairs(columns.aggregates(keys)) do
    if column.key == keys.OVR then column.paper = "Gap" end
    out[#out + 1] = column
  end
  for _, column in ipairs { gap_deviation, interval, columns.refused } do out[#out + 1] = column end
  return out
end

local NOTE <const> = "Percent. Metrics as in the papers (dialect: %s), but without CS and ES, which "
  .. "need further models. The name of an aggregate lists the metrics in it; the papers' figures "
  .. "contain all six. 'Refuses' is the fraction of answers that match a refusal (ROUGE-L F over 0.9)."

--- The note below every table.
summary.note = NOTE:format(metrics.dialect)

--- The same questions to every row's model.
-- @tparam {table,...} rows from bench:evaluate or bench:compare
-- @tparam table counts questions of each set: { forget = 2, retain = 1 }
-- @treturn {table,...} { tag, question, reference, answers = { { label, text } } }
function summary.side_by_side(rows, counts)
  check.type("summary.side_by_side: rows", rows, "table")
  check.type("summary.side_by_side: counts", counts, "table")
  local out = {}
  for k, result in ipairs(rows[1].results) do
    local n = counts[result.name] or 0
    for j = 1, math.min(n, result.n) do
      local index = (j - 1) * result.n // n + 1
      local sample, answers = result.samples[index], {}
      for i, row in ipairs(rows) do
        answers[i] = { label = row.label, text = row.results[k].samples[index].generation }
      end
      out[#out + 1] = { tag = result.name, question = sample.question, reference = sample.answer,
        answers = answers }
    end
  end
  return out
end

--- Notes on rows: the lists given, and the faults of the rows' models, each once.
-- @tparam {table,...} rows from bench:evaluate or bench:compare
-- @tparam {string,...} ... more lists, put first
-- @treturn {string,...}
function summary.notes(rows, ...)
  local out, seen = {}, {}
  local function add(list)
    for _, note in ipairs(list or {}) do
      if not seen[note] then out[#out + 1], seen[note] = note, true end
    end
  end
  for _, list in ipairs { ... } do add(list) end
  for _, row in ipairs(rows) do add(row.faults) end
  return out
end

--- One row a label over several results (forget sets, seeds): mean and standard deviation.
-- @tparam {table,...} results rows of bench:compare, several with the same label
-- @treturn {table,...} rows in the order in which labels first came
function summary.over(results)
  check.list("summary.over: results", results)
  local rows, by_label = {}, {}
  for _, result in ipairs(results) do
    local list = by_label[result.label]
    if not list then
      list = {}
      by_label[result.label] = list
      rows[#rows + 1] = { label = result.label, columns = result.columns }
    end
    list[#list + 1] = result
  end
  for _, row in ipairs(rows) do
    local list = by_label[row.label]
    for _, key in ipairs(check.keys(list[1])) do
      local values = {}
      for i, result in ipairs(list) do
        if type(result[key]) == "number" then values[i] = result[key] end
      end
      if #values == #list then row[key] = metrics.spread(values) end
    end
  end
  return figures.rows(rows)
end

-- The columns for which some row has a figure. Untargeted losses have no TFE.
local function with_figures(wanted, rows)
  local out = {}
  for _, column in ipairs(wanted) do
    local has = false
    for _, row in ipairs(rows) do has = has or row[column.key] ~= nil end
    if has then out[#out + 1] = column end
  end
  return out
end

local LONGEST <const> = 200 -- bytes of an answer on the terminal; the report has all of it

local function cut(text) -- which may be any bytes, as a model makes them: no utf8.offset
  if #text <= LONGEST then return text end
  return (text:sub(1, LONGEST + 1):gsub(".[\x80-\xBF]*$", "")) .. "…"
end

local function print_samples(samples)
  for _, s in ipairs(samples) do
    print(("\n[%s] %s"):format(s.tag, s.question))
    print(("  %-12s %s"):format("(reference)", s.reference))
    for _, answer in ipairs(s.answers) do
      print(("  %-12s %s"):format(answer.label, answer.text == "" and "(nothing)" or cut(answer.text)))
    end
  end
end

local SHOW <const> = check.fields("bench:report", {
  title = { type = "string", required = true, "title of the report" },
  lead = { default = "", "a sentence below it" },
  questions = { type = "table", default = {},
    "how many questions of each set to show: { forget = 3 }" },
  paper = { type = "string|table", "a paper's table to show beside, as for report.table" },
  columns = { type = "list", shown = "all that the data allow", "columns of the table" },
  charts = { type = "list", default = {}, "more charts" },
  tables = { type = "list", default = {}, "more tables" },
  notes = { of = "string", default = {}, "more sentences" },
})

--- Prints the table and the answers, and writes the report into the run's folder.
-- @param bench
-- @tparam {table,...} rows
-- @tparam table options
-- @treturn ?string the report's path
function summary.show(bench, rows, options)
  local o = check.options(SHOW, options)
  -- beside a paper's figures there is room for fewer of ours
  local known = summary.columns_of(bench.keys or metrics.keys)
  o.columns = o.columns or with_figures(o.paper and table.move(known, 1, 5, 1, {}) or known, rows)
  o.notes = summary.notes(rows, bench.notes or {}, o.notes)
  print("\n" .. o.title)
  report.table(rows, { columns = o.columns, paper = o.paper })
  print("\n" .. summary.note)
  for _, note in ipairs(o.notes) do print(note) end
  local samples = rows[1].results and summary.side_by_side(rows, o.questions) or {}
  print_samples(samples)
  if not bench.run then return end
  local logged, seen = {}, {}
  for row in json.lines(bench.run.path .. "/metrics.jsonl") do
    local list = row.kind == "step" and logged or diagnostics.is_row(row) and seen or {}
    list[#list + 1] = row
  end
  local charts = table.move(o.charts, 1, #o.charts, 1, {})
  for _, objective in ipairs { "forget", "retain" } do
    charts[#charts + 1] = {
      svg = report.curves(logged, { fields = { "loss_" .. objective }, by = "label",
        title = objective .. " loss" }),
      caption = ("Loss of each effective batch of the %s objective."):format(objective),
    }
  end
  for _, chart in ipairs(diagnostics.charts(seen)) do charts[#charts + 1] = chart end
  local path = report.write(bench.run, {
    title = o.title, lead = o.lead, samples = samples, charts = charts, params = bench.p,
    recipe = core.files.read(bench.run.path .. "/recipe.lua"), notes = o.notes,
    tables = { { rows = rows, title = "Results", columns = o.columns, paper = o.paper,
      note = summary.note }, table.unpack(o.tables) },
  })
  print("\nreport: " .. path)
  return path
end

return summary
