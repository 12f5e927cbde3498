-- dropout_spec.lua - the mask is made again, not kept: forward and backward must draw the same one.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

-- The mask is taken from the operator itself (dropout of ones); cases check that it is a fair one.
local function reference(x, p, seed, counter)
  local _ <close> = core.no_grad()
  local ones = core.full(1, x.shape)
  local mask = array.of(core.ops.dropout(ones, p, seed, counter))
  return array.new(x.shape, function(i) return mask[i] == 0 and 0.0 or x[i] / (1 - p) end)
end

local x <const> = array.fill({ 3, 7 }, 0, 2, 1)

return walker.check("dropout", {
  dropout = {
    reference = reference,
    samples = {
      { x, 0.25, 1, 1 },
      { x, 0.0, 1, 1 },
      { x, 0.99, 5, -3 },
      { array.fill({ 5, 1025 }, 1, 1, 2), 0.5, 7, 9 },
      { array.zeros { 0, 4 }, 0.5, 1, 1 },
      { array.fill({}, 1, 1, 3), 0.5, 1, 1 },
    },
    wrong = {
      { x, 1.0, 1, 1, says = "dropout: p is 1, needs 0 <= p < 1" },
      { x, -0.5, 1, 1, says = "dropout: p is -0.5, needs 0 <= p < 1" },
      { x, 0 / 0, 1, 1, says = "needs 0 <= p < 1" },
      { x, 0.5, 1.5, 1, says = "dropout: seed is 1.5, needs an integer" },
      { x, 0.5, 1, says = "dropout: counter is missing" },
    },
    cases = {
      ["keeps the mean and drops the given share"] = function()
        local ones = core.full(1, 40000)
        local y = array.of(core.ops.dropout(ones, 0.3, 11, 1))
        local dropped = 0
        for _, v in ipairs(y) do
          if v == 0 then dropped = dropped + 1 else assert.near(1 / 0.7, v, 1e-6) end
        end
        assert.near(0.3, dropped / #y, 0.012) -- five standard errors
      end,
      ["draws another mask for another seed or counter, the same for the same"] = function()
        local ones = core.full(1, 64)
        local function mask(...) return core.ops.dropout(ones, 0.5, ...):tolist() end
        assert.same(mask(1, 1), mask(1, 1))
        assert.not_same(mask(1, 1), mask(1, 2))
        assert.not_same(mask(1, 1), mask(2, 1))
      end,
    },
  },
})
