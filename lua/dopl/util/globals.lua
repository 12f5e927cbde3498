--- util/globals.lua - the globals that recipes and the prompt have beyond Lua's own.
-- These are dopl and its modules by their short names, loaded when first read. Reading any other
-- undefined global is an error.
-- @module dopl.util.globals

local globals = {}

local modules = require "dopl.modules"

-- The path of the module that a global stands for.
local function path_of(name)
  if name == "dopl" then return "dopl" end
  local module = modules[name]
  return module and module.global and module.path
end

-- The globals that stand for modules.
local function global_names()
  local names = { "dopl" }
  for name, module in pairs(modules) do
    if module.global then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- What is looked for at a prompt by another name.
local MEANT <const> = { help = "dopl.help()", exit = "os.exit()", quit = "os.exit()" }

--- Makes reading a field that a module does not have an error which names the nearest.
-- @tparam table module
-- @tparam string name as recipes write it
-- @treturn table the module
function globals.strict(module, name)
  if type(module) ~= "table" or getmetatable(module) then return module end
  return setmetatable(module, { __index = function(t, key)
    local check = require "dopl.util.check"
    local nearest = type(key) == "string" and check.nearest(key, check.keys(t))
    error(("%s.%s: no such name%s"):format(name, tostring(key),
      nearest and (" (did you mean '%s'?)"):format(nearest) or ""), 2)
  end })
end

--- Installs the names.
-- @tparam table env the table of globals
-- @tparam function is_strict whether the code that reads an undefined global should be stopped
-- @tparam boolean locked whether the metatable is out of the recipe's reach
function globals.install(env, is_strict, locked)
  local function missing(t, name)
    local path = path_of(name)
    if path and is_strict() then
      local value = globals.strict(require(path), name)
      rawset(t, name, value)
      return value
    end
    if not is_strict() then return nil end
    local check = require "dopl.util.check"
    local known = check.keys(t)
    for _, key in ipairs(global_names()) do known[#known + 1] = key end
    local nearest = MEANT[name] or check.nearest(name, known)
    error(("undefined global '%s'%s"):format(tostring(name),
      nearest and (" (did you mean '%s'?)"):format(nearest) or ""), 2)
  end
  local metatable
  if locked then metatable = false end
  setmetatable(env, { __index = missing, __names = global_names, __metatable = metatable })
end

return globals
