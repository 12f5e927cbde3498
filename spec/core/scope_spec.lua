-- scope_spec.lua - tensors end with the block they were made in.
local core = require "dopl.core"

local function released(t) return not pcall(t.numel, t) end

describe("a scope", function()
  it("frees what was made in it", function()
    local before = core.blocks()
    local t
    do
      local scope <close> = core.scope()
      t = core.zeros(1000)
      assert.equal(before + 2, core.blocks())
    end
    assert.equal(before, core.blocks())
    assert.is_true(released(t))
    assert.equal("tensor (released)", tostring(t))
    assert.error_matches(function() return t + 1 end,
      "the tensor has been released %(by its scope, or by hand%)")
    t:close() -- again: nothing happens
  end)

  it("keeps what `keep` names, in the scope around it", function()
    local kept, lost
    do
      local outer <close> = core.scope() -- luacheck: ignore outer
      do
        local inner <close> = core.scope()
        kept, lost = inner:keep(core.zeros(2), nil), core.zeros(2)
      end
      assert.is_true(released(lost))
      assert.is_false(released(kept))
    end
    assert.is_true(released(kept))
    do
      local scope <close> = core.scope()
      kept = scope:keep(core.zeros(2))
    end
    assert.is_false(released(kept))
  end)

  it("returns all that it keeps", function()
    local scope <close> = core.scope()
    local a, b = core.zeros(1), core.zeros(2)
    local c, d = scope:keep(a, b)
    assert.equal(a, c)
    assert.equal(b, d)
    assert.error_matches(function() scope:keep(7) end, "a tensor is needed, got number")
  end)

  it("does not touch what was there before", function()
    local t = core.zeros(2)
    do
      local scope <close> = core.scope()
      scope:keep(t)
    end
    assert.is_false(released(t))
  end)

  it("ends with an error that leaves it", function()
    local before, t = core.blocks()
    pcall(function()
      local scope <close> = core.scope()
      t = core.zeros(10)
      error "inside"
    end)
    assert.is_true(released(t))
    assert.equal(before, core.blocks())
    local free = core.zeros(1) -- and is the innermost no more
    assert.is_false(released(free))
  end)

  it("closes those inside it first", function()
    local outer = core.scope()
    local inner = core.scope()
    local t = core.zeros(2)
    outer:close()
    assert.is_true(released(t))
    inner:close()
    outer:close()
    assert.is_false(released(core.zeros(1)))
  end)

  it("hands on what it holds where it was lost", function()
    local t
    do
      core.scope()
      t = core.zeros(2)
    end
    collectgarbage()
    collectgarbage()
    assert.is_false(released(t))
  end)

  it("leaves the tape what backward reads", function()
    local x = core.tensor { 1, 2 }:requires_grad(true)
    local y
    do
      local scope <close> = core.scope()
      y = scope:keep(core.ops.sum(core.ops.exp(core.ops.exp(x))))
    end
    y:backward()
    assert.near(math.exp(1) * math.exp(math.exp(1)), x:grad():at(1), 1e-4)
  end)

  it("may end inside a coroutine", function()
    local t
    local co = coroutine.wrap(function()
      local scope <close> = core.scope()
      t = core.zeros(2)
      coroutine.yield()
    end)
    co()
    assert.is_false(released(t))
    co()
    assert.is_true(released(t))
  end)
end)
