--- run/older.lua - an older run in the folder that a new run will use.
-- dopl overwrites it only if the new run repeats it, or if nothing in it is worth keeping.
-- @module dopl.run.older
local check = require("dopl.util.check")
local core = require("dopl.core")
local json = require("dopl.util.json")

local older = {}

--- Whether the folder that the user named holds an older run, which the new one will overwrite. Any
-- other folder with files is an error. If the folder does not exist, it is created.
-- @tparam string path
-- @treturn boolean
function older.is_in(path)
  if core.files.mkdir(path) then return false end
  local names = core.files.list(path) or {}
  local is_run = core.files.exists(path .. "/run.json") ~= nil
  if #names > 0 and not is_run then
    error(("out: '%s' has files but no run; name a new or an empty folder"):format(path), 3)
  end
  return is_run
end

--- Whether a parameter other than `out` names the folder of a path, or something in it.
-- @tparam string path resolved
-- @tparam table values the new run's parameters
-- @treturn boolean
function older.is_named(path, values)
  for _, key in ipairs(check.keys(values)) do
    local value = values[key]
    if type(value) == "table" and older.is_named(path, value) then return true end
    if type(value) == "string" and value ~= "" and key ~= "out" then
      local is_path, real = pcall(core.files.resolve, value) -- a string may be too long for a path
      if is_path and (real .. "/"):find(path .. "/", 1, true) == 1 and core.files.exists(real) then
        return true
      end
    end
  end
  return false
end

-- Whether the run is worth keeping: it finished, or holds weights or results.
local function has_work(path)
  local about = json.read(path .. "/run.json")
  if type(about) == "table" and about.status == "finished" then return true end
  for _, name in ipairs { "checkpoints", "results" } do
    if #(core.files.list(path .. "/" .. name) or {}) > 0 then return true end
  end
  return false
end

local ELSEWHERE <const> = { out = true, device = true, threads = true } -- where it runs

--- How the older run differs from the new one.
-- @tparam string path
-- @tparam table begin recipe = the new run's recipe, if any; params = its parameters as JSON
-- @treturn ?string nil if the new run repeats the older one, or the older one is not worth keeping
function older.difference(path, begin)
  if not has_work(path) then return nil end
  if core.files.read(path .. "/recipe.lua") ~= begin.recipe then
    return "of another recipe, or another version of it"
  end
  local was, values = json.read(path .. "/params.json"), json.decode(begin.params)
  if type(was) ~= "table" then return "whose parameters cannot be read" end
  local names = {}
  for _, values_of in ipairs { was, values } do
    for _, key in ipairs(check.keys(values_of)) do names[key] = true end
  end
  for _, key in ipairs(check.keys(names)) do
    local there = was[key] == nil and "absent" or json.encode(was[key])
    local here = values[key] == nil and "absent" or json.encode(values[key])
    if not ELSEWHERE[key] and there ~= here then
      return ("whose %s is %s, here %s"):format(key, there, here)
    end
  end
end

-- Removes a file, or a folder with its content.
local function remove_all(path)
  local kind = core.files.exists(path)
  if kind == "directory" then
    for _, name in ipairs(core.files.list(path)) do remove_all(path .. "/" .. name) end
  end
  if kind then core.files.remove(path) end
end

--- Removes the files that a new run would take for its own, run.json first.
-- @tparam string path
function older.remove(path)
  for _, name in ipairs { "run.json", "checkpoints", "results" } do
    remove_all(path .. "/" .. name)
  end
end

return older
