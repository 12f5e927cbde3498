-- decode_spec.lua - choosing tokens, and attention over a cache.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

local fill, index, zeros = array.fill, array.index, array.zeros
local op = core.ops

local function argmax(x)
  local n, cols = array.rows(x)
  local y = { shape = table.move(x.shape, 1, #x.shape - 1, 1, {}) }
  for r = 0, n - 1 do
    local best = 1
    for i = 2, cols do
      if x[r * cols + i] > x[r * cols + best] then best = i end
    end
    y[r + 1] = best - 1
  end
  return y
end

-- where: { slots, positions }
local function kv_store(cache, qkv, where)
  local M, W, ld = cache.shape[2], cache.shape[3], qkv.shape[2]
  local y = array.copy(cache)
  for i, slot in ipairs(where[1]) do
    table.move(qkv, i * ld - W + 1, i * ld, (slot * M + where[2][i]) * W + 1, y)
  end
  return y
end

local function kv_attention(qkv, cache, where, H, K)
  local N, ld, M, W = qkv.shape[1], qkv.shape[2], cache.shape[2], cache.shape[3]
  local D = ld // (H + 2 * K)
  local y = zeros { N, H * D }
  for i = 1, N do
    local base, last = where[1][i] * M * W, where[2][i]
    for h = 0, H - 1 do
      local k = base + h // (H // K) * D
      local scores, top, sum = {}, -math.huge, 0.0
      for j = 0, last do
        local s = 0.0
        for d = 1, D do s = s + qkv[(i - 1) * ld + h * D + d] * cache[k + j * W + d] end
        scores[j] = s / math.sqrt(D)
        top = math.max(top, scores[j])
      end
      for j = 0, last do sum = sum + math.exp(scores[j] - top) end
      for j = 0, last do
        local p = math.exp(scores[j] - top) / sum
        for d = 1, D do
          local at = ((i - 1) * H + h) * D + d
          y[at] = y[at] + p * cache[k + j * W + K * D + d]
        end
      end
    end
  end
  return y
end

-- One random number a row, all of one stream.
local function draws(n, stream)
  local streams, counters = {}, {}
  for i = 1, n do streams[i], counters[i] = stream or 4, i end
  return core.i32 { streams, counters }
end

-- How often each index is drawn from rows of the same logits.
local function frequencies(logits, n, temperature, top_p)
  local rows = {}
  for i = 1, n do rows[i] = logits end
  local counts = {}
  for i = 1, #logits do counts[i] = 0 end
  for _, i in ipairs(op.sample(core.tensor(rows), draws(n), temperature, top_p, 3):tolist()) do
    counts[i + 1] = counts[i + 1] + 1
  end
  for i = 1, #logits do counts[i] = counts[i] / n end
  return counts
end

local cache <const>, qkv <const> = fill({ 2, 70, 4 }, 0, 1, 1), fill({ 3, 8 }, 0, 1, 2)
local where <const> = index { { 1, 0, 1 }, { 0, 69, 66 } }

return walker.check("decode", {
  argmax = {
    reference = argmax,
    samples = {
      { fill({ 3, 7 }, 0, 1, 1) }, { fill({ 5 }, 0, 1, 2) }, { fill({ 2, 3, 4 }, 0, 1, 3) },
      { fill({ 20, 1025 }, 0, 1, 4) }, { fill({ 2, 1 }, 0, 1, 5) }, { zeros { 2, 4 } },
      { zeros { 0, 4 } },
    },
    wrong = { { zeros {}, says = "argmax: [], needs a last dimension of at least 1" },
      { zeros { 3, 0 }, says = "argmax: [3, 0], needs a last dimension" } },
  },
  sample = {
    -- where one logit towers over the others the draw is certain
    reference = function(x) return argmax(x) end,
    samples = {
      { array.map(fill({ 3, 7 }, 0, 1, 1), function(v) return 1e6 * v end),
        index { { 1, 1, 2 }, { 1, 2, 1 } }, 1.0, 1.0, 1 },
      { array.map(fill({ 6, 129 }, 0, 1, 2), function(v) return 1e7 * v end),
        index { { 1, 2, 3, 4, 5, 6 }, { 1, 1, 1, 1, 1, 1 } }, 1.0, 0.9, 1 },
      { fill({ 2, 9 }, 0, 1, 3), index { { 1, -1 }, { 1, -7 } }, 0.7, 1e-6, 2 },
      { zeros { 2, 1 }, index { { 1, 1 }, { 1, 2 } }, 1.0, 1.0, 1 },
      { zeros { 0, 4 }, index { {}, {} }, 1.0, 1.0, 1 },
    },
    wrong = {
      { zeros { 1, 3 }, index { { 1 }, { 1 } }, 0.0, 1.0, 1,
        says = "sample: temperature 0 and top_p 1, need above 0" },
      { zeros { 1, 3 }, index { { 1 }, { 1 } }, 1.0, 0.0, 1,
        says = "top_p 0, need above 0 and in (0, 1]" },
      { zeros { 1, 3 }, index { { 1 }, { 1 } }, 1.0, 1.5, 1, says = "top_p 1.5" },
      { zeros { 1, 0 }, index { { 1 }, { 1 } }, 1.0, 1.0, 1,
        says = "sample: [1, 0], needs a last dimension" },
      { zeros { 2, 3 }, index { { 1 }, { 1 } }, 1.0, 1.0, 1,
        says = "sample: logits [2, 3] and draws [2, 1], need [N, V] and [2, N]" },
      { zeros { 3 }, index { { 1 }, { 1 } }, 1.0, 1.0, 1, says = "sample: logits [3] and draws" },
    },
    cases = {
      ["draws as often as softmax says"] = function()
        local z, n = { 0, 1, 2, -1 }, 20000
        for _, temperature in ipairs { 1.0, 2.0 } do
          local got, sum = frequencies(z, n, temperature, 1.0), 0.0
          for _, v in ipairs(z) do sum = sum + math.exp(v / temperature) end
          for i, v in ipairs(z) do -- five standard errors: 5 * 0.5 / sqrt(n) = 0.018
            assert.near(math.exp(v / temperature) / sum, got[i], 0.018)
          end
        end
      end,
      ["leaves out what top_p cuts"] = function()
        -- probabilities 0.64, 0.24, 0.09, 0.03: two reach 0.8
        local got = frequencies({ 2, 1, 0, -1 }, 4000, 1.0, 0.8)
        assert.equal(0, got[3] + got[4])
        assert.near(0.731, got[1], 0.035)
      end,
      ["is a function of seed, stream and counter, not of the row"] = function()
        local z = core.zeros(50, 100)
        local function draw(seed, stream)
          return op.sample(z, draws(50, stream), 1.0, 1.0, seed):tolist()
        end
        assert.same(draw(1, 2), draw(1, 2))
        assert.not_same(draw(1, 2), draw(1, 3))
        assert.not_same(draw(1, 2), draw(2, 2))
        local alone = op.sample(z:slice(0, 1), core.i32 { { 2 }, { 30 } }, 1.0, 1.0, 1)
        assert.equal(draw(1, 2)[30], alone:at(1))
      end,
      ["draws on any device what it draws on the CPU"] = function()
        local here, logits = core.device(), fill({ 40, 257 }, 0, 4, 5)
        local function sample(device, top_p)
          core.device(device)
          return op.sample(array.tensor(logits), draws(40), 0.8, top_p, 3):tolist()
        end
        for _, top_p in ipairs { 0.1, 0.9, 1.0 } do
          local wanted = sample("cpu", top_p)
          assert.same(wanted, sample(here, top_p))
        end
      end,
      ["draws something from NaNs"] = function()
        local z = core.tensor { { 0 / 0, 1, 0 / 0 } }
        for _, top_p in ipairs { 0.5, 1.0 } do
          local i = op.sample(z, draws(1), 1.0, top_p, 1):item()
          assert.is_true(i >= 0 and i < 3)
        end
      end,
    },
  },
  kv_store = {
    reference = kv_store,
    samples = {
      { fill({ 2, 3, 4 }, 0, 1, 1), qkv, index { { 1, 0, 1 }, { 0, 2, 2 } } },
      { fill({ 2, 3, 8 }, 0, 1, 1), qkv, index { { 1, 0, 1 }, { 0, 2, 2 } } },
      { fill({ 1, 1, 2 }, 0, 1, 1), zeros { 0, 8 }, index { {}, {} } },
    },
    wrong = {
      { cache, qkv, index { { 2, 0, 1 }, { 0, 0, 0 } },
        says = "kv_store: slot 2, position 0 of a cache [2, 70, 4]" },
      { cache, qkv, index { { 0, 0, 1 }, { 0, 70, 0 } }, says = "kv_store: slot 0, position 70" },
      { cache, qkv, index { { 0, -1, 1 }, { 0, 0, 0 } }, says = "kv_store: slot -1, position 0" },
      { cache, qkv, index { { 0, 1 }, { 0, 0 } },
        says = "kv_store: cache [2, 70, 4], qkv [3, 8] and where [2, 2], need" },
      { fill({ 2, 3, 9 }, 0, 1, 1), qkv, where, says = "kv_store: cache [2, 3, 9], qkv [3, 8]" },
      { zeros { 2, 3 }, qkv, where, says = "kv_store: cache [2, 3], qkv [3, 8]" },
    },
    cases = { ["writes in place"] = function()
      local t = array.tensor(cache)
      op.kv_store(t, array.tensor(qkv), array.tensor(where))
      assert.equal(qkv[8], t:at((1 * 70 + 0) * 4 + 4))
    end },
  },
  kv_attention = {
    reference = kv_attention,
    samples = {
      { qkv, cache, where, 2, 1 },
      { fill({ 3, 12 }, 0, 1, 3), fill({ 2, 70, 8 }, 0, 1, 4), where, 2, 2 },
      { fill({ 3, 18 }, 0, 1, 3), fill({ 2, 70, 4 }, 0, 1, 4), where, 7, 1 },
      { fill({ 1, 4 }, 0, 4, 5), fill({ 1, 1, 2 }, 0, 4, 6), index { { 0 }, { 0 } }, 2, 1 },
      { zeros { 0, 8 }, cache, index { {}, {} }, 2, 1 },
      -- wide enough for packs: heads alone, and groups within and past what shares a load
      { fill({ 3, 48 }, 0, 2, 3), fill({ 2, 70, 32 }, 0, 2, 4), where, 2, 2 },
      { fill({ 1, 40 }, 0, 2, 3), fill({ 1, 200, 16 }, 0, 2, 4), index { { 0 }, { 180 } }, 3, 1 },
      { fill({ 2, 88 }, 0, 2, 3), fill({ 2, 70, 16 }, 0, 2, 4), index { { 1, 0 }, { 69, 64 } }, 9,
        1 },
    },
    wrong = {
      { qkv, cache, where, 3, 2,
        says = "kv_attention: qkv [3, 8] and cache [2, 70, 4] with 3 heads, 2 kv_heads" },
      { qkv, cache, where, 0, 1, says = "with 0 heads" },
      { qkv, cache, where, 6148914691236517206, 6148914691236517206, -- three times it is 2
        says = "with 6148914691236517206 heads, 6148914691236517206 kv_heads" },
      { qkv, zeros { 2, 70, 3 }, where, 2, 1,
        says = "kv_attention: qkv [3, 8] and cache [2, 70, 3]" },
      { qkv, cache, index { { 2, 0, 1 }, { 0, 0, 0 } }, 2, 1, says = "kv_attention: slot 2" },
    },
    cases = { ["takes heads of several widths at a time"] = function()
      local slot, heads = core.i32 { { 0 }, { 0 } }, {} -- on its way before the first launch
      for i, C in ipairs { 400, 400, 300, 200 } do
        heads[i] = { width = C, qkv = array.tensor(fill({ 1, 3 * C }, 0, 1, 1)),
          cache = array.tensor(fill({ 1, 1, 2 * C }, 0, 1, 2)) }
      end
      for _, h in ipairs(heads) do h.y = op.kv_attention(h.qkv, h.cache, slot, 1, 1) end
      for _, h in ipairs(heads) do -- of one position: its value
        assert.near(h.cache:at(h.width + 1), h.y:at(1), 1e-6)
      end
    end, ["names what the device has no kernel for"] = function()
      local C <const> = 12000
      local function call()
        local slot = core.i32 { { 0 }, { 0 } }
        return op.kv_attention(core.zeros(1, 3 * C), core.zeros(1, 1, 2 * C), slot, 1, 1)
      end
      if core.device() == "cpu" then return assert.same({ 1, C }, call():shape()) end
      assert.error_matches(call, "kv_attention: device cuda does not support heads = 1 "
        .. "of 12000 columns each: at most 11264 columns")
    end, ["is attention of the last row"] = function()
      local T, H, K, D = 66, 4, 2, 3
      local rows = fill({ T, (H + 2 * K) * D }, 0, 1, 9)
      local packed = array.tensor(rows)
      local full = op.attention(packed, core.i32 { 0, T }, H, K)
      local slots, positions = {}, {}
      for i = 1, T do slots[i], positions[i] = 0, i - 1 end
      local room, at = core.zeros(1, T, 2 * K * D), core.i32 { slots, positions }
      op.kv_store(room, packed, at)
      walker.compare("row by row", array.of(full),
        array.of(op.kv_attention(packed, room, at, H, K)), 1e-6)
    end },
  },
})
