-- Table 11 of DualOptim+: what does a method cost in time and memory?
--
-- Every method takes the same steps with nothing evaluated and nothing saved, in turn, several times.
-- A joint step has the batches of both objectives, an alternating one a single batch. Small tensors and
-- embeddings stay f32 in 8-bit methods, as they do in large models, where they are a smaller share.
-- About two minutes on two cores.

local dopl = require "dopl"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  tasks = { 1, "disjoint forget sets: task 1 to this one" },
  seeds = { 3, "how often each method is timed" },
  checkpoint = { 0, "steps between checkpoints of a training; 0: none" },
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
  note = "Bytes are counted; the paper's GB hold activations and logits as well. Other work on the "
    .. "machine only adds time, so the fastest of the timings is compared.",
  shows = ("What this shows: DO+ takes %.2f times the time of Alternate, and in 8 bits %.2f bytes of "
    .. "state a parameter in place of %.2f."):format(
      compared.rows[5].fastest / compared.rows[2].fastest,
      compared.rows[6].bytes_per_parameter, compared.rows[5].bytes_per_parameter),
  model = "is small, and what takes its time is not what takes a large one's",
})
