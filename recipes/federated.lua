-- Table 14 of DualOptim+: is DO+ better than schemes from federated learning?
--
-- The objectives act as clients. SCAFFOLD keeps a base and corrections to it, FedCM a base and momenta,
-- Local Adam one set of moments per client. All three exchange at the end of a period (one forget step,
-- five retain steps). In the paper DO+ leads by half a point of OVR. About two minutes on two cores.

local dopl = require "dopl"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params())
local run <close> = dopl.run.open {}

local variants = {}
for i, given in ipairs {
  { "scaffold", scheme.scaffold {} }, { "fedcm", scheme.fedcm {} },
  { "local_adam", scheme.local_adam {} }, { "DO+", scheme.base_delta {} },
} do
  variants[i] = { label = given[1], optimizer = optim.adamw(p.adamw):with(given[2]) }
end

study.report(run, p, {
  study.run(p, run, variants):part { title = "Schemes from federated learning", paper = "table14" },
}, {
  title = "DO+ and schemes from federated learning (Table 14)",
  shows = "What this shows: how DO+ compares with schemes that exchange states once per period.",
})
