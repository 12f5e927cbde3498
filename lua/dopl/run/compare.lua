--- run/compare.lua - compares runs: the parameters that differ, and the results.
--
--     ./dopl compare runs/a runs/b          the tables, and runs/compare.html
--
-- Parameters come from params.json, with seed and versions; only those that differ are shown. Results
-- are the rows of kind "result" in metrics.jsonl. A run without results shows its last evaluation, or
-- its last step, for each label.
-- @module dopl.run.compare
local check = require("dopl.util.check")
local core = require("dopl.core")
local json = require("dopl.util.json")
local metrics = require("dopl.metrics")
local columns = require("dopl.report.columns")
local diagnostics = require("dopl.report.diagnostics")
local report = require("dopl.report")
local run = require("dopl.run")

local compare = {}

local MOST_CURVES <const> = 12 -- in one chart

-- ---- reading

-- Short names: A, B, ...
local function name_of(i)
  return i <= 26 and string.char(64 + i) or tostring(i)
end

--- Reads runs.
-- @tparam {string,...} paths of run folders
-- @treturn {table,...} { name = "A", path =, about =, params =, metrics = }
function compare.load(paths)
  local runs = {}
  check.type("compare.load: paths", paths, "table")
  for i, path in ipairs(paths) do
    check.type(("compare.load: path %d"):format(i), path, "string")
    path = #path > 1 and path:gsub("/+$", "") or path
    if core.files.exists(path .. "/run.json") ~= "file" then
      error(("compare: '%s' is not a run: it has no run.json"):format(path), 0)
    end
    local ok, one = pcall(run.load, path)
    if not ok then error(("compare: '%s': %s"):format(path, one), 0) end
    one.name, one.path = name_of(i), path
    runs[i] = one
  end
  return runs
end

-- ---- parameters

local function text_of(value)
  if type(value) == "string" then return value == "" and '""' or value end
  if type(value) == "table" or math.type(value) == "float" then return json.encode(value) end
  return tostring(value)
end

local function flatten(out, prefix, t)
  for _, key in ipairs(check.keys(t)) do
    local value = t[key]
    if type(value) == "table" and #value == 0 then
      flatten(out, prefix .. key .. ".", value)
    else
      out[prefix .. key] = text_of(value)
    end
  end
  return out
end

-- All settings of a run, by dotted name.
local function settings_of(one)
  local out = flatten({}, "", one.params)
  local about = one.about
  for _, key in ipairs { "seed", "threads", "device", "recipe" } do
    if out[key] == nil and about[key] ~= nil then out[key] = text_of(about[key]) end
  end
  flatten(out, "version.", about.versions or {})
  out.out, out.resume = nil, nil -- where it runs
  local recipe = core.files.read(one.path .. "/recipe.lua")
  if recipe then out["text of the recipe"] = core.hash(recipe):sub(1, 8) end
  return out
end

--- The parameters that differ.
-- @tparam {table,...} runs from `compare.load`
-- @treturn {table,...} rows { label = parameter, A = text, B = text, ... }
function compare.parameters(runs)
  local settings, names = {}, {}
  for i, one in ipairs(runs) do
    settings[i] = settings_of(one)
    for key in pairs(settings[i]) do names[key] = true end -- a set: the order changes nothing
  end
  local rows = {}
  for _, key in ipairs(check.keys(names)) do
    local row, differs = { label = key }, false
    for i, one in ipairs(runs) do
      row[one.name] = settings[i][key] or "–"
      differs = differs or settings[i][key] ~= settings[1][key]
    end
    if differs then rows[#rows + 1] = row end
  end
  return rows
end

-- ---- results

-- The numbers of several results with one label: mean and deviation.
local function merged_results(list)
  local values = {}
  for _, key in ipairs(check.keys(list[#list])) do
    local numbers = {}
    for k, row in ipairs(list) do numbers[k] = type(row[key]) == "number" and row[key] or nil end
    if #numbers == #list and not run.time_fields[key] then
      values[key] = #list > 1 and metrics.spread(numbers) or numbers[1]
    end
  end
  return values
end

-- The last of each number.
local function last_values(list)
  local values = {}
  for _, row in ipairs(list) do
    for _, key in ipairs(check.keys(row)) do
      local wanted = row.kind ~= "step" or key == "step" or key:match "^loss_"
      if wanted and type(row[key]) == "number" and not run.time_fields[key] then
        values[key] = row[key]
      end
    end
  end
  return values
end

-- The numbers of rows of a kind, by label in the order in which labels first came.
local function by_label(rows, kind)
  local labels, lists = {}, {}
  for _, row in ipairs(rows) do
    if row.kind == kind then
      local label = tostring(row.label or "")
      if not lists[label] then
        labels[#labels + 1], lists[label] = label, {}
      end
      table.insert(lists[label], row)
    end
  end
  local out = {}
  for i, label in ipairs(labels) do
    local merge = kind == "result" and merged_results or last_values
    out[i] = { label = label, values = merge(lists[label]) }
  end
  return out
end

local function results_of(one)
  for _, kind in ipairs { "result", "evaluation", "step" } do
    local list = by_label(one.metrics, kind)
    if #list > 0 then return list end
  end
  return {}
end

-- Labels of models before any method. They are shown for comparison and not ranked.
local UNTOUCHED <const> = { original = true, retrained = true }

--- The results: one row per label and run, rows of one label together.
-- @tparam {table,...} runs
-- @treturn {table,...} rows { label = "DO+  A", <figure> = number or { mean, std } }
function compare.results(runs)
  local order, rows_of = {}, {}
  for _, one in ipairs(runs) do
    for _, result in ipairs(results_of(one)) do
      if not rows_of[result.label] then
        order[#order + 1], rows_of[result.label] = result.label, {}
      end
      local row = { label = one.name .. (result.label ~= "" and "  " .. result.label or ""),
        reference = UNTOUCHED[result.label] }
      for _, key in ipairs(check.keys(result.values)) do row[key] = result.values[key] end
      table.insert(rows_of[result.label], row)
    end
  end
  local rows = {}
  for _, label in ipairs(order) do
    table.move(rows_of[label], 1, #rows_of[label], #rows + 1, rows)
  end
  return rows
end

-- The benchmark's columns if it made the rows, otherwise all figures.
local function columns_of(rows)
  local known = {}
  for _, column in ipairs(columns.standard) do
    for _, row in ipairs(rows) do
      if row[column.key] ~= nil then
        known[#known + 1] = column
        break
      end
    end
  end
  return #known > 0 and known or nil
end

-- ---- showing

local function run_rows(runs)
  local rows = {}
  for i, one in ipairs(runs) do
    local about = one.about
    rows[i] = { label = one.name, run = one.path, status = about.status, started = about.started,
      seconds = about.seconds or "–" }
  end
  return rows
end

local RUN_COLUMNS <const> = { "run", "status", "started", { key = "seconds", digits = 0 } }

local function names_of(runs)
  local names = {}
  for i, one in ipairs(runs) do names[i] = one.name end
  return names
end

-- Loss curves of all runs in one picture each, and the diagnostics.
local function charts_of(runs)
  local rows, curves, n, fields = {}, {}, 0, {}
  for _, one in ipairs(runs) do
    for _, row in ipairs(one.metrics) do
      row.label = one.name .. (row.label and "  " .. row.label or "")
      rows[#rows + 1] = row
      if row.kind == "step" then
        if not curves[row.label] then curves[row.label], n = true, n + 1 end
        for _, key in ipairs(check.keys(row)) do
          if key:match "^loss_" then fields[key] = true end
        end
      end
    end
  end
  local charts = {}
  for _, key in ipairs(n <= MOST_CURVES and check.keys(fields) or {}) do
    local steps = {}
    for _, row in ipairs(rows) do
      if row.kind == "step" then steps[#steps + 1] = row end
    end
    charts[#charts + 1] = report.curves(steps, { fields = { key }, by = "label",
      title = (key:gsub("^loss_(.*)$", "%1 loss")) })
  end
  local seen = n <= MOST_CURVES and diagnostics.charts(rows) or {}
  return table.move(seen, 1, #seen, #charts + 1, charts)
end

--- The comparison as text for the terminal.
-- @tparam {table,...} runs
-- @treturn string
function compare.text(runs)
  local out = { report.text(run_rows(runs), { columns = RUN_COLUMNS }) }
  local parameters, results = compare.parameters(runs), compare.results(runs)
  out[#out + 1] = #parameters > 0 and report.text(parameters, { columns = names_of(runs),
    head = "parameters that differ" }) or "All parameters are the same.\n"
  if #results > 0 then
    out[#out + 1] = report.text(results, { columns = columns_of(results), head = "results" })
  end
  return table.concat(out, "\n")
end

--- The comparison as a page.
-- @tparam {table,...} runs
-- @treturn string HTML
function compare.html(runs)
  local parameters, results = compare.parameters(runs), compare.results(runs)
  local tables = { { title = "Runs", rows = run_rows(runs), columns = RUN_COLUMNS } }
  if #parameters > 0 then
    tables[#tables + 1] = { title = "Parameters that differ", rows = parameters,
      columns = names_of(runs), head = "parameter" }
  end
  if #results > 0 then
    local known = columns_of(results)
    tables[#tables + 1] = { title = "Results", rows = results, columns = known }
    if known then tables[#tables + 1] = { title = "All figures", rows = results } end
  end
  return report.html { title = ("%d runs side by side"):format(#runs), tables = tables,
    charts = charts_of(runs), notes = #parameters == 0 and { "All parameters are the same." } or {} }
end

-- ---- the command

local USAGE <const> = [[
usage: dopl compare [--out DIR] RUN RUN ...

Prints what was set differently in runs and what came out, side by side, and writes the same with
curves to compare.html in the folder for runs (default: runs).]]

local function leave(status, message) error({ exit = status, message = message }, 0) end

--- `dopl compare`.
-- @param ... its arguments
function compare.main(...)
  local words, paths, out, i = { ... }, {}, nil, 1
  while words[i] do
    local word = words[i]
    if word == "--help" or word == "-h" then
      print(USAGE)
      return
    elseif word == "--out" then
      i, out = i + 1, words[i + 1]
      if not out then leave(2, "--out needs a value") end
    elseif word:match "^%-%-out=" then
      out = word:sub(#"--out=" + 1)
    elseif word:match "^%-" then
      leave(2, ("compare: unknown option %s (there is --out)"):format(word))
    else
      paths[#paths + 1] = word
    end
    i = i + 1
  end
  if #paths == 0 then leave(2, "compare: which runs? dopl compare RUN RUN ...") end
  local ok, runs = pcall(compare.load, paths)
  if not ok then leave(1, runs) end
  print((compare.text(runs):gsub("\n$", "")))
  out = out or core.options.out
  core.files.mkdir(out)
  core.files.write(out .. "/compare.html", compare.html(runs))
  print(("\nas a page: %s/compare.html"):format(out))
end

return compare
