-- operator_spec.lua - operators whose forward and backward are Lua.
local core = require "dopl.core"
local nn = require "dopl.nn"

local op = core.ops

local cube <const> = nn.operator {
  name = "cube",
  forward = function(x) return x * x * x end,
  backward = function(dy, _, x) return dy * x * x * 3 end,
}

local function leaf(values) return core.tensor(values):requires_grad(true) end

describe("nn.operator", function()
  it("takes its place in the graph", function()
    local x = leaf { 1, 2, 3 }
    op.sum(cube(x * 2) * 10):backward() -- d/dx 80 x^3
    assert.same({ 240.0, 960.0, 2160.0 }, x:grad():tolist())
    assert.same({ 8.0 }, cube(core.tensor { 2 }):tolist())
    assert.is_false(cube(core.tensor { 2 }):requires_grad())
  end)

  it("adds to existing gradients, and shares none", function()
    local both = nn.operator {
      name = "both", forward = function(a, b) return a + b end,
      backward = function(dy) return dy, dy end,
    }
    local x, y = leaf { 1 }, leaf { 2 }
    op.sum(both(x, y) + both(x, x)):backward()
    op.sum(x):backward()
    assert.same({ 4.0 }, x:grad():tolist())
    assert.same({ 1.0 }, y:grad():tolist())
  end)

  it("may leave out a gradient, or be given inputs that want none", function()
    local first = nn.operator {
      name = "first", forward = function(a, _) return a * 1 end,
      backward = function(dy) return dy, nil end,
    }
    local x, y, index = leaf { 1 }, leaf { 2 }, core.i32 { 0 }
    op.sum(first(x, y)):backward()
    assert.same({ 1.0 }, x:grad():tolist())
    assert.is_nil(y:grad())
    op.sum(first(x, index)):backward()
    assert.same({ 2.0 }, x:grad():tolist())
  end)

  it("reads its inputs in the backward though their scope is over", function()
    local x = leaf { 1, 2 }
    local loss
    do
      local scope <close> = core.scope()
      loss = scope:keep(op.sum(cube(x * 2)))
    end
    loss:backward()
    assert.same({ 24.0, 96.0 }, x:grad():tolist())
  end)

  it("frees what its backward makes", function()
    local made
    local hoard = nn.operator {
      name = "hoard", forward = function(t) return t * 1 end,
      backward = function(dy)
        made = dy * 2
        return dy
      end,
    }
    local x = leaf { 1 }
    op.sum(hoard(x)):backward()
    assert.equal("tensor (released)", tostring(made))
    assert.same({ 1.0 }, x:grad():tolist())
  end)

  it("says whose backward failed, and leaves the tape usable", function()
    collectgarbage()
    collectgarbage()
    local x, size, blocks = leaf { 1, 2 }, core.tape_size(), core.blocks()
    local bad = nn.operator {
      name = "bad", forward = function(t) return t * 2 end,
      backward = function() error("what went wrong", 0) end,
    }
    local loss = op.sum(bad(op.exp(x)))
    assert.error_matches(function() loss:backward() end, "what went wrong")
    local wrong = nn.operator {
      name = "wrong", forward = function(t) return t * 2 end,
      backward = function() return core.zeros(3) end,
    }
    loss = op.sum(wrong(x))
    assert.error_matches(function() loss:backward() end,
      "wrong: backward gave f32 %[3%] for input 1, needs f32 %[2%]$")
    local odd = nn.operator {
      name = "odd", forward = function(t) return t * 2 end, backward = function() return 7 end,
    }
    loss = op.sum(odd(x))
    assert.error_matches(function() loss:backward() end, "a tensor is needed, got number")
    loss = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    op.sum(cube(x)):backward()
    assert.same({ 3.0, 12.0 }, x:grad():tolist())
    x:set_grad(nil)
    collectgarbage()
    collectgarbage()
    assert.equal(size, core.tape_size())
    assert.equal(blocks, core.blocks())
    assert.is_true(core.grad_enabled())
  end)

  it("runs on a coroutine, and inside another's backward", function()
    local twice = nn.operator {
      name = "twice", forward = function(t) return t * 2 end,
      backward = function(dy)
        local z = leaf { 5 }
        local _ <close> = core.with_grad()
        op.sum(cube(z)):backward() -- a separate walk
        return dy * z:grad()
      end,
    }
    local x = leaf { 1 }
    coroutine.wrap(function() op.sum(twice(x)):backward() end)()
    assert.same({ 75.0 }, x:grad():tolist())
  end)

  it("says so where its forward returns no tensor", function()
    local broken = nn.operator { name = "broken", forward = function() end, backward = print }
    assert.error_matches(function() broken(leaf { 1 }) end, "broken: forward returned a nil, needs")
  end)

  it("checks its definition and what it is given", function()
    assert.error_matches(function() nn.operator { name = "x", forward = print } end, "backward")
    assert.error_matches(function() nn.operator "x" end, "nn.operator: the string 'x', needs table")
    local nine = {}
    for i = 1, 9 do nine[i] = leaf { 1 } end
    local many = nn.operator {
      name = "many", forward = function(t) return t * 1 end, backward = function() end,
    }
    assert.error_matches(function() many(table.unpack(nine)) end, "many: 9 inputs, needs 1 to 8")
  end)
end)
