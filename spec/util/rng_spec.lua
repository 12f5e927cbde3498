-- rng_spec.lua - streams are the same everywhere, independent, and fair.
local rng = require "dopl.util.rng"

local function draws(r, n)
  local list = {}
  for i = 1, n do list[i] = r:bits() end
  return list
end

describe("dopl.rng", function()
  it("gives these numbers on every machine", function()
    local r = rng.new(1, "golden")
    local bits = {}
    for i = 1, 3 do bits[i] = ("%016x"):format(r:bits()) end
    assert.same({ "fb8c0fc67daab59c", "0ce7ec3f095e0e3f", "d879836107c63b49" }, bits)
    local exact = {}
    for i = 1, 3 do exact[i] = ("%a"):format(r:normal()) end
    assert.same({ "0x1.18ac633e7db7p-4", "-0x1.7c0421ee2e983p-1", "-0x1.4437d2362d55dp-2" }, exact)
  end)

  it("is a function of seed and name", function()
    assert.same(draws(rng.new(7, "a"), 20), draws(rng.new(7, "a"), 20))
    assert.not_same(draws(rng.new(7, "a"), 20), draws(rng.new(8, "a"), 20))
    assert.not_same(draws(rng.new(7, "a"), 20), draws(rng.new(7, "b"), 20))
    assert.same(draws(rng.new(7), 5), draws(rng.new(7, ""), 5))
    assert.same(draws(rng.new(7), 5), draws(rng.new(7.0), 5))
  end)

  it("forks by name, whatever was drawn before", function()
    local a, b = rng.new(3, "x"), rng.new(3, "x")
    draws(b, 10)
    assert.same(draws(a:fork("y"), 10), draws(b:fork("y"), 10))
    assert.not_same(draws(a:fork("y"), 10), draws(a:fork("z"), 10))
    assert.not_same(draws(a:fork("x"), 10), draws(rng.new(3, "x"), 10))
  end)

  it("goes on where a state was taken", function()
    local r = rng.new(-5, "state")
    r:normal()
    local state = r:state()
    local expected = draws(r, 10)
    assert.same(expected, draws(rng.restore(state), 10))
    assert.equal("string", type(state))
  end)

  it("draws uniform numbers in [0, 1)", function()
    local r, sum, squares, n = rng.new(1, "uniform"), 0, 0, 20000
    for _ = 1, n do
      local u = r:uniform()
      assert.is_true(u >= 0 and u < 1)
      sum, squares = sum + u, squares + u * u
    end
    assert.near(1 / 2, sum / n, 0.01) -- five standard errors: 0.0102
    assert.near(1 / 3, squares / n, 0.011)
  end)

  it("draws standard normal numbers", function()
    local r, sum, squares, fourth, n = rng.new(1, "normal"), 0, 0, 0, 20000
    for _ = 1, n do
      local z = r:normal()
      sum, squares, fourth = sum + z, squares + z * z, fourth + z ^ 4
    end
    assert.near(0, sum / n, 0.036)
    assert.near(1, squares / n, 0.05)
    assert.near(3, fourth / n, 0.35)
  end)

  it("draws whole numbers without a favourite", function()
    local r, counts = rng.new(2, "integer"), { 0, 0, 0, 0, 0, 0, 0 }
    for _ = 1, 14000 do
      local i = r:integer(7)
      counts[i] = counts[i] + 1
    end
    for i = 1, 7 do assert.near(2000, counts[i], 210) end
    assert.equal(1, r:integer(1))
    for _ = 1, 10 do assert.is_true(r:integer(math.maxinteger) >= 1) end
  end)

  it("shuffles to a permutation, every order alike", function()
    local seen = {}
    for seed = 1, 1200 do
      local order = table.concat(rng.new(seed, "shuffle"):shuffle { 1, 2, 3 })
      seen[order] = (seen[order] or 0) + 1
    end
    for _, order in ipairs { "123", "132", "213", "231", "312", "321" } do
      assert.near(200, seen[order], 70)
    end
    assert.same({}, rng.new(1, ""):shuffle {})
  end)

  it("refuses what is no seed, name, state or bound", function()
    assert.has_error(function() rng.new("1", "x") end,
      "rng.new: the seed must be an integer, given 1")
    assert.has_error(function() rng.new(1.5) end,
      "rng.new: the seed must be an integer, given 1.5")
    assert.has_error(function() rng.new(1, 2) end,
      "rng.new: the stream's name must be a string, given number")
    assert.has_error(function() rng.restore("rng1:xyz:1") end,
      "rng.restore: not a state of a random stream: rng1:xyz:1")
    assert.has_error(function() rng.restore(nil) end,
      "rng.restore: not a state of a random stream: nil")
    assert.has_error(function() rng.hash(3) end, "rng.hash: a string is needed, given number")
    assert.has_error(function() rng.new(1):integer(0) end,
      "rng:integer: needs an integer of at least 1, given 0")
    assert.has_error(function() rng.new(1):pick {} end, "rng:pick: the array is empty")
  end)
end)
