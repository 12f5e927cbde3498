-- attention_spec.lua - causal attention over packed sequences, lengths around the block of 64.
local array = require "op.array"
local golden = require "op.golden"
local walker = require "op.walker"
local core = require "dopl.core"

local exp, huge = math.exp, math.huge

-- One query at row `t` over rows first .. t; adds the mixed values to `out`.
local function attend(out, at, qkv, ld, t, first, q, k, v, D)
  local scores, top, sum = {}, -huge, 0.0
  for j = first, t do
    local s = 0.0
    for d = 1, D do s = s + qkv[t * ld + q + d] * qkv[j * ld + k + d] end
    scores[j] = s / math.sqrt(D)
    top = math.max(top, scores[j])
  end
  for j = first, t do
    scores[j] = exp(scores[j] - top)
    sum = sum + scores[j]
  end
  for d = 1, D do
    local y = 0.0
    for j = first, t do y = y + scores[j] * qkv[j * ld + v + d] end
    out[at + d] = y / sum
  end
end

local function attention(qkv, offsets, H, K)
  local T, ld = qkv.shape[1], qkv.shape[2]
  local D = ld // (H + 2 * K)
  local out = array.zeros { T, H * D }
  for b = 1, #offsets - 1 do
    for t = offsets[b], offsets[b + 1] - 1 do
      for h = 0, H - 1 do
        local g = h // (H // K)
        attend(out, (t * H + h) * D, qkv, ld, t, offsets[b], h * D, (H + g) * D, (H + K + g) * D, D)
      end
    end
  end
  return out
end

local function sample(offsets, H, K, D, scale)
  local T = offsets[#offsets]
  return { array.fill({ T, (H + 2 * K) * D }, 0, scale or 1.5, 1), array.index(offsets), H, K }
end

local zeros = array.zeros
local offsets <const> = array.index { 0, 2, 3 }

return walker.check("attention", {
  attention = {
    reference = attention,
    elements = 4,
    samples = {
      sample({ 0, 1 }, 1, 1, 4), sample({ 0, 3, 3, 8 }, 4, 2, 3), sample({ 0, 5, 6 }, 6, 1, 2),
      sample({ 0, 63, 64 }, 2, 1, 2), sample({ 0, 64, 129 }, 2, 1, 2),
      sample({ 0, 130 }, 2, 2, 2), sample({ 0, 65 }, 1, 1, 1, 3), sample({ 0, 2, 4 }, 2, 1, 33),
      sample({ 0 }, 2, 1, 2), sample({ 0, 0, 0 }, 2, 1, 2),
      -- widths that tensor cores take, between and at those they are padded to
      sample({ 0, 66, 70 }, 4, 2, 8), sample({ 0, 1, 33 }, 2, 2, 32), sample({ 0, 66 }, 1, 1, 64),
      sample({ 0, 9 }, 2, 1, 72), sample({ 0, 5, 71 }, 1, 1, 128), sample({ 0, 6 }, 2, 1, 136),
    },
    wrong = {
      { zeros { 3, 8 }, offsets, 3, 2,
        says = "attention: 3 heads and 2 kv_heads, need a multiple" },
      { zeros { 3, 8 }, offsets, 6148914691236517206, 6148914691236517206, -- three times it is 2
        says = "attention: qkv [3, 8], needs [T, (6148914691236517206 + 2*6148914691236517206) D]" },
      { zeros { 3, 8 }, offsets, 0, 1, says = "attention: 0 heads and 1 kv_heads" },
      { zeros { 3, 7 }, offsets, 2, 1, says = "attention: qkv [3, 7], needs [T, (2 + 2*1) D]" },
      { zeros { 4, 8 }, offsets, 2, 1,
        says = "attention: offsets [3] from 0 to 3, need 1 dimension, 0 to 4" },
      { zeros { 3, 8 }, array.index { 1, 3 }, 2, 1, says = "attention: offsets [2] from 1 to 3" },
      { zeros { 3, 8 }, array.index { 0, 4, 2, 3 }, 2, 1,
        says = "attention: offset 2 is 2, after 4; they must not fall" },
    },
    cases = {
      ["is PyTorch's in double"] = function()
        golden.check("attention", "attention",
          { golden.beside("q", "k", "v"), core.i32 { 0, 1, 4, 9 } }, { 4, 2 })
      end,
      ["does not look at the sequences around"] = function()
        local alone = sample({ 0, 70 }, 2, 1, 4)
        local packed = sample({ 0, 70, 140 }, 2, 1, 4)
        table.move(alone[1], 1, #alone[1], #alone[1] + 1, packed[1])
        table.move(alone[1], 1, #alone[1], 1, packed[1])
        local function run(args)
          return array.of(core.ops.attention(array.tensor(args[1]), array.tensor(args[2]), 2, 1))
        end
        local one, two = run(alone), run(packed)
        for i = 1, #one do
          assert.equal(one[i], two[i])
          assert.equal(one[i], two[#one + i])
        end
      end,
      ["gives a parameter and an activation the same gradient"] = function()
        local args = sample({ 0, 70, 205, 222 }, 4, 2, 24)
        local up = array.fill({ 222, 4 * 24 }, 0, 1, 2)
        local function gradient(of_parameter)
          local scope <close> = core.scope() -- luacheck: ignore scope
          local x = array.tensor(args[1]):to(core.device() == "cpu" and "f32" or "bf16")
          x:requires_grad(true)
          local qkv = of_parameter and x or core.ops.scale(x, 1)
          local y = core.ops.attention(qkv, array.tensor(args[2]), 4, 2)
          y:backward(array.tensor(up):to(y:dtype()))
          return array.of(x:grad())
        end
        local there, here = gradient(true), gradient(false)
        for i, g in ipairs(there) do
          assert.is_true(math.abs(here[i] - g) <= 2 ^ -8 * math.abs(g) + 1e-6)
        end
      end,
      ["stays finite where scores are large"] = function()
        local args = sample({ 0, 70 }, 1, 1, 4, 60)
        local y = core.ops.attention(array.tensor(args[1]), array.tensor(args[2]), 1, 1)
        assert.is_true(y:finite())
      end,
    },
  },
})
