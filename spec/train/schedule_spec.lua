-- schedule_spec.lua - whose step it is, and the learning rate's way.
local schedule = require "dopl.train.schedule"

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

  it("refuses wrong counts, and orders that do not fit", function()
    assert.error_matches(function() schedule.alternate {} end, "at least one")
    assert.error_matches(function() schedule.from(schedule.alternate) end,
      "schedule.alternate itself is given; call it")
    assert.error_matches(function() schedule.alternate { forget = 0 } end,
      "schedule.alternate: forget = 0, needs an integer of at least 1")
    assert.error_matches(function() schedule.alternate { forget = 1.5 } end, "forget = 1.5")
    assert.error_matches(function() schedule.alternate({ a = 1 }, { "b" }) end,
      "'b' is in the order but has no steps")
    assert.error_matches(function() schedule.alternate({ a = 1, b = 1 }, { "a" }) end,
      "the order leaves out an objective")
    assert.error_matches(function() schedule.alternate({ a = 1, b = 1 }, { "a", "a" }) end,
      "'a' is in the order twice")
    assert.error_matches(function() schedule.alternate({ a = 1 }, { 0 / 0 }) end,
      "schedule.alternate: order: .*nan, needs string")
  end)

  it("passes over nothing that was given", function()
    assert.error_matches(function() schedule.alternate { forget = 1, retain = 2, 3 } end,
      "schedule.alternate: a value without a name %(3%), needs { objective = steps }")
    assert.error_matches(function() schedule.alternate { forget = 1 << 31 } end,
      "forget = 2147483648, needs at most 1000000")
    assert.error_matches(function() schedule.alternate({ a = 1 }, "a") end, "order: .*needs table")
    assert.error_matches(function() schedule.alternate({ a = 1 }, { "a", b = 2 }) end,
      "a list has no field 'b'")
    assert.error_matches(function() schedule.joint { forget = 1, 2 } end, "without a name")
    assert.error_matches(function() schedule.random { "a", weights = { 1 } } end,
      "a list has no field 'weights'")
    assert.error_matches(function()
      schedule.phases { { serve = "a", steps = 1 }, { serve = "b" }, steps = 3 }
    end, "a list has no field 'steps'")
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
    assert.error_matches(function() schedule.of(print, 3) end, "schedule.of: text: 3")
    assert.error_matches(function() schedule.alternate { a = 1 }:length(schedule.passes(1e300),
      { names = { "a" }, epochs = { a = 2 } }) end, "more than any training has")
    assert.error_matches(function()
      schedule.phases { { serve = "a", ends = "loss_b < 1" }, { serve = "a" } }
        :resolve { names = { "a" } }
    end, "phase 1: ends: loss of: 'b'")
    local phases = schedule.phases { { serve = "a", ends = function() return 1 end }, { serve = "b" } }
    assert.equal("a", phases:at(0))
    assert.equal("b", phases:at(1)) -- whatever counts as true in Lua ends a phase
    assert.error_matches(function() schedule.of(print, "p", 0) end, "schedule.of: period = 0")
    assert.error_matches(function() schedule.phases { { serve = 7, steps = 1 }, { serve = "b" } } end,
      "phase 1: serve is a number, needs an objective's name or a schedule")
    assert.error_matches(function()
      schedule.phases { { serve = "a", passes = "two" }, { serve = "b" } }
    end, "phase 1: passes = two, needs a positive number")
  end)
end)

-- Objectives of 10 and 30 samples, in batches of 5.
local SIZES <const> = {
  names = { "forget", "retain" }, epochs = { forget = 2, retain = 6 },
  samples = { forget = 10, retain = 30 },
}

local function share(s, name, n)
  local served = 0
  for t = 0, n - 1 do
    if s:at(t) == name then served = served + 1 end
  end
  return served / n
end

describe("schedule.joint, only, random, proportional", function()
  it("weigh a joint step", function()
    local s = schedule.joint { retain = 5, forget = 0.5 }
    assert.is_nil(s:at(3))
    assert.equal(0.5, s:weight "forget")
    assert.equal(5, s:weight "retain")
    assert.equal(1, schedule.joint():weight "forget")
  end)

  it("serve one objective", function()
    assert.equal("retain retain", turns(schedule.only "retain", 2))
    assert.equal(4, schedule.only("retain"):count("retain", 4))
  end)

  it("draw by seed and step alone", function()
    local s = schedule.random({ "a", "b", "c" }, 3)
    local forwards, backwards = {}, {}
    for t = 0, 99 do forwards[t] = s:at(t) end
    for t = 99, 0, -1 do backwards[t] = s:at(t) end
    assert.same(forwards, backwards)
    assert.equal(turns(s, 50), turns(schedule.random({ "a", "b", "c" }, 3), 50))
    assert.not_equal(turns(s, 50), turns(schedule.random({ "a", "b", "c" }, 4), 50))
    assert.near(1 / 3, share(s, "b", 3000), 0.03)
    assert.equal(s:count("b", 50) + s:count("a", 50) + s:count("c", 50), 50)
  end)

  it("draw in proportion to shares, or to the samples there are", function()
    assert.near(0.2, share(schedule.proportional({ forget = 1, retain = 4 }, 1), "forget", 3000), 0.03)
    local s = schedule.proportional(nil, 1)
    assert.error_matches(function() s:at(0) end, "only train.fit knows how many samples")
    assert.near(0.25, share(s:resolve(SIZES), "forget", 3000), 0.03)
  end)

  it("refuse wrong values", function()
    assert.error_matches(function() schedule.joint { forget = -1 } end,
      "schedule.joint: forget = %-1, needs a positive number")
    assert.error_matches(function() schedule.random {} end, "at least one")
    assert.error_matches(function() schedule.random { "a", "a" } end, "'a' is there twice")
    assert.error_matches(function() schedule.proportional { a = "x" } end, "a = x, needs a positive")
    assert.error_matches(function() schedule.random({ "a" }, 1.5) end, "seed.*integer")
  end)
end)

describe("schedule.passes", function()
  local function steps(s, length) return s:length(length, SIZES, "steps") end

  it("is a length in epochs of an objective, to the end of a period", function()
    local s = schedule.alternate { forget = 1, retain = 5 }
    assert.equal(7, steps(s, 7))
    assert.equal(36, steps(s, schedule.passes(3))) -- 6 forget steps
    assert.equal(12, steps(s, schedule.passes(1, "retain"))) -- 6 of 7, then the period's rest
    assert.equal(6, steps(s, schedule.passes(0.5)))
    assert.equal(4, steps(schedule.joint(), schedule.passes(2)))
    assert.equal(12, steps(schedule.only "retain", schedule.passes(2)))
  end)

  it("waits for chance", function()
    local s = schedule.random({ "forget", "retain" }, 1)
    local n = steps(s, schedule.passes(2))
    assert.equal(4, s:count("forget", n))
    assert.equal(3, s:count("forget", n - 1))
  end)

  it("is refused where only running can tell, and where it makes no sense", function()
    assert.error_matches(function() steps(schedule.of(print), schedule.passes(1)) end,
      "how often schedule.of%(function%) serves 'forget' shows only in running; give steps")
    assert.error_matches(function() steps(schedule.only "retain", schedule.passes(1, "forgot")) end,
      "steps = schedule.passes%(1, \"forgot\"%): objective")
    assert.error_matches(function() schedule.passes(0) end, "positive number")
    assert.error_matches(function() steps(schedule.joint(), 1.5) end,
      "steps = 1.5, needs an integer of at least 0 or schedule.passes%(n%)")
    assert.error_matches(function() steps(schedule.joint(), math.maxinteger) end,
      "steps = 9223372036854775807, needs at most 10000000; `stop` ends a training run before")
    assert.error_matches(function()
      steps(schedule.phases { { serve = "forget", steps = 1 }, { serve = "retain" } },
        schedule.passes(1))
    end, "serves 'forget' too seldom")
  end)
end)

describe("schedule.phases", function()
  it("lasts for steps or passes, each phase counted from its own start", function()
    local s = schedule.phases {
      { serve = "forget", passes = 1 },
      { serve = schedule.alternate { forget = 1, retain = 2 }, steps = 4 },
      { serve = "retain" },
    }
    assert.error_matches(function() s:at(0) end, "how long a pass is")
    s = s:resolve(SIZES)
    assert.equal("forget forget forget retain retain forget retain retain", turns(s, 8))
    assert.equal(4, s:count("forget", 100))
    assert.equal("retain", s:at(9)) -- counting moved nothing
    assert.equal(3, schedule.phases { { serve = "forget", steps = 3 }, { serve = "retain" } }
      :count("forget", 10))
  end)

  it("ends a phase by a metric, once an evaluation within the phase says so", function()
    local s = schedule.phases { { serve = "forget", ends = "P < 0.1" },
      { serve = "retain", ends = "P >= 0.5", steps = 3 }, { serve = "forget" } }:resolve(SIZES)
    assert.is_nil(s:count("forget", 5))
    assert.equal("forget", s:at(0, {}))
    assert.equal("forget", s:at(1, { losses = {} })) -- nothing evaluated yet
    assert.equal("forget", s:at(2, { result = { P = 0.3 }, evaluated = 2 }))
    assert.equal("retain", s:at(3, { result = { P = 0.05 }, evaluated = 3 }))
    assert.equal("retain", s:at(4, { result = { P = 0.9 }, evaluated = 3 })) -- from before the phase
    assert.same({ phase = 2, began = 3, inner = {} }, s:state())
    local copy = schedule.phases { { serve = "forget", ends = "P < 0.1" },
      { serve = "retain", ends = "P >= 0.5", steps = 3 }, { serve = "forget" } }:resolve(SIZES)
    copy:restore(s:state())
    for _, each in ipairs { s, copy } do
      assert.equal("retain", each:at(5, {}))
      assert.equal("forget", each:at(6, {})) -- after three steps
    end
    assert.error_matches(function()
      s:restore { phase = 9, began = 0 }
    end, "phase")
  end)

  it("ends a phase by a loss, or by a function", function()
    local s = schedule.phases { { serve = "forget", ends = "loss_forget > 2" },
      { serve = "retain", ends = function(live, t) return t == 3 and live.done end },
      { serve = "forget" } }
    assert.equal("forget", s:at(0, { losses = { forget = 3 } }))
    assert.equal("forget", s:at(1, { losses = { forget = 2 } }))
    assert.equal("retain", s:at(2, { losses = { forget = 2.5 } }))
    assert.equal("forget", s:at(3, { done = true }))
  end)

  it("says what is wrong", function()
    local function refused(list, pattern)
      assert.error_matches(function() schedule.phases(list) end, pattern)
    end
    refused({}, "at least one phase")
    refused({ { serve = "forget" }, { serve = "retain" } }, "phase 1: when is it over%?")
    refused({ { serve = "forget", steps = 3 } }, "phase 1: the last one lasts until")
    refused({ { serve = schedule.joint(), steps = 3 }, { serve = "a" } }, "is no phase")
    refused({ { serve = "a", ends = "P = 3" }, { serve = "a" } }, "'P = 3', needs 'metric < number'")
    refused({ { serve = "a", ends = "P < x" }, { serve = "a" } }, "'P < x', needs")
    refused({ { serve = "a", stesp = 3 }, { serve = "a" } }, "did you mean 'steps'")
    local s = schedule.phases { { serve = "a", ends = "Q < 1" }, { serve = "b" } }
    s:at(0, {})
    assert.error_matches(function() s:at(1, { result = { P = 1 }, evaluated = 1 }) end,
      "the evaluation gave no number 'Q' %(it has P%)")
  end)
end)

describe("a schedule", function()
  it("prints itself as it is written", function()
    for _, text in ipairs {
      'schedule.joint()', 'schedule.joint { forget = 0.1, retain = 5 }', 'schedule.only "a b"',
      'schedule.alternate { forget = 1, a = 2, ["b c"] = 3, ["end"] = 1 }',
      'schedule.alternate({ retain = 1, forget = 2 }, { "retain", "forget" })',
      'schedule.random { "forget", "retain" }', 'schedule.random({ "forget", "retain" }, 7)',
      'schedule.proportional()', 'schedule.proportional(nil, 3)',
      'schedule.proportional { forget = 1, retain = 4.5 }', 'schedule.passes(3)',
      'schedule.passes(0.1, "retain")',
      'schedule.phases { { serve = "forget", ends = "P < 0.1" }, { serve = '
        .. 'schedule.alternate { forget = 1, retain = 2 }, steps = 4, passes = 2 }, '
        .. '{ serve = "retain", passes = schedule.passes(1, "retain") }, { serve = "retain" } }',
    } do
      local value = load("local schedule = ... return " .. text)(schedule)
      assert.equal(text, tostring(value))
    end
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
