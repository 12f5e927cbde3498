--- nn/mlp.lua - the feed-forward layer of a block, gated or plain.
--
--     gated   down(silu(gate x) * (up x)); gate and up are one matrix, `gate_up`
--     plain   down(gelu(up x)), with biases
--
-- @module dopl.nn.mlp

local check = require "dopl.util.check"
local core = require "dopl.core"
local layer = require "dopl.nn.layer"
local linear = require "dopl.nn.linear"

local op = core.ops
local mlp = {}
local Mlp = layer.class()

--- Makes a feed-forward layer.
-- @tparam Parameters p the model's
-- @tparam string prefix of its layers' names: "layers.1." makes layers.1.gate_up or layers.1.up, and
-- layers.1.down
-- @tparam table options size of the input and output; hidden width; gated; bias = false; std and
-- out_std of the initial weights; parts: names of gate and up, or of up alone; out_part: the name of
-- `down`
-- @treturn Mlp called with x [T, size]
function mlp.new(p, prefix, options)
  local o = check.options("nn.mlp", options, { size = check.required, hidden = check.required,
    gated = check.required, bias = false, std = check.required, out_std = check.required,
    parts = check.optional, out_part = "down" })
  local self = layer.new(Mlp, p, prefix .. "mlp")
  self.gated = o.gated
  local names, parts = o.parts or (o.gated and { "gate", "up" } or { "up" }), {}
  local width = o.gated and 2 * o.hidden or o.hidden
  for i, name in ipairs(names) do parts[i] = { name = name, rows = width // #names } end
  self.up = linear.new(p, prefix .. (o.gated and "gate_up" or "up"), { inputs = o.size, outputs = width,
    std = o.std, bias = o.bias, parts = parts })
  self.down = linear.new(p, prefix .. "down", { inputs = o.hidden, outputs = o.size, std = o.out_std,
    bias = o.bias, parts = { { name = o.out_part, rows = o.size } } })
  self.inner = { self.up, self.down }
  return self
end

function Mlp:forward(x)
  local up, down = self.up, self.down
  if self.gated then return down(op.silu_mul(up(x))) end
  if up.bias and not up:adapted() and not down:adapted() then -- one operator keeps less
    return op.mlp(x, up.weight, up.bias, down.weight, down.bias)
  end
  return down(op.gelu(up(x)))
end

return mlp
