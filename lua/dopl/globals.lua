--- The globals of recipes and of the prompt beyond Lua's own: dopl and its modules by their short
-- names, opened when first named. Reading any other undefined global is an error.
-- @module dopl.globals

local globals = {}

--- Names that need no `require`, and the modules they stand for.
globals.modules = {
  dopl = "dopl",
  nn = "dopl.nn",
  models = "dopl.models",
  loss = "dopl.loss",
  optim = "dopl.optim",
  scheme = "dopl.scheme",
  schedule = "dopl.schedule",
  data = "dopl.data",
  metrics = "dopl.metrics",
  train = "dopl.train",
  report = "dopl.report",
}

-- What is looked for at a prompt by another name.
local MEANT <const> = { help = "dopl.help()", exit = "os.exit()", quit = "os.exit()" }

--- Makes reading a field that a module does not have an error which names the nearest.
-- @tparam table module
-- @tparam string name as recipes write it
-- @treturn table the module
function globals.strict(module, name)
  if type(module) ~= "table" or getmetatable(module) then return module end
  return setmetatable(module, { __index = function(t, key)
    local check = require "dopl.check"
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
    local module = globals.modules[name]
    if module and is_strict() then
      local value = globals.strict(require(module), name)
      rawset(t, name, value)
      return value
    end
    if not is_strict() then return nil end
    local check = require "dopl.check"
    local known = check.keys(t)
    for _, key in ipairs(check.keys(globals.modules)) do known[#known + 1] = key end
    local nearest = MEANT[name] or check.nearest(name, known)
    error(("undefined global '%s'%s"):format(tostring(name),
      nearest and (" (did you mean '%s'?)"):format(nearest) or ""), 2)
  end
  local metatable
  if locked then metatable = false end
  local function names() return require("dopl.check").keys(globals.modules) end
  setmetatable(env, { __index = missing, __names = names, __metatable = metatable })
end

return globals
