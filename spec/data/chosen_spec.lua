-- chosen_spec.lua - chosen samples in parts, by cost and by number, refusal pairs beside them.
local chosen = require "dopl.data.chosen"

local function samples(costs, mark)
  local list = {}
  for i, cost in ipairs(costs) do list[i] = { key = mark .. i, cost = cost } end
  return list
end

local function cost(sample) return sample.cost end

local function keys_of(parts)
  local out = {}
  for i, part in ipairs(parts) do out[i] = table.concat(part.keys, " ") end
  return out
end

describe("chosen samples", function()
  it("are cut so that no part costs more than the largest, unless it is one sample", function()
    local all = chosen.new(samples({ 3, 3, 9, 1, 1, 1 }, "s"), { tag = "forget" })
    local parts, costs = all:split { max = 6, cost = cost }
    assert.same({ "s1 s2", "s3", "s4 s5 s6" }, keys_of(parts))
    assert.same({ 6, 9, 3 }, costs)
    for _, part in ipairs(parts) do
      assert.equal(all, part.whole)
      assert.equal("forget", part.tag)
    end
    assert.equal(all, all:split { max = 18, cost = cost }[1])
  end)

  it("cost what they and their refusal pairs cost", function()
    local all = chosen.new(samples({ 1, 1, 1 }, "s"), { twins = samples({ 1, 3, 1 }, "t") })
    local parts, costs = all:split { max = 4, cost = cost }
    assert.same({ "s1", "s2", "s3" }, keys_of(parts))
    assert.same({ 2, 4, 2 }, costs)
    assert.same({ "t2" }, parts[2].twin.keys)
    assert.equal(all.twin, parts[2].twin.whole)
  end)

  it("are cut into parts of equal length, and into no more than there are samples", function()
    local all = chosen.new(samples({ 1, 1, 1, 1, 1 }, "s"))
    assert.same({ "s1 s2", "s3 s4 s5" }, keys_of(all:split { n = 2 }))
    assert.equal(5, #all:split { n = 9 })
  end)
end)
