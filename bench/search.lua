-- Which learning rate, eps and forget weight does the small setting take? The grids of docs/bench.md.
--
-- Every method gets the same grid, the same steps and the same forget set; one row a point. The
-- choice goes into lua/dopl/bench/settings.lua. About ten minutes on two cores; with --loss npo
-- --lr 5e-4,1e-3 --eps 1e-5 --weights 0.1,1.0 the grid of another loss.

local dopl = require "dopl"
local tofu = require "dopl.bench.tofu"
local methods = require "dopl.bench.methods"
local settings = require "dopl.bench.settings"

local p = dopl.params(tofu.params {
  steps = settings.unlearn.steps,
  loss = { "idk", "the forget loss" },
  lr = { 5e-4, 1e-3, 2e-3 },
  eps = { 1e-8, 1e-5 },
  weights = { 1.0 },
  methods = methods.names,
})
local bench = tofu.open(p)
local keys = metrics.keys

local function try(lr, eps, weight)
  local sum = 0
  for _, method in ipairs(methods.list {
    optimizer = optim.adamw { lr = lr, betas = { 0.9, 0.95 }, eps = eps, weight_decay = 0.01 },
    names = p.methods,
  }) do
    local row = bench:compare { label = method.label, optimizer = method.optimizer,
      schedule = method.schedule, forget = loss[p.loss](), retain = loss.gd(), steps = p.steps,
      forget_weight = weight }
    print(("%s %-10s lr %.0e eps %.0e weight %g  %s %.1f  %s %.1f  %s %.1f  "
      .. "refuses: forget %3.0f retain %3.0f"):format(p.loss, method.label, lr, eps, weight, keys.UFE,
        100 * row[keys.UFE], keys.MU, 100 * row[keys.MU], keys.OVR, 100 * row[keys.OVR],
        100 * row.forget_refused, 100 * row.retain_refused))
    sum = sum + row[keys.OVR]
  end
  print(("%s lr %.0e eps %.0e weight %g  mean %s %.1f"):format(p.loss, lr, eps, weight, keys.OVR,
    100 * sum / #p.methods))
end

for _, eps in ipairs(p.eps) do
  for _, lr in ipairs(p.lr) do
    for _, weight in ipairs(p.weights) do try(lr, eps, weight) end
  end
end
