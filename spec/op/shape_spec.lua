-- shape_spec.lua - windows and other shapes over the same memory.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

local fill, zeros = array.fill, array.zeros

local function window(x, first, shape)
  return array.new(shape, function(i) return x[first + i] end)
end

local function inner(x) return array.count(table.move(x.shape, 2, #x.shape, 1, {})) end

local function slice(x, first, count)
  local shape = table.move(x.shape, 1, #x.shape, 1, {})
  shape[1] = count
  return window(x, first * inner(x), shape)
end

local function select_(x, index)
  return window(x, index * inner(x), table.move(x.shape, 2, #x.shape, 1, {}))
end

local function view(x, ...)
  local shape, known = { ... }, 1
  for _, d in ipairs(shape) do known = known * (d == -1 and 1 or d) end
  for i, d in ipairs(shape) do
    if d == -1 then shape[i] = known > 0 and #x // known or 0 end
  end
  return window(x, 0, shape)
end

local x <const> = fill({ 3, 4 }, 0, 2, 1)

return walker.check("shape", {
  slice = {
    reference = slice,
    samples = { { x, 1, 2 }, { x, 0, 3 }, { x, 3, 0 }, { x, 0, 0 }, { fill({ 5 }, 0, 1, 2), 4, 1 },
      { fill({ 3, 2, 2, 2 }, 0, 1, 2), 2, 1 }, { zeros { 0, 4 }, 0, 0 } },
    wrong = {
      { x, 2, 2, says = "slice: 2 from 2 of [3, 4]" },
      { x, -1, 2, says = "slice: 2 from -1 of [3, 4]" },
      { x, 0, -1, says = "slice: -1 from 0" }, { zeros {}, 0, 0, says = "slice: 0 from 0 of []" },
      { x, math.maxinteger, math.maxinteger, says = "slice: " },
      { x, 0, says = "count is missing" },
    },
    cases = {
      ["overlapping windows add up"] = function()
        local t = core.tensor { 1, 2, 3, 4 }:requires_grad(true)
        core.ops.sum(t:slice(0, 3) * 10 + t:slice(1, 3)):backward()
        assert.same({ 10.0, 11.0, 11.0, 1.0 }, t:grad():tolist())
      end,
      ["shares memory, and outlives what it came from"] = function()
        local t = core.tensor { 1, 2, 3, 4 }
        local part = t:slice(1, 2)
        part:fill(9)
        assert.same({ 1.0, 9.0, 9.0, 4.0 }, t:tolist())
        t:close()
        assert.same({ 9.0, 9.0 }, part:tolist())
      end,
    },
  },
  select = {
    reference = select_,
    samples = { { x, 1 }, { fill({ 5 }, 0, 1, 2), 4 }, { fill({ 2, 2, 2, 2 }, 0, 1, 2), 1 },
      { zeros { 2, 0 }, 1 } },
    wrong = {
      { x, 3, says = "select: index 3 of [3, 4]" }, { x, -1, says = "select: index -1 of [3, 4]" },
      { zeros {}, 0, says = "select: index 0 of []" },
    },
  },
  view = {
    reference = view,
    samples = { { x, 4, 3 }, { x, 12 }, { x, 2, -1 }, { x, -1 }, { x, 1, 2, 3, 2 },
      { fill({ 1 }, 0, 1, 2) }, { fill({}, 0, 1, 2), 1, 1 }, { zeros { 0, 4 }, -1, 4 },
      { zeros { 0, 4 }, 0 } },
    wrong = {
      { x, 5, 2, says = "view: [3, 4] as [5, 2]" }, { x, 5, -1, says = "view: [3, 4] as [5, -1]" },
      { x, -1, -1, says = "view: dimension 2 is -1, at most one may be -1" },
      { x, -3, says = "view: dimension 1 is -3" }, { x, 0, -1, says = "view: [3, 4] as [0, -1]" },
      { x, says = "view: [3, 4] as []" },
      { x, 1 << 40, 1 << 40, says = "view: [3, 4] as dimensions of 1099511627776 and more" },
      { x, 1 << 32, 1 << 32, 12, says = "view: [3, 4] as dimensions of 4294967296 and more" },
    },
    cases = { ["passes a gradient on in the shape of what was viewed"] = function()
      local t = core.tensor { { 1, 2 }, { 3, 4 } }:requires_grad(true)
      local v = t:view(4)
      core.ops.sum(v * core.tensor { 1, 2, 3, 4 }):backward()
      assert.same({ { 1.0, 2.0 }, { 3.0, 4.0 } }, t:grad():tolist())
    end },
  },
})
