--- util/check.lua - checks of arguments, with messages that say what would have been right.
-- Errors point at the line that called the checking function's caller: in the library that is the
-- recipe's line.
-- @module dopl.util.check
local core = require "dopl.core"
local fields = require "dopl.util.fields"

local check = {}

local function mark(name)
  return setmetatable({}, { __name = name, __tostring = function() return name end })
end

--- Marks an option without a default that must be given.
check.required = mark("required")
--- Marks an option that may stay nil.
check.optional = mark("optional")

--- The entry of a list that is closest to a word.
-- @tparam string word what was given
-- @tparam {string,...} list the names to choose from
-- @treturn ?string nil if nothing is close enough to be meant
function check.nearest(word, list)
  return core.nearest(word, list)
end

--- The string keys of a table in byte order.
function check.keys(t)
  local keys = {}
  for k in pairs(t) do
    if type(k) == "string" then keys[#keys + 1] = k end
  end
  table.sort(keys)
  return keys
end

--- The keys of a table of values by name, in byte order. Keys that are no names, such as those of
-- values without any, are refused: who reads the table by name would pass over them.
-- @tparam string name what the table is, for the message
-- @tparam table values
-- @tparam string need what a field looks like: "objective = steps"
-- @tparam[opt=3] int level where the error points
function check.named(name, values, need, level)
  level = level or 3
  check.type(name, values, "table", level + 1)
  for key in pairs(values) do
    if type(key) ~= "string" then
      error(("%s: a value without a name (%s), needs { %s }"):format(name, tostring(values[key]),
        need), level)
    end
  end
  local names = check.keys(values)
  if #names == 0 then error(("%s: give at least one { %s }"):format(name, need), level) end
  return names
end

--- The values of a list; a field by name, which who reads the list would pass over, is refused.
-- @tparam string name what the list is, for the message
-- @param list
-- @tparam[opt=3] int level where the error points
-- @return the list
function check.list(name, list, level)
  level = level or 3
  check.type(name, list, "table", level + 1)
  local stray = fields.stray_key(list)
  if stray then error(("%s: a list has no field '%s'"):format(name, stray), level) end
  return list
end

--- Describes the options of a function: dopl.util.fields says how.
-- @function check.fields
-- @tparam string name the function's public name
-- @tparam table described descriptions by field
-- @treturn Fields for `check.options`
check.fields = fields.new

-- Options whose fields are listed with their defaults alone.
local function read_plain(name, given, defaults)
  given = given == nil and {} or given
  local names = check.keys(defaults)
  local wrong = fields.wrong_names(given, names)
  if wrong then return nil, name .. ": " .. wrong end
  local out = {}
  for _, key in ipairs(names) do
    local value, default = given[key], defaults[key]
    if value == nil and default == check.required then
      return nil, ("%s: '%s' is missing"):format(name, key)
    end
    if value == nil and default ~= check.optional then value = default end
    out[key] = value
  end
  return out
end

--- Fills in defaults and refuses what does not fit: `check.options(FIELDS, given, level, where)`, with
-- a description made by `check.fields`, or `check.options(name, given, defaults, level)`, with every
-- allowed field's default, `check.required` or `check.optional`.
-- @tparam Fields|string described a description, or what the options are for
-- @tparam ?table given the caller's options; never changed
-- @tparam[opt] integer|table ... the level where an error points, as for `error` (3), and what the
-- options are for, if not the description's name; or defaults and level
-- @treturn table a new table with every field set
function check.options(described, given, ...)
  local out, wrong, level
  if fields.is(described) then
    local where
    level, where = ...
    out, wrong = fields.read(described, given, where)
  else
    local defaults
    defaults, level = ...
    out, wrong = read_plain(described, given, defaults)
  end
  if wrong then error(wrong, level or 3) end
  return out
end

--- Refuses a value of another type.
-- @tparam string name what the value is, for the message
-- @param value
-- @tparam string kind a Lua type, "integer", or "callable"; several are parted by "|"
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.type(name, value, kind, level)
  if fields.is_a(value, kind) then return value end
  error(("%s: %s, needs %s"):format(name, fields.show(value), (kind:gsub("|", " or "))), level or 3)
end

--- Refuses what lacks a field that is needed of it: what a value can do says what it is.
-- @tparam string name what the value is, for the message
-- @param value
-- @tparam string field
-- @tparam string need what has it: "one of models.new"
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.has(name, value, field, need, level)
  if fields.has(value, field) then return value end
  error(("%s: %s, needs %s"):format(name, fields.show(value), need), level or 3)
end

-- The message for a value of the command line names no line, since no recipe is to blame.
local function refuse(name, message, level)
  if name:sub(1, 2) ~= "--" then error(message, level + 1) end
  error(setmetatable({ exit = 2, message = message },
    { __tostring = function() return message end }), 0)
end

--- Refuses a value that a list does not hold.
-- @tparam string name what the value is, for the message; one that begins with -- is a parameter
-- @param value
-- @tparam table list what it may be
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.choice(name, value, list, level)
  for _, allowed in ipairs(list) do
    if value == allowed then return value end
  end
  refuse(name, ("%s: '%s' %s"):format(name, tostring(value), fields.suggestion(value, list)),
    level or 3)
end

--- Refuses a number outside a range (a NaN is outside every range).
-- @tparam string name what the value is, for the message; one that begins with -- is a parameter
-- @param value
-- @tparam number low
-- @tparam number high both ends are inside
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.range(name, value, low, high, level)
  level = level or 3
  check.type(name, value, "number", level + 1)
  if not (value >= low and value <= high) then
    local needs = ("%s to %s"):format(low, high)
    if high >= math.maxinteger then
      needs = (value == math.huge and "a finite number of at least %s" or "at least %s"):format(low)
    end
    refuse(name, ("%s: %s, needs %s"):format(name, value, needs), level)
  end
  return value
end

return check
