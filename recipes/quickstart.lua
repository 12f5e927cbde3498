-- Which optimizer lets a model say "I don't know" about two authors and forget nothing else?
--
-- Trains a small model until it knows a set of authors by heart (or takes it from the cache), and one
-- that never saw the authors to be forgotten; then unlearns with IDK + GD under five optimizers.
-- Expect every method to refuse on the forget set; they differ in what is left of the rest (MU).
-- About two minutes on two cores; the second time half of it.

local dopl = require "dopl"
local tofu = require "dopl.bench.tofu"
local methods = require "dopl.bench.methods"
local settings = require "dopl.bench.settings"

local p = dopl.params(tofu.params {
  steps = { 480, "unlearning steps, both objectives counted: long enough for whole sentences" },
  adamw = settings.unlearn.adamw,
})
local compared = methods.list {
  optimizer = optim.adamw(p.adamw),
  names = { "Joint", "Alternate", "DO", "DO+", "DO+ 8-bit" },
}
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
    forget = loss.idk(), retain = loss.gd(), steps = p.steps,
  }
end

bench:report(rows, {
  title = "Unlearning with IDK + GD",
  lead = ("%d of %d rows are to be forgotten; every method starts from the same model and takes "
    .. "%d steps."):format(#bench.forget, #bench.forget + #bench.retain, p.steps),
  questions = { forget = 2, retain = 1 },
})
