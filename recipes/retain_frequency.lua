-- Table 9 of DualOptim+: how many retain steps for each forget step?
--
-- The steps in all stay the same, so more retain steps leave fewer to forget. The paper finds five best
-- for DO+, which leads at every frequency. About four minutes on two cores.

local dopl = require "dopl"
local methods = require "dopl.experiments.methods"
local range = require "dopl.experiments.range"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  tasks = { 2, "disjoint forget sets: task 1 to this one" },
  frequencies = { 1, 2, 5, 9, 14 },
})
local run <close> = dopl.run.open {}

local names, variants = { "Alternate", "DO", "DO+" }, {}
for _, retain in ipairs(p.frequencies) do
  for _, m in ipairs(methods.list { optimizer = optim.adamw(p.adamw), names = names,
    retain = retain }) do
    variants[#variants + 1] = { label = ("%s, 1:%d"):format(m.label, retain),
      optimizer = m.optimizer, schedule = m.schedule }
  end
end
local compared = study.run(p, run, variants)

local frequencies = range.of(compared, { x = "retain steps for one forget step",
  pattern = "^(.-), 1:(%d+)$" })
local best = {}
for i, name in ipairs(names) do
  local at, figure = frequencies:best(name, compared.keys.OVR)
  best[i] = ("%s, 1:%d (%.1f)"):format(name, at, 100 * figure.mean)
end
study.report(run, p, {
  compared:part { title = "Retain steps for one forget step", paper = "table9",
    chart = frequencies:curves(compared.keys.OVR, "OVR by retain steps") },
}, {
  title = "How often to retain (Table 9)",
  shows = "What this shows: how each method stands fewer or more retain steps. Best number of them by "
    .. "mean OVR: " .. table.concat(best, ", ") .. ".",
})
