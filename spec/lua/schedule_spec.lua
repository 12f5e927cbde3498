-- schedule_spec.lua - whose step it is, and the learning rate's way.
local schedule = require "dopl.schedule"

local function turns(s, n)
  local list = {}
  for t = 0, n - 1 do list[#list + 1] = s:at(t) end
  return table.concat(list, " ")
end

describe("schedule.alternate", function()
  it("gives each objective its steps, forget first", function()
    assert.equal("forget retain retain forget retain retain forget",
      turns(schedule.alternate { retain = 2, forget = 1 }, 7))
    assert.equal("a b c a", turns(schedule.alternate { c = 1, b = 1, a = 1 }, 4))
    assert.equal("retain forget forget",
      turns(schedule.alternate({ forget = 2, retain = 1 }, { "retain", "forget" }), 3))
  end)

  it("counts and prints itself", function()
    local s = schedule.alternate { forget = 1, retain = 5 }
    assert.equal("schedule.alternate { forget = 1, retain = 5 }", tostring(s))
    assert.equal(6, s.period)
    assert.equal(2, s:count("forget", 8))
    assert.equal(6, s:count("retain", 8))
    assert.equal(0, s:count("other", 8))
  end)

  it("refuses counts that are none, and orders that do not fit", function()
    assert.error_matches(function() schedule.alternate {} end, "at least one")
    assert.error_matches(function() schedule.alternate { forget = 0 } end,
      "schedule.alternate: forget = 0, needs an integer of at least 1")
    assert.error_matches(function() schedule.alternate { forget = 1.5 } end, "forget = 1.5")
    assert.error_matches(function() schedule.alternate({ a = 1 }, { "b" }) end,
      "'b' is in the order but has no steps")
    assert.error_matches(function() schedule.alternate({ a = 1, b = 1 }, { "a" }) end,
      "the order leaves out an objective")
    assert.error_matches(function() schedule.alternate({ a = 1, b = 1 }, { "a", "a" }) end,
      "'a' is in the order twice")
  end)
end)

describe("other schedules", function()
  it("are joint, or a function of the step and what is known", function()
    local joint = schedule.joint()
    assert.is_nil(joint:at(0))
    assert.equal(7, joint:count("anything", 7))
    local s = schedule.from(function(t, live) return live.worse and "retain" or t % 2 end)
    assert.equal("retain", s:at(0, { worse = true }))
    assert.equal(1, s:at(3, {}))
    assert.is_nil(s:count("retain", 7))
    assert.equal(joint, schedule.from(joint))
    assert.equal("mine", tostring(schedule.of(print, "mine")))
  end)

  it("are nothing else", function()
    assert.error_matches(function() schedule.from "joint" end, "schedule: a string given; use")
    assert.error_matches(function() schedule.from {} end, "schedule: a table given; use")
    assert.error_matches(function() schedule.of(3) end, "function")
  end)
end)

describe("schedule.rate", function()
  it("rises over the warm-up, then falls to 0 after the last step", function()
    local rates = {}
    for t = 0, 9 do rates[t + 1] = schedule.rate(t, 10, 2, "linear") end
    assert.same({ 0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125 }, rates)
    assert.equal(0, schedule.rate(10, 10, 2, "linear"))
  end)

  it("stays where no decay is asked for, and lives without warm-up", function()
    assert.equal(1, schedule.rate(9, 10, 2, "none"))
    assert.equal(1.0, schedule.rate(0, 10, 0, "linear"))
    assert.equal(0.25, schedule.rate(0, 2, 4, "linear"))
  end)
end)
