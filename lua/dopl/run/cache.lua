--- run/cache.lua - what is dear to make and depends on nothing but its inputs, kept between runs.
-- An entry is a file `<cache>/<kind>/<key>.<ending>`; the key is a content hash of everything the
-- entry depends on. Entries are written whole; one that cannot be read back is made again. A cache
-- that cannot be written costs time only: the value is returned with the reason beside it.
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

--- Where an entry is or will be; the folder exists after the call.
-- @tparam string kind what it is: "model", "reference"
-- @tparam string key from `cache.key`
-- @tparam string ending of the file's name: "json"
function cache.path(kind, key, ending)
  for _, part in ipairs { kind, key, ending } do
    if type(part) ~= "string" or not part:match("^[%w_-]+$") then
      error(("cache: '%s': letters, digits, _ and - are needed"):format(tostring(part)), 2)
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
  if not ok then -- the reason, without the line of whoever asked
    return value, extra, (tostring(path):gsub("^[^\n]-:%d+: ", ""))
  end
  return value, extra
end

--- A JSON value, made by `make` where the cache has none.
-- @tparam string kind
-- @tparam string key
-- @tparam function make returns the value
-- @treturn table the value; then nil and, where it could not be kept, the reason
function cache.value(kind, key, make)
  check.type("cache.value: make", make, "function")
  local function save(path, value) json.save(path, value) end
  return fetch(kind, key, "json", json.load, save, function() return (make()) end)
end

--- Named tensors, made by `make` where the cache has none.
-- @tparam string kind
-- @tparam string key
-- @tparam function make returns { name = tensor } and, optionally, metadata { key = string }
-- @treturn table the tensors; then the metadata and, where they could not be kept, the reason
function cache.tensors(kind, key, make)
  check.type("cache.tensors: make", make, "function")
  return fetch(kind, key, "safetensors", core.safetensors.load, core.safetensors.save, make)
end

return cache
