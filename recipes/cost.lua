-- Table 11 of DualOptim+: what does each method cost in time and memory?
--
-- Every method takes the same steps, in turn and several times, without evaluation or checkpoints. A
-- joint step has the batches of both objectives, an alternating step only one. Small tensors and
-- embeddings stay f32 in 8-bit methods. In large models they are a smaller share of the parameters.
-- About two minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  tasks = { 1, "disjoint forget sets: task 1 to this one" },
  seeds = { 3, "how often each method is timed" },
  checkpoint = { 0, "steps between checkpoints; 0: no checkpoints" },
})
local run <close> = dopl.run.open {}

local variants = {}
for i, m in ipairs(methods.list { optimizer = optim.adamw(p.adamw) }) do
  variants[i] = { label = m.label, optimizer = m.optimizer, schedule = m.schedule, evaluate = false }
end
local compared = study.run(p, run, variants, { after = function(bench, _, row)
  row.memory = row.state_bytes + 8 * bench.model.parameters:numel() -- f32 weights and gradients
end })
for _, row in ipairs(compared.rows) do
  row.memory = row.memory.mean
  row.fastest = math.min(table.unpack(compared:values(row.label, "seconds")))
end

study.report(run, p, { compared:part {
  title = ("Cost of %d steps"):format(p.steps), paper = "table11",
  only = {
    { key = "memory", label = "MB: weights, gradients, state", scale = 1e-6, digits = 1,
      better = "lower", paper = "GB" },
    { key = "bytes_per_parameter", label = "state, bytes/parameter", digits = 2, better = "lower" },
    { key = "seconds", digits = 2, paper = "" },
    { key = "fastest", digits = 2, better = "lower", paper = "seconds" },
  },
  order = {
    { key = "memory", paper = "GB", less = true, lower = true },
    { key = "fastest", paper = "seconds", less = true, lower = true },
  },
  chart = report.bars(compared.rows, { columns = { "fastest" }, title = "Seconds by method" }),
} }, {
  title = "What a method costs (Table 11)",
  lead = ("Mean ± standard deviation over %d timings."):format(p.tasks * p.seeds),
  note = "Bytes are counted. The paper's GB also include activations and logits. Other work on the "
    .. "machine only adds time, so the table compares the fastest timings.",
  shows = closing.cost(compared.rows[5].fastest / compared.rows[2].fastest,
    compared.rows[6].bytes_per_parameter, compared.rows[5].bytes_per_parameter),
  model = "spends its time in other places than a large one",
})
