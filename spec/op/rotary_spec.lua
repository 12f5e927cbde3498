-- rotary_spec.lua - rotary positions on the leading columns of a row.
local array = require "op.array"
local golden = require "op.golden"
local walker = require "op.walker"
local core = require "dopl.core"

local function rotary(x, positions, heads, D, base)
  local cols, half = x.shape[2], D // 2
  local y = array.copy(x)
  for t, position in ipairs(positions) do
    for h = 0, heads - 1 do
      for i = 0, half - 1 do
        local angle = position * (base or 10000) ^ (-2 * i / D)
        local at = (t - 1) * cols + h * D + i + 1
        local a, b = x[at], x[at + half]
        y[at] = a * math.cos(angle) - b * math.sin(angle)
        y[at + half] = b * math.cos(angle) + a * math.sin(angle)
      end
    end
  end
  return y
end

local function upto(n)
  local list = {}
  for i = 1, n do list[i] = i - 1 end
  return array.index(list)
end

local x <const>, positions <const> = array.fill({ 3, 12 }, 0, 2, 1), array.index { 0, 1, 5 }

return walker.check("rotary", {
  rotary = {
    reference = rotary,
    samples = {
      { x, positions, 2, 4, 100 },                                    -- values behind are copied
      { x, positions, 3, 4 },                                         -- nothing behind
      { x, array.index { 0, 100, 8192 }, 1, 12, 500000 },             -- far along a text
      { x, positions, 1, 2, 10000 },                                  -- the smallest head
      { array.fill({ 2, 6 }, 0, 2, 2), array.index { 7, 7 }, 1, 6 },  -- no power of two
      { array.fill({ 65, 260 }, 0, 1, 3), upto(65), 2, 128 },         -- over a thread's share
      { array.fill({ 1, 4 }, 0, 1, 4), array.index { 100000 }, 1, 4 },
      { array.zeros { 0, 12 }, array.index {}, 2, 4 },
    },
    wrong = {
      { x, positions, 2, 3, says = "rotary: 2 heads of 3, need an even head_dim" },
      { x, positions, 0, 4, says = "rotary: 0 heads of 4" },
      { x, positions, 4, 4,
        says = "rotary: x [3, 12] and positions [3], need [T, 4 * 4 to 2^31-1] and [T]" },
      { x, positions, 1 << 62, 4, -- the product is 0 in 64 bits
        says = "rotary: x [3, 12] and positions [3], need [T, 4611686018427387904 * 4 to 2^31-1]" },
      { x, array.index { 0, 1 }, 2, 4, says = "rotary: x [3, 12] and positions [2]" },
      { x, array.index { 0, -1, 2 }, 2, 4, says = "rotary: position -1 of row 1" },
      { x, positions, 2, 4, 0, says = "rotary: base 0, must be positive" },
      { x, positions, 2, says = "rotary: head_dim is missing" },
    },
    cases = {
      ["is PyTorch's in double"] = function()
        golden.check("rope", "rotary", { golden.beside("x"), core.i32 { 0, 1, 2, 0, 1, 31 } },
          { 2, 8, 10000 })
      end,
    },
  },
})
