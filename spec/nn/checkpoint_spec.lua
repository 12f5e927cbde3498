-- checkpoint_spec.lua - activation recomputation: the same numbers in less memory.
local core = require "dopl.core"
local nn = require "dopl.nn"

local op = core.ops

local function leaf(values) return core.tensor(values):requires_grad(true) end

describe("nn.checkpoint", function()
  local function setup()
    local weights = {}
    for i = 1, 6 do weights[i] = core.randn(7, i, 0.3, 64, 64):requires_grad(true) end
    return weights, core.randn(7, 99, 1, 200, 64):requires_grad(true)
  end

  local function block(x, w)
    local h = x
    for _ = 1, 4 do h = op.tanh(op.gelu(op.linear(h, w))) end
    return op.add(x, h)
  end

  local function run(recompute)
    local weights, x = setup()
    collectgarbage()
    collectgarbage()
    local loss
    core.reset_peak()
    local before = core.memory((core.device())).live
    do
      local scope <close> = core.scope()
      local h = x
      for _, w in ipairs(weights) do
        local inner <close> = core.scope()
        local function layer(input) return block(input, w) end
        h = inner:keep(recompute and nn.checkpoint(layer, h) or layer(h))
      end
      loss = scope:keep(op.sum(op.square(h)))
    end
    loss:backward()
    local grads = { x:grad():tolist() }
    for i, w in ipairs(weights) do grads[i + 1] = w:grad():tolist() end
    return loss:item(), grads, core.memory((core.device())).peak - before
  end

  it("gives the same numbers in less memory", function()
    local loss, grads, peak = run(false)
    local loss2, grads2, peak2 = run(true)
    assert.equal(loss, loss2)
    assert.same(grads, grads2)
    assert.is_true(peak2 < 0.6 * peak, ("%d bytes, %d without"):format(peak2, peak))
  end)

  it("is the function itself where nothing records", function()
    local _ <close> = core.no_grad()
    local before = core.tape_size()
    local y = nn.checkpoint(function(t) return t * 2 end, leaf { 3 })
    assert.same({ 6.0 }, y:tolist())
    assert.equal(before, core.tape_size())
  end)

  it("loses no gradient where its input is a constant", function()
    local w = leaf { 3 }
    op.sum(nn.checkpoint(function(t) return t * w end, core.tensor { 2 })):backward()
    assert.same({ 2.0 }, w:grad():tolist())
  end)

  it("fails as the function fails", function()
    local calls, x, size = 0, leaf { 1, 2 }, core.tape_size()
    local y = nn.checkpoint(function(t)
      calls = calls + 1
      if calls == 2 then error("second time", 0) end
      return t * 2
    end, x)
    y = op.sum(y)
    assert.error_matches(function() y:backward() end, "second time")
    assert.equal(size, core.tape_size())
    assert.is_true(core.grad_enabled())
  end)

  it("checks what it is given", function()
    assert.error_matches(function() nn.checkpoint(leaf { 1 }) end, "nn.checkpoint: .* needs callable")
    assert.error_matches(function() nn.checkpoint(print, 3) end,
      "nn.checkpoint: argument 2: 3, needs a tensor")
  end)
end)
