-- Which learning rate, eps and forget weight suit each method? The search of docs/bench.md.
--
-- Every method gets the same budget, on forget sets that no recipe reports. With IDK it is a grid of
-- learning rate and eps on one forget set. The best two points then run on two more sets, and the best
-- mean OVR wins. With the other losses it is a grid of forget weight and learning rate (IDK's and half
-- of it) on the first set, at the eps found with IDK. An 8-bit method takes the settings of its f32
-- counterpart. The choice printed at the end is `methods` of lua/dopl/experiments/settings.lua, and the
-- tables are those of docs/bench.md. About a quarter of an hour on two cores. --resume resumes a
-- stopped search, and --losses idk computes only the first table.

local dopl = require "dopl"
local tofu = require "dopl.experiments.tofu"
local methods = require "dopl.experiments.methods"
local settings = require "dopl.experiments.settings"

local declared = tofu.params {
  steps = settings.unlearn.steps,
  losses = { "idk", "dpo", "me", "npo" },
  methods = methods.names,
  sets = settings.tuning.sets, -- forget sets: every grid on the first, IDK's best points on all
  keep = { 2, "points of each method that are tried on the other sets" },
  lr = { 2.5e-4, 5e-4, 1e-3, 2e-3 },
  eps = { 1e-8, 1e-5, 1e-4 },
  factors = { 0.5, 1.0 },
  weights = { 0.1, 1.0 },
}
declared.task, declared.checkpoint = nil, nil -- many forget sets; a training run is repeated as a whole
local p = dopl.params(declared)
local run <close> = dopl.run.open {}

local benches = {} -- by forget set; one start for all of them, without weights kept in the run
local function bench_of(task)
  if not benches[task] then
    local own = {}
    for name, value in pairs(p) do own[name] = value end
    own.task, own.checkpoint = task, 0
    benches[task] = tofu.open(own)
  end
  return benches[task]
end

-- The points of a grid. IDK: learning rate and eps; another loss: weights, and factors of IDK's rate.
local function grid(start)
  local points = {}
  for _, lr in ipairs(start and {} or p.lr) do
    for _, eps in ipairs(p.eps) do points[#points + 1] = { lr = lr, eps = eps, weight = 1.0 } end
  end
  for _, factor in ipairs(start and p.factors or {}) do
    for _, weight in ipairs(p.weights) do
      points[#points + 1] = { lr = factor * start.lr, eps = start.eps, weight = weight,
        factor = factor }
    end
  end
  return points
end

local function name_of(point)
  return ("lr %.1e eps %.0e weight %g"):format(point.lr, point.eps, point.weight)
end

-- OVR in percent of a method at a point on one forget set.
local function try(loss_name, method, point, task)
  local label = ("%s, %s, task %d, %s"):format(loss_name, method, task, name_of(point))
  return run:once(label, function()
    local b = settings.unlearn.adamw
    local m = methods.list { names = { method }, optimizer = optim.adamw { lr = point.lr,
      eps = point.eps, betas = b.betas, weight_decay = b.weight_decay } }[1]
    local bench = bench_of(task)
    local keys = bench.keys
    local row = bench:compare { label = label, optimizer = m.optimizer,
      schedule = m.schedule, forget = loss[loss_name](), retain = loss.gd(), steps = p.steps,
      forget_weight = point.weight }
    print(("%-78s %5.1f  UFE %5.1f  MU %5.1f"):format(label, 100 * row[keys.OVR],
      100 * row[keys.UFE], 100 * row[keys.MU]))
    return { ovr = 100 * row[keys.OVR] }
  end).ovr
end

-- Best first, NaN last; the order of the grid where two are alike.
local function sort(points, figure)
  local function value(point)
    local x = point[figure]
    return x == x and x or -math.huge
  end
  for i, point in ipairs(points) do point.place = i end
  table.sort(points, function(a, b)
    if value(a) ~= value(b) then return value(a) > value(b) end
    return a.place < b.place
  end)
end

-- The search for one method and loss: the best point, and all of them in the grid's order. `start` is
-- what IDK's found for the method.
local function search(loss_name, method, start)
  local points, sets = grid(start), start and { p.sets[1] } or p.sets
  local all = table.move(points, 1, #points, 1, {})
  for _, point in ipairs(points) do point.first = try(loss_name, method, point, sets[1]) end
  sort(points, "first")
  local kept = table.move(points, 1, math.min(p.keep, #points), 1, {})
  for _, point in ipairs(kept) do
    local list = { point.first }
    for i = 2, #sets do list[i] = try(loss_name, method, point, sets[i]) end
    point.mean = metrics.mean(list)
  end
  sort(kept, "mean")
  return kept[1], all
end

-- A table of docs/bench.md: points by methods; in brackets the mean over all sets, in bold the choice.
local function show(loss_name, found)
  local idk, names = loss_name == "idk", {}
  for k, f in ipairs(found) do names[k] = f.method end
  print(("\n| %s + GD: %s | %s |\n|%s"):format(loss_name:upper(), idk and "lr, eps"
    or "lr, weight", table.concat(names, " | "), (" --- |"):rep(#found + 1)))
  for i, point in ipairs(found[1].all) do
    local cells = {}
    for k, f in ipairs(found) do
      local q = f.all[i]
      local mark = q == f.best and "**" or ""
      cells[k] = ("%s%.1f%s%s"):format(mark, q.first, idk and q.mean and (" (%.1f)"):format(q.mean)
        or "", mark)
    end
    print(("| %s | %s |"):format(idk and ("%g, %g"):format(point.lr, point.eps)
      or ("x %g, %g"):format(point.factor, point.weight), table.concat(cells, " | ")))
  end
end

local of_idk, chosen = {}, {}
for _, loss_name in ipairs(p.losses) do
  local found, lines, by_name = {}, {}, {}
  for k, method in ipairs(p.methods) do
    local idk = loss_name == "idk"
    local best = not idk and by_name[(method:gsub(" 8%-bit$", ""))]
    if not best then
      local all
      best, all = search(loss_name, method,
        not idk and (of_idk[method] or settings.methods.idk[method]) or nil)
      found[#found + 1] = { best = best, all = all, method = method }
    end
    by_name[method] = best
    if idk then of_idk[method] = best end
    lines[k] = ("      [%q] = { lr = %g, eps = %g, weight = %g },"):format(method, best.lr, best.eps,
      best.weight)
  end
  show(loss_name, found)
  chosen[#chosen + 1] = ("    %s = {\n%s\n    },"):format(loss_name, table.concat(lines, "\n"))
end
print("\n  methods = {\n" .. table.concat(chosen, "\n") .. "\n  },")
