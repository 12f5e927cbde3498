--- experiments/study.lua - compares variants over forget sets and seeds.
--
--     local p = dopl.params(study.params())
--     local run <close> = dopl.run.open {}
--     local s = study.run(p, run, { { label = "a", optimizer = ... }, { label = "b", ... } })
--     study.report(run, p, { s:part { title = "a or b", paper = "table6" } }, { title = "..." })
--
-- Every variant runs on the same forget sets and seeds, so differences are paired.
-- @module dopl.experiments.study

local check = require "dopl.util.check"
local core = require "dopl.core"
local diagnostics = require "dopl.report.diagnostics"
local loss = require "dopl.train.loss"
local json = require "dopl.util.json"
local metrics = require "dopl.metrics"
local order = require "dopl.experiments.order"
local plot = require "dopl.report.plot"
local report = require "dopl.report"
local schedule = require "dopl.train.schedule"
local fit_settings = require "dopl.train.settings"
local settings = require "dopl.experiments.settings"
local summary = require "dopl.experiments.summary"
local tofu = require "dopl.experiments.tofu"

local study = {}
local Study = {}
Study.__index = Study

local PERCENT <const> = 100

--- The parameters of a recipe that compares variants: the benchmark's, forget sets and seeds.
-- @tparam[opt] table more a recipe's own; they take precedence
-- @treturn table for dopl.params
function study.params(more)
  local p = {
    steps = { settings.unlearn.steps, "unlearning steps, all objectives counted" },
    tasks = { 3, "disjoint forget sets: task 1 to this one" },
    seeds = { 1, "seeds of each forget set: order of the data, choice of refusals" },
    adamw = settings.unlearn.adamw,
  }
  for key, value in pairs(more or {}) do p[key] = value end
  p = tofu.params(p)
  p.task = nil
  return p
end

--- The split of the paper's figures beside ours. The fictitious authors correspond to forget10.
function study.split(p) return p.data == "" and "forget10" or p.split end

local VARIANT <const> = check.fields("", {
  label = { type = "string", required = true, "the name of the row" },
  optimizer = { has = "attach", required = true, "one like optim.adamw { lr = 1e-4 }" },
  schedule = { type = "table|function", shown = "one forget step to five retain steps",
    "one of dopl.schedule" },
  forget = { has = "needs", shown = "loss.idk()", "a loss like loss.idk()" },
  retain = { has = "needs", shown = "loss.gd()", "a loss like loss.gd()" },
  steps = { type = "integer|string|table", shown = "the parameter steps", "as for train.fit" },
  forget_weight = { type = "number", default = 1.0, "factor on the forget loss" },
  retain_weight = { type = "number", default = 1.0, "factor on the retain loss" },
  paper_label = { type = "string", shown = "the label", "the paper's name of the row" },
  evaluate = { default = true, "whether the result is evaluated" },
})
local RUN <const> = check.fields("experiments.study.run", {
  prefix = { default = "", "put before the labels of the run's rows" },
  after = { type = "function",
    "function(bench, variant, row), called while the bench still holds the trained model" },
  watch = { type = "function",
    "function(bench, model) -> numbers, called every `every` steps and before the first" },
  every = { type = "integer", min = 1, "steps between two calls of watch" },
  diagnostics = { type = "table", "as for bench:compare" },
})
local OF <const> = check.fields("experiments.study.of", {
  repetitions = { type = "integer", required = true, "results of each label" },
  parameters = { type = "integer", required = true, "parameters of the model" },
})
local COURSE <const> = check.fields("study:course", {
  title = { type = "string", "the chart's title" },
  scale = { type = "number", default = 1, "a factor on the figure" },
  y = { type = "table", default = {}, "the axis, as for report.plot.line" },
})
local REPORT <const> = check.fields("experiments.study.report", {
  title = { type = "string", required = true, "title of the report" },
  lead = { type = "string", shown = "how many forget sets and seeds", "a sentence below it" },
  shows = { type = "string", required = true, "the first closing sentence: what the recipe shows" },
  notes = { of = "string", default = {}, "more closing sentences" },
  charts = { type = "list", default = {}, "more charts" },
  note = { default = summary.note, shown = "on the metrics", "a line below every table" },
  model = { default = "answers by heart", "a clause on the model" },
})

--- Opens the bench of each forget set, with each seed: f(bench, seed, name of the repetition).
-- @tparam table p resolved `study.params`
-- @param run from dopl.run, or nil
-- @tparam function f
function study.each(p, run, f)
  local own = {}
  for key, value in pairs(p) do own[key] = value end
  check.range("--tasks", p.tasks, 1, math.huge, 4)
  check.range("--seeds", p.seeds, 1, math.huge, 4)
  for task = 2, p.tasks do -- a missing forget set is an error now, before anything is trained
    own.task = task
    local ok, wrong = pcall(tofu.rows, own)
    if not ok then
      error(("%s (--tasks %d asks for forget sets 1 to %d)"):format(tostring(wrong), p.tasks, p.tasks),
        0)
    end
  end
  for task = 1, p.tasks do
    own.task = task
    local bench = tofu.open(own, { run = run })
    for k = 1, p.seeds do
      local name = ("task %d"):format(task) .. (p.seeds > 1 and (", seed %d"):format(k) or "")
      f(bench, core.options.seed + k - 1, name)
    end
  end
end

-- Checks all variants before the first is trained.
local function read_variants(variants)
  local out = {}
  for i, given in ipairs(check.list("study.run: variants", variants, 4)) do
    local where = ("study.run: variant %d"):format(i)
    out[i] = check.options(VARIANT, given, 4, where)
  end
  return out
end

-- Logs what `watch` returns before the first step, as a row of every training run.
local function log_first(run, label, numbers)
  local row = { label = label, step = 0, kind = "evaluation" }
  for _, key in ipairs(check.keys(numbers)) do row[key] = numbers[key] end
  run:log(row)
end

-- The names of the aggregates must be the same on all forget sets, or a mean would mix two kinds.
local function take_names(self, bench)
  self.keys = self.keys or bench.keys
  self.notes = summary.notes({}, self.notes, bench.notes)
  for _, name in ipairs { "UFE", "TFE", "MU", "OVR" } do
    if self.keys[name] ~= bench.keys[name] then
      error(("study.run: forget set '%s' allows %s, the sets before it %s; give all files of the sets "
        .. "the same fields"):format(bench.set.name, bench.keys[name] or "no " .. name,
          self.keys[name] or "no " .. name), 0)
    end
  end
end

--- Unlearns with every variant, on every forget set, with every seed.
-- @tparam table p resolved `study.params`
-- @param run from dopl.run, or nil
-- @tparam {table,...} variants { label =, optimizer =, forget = loss.idk(), retain = loss.gd(),
-- schedule = one forget step to five retain steps, steps =, forget_weight =, retain_weight =,
-- paper_label = the name of the row in a paper, evaluate = true }
-- @tparam[opt] table options
-- @treturn Study rows = mean and deviation by variant, results = one row per training run, keys =
-- names of the aggregates: { OVR = "OVR(R,P,TR,TE)", ... } and others where the data lack what a metric
-- needs
function study.run(p, run, variants, options)
  fit_settings.refuse_old_name("study.run", options, 2)
  local o = check.options(RUN, options)
  check.type("study.run: parameters", p, "table")
  variants = read_variants(variants)
  local self = setmetatable({ p = p, results = {}, repetitions = p.tasks * p.seeds, path = run
    and run.path, trainings = {} }, Study)
  study.each(p, run, function(bench, seed, name)
    take_names(self, bench)
    local function watch(model) return o.watch(bench, model) end
    local first = o.watch and run and watch(bench:original())
    for _, v in ipairs(variants) do
      local label = ("%s%s, %s"):format(o.prefix, v.label, name)
      self.trainings[#self.trainings + 1] = { name = label, label = v.label }
      if first then log_first(run, label, first) end
      local row = bench:compare {
        label = label, seed = seed, optimizer = v.optimizer,
        forget = v.forget or loss.idk(), retain = v.retain or loss.gd(), steps = v.steps or p.steps,
        schedule = v.schedule or schedule.alternate { forget = 1, retain = 5 },
        forget_weight = v.forget_weight, retain_weight = v.retain_weight, evaluate = v.evaluate,
        watch = o.watch and watch, every = o.every, diagnostics = o.diagnostics,
      }
      row.label, row.set = v.label, bench.set.name
      row.bytes_per_parameter = row.state_bytes / bench.model.parameters:numel()
      self.parameters = bench.model.parameters:numel()
      if o.after then o.after(bench, v, row) end
      self.results[#self.results + 1] = row
    end
  end)
  self:summarise()
  for i, row in ipairs(self.rows) do
    row.paper_label = variants[i].paper_label
    for _, key in ipairs { "state_bytes", "bytes_per_parameter" } do
      row[key] = row[key] and row[key].mean -- alike in every repetition
    end
  end
  return self
end

--- A study of existing results.
-- @tparam table p resolved parameters
-- @tparam {table,...} results one row per training run, several with the same label
-- @tparam table options
-- @treturn Study
function study.of(p, results, options)
  local o = check.options(OF, options)
  return setmetatable({ p = p, results = results, repetitions = o.repetitions,
    parameters = o.parameters, keys = results[1] and results[1].keys or metrics.keys,
    notes = {} }, Study):summarise()
end

-- Mean and standard deviation by label, and the interval of OVR.
function Study:summarise()
  self.rows = summary.over(self.results)
  for _, row in ipairs(self.rows) do
    local values = self:values(row.label, self.keys.OVR)
    row.columns = nil
    row.interval = values and order.interval(self:units(row.label, self.keys.OVR))
    row.deviation = values and metrics.spread(values).std
  end
  return self
end

--- The figures of a variant, one per repetition; nil if one is missing.
function Study:values(label, key)
  local values = {}
  for _, result in ipairs(self.results) do
    if result.label == label then
      if type(result[key]) ~= "number" then return nil end
      values[#values + 1] = result[key]
    end
  end
  return values
end

--- The figures for intervals: one per forget set, the mean of its seeds, because seeds on one set are
-- not a sample of forget sets. With a single forget set, one per seed.
-- @treturn ?{number,...} nil if a figure is missing
-- @treturn string what they are
function Study:units(label, key)
  local values, sets, by_set = self:values(label, key), {}, {}
  if not values then return nil end
  local i = 0
  for _, result in ipairs(self.results) do
    if result.label == label then
      i = i + 1
      local set = result.set or ""
      if not by_set[set] then sets[#sets + 1], by_set[set] = set, {} end
      table.insert(by_set[set], values[i])
    end
  end
  if #sets == 1 then return values, "seeds" end
  local out = {}
  for k, set in ipairs(sets) do out[k] = metrics.mean(by_set[set]) end
  return out, "forget sets"
end

--- The columns of a table from DualOptim; see `summary.gap_columns`.
function Study:gap_columns() return summary.gap_columns(self.keys) end

--- The orders to compare in such a table.
function Study:gap_order()
  return {
    { key = self.keys.OVR, paper = "Gap", lower = true },
    { key = "deviation", paper = "Std", lower = true, less = true },
  }
end

--- The row with the largest mean of a figure, among those that pass. A NaN is never the largest. If all
-- are NaN, the first row.
-- @tparam[opt] string key default: OVR
-- @tparam[opt] function passes of a row
function Study:best(key, passes)
  key = key or self.keys.OVR
  local best
  for _, row in ipairs(self.rows) do
    if not passes or passes(row) then
      local x, most = row[key].mean, best and best[key].mean
      if not best or x > most or (most ~= most and x == x) then best = row end
    end
  end
  return best
end

--- The mean of a variant's figure in percent, as text.
-- @tparam string label
-- @tparam[opt] string key default: OVR
-- @treturn string
function Study:percent(label, key)
  local values = self:values(label, key or self.keys.OVR)
  return ("%.1f"):format(PERCENT * metrics.mean(values or {}))
end

--- The rows of a kind ("evaluation", "diagnostics") that the run logged for each training run. A logged
-- null is a NaN again.
-- @tparam string kind
-- @treturn table by variant: one list of rows per repetition
function Study:logged(kind)
  local by_label, by_name = {}, {}
  for _, t in ipairs(self.trainings) do
    by_label[t.label], by_name[t.name] = by_label[t.label] or {}, {}
    table.insert(by_label[t.label], by_name[t.name])
  end
  for row in json.lines(self.path .. "/metrics.jsonl") do
    local is_kind = row.kind == kind or kind == "diagnostics" and diagnostics.is_row(row)
    local list = is_kind and by_name[row.label]
    for field, value in pairs(list and row or {}) do
      if value == json.null then row[field] = 0 / 0 end
    end
    if list then list[#list + 1] = row end
  end
  return by_label
end

--- A logged figure over the steps: one line per variant, its mean over repetitions, deviation shaded.
-- @tparam string kind of the logged rows
-- @tparam string key of the figure
-- @tparam[opt] table options
-- @treturn string SVG
function Study:course(kind, key, options)
  local o = check.options(COURSE, options)
  local logged, list = self:logged(kind), {}
  for i, row in ipairs(self.rows) do
    local s, at = { name = row.label, x = {}, y = {}, low = {}, high = {} }, {}
    for _, rows in ipairs(logged[row.label]) do
      for _, each in ipairs(rows) do
        if not at[each.step] then s.x[#s.x + 1], at[each.step] = each.step, {} end
        table.insert(at[each.step], type(each[key]) == "number" and o.scale * each[key] or nil)
      end
    end
    for k, step in ipairs(s.x) do
      local spread = #at[step] > 0 and metrics.spread(at[step]) or { mean = 0 / 0 }
      s.y[k] = spread.mean
      s.low[k], s.high[k] = spread.mean - (spread.std or 0), spread.mean + (spread.std or 0)
    end
    list[i] = s
  end
  return plot.line { title = o.title, x = { label = "step" }, y = o.y, series = list }
end

-- Sentences that compare our order with the paper's.
local function orders(self, o, found)
  local out = {}
  for _, by in ipairs(o.order) do
    local labels, ours, theirs = {}, {}, {}
    for _, row in ipairs(self.rows) do
      local figures, x = found.rows[row.paper_label or row.label], row[by.key]
      if type(x) == "table" then x = x.mean end
      if figures and figures[by.paper] and x then
        labels[#labels + 1], theirs[#theirs + 1] = row.label, figures[by.paper]
        ours[#ours + 1] = by.less and -x or x
      end
    end
    out[#out + 1] = order.sentence { what = by.name or by.key, their_name = by.paper, ours = ours,
      labels = labels, theirs = theirs, lower = by.lower }
  end
  return out
end

-- A sentence on the pairs of rows that differ beyond chance, and how many the paper orders alike.
local function distinct(self, by, found)
  if self.repetitions < 2 then return "One repetition, so no interval." end
  local lists, theirs, units = {}, {}, nil
  for i, row in ipairs(self.rows) do
    lists[i], units = self:units(row.label, by.key)
    local figures = found and found.rows[row.paper_label or row.label]
    local figure = figures and figures[by.paper]
    theirs[i] = figure and ((by.lower or false) == (by.less or false) and figure or -figure)
  end
  local n, pairs_of, known, agree = order.distinct(lists, theirs)
  local sentence = ("%d of %d pairs of rows differ in %s beyond chance (95%%, paired over %d %s)")
    :format(n, pairs_of, by.key, #lists[1], units)
  if known == 0 then return sentence .. "." end
  return sentence .. (". The paper orders %d of these %d in the same way."):format(agree, known)
end

-- Whether a figure differs between repetitions. A count of bytes does not.
local function varies(self, key)
  for _, row in ipairs(self.rows) do
    local values = self:values(row.label, key)
    for _, x in ipairs(values or {}) do
      if x ~= values[1] then return true end
    end
  end
  return self.repetitions < 2
end

local PART <const> = check.fields("study:part", {
  title = { type = "string", required = true, "title of the table" },
  paper = { type = "string", "a table of a paper" },
  columns = { type = "list", default = {}, "columns besides the usual ones" },
  only = { type = "list", "these columns and no others" },
  order = { type = "list", shown = "OVR", "{ { key, paper, less, lower } }: figures to compare orders "
    .. "by; less: less is better in ours, lower: in the paper's" },
  chart = { type = "string", shown = "bars of OVR", "an SVG" },
})

-- Bars of OVR: with its interval where there are three forget sets or more, else with the deviation.
local function bars(self, title)
  local key, shown = self.keys.OVR, {}
  if not self.rows[1][key] then return nil end
  local list, units = self:units(self.rows[1].label, key)
  for i, row in ipairs(self.rows) do
    shown[i] = { label = row.label, [key] = { mean = row[key].mean,
      std = #list > 2 and row.interval or row[key].std } }
  end
  return { svg = report.bars(study.scaled(shown, key), { columns = { key }, title = title,
    y = { label = "%" } }), caption = ("Mean over %d %s%s."):format(#list, units,
      #list > 2 and "; whiskers: its 95% interval" or #list > 1 and "; whiskers: ± deviation" or "") }
end

--- A paper's table for the split that the study was run on.
-- @tparam string name as "table1"
-- @treturn ?table from dopl.paper; nil where the paper has no figures of these data
-- @treturn ?table how `report.table` names it
function Study:paper_table(name)
  local paper = require "dopl.report.paper"
  local by_split, split = (paper.tables[name] or {}).by_split, study.split(self.p)
  if by_split and not by_split[split] then return nil end
  split = by_split and split
  return paper.table(name, split), { name, split = split }
end

--- A table of a report, with its picture and what its order says.
-- @tparam table options
-- @treturn table for `study.report`
function Study:part(options)
  local o = check.options(PART, options)
  o.order = o.order or { { key = self.keys.OVR, paper = "OVR" } }
  local sentences, found, reference = {}, nil, nil
  if o.paper then found, reference = self:paper_table(o.paper) end
  if found then sentences = orders(self, o, found) end
  for _, by in ipairs(o.order) do
    if self:values(self.rows[1].label, by.key) and varies(self, by.key) then
      sentences[#sentences + 1] = distinct(self, by, found)
    end
  end
  local columns = o.only
  if not columns then
    columns = summary.study_columns(self.keys, self.rows[1], self.repetitions > 1)
    table.move(o.columns, 1, #o.columns, #columns + 1, columns)
  end
  return { rows = self.rows, columns = columns, paper = reference, title = o.title,
    sentences = sentences, parameters = self.parameters,
    notes = summary.notes(self.results, self.notes),
    charts = { o.chart and { svg = o.chart } or bars(self, o.title) } }
end

local PAIRED <const> = "Points of OVR: the mean of the paired differences on the same forget sets and "
  .. "seeds. If zero lies outside the interval, the difference is beyond chance. One in twenty such "
  .. "differences appears by chance alone."

--- A table of the differences in OVR to some rows, in pairs, each with half its 95% interval.
-- @tparam string title
-- @tparam {string,...} baselines labels of the rows to compare all others with
-- @treturn table for `study.report`
function Study:paired(title, baselines)
  local key, shows, sentences, charts = self.keys.OVR, {}, {}, {}
  for i, base in ipairs(baselines) do
    local over, shown, beyond = "over " .. base, {}, {}
    local theirs, units = self:units(base, key)
    for _, row in ipairs(self.rows) do
      if row.label ~= base then
        local mean, half = order.difference(self:units(row.label, key), theirs)
        row[over] = { mean = mean, std = half }
        shown[#shown + 1] = { label = row.label, [over] = row[over] }
        if half and math.abs(mean) > half then
          beyond[#beyond + 1] = ("%s %+.1f ± %.1f"):format(row.label, PERCENT * mean, PERCENT * half)
        end
      end
    end
    shows[i] = { key = over, digits = 1, scale = PERCENT }
    sentences[i] = ("over %s, beyond chance (95%%, paired over %d %s): %s."):format(base, #theirs,
      units, #beyond > 0 and table.concat(beyond, ", ") or "none")
    charts[i] = { svg = report.bars(study.scaled(shown, over), { columns = { over },
      title = ("%s, %s"):format(title, over), y = { label = "points" } }),
      caption = ("Mean difference over %d %s; whiskers: its 95%% interval."):format(#theirs, units) }
  end
  return { rows = self.rows, columns = shows, title = title .. ", ± half the 95% interval",
    short = title, note = PAIRED, sentences = sentences, parameters = self.parameters, charts = charts }
end

--- Rows with one figure in percent, for bars.
function study.scaled(rows, key)
  local out = {}
  for i, row in ipairs(rows) do
    local x = row[key]
    out[i] = { label = row.label, [key] = type(x) == "table"
      and { mean = PERCENT * x.mean, std = x.std and PERCENT * x.std } or x and PERCENT * x }
  end
  return out
end

local CAVEAT <const> = "What this does not show: the model has %.2f M parameters and %s. An order "
  .. "found here is a hypothesis for large models, and differences within chance show no order."

--- Prints the tables and what they say, and writes the report.
-- @param run from dopl.run
-- @tparam table p resolved parameters
-- @tparam {table,...} parts from `Study:part`
-- @tparam table options
function study.report(run, p, parts, options)
  local o = check.options(REPORT, options)
  o.lead = o.lead or ("Mean ± standard deviation; forget sets: %d, seeds of each: %d.")
    :format(p.tasks, p.seeds)
  local notes = { o.shows }
  if p.data == "" and p.tasks and p.tasks >= settings.tuning.sets[1] then
    notes[2] = ("Forget sets from %d on were used to choose the settings."):format(
      settings.tuning.sets[1])
  end
  local tables, charts = {}, table.move(o.charts, 1, #o.charts, 1, {})
  for _, part in ipairs(parts) do
    print("\n" .. part.title)
    report.table(part.rows, { columns = part.columns, paper = part.paper })
    for _, sentence in ipairs(part.sentences) do
      notes[#notes + 1] = #parts > 1 and (part.short or part.title) .. ": " .. sentence or sentence
    end
    tables[#tables + 1] = { rows = part.rows, title = part.title, columns = part.columns,
      paper = part.paper, note = part.note or o.note }
    for _, chart in ipairs(part.charts) do
      charts[#charts + 1] = { svg = chart.svg, caption = chart.caption or o.lead }
    end
  end
  local known = {}
  for i, part in ipairs(parts) do known[i] = { faults = part.notes } end
  local more = summary.notes(known, o.notes)
  table.move(more, 1, #more, #notes + 1, notes)
  notes[#notes + 1] = CAVEAT:format(parts[1].parameters / 1e6, o.model)
  print("\n" .. o.lead .. " " .. o.note)
  for _, note in ipairs(notes) do print(note) end
  if not run then return end
  local path = report.write(run, { title = o.title, lead = o.lead, tables = tables, charts = charts,
    notes = notes, params = p, recipe = core.files.read(run.path .. "/recipe.lua") })
  print("\nreport: " .. path)
  return path
end

return study
