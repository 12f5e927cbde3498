--- nn/layer.lua - what every layer has: parameters, a `trainable` flag and a place for an adapter.
--
-- A layer is called with its input: `y = layer(x)`. A leaf owns tensors, a composite owns layers:
--
--     layer.name         "layers.1.qkv": its parameters' names begin with it
--     layer.tensors      of a leaf: its parameters
--     layer.inner        of a composite: its layers
--     layer.parameters   the model's list, to which they were added
--     layer.adapter      nil, or what `adapt` put there
--
-- @module dopl.nn.layer

local check = require "dopl.util.check"
local parameters = require "dopl.nn.parameters"

local layer = {}
local Layer = {}

--- Makes a class of layers. It defines `forward(self, x, ...)`; calling a layer runs that, then the
-- adapter.
-- @treturn table the class
function layer.class()
  local class = setmetatable({}, { __index = Layer })
  class.__index = class
  function class:__call(x, ...)
    local y = self:forward(x, ...)
    if self.adapter then y = self.adapter(x, y) end
    return y
  end
  return class
end

--- Begins a layer of a class.
-- @tparam table class
-- @tparam Parameters list the model's parameters
-- @tparam string name
function layer.new(class, list, name)
  return setmetatable({ name = name, parameters = list, tensors = {}, inner = {} }, class)
end

--- Whether any parameter of the layer is trained; with a flag, trains or freezes all of them. An
-- adapter's parameters are its own.
-- @tparam[opt] boolean flag
-- @treturn boolean
function Layer:trainable(flag)
  local any = false
  for _, tensor in ipairs(self.tensors) do
    if flag ~= nil then parameters.set_trained(tensor, flag) end
    any = any or tensor:requires_grad()
  end
  for _, inner in ipairs(self.inner) do any = inner:trainable(flag) or any end
  return any
end

--- Exchanges an adapter for another: its parameters leave the model's list, the new one's join it.
-- @tparam Parameters list
-- @param old nil where there was none
-- @param new the adapter that replaces it; nil removes it
-- @return new
function layer.exchange(list, old, new)
  if new ~= nil then check.type("adapt: adapter", new, "callable", 4) end
  if type(old) == "table" and old.parameters then list:remove(old.parameters) end
  if type(new) == "table" and new.parameters then list:add(new.parameters) end
  return new
end

--- Puts an adapter on the layer. The layer's output is then what the adapter makes of it.
-- @tparam[opt] function adapter function(x, y) of the layer's input and output, returning the new
-- output; or a table that can be called so. Its `parameters`, a list of { name, tensor, kind }, become
-- the model's. nil takes the adapter away.
function Layer:adapt(adapter)
  self.adapter = layer.exchange(self.parameters, self.adapter, adapter)
end

return layer
