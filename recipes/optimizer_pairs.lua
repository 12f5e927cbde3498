-- Table 6 of DualOptim: which rule should forget (F), and which should retain (R)?
--
-- One optimizer for both objectives, or a separate rule for each: SGD, Adam, Lion, Muon (whose other
-- parameters follow AdamW). The paper's figures are gaps to the retrained model and deviations on
-- CIFAR-10, where smaller is better. Ours are OVR and its deviation. In the paper Adam to forget and
-- SGD to retain is best. About five minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  sgd = { lr = 0.01, momentum = 0.9 },
  lion = { lr = 3e-4, betas = { 0.9, 0.95 }, weight_decay = 0.01 },
  muon = { lr = 5e-3, momentum = 0.95, weight_decay = 0.01 },
})
local run <close> = dopl.run.open {}

local rules = { SGD = optim.sgd(p.sgd), Adam = optim.adamw(p.adamw), Lion = optim.lion(p.lion),
  Muon = optim.muon { lr = p.muon.lr, momentum = p.muon.momentum,
    weight_decay = p.muon.weight_decay, otherwise = optim.adamw(p.adamw) } }
local variants = {}
for _, name in ipairs { "SGD", "Adam" } do
  variants[#variants + 1] = { label = "Single " .. name,
    optimizer = rules[name]:with(scheme.shared {}) }
end
for _, pair in ipairs {
  { "SGD", "SGD" }, { "SGD", "Adam" }, { "Adam", "Adam" }, { "Adam", "SGD" },
  { "SGD", "Lion" }, { "Lion", "Lion" }, { "Lion", "SGD" },
  { "SGD", "Muon" }, { "Muon", "Muon" }, { "Muon", "SGD" },
} do
  local forget, retain = pair[1], pair[2]
  variants[#variants + 1] = { label = ("%s (F) + %s (R)"):format(forget, retain),
    optimizer = rules[forget]:with(scheme.decoupled { rules = { retain = rules[retain] } }) }
end

local found = study.run(p, run, variants)
local best = found:best()
study.report(run, p, {
  found:part { title = "A rule for each objective",
    paper = "dualoptim_table6", only = found:gap_columns(), order = found:gap_order() },
}, {
  title = "Pairs of optimizers (DualOptim, Table 6)",
  shows = closing.optimizer_pairs(best.label, found:percent(best.label),
    found:percent "Adam (F) + SGD (R)"),
})
