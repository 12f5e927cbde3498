--- util/check.lua - checks of arguments, with messages that say what would have been right.
-- Errors point at the line that called the checking function's caller: in the library that is the
-- recipe's line.
-- @module dopl.util.check
local check = {}

local function mark(name)
  return setmetatable({}, { __name = name, __tostring = function() return name end })
end

--- Marks an option without a default that must be given.
check.required = mark("required")
--- Marks an option that may stay nil.
check.optional = mark("optional")

-- Edits that turn one word into the other: insertion, deletion, substitution, or two neighbours
-- swapped. Words longer than 64 bytes are no misspelling of anything.
local function distance(a, b)
  if #a > 64 or #b > 64 then return math.max(#a, #b) end
  local before, last, now = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    now[0] = i
    local x = a:byte(i)
    for j = 1, #b do
      local y = b:byte(j)
      local best = math.min(last[j] + 1, now[j - 1] + 1, last[j - 1] + (x == y and 0 or 1))
      if i > 1 and j > 1 and x == b:byte(j - 1) and a:byte(i - 1) == y then
        best = math.min(best, before[j - 2] + 1)
      end
      now[j] = best
    end
    before, last, now = last, now, before
  end
  return last[#b]
end

--- The entry of a list that is closest to a word.
-- @tparam string word what was given
-- @tparam {string,...} list what there is
-- @treturn ?string nil where nothing is close enough to be meant
function check.nearest(word, list)
  local best, best_distance
  for _, candidate in ipairs(list) do
    local d = distance(word:lower(), candidate:lower())
    if not best or d < best_distance then best, best_distance = candidate, d end
  end
  if best and best_distance <= math.max(1, math.min(#word, #best) // 3 + 1) then return best end
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
  local first -- of the fields that are none of a list, the same in every run
  for key in pairs(list) do
    if math.type(key) ~= "integer" or key < 1 or key > #list then
      local text = tostring(key)
      if not first or text < first then first = text end
    end
  end
  if first then error(("%s: a list has no field '%s'"):format(name, first), level) end
  return list
end

local function listed(names)
  if #names == 0 then return "none" end
  local quoted = {}
  for i, name in ipairs(names) do quoted[i] = "'" .. tostring(name) .. "'" end
  return table.concat(quoted, ", ")
end

-- What to say after an unknown name: the one that may be meant, else all there are.
local function suggestion(word, names)
  local near = type(word) == "string" and check.nearest(word, names)
  if near then return ("(did you mean '%s'?)"):format(near) end
  return ("(there is %s)"):format(listed(names))
end

--- Fills in defaults and refuses what is not known.
-- @tparam string name what the options are for, as the caller would call it
-- @tparam ?table given the caller's options; never changed
-- @tparam table defaults every allowed field with its default, `check.required` or `check.optional`
-- @tparam[opt=3] int level where the error points, as for `error`
-- @treturn table a new table with every field set
function check.options(name, given, defaults, level)
  level = level or 3
  if given ~= nil and type(given) ~= "table" then
    error(("%s: a %s, a table of options is needed"):format(name, type(given)), level)
  end
  given = given or {}
  local names = check.keys(defaults)
  for _, key in ipairs(check.keys(given)) do
    if defaults[key] == nil then
      error(("%s: unknown field '%s' %s"):format(name, key, suggestion(key, names)), level)
    end
  end
  for key in pairs(given) do
    if type(key) ~= "string" then
      error(("%s: a field named by a %s (%s), names are needed %s"):format(name, type(key),
        tostring(key), suggestion(key, names)), level)
    end
  end
  local out = {}
  for _, key in ipairs(names) do
    local value, default = given[key], defaults[key]
    if value == nil and default == check.required then
      error(("%s: '%s' is missing"):format(name, key), level)
    end
    if value == nil and default ~= check.optional then value = default end
    out[key] = value
  end
  return out
end

-- A value as a message tells it.
local function shown(value)
  local kind = type(value)
  if kind == "number" or kind == "boolean" then return tostring(value) end
  if kind == "string" then return ("the string '%s'"):format(value:sub(1, 40)) end
  if kind == "nil" then return kind end
  return "a " .. kind
end

--- Refuses a value of another type.
-- @tparam string name what the value is, for the message
-- @param value
-- @tparam string kind a Lua type, "integer", or "callable"; several are parted by "|"
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.type(name, value, kind, level)
  local found = type(value)
  for want in kind:gmatch("[^|]+") do
    if found == want or (want == "integer" and math.type(value) == "integer") then return value end
    if want == "callable" then
      local meta = getmetatable(value)
      if found == "function" or (type(meta) == "table" and meta.__call) then return value end
    end
  end
  error(("%s: %s, needs %s"):format(name, shown(value), (kind:gsub("|", " or "))), level or 3)
end

--- Refuses what lacks a field that is needed of it: what a value can do says what it is.
-- @tparam string name what the value is, for the message
-- @param value
-- @tparam string field
-- @tparam string need what has it: "one of models.new"
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.has(name, value, field, need, level)
  local kind = type(value)
  if kind == "table" or kind == "userdata" then
    local ok, found = pcall(function() return value[field] end)
    if ok and found ~= nil then return value end
  end
  error(("%s: %s, needs %s"):format(name, shown(value), need), level or 3)
end

-- A value of the command line is told as such: no line of a recipe is to blame.
local function refuse(name, message, level)
  if name:sub(1, 2) ~= "--" then error(message, level + 1) end
  error(setmetatable({ exit = 2, message = message },
    { __tostring = function() return message end }), 0)
end

--- Refuses a value that is none of a list.
-- @tparam string name what the value is, for the message; one that begins with -- is a parameter
-- @param value
-- @tparam table list what it may be
-- @tparam[opt=3] int level where the error points
-- @return the value
function check.choice(name, value, list, level)
  for _, allowed in ipairs(list) do
    if value == allowed then return value end
  end
  refuse(name, ("%s: '%s' %s"):format(name, tostring(value), suggestion(value, list)), level or 3)
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
