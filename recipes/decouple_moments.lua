-- Table 17 of DualOptim: which of Adam's moments must be decoupled?
--
-- none: one set for both objectives. m, v: only that moment. m and v: DualOptim. The paper's figures
-- are the gap to the retrained model and the deviation over runs on CIFAR-10, where smaller is better.
-- Ours are OVR, where larger is better, and its deviation over forget sets and seeds. In the paper only
-- both together help. With only v decoupled, the retain step divides a momentum of large forget
-- gradients by the root of a small v, and the model breaks. About three minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params { seeds = { 2, "seeds of each forget set" } })
local run <close> = dopl.run.open {}

local variants = {}
for i, given in ipairs {
  { "none", scheme.shared {} },
  { "m", scheme.decoupled { only = { "m" } } },
  { "v", scheme.decoupled { only = { "v" } } },
  { "m and v", scheme.decoupled {} },
} do
  variants[i] = { label = given[1], optimizer = optim.adamw(p.adamw):with(given[2]) }
end

local found = study.run(p, run, variants)
study.report(run, p, {
  found:part { title = "Moments apart", paper = "dualoptim_table17",
    only = found:gap_columns(), order = found:gap_order() },
}, {
  title = "Which moments are decoupled (DualOptim, Table 17)",
  shows = closing.decouple_moments(found:percent "m and v", found:percent "m",
    found:percent "v", found:percent "none"),
})
