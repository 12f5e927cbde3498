-- figures_spec.lua - results that print as their figures.
local figures = require "dopl.util.figures"
local json = require "dopl.util.json"
local metrics = require "dopl.metrics"
local summary = require "dopl.experiments.summary"

local function row(label, mu)
  return figures.row { label = label, MU = mu, forget_R = 0.125, tokens = 1200,
    losses = { forget = 1.5, retain = 0.25 }, optimizer = setmetatable({ t = 7 }, {}), columns = {},
    results = figures.rows { { name = "forget", n = 40, R = 0.125, P = 0.5, samples = {} } } }
end

describe("a result", function()
  it("prints its name and figures", function()
    assert.equal("DO+: MU 0.9, tokens 1200\n  forget (40 rows): P 0.5, R 0.125\n"
      .. "  losses: forget 1.5, retain 0.25", tostring(row("DO+", 0.9)))
    assert.equal("result: R nan", (tostring(figures.row { R = 0 / 0 }):gsub("-nan", "nan")))
    assert.equal("result: ", tostring(figures.row {}))
  end)

  it("is a plain table to all else", function()
    local plain = { label = "a", R = 0.5 }
    assert.equal(json.encode(plain), json.encode(figures.row { label = "a", R = 0.5 }))
    assert.equal(plain, figures.row(plain))
  end)

  it("prints means and spreads over several", function()
    local text = tostring(summary.over { row("DO+", 0.9), row("DO+", 0.8), row("Joint", 0.5) })
    assert.truthy(text:find("DO+: MU 0.85 ± 0.071, forget_R 0.125 ± 0, tokens 1200 ± 0", 1, true), text)
    assert.truthy(text:find("\nJoint: MU 0.5", 1, true), text)
  end)

  it("is what aggregates are", function()
    local sets = { { name = "forget", kind = "forget", R = 0.5, P = 0.5, TR = 0.5, TE = 1 },
      { name = "retain", kind = "retain", R = 0.5, P = 0.5, TR = 0.5, TE = 0.5 } }
    assert.truthy(tostring(metrics.aggregate(sets, true)):find("^result: MU%(R,P,TR,TE%) 0.5, "))
  end)
end)
