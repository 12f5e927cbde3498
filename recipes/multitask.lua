-- Table 4 of DualOptim+: do a base and deltas help if tasks do not oppose each other?
--
-- Three small tasks: completing a line of code, choosing one of three, adding two numbers. A model that
-- was trained on them for a while is fine-tuned with one base and three deltas, one task per step. A
-- joint step has the batches of all three, so Joint takes a third of the steps and every method sees
-- the same number of rows. Accuracy is on unseen questions. The paper fine-tunes Llama 2 on Py150,
-- ScienceQA and NumGLUE, and DO+ 8-bit is best by two points. About four minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local multitask = require "dopl.experiments.multitask"
local study = require "dopl.experiments.study"

local p = dopl.params {
  start = { 150, "joint steps that train the model to fine-tune", least = 0 },
  steps = { 900, "steps of fine-tuning, one task per step; Joint takes a third", least = 0 },
  seeds = { 3, "orders of the data", least = 1 },
  train = { 320, "training rows of each task", least = 1 },
  test = { 60, "test rows of each task", least = 1 },
  adamw = { lr = 5e-4, betas = { 0.9, 0.95 }, eps = 1e-5, weight_decay = 0.01 },
}
local run <close> = dopl.run.open {}
local bench = multitask.open { run = run, train = p.train, test = p.test,
  start = p.start }

local compared, results = methods.list {
  optimizer = optim.adamw(p.adamw), names = { "Joint", "Alternate", "DO 8-bit", "DO+", "DO+ 8-bit" },
  alternate = schedule.alternate { code = 1, choice = 1, sums = 1 },
}, {}
for seed = 1, p.seeds do
  local before = bench:compare { label = ("start, seed %d"):format(seed), steps = 0 }
  before.label = "start"
  results[#results + 1] = before
  for _, method in ipairs(compared) do
    local row = bench:compare { label = ("%s, seed %d"):format(method.label, seed), seed = seed,
      optimizer = method.optimizer, schedule = method.schedule,
      steps = method.label == "Joint" and p.steps // 3 or p.steps }
    row.label = method.label
    results[#results + 1] = row
  end
end

local found = study.of(p, results, { repetitions = p.seeds, parameters = results[1].parameters })
found.rows[1].reference = true
local columns = {}
for i, c in ipairs { { "code", "Py150" }, { "choice", "ScienceQA" }, { "sums", "NumGLUE" },
  { "average", "AVG" } } do
  columns[i] = { key = c[1], scale = 100, digits = 1, better = "higher", paper = c[2] }
end
study.report(run, p, { found:part { title = "Accuracy by task", paper = "table4", only = columns,
  order = { { key = "average", paper = "AVG" } },
  chart = report.bars(found.rows, { columns = { "code", "choice", "sums" }, title = "Accuracy" }) } }, {
  title = "Three tasks, one base, three deltas (Table 4)", note = "Percent of exact answers.",
  lead = ("Mean ± standard deviation over %d seeds."):format(p.seeds),
  shows = closing.multitask(found:percent("DO+", "average"), found:percent("DO 8-bit", "average"),
    found:percent("Alternate", "average"), found:percent("Joint", "average")),
  model = "learns tasks that a large one already knows",
})
