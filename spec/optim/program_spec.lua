-- program_spec.lua - programs and plans as a recipe can write them by hand: what does not fit is
-- refused before anything runs.
local core = require "dopl.core"

local o = core.optim

-- A program with the fields that are given; else one that does nothing to one f32 operand.
local function program(fields)
  local all = { n_reg = 0, n_scalar = 0, has_grad = false, operands = { "f32" }, instr = {} }
  for key, value in pairs(fields) do all[key] = value end
  return o.program(all)
end

local function plan_of(passes, tensor)
  return o.plan(passes, { { pass = 1, operands = { tensor }, streams = { 0 } } })
end

describe("a program", function()
  local refused = {
    { "fewer than no temporaries", { n_reg = -2147483648 }, "n_reg = %-2147483648, needs 0 to" },
    { "a count beyond its type", { n_reg = 1 << 32 }, "n_reg = 4294967296, needs 0 to" },
    { "fewer than no scalars", { n_scalar = -1 }, "n_scalar = %-1, needs 0 to" },
    { "no operand", { operands = {} }, "0 operands, needs at least 0, 0 and 1" },
    { "a gradient that is no operand", { has_grad = true },
      "1 operands, needs at least 0, 0 and 2 %(the parameter and its gradient%)" },
    { "a gradient in 8 bits", { has_grad = true, operands = { "f32", "q8" } },
      "operand 2 is the gradient, which is f32" },
    { "a gradient in bf16", { has_grad = true, operands = { "f32", "bf16" } },
      "operand 2 is the gradient, which is f32" },
    { "a place beyond a byte", { n_reg = 1, instr = { { "lin1", 256, 1, 0, 0, 0, 0, 0, 0 } } },
      "item 2 of an instruction is 256, needs 0 to 255" },
    { "tiles that its primitive does not read",
      { n_reg = 1, n_scalar = 2, instr = { { "lin1", 0, 1, 200, 0, 0, 0, 0, 1 } } },
      "instruction 1 %(lin1%) takes 1 tiles, and the next is place 200" },
  }
  for _, case in ipairs(refused) do
    it("is refused with " .. case[1], function()
      assert.error_matches(function() program(case[2]) end, case[3])
    end)
  end
end)

describe("a plan", function()
  it("keeps its programs, whatever becomes of the list it was given", function()
    local passes = { program { n_reg = 1, n_scalar = 2, -- theta = 2 theta + 1
      instr = { { "lin1", 1, 1, 0, 0, 0, 0, 0, 1 } } } }
    local t = core.full(3, 300)
    local plan = plan_of(passes, t)
    passes[1] = nil
    collectgarbage()
    collectgarbage()
    local other = {} -- in the memory of what was collected
    for i = 1, 400 do other[i] = core.zeros(16 + i % 50) end
    assert.equal(1, plan:run({ { 2, 1 } }, 0, 0))
    assert.same({ 7.0, 7.0 }, { t:at(1), t:at(300) })
    assert.equal(0, other[1]:at(1))
  end)

  it("has no norm where no program takes a gradient", function()
    assert.same({ 0.0, 0 }, { plan_of({ program {} }, core.zeros(256)):norm() })
  end)

  it("counts as a change of what it writes", function()
    local t = core.full(3, 300)
    local plan = plan_of({ program { n_scalar = 2,
      instr = { { "lin1", 0, 0, 0, 0, 0, 0, 0, 1 } } } }, t)
    local x = core.full(1, 300):requires_grad(true)
    local loss = (x * t):sum()
    plan:run({ { 2, 1 } }, 0, 0)
    assert.error_matches(function() loss:backward() end, "input 2 of mul .* was changed in place")
  end)

  it("says what is wrong with its numbers", function()
    local plan = plan_of({ program { n_scalar = 1 } }, core.zeros(8))
    assert.error_matches(function() plan:run({ { "x" } }, 0, 0) end, "number expected")
    assert.error_matches(function() plan:run({}, 0, 0) end, "table expected")
    plan:release()
    assert.error_matches(function() plan:run({ { 1 } }, 0, 0) end, "this plan is released")
  end)
end)

describe("a gradient", function()
  it("is of a parameter, and where it is", function()
    local x = core.zeros(2):requires_grad(true)
    assert.error_matches(function() (x * 2):set_grad(core.zeros(2)) end, "set_grad: the tensor is no")
    assert.error_matches(function() x:set_grad(core.i32 { 1, 2 }) end, "set_grad: i32 %[2%] on cpu")
  end)
end)

describe("roofline", function()
  it("counts as a change of what it writes, and wants whole words", function()
    local ids = core.i32 { 0, 1 }
    local loss = core.ops.embedding(core.zeros(2, 2):requires_grad(true), ids):sum()
    o.roofline({ ids }, "w")
    assert.error_matches(function() loss:backward() end, "input 2 of embedding")
    local odd = core.zeros(5):to("bf16"):slice(1, 2)
    assert.error_matches(function() o.roofline({ odd }, "u") end, "begin at whole words")
  end)
end)

describe("optim.state", function()
  it("refuses what no memory holds", function()
    for _, n in ipairs { -1, 1 << 50, math.maxinteger } do
      assert.error(function() o.state(n, "q8") end)
    end
  end)
end)
