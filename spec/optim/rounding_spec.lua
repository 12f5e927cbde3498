-- bf16 in the optimizer: rounding, the random bits of it, what passes do with them.
local core = require "dopl.core"
local optim = require "dopl.optim"
local rng = require "dopl.util.rng"
local scheme = require "dopl.optim.scheme"
local reference = require "spec.optim.reference"

local function rounded(values, ...)
  return core.optim.encode(core.tensor(values), "bf16", ...):tolist()
end

for _, isa in ipairs { "portable", "avx2", "avx512" } do
  describe("bf16, " .. isa, function()
    setup(function() core.optim.isa(isa) end)
    teardown(function() core.optim.isa "" end)

    for _, n in ipairs { 1, 127, 129, 255, 256, 257, 1000 } do
      it(("rounds %d numbers as plain Lua does"):format(n), function()
        local values = {}
        local stream = rng.new(n, "values")
        for i = 1, n do values[i] = reference.f32(stream:normal() * 10 ^ -(i % 40)) end
        assert.are.same(reference.bf16(values), rounded(values))
        assert.are.same(reference.bf16(values, 3, rng.hash "w.m", 12),
          rounded(values, 3, rng.hash "w.m", 12))
      end)
    end

    it("gives every number it holds back", function()
      local values = {}
      for h = 0, 0xffff do
        local v = string.unpack("<f", string.pack("<I4", h << 16))
        if v == v then values[#values + 1] = v end
      end
      assert.are.same(values, rounded(values))
      assert.are.same(values, rounded(values, 1, 2, 3)) -- an infinity too
      local held = core.optim.encode(core.tensor(values), "bf16")
      assert.are.same(values, core.optim.decode(held, nil, "bf16"):tolist())
    end)

    it("keeps NaN, and takes ties to even", function()
      local values = {}
      for i = 1, 300 do values[i] = 0 / 0 end
      for _, list in ipairs { rounded(values), rounded(values, 1, 2, 3) } do
        for _, v in ipairs(list) do assert(v ~= v) end
      end
      assert.are.same({ 1, 1 + 2 ^ -6, -1 }, rounded { 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, -1 - 2 ^ -8 })
    end)
  end)
end

describe("stochastic rounding", function()
  local n <const> = 4096

  -- How many of n copies of 1 + share of a spacing go up.
  local function up(share, ...)
    local x = core.full(1 + share * 2 ^ -7, n)
    local out = core.optim.decode(core.optim.encode(x, "bf16", ...), nil, "bf16")
    return math.floor((out - 1):dot(core.full(2 ^ 7, n)) + 0.5)
  end

  it("goes up as often as a number is close to the one above", function()
    for _, share in ipairs { 0, 1 / 64, 1 / 8, 0.5, 0.75, 63 / 64 } do
      for draw = 1, 8 do
        local sigma = math.sqrt(n * share * (1 - share))
        assert.is_near(n * share, up(share, 5, rng.hash "a", draw), 4.5 * sigma)
      end
    end
  end)

  it("has other bits for another seed, stream or draw, of no relation", function()
    local x = core.full(1 + 2 ^ -8, n)
    local function signs(...) -- 1 up, -1 down
      local up_or_down = core.optim.decode(core.optim.encode(x, "bf16", ...), nil, "bf16") - 1
      return up_or_down * 2 ^ 8 - 1
    end
    local first = signs(1, 1, 1)
    assert.are.same(first:tolist(), signs(1, 1, 1):tolist())
    for _, other in ipairs { { 2, 1, 1 }, { 1, 2, 1 }, { 1, 1, 2 }, { 1, 1, 3 } } do
      assert.is_near(0, first:dot(signs(table.unpack(other))), 4.5 * math.sqrt(n))
    end
    local list, neighbours, halves = first:tolist(), 0, 0
    for i = 1, n - 256 do
      neighbours = neighbours + list[i] * list[i + 1]
      halves = halves + list[i] * list[i + 128]
    end
    assert.is_near(0, neighbours, 4.5 * math.sqrt(n))
    assert.is_near(0, halves, 4.5 * math.sqrt(n))
  end)
end)

-- A bf16 parameter after 1000 steps of 1/50 of its spacing each.
local function drift(weights)
  local w = core.optim.encode(core.full(1, 512), "bf16"):requires_grad(true)
  local o = optim.sgd { lr = 2 ^ -7 / 50 }:with(scheme.shared { weights = weights })
    :attach { { name = "w", tensor = w } }
  w:set_grad(core.full(-1, 512))
  for _ = 1, 1000 do o:step() end
  return core.optim.decode(w, nil, "bf16"):dot(core.full(1 / 512, 512)), o
end

describe("bf16 weights", function()
  it("written from an f32 master go where f32 goes", function()
    local mean, o = drift "master"
    assert.is_near(1 + 20 * 2 ^ -7, mean, 2 ^ -8)
    assert.are.equal("f32", o:state("w", "master"):dtype())
    assert.is_near(1 + 20 * 2 ^ -7, o:state("w", "master"):at(1), 1e-4)
  end)

  it("rounded stochastically go there on average", function()
    -- the variance of a step is p (1 - p) of a spacing with p = 1/50
    local sigma = math.sqrt(1000 * 0.02 * 0.98 / 512) * 2 ^ -7
    assert.is_near(1 + 20 * 2 ^ -7, drift "stochastic", 4.5 * sigma)
  end)

  it("rounded to the nearest stay where they are", function()
    assert.are.equal(1, (drift "nearest"))
  end)

  it("may stand beside f32 ones", function()
    local a = core.optim.encode(core.full(1, 300), "bf16"):requires_grad(true)
    local b = core.full(1, 300):requires_grad(true)
    local o = optim.adamw { lr = 0.5 }:attach { { name = "a", tensor = a },
      { name = "b", tensor = b } }
    for _, w in ipairs { a, b } do w:set_grad(core.full(1, 300)) end
    o:step()
    assert.are.equal(0.5, a:at(300))
    assert.are.equal(0.5, b:at(300))
    local names = {}
    for i, s in ipairs(o:states()) do names[i] = s.name end
    assert.are.same({ "a.m", "a.master", "a.v", "b.m", "b.v" }, names)
    assert.is_truthy(o:listing():find("plain, bf16 weights, master:.-theta += round_nearest"))
  end)
end)
