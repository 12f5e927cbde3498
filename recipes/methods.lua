-- Table 1 of DualOptim+, IDK + GD: which method unlearns best, over five forget sets?
--
-- Six methods, each with the learning rate and eps that the same search found for it on other forget
-- sets (docs/bench.md). Mean OVR with its 95% interval over forget sets, and the paired differences to
-- Joint and to Alternate, because with five sets only pairs show differences. In the paper (Phi 1.5)
-- DO+ is first and Joint far behind. --loss dpo, me or npo chooses another forget loss. About four
-- minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"

local declared = study.params {
  tasks = { 5, "disjoint forget sets: task 1 to this one" },
  loss = { "idk", "forget loss: idk, dpo, me, npo" },
  lr_factor = { 1.0, "multiplies every method's learning rate" },
}
declared.adamw = nil -- each method has separate settings
local p = dopl.params(declared)
local run <close> = dopl.run.open {}

local papers = { idk = "table1", me = "table1_me", dpo = "table12_dpo", npo = "table12_npo" }
local compared = study.run(p, run, methods.tuned(p.loss, { lr_factor = p.lr_factor }))
local best = compared:best()

study.report(run, p, {
  compared:part { title = p.loss:upper() .. " + GD", paper = papers[p.loss] },
  compared:paired("Differences in OVR", { "Joint", "Alternate" }),
}, {
  title = "Methods over forget sets (Table 1)",
  shows = closing.methods(best.label, 100 * best[compared.keys.OVR].mean),
})
