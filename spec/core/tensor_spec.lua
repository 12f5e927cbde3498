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
    assert.error_matches(function() core.concat(fickle(core.zeros(1), core.zeros(1000))) end,
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
