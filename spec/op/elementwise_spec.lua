-- elementwise_spec.lua - formulas, broadcasting, gradients of stretched and repeated inputs.
local array = require "op.array"
local golden = require "op.golden"
local walker = require "op.walker"
local core = require "dopl.core"

local op = core.ops

-- ---- unary

local function sigmoid(x) return 1 / (1 + math.exp(-x)) end
local function tanh(x)
  local e = math.exp(-2 * math.abs(x))
  return (x < 0 and -1 or 1) * (1 - e) / (1 + e)
end


-- The error function by its series about 0, to 1e-11 where |x| <= 3: samples are not past that.
local function erf(x)
  local sum, term, n = x, x, 0
  repeat
    n = n + 1
    term = -term * x * x / n
    sum = sum + term / (2 * n + 1)
  until math.abs(term) < 1e-15
  return 2 / math.sqrt(math.pi) * sum
end

local function gelu(x)
  return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ^ 3)))
end
local function gelu_erf(x) return 0.5 * x * (1 + erf(x / math.sqrt(2))) end

-- Shapes past a vector, past a thread's share, of one element, of none.
local function shapes(make)
  return { { make({ 2, 5 }) }, { make({}) }, { make({ 3, 1025 }) }, { make({ 16391 }) },
    { make({ 0, 4 }) } }
end

local function unary(f, make, cases)
  return { samples = shapes(make), elements = 2, cases = cases,
    reference = function(x) return array.map(x, f) end }
end

local function around(scale) return function(shape) return array.fill(shape, 0, scale, 1) end end
local function positive(shape) return array.fill(shape, 2, 1.9, 1) end
local function kinked(...)
  local at <const> = { ... }
  return function(shape) return array.away(shape, 3, 1, 0.01, at) end
end

local function each(name, list)
  return function()
    for _, pair in ipairs(list) do
      local got = op[name](core.tensor { pair[1] }):at(1)
      if pair[2] ~= pair[2] then
        assert.is_true(got ~= got, name .. " of a NaN")
      else
        assert.equal(pair[2], got)
      end
    end
  end
end

local inf <const>, nan <const> = math.huge, 0 / 0

local ops = {
  exp = unary(math.exp, around(4), { ["at the edges"] = each("exp",
    { { 0.0, 1.0 }, { 89.0, inf }, { inf, inf }, { -inf, 0.0 }, { -200.0, 0.0 }, { nan, nan } }) }),
  log = unary(math.log, positive, { ["at the edges"] = each("log",
    { { 0.0, -inf }, { -1.0, nan }, { inf, inf }, { nan, nan }, { 1.0, 0.0 } }) }),
  sqrt = unary(math.sqrt, positive),
  abs = unary(math.abs, kinked(0), { ["has slope 0 at 0"] = function()
    local x = core.zeros(3):requires_grad(true)
    op.sum(op.abs(x)):backward()
    assert.same({ 0.0, 0.0, 0.0 }, x:grad():tolist())
  end }),
  square = unary(function(x) return x * x end, around(3)),
  sigmoid = unary(sigmoid, around(8), { ["of large numbers"] = each("sigmoid",
    { { 200.0, 1.0 }, { nan, nan } }) }),
  log_sigmoid = unary(function(x) return x < 0 and x - math.log(1 + math.exp(x))
    or -math.log(1 + math.exp(-x)) end, around(12), {
    ["of large numbers"] = each("log_sigmoid", { { -1000.0, -1000.0 }, { nan, nan } }),
  }),
  tanh = unary(tanh, around(3), { ["of large numbers"] = each("tanh",
    { { 200.0, 1.0 }, { -200.0, -1.0 }, { nan, nan } }) }),
  relu = unary(function(x) return math.max(x, 0) end, kinked(0), { ["at the edges"] = each("relu",
    { { 0.0, 0.0 }, { inf, inf }, { nan, nan } }) }),
  silu = unary(function(x) return x * sigmoid(x) end, around(6)),
  gelu = unary(nil, around(4)),
}
ops.gelu.reference = function(x, form) return array.map(x, form == "erf" and gelu_erf or gelu) end
for i, args in ipairs(shapes(around(4))) do
  args[2] = "erf"
  ops.gelu.samples[5 + i] = args
end
ops.gelu.wrong = { { array.zeros { 2 }, "swish", says = "gelu: form is swish, needs tanh or erf" } }

local function with_attributes(spec, ...)
  for _, args in ipairs(spec.samples) do
    for i, value in ipairs { ... } do args[i + 1] = value end
  end
  return spec
end

local x <const> = array.fill({ 2, 3 }, 0, 1, 1)

ops.scale = with_attributes(unary(nil, around(2)), -2.5)
ops.scale.reference = function(a, k) return array.map(a, function(v) return v * k end) end
ops.scale.wrong = { { x, says = "scale: k is missing" },
  { x, "two", says = "scale: k is two, needs a number" } }
ops.shift = with_attributes(unary(nil, around(2)), 1.25)
ops.shift.reference = function(a, k) return array.map(a, function(v) return v + k end) end
ops.shift.wrong = { { x, says = "shift: k is missing" } }
ops.clamp = with_attributes(unary(nil, kinked(-1, 0.5)), -1.0, 0.5)
ops.clamp.reference = function(a, low, high)
  return array.map(a, function(v) return math.min(math.max(v, low), high) end)
end
ops.clamp.wrong = { { x, 0.0, says = "clamp: max is missing" } }

-- ---- binary

-- Shape of two broadcast arrays, and for each its strides over that shape.
local function broadcast(a, b)
  local n, shape = math.max(#a.shape, #b.shape), {}
  for i = 1, n do
    local da = a.shape[i - (n - #a.shape)] or 1
    local db = b.shape[i - (n - #b.shape)] or 1
    shape[i] = da == 1 and db or da
  end
  local function strides(t)
    local out, step = {}, 1
    for i = n, 1, -1 do
      local d = t.shape[i - (n - #t.shape)] or 1
      out[i] = d == 1 and 0 or step
      step = step * d
    end
    return out
  end
  return shape, strides(a), strides(b)
end

local function binary(f)
  return function(a, b)
    local shape, sa, sb = broadcast(a, b)
    return array.new(shape, function(index)
      local rest, ia, ib = index - 1, 1, 1
      for i = #shape, 1, -1 do
        local at = rest % shape[i]
        rest = rest // shape[i]
        ia, ib = ia + at * sa[i], ib + at * sb[i]
      end
      return f(a[ia], b[ib])
    end)
  end
end

local function pairs_of(second)
  local samples = {}
  for _, s in ipairs {
    { { 2, 5 }, { 2, 5 } }, { { 3, 4 }, { 4 } }, { { 4 }, { 3, 4 } }, { { 3, 4 }, { 3, 1 } },
    { { 3, 1 }, { 1, 4 } }, { { 2, 3 }, {} }, { {}, { 2, 3 } }, { {}, {} }, { { 1 }, { 5 } },
    { { 2, 1, 3, 1 }, { 4, 1, 5 } }, { { 2, 3, 2, 2 }, { 3, 1, 2 } }, { { 2, 1025 }, { 1025 } },
    { { 2, 1025 }, { 2, 1 } }, { { 16385 }, { 16385 } }, { { 0, 4 }, { 0, 4 } },
    { { 0, 4 }, { 4 } }, { { 3, 0 }, { 1 } },
  } do
    samples[#samples + 1] = { array.fill(s[1], 0, 2, 1), second(s[2]) }
  end
  return samples
end

local function anything(shape) return array.fill(shape, 0, 2, 2) end
local function wrong_shapes(name)
  return {
    { array.zeros { 2, 3 }, array.zeros { 2, 4 }, says = name .. ": [2, 3] and [2, 4]" },
    { array.zeros { 2, 3 }, array.zeros { 2 }, says = name .. ": [2, 3] and [2]" },
    { array.zeros { 5 }, array.zeros { 0 }, says = name .. ": [5] and [0]" },
  }
end

local formulas <const> = {
  add = function(a, b) return a + b end, sub = function(a, b) return a - b end,
  mul = function(a, b) return a * b end, div = function(a, b) return a / b end,
}
for name, f in pairs(formulas) do
  ops[name] = { reference = binary(f), wrong = wrong_shapes(name), elements = 3,
    samples = pairs_of(name == "div" and positive or anything) }
end

-- Gradient of sum(f(x) * upstream) in x.
local function gradient(values, f)
  local leaf = core.tensor(values):requires_grad(true)
  op.sum(f(leaf)):backward()
  return leaf:grad():tolist()
end

ops.add.cases = {
  ["adds up the gradients of a repeated input"] = function()
    assert.same({ 2.0, 2.0 }, gradient({ 1, 2 }, function(t) return t + t end))
    assert.same({ 4.0, 4.0 }, gradient({ 1, 2 }, function(t) return t + t + t + t end))
    assert.same({ 3.0, 3.0 }, gradient({ 1, 2 }, function(t)
      local u = t + 0 -- a gradient handed on without a copy, and used twice
      return u + (u + u)
    end))
  end,
  ["keeps shared gradients apart when one of two grows"] = function()
    local a = core.tensor { 1, 2 }:requires_grad(true)
    local b = core.tensor { 3, 4 }:requires_grad(true)
    op.sum(op.add(a, b)):backward()
    op.sum(op.scale(a, 10)):backward()
    assert.same({ 11.0, 11.0 }, a:grad():tolist())
    assert.same({ 1.0, 1.0 }, b:grad():tolist())
  end,
  ["works between tensors and numbers in either order"] = function()
    local t = core.tensor { 1, 2 }
    assert.same({ 3.0, 4.0 }, (t + 2):tolist())
    assert.same({ 3.0, 4.0 }, (2 + t):tolist())
    assert.same({ -1.0, 0.0 }, (t - 2):tolist())
    assert.same({ 1.0, 0.0 }, (2 - t):tolist())
    assert.same({ 2.0, 4.0 }, (2 * t):tolist())
    assert.same({ 0.5, 1.0 }, (t / 2):tolist())
    assert.same({ 2.0, 1.0 }, (2 / t):tolist())
    assert.same({ -1.0, -2.0 }, (-t):tolist())
    assert.has_error(function() return t + {} end)
  end,
}
ops.mul.cases = {
  ["adds up the gradients of a repeated input"] = function()
    assert.same({ 2.0, 4.0, 6.0 }, gradient({ 1, 2, 3 }, function(t) return t * t end))
    assert.same({ 3.0, 12.0 }, gradient({ 1, 2 }, function(t) return t * t * t end))
  end,
  ["sums over what it stretched, of itself too"] = function()
    -- x [2] times x as a column: d/dx_i = 2 sum(x)
    assert.same({ 6.0, 6.0 }, gradient({ 1, 2 }, function(t) return t * t:view(2, 1) end))
  end,
}
ops.div.cases = {
  ["is 1 by itself, with no slope"] = function()
    assert.same({ 0.0, 0.0 }, gradient({ 1, 2 }, function(t) return t / t end))
  end,
}
ops.sub.cases = {
  ["is 0 by itself, with no slope"] = function()
    assert.same({ 0.0, 0.0 }, gradient({ 1, 2 }, function(t) return t - t end))
  end,
}

for ours, theirs in pairs { gelu = "gelu_tanh", silu = "silu", log_sigmoid = "log_sigmoid" } do
  ops[ours].cases = ops[ours].cases or {}
  ops[ours].cases["is PyTorch's in double"] = function()
    golden.check(theirs, ours, { "x" }, {})
  end
end
ops.gelu.cases["in its erf form is PyTorch's in double"] = function()
  golden.check("gelu_erf", "gelu", { "x" }, { "erf" })
end
ops.gelu.cases["in its erf form at the edges"] = function()
  local at = op.gelu(core.tensor { inf, nan, -20, 20, 0 }, { form = "erf" }):tolist()
  assert.is_true(at[2] ~= at[2])
  at[2] = 0.0
  assert.same({ inf, 0.0, -0.0, 20.0, 0.0 }, at)
end

return walker.check("elementwise", ops)
