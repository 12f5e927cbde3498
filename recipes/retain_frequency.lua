-- Table 9 of DualOptim+: how many retain steps should follow each forget step?
--
-- The total number of steps stays the same, so more retain steps leave fewer forget steps. In the paper
-- five is best for DO+, which leads at every frequency. About four minutes on two cores.

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
  title = "Frequency of retain steps (Table 9)",
  shows = "What this shows: how the number of retain steps affects each method. Best number by mean "
    .. "OVR: " .. table.concat(best, ", ") .. ".",
})
