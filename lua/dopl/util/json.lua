--- util/json.lua - JSON: strict in, canonical out.
-- `decode` keeps integers and reals apart, refuses duplicate keys and says name:line:column. A number
-- that fits neither an integer nor a real (12345678901234567890, 1e999) is kept as a string.
-- `encode` sorts keys and prints the shortest digits that read back as the same number.
-- @module dopl.util.json
local core = require("dopl.core")
local files = require("dopl.util.files")

local json = {
  --- decode(text [, name]): the value; `name` stands in front of messages.
  decode = core.json.decode,
  --- encode(value [, { indent = spaces, nan = "null" }]): the text; a NaN is refused unless told.
  encode = core.json.encode,
  --- array([t]): marks a table so that it is written as [] when it is empty.
  array = core.json.array,
  --- is_array(value): whether it is a table with that mark; an empty array that was decoded has it.
  is_array = core.json.is_array,
  --- What stands for null in a decoded table.
  null = core.json.null,
}

local function none() end

--- Iterates over value and line number of a JSON Lines file. One that was discarded has no lines.
-- @tparam string path
function json.lines(path)
  if files.discarding() and not core.files.exists(path) then return none end
  return core.json.lines(path)
end

--- Reads one value from a file that may be missing or damaged.
-- @tparam string path
-- @return the value; nil where there is none
-- @treturn ?string why: the file's name, line and column, of no line of Lua
function json.read(path)
  local text, reason = core.files.read(path)
  if not text then return nil, reason end
  local ok, value = pcall(json.decode, text, path)
  if ok then return value end
  return nil, value:sub(value:find(path, 1, true) or 1)
end

--- Reads one value from a file.
-- @tparam string path
function json.load(path)
  local value, reason = json.read(path)
  if reason then error(reason, 2) end
  return value
end

--- Writes one value to a file, whole or not at all.
-- @tparam string path
-- @param value
-- @tparam[opt] table options as for `encode`; two spaces of indent where not said
function json.save(path, value, options)
  core.files.write(path, json.encode(value, options or { indent = 2 }) .. "\n")
end

--- Writes an array of values as JSON Lines, whole or not at all.
-- @tparam string path
-- @tparam table rows
function json.save_lines(path, rows)
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = json.encode(row, { nan = "null" }) .. "\n" end
  core.files.write(path, table.concat(lines))
end

return json
