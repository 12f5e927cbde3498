-- What does a step of DualOptim+ lose if base and delta are added in f32 as written?
--
-- The first retain step after a forget step, three times from the same weights: base + delta as
-- written, collected (docs/exact-moments.md), and the formula in doubles. As written, a second moment
-- that is much smaller than the base becomes 0, and only eps is left in the denominator. Under a minute
-- on two cores.

local dopl = require "dopl"
local first_step = require "dopl.experiments.first_step"
local plot = require "dopl.report.plot"
local tofu = require "dopl.experiments.tofu"

local p = dopl.params(tofu.params { lr = { 1e-3, "learning rate" }, eps = { 1e-8, "Adam's eps" } })
local run <close> = dopl.run.open { params = p }
local bench = tofu.open(p, { run = run })

local function objectives()
  local function loader(name, refusals)
    return data.loader { samples = bench[name], batch_size = 10, stream = name, seed = 1,
      refusals = refusals, refuse = refusals and "replace" }
  end
  return { { name = "forget", loss = loss.idk(), data = loader("forget", bench.refusals) },
    { name = "retain", loss = loss.gd(), data = loader "retain" } }
end

local rows, series = {}, {}
local function show(label, step)
  step.label, rows[#rows + 1] = label, step
  series[#series + 1] = first_step.series(label, step)
end
local step, doubles
for _, way in ipairs { { "as written, f32", false }, { "collected, f32", true } } do
  local model = bench:original()
  step, doubles = first_step.take { model = model, objectives = objectives(), lr = p.lr, eps = p.eps,
    exact = way[2] }
  step.retain = metrics.answer_probability(model, bench.retain)
  show(way[1], step)
end
show("formula, doubles", doubles)

local title <const>, columns <const> = "The first retain step of DualOptim+", {
  { key = "distance", label = "distance to doubles", digits = 6 },
  { key = "furthest", label = "longest step", digits = 1 },
  { key = "over_ten", label = "weights over 10", digits = 0 },
  { key = "retain", label = "P(answer) on retain, after", digits = 1, scale = 100 },
}
local lead <const> = "Distances are relative to the length of the step in doubles, steps of a weight "
  .. "to the learning rate."
report.table(rows, { columns = columns })
print(lead)
print("report: " .. report.write(run, { title = title, lead = lead, params = p,
  tables = { { rows = rows, title = title, columns = columns } },
  charts = { { svg = plot.line { title = "Weights that moved further", series = series,
    x = { label = "learning rates", log = true }, y = { label = "weights", log = true } },
    caption = "An exact step is at most one learning rate long." } },
  recipe = dopl.core.files.read(run.path .. "/recipe.lua") }))
