-- Tables 1 and 12 of DualOptim+: six methods under four losses.
--
-- IDK + GD and DPO + GD aim at refusals, ME + GD and NPO + GD only away from the answers; OVR weighs
-- TFE in for the first two. One table a loss, with the paper's figures for Phi 1.5. Weights and
-- learning rates by loss are those of the search in docs/bench.md, the same for every method.
-- About eight minutes on two cores; with --losses idk --tasks 5 the main result over five forget sets.

local dopl = require "dopl"
local methods = require "dopl.bench.methods"
local settings = require "dopl.bench.settings"
local study = require "dopl.bench.study"

local p = dopl.params(study.params {
  tasks = { 2, "disjoint forget sets: task 1 to this one" },
  losses = { "idk", "me", "dpo", "npo" },
})
local run <close> = dopl.run.open {}

local papers = { idk = "table1", me = "table1_me", dpo = "table12_dpo", npo = "table12_npo" }
local parts = {}
for i, name in ipairs(p.losses) do
  local tuned, variants = settings.losses[name], {}
  local adamw = {}
  for key, value in pairs(p.adamw) do adamw[key] = value end
  adamw.lr = adamw.lr * tuned.lr_factor
  for k, m in ipairs(methods.list { optimizer = optim.adamw(adamw) }) do
    variants[k] = { label = m.label, optimizer = m.optimizer, schedule = m.schedule,
      forget = loss[name](), forget_weight = tuned.weight }
  end
  parts[i] = study.run(p, run, variants, { prefix = name .. ", " }):part {
    title = name:upper() .. " + GD", paper = papers[name],
  }
end

study.report(run, p, parts, {
  title = "Methods by loss (Tables 1 and 12)",
  shows = "What this shows: whether the methods keep their order from loss to loss.",
})
