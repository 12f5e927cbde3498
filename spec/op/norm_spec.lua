-- norm_spec.lua - RMSNorm and LayerNorm.
local array = require "op.array"
local golden = require "op.golden"
local walker = require "op.walker"
local core = require "dopl.core"

-- f(row, first, cols) -> mean, 1 / deviation
local function norm(x, w, b, statistics)
  local n, cols = array.rows(x)
  local y = { shape = x.shape }
  for r = 0, n - 1 do
    local mean, inverse = statistics(x, r * cols, cols)
    for i = 1, cols do
      y[r * cols + i] = (x[r * cols + i] - mean) * inverse * w[i] + (b and b[i] or 0)
    end
  end
  return y
end

local function mean_square(x, first, cols, mean)
  local sum = 0.0
  for i = first + 1, first + cols do sum = sum + (x[i] - mean) ^ 2 end
  return sum / cols
end

local function rms_norm(x, w, eps)
  return norm(x, w, nil, function(values, first, cols)
    return 0, 1 / math.sqrt(mean_square(values, first, cols, 0) + (eps or 1e-5))
  end)
end

local function layer_norm(x, w, b, eps)
  return norm(x, w, b, function(values, first, cols)
    local mean = 0.0
    for i = first + 1, first + cols do mean = mean + values[i] / cols end
    return mean, 1 / math.sqrt(mean_square(values, first, cols, mean) + (eps or 1e-5))
  end)
end

local function samples(extra)
  local list = {}
  for _, shape in ipairs { { 2, 5 }, { 7 }, { 2, 3, 4 }, { 1, 2 }, { 40, 33 }, { 3, 1025 },
    { 0, 4 }, { 3, 400 }, { 3, 600 }, { 10, 1028 }, { 2, 2052 } } do -- a kernel each on a GPU
    local cols = shape[#shape]
    list[#list + 1] = extra(array.fill(shape, 0.5, 2, 1), array.fill({ cols }, 1, 0.5, 2),
      array.fill({ cols }, 0, 1, 3))
  end
  return list
end

local zeros = array.zeros

return walker.check("norm", {
  rms_norm = {
    reference = rms_norm, elements = 5,
    samples = samples(function(x, w) return { x, w, 1e-3 } end),
    wrong = {
      { zeros { 2, 3 }, zeros { 2 },
        says = "rms_norm: x [2, 3] and weight [2], need [.., C] and [C]" },
      { zeros { 2, 3 }, zeros { 1, 3 }, says = "rms_norm: x [2, 3] and weight [1, 3]" },
      { zeros {}, zeros { 1 }, says = "rms_norm: x [] and weight [1]" },
    },
    cases = {
      ["is PyTorch's in double"] = function()
        golden.check("rms_norm", "rms_norm", { "x", "weight" }, { 1e-5 })
      end,
      ["takes eps = 1e-5 where none is given"] = function()
        local x, w = core.tensor { { 1e-3, 2e-3 } }, core.tensor { 1, 1 }
        assert.same(core.ops.rms_norm(x, w, 1e-5):tolist(), core.ops.rms_norm(x, w):tolist())
        assert.not_same(core.ops.rms_norm(x, w, 1e-6):tolist(), core.ops.rms_norm(x, w):tolist())
      end,
    },
  },
  layer_norm = {
    reference = layer_norm, elements = 5,
    samples = (function()
      local list = samples(function(x, w, b) return { x, w, b, 1e-3 } end)
      list[#list + 1] = { array.fill({ 4, 6 }, 1, 2, 1), array.fill({ 6 }, 1, 0.5, 2), false, 1e-3 }
      return list
    end)(),
    wrong = {
      { zeros { 2, 3 }, zeros { 2 }, says = "layer_norm: x [2, 3] and weight [2]" },
      { zeros { 2, 3 }, zeros { 3 }, zeros { 4 }, says = "layer_norm: x [2, 3] and bias [4]" },
    },
    cases = { ["is PyTorch's in double"] = function()
      golden.check("layer_norm", "layer_norm", { "x", "weight", "bias" }, { 1e-5 })
    end },
  },
})
