-- Table 6 of DualOptim+: what should feed the base state?
--
-- g: each gradient as it is; g-delta: less what the objective's own delta already holds. The paper
-- finds g ahead by half a point of OVR. About two minutes on two cores.

local dopl = require "dopl"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params { tasks = { 5, "disjoint forget sets: task 1 to this one" } })
local run <close> = dopl.run.open {}

local variants = {}
for i, source in ipairs { "g", "g-delta" } do
  variants[i] = { label = source,
    optimizer = optim.adamw(p.adamw):with(scheme.base_delta { source = source }) }
end

study.report(run, p, {
  study.run(p, run, variants):part { title = "What feeds the base state", paper = "table6" },
}, {
  title = "What feeds the base state (Table 6)",
  shows = "What this shows: whether DO+ does better with a base of gradients or of their remainders.",
})
