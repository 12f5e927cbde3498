-- Which learning rate and eps does the small setting take? The grid of docs/bench.md.
--
-- Every method gets the same grid, the same steps and the same forget set; one row a point. The
-- choice goes into lua/dopl/bench/settings.lua. About ten minutes on two cores.

local dopl = require "dopl"
local tofu = require "dopl.bench.tofu"
local methods = require "dopl.bench.methods"
local settings = require "dopl.bench.settings"

local p = dopl.params(tofu.params {
  steps = settings.unlearn.steps,
  lr = { 5e-4, 1e-3, 2e-3 },
  eps = { 1e-8, 1e-5 },
})
local bench = tofu.open(p)
local keys = metrics.keys

for _, eps in ipairs(p.eps) do
  for _, lr in ipairs(p.lr) do
    for _, method in ipairs(methods.list {
      optimizer = optim.adamw { lr = lr, betas = { 0.9, 0.95 }, eps = eps, weight_decay = 0.01 },
    }) do
      local row = bench:compare { label = method.label, optimizer = method.optimizer,
        schedule = method.schedule, forget = loss.idk(), retain = loss.gd(), steps = p.steps }
      print(("%-10s lr %.0e eps %.0e  %s %.1f  %s %.1f  %s %.1f  refuses: forget %3.0f retain %3.0f")
        :format(method.label, lr, eps, keys.UFE, 100 * row[keys.UFE], keys.MU, 100 * row[keys.MU],
          keys.OVR, 100 * row[keys.OVR], 100 * row.forget_refused, 100 * row.retain_refused))
    end
  end
end
