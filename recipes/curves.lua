-- Figure 3 of DualOptim+: how do the metrics develop during unlearning?
--
-- UFE, TFE, MU and OVR every few steps, on a part of each evaluation set (--glance rows), starting with
-- the model before unlearning. The paper prints no numbers for its figure. Our final figures, on the
-- whole sets, stand beside its Table 1, which has the same losses and methods.
-- About three minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"
local summary = require "dopl.experiments.summary"

local p = dopl.params(study.params {
  every = { 30, "steps between two points of a curve", least = 1 },
  glance = { 10, "rows of each evaluation set for a point", least = 1 },
})
local run <close> = dopl.run.open {}

local variants = {}
for i, m in ipairs(methods.list { optimizer = optim.adamw(p.adamw),
  names = { "Joint", "Alternate", "DO", "DO+" } }) do
  variants[i] = { label = m.label, optimizer = m.optimizer, schedule = m.schedule }
end
local compared = study.run(p, run, variants, { every = p.every,
  watch = function(bench, model) return bench:glance(model, p.glance) end })

local keys = compared.keys

-- OVR: its mean over the course, and its largest fall from one point to the next.
local logged, calm = compared:logged "evaluation", compared.rows[1]
for _, row in ipairs(compared.rows) do
  local course, falls = {}, {}
  for i, points in ipairs(logged[row.label]) do
    local sum, fall = 0.0, 0.0
    for k = 2, #points do
      local before, now = points[k - 1][keys.OVR], points[k][keys.OVR]
      sum, fall = sum + now, math.max(fall, before - now)
    end
    course[i], falls[i] = sum / (#points - 1), sum == sum and fall or sum -- a NaN is no calm
  end
  row.course, row.fall = metrics.spread(course), metrics.spread(falls)
  local x, least = row.fall.mean, calm.fall.mean
  if x < least or least ~= least then calm = row end
end

local function curve(key)
  return compared:course("evaluation", key, { title = key, scale = 100, y = { label = "%" } })
end
local caption = "Mean over forget sets; shaded: ± standard deviation."
local columns = table.move(summary.columns_of(keys), 1, 4, 1, {})
columns[5] = { key = "course", label = "OVR on the way", scale = 100, digits = 1, better = "higher" }
columns[6] = { key = "fall", label = "largest fall", scale = 100, digits = 1, better = "lower" }
study.report(run, p, { compared:part { title = "At the end, and on the way", paper = "table1",
  only = columns, chart = curve(keys.OVR) } }, {
  title = "Metrics over the course of unlearning (Figure 3)",
  charts = { { svg = curve(keys.UFE), caption = caption },
    { svg = curve(keys.TFE), caption = caption }, { svg = curve(keys.MU), caption = caption } },
  shows = closing.curves(calm.label, 100 * calm.fall.mean),
})
