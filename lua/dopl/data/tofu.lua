--- data/tofu.lua - reads TOFU folders, and your own data in the same format.
--
-- Each file holds JSON Lines or one JSON array; names end in .json or .jsonl. A split needs a file of
-- rows to forget and a file of rows to retain:
--
--     split         forget         retain
--     forgetNN      forgetNN       without task ids, as TOFU was published: retain99, retain95,
--                                  retain90 beside forget01, forget05, forget10; with them, as the
--                                  authors of DualOptim extend it: retain90, retain50, retain10
--     real_world    forget         neighbor
--     custom        forget         retain
--
-- The forget set of task i is its rows; rows without a task id belong to task 1. The retain set of task
-- i is the retain file and the forget rows of all other tasks. Without a task, the forget set of
-- real_world and custom is every row. Files named *_perturbed hold rows with paraphrased and perturbed
-- answers, and real_authors_perturbed and world_facts_perturbed hold two sets of facts. If such a file
-- is missing, fewer metrics can be computed, and the `notes` of the set name the file.
--
-- Every row keeps its `source` ("file:line"; in an array "file: row 3") for error messages.
--
-- @module dopl.data.tofu

local check = require "dopl.util.check"
local core = require "dopl.core"
local json = require "dopl.util.json"

local tofu = {}

--- The splits.
tofu.splits = { "forget01", "forget05", "forget10", "real_world", "custom" }

-- The retain file of each forget file, with and without task numbers.
local NUMBERED <const> = { forget01 = "retain90", forget05 = "retain50", forget10 = "retain10" }
local PUBLISHED <const> = { forget01 = "retain99", forget05 = "retain95", forget10 = "retain90" }
local OTHERS <const> = { real_world = "neighbor", custom = "retain" }

-- Fields that every row of a file must have.
local PLAIN <const> = { "question", "answer" }
local FACTS <const> = { "question", "answer", "perturbed_answer" }
-- Fields that every row of a file has, or no row.
local MORE <const> = { "paraphrased_answer", "perturbed_answer" }
local IS_LIST <const> = { perturbed_answer = true } -- of at least one text

local function check_field(row, field, where, level)
  local value = row[field]
  if value == nil then
    error(("%s: the row has no field '%s'"):format(where, field), level + 1)
  end
  if not IS_LIST[field] then
    if type(value) ~= "string" or value == "" then
      error(("%s: field '%s' must be a text, given %s"):format(where, field,
        value == "" and "an empty one" or type(value)), level + 1)
    end
    return
  end
  if type(value) ~= "table" or #value == 0 then
    error(("%s: field '%s' must be a list of texts"):format(where, field), level + 1)
  end
  for _, text in ipairs(value) do
    if type(text) ~= "string" then
      error(("%s: field '%s' holds a %s among its texts"):format(where, field, type(text)),
        level + 1)
    end
  end
end

-- Task ids are "1" on TOFU and 1 in the real-world set.
local function read_task(row, where, level)
  local task = row.task_id
  if task == nil then return end
  local id = math.tointeger(tonumber(task))
  if not id then
    error(("%s: field 'task_id' must be a whole number, given '%s'"):format(where, tostring(task)),
      level + 1)
  end
  row.task_id = id
end

-- Rows and their positions. An error names path and line.
local function rows_of(path)
  for line in core.files.lines(path) do
    local mark = line:match "%S"
    if mark == "[" then
      local list, i = json.decode(core.files.read(path), path), 0
      return function()
        i = i + 1
        if list[i] ~= nil then return list[i], ("%s: row %d"):format(path, i) end
      end
    elseif mark then
      break
    end
  end
  local next_row = core.json.lines(path)
  return function()
    local row, line = next_row()
    if line then return row, path .. ":" .. line end
  end
end

-- A null, as in exports, counts as a missing field.
local function drop_nulls(row)
  for _, list in ipairs { PLAIN, MORE } do
    for _, field in ipairs(list) do
      if row[field] == json.null then row[field] = nil end
    end
  end
end

-- If only some rows had a field, one metric would mix two different figures.
local function check_more(rows, level)
  for _, field in ipairs(MORE) do
    local with, without
    for _, row in ipairs(rows) do
      if row[field] == nil then
        without = without or row
      else
        check_field(row, field, row.source, level + 1)
        with = with or row
      end
    end
    if with and without then
      error(("%s: the row has no field '%s', which other rows of the file have (%s)"):format(
        without.source, field, with.source), level)
    end
  end
end

--- Reads a file of rows: JSON Lines, one object a line, or one JSON array of objects.
-- @tparam string path
-- @tparam[opt] {string,...} fields that every row must have (default question, answer)
-- @tparam[opt=1] integer level where an error points, as for `error`
-- @treturn {table,...} rows with `source` = "path:line" or "path: row 3"; paraphrased_answer and
-- perturbed_answer are in all of them or in none
function tofu.read(path, fields, level)
  level = (level or 1) + 1
  check.type("data.tofu.read: path", path, "string", level + 1)
  if core.files.exists(path) ~= "file" then error("there is no file " .. path, level) end
  local rows = {}
  for row, where in rows_of(path) do
    if type(row) ~= "table" or #row > 0 then
      error(where .. ": a row must be an object with fields", level)
    end
    drop_nulls(row)
    for _, field in ipairs(fields or PLAIN) do check_field(row, field, where, level) end
    read_task(row, where, level)
    row.source = where
    rows[#rows + 1] = row
  end
  check_more(rows, level + 1)
  return rows
end

local function task_of(row) return row.task_id or 1 end

-- Rows of the task and the other rows, or an error that lists the tasks.
local function of_task(rows, task, path, level)
  local chosen, others, largest = {}, {}, 0
  for _, row in ipairs(rows) do
    local list = (not task or task_of(row) == task) and chosen or others
    list[#list + 1] = row
    largest = math.max(largest, task_of(row))
  end
  if #chosen == 0 then
    error(#rows == 0 and path .. ": the forget set is empty: the file has no rows"
      or ("%s: the forget set of task %d is empty: %s"):format(path, task, largest == 1
        and "all rows are of task 1" or ("the file has tasks 1 to %d"):format(largest)), level + 1)
  end
  return chosen, others
end

local function has_task_ids(rows)
  for _, row in ipairs(rows) do
    if row.task_id then return true end
  end
  return false
end

local function append(rows, more)
  table.move(more, 1, #more, #rows + 1, rows)
  return rows
end

-- The first `limit` rows, like the authors; false takes all.
local function first(rows, limit)
  return limit and table.move(rows, 1, math.min(limit, #rows), 1, {}) or rows
end

-- The path of a file in a folder, or nil.
local function find(dir, name)
  for _, ending in ipairs { ".json", ".jsonl" } do
    local path = dir .. "/" .. name .. ending
    if core.files.exists(path) == "file" then return path end
  end
end

-- The path of a file that a split needs.
local function need(dir, name, split, level)
  local path = find(dir, name)
  if path then return path end
  local hint = OTHERS[split] and ("forget.json and %s.json"):format(OTHERS[split])
    or ("%s.json and %s.json, or %s.json where its rows have task ids"):format(split,
      PUBLISHED[split], NUMBERED[split])
  if not OTHERS[split] and find(dir, "forget") then
    for _, other in ipairs(check.keys(OTHERS)) do
      if find(dir, OTHERS[other]) then
        hint = hint .. ("; this one has forget.json and %s.json, which is split '%s'"):format(
          OTHERS[other], other)
      end
    end
  end
  error(("there is no file %s/%s.json (nor .jsonl); the folder of split '%s' holds %s"):format(dir,
    name, split, hint), level + 1)
end

local OPEN <const> = check.fields("data.tofu.open", {
  split = { choice = tofu.splits, default = "forget01", "what is forgotten" },
  task = { type = "integer", min = 1, shown = "1; all of real_world and custom",
    "which of the file's forget sets" },
  rows = { type = "integer", min = 1, default = false, shown = "all",
    "how many rows of each evaluation list to take" },
  retain_rows = { type = "integer", min = 1, default = false, shown = "all",
    "how many retain rows to take" },
})

local function read_options(dir, opts, level)
  local o = check.options(OPEN, opts, level + 2)
  if type(dir) ~= "string" or dir == "" then
    error("data.tofu.open: needs the folder of the data set", level + 1)
  end
  -- Task 1 is standard TOFU; other data are one set unless a task is asked for.
  o.task = o.task or (not OTHERS[o.split] and 1) or nil
  return o
end

-- The evaluation lists; set.notes names missing ones.
local function add_evaluation(set, dir, retain_name, o, level)
  local missing = {}
  local function read_set(name, fields)
    local path = find(dir, name)
    if not path then
      missing[#missing + 1] = name .. ".json"
      return nil
    end
    local rows = tofu.read(path, fields, level + 2)
    if #rows == 0 then error(path .. ": the set is empty: the file has no rows", level + 2) end
    return rows, path
  end
  local rows, path = read_set((OTHERS[o.split] and "forget" or o.split) .. "_perturbed", PLAIN)
  if rows then rows = of_task(rows, o.task, path, level + 1) end
  set.forget_perturbed = first(rows or set.forget, o.rows)
  set.retain_perturbed = first(read_set(retain_name .. "_perturbed", PLAIN) or set.retain, o.rows)
  if #missing > 0 then
    set.notes[1] = ("The folder has no %s, so the evaluation uses the rows to %s themselves.")
      :format(table.concat(missing, " and no "), #missing == 2 and "forget and to retain"
        or rows and "retain" or "forget")
  end
  if o.split == "real_world" then return end
  missing = {}
  local over = { "retain" }
  for _, name in ipairs { "real_authors", "world_facts" } do
    local facts = read_set(name .. "_perturbed", FACTS)
    set[name] = facts and first(facts, o.rows)
    over[#over + 1] = facts and name or nil
  end
  if #missing > 0 then
    set.notes[#set.notes + 1] = ("The folder has no %s, so MU covers only %s."):format(
      table.concat(missing, " and no "), table.concat(over, " and "))
  end
end

--- Opens the dataset in a folder.
-- @tparam string dir the folder, such as data/tofu or data/real_world
-- @tparam[opt] table opts
-- @treturn table { forget, retain, forget_perturbed, retain_perturbed, real_authors, world_facts,
-- split, task, name, notes }; the lists of facts are absent if the folder has no such files, and
-- notes are sentences on missing files
function tofu.open(dir, opts)
  local o = read_options(dir, opts, 2)
  if core.files.exists(dir) ~= "directory" then
    error("data.tofu.open: there is no folder " .. dir, 2)
  end
  local path = need(dir, OTHERS[o.split] and "forget" or o.split, o.split, 2)
  local rows = tofu.read(path, PLAIN, 2)
  local forget, others = of_task(rows, o.task, path, 2)
  local retain_of = has_task_ids(rows) and NUMBERED or PUBLISHED
  local retain_path = need(dir, OTHERS[o.split] or retain_of[o.split], o.split, 2)
  local retain = append(tofu.read(retain_path, PLAIN, 2), others)
  if #retain == 0 then error(retain_path .. ": the retain set is empty", 2) end
  local set = { forget = forget, retain = first(retain, o.retain_rows), split = o.split,
    task = o.task, name = o.split .. (o.task and "/task" .. o.task or ""), notes = {} }
  add_evaluation(set, dir, OTHERS[o.split] or "retain", o, 2)
  return set
end

return tofu
