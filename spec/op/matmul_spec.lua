-- matmul_spec.lua - dense layers and plain products.
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

local function linear(x, w, b)
  local O, C = w.shape[1], w.shape[2]
  return product(x, C, O, function(k, j) return w[j * C + k + 1] end, b)
end

local function matmul(a, b)
  local K, N = b.shape[1], b.shape[2]
  return product(a, K, N, function(k, j) return b[k * N + j + 1] end)
end

local fill, zeros = array.fill, array.zeros

local function layer(T, C, O, bias)
  return { fill({ T, C }, 0, 1, 1), fill({ O, C }, 0, 1, 2), bias and fill({ O }, 0, 1, 3) }
end

local function plain(M, K, N) return { fill({ M, K }, 0, 1, 1), fill({ K, N }, 0, 1, 2) } end

return walker.check("matmul", {
  linear = {
    reference = linear, elements = 4,
    samples = {
      layer(3, 4, 5, true), layer(3, 4, 5, false), layer(1, 1, 1, true), layer(2, 65, 300, true),
      layer(70, 17, 33, false), layer(2, 1025, 3, true), layer(0, 4, 5, true), layer(3, 0, 5, true),
      layer(3, 4, 0, true),
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
