-- matmul_spec.lua - dense layers, two of them with GELU between, plain products.
local array = require "op.array"
local core = require "dopl.core"
local walker = require "op.walker"

local assert = require "luassert"

-- y[i][j] = sum over k of x[i][k] w(k, j), plus b[j]
local function product(x, K, N, w, b)
  local M = x.shape[1]
  return array.new({ M, N }, function(index)
    local i, j = (index - 1) // N, (index - 1) % N
    local sum = b and b[j + 1] or 0.0
    for k = 0, K - 1 do sum = sum + x[i * K + k + 1] * w(k, j) end
    return sum
  end)
end

local function tanh(x)
  local e = math.exp(-2 * math.abs(x))
  return (x < 0 and -1 or 1) * (1 - e) / (1 + e)
end

local function linear(x, w, b)
  local O, C = w.shape[1], w.shape[2]
  return product(x, C, O, function(k, j) return w[j * C + k + 1] end, b)
end

local function matmul(a, b)
  local K, N = b.shape[1], b.shape[2]
  return product(a, K, N, function(k, j) return b[k * N + j + 1] end)
end

local function gelu(x)
  return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3)))
end

local function mlp(x, w1, b1, w2, b2) return linear(array.map(linear(x, w1, b1), gelu), w2, b2) end

local fill, zeros = array.fill, array.zeros

local function layer(T, C, O, bias)
  return { fill({ T, C }, 0, 1, 1), fill({ O, C }, 0, 1, 2), bias and fill({ O }, 0, 1, 3) }
end

local function layers(T, C, F, O)
  return { fill({ T, C }, 0, 1, 1), fill({ F, C }, 0, 1, 2), fill({ F }, 0, 1, 3),
    fill({ O, F }, 0, 1, 4), fill({ O }, 0, 1, 5) }
end

local function plain(M, K, N) return { fill({ M, K }, 0, 1, 1), fill({ K, N }, 0, 1, 2) } end

return walker.check("matmul", {
  linear = {
    reference = linear, elements = 4,
    samples = {
      layer(3, 4, 5, true), layer(3, 4, 5, false), layer(1, 1, 1, true), layer(2, 65, 300, true),
      layer(70, 17, 33, false), layer(2, 1025, 3, true), layer(0, 4, 5, true), layer(3, 0, 5, true),
      layer(3, 4, 0, true),
      layer(1, 2088, 3, true), layer(3, 1064, 5, true), layer(4, 8, 2, false), -- few rows
      layer(5, 19, 7, true), layer(6, 33, 4, false), layer(7, 40, 9, true), layer(13, 21, 5, false),
      layer(15, 64, 33, true), -- the same, in blocks of unlike sizes
      layer(130, 129, 70, true), layer(129, 70, 130, false), -- large enough for oneDNN's matmul
    },
    wrong = {
      { zeros { 2, 3 }, zeros { 4, 5 },
        says = "linear: x [2, 3] and weight [4, 5], need [T, C] and [O, C]" },
      { zeros { 3 }, zeros { 4, 3 }, says = "linear: x [3] and weight [4, 3]" },
      { zeros { 2, 3 }, zeros { 4, 3 }, zeros { 3 },
        says = "linear: weight [4, 3] and bias [3], need [O, C] and [O]" },
    },
    on_cpu = { -- a device multiplies bf16 as it is
      ["decodes a large bf16 weight strip by strip"] = function()
        local O, C, T = 2300, 1000, 3 -- three strips, the last one short
        local w = core.randn(1, 2, 0.1, O, C):to("bf16")
        local function run(weight, bias)
          local scope <close> = core.scope() -- luacheck: ignore scope
          local x = core.randn(1, 3, 1, T, C):requires_grad(true)
          core.reset_peak()
          local before = core.memory().peak
          local y = core.ops.linear(x, weight, bias and core.randn(1, 5, 1, O) or nil)
          y:backward(core.randn(1, 4, 1, T, O))
          return array.of(y), array.of(x:grad()), core.memory().peak - before
        end
        for _, bias in ipairs { false, true } do
          local y, dx = run(w:to("f32"), bias)
          local y2, dx2, bytes = run(w, bias)
          walker.compare("linear", y, y2, 1e-6) -- the bias is added before the sum, or after
          walker.compare("its gradient", dx, dx2, 1e-5) -- strips add up
          assert.is_true(bytes < O * C * 4, "the whole weight was decoded")
        end
      end,
    },
  },
  mlp = {
    reference = mlp, elements = 3,
    -- without AVX-512, oneDNN cuts long sums of few rows by the number of threads
    reordered = 2e-6,
    samples = { -- cuBLAS takes over GELU, its gradient, both or neither, by C, F and O
      layers(3, 4, 8, 6), layers(3, 4, 8, 5), layers(3, 5, 8, 6), layers(3, 4, 7, 6),
      layers(1, 1, 1, 1), layers(9, 18, 80, 12), layers(130, 6, 136, 4), -- more than one thread's
      layers(0, 4, 8, 6), layers(3, 0, 8, 6), layers(3, 4, 0, 6), layers(3, 4, 8, 0),
    },
    wrong = {
      { zeros { 2, 3 }, zeros { 8, 4 }, zeros { 8 }, zeros { 4, 8 }, zeros { 4 },
        says = "mlp: x [2, 3] and first weight [8, 4], need [T, C] and [F, C]" },
      { zeros { 2, 3 }, zeros { 8, 3 }, zeros { 8 }, zeros { 3, 9 }, zeros { 3 },
        says = "mlp: weights [8, 3] and [3, 9], need [F, C] and [O, F]" },
      { zeros { 2, 3 }, zeros { 8, 3 }, zeros { 3 }, zeros { 3, 8 }, zeros { 3 },
        says = "mlp: weight [8, 3] and bias [3], need [F, C] and [F]" },
      { zeros { 2, 3 }, zeros { 8, 3 }, zeros { 8 }, zeros { 3, 8 }, zeros { 8 },
        says = "mlp: weight [3, 8] and bias [8], need [O, F] and [O]" },
    },
    cases = {
      ["is two layers with GELU between them"] = function()
        local function run(apply)
          local scope <close> = core.scope() -- luacheck: ignore scope
          local given, grads = {}, {}
          for i, a in ipairs(layers(7, 12, 40, 10)) do
            given[i] = array.tensor(a):requires_grad(true)
          end
          local y = apply(table.unpack(given))
          y:backward(array.tensor(fill({ 7, 10 }, 0, 1, 6)))
          for i, t in ipairs(given) do grads[i] = array.of(t:grad()) end
          return array.of(y), grads
        end
        local op = core.ops
        local wanted, grads = run(function(x, w1, b1, w2, b2)
          return op.linear(op.gelu(op.linear(x, w1, b1)), w2, b2)
        end)
        local y, same = run(op.mlp)
        walker.compare("mlp", wanted, y, 0)
        for i = 1, 5 do walker.compare("gradient " .. i, grads[i], same[i], 0) end
      end,
    },
    on_cpu = {
      ["keeps one of the two matrices between the layers"] = function()
        local scope <close> = core.scope() -- luacheck: ignore scope
        local T, C, F = 64, 16, 256
        local given = {}
        for i, a in ipairs(layers(T, C, F, C)) do given[i] = array.tensor(a):requires_grad(true) end
        local before = core.memory().live
        local y = core.ops.mlp(table.unpack(given)) -- luacheck: ignore y
        local kept = core.memory().live - before - 4 * T * C
        assert.is_true(kept >= 4 * T * F and kept < 5 * T * F)
      end,
    },
  },
  matmul = {
    reference = matmul, elements = 4,
    samples = { plain(3, 4, 5), plain(1, 1, 1), plain(33, 17, 70), plain(2, 1025, 3),
      plain(0, 4, 5), plain(3, 0, 5), plain(130, 70, 129) },
    wrong = {
      { zeros { 2, 3 }, zeros { 4, 5 },
        says = "matmul: [2, 3] and [4, 5], need [M, K] and [K, N]" },
      { zeros { 3 }, zeros { 3, 1 }, says = "matmul: [3] and [3, 1]" },
    },
  },
})
