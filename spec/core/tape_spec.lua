-- tape_spec.lua - what backward walks, what it keeps, what it frees.
local core = require "dopl.core"

local op = core.ops

local function leaf(values) return core.tensor(values):requires_grad(true) end

describe("the tape", function()
  it("records where a gradient flows, and nothing else", function()
    local before = core.tape_size()
    local x, constant = leaf { 1, 2 }, core.tensor { 3, 4 }
    op.exp(constant)
    assert.equal(before, core.tape_size())
    assert.is_false(op.exp(constant):requires_grad())
    local y = op.sum(x * constant)
    assert.equal(before + 2, core.tape_size())
    assert.is_true(y:requires_grad())
    y:backward()
    assert.equal(before, core.tape_size())
    assert.is_nil(constant:grad())
  end)

  it("adds up the gradients of a value used twice, far apart", function()
    local x = leaf { 2, 3 }
    local y = op.exp(x)            -- used by both branches
    op.sum(y * y + y):backward()   -- d/dx (e^2x + e^x) = 2 e^2x + e^x
    local g = x:grad():tolist()
    for i, v in ipairs { 2, 3 } do
      local want = 2 * math.exp(2 * v) + math.exp(v)
      assert.near(want, g[i], 1e-6 * want)
    end
  end)

  it("adds to what a leaf has, over backward calls, until it is zeroed", function()
    local x = leaf { 1, 2 }
    for _ = 1, 3 do op.sum(x * 2):backward() end
    assert.same({ 6.0, 6.0 }, x:grad():tolist())
    x:set_grad(nil)
    assert.is_nil(x:grad())
    op.sum(x * 2):backward()
    assert.same({ 2.0, 2.0 }, x:grad():tolist())
  end)

  it("does not write into a gradient that was handed in or out", function()
    local x, given = leaf { 1, 2 }, core.tensor { 5, 5 }
    x:set_grad(given)
    op.sum(x):backward()
    assert.same({ 6.0, 6.0 }, x:grad():tolist())
    assert.same({ 5.0, 5.0 }, given:tolist())
    local taken = x:grad()
    op.sum(x):backward()
    assert.same({ 6.0, 6.0 }, taken:tolist())
    local seed = core.tensor { 1, 1 }
    local y = leaf { 0, 0 }
    op.add(y, x:detach()):backward(seed)
    op.sum(y):backward()
    assert.same({ 2.0, 2.0 }, y:grad():tolist())
    assert.same({ 1.0, 1.0 }, seed:tolist())
  end)

  it("takes a seed for a value of several elements, and asks for one", function()
    local x = leaf { 1, 2, 3 }
    local y = x * 2
    assert.error_matches(function() y:backward() end,
      "backward: a value of shape %[3%] needs a gradient of that shape")
    assert.error_matches(function() y:backward(core.tensor { 1, 2 }) end,
      "backward: a value of shape %[3%] and a gradient f32 %[2%]")
    assert.error_matches(function() y:backward(core.i32 { 1, 2, 3 }) end, "a gradient i32 %[3%]")
    y:backward(core.tensor { 1, 10, 100 })
    assert.same({ 2.0, 20.0, 200.0 }, x:grad():tolist())
  end)

  it("walks two losses one after the other where they share no operator", function()
    local x = leaf { 1, 2 }
    local a, b = op.sum(x * 2), op.sum(x * 3)
    a:backward()
    assert.same({ 2.0, 2.0 }, x:grad():tolist())
    b:backward()
    assert.same({ 5.0, 5.0 }, x:grad():tolist())
  end)

  it("refuses a second walk, whole or in part", function()
    local x = leaf { 1, 2 }
    local h = op.exp(x)
    local a, b = op.sum(h), op.mean(h)
    a:backward()
    assert.error_matches(function() a:backward() end, "backward has consumed it already")
    local before = x:grad():tolist()
    assert.error_matches(function() b:backward() end,
      "backward: input 1 of mean was consumed by an earlier backward")
    assert.same(before, x:grad():tolist())
    assert.error_matches(function() core.tensor { 1 }:backward() end, "nothing recorded leads")
  end)

  it("gives a leaf its own gradient", function()
    local x = leaf { 3 }
    x:backward()
    assert.same({ 1.0 }, x:grad():tolist())
  end)

  it("frees each node as it goes", function()
    local x = core.full(1, 1000):requires_grad(true)
    local live, loss = core.memory().live
    do
      local scope <close> = core.scope()
      local y = x
      for _ = 1, 50 do y = op.exp(y * 0.5) end
      loss = scope:keep(op.sum(y))
    end
    local kept = core.memory().live - live -- the 50 results that backward reads
    assert.is_true(kept > 50 * 4000 and kept < 80 * 4000)
    core.reset_peak()
    loss:backward()
    -- gradients take the place of what the nodes kept: no second set
    assert.is_true(core.memory().peak - live < kept + 5 * 4000)
  end)

  it("drops a loss that nobody walked", function()
    local x, before = leaf { 1, 2 }, core.tape_size()
    do
      local scope <close> = core.scope()
      op.sum(op.exp(x))
    end
    assert.equal(before, core.tape_size())
    op.sum(op.exp(x)) -- no scope: garbage until something walks
    collectgarbage()
    collectgarbage()
    op.sum(x):backward()
    assert.equal(before, core.tape_size())
    assert.same({ 1.0, 1.0 }, x:grad():tolist())
  end)

  it("refuses to go back over data that was changed in place", function()
    local x = leaf { 1, 2 }
    local y = op.exp(x) -- reads its output
    y:fill(7)
    assert.error_matches(function() op.sum(y):backward() end,
      "backward: the output of exp %(f32 %[2%]%) was changed in place after the forward")
    local k = core.tensor { 3, 4 }
    local loss = op.sum(x * k)
    k:select(0):copy(core.tensor(5)) -- through a window
    assert.error_matches(function() loss:backward() end,
      "backward: input 2 of mul %(f32 %[2%]%) was changed in place")
    loss = op.sum(x + k) -- reads neither
    k:fill(0)
    loss:backward()
    assert.same({ 1.0, 1.0 }, x:grad():tolist())
  end)

  it("takes a detached value for a constant", function()
    local x = leaf { 1, 2 }
    op.sum(op.exp(x):detach() * x):backward()
    assert.near(math.exp(1), x:grad():at(1), 1e-6)
  end)

  it("forgets the way back of a value it can no longer walk to", function()
    local x = leaf { 1 }
    local y = op.exp(x)
    local bad = core.record("bad", op.exp(y:detach()), { y }, function() error("no") end)
    assert.error_matches(function() bad:backward() end, "no")
    assert.error_matches(function() bad:backward() end, "nothing recorded leads to this value")
    y:backward() -- what lies before the failure is still there
    assert.near(math.exp(1), x:grad():item(), 1e-6)
  end)

  it("asks for a float leaf", function()
    assert.error_matches(function() core.i32 { 1 }:requires_grad(true) end,
      "requires_grad: a i32 tensor, needs f32")
    assert.error_matches(function() op.exp(leaf { 1 }):requires_grad(true) end,
      "requires_grad: the result of an operator; detach it")
  end)
end)

describe("no_grad", function()
  it("records nothing until its end, also where it ends in an error", function()
    local x, before = leaf { 1 }, core.tape_size()
    do
      local _ <close> = core.no_grad()
      assert.is_false(core.grad_enabled())
      assert.is_false(op.exp(x):requires_grad())
      do
        local _ <close> = core.with_grad()
        assert.is_true(core.grad_enabled())
      end
      assert.is_false(core.grad_enabled())
    end
    assert.is_true(core.grad_enabled())
    pcall(function()
      local _ <close> = core.no_grad()
      error "inside"
    end)
    assert.is_true(core.grad_enabled())
    assert.equal(before, core.tape_size())
  end)
end)
