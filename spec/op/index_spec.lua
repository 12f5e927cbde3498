-- index_spec.lua - indices are checked in the forward; a backward whose indices were changed since
-- must not run.
local core = require "dopl.core"

local op, i32 = core.ops, core.i32

local function leaf(...) return core.randn(1, 1, 1, ...):requires_grad(true) end

-- One call of every operator with indices and a gradient: its result, and its index tensors.
local calls = {
  rotary = function()
    local positions = i32 { 0, 1, 2 }
    return op.rotary(leaf(3, 8), positions, 2, 4), { [2] = positions }
  end,
  attention = function()
    local offsets = i32 { 0, 1, 3 }
    return op.attention(leaf(3, 24), offsets, 2, 2), { [2] = offsets }
  end,
  embedding = function()
    local ids = i32 { 0, 3 }
    return op.embedding(leaf(4, 4), ids), { [2] = ids }
  end,
  vocab = function()
    local rows, labels = i32 { 0, 1 }, i32 { 5, 6 }
    return op.vocab(leaf(4, 4), leaf(8, 4), rows, labels), { [3] = rows, [4] = labels }
  end,
  vocab_kl = function()
    local rows = i32 { 0, 1 }
    local y = op.vocab_kl(leaf(4, 4), leaf(8, 4), rows, core.zeros(2, 4), core.zeros(8, 4))
    return y, { [3] = rows }
  end,
  segment_sum = function()
    local offsets = i32 { 0, 4 }
    return op.segment_sum(leaf(4), offsets), { [2] = offsets }
  end,
}

describe("indices that change before the backward", function()
  it("are tried with every operator that has some", function()
    for _, row in ipairs(core.op_rows) do
      local has = false
      for _, input in ipairs(row.inputs) do has = has or input.kind == "i32" end
      assert.equal(has and row.differentiable, calls[row.name] ~= nil, row.name)
    end
  end)

  for name, call in pairs(calls) do
    local _, indices = call()
    for input in pairs(indices) do
      it(("stop %s, input %d"):format(name, input), function()
        for _, change in ipairs { "fill", "copy" } do
          local y, given = call()
          if change == "fill" then
            given[input]:fill(100000000)
          else
            local other = {}
            for i = 1, given[input]:numel() do other[i] = i % 2 == 0 and 100000000 or -100000000 end
            given[input]:copy(i32(other))
          end
          local text = ("backward: input %d of %s %%(i32 %%[%%d%%]%%) was changed in place")
            :format(input, name)
          assert.error_matches(function() y:sum():backward() end, text)
        end
      end)
    end
  end

  it("stop it when a function of a later node changes them", function()
    local ids = i32 { 0, 1 }
    local y = op.embedding(leaf(4, 4), ids)
    local late = require("dopl.nn").operator {
      name = "late", forward = function(x) return x * 1 end,
      backward = function(dy)
        ids:fill(100000000)
        return dy
      end,
    }
    local loss = late(y):sum()
    assert.error_matches(function() loss:backward() end, "input 2 of embedding .* was changed in place")
  end)

  it("do not stop a backward that has a copy", function()
    local ids, table_ = i32 { 0, 1 }, leaf(4, 2)
    local y = op.embedding(table_, ids:clone())
    ids:fill(3)
    y:sum():backward()
    assert.same({ { 1, 1 }, { 1, 1 }, { 0, 0 }, { 0, 0 } }, table_:grad():tolist())
  end)
end)

describe("shapes", function()
  it("are bounded around a 0 too, so that products of dimensions are numbers", function()
    assert.error_matches(function() core.zeros(0, 1 << 62, 4) end,
      "tensor: too many elements in dimension 2")
    assert.error_matches(function() core.zeros(0, 1 << 30, 1 << 30) end,
      "tensor: too many elements in dimension 3")
    assert.error_matches(function() core.zeros(2, 0):view(0, 1 << 62) end,
      "tensor: too many elements in dimension 2")
    assert.same({ 0, 1 << 20, 1 << 20 }, core.zeros(0, 1 << 20, 1 << 20):shape())
  end)
end)

describe("fill", function()
  it("takes integers for indices, in their range", function()
    local ids = i32 { 1, 2 }
    assert.same({ -3, -3 }, ids:fill(-3):tolist())
    for _, value in ipairs { 2147483648, -2147483649, 0 / 0, 1 / 0, 0.5 } do
      assert.error_matches(function() ids:fill(value) end, "fill: .* into i32, needs an integer of")
    end
  end)
end)
