-- copy_spec.lua - clone: a copy through which gradients flow, on any device.
local core = require "dopl.core"

local op = core.ops

local function leaf(values) return core.tensor(values):requires_grad(true) end

-- Sums with weights 1, 2, 3 ..., so that each element has its own gradient, exact in bf16 too.
local function weighted(t)
  local weights = {}
  for i = 1, t:numel() do weights[i] = i end
  local w = op.view(core.tensor(weights), table.unpack(t:shape()))
  return op.sum(t * w:to(t:dtype()))
end

describe("a clone", function()
  it("has its own memory and hands its gradient on", function()
    local x = leaf { 1, 2, 3 }
    local copy = x:clone()
    weighted(copy * 2):backward()
    assert.same({ 2.0, 4.0, 6.0 }, x:grad():tolist())
    copy:detach():fill(9)
    assert.same({ 1.0, 2.0, 3.0 }, x:tolist())
  end)

  it("of a window, of no element, of one and of indices", function()
    local x = leaf { { 1, 2, 3 }, { 4, 5, 6 } }
    weighted(op.select(x, 1):clone()):backward()
    assert.same({ { 0.0, 0.0, 0.0 }, { 1.0, 2.0, 3.0 } }, x:grad():tolist())
    local none, one = core.zeros(0, 3):requires_grad(true), leaf(7)
    op.sum(none:clone()):backward()
    assert.same({ 0, 3 }, none:grad():shape())
    one:clone():backward()
    assert.equal(1.0, one:grad():item())
    assert.same({ 3, 4 }, core.i32({ 3, 4 }):clone():tolist())
  end)

  it("adds its gradient to what else the value is used for", function()
    local x = leaf { 1, 2 }
    local y = x * 3
    op.sum(y:clone() + y):backward()
    assert.same({ 6.0, 6.0 }, x:grad():tolist())
  end)

  it("outside of the graph is detach's, or no_grad's", function()
    local x, before = leaf { 1 }, core.tape_size()
    assert.is_false(x:detach():clone():requires_grad())
    do
      local _ <close> = core.no_grad()
      assert.is_false(x:clone():requires_grad())
    end
    assert.equal(before, core.tape_size())
  end)
end)
