-- Theorem 3.5 of DualOptim: do parameters vary less between seeds with decoupled momenta?
--
-- The theorem bounds the variance of the parameters by a smaller number if each objective has a
-- separate momentum than if they share one. This recipe measures the standard deviation of a parameter
-- over seeds, for the momentum of SGD, as in the theorem, and for AdamW, also relative to the distance
-- that the parameters moved. The paper prints no figures for it. About four minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local spread = require "dopl.experiments.spread"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  tasks = { 2, "disjoint forget sets: task 1 to this one" },
  seeds = { 5, "seeds to vary over: order of the data, choice of refusals", least = 2 },
  sgd = { lr = 0.01, momentum = 0.9 },
})
local run <close> = dopl.run.open {}

local rules = { { "SGD", optim.sgd(p.sgd) }, { "AdamW", optim.adamw(p.adamw) } }
local schemes = { { "shared", scheme.shared {} }, { "decoupled", scheme.decoupled {} } }
local variants, ends = {}, {}
local start = {} -- the weights before unlearning
for _, rule in ipairs(rules) do
  for _, s in ipairs(schemes) do
    variants[#variants + 1] = { label = ("%s, %s"):format(rule[1], s[1]), evaluate = false,
      optimizer = rule[2]:with(s[2]) }
    ends[variants[#variants].label] = {}
  end
end
local compared = study.run(p, run, variants, { after = function(bench, v)
  start = bench.start
  local by_task = ends[v.label]
  by_task[bench.p.task] = by_task[bench.p.task] or {}
  table.insert(by_task[bench.p.task], bench.model.parameters:snapshot())
end })

local fewer, n = 0, 0
for i, row in ipairs(compared.rows) do
  local deviations, shares = {}, {}
  for task, snapshots in ipairs(ends[row.label]) do
    deviations[task] = spread.of(snapshots)
    shares[task] = deviations[task] / spread.moved(snapshots, start)
  end
  row.list, row.spread, row.share = deviations, metrics.spread(deviations), metrics.spread(shares)
  for task, x in ipairs(i % 2 == 0 and deviations or {}) do
    n, fewer = n + 1, fewer + (x < compared.rows[i - 1].list[task] and 1 or 0)
  end
end
study.report(run, p, { compared:part { title = "Deviation of a parameter over seeds", only = {
  { key = "spread", label = "deviation", digits = 3, scale = 1e3, better = "lower" },
  { key = "share", label = "over distance moved", digits = 3, better = "lower" },
}, chart = report.bars(compared.rows, { columns = { "share" }, title = "Deviation over distance" }),
} }, {
  title = "Spread over seeds (DualOptim, Theorem 3.5)",
  shows = closing.variance(fewer, n),
  note = "Deviation in thousandths, over the seeds; ± is over the forget sets.",
})
