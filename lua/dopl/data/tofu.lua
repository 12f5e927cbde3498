--- tofu.lua - reads TOFU folders (and the real-world set in the same form) as row lists.
--
-- A folder holds files of JSON Lines, or of one JSON array each, as data sets are exported too:
-- forgetNN.json with task ids, retainMM.json (forget01 goes with retain90, forget05 with retain50,
-- forget10 with retain10) and their perturbed companions. The
-- forget set of task i is its rows; its retain set is retainMM plus the forget rows of all other
-- tasks. A real-world folder has forget.json and neighbor.json instead; without a task its forget
-- set is every row, and there the facts people are asked for have no companion fact sets.
--
-- Every row keeps its `source` ("file:line"; of an array "file: row 3"), so that a complaint about a
-- row can name it.
--
-- @module dopl.data.tofu

local check = require "dopl.check"
local core = require "dopl.core"
local json = require "dopl.json"

local tofu = {}

--- The retain file of each forget file.
tofu.retain_of = { forget01 = "retain90", forget05 = "retain50", forget10 = "retain10" }

--- What can be forgotten.
tofu.splits = { "forget01", "forget05", "forget10", "real_world" }

-- Fields of each kind of file; a list must have at least one text.
local PLAIN <const> = { "question", "answer" }
local PERTURBED <const> = { "question", "answer", "paraphrased_answer", "perturbed_answer" }
local FACTS <const> = { "question", "answer", "perturbed_answer" }
local IS_LIST <const> = { perturbed_answer = true }

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

-- Rows and where each stands. What is broken is an error that names path and line.
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

--- Reads a file of rows: JSON Lines, one object a line, or one JSON array of objects.
-- @tparam string path
-- @tparam[opt] {string,...} fields that every row must have (default question, answer)
-- @tparam[opt] string hint what to say besides when the file is not there
-- @tparam[opt=1] integer level where an error points, as for `error`
-- @treturn {table,...} rows with `source` = "path:line" or "path: row 3"
function tofu.read(path, fields, hint, level)
  level = (level or 1) + 1
  check.type("data.tofu.read: path", path, "string", level + 1)
  if core.files.exists(path) ~= "file" then
    error(("there is no file %s%s"):format(path, hint and "; " .. hint or ""), level)
  end
  local rows = {}
  for row, where in rows_of(path) do
    if type(row) ~= "table" or #row > 0 then
      error(where .. ": a row must be an object with fields", level)
    end
    for _, field in ipairs(fields or PLAIN) do check_field(row, field, where, level) end
    read_task(row, where, level)
    row.source = where
    rows[#rows + 1] = row
  end
  return rows
end

local function of_task(rows, task)
  local chosen, others = {}, {}
  for _, row in ipairs(rows) do
    local list = (not task or row.task_id == task) and chosen or others
    list[#list + 1] = row
  end
  return chosen, others
end

local function largest_task(rows)
  local largest = 0
  for _, row in ipairs(rows) do largest = math.max(largest, row.task_id or 0) end
  return largest
end

-- Forget rows of the task and the rest, or an error that says which tasks there are.
local function forget_rows(path, fields, task, hint, level)
  local rows = tofu.read(path, fields, hint, level + 1)
  local chosen, others = of_task(rows, task)
  if #chosen == 0 then
    local largest = largest_task(rows)
    error(#rows == 0 and path .. ": the forget set is empty: the file has no rows"
      or ("%s: the forget set of task %d is empty: %s"):format(path, task, largest == 0
        and "no row has a task_id" or ("the file has tasks 1 to %d"):format(largest)), level + 1)
  end
  return chosen, others
end

local function append(rows, more)
  table.move(more, 1, #more, #rows + 1, rows)
  return rows
end

-- The first `limit` rows, as the authors evaluate; false takes all.
local function first(rows, limit)
  return limit and table.move(rows, 1, math.min(limit, #rows), 1, {}) or rows
end

local DEFAULTS <const> = { split = "forget01", task = 0, rows = false, retain_rows = false }

local function read_options(dir, opts, level)
  local o = check.options("data.tofu.open", opts, DEFAULTS, level + 2)
  level = level + 1
  if type(dir) ~= "string" or dir == "" then
    error("data.tofu.open: needs the folder of the data set", level)
  end
  check.choice("data.tofu.open: split", o.split, tofu.splits, level + 1)
  for _, field in ipairs { "rows", "retain_rows" } do
    local n = o[field]
    if n and (not math.tointeger(n) or n < 1) then
      error(("data.tofu.open: %s must be an integer of at least 1, given %s"):format(field,
        tostring(n)), level)
    end
  end
  local given = opts and opts.task
  if given ~= nil and (not math.tointeger(given) or given < 1) then
    error("data.tofu.open: task must be an integer of at least 1, given " .. tostring(given), level)
  end
  -- Task 1 is standard TOFU; the real-world set is one set unless a task is asked for.
  o.task = given or (o.split ~= "real_world" and 1) or nil
  return o
end

--- A data set from its folder.
-- @tparam string dir the folder, such as data/tofu or data/real_world
-- @tparam[opt] table opts split = "forget01" | "forget05" | "forget10" | "real_world"; task = 1;
-- rows = take the first so many rows of each evaluation list (default all); retain_rows = take the
-- first so many retain rows (default all)
-- @treturn table { forget, retain, forget_perturbed, retain_perturbed, real_authors, world_facts,
-- split, task, name }; the last two lists are absent for the real-world set
function tofu.open(dir, opts)
  local o = read_options(dir, opts, 2)
  if core.files.exists(dir) ~= "directory" then
    error("data.tofu.open: there is no folder " .. dir, 2)
  end
  local real = o.split == "real_world"
  local names = real and { "forget", "neighbor", "neighbor_perturbed" }
    or { o.split, tofu.retain_of[o.split], "retain_perturbed" }
  local function path(name) return dir .. "/" .. name .. ".json" end
  local hint = ("the folder of split '%s' holds %s.json, %s.json, %s_perturbed.json, %s.json%s")
    :format(o.split, names[1], names[2], names[1], names[3],
      real and "" or ", real_authors_perturbed.json, world_facts_perturbed.json")

  local function read_set(name, fields) -- of an evaluation, which needs a row
    local rows = tofu.read(path(name), fields, hint, 3)
    if #rows == 0 then error(path(name) .. ": the set is empty: the file has no rows", 3) end
    return first(rows, o.rows)
  end

  local forget, others = forget_rows(path(names[1]), PLAIN, o.task, hint, 2)
  local retain = append(tofu.read(path(names[2]), PLAIN, hint, 2), others)
  if #retain == 0 then error(path(names[2]) .. ": the retain set is empty", 2) end
  local set = {
    forget = forget,
    retain = first(retain, o.retain_rows),
    forget_perturbed = first(
      (forget_rows(path(names[1] .. "_perturbed"), PERTURBED, o.task, hint, 2)), o.rows),
    retain_perturbed = read_set(names[3], PERTURBED),
    split = o.split, task = o.task,
    name = o.split .. (o.task and "/task" .. o.task or ""),
  }
  if not real then
    for _, name in ipairs { "real_authors", "world_facts" } do
      set[name] = read_set(name .. "_perturbed", FACTS)
    end
  end
  return set
end

return tofu
