-- reduce_spec.lua - sums, means, sums by sequence, softmax.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

local fill, zeros = array.fill, array.zeros

local function total(x)
  local sum = 0.0
  for _, v in ipairs(x) do sum = sum + v end
  return sum
end

local function of_rows(x, shape, f)
  local y, n, cols = { shape = shape }, array.rows(x)
  for r = 0, n - 1 do f(y, r, r * cols, cols) end
  return y
end

local function sum_last(x)
  local shape = table.move(x.shape, 1, #x.shape - 1, 1, {})
  local y = array.zeros(shape)
  local n, cols = array.rows(x)
  for r = 0, n - 1 do
    for i = 1, cols do y[r + 1] = y[r + 1] + x[r * cols + i] end
  end
  return y
end

local function segment_sum(x, offsets)
  return array.new({ #offsets - 1 }, function(b)
    local sum = 0.0
    for i = offsets[b] + 1, offsets[b + 1] do sum = sum + x[i] end
    return sum
  end)
end

local function log_softmax(x)
  return of_rows(x, x.shape, function(y, _, first, cols)
    local top, sum = -math.huge, 0.0
    for i = first + 1, first + cols do top = math.max(top, x[i]) end
    for i = first + 1, first + cols do sum = sum + math.exp(x[i] - top) end
    for i = first + 1, first + cols do y[i] = x[i] - top - math.log(sum) end
  end)
end

local function softmax(x) return array.map(log_softmax(x), math.exp) end

local function rows_of(...)
  local list = { ... }
  for _, shape in ipairs { { 2, 5 }, { 4 }, { 2, 3, 4 }, { 3, 1 }, { 17, 1025 }, { 0, 4 } } do
    list[#list + 1] = { fill(shape, 0, 3, 1) }
  end
  return list
end

local scalar <const> = { { zeros {}, says = "a scalar, needs at least one dimension" } }

return walker.check("reduce", {
  sum = {
    reference = function(x) return { shape = {}, total(x) } end, elements = 3,
    samples = rows_of({ fill({}, 0, 2, 1) }),
  },
  mean = {
    reference = function(x) return { shape = {}, total(x) / #x } end, elements = 3,
    samples = {
      { fill({ 2, 5 }, 0, 3, 1) }, { fill({}, 0, 2, 1) }, { fill({ 5, 1025 }, 0, 3, 1) },
    },
    wrong = { { zeros { 0, 4 }, says = "mean: [0, 4] has no elements" } },
  },
  sum_last = {
    reference = sum_last, elements = 3, wrong = scalar,
    samples = rows_of({ zeros { 3, 0 } }),
  },
  segment_sum = {
    reference = segment_sum,
    samples = {
      { fill({ 6 }, 0, 2, 1), array.index { 0, 2, 2, 6 } },
      { fill({ 1 }, 0, 2, 1), array.index { 0, 1 } },
      { fill({ 1025 }, 0, 2, 1), array.index { 0, 1000, 1025 } },
      { zeros { 0 }, array.index { 0 } }, { zeros { 0 }, array.index { 0, 0 } },
    },
    wrong = {
      { zeros { 6 }, array.index { 0, 5 },
        says = "segment_sum: offsets [2] from 0 to 5, need 1 dimension, 0 to 6" },
      { zeros { 2, 3 }, array.index { 0, 6 },
        says = "segment_sum: input 1 is [2, 3], needs 1 dimension" },
      { zeros { 6 }, array.index {}, says = "segment_sum: offsets [0]" },
      { zeros { 6 }, array.index { 0, 4, 3, 6 }, says = "segment_sum: offset 2 is 3, after 4" },
    },
  },
  softmax = {
    reference = softmax, elements = 3, samples = rows_of(), wrong = scalar,
    cases = {
      ["large logits stay finite"] = function()
        local y = core.ops.softmax(core.tensor { 1e4, 0, -1e4 }):tolist()
        assert.near(1, y[1], 1e-6)
        assert.near(0, y[2], 1e-30)
      end,
      ["a NaN shows in every element of its row"] = function()
        local y = core.ops.softmax(core.tensor { { 1, 0 / 0, 2 }, { 1, 2, 3 } }):tolist()
        for i = 1, 3 do assert.is_true(y[1][i] ~= y[1][i] and y[2][i] == y[2][i]) end
      end,
    },
  },
  log_softmax = {
    reference = log_softmax, elements = 3, samples = rows_of(), wrong = scalar,
    cases = { ["large logits stay finite"] = function()
      assert.same({ 0.0, -1e4 }, core.ops.log_softmax(core.tensor { 1e4, 0 }):tolist())
    end },
  },
})
