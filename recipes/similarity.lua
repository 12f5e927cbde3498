-- Figure 2 of DualOptim+: do forgetting and retaining agree or conflict?
--
-- The diagnostics, where a retain step follows a forget step: the cosine of the two updates, of the
-- two gradients, and of the gradients' moving averages (factor 0.9). Below 0, one undoes a part
-- of the other. The paper argues for a base and deltas from this: what the two share, and how far
-- they conflict, changes. It draws the figure and prints no numbers of it. About two minutes on two
-- cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  every = { 6, "steps between comparisons; a period has six", least = 1 },
})
local run <close> = dopl.run.open {}

local variants = {}
for i, m in ipairs(methods.list { optimizer = optim.adamw(p.adamw),
  names = { "Alternate", "DO", "DO+" } }) do
  variants[i] = { label = m.label, optimizer = m.optimizer, schedule = m.schedule, evaluate = false }
end
local compared = study.run(p, run, variants, { diagnostics = { every = p.every } })

local logged, columns, charts, below = compared:logged "diagnostics", {}, {}, {}
for i, figure in ipairs { { "cos_update", "updates" }, { "cos_grad", "gradients" },
  { "cos_grad_ema", "averaged gradients" } } do
  local key, name, looks, negative = figure[1], figure[2], 0, 0
  for _, row in ipairs(compared.rows) do
    local means = {}
    for k, seen in ipairs(logged[row.label]) do
      local list = {}
      for j, look in ipairs(seen) do
        list[j], looks = look[key], looks + 1
        negative = negative + (look[key] < 0 and 1 or 0)
      end
      means[k] = metrics.mean(list)
    end
    row[key] = metrics.spread(means)
  end
  columns[i] = { key = key, label = name, digits = 3 }
  below[i] = ("of %s in %.0f%%"):format(name, 100 * negative / looks)
  charts[i] = { caption = "Mean over forget sets; shaded: ± standard deviation.",
    svg = compared:course("diagnostics", key, { title = "Cosine of " .. name }) }
end

local updates = {}
for i, row in ipairs(compared.rows) do
  updates[i] = ("%s %+.2f"):format(row.label, row.cos_update.mean)
end
study.report(run, p, {
  compared:part { title = "Cosine of forgetting and retaining", only = columns, order = {} },
}, {
  title = "Similarity of forget and retain steps (Figure 2)", charts = charts,
  lead = ("Mean over %d comparisons, ± standard deviation over %d forget sets."):format(
    p.steps // p.every, p.tasks * p.seeds),
  note = "Cosines of a forget step and the retain step after it. 1: same direction, -1: opposite.",
  shows = closing.similarity(table.concat(updates, ", "), table.concat(below, ", ")),
})
