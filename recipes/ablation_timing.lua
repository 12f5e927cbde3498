-- Table 5 of DualOptim+: when should the base state be updated?
--
-- before_delta: before the delta, which then sees the new base. after_delta: between delta and
-- parameters. after_theta: last, the default. Mean and deviation over disjoint forget sets. In the
-- paper (Phi 1.5, forget05) after_theta is best by 0.6 points of OVR, less than the spread here.
-- About two minutes on two cores.

local dopl = require "dopl"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params())
local run <close> = dopl.run.open {}

local variants = {}
for i, timing in ipairs { "before_delta", "after_delta", "after_theta" } do
  variants[i] = { label = timing,
    optimizer = optim.adamw(p.adamw):with(scheme.base_delta { timing = timing }) }
end

study.report(run, p, {
  study.run(p, run, variants):part { title = "When the base state is updated", paper = "table5" },
}, {
  title = "When the base state is updated (Table 5)",
  shows = "What this shows: whether the time of the base's update in a step of DO+ matters here.",
})
