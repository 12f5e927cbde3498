-- Table 6 of DualOptim+: which signal should update the base state?
--
-- g: each gradient unchanged. g-delta: the gradient minus the objective's delta. In the paper g leads
-- by half a point of OVR. About two minutes on two cores.

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
  shows = "What this shows: whether the base of DO+ should average gradients or their remainders.",
})
