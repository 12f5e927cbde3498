--- nn/operator.lua - operators whose forward and backward are Lua.
-- @module dopl.nn.operator

local check = require "dopl.util.check"
local core = require "dopl.core"

local operator = {}

--- Makes an operator whose forward and backward are Lua.
--
--     local cube = nn.operator {
--       name = "cube",
--       forward = function(x) return x * x * x end,
--       backward = function(dy, y, x) return dy * x * x * 3 end,
--     }
--
-- `forward` takes up to eight tensors and returns one; nothing it does is recorded. `backward` takes
-- the gradient of the output, the output and the inputs, and returns a gradient (or nil) an input.
-- @tparam table definition { name, forward, backward }
-- @treturn function
function operator.new(definition)
  check.type("nn.operator", definition, "table")
  check.type("nn.operator: name", definition.name, "string")
  check.type("nn.operator: forward", definition.forward, "function")
  check.type("nn.operator: backward", definition.backward, "function")
  return function(...)
    local y
    do
      local _ <close> = core.no_grad()
      y = definition.forward(...)
      if type(y) ~= "userdata" then
        error(("%s: forward returned a %s, needs a tensor"):format(definition.name, type(y)), 2)
      end
      y = y:detach()
    end
    return core.record(definition.name, y, { ... }, definition.backward)
  end
end

return operator
