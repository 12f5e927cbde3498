-- Does the order of the methods depend on the learning rate?
--
-- Six methods with IDK + GD at a range of rates, with the same forget sets, 200 steps and Adam's eps
-- of 1e-8. With the best rate for each, they end about a point of OVR apart. With one rate for all,
-- they lie further apart, and the first one changes with the rate. (About twelve minutes)

local dopl = require "dopl"
local methods = require "dopl.experiments.methods"
local range = require "dopl.experiments.range"
local settings = require "dopl.experiments.settings"
local study = require "dopl.experiments.study"

local common = settings.unlearn.adamw
local declared = study.params {
  rates = { 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3 },
  methods = methods.names,
  eps = { 1e-8, "Adam's eps" },
}
declared.adamw = nil -- the rates are what is varied
declared.steps = { 200, declared.steps[2] }
local p = dopl.params(declared)
local run <close> = dopl.run.open {}

local variants = {}
for _, rate in ipairs(p.rates) do
  local optimizer = optim.adamw { lr = rate, eps = p.eps, betas = common.betas,
    weight_decay = common.weight_decay }
  for _, m in ipairs(methods.list { optimizer = optimizer, names = p.methods }) do
    m.label = ("%s, %g"):format(m.label, rate)
    variants[#variants + 1] = m
  end
end
local rates = range.of(study.run(p, run, variants), { x = "learning rate", log = true })

study.report(run, p, { rates:part { title = "OVR by learning rate", paper = "table1" } }, {
  title = "Methods over learning rates",
  lead = ("Mean, ± half its 95%% interval over %d forget sets."):format(p.tasks),
  charts = { { svg = rates:curves(rates.keys.MU, "Model utility by learning rate"),
    caption = "Shaded: the 95% interval over forget sets." } },
  shows = "What this shows: the range of learning rates at which each method works. It does not show "
    .. "that one method is better at its best rate.",
})
