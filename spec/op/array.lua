--- array.lua - plain Lua arrays for references: flat values in double, and a shape.
--
-- An array is { shape = { d1, ... }, v1, v2, ... }, outermost dimension first. Values that an
-- operator is given are rounded to float32, so that the reference starts from the same numbers.
local core = require "dopl.core"

local array = {}

function array.count(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

--- Rows of the last dimension, and their length.
function array.rows(a)
  local cols = a.shape[#a.shape] or 1
  return cols == 0 and 0 or array.count(a.shape) // cols, cols
end

function array.f32(x) return (string.unpack("f", string.pack("f", x))) end

--- An array of f(i), i from 1.
function array.new(shape, f)
  local a = { shape = shape }
  for i = 1, array.count(shape) do a[i] = f(i) end
  return a
end

function array.zeros(shape) return array.new(shape, function() return 0.0 end) end

--- The formula of spec/golden: spread over [centre - scale, centre + scale], never twice alike.
function array.fill(shape, centre, scale, k)
  return array.new(shape, function(index)
    local i = index - 1
    local u = (31 * i * i + 7919 * i + 104729 * k) % 10007 / 10007
    return array.f32(centre + scale * (2 * u - 1))
  end)
end

--- The same, kept at least `margin` away from 0 (and from any other kink in `at`).
function array.away(shape, scale, k, margin, at)
  local a = array.fill(shape, 0, scale, k)
  for i, v in ipairs(a) do
    for _, kink in ipairs(at or { 0 }) do
      if math.abs(v - kink) < margin then a[i] = array.f32(kink + 2 * margin) end
    end
  end
  return a
end

--- 32-bit indices; nested tables or a flat list.
function array.index(values)
  return { index = values }
end

function array.copy(a)
  return table.move(a, 1, #a, 1, { shape = a.shape })
end

--- f(x) of each element.
function array.map(a, f)
  return array.new(a.shape, function(i) return f(a[i]) end)
end

local function flatten(value, out)
  if type(value) ~= "table" then
    out[#out + 1] = value
  else
    for _, v in ipairs(value) do flatten(v, out) end
  end
  return out
end

--- A tensor's elements, flat.
function array.of(tensor)
  local out = flatten(tensor:tolist(), {})
  out.shape = tensor:shape()
  return out
end

--- The tensor of an array.
function array.tensor(a)
  if a.index then return core.i32(a.index) end
  if array.count(a.shape) == 0 then return core.zeros(a.shape) end
  local flat <const> = table.move(a, 1, #a, 1, {})
  return core.ops.view(core.tensor(flat), table.unpack(a.shape)):clone()
end

--- Sum of products of two arrays' elements.
function array.dot(a, b)
  local sum = 0.0
  for i = 1, #a do sum = sum + a[i] * b[i] end
  return sum
end

return array
