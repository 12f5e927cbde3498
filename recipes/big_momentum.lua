-- Table 20 of DualOptim: does a larger momentum replace a second optimizer?
--
-- One optimizer for both objectives (SGD, Adam) with momentum from 0.9 up, compared with DualOptim:
-- Adam to forget and SGD to retain, as in the paper. The learning rate of SGD keeps lr / (1 - momentum)
-- constant. The paper's figures are gaps and deviations on CIFAR-10, where smaller is better. Ours are
-- OVR and its deviation. About three minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params { sgd_lr = { 0.01, "learning rate of SGD at momentum 0.9" } })
local run <close> = dopl.run.open {}

local function adam(beta1)
  local o = {}
  for key, value in pairs(p.adamw) do o[key] = value end
  o.betas = { beta1, p.adamw.betas[2] }
  return optim.adamw(o)
end
local function sgd(momentum)
  return optim.sgd { lr = p.sgd_lr * (1 - momentum) / 0.1, momentum = momentum }
end

local variants = {}
for _, momentum in ipairs { 0.9, 0.95, 0.99 } do
  variants[#variants + 1] = { label = ("SGD %g"):format(momentum), optimizer = sgd(momentum) }
end
for _, beta1 in ipairs { 0.9, 0.99, 0.999 } do
  variants[#variants + 1] = { label = ("Adam %g"):format(beta1), optimizer = adam(beta1) }
end
for _, v in ipairs(variants) do v.optimizer = v.optimizer:with(scheme.shared {}) end
variants[#variants + 1] = { label = "DO",
  optimizer = adam(0.9):with(scheme.decoupled { rules = { retain = sgd(0.9) } }) }

local found = study.run(p, run, variants)
study.report(run, p, {
  found:part { title = "One large momentum, or two optimizers",
    paper = "dualoptim_table20", only = found:gap_columns(), order = found:gap_order() },
}, {
  title = "A larger momentum or two optimizers (DualOptim, Table 20)",
  shows = closing.big_momentum(found:percent "SGD 0.9", found:percent "SGD 0.99",
    found:percent "Adam 0.9", found:percent "Adam 0.999", found:percent "DO"),
})
