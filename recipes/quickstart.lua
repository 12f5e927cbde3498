-- Which optimizer lets a model say "I don't know" about two authors and forget nothing else?
--
-- The recipe trains a small model until it knows a set of authors by heart (or takes it from the
-- cache), and a second model that never saw the authors to forget. Then it unlearns with IDK + GD under
-- five optimizers, each with the learning rate and eps that the same search found for it on other
-- forget sets (docs/bench.md). Expect every method to refuse on the forget set, and no winner: at their
-- best rates the methods lie about a point of OVR apart. Over a range of rates they differ more
-- (recipes/learning_rates.lua). About two minutes on two cores, half of that the second time.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local tofu = require "dopl.experiments.tofu"
local methods = require "dopl.experiments.methods"

local p = dopl.params(tofu.params {
  steps = { 480, "unlearning steps, both objectives counted: long enough for whole sentences" },
  lr_factor = { 1.0, "multiplies every method's learning rate" },
})
local compared = methods.tuned("idk", { lr_factor = p.lr_factor,
  names = { "Joint", "Alternate", "DO", "DO+", "DO+ 8-bit" } })
local run <close> = dopl.run.open { params = p }
local bench = tofu.open(p, { run = run })

local rows = {
  bench:evaluate(bench:original(), "original"),
  bench:evaluate(bench:retrained(), "retrained"),
}
for _, row in ipairs(rows) do row.reference = true end
for _, method in ipairs(compared) do
  rows[#rows + 1] = bench:compare {
    label = method.label, optimizer = method.optimizer, schedule = method.schedule,
    forget = method.forget, retain = loss.gd(), steps = p.steps,
  }
end

bench:report(rows, {
  title = "Unlearning with IDK + GD",
  lead = ("%d of %d rows are to be forgotten; every method starts from the same model and takes "
    .. "%d steps."):format(#bench.forget, #bench.forget + #bench.retain, p.steps),
  questions = { forget = 2, retain = 1 },
  notes = { closing.quickstart() },
})
