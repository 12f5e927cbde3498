--- run/older.lua - an older run in the folder that a new run will use.
-- dopl overwrites it only if the new run repeats it, or if nothing in it is worth keeping.
-- @module dopl.run.older
local check = require("dopl.util.check")
local core = require("dopl.core")
local json = require("dopl.util.json")

local older = {}

--- Whether the folder the user named holds an older run, which will be written over; what is neither
-- empty nor a run is not ours. The folder is made where there is none.
-- @tparam string path
-- @treturn boolean
function older.is_in(path)
  if core.files.mkdir(path) then return false end
  local names = core.files.list(path) or {}
  local is_run = core.files.exists(path .. "/run.json") ~= nil
  if #names > 0 and not is_run then
    error(("out: '%s' has files and is no run; name a new or an empty folder"):format(path), 3)
  end
  return is_run
end

--- Whether a parameter other than `out` names the folder of a path, or what lies in it.
-- @tparam string path resolved
-- @tparam table values the new run's parameters
-- @treturn boolean
function older.is_named(path, values)
  for _, key in ipairs(check.keys(values)) do
    local value = values[key]
    if type(value) == "table" and older.is_named(path, value) then return true end
    if type(value) == "string" and value ~= "" and key ~= "out" then
      local is_path, real = pcall(core.files.resolve, value) -- a text may be too long for one
      if is_path and (real .. "/"):find(path .. "/", 1, true) == 1 and core.files.exists(real) then
        return true
      end
    end
  end
  return false
end

-- Whether the run has come to something: it ended well, or holds weights or results.
local function has_work(path)
  local about = json.read(path .. "/run.json")
  if type(about) == "table" and about.status == "finished" then return true end
  for _, name in ipairs { "checkpoints", "results" } do
    if #(core.files.list(path .. "/" .. name) or {}) > 0 then return true end
  end
  return false
end

local ELSEWHERE <const> = { out = true, device = true, threads = true } -- where, not what

--- What the run was that the new one is not.
-- @tparam string path
-- @tparam table begin recipe = the new run's recipe, where it has one, params = its parameters' JSON
-- @treturn ?string nil where the new one does it again, or the older came to nothing
function older.difference(path, begin)
  if not has_work(path) then return nil end
  if core.files.read(path .. "/recipe.lua") ~= begin.recipe then
    return "another recipe, or other text"
  end
  local was, values = json.read(path .. "/params.json"), json.decode(begin.params)
  if type(was) ~= "table" then return "one whose parameters cannot be read" end
  local names = {}
  for _, values_of in ipairs { was, values } do
    for _, key in ipairs(check.keys(values_of)) do names[key] = true end
  end
  for _, key in ipairs(check.keys(names)) do
    local there = was[key] == nil and "absent" or json.encode(was[key])
    local here = values[key] == nil and "absent" or json.encode(values[key])
    if not ELSEWHERE[key] and there ~= here then
      return ("one whose %s is %s, here %s"):format(key, there, here)
    end
  end
end

-- A file or a folder with all that is in it.
local function remove_all(path)
  local kind = core.files.exists(path)
  if kind == "directory" then
    for _, name in ipairs(core.files.list(path)) do remove_all(path .. "/" .. name) end
  end
  if kind then core.files.remove(path) end
end

--- Makes room: what a new run would take for its own goes, run.json first.
-- @tparam string path
function older.remove(path)
  for _, name in ipairs { "run.json", "checkpoints", "results" } do
    remove_all(path .. "/" .. name)
  end
end

return older
