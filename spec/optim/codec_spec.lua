-- The 8-bit codec against a plain search for the nearest value.
local core = require "dopl.core"
local reference = require "spec.optim.reference"

-- Codes of a list by the core, and its scales.
local function encode(kind, values)
  local codes, scales = core.optim.encode(core.tensor(values), kind)
  return codes:tolist(), scales:tolist()
end

local function agrees(kind, values)
  local got, scales = encode(kind, values)
  local want, want_scales = reference.encode(kind, values)
  assert.are.same(want_scales, scales)
  local off = 0
  for i = 1, #values do
    local d = math.abs(got[i] - want[i])
    assert.is_true(d <= 1)
    off = off + d
  end
  -- quotients are f32 here, f64 there: a value next to a midpoint may fall on either side
  assert.is_true(off <= 0.001 * #values + 1)
end

for _, isa in ipairs { "portable", "avx2", "avx512" } do
  describe("codec, " .. isa, function()
    setup(function() core.optim.isa(isa) end)
    teardown(function() core.optim.isa "" end)

    for kind, map in pairs(reference.maps) do
      it(kind .. " holds the table", function()
        assert.are.same(map, core.optim.codec_table(kind))
      end)

      it(kind .. " gives every code back", function()
        local codes, scales = core.optim.encode(core.tensor(map), kind)
        for c = 0, 255 do assert.are.equal(c, codes:at(c + 1)) end
        assert.are.same(map, core.optim.decode(codes, scales, kind):tolist())
      end)

      -- Ranks are computed in f32, from numbers rounded to f32: a relative 2^-18 covers the handful
      -- of roundings, each 2^-24, with the cancellation at a decade's edge.
      it(kind .. " takes the nearest entry on either side of a midpoint", function()
        local above, below = { 1.0 }, { 1.0 }
        local want = { above = { 255 }, below = { 255 } }
        for c = 1, 255 do
          local mid = (map[c] + map[c + 1]) / 2
          local tiny = math.abs(mid) * 2 ^ -18
          above[c + 1], want.above[c + 1] = mid + tiny, c
          below[c + 1], want.below[c + 1] = mid - tiny, c - 1
        end
        assert.are.same(want.above, (encode(kind, above)))
        assert.are.same(want.below, (encode(kind, below)))
      end)

      it(kind .. " takes one of the two entries at a midpoint", function()
        local ties = { 1.0 }
        for c = 1, 255 do ties[c + 1] = (map[c] + map[c + 1]) / 2 end
        local codes = encode(kind, ties)
        for c = 1, 255 do assert.is_true(codes[c + 1] == c or codes[c + 1] == c - 1) end
      end)

      it(kind .. " agrees with a search over eight decades", function()
        local rng = require("dopl.util.rng").new(5, "codec " .. kind)
        local values = {}
        for i = 1, 256 * 40 do
          local v = 10 ^ (-8 * rng:uniform()) * (0.5 + rng:uniform())
          values[i] = (kind == "q8" and rng:uniform() < 0.5) and -v or v
        end
        agrees(kind, values)
      end)

      it(kind .. " keeps blocks of zeros, of tiny numbers and short ones", function()
        local values = {}
        for i = 1, 256 do values[i] = 0.0 end
        for i = 257, 512 do values[i] = (i - 256) * 1e-41 end
        for i = 513, 520 do values[i] = i * 1.0 end
        local codes, scales = core.optim.encode(core.tensor(values), kind)
        assert.are.equal(0, scales:at(1))
        local back = core.optim.decode(codes, scales, kind):tolist()
        for i = 1, 256 do assert.are.equal(0, back[i]) end
        assert.are.equal(255, codes:at(512))
        assert.is_near(128e-41, back[384], 1e-41)
        assert.are.equal(520, back[520])
      end)

      it(kind .. " lives through infinities and NaN", function()
        local values = { 1 / 0, 0 / 0, -1 / 0, 1, 0 }
        for i = 6, 256 do values[i] = 0 / 0 end
        local codes = encode(kind, values)
        for i = 1, 256 do assert.is_true(codes[i] >= 0 and codes[i] <= 255) end
      end)
    end
  end)
end

it("every instruction set gives the same codes, next to midpoints too", function()
  local values = core.randn(3, 1, 1.0, 256 * 64):tolist()
  for _, map in pairs(reference.maps) do
    for shift = -8, 7 do
      values[#values + 1] = 1.0
      for c = 1, 255 do
        values[#values + 1] = (map[c] + map[c + 1]) / 2 * (1 + shift * 2 ^ -23)
      end
    end
  end
  local x = core.tensor(values)
  for _, kind in ipairs { "q8", "u8" } do
    local results = {}
    for i, isa in ipairs { "portable", "avx2", "avx512" } do
      core.optim.isa(isa)
      local codes, scales = core.optim.encode(x, kind)
      results[i] = { codes:tolist(), scales:tolist(),
        core.optim.decode(codes, scales, kind):tolist() }
    end
    core.optim.isa ""
    assert.are.same(results[1], results[2])
    assert.are.same(results[1], results[3])
  end
end)

-- The first step of a sum of gradients stores the gradient itself, so what a pass makes of it on the
-- tensors' device can be held against the processor's codec.
it("the optimizer's passes make the codes that encode does, on any device", function()
  local optim, scheme = require "dopl.optim", require "dopl.optim.scheme"
  local values = core.randn(3, 1, 1.0, 256 * 8):tolist()
  for _, map in pairs(reference.maps) do
    for shift = -8, 7 do
      values[#values + 1] = shift % 2 == 0 and -1.0 or 1.0
      for c = 1, 255 do
        values[#values + 1] = (map[c] + map[c + 1]) / 2 * (1 + shift * 2 ^ -23)
      end
    end
  end
  for i = 1, 256 do values[#values + 1] = (i - 100) * 1e-41 end
  for i = 1, 100 do values[#values + 1] = i % 7 == 0 and 0.0 or i - 50.0 end
  for _, kind in ipairs { "q8", "u8" } do
    local rule = optim.rule {
      name = "keep", hyper = { lr = 0, keep = 0.5 }, direction = function(moment) return moment.m end,
      moments = { m = { decay = "keep", kind = "sum", nonnegative = kind == "u8",
        signal = function(g) return g end } },
    }
    local w = core.full(0.0, #values):requires_grad(true)
    w:set_grad(core.tensor(values))
    local o = rule {}:with(scheme.shared { storage = "8bit", quantize_min = 0 })
      :attach { { name = "w", tensor = w } }
    o:step {}
    local state = o.params[1].state.m
    local codes, scales = core.optim.encode(core.tensor(values), kind)
    assert.equal(kind, state.kind)
    assert.are.same(scales:tolist(), state.scales:tolist())
    assert.are.same(codes:tolist(), state.value:tolist())
  end
end)
