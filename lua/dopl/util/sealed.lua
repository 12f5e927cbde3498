--- util/sealed.lua - JSON files that know whether they are whole.
--
-- A sealed file holds a value and the hash of the value's text. It is written beside, synced and
-- renamed, so it is there whole or not at all; one that was damaged later, by a byte cut off or
-- changed, is refused when it is read. Numbers that JSON lacks (NaN, infinities) are kept.
-- @module dopl.util.sealed

local core = require "dopl.core"
local json = require "dopl.util.json"

local sealed = {}

local NUMBER <const> = "not finite" -- the key of a table that stands for such a number
local named <const> = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

local function name_of(x)
  return x ~= x and "nan" or x > 0 and "inf" or "-inf"
end

local function pack(value)
  if math.type(value) == "float" and (value ~= value or value - value ~= 0) then
    return { [NUMBER] = name_of(value) }
  end
  if type(value) ~= "table" then return value end
  local out = json.is_array(value) and json.array() or {}
  for key, item in pairs(value) do out[key] = pack(item) end
  return out
end

local function unpack_value(value)
  if type(value) ~= "table" then return value end
  if value[NUMBER] then return named[value[NUMBER]] end
  for key, item in pairs(value) do value[key] = unpack_value(item) end
  return value
end

local function text_of(value, hash)
  return json.encode({ hash = hash, value = value }, { indent = 2 }) .. "\n"
end

--- Writes a value.
-- @tparam string path
-- @tparam table value numbers, strings, booleans and tables of them
function sealed.save(path, value)
  local plain = pack(value)
  core.files.write(path, text_of(plain, core.hash(json.encode(plain))))
end

--- Reads a value back.
-- @tparam string path
-- @treturn ?table nil where the file is missing or damaged
-- @treturn ?string why
function sealed.load(path)
  local text, reason = core.files.read(path)
  if not text then return nil, reason end
  local file, wrong = json.read(path)
  if wrong then return nil, wrong .. " (cut short or damaged)" end
  local value = type(file) == "table" and file.value
  -- the very bytes that `save` writes
  if type(value) ~= "table" or file.hash ~= core.hash(json.encode(value))
    or text ~= text_of(value, file.hash) then
    return nil, path .. " is damaged: its content is not what was written"
  end
  return unpack_value(value)
end

return sealed
