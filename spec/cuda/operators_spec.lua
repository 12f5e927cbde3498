-- operators_spec.lua - what the walker (spec/op) does not show of a device's operators: bf16 against
-- f32 on the CPU, tensors that start off a multiple of 16 bytes, gradients of the value's type and
-- of a parameter's, gradients on top of another, rows on either side of every kernel's limits.
local array = require "op.array"
local core = require "dopl.core"
local walker = require "op.walker"

local op = core.ops

-- |got - wanted| <= tolerance * max(1, |wanted|) and what the walker gives the terms of a sum, by
-- type: a few roundings for f32; for bf16 half a unit in the last place (2^-9), of a gradient also
-- that of the output that the CPU kept in f32, and of sums what was rounded between two terms.
local TOLERANCE = {
  f32 = { value = 3e-6, gradient = 5e-6 },
  bf16 = { value = 2 ^ -8, gradient = 0.01 },
}

local function A(...)
  return array.fill({ ... }, 0, 1, 3)
end

local function scaled(centre, scale, ...)
  return array.fill({ ... }, centre, scale, 5)
end

local cases = {} -- { name, inputs, attributes }
local function case(name, inputs, ...)
  cases[#cases + 1] = { name = name, inputs = inputs, attributes = { ... } }
end

-- One element, around a warp, past a block, whole packs, none, a scalar.
local shapes = { { 1 }, { 31 }, { 33 }, { 257 }, { 2, 40 }, { 3, 0 }, {} }
for _, shape in ipairs(shapes) do
  local x, positive = array.fill(shape, 0, 3, 3), array.fill(shape, 1.6, 1, 3)
  for name in ("exp abs square sigmoid log_sigmoid tanh relu silu gelu sum"):gmatch "%S+" do
    case(name, { x })
  end
  case("gelu", { x }, "erf")
  case("log", { positive })
  case("sqrt", { positive })
  case("scale", { x }, 2.5)
  case("shift", { x }, 2.5)
  case("clamp", { x }, -0.5, 0.25)
  case("dropout", { x }, 0.3, 12345678901, 7)
  if array.count(shape) > 0 then case("mean", { x }) end
end

for _, pair in ipairs { { { 4, 8 }, { 4, 8 } }, { { 5, 33 }, { 33 } }, { { 33 }, { 5, 33 } },
  { { 5, 40 }, { 40 } }, { { 5, 40 }, { 5, 1 } }, { { 5, 33 }, { 5, 1 } }, { { 5, 40 }, {} },
  { {}, { 5, 40 } }, { { 2, 3, 4, 8 }, { 3, 1, 8 } }, { { 2, 3, 4, 8 }, { 2, 1, 4, 1 } },
  { { 2, 3, 4, 8 }, { 1, 3, 1, 8 } }, { { 2, 3, 4, 7 }, { 3, 1, 7 } }, { { 5, 1 }, { 1, 7 } },
  { { 8, 1 }, { 1, 16 } }, { { 1 }, {} }, { { 0, 4 }, { 4 } }, { { 90, 40 }, { 40 } },
  { { 3, 2500 }, { 3, 1 } }, { { 3, 2501 }, { 3, 1 } } } do
  local a, b = array.fill(pair[1], 0, 1, 3), array.fill(pair[2], 2, 1, 5)
  for name in ("add sub mul div"):gmatch "%S+" do case(name, { a, b }) end
end

-- GELU in the products, in the first, in the second, in neither.
for _, s in ipairs { { 5, 12, 40, 6 }, { 5, 12, 40, 7 }, { 5, 11, 40, 6 }, { 5, 12, 41, 6 } } do
  local T, C, F, O = table.unpack(s)
  case("mlp", { A(T, C), scaled(0, 0.3, F, C), A(F), scaled(0, 0.1, O, F), A(O) })
end

for _, cols in ipairs { 2, 62, 66, 64, 514 } do case("silu_mul", { scaled(0, 3, 3, cols) }) end
case("silu_mul", { scaled(0, 3, 0, 8) })

-- Rows of one pack, of a warp's few and many packs, of a block's few and many; rows of no whole
-- packs.
for _, shape in ipairs { { 1, 8 }, { 3, 31 }, { 3, 33 }, { 9, 257 }, { 20, 64 }, { 3, 800 },
  { 1, 1544 }, { 2, 2304 }, { 0, 8 }, { 2, 3, 8 } } do
  local cols = shape[#shape]
  local x, w, b = array.fill(shape, 0, 1, 3), scaled(1, 0.5, cols), A(cols)
  case("rms_norm", { x, w })
  case("layer_norm", { x, w, b })
  case("layer_norm", { x, w, false })
  case("softmax", { array.map(x, function(v) return 4 * v end) })
  case("log_softmax", { x })
  case("sum_last", { x })
end
case("softmax", { scaled(0, 4, 1, 9000) })
case("log_softmax", { scaled(0, 4, 1, 16401) })
case("sum_last", { A(2, 3, 0) })
case("sum_last", { A(5, 12) }) -- whole packs of f32, not of bf16
case("sum", { A(9001) })

case("rotary", { A(5, 24), array.index { 0, 1, 7, 1000, 50000 } }, 2, 8, 10000)
case("rotary", { A(5, 22), array.index { 0, 1, 7, 1000, 3 } }, 2, 8, 10000)
case("rotary", { A(4, 96), array.index { 0, 1, 7, 2047 } }, 2, 32, 500000)
case("rotary", { A(2, 18), array.index { 5, 9 } }, 3, 6, 10000)
case("rotary", { A(2, 1300), array.index { 5, 9 } }, 1, 1200, 10000)
case("rotary", { A(0, 8), array.index {} }, 1, 8, 10000)

local repeated <const> = { 0, 3, 3, 6, 0, 3, 3, 3, 3, 5 }
case("embedding", { A(7, 33), array.index(repeated) })
case("embedding", { A(7, 64), array.index(repeated) })
case("embedding", { A(5, 8), array.index {} })
local many <const> = {} -- past one tile of indices
for i = 1, 1100 do many[i] = i * i % 397 end
case("embedding", { A(400, 8), array.index(many) })
for i = 1, 1100 do many[i] = i % 250 == 3 and 2 or 1 end -- nearly all the same
case("embedding", { A(4, 8), array.index(many) })

for _, shape in ipairs { { 5, 33 }, { 5, 16 }, { 5 } } do
  local x = array.fill(shape, 0, 1, 3)
  for _, window in ipairs { { 1, 2 }, { 0, 5 }, { 4, 1 }, { 2, 0 } } do
    case("slice", { x }, table.unpack(window))
  end
  case("select", { x }, 0)
  case("select", { x }, 3)
  case("view", { x }, -1)
end
case("concat", { A(3, 8), scaled(0, 2, 2, 8), A(1, 8) })
case("concat", { A(3, 5), A(0, 5), scaled(0, 2, 2, 5) })
case("segment_sum", { A(300), array.index { 0, 1, 1, 200, 300 } })
case("segment_sum", { A(0), array.index { 0, 0 } })

local function text_of(c)
  local parts = {}
  for i, a in ipairs(c.inputs) do
    parts[i] = not a and "nil" or a.index and "index" or "[" .. table.concat(a.shape, ", ") .. "]"
  end
  return ("%s(%s)"):format(c.name, table.concat(parts, ", "))
end

local function rounded(a, dtype)
  if not a or a.index or #a == 0 or dtype == "f32" then return a end
  local scope <close> = core.scope()
  local out = array.of(array.tensor(a):to(dtype):to("f32"))
  out.shape = a.shape
  return out
end

local function tensor(a, dtype)
  return array.tensor(a):to(dtype)
end

-- The elements of `a` from the second element of a longer tensor on.
local function off_by_one(a, dtype)
  local long = table.move(a, 1, #a, 2, { 0.5, shape = { #a + 4 } })
  for i = #a + 2, #a + 4 do long[i] = 0.25 end
  local whole = tensor(long, dtype)
  return whole, function() return op.view(op.slice(whole, 1, #a), table.unpack(a.shape)) end
end

-- How a value comes to be an input: a parameter; another's result, whose gradient has its type; the
-- same, off a multiple of 16 bytes.
local ways = {
  parameter = function(a, dtype)
    local leaf = tensor(a, dtype):requires_grad(true)
    return leaf, leaf, 0
  end,
  result = function(a, dtype)
    local leaf = tensor(a, dtype):requires_grad(true)
    return op.view(leaf, table.unpack(a.shape)), leaf, 0
  end,
  unaligned = function(a, dtype)
    local leaf, window = off_by_one(a, dtype)
    leaf:requires_grad(true)
    return window(), leaf, 1
  end,
}

-- Values and gradients of op(inputs), or, with `twice`, of op(inputs) + op(inputs).
local function run(c, inputs, upstream, dtype, way, twice)
  local scope <close> = core.scope()
  local args, leaves, n = {}, {}, #inputs
  for i, a in ipairs(inputs) do
    if a and a.index then
      args[i] = array.tensor(a)
    elseif a then
      local leaf, skip
      args[i], leaf, skip = ways[way](a, dtype)
      leaves[#leaves + 1] = { leaf = leaf, skip = skip, shape = a.shape }
    end
  end
  table.move(c.attributes, 1, #c.attributes, n + 1, args)
  local y = op[c.name](table.unpack(args, 1, n + #c.attributes))
  local z = twice and op.add(op[c.name](table.unpack(args, 1, n + #c.attributes)), y) or y
  local dy = tensor(upstream, dtype)
  if way == "unaligned" then
    local _, window = off_by_one(upstream, dtype)
    dy = window()
  end
  z:backward(dy)
  local grads = {}
  for k, l in ipairs(leaves) do
    local all = array.of(l.leaf:grad():to("f32"):to("cpu"))
    grads[k] = table.move(all, l.skip + 1, l.skip + array.count(l.shape), 1, { shape = l.shape })
  end
  return array.of(z:to("f32"):to("cpu")), grads
end

-- The shape of the result.
local function shape_of(c, inputs)
  local scope <close> = core.scope()
  local args = {}
  for i, a in ipairs(inputs) do args[i] = a and array.tensor(a) or nil end
  table.move(c.attributes, 1, #c.attributes, #inputs + 1, args)
  return op[c.name](table.unpack(args, 1, #inputs + #c.attributes)):shape()
end

-- The inputs, then the attributes, and which of them a gradient flows into.
local function arguments_of(c, inputs)
  local args, wants = table.move(inputs, 1, #inputs, 1, {}), {}
  for i, a in ipairs(inputs) do
    if a and not a.index then wants[#wants + 1] = i end
  end
  return table.move(c.attributes, 1, #c.attributes, #inputs + 1, args), wants
end

local function doubled(slack)
  return slack and array.map(slack, function(x) return 2 * x end)
end

local function check(c, dtype)
  local inputs = {}
  for i, a in ipairs(c.inputs) do inputs[i] = rounded(a, dtype) end
  local args, wants = arguments_of(c, inputs)
  core.device("cpu")
  local upstream = rounded(array.fill(shape_of(c, inputs), 0, 1, 50), dtype)
  local value_slack, slack = nil, {}
  for _, twice in ipairs { false, true } do
    core.device("cpu")
    local value, grads = run(c, inputs, upstream, "f32", "parameter", twice)
    core.device("cuda")
    if twice then
      value_slack = doubled(value_slack)
      for _, i in ipairs(wants) do slack[i] = doubled(slack[i]) end
    else
      local by_position = {}
      for k, i in ipairs(wants) do by_position[i] = grads[k] end
      value_slack, slack = walker.device_slack(c.name, args, wants, upstream, by_position,
        dtype == "bf16")
    end
    local t = TOLERANCE[dtype]
    local more = twice and dtype == "bf16" and 2 or 1 -- rounded between the two
    for way in pairs(ways) do
      local what = ("%s of %s, %s%s"):format(text_of(c), dtype, way, twice and ", twice" or "")
      local got, got_grads = run(c, inputs, upstream, dtype, way, twice)
      walker.compare(what, value, got, t.value * more, value_slack)
      for k, g in ipairs(grads) do
        walker.compare(("%s: gradient %d"):format(what, k), g, got_grads[k], t.gradient * more,
          slack[wants[k]])
      end
    end
  end
end

local on_device = core.device() == "cuda"

describe("operators on a device", function()
  local poison
  setup(function() poison = core.poison(true) end)
  teardown(function() core.poison(poison) end)
  after_each(function()
    if on_device then core.device("cuda") end
  end)
  local names, by_name = {}, {}
  for _, c in ipairs(cases) do
    if not by_name[c.name] then
      names[#names + 1] = c.name
      by_name[c.name] = {}
    end
    table.insert(by_name[c.name], c)
  end
  for _, name in ipairs(names) do
    it("agree with the CPU: " .. name, function()
      if not on_device then return pending("no device") end
      for _, dtype in ipairs { "f32", "bf16" } do
        for _, c in ipairs(by_name[name]) do check(c, dtype) end
      end
    end)
  end
end)
