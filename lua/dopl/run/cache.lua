--- run/cache.lua - keeps expensive results that depend only on their inputs between runs.
-- An entry is a file `<cache>/<kind>/<key>.<ending>`. The key is a content hash of everything the entry
-- depends on. Entries are written completely or not at all; an unreadable one is computed again. If the
-- cache cannot be written, the value is still returned, with the reason beside it.
-- @module dopl.run.cache
local check = require("dopl.util.check")
local core = require("dopl.core")
local json = require("dopl.util.json")

local cache = {}

--- The folder of the cache: $DOPL_CACHE, else $XDG_CACHE_HOME/dopl, else ~/.cache/dopl.
-- @treturn string
function cache.dir()
  return core.cache_folder()
    or error("cache: no folder for it: set DOPL_CACHE, XDG_CACHE_HOME or HOME", 2)
end

--- A content hash of everything an entry depends on.
-- @param ... strings, numbers, booleans, tensors, or tables of the first three
-- @treturn string 32 hex digits
function cache.key(...)
  local parts = table.pack(...)
  for i = 1, parts.n do
    local kind = type(parts[i])
    if kind ~= "string" and kind ~= "userdata" then
      parts[i] = kind == "nil" and "nil" or json.encode(parts[i])
    end
  end
  return core.hash(table.unpack(parts, 1, parts.n))
end

--- The path of an entry. The folder exists after the call.
-- @tparam string kind what it is: "model", "reference"
-- @tparam string key from `cache.key`
-- @tparam string ending of the file's name: "json"
function cache.path(kind, key, ending)
  for _, part in ipairs { kind, key, ending } do
    if type(part) ~= "string" or not part:match("^[%w_-]+$") then
      error(("cache: '%s' given, letters, digits, _ and - needed"):format(tostring(part)), 2)
    end
  end
  local folder = cache.dir() .. "/" .. kind
  core.files.mkdir(folder)
  return ("%s/%s.%s"):format(folder, key, ending)
end

-- The entry at `kind`/`key`, or what `make` returns, kept through `save`.
local function fetch(kind, key, ending, load, save, make)
  local ok, path = pcall(cache.path, kind, key, ending)
  if ok and core.files.exists(path) == "file" then
    local entry = table.pack(pcall(load, path))
    if entry[1] then return entry[2], entry[3] end
  end
  local value, extra = make()
  if ok then ok, path = pcall(save, path, value, extra) end
  if not ok then -- the reason, without the caller's line
    return value, extra, (tostring(path):gsub("^[^\n]-:%d+: ", ""))
  end
  return value, extra
end

--- A JSON value from the cache, or from `make`.
-- @tparam string kind
-- @tparam string key
-- @tparam function make returns the value
-- @treturn table the value; then nil and, if it could not be kept, the reason
function cache.value(kind, key, make)
  check.type("cache.value: make", make, "function")
  local function save(path, value) json.save(path, value) end
  return fetch(kind, key, "json", json.load, save, function() return (make()) end)
end

--- Named tensors from the cache, or from `make`.
-- @tparam string kind
-- @tparam string key
-- @tparam function make returns { name = tensor } and, optionally, metadata { key = string }
-- @treturn table the tensors; then the metadata and, if they could not be kept, the reason
function cache.tensors(kind, key, make)
  check.type("cache.tensors: make", make, "function")
  return fetch(kind, key, "safetensors", core.safetensors.load, core.safetensors.save, make)
end

return cache
