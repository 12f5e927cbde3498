--- nn/columns.lua - matrices side by side, as one.
-- @module dopl.nn.columns

local core = require "dopl.core"
local operator = require "dopl.nn.operator"

local columns = {}

local function transpose(tensor)
  local wide = tensor:to "f32"
  return core.optim.transpose(wide)
end

--- Joins matrices of equally many rows: [T, A], [T, B], ... make [T, A + B + ...].
-- @param ... at most eight
-- @treturn tensor
columns.join = operator.new {
  name = "join_columns",
  forward = function(...)
    local scope <close> = core.scope()
    local turned = {}
    for i, part in ipairs { ... } do turned[i] = transpose(part) end
    return scope:keep(transpose(core.ops.concat(turned)):to((...):dtype()))
  end,
  backward = function(dy, _, ...)
    local turned, first, grads = transpose(dy), 0, {}
    for i, part in ipairs { ... } do
      local n = part:shape(2)
      grads[i] = transpose(turned:slice(first, n)):to(dy:dtype())
      first = first + n
    end
    return table.unpack(grads)
  end,
}

return columns
