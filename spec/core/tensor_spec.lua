-- tensor_spec.lua - what recipes hand to the constructors cannot make them read or write elsewhere.
local core = require "dopl.core"

-- A list that answers otherwise from its third reading on.
local function fickle(first, later)
  local reads = 0
  return setmetatable({}, {
    __len = function() return 2 end,
    __index = function()
      reads = reads + 1
      return reads > 2 and later or first
    end,
  })
end

describe("constructors of tensors", function()
  it("read tables raw: what metamethods answer is not there", function()
    assert.error_matches(function() core.ops.concat(fickle(core.zeros(1), core.zeros(1000))) end,
      "concat: an empty list")
    assert.error_matches(function()
      core.record("mine", core.zeros(1), fickle(core.zeros(1), core.zeros(1)), print)
    end, "mine: 0 inputs, needs 1 to 8")
    assert.same({ 0 }, core.tensor(fickle(1, 2)):shape())
    assert.same({}, core.zeros(fickle(1, 2)):shape())
  end)

  it("run no code that could release the tensor being filled", function()
    local scope <close> = core.scope()
    local rows = setmetatable({ 1 }, { __len = function() return 3 end,
      __index = function() scope:close() return 1 end })
    assert.same({ 1.0 }, core.tensor(rows):tolist())
  end)
end)

describe("a bf16 tensor", function()
  -- Rounded to the nearest of 8 significant bits, ties to even: exponent as of an f32.
  local function narrow(x)
    if x ~= x or x == math.huge or x == -math.huge then return x end
    local bits = string.unpack("<I4", string.pack("<f", x))
    local low = bits & 0xffff
    bits = bits - low
    if low > 0x8000 or low == 0x8000 and bits & 0x10000 ~= 0 then bits = bits + 0x10000 end
    return (string.unpack("<f", string.pack("<I4", bits)))
  end

  local odd <const> = { 0.0, -0.0, 1 + 2^-8, 1 + 3 * 2^-8, -1 - 2^-8, 1 + 2^-8 + 2^-23,
    3.3895313e38, 3.4028234e38, 2^-126, 2^-133, 2^-134, 2^-134 + 2^-149, math.huge, -math.huge,
    0.1, -1e-40 }

  it("rounds to the nearest, ties to even, and widens exactly", function()
    local many = core.randn(1, 2, 3.0, 100003)
    local random = many:to("bf16"):tolist()
    for i, x in ipairs(many:tolist()) do assert(random[i] == narrow(x)) end
    local t = core.tensor(odd)
    local got = t:to("bf16")
    assert.equal("bf16", got:dtype())
    assert.same({ 16 }, got:shape())
    assert.equal(32, got:bytes())
    for i, x in ipairs(t:tolist()) do
      assert.equal(string.pack("<f", narrow(x)), string.pack("<f", got:at(i)))
    end
    assert.same(got:tolist(), got:to("f32"):tolist())
    assert.same(got:tolist(), got:to("f32"):to("bf16"):tolist())
    assert.is_true(core.tensor({ 0 / 0 }):to("bf16"):at(1) ~= core.tensor({ 0 / 0 }):at(1))
  end)

  it("is filled, copied into either way, and looked through for what is not finite", function()
    local t = core.zeros(3):to("bf16")
    assert.same({ 0.10009765625, 0.10009765625, 0.10009765625 }, t:fill(0.1):tolist())
    assert.same({ 1.0, 2.0, 3.015625 }, t:copy(core.tensor { 1, 2, 3.01 }):tolist())
    assert.same({ 1.0, 2.0, 3.015625 }, core.zeros(3):copy(t):tolist())
    assert.same({ 1.0, 2.0, 3.015625 }, t:clone():tolist())
    assert.is_true(t:finite())
    for _, x in ipairs { 0 / 0, math.huge, -math.huge } do
      assert.is_false(core.tensor({ 1, x }):to("bf16"):finite())
    end
    assert.error_matches(function() core.i32({ 1, 2, 3 }):copy(t) end, "copy: bf16 %[3%] into i32")
  end)

  it("is a parameter whose gradient is f32, through its parts too", function()
    local w = core.randn(1, 2, 1.0, 4, 3):to("bf16"):requires_grad(true)
    local x = core.tensor { { 1, 2, 3 } }
    local y = core.ops.linear(x, w:slice(1, 2)) -- rows 2 and 3
    y:backward(core.tensor { { 1, 10 } })
    assert.equal("f32", w:grad():dtype())
    assert.same({ { 0, 0, 0 }, { 1, 2, 3 }, { 10, 20, 30 }, { 0, 0, 0 } }, w:grad():tolist())
  end)

  it("lets gradients through, either way", function()
    local w = core.tensor({ 1, 2, 3 }):to("bf16"):requires_grad(true)
    local wide = w:to("f32")
    assert.is_true(wide:requires_grad())
    local y = (wide * wide):sum() + w:to("f32"):sum() -- two ways lead to w
    y:backward()
    assert.equal("f32", w:grad():dtype())
    assert.same({ 3, 5, 7 }, w:grad():tolist())
    local v = core.tensor({ { 1, 1 / 3 } }):requires_grad(true)
    core.ops.linear(core.tensor { { 2, 5 } }, v:to("bf16")):backward(core.tensor { { 10 } })
    assert.same({ { 20, 50 } }, v:grad():tolist())
    do
      local _ <close> = core.no_grad()
      assert.is_false(w:to("f32"):requires_grad())
    end
    assert.is_false(w:detach():to("f32"):requires_grad())
    assert.equal(0, core.tape_size())
  end)
end)

describe("a tensor", function()
  it("names the method that may be meant, and says how values are read", function()
    local t = core.zeros(2)
    assert.error_matches(function() return t.sahpe end,
      "tensor: no method 'sahpe' %(did you mean 'shape'%?%)")
    assert.error_matches(function() t:rellu() end, "no method 'rellu' %(did you mean 'relu'%?%)")
    assert.error_matches(function() return t.zzzzzzzzz end, "no method 'zzzzzzzzz'; dopl.help%(%)")
    assert.error_matches(function() return t[1] end, "tensor: %[1%]: t:at%(i%) and t:tolist%(%)")
    assert.error_matches(function() ipairs(t)(t, 0) end, "tensor: %[1%]")
  end)
end)
