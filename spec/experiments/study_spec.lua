-- study_spec.lua - what a study says of chance: intervals, pairs, orders; figures worked out by hand.
local dopl = require "dopl"
local methods = require "dopl.experiments.methods"
local order = require "dopl.experiments.order"
local range = require "dopl.experiments.range"
local settings = require "dopl.experiments.settings"
local study = require "dopl.experiments.study"

local OVR <const> = dopl.metrics.keys.OVR

-- Results of two variants on three forget sets with two seeds each.
local function example()
  local results = {}
  for k, list in ipairs { { 10, 12, 20, 22, 30, 32 }, { 12, 12, 22, 22, 34, 34 } } do
    for i, x in ipairs(list) do
      results[#results + 1] = { label = k == 1 and "a" or "b", [OVR] = x / 100,
        set = "set " .. (i + 1) // 2 }
    end
  end
  return study.of({ data = "", tasks = 3, seeds = 2 }, results, { repetitions = 6, parameters = 1e6 })
end

describe("order", function()
  it("gives half of Student's interval of a mean", function()
    assert.is_nil(order.interval { 1 })
    assert.near(12.706, order.interval { 0, 2 }, 1e-3)
    assert.near(2.776 * math.sqrt(2.5 / 5), order.interval { 1, 2, 3, 4, 5 }, 1e-3)
  end)

  it("judges a difference by the spread of the differences", function()
    local mean, half = order.difference({ 1, 11, 21 }, { 0, 10, 20 })
    assert.near(1, mean, 1e-12)
    assert.near(0, half, 1e-12)
    -- far apart from set to set, yet never but one apart from each other
    local n, pairs_of, known, agree = order.distinct({ { 1, 11, 21 }, { 0, 10, 20 }, { 0, 11, 20.5 } },
      { 5, 6 })
    assert.same({ 1, 3, 1, 0 }, { n, pairs_of, known, agree })
  end)

  it("counts pairs in the same order", function()
    local tau, same, pairs_of = order.tau({ 1, 2, 3 }, { 1, 3, 2 })
    assert.same({ 2, 3 }, { same, pairs_of })
    assert.near(1 / 3, tau, 1e-12)
  end)
end)

describe("study.run", function()
  it("looks at all variants before it trains the first", function()
    local function says(pattern, second)
      assert.error_matches(function()
        study.run({ data = "", tasks = 1, seeds = 1 }, nil,
          { { label = "a", optimizer = dopl.optim.sgd {} }, second })
      end, "study.run: variant 2: " .. pattern)
    end
    says("unknown field 'optimiser' %(did you mean 'optimizer'", { label = "b", optimiser = 1 })
    says("optimizer: a function, needs one like optim.adamw", { label = "b", optimizer = print })
    says("forget: a function, needs a loss like loss.idk",
      { label = "b", optimizer = dopl.optim.sgd {}, forget = dopl.loss.idk })
    says("label: 3, needs a string", { label = 3, optimizer = dopl.optim.sgd {} })
    assert.error_matches(function() study.run(nil, nil, {}) end, "study.run: parameters: nil")
  end)
end)

describe("study.each", function()
  it("misses a forget set before it opens the first", function()
    local p = { data = "", authors = 4, questions = 2, model_seed = 1, tasks = 3, seeds = 1 }
    assert.error_matches(function()
      study.each(p, nil, function() error "opened" end)
    end, "there are at most 2 tasks.*%(%-%-tasks 3 asks for forget sets 1 to 3%)")
  end)
end)

describe("study", function()
  it("takes a forget set, not a seed of it, for what chance draws", function()
    local s = example()
    local list, what = s:units("a", OVR)
    assert.equal("forget sets", what)
    for i, x in ipairs { 0.11, 0.21, 0.31 } do assert.near(x, list[i], 1e-12) end
    assert.near(order.interval { 0.11, 0.21, 0.31 }, s.rows[1].interval, 1e-12)
    assert.near(dopl.metrics.spread { 0.1, 0.12, 0.2, 0.22, 0.3, 0.32 }.std, s.rows[1].deviation, 1e-12)
  end)

  it("takes no NaN for the best", function()
    local s = example()
    for i, nan in ipairs { "b", "a" } do
      for _, row in ipairs(s.rows) do
        row[OVR] = { mean = row.label == nan and 0 / 0 or 0.3 }
      end
      assert.equal(i == 1 and "a" or "b", s:best().label)
    end
    local sentence = order.sentence { what = "OVR", labels = { "a", "b", "c" }, ours = { 0 / 0, 1, 2 },
      theirs = { 3, 2, 1 } }
    assert.match("First here: c. First in the paper: a", sentence)
  end)

  it("goes by the names that its results have", function()
    local s = study.of({ data = "", tasks = 1, seeds = 1 }, { { label = "a", ["OVR(R,P,TE)"] = 0.5,
      ["MU(R,P,TE)"] = 0.4, keys = { OVR = "OVR(R,P,TE)", MU = "MU(R,P,TE)" } } },
      { repetitions = 1, parameters = 1 })
    assert.equal("50.0", s:percent "a")
    local part, keys = s:part { title = "T" }, {}
    for i, column in ipairs(part.columns) do keys[i] = column.key end
    assert.same({ "MU(R,P,TE)", "OVR(R,P,TE)" }, keys)
    assert.same({ "MU(R,P,TE)", "OVR(R,P,TE)", "deviation", "interval", "forget_refused" },
      (function()
        local list = {}
        for i, column in ipairs(s:gap_columns()) do list[i] = column.key end
        return list
      end)())
  end)

  it("puts no figures of a paper beside data that it does not have", function()
    for _, name in ipairs { "table1", "table5" } do
      local s = example()
      s.p = { data = "somewhere", split = "custom" }
      assert.equal(name == "table5", s:part { title = "T", paper = name }.paper ~= nil)
      s.p.split = "forget05"
      assert.equal("forget05", s:part { title = "T", paper = "table1" }.paper.split)
    end
  end)

  it("shows differences in pairs, none to the row itself", function()
    local s = example()
    local part = s:paired("Differences", { "a" })
    assert.is_nil(s.rows[1]["over a"])
    local mean, half = order.difference({ 12, 22, 34 }, { 11, 21, 31 })
    assert.near(mean, 100 * s.rows[2]["over a"].mean, 1e-9)
    assert.near(half, 100 * s.rows[2]["over a"].std, 1e-9)
    assert.truthy(part.sentences[1]:find "over a, .*paired over 3 forget sets%): none%.")
    assert.truthy(part.charts[1].svg:find "<svg")
  end)
end)

describe("range", function()
  local function of(labels)
    local results = {}
    for label, list in pairs(labels) do
      for i, x in ipairs(list) do
        results[#results + 1] = { label = label, [OVR] = x / 100, set = "set " .. i }
      end
    end
    table.sort(results, function(a, b) return a.label .. a.set < b.label .. b.set end)
    return range.of(study.of({ data = "", tasks = 2, seeds = 1 }, results,
      { repetitions = 2, parameters = 1e6 }), { x = "rate", log = true })
  end

  it("has a row for each series and a column for each value", function()
    local r = of { ["Joint, 0.001"] = { 80, 82 }, ["Joint, 0.002"] = { 40, 44 },
      ["DO+, 0.001"] = { 70, 70 }, ["DO+, 0.002"] = { 79, 81 } }
    assert.same({ "DO+", "Joint" }, r.names)
    assert.same({ 0.001, 0.002 }, r.values)
    local at, figure = r:best("DO+", OVR)
    assert.equal(0.002, at)
    assert.near(0.8, figure.mean, 1e-12)
    local part = r:part { title = "OVR", paper = "table1" }
    assert.near(order.interval { 0.4, 0.44 }, part.rows[2]["0.002"].std, 1e-12)
    assert.matches("lie within 1.0 points: DO+ 80.0 (0.002), Joint 81.0 (0.001)", part.sentences[1], 1,
      true)
    assert.matches("-1.00 at 0.001, +1.00 at 0.002", part.sentences[2], 1, true)
    assert.truthy(part.charts[1].svg:find "<svg")
  end)

  it("says which label has another form", function()
    assert.error_matches(function() of { ["DO+"] = { 1, 2 } } end, "range.of: the label 'DO%+'")
  end)
end)

describe("tuned methods", function()
  it("are there for every loss and method, with what the search found", function()
    for loss, found in pairs(settings.methods) do
      local list = methods.tuned(loss, { lr_factor = 0.5 })
      assert.equal(#methods.names, #list)
      for i, m in ipairs(list) do
        assert.equal(methods.names[i], m.label)
        assert.equal(loss, m.forget.name)
        assert.equal(found[m.label].weight, m.forget_weight)
        assert.near(0.5 * found[m.label].lr, m.optimizer.hyper.lr, 1e-15)
        assert.equal(found[m.label].eps, m.optimizer.hyper.eps)
      end
    end
    assert.error_matches(function() methods.tuned "idx" end, "idk")
  end)

  it("were not searched on forget sets that recipes report", function()
    for _, set in ipairs(settings.tuning.sets) do assert.truthy(set > 5) end
  end)
end)
