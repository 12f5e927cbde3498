-- Table 7 of DualOptim+: how long should base and delta remember?
--
-- fast: betas (0.9, 0.95), slow: (0.99, 0.999). A label names the delta's, then the base's. In the
-- paper both fast is best and both slow is worst. About three minutes on two cores.

local dopl = require "dopl"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params())
local run <close> = dopl.run.open {}

local betas = { fast = { 0.9, 0.95 }, slow = { 0.99, 0.999 } }
local function adamw(pair)
  return optim.adamw { lr = p.adamw.lr, eps = p.adamw.eps, weight_decay = p.adamw.weight_decay,
    betas = pair }
end

local variants = {}
for _, delta in ipairs { "fast", "slow" } do
  for _, base in ipairs { "fast", "slow" } do
    variants[#variants + 1] = { label = ("%s, %s"):format(delta, base),
      optimizer = adamw(betas[delta]):with(scheme.base_delta { base_betas = betas[base] }) }
  end
end

study.report(run, p, {
  study.run(p, run, variants):part { title = "Decays of delta, base", paper = "table7" },
}, {
  title = "Decays of delta and base (Table 7)",
  shows = "What this shows: whether a long memory helps DO+ in its base or in its deltas.",
})
