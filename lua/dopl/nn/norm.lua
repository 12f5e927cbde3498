--- nn/norm.lua - normalisation over the last dimension: RMSNorm and LayerNorm.
-- @module dopl.nn.norm

local check = require "dopl.util.check"
local core = require "dopl.core"
local layer = require "dopl.nn.layer"

local op = core.ops
local norm = {}
local Norm = layer.class()

--- Kinds: "rms" has a weight, "layer" a weight and a bias.
norm.kinds = { "rms", "layer" }

--- Makes a normalisation layer with `weight` [size] of ones and, of kind "layer", `bias` [size].
-- @tparam Parameters p the model's
-- @tparam string name
-- @tparam table options kind, size, eps
-- @treturn Norm
function norm.new(p, name, options)
  local o = check.options("nn.norm", options, { kind = check.required, size = check.required,
    eps = 1e-5 })
  check.choice("nn.norm: kind", o.kind, norm.kinds)
  local self = layer.new(Norm, p, name)
  self.kind, self.eps = o.kind, o.eps
  self.weight = p:constant(name, "norm", 1, o.size)
  self.bias = o.kind == "layer" and p:constant(name .. ".bias", "bias", 0, o.size) or nil
  self.tensors = { self.weight, self.bias }
  return self
end

function Norm:forward(x)
  if self.kind == "rms" then return op.rms_norm(x, self.weight, self.eps) end
  return op.layer_norm(x, self.weight, self.bias, self.eps)
end

return norm
