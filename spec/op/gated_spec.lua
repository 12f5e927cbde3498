-- gated_spec.lua - silu(gate) * up.
local array = require "op.array"
local golden = require "op.golden"
local walker = require "op.walker"

local function silu_mul(x)
  local T, F = x.shape[1], x.shape[2] // 2
  return array.new({ T, F }, function(index)
    local t, i = (index - 1) // F, (index - 1) % F + 1
    local gate, up = x[2 * t * F + i], x[(2 * t + 1) * F + i]
    return gate / (1 + math.exp(-gate)) * up
  end)
end

return walker.check("gated", {
  silu_mul = {
    reference = silu_mul,
    samples = {
      { array.fill({ 3, 10 }, 0, 4, 1) }, { array.fill({ 1, 2 }, 0, 4, 2) },
      { array.fill({ 2, 2050 }, 0, 6, 3) }, { array.fill({ 80, 130 }, 0, 3, 4) },
      { array.zeros { 0, 4 } }, { array.zeros { 3, 0 } },
    },
    elements = 6,
    wrong = {
      { array.zeros { 2, 5 }, says = "silu_mul: [2, 5], needs [T, 2F]" },
      { array.zeros { 4 }, says = "silu_mul: [4], needs [T, 2F]" },
    },
    cases = { ["is PyTorch's in double"] = function()
      golden.check("silu_gate", "silu_mul", { golden.beside("gate", "up") }, {})
    end },
  },
})
