-- concat_spec.lua - tensors end to end: each part gets its rows of the gradient.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

local fill, zeros, index = array.fill, array.zeros, array.index
local op = core.ops

local function concat(...)
  local parts = { ... }
  local whole = { shape = table.move(parts[1].shape, 1, #parts[1].shape, 1, {}) }
  whole.shape[1] = 0
  for _, part in ipairs(parts) do
    whole.shape[1] = whole.shape[1] + part.shape[1]
    table.move(part, 1, #part, #whole + 1, whole)
  end
  return whole
end

local function leaf(values) return core.tensor(values):requires_grad(true) end

-- Sums with weights 1, 2, 3 ..., so that each element has its own gradient, exact in bf16 too.
local function weighted(t)
  local weights = {}
  for i = 1, t:numel() do weights[i] = i end
  local w = op.view(core.tensor(weights), table.unpack(t:shape()))
  return op.sum(t * w:to(t:dtype()))
end

local many <const> = {} -- over what a call has room for without asking
for i = 1, 11 do many[i] = fill({ i % 3, 5 }, 0, 1, i) end

local cases <const> = {
  ["hands each part its rows of the gradient"] = function()
    local a, b = leaf { { 1, 2 } }, leaf { { 3, 4 }, { 5, 6 } }
    local whole = op.concat { a, core.zeros(1, 2), b * 2, core.zeros(0, 2) }
    assert.same({ { 1.0, 2.0 }, { 0.0, 0.0 }, { 6.0, 8.0 }, { 10.0, 12.0 } }, whole:tolist())
    weighted(whole):backward()
    assert.same({ { 1.0, 2.0 } }, a:grad():tolist())
    assert.same({ { 10.0, 12.0 }, { 14.0, 16.0 } }, b:grad():tolist())
  end,
  ["takes a part twice, windows of one memory, and a part of no rows"] = function()
    local x, none = leaf { 1, 2, 3, 4, 5 }, core.zeros(0):requires_grad(true)
    weighted(op.concat { none, op.slice(x, 1, 3), x, op.slice(x, 4, 1), x, none }):backward()
    local want = {}
    for i = 1, 5 do want[i] = (i + 3) + (i + 9) + (i >= 2 and i <= 4 and i - 1 or 0) + 0.0 end
    want[5] = want[5] + 9
    assert.same(want, x:grad():tolist())
    assert.same({ 0 }, none:grad():shape())
  end,
  ["of one tensor, and of many, adds no copy to the one it is"] = function()
    local x = core.zeros(1000, 64):requires_grad(true)
    local parts = {}
    for i = 0, 99 do parts[i + 1] = op.slice(x, 10 * i, 10) end
    core.reset_peak()
    local held = core.memory(core.device())
    local whole = op.concat(parts)
    local now = core.memory(core.device())
    assert.is_true(now.peak - held.live < 1.3 * whole:bytes())
    weighted(op.slice(whole, 990, 10)):backward()
    assert.equal(1.0, x:grad():at(990 * 64 + 1))
    assert.equal(640.0, x:grad():at(64000))
    assert.equal(0.0, x:grad():at(990 * 64))
    local one = leaf { 5 }
    weighted(op.concat { one }):backward()
    assert.same({ 1.0 }, one:grad():tolist())
  end,
  ["leaves a gradient that was handed in as it is"] = function()
    local a, b, seed = leaf { 1, 2 }, leaf { 3 }, core.tensor { 10, 20, 30 }
    op.concat({ a, b }):backward(seed)
    op.sum(a):backward()
    op.sum(b):backward()
    assert.same({ 11.0, 21.0 }, a:grad():tolist())
    assert.same({ 31.0 }, b:grad():tolist())
    assert.same({ 10.0, 20.0, 30.0 }, seed:tolist())
  end,
  ["of bf16 gives parameters their gradient in f32"] = function()
    local a, b = core.tensor({ 1, 2, 3 }):to("bf16"), core.tensor({ 4, 5 }):to("bf16")
    a:requires_grad(true)
    b:requires_grad(true)
    local whole = op.concat { a, b, a:clone() }
    assert.equal("bf16", whole:dtype())
    weighted(whole:to("f32")):backward()
    assert.equal("f32", a:grad():dtype())
    assert.same({ 7.0, 9.0, 11.0 }, a:grad():tolist())
    assert.same({ 4.0, 5.0 }, b:grad():tolist())
    if core.device() == "cpu" then return end
    a:set_grad(nil) -- activations, and so their gradients, are bf16 there
    weighted(op.concat { a * a, a }):backward()
    assert.same({ 6.0, 13.0, 24.0 }, a:grad():tolist())
  end,
  ["records nothing where no gradient flows, and joins indices"] = function()
    local before = core.tape_size()
    op.concat { core.zeros(2), core.zeros(1) }
    do
      local _ <close> = core.no_grad()
      assert.is_false(op.concat({ leaf { 1 }, leaf { 2 } }):requires_grad())
    end
    assert.equal(before, core.tape_size())
    assert.same({ 1, 2, 3 }, op.concat({ core.i32 { 1, 2 }, core.i32 { 3 } }):tolist())
  end,
  ["whose memory fails leaks nothing and leaves a state that works"] = function()
    local x, y = leaf { 1, 2 }, leaf { 3 }
    local function step()
      local scope <close> = core.scope() -- luacheck: ignore scope
      x:set_grad(nil)
      y:set_grad(nil)
      weighted(op.concat { x * 2, y:clone(), y }):backward()
      return x:grad():tolist(), y:grad():tolist()
    end
    step()
    collectgarbage()
    local failed = 0
    local ok
    repeat
      core.fail_alloc(failed + 1)
      ok = pcall(step)
      core.fail_alloc(0)
      if not ok then failed = failed + 1 end
    until ok
    assert.is_true(failed > 10)
    local a, b = step()
    assert.same({ 2.0, 4.0 }, a)
    assert.same({ 7.0 }, b)
    x:set_grad(nil)
    y:set_grad(nil)
  end,
  ["takes a table of tensors, or the tensors"] = function()
    local x, y = core.tensor { 1, 2 }, core.tensor { 3 }
    for _, whole in ipairs { op.concat { x, y }, op.concat(x, y), x:concat(y) } do
      assert.same({ 1.0, 2.0, 3.0 }, whole:tolist())
    end
    assert.error_matches(function() op.concat {} end, "concat: an empty list, needs at least one")
    assert.error_matches(function() op.concat { x, 3 } end,
      "concat: input 2 is a number, needs a tensor")
  end,
}

return walker.check("concat", {
  concat = {
    reference = concat,
    samples = { { fill({ 2, 3 }, 0, 1, 1), fill({ 1, 3 }, 0, 1, 2), zeros { 0, 3 } },
      { fill({ 4 }, 0, 1, 1) }, { zeros { 0, 2 }, zeros { 0, 2 } }, many,
      { fill({ 3, 2, 1025 }, 0, 1, 1), fill({ 5, 2, 1025 }, 0, 1, 2) } },
    wrong = {
      { zeros { 1, 2 }, zeros { 1, 3 }, says = "concat: input 2 is f32 [1, 3], the first f32 [1, 2]" },
      { zeros { 2 }, index { 1, 2 }, says = "concat: input 2 is i32 [2], the first f32 [2]" },
      { zeros { 2 }, zeros { 2, 1 }, says = "concat: input 2 is f32 [2, 1], the first f32 [2]" },
      { zeros {}, says = "concat: input 1 is a scalar, needs a first dimension" },
    },
    cases = cases,
  },
})
