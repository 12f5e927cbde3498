--- nn/linear.lua - a dense layer: y = x W^T + b.
--
-- Several layers of one input can be stored as one matrix (queries, keys and values), which takes one
-- product instead of three. They are its parts: each has its own rows of the matrix, name in
-- files and adapter. While a part has an adapter, parts are computed one by one.
-- @module dopl.nn.linear

local check = require "dopl.util.check"
local columns = require "dopl.nn.columns"
local core = require "dopl.core"
local layer = require "dopl.nn.layer"

local op = core.ops
local linear = {}
local Linear = layer.class()

--- Makes a dense layer; its weight is `weight` [outputs, inputs], its bias `bias` [outputs].
-- @tparam Parameters p the model's
-- @tparam string name
-- @tparam table options inputs, outputs; std of the initial weight; bias = false; kind = "matrix";
-- parts = { { name =, rows = }, ... }, default: one of the layer's name
-- @treturn Linear
function linear.new(p, name, options)
  local o = check.options("nn.linear", options, { inputs = check.required, outputs = check.required,
    std = check.required, bias = false, kind = "matrix", parts = check.optional })
  local self = layer.new(Linear, p, name)
  self.parts = {}
  local first = 0
  for i, part in ipairs(o.parts or { { name = name, rows = o.outputs } }) do
    self.parts[i] = { name = part.name, rows = part.rows, first = first }
    first = first + part.rows
  end
  if first ~= o.outputs then
    error(("nn.linear: the parts of '%s' have %d rows, and outputs = %d"):format(name, first,
      o.outputs), 2)
  end
  self.weight = p:normal(name, o.kind, o.std, o.outputs, o.inputs)
  self.bias = o.bias and p:constant(name .. ".bias", "bias", 0, o.outputs) or nil
  self.tensors = { self.weight, self.bias }
  return self
end

local function run_part(self, part, x)
  local bias = self.bias and op.slice(self.bias, part.first, part.rows)
  local y = op.linear(x, op.slice(self.weight, part.first, part.rows), bias)
  return part.adapter and part.adapter(x, y) or y
end

function Linear:forward(x)
  if not self.apart then return op.linear(x, self.weight, self.bias) end
  local made = {}
  for i, part in ipairs(self.parts) do made[i] = run_part(self, part, x) end
  return columns.join(table.unpack(made))
end

--- Whether any adapter is on the layer.
function Linear:adapted() return self.adapter ~= nil or self.apart == true end

--- Puts an adapter on the layer or on one of its parts (see nn.layer).
-- @tparam[opt] function adapter function(x, y), y being the part's output; nil takes it away
-- @tparam[opt] string part its name; needed where there are several
function Linear:adapt(adapter, part)
  local names, wanted = {}, nil
  for i, p in ipairs(self.parts) do
    names[i] = p.name
    if p.name == part then wanted = p end
  end
  if #names > 1 or part ~= nil then check.choice("adapt: part of " .. self.name, part, names) end
  if #names == 1 then
    self.adapter = layer.exchange(self.parameters, self.adapter, adapter)
    return
  end
  wanted.adapter = layer.exchange(self.parameters, wanted.adapter, adapter)
  self.apart = nil
  for _, p in ipairs(self.parts) do self.apart = self.apart or p.adapter ~= nil or nil end
end

return linear
