-- Table 5 of DualOptim+: when should the base state be updated?
--
-- before_delta: ahead of the delta, which then sees the new base; after_delta: between delta and
-- parameters; after_theta: last, the default. Mean and deviation over disjoint forget sets. The paper
-- (Phi 1.5, forget05) finds after_theta best by 0.6 points of OVR, less than the spread here.
-- About two minutes on two cores.

local dopl = require "dopl"
local tofu = require "dopl.bench.tofu"
local settings = require "dopl.bench.settings"
local summary = require "dopl.bench.summary"

local p = dopl.params(tofu.params {
  steps = { settings.unlearn.steps, "unlearning steps, both objectives counted" },
  tasks = { 3, "disjoint forget sets: task 1 to this one" },
  adamw = settings.unlearn.adamw,
})
local run <close> = dopl.run.open { params = p }

local timings = { "before_delta", "after_delta", "after_theta" }
local results, bench = {}, nil
for task = 1, p.tasks do
  p.task = task
  bench = tofu.open(p, { run = run })
  for _, timing in ipairs(timings) do
    local row = bench:compare {
      label = ("%s, task %d"):format(timing, task), steps = p.steps,
      forget = loss.idk(), retain = loss.gd(),
      optimizer = optim.adamw(p.adamw):with(scheme.base_delta { timing = timing }),
      schedule = schedule.alternate { forget = 1, retain = 5 },
    }
    row.label = timing
    results[#results + 1] = row
  end
end

bench:report(summary.over(results), {
  title = "When the base state is updated (Table 5)",
  lead = ("Mean ± standard deviation over %d forget sets."):format(p.tasks),
  paper = "table5",
})
