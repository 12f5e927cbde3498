-- How close does each optimizer pass come to the speed of memory, and what limits the others? Goal:
-- 0.85. It runs every rule under every scheme in every storage, the pass at the end of a period, and
-- Muon's matrix step compared with plain products. docs/performance.md explains the tables that it
-- prints. Cost: 1 minute and 0.6 GB at the default size.
--
--   build/dopl --trust --threads 2 bench/optimizer.lua [--rules adamw --schemes base_delta,shared]
local compile = require "dopl.optim.compile"
local core = require "dopl.core"
local dopl = require "dopl"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local traffic = require "traffic"

local p = dopl.params {
  millions = { 8.0, "parameters: several times what the caches hold" },
  rounds = { 9, "times that a pass and the memory's own loop take turns" },
  goal = { 0.85, "share of the loop's speed" },
  rules = { "sgd", "nesterov", "adam", "adamw", "lion", "muon" },
  schemes = { "shared", "decoupled", "base_delta", "scaffold", "fedcm", "local_adam" },
  storages = { "f32", "bf16", "8bit" }, -- of states, parameters in f32
  weights = { "master", "stochastic", "nearest" }, -- of parameters in bf16, states too
}
local COLUMNS <const> = 1024
local rows = math.floor(p.millions * 1e6) // COLUMNS
local n = rows * COLUMNS

local grad = core.randn(1, 2, 0.02, rows, COLUMNS)
local weights = { f32 = core.randn(1, 1, 0.02, rows, COLUMNS) }
weights.bf16 = core.optim.encode(weights.f32, "bf16")
for _, w in pairs(weights) do
  w:requires_grad(true)
  w:set_grad(grad)
end

-- ---- passes

local hyper = {
  sgd = { lr = 1e-5, momentum = 0.9, weight_decay = 0.01 },
  adam = { lr = 1e-5, betas = { 0.9, 0.95 }, weight_decay = 0.01 }, lion = { lr = 1e-5 },
}
hyper.nesterov, hyper.muon, hyper.adamw = hyper.sgd, hyper.sgd, hyper.adam

-- The passes of a configuration: name, plan, numbers of a step, compiled listing.
local function passes_of(rule, kind, storage, how)
  local config = optim[rule](hyper[rule]):with(scheme[kind] { storage = storage, weights = how })
  local o = config:attach({ { name = "w", tensor = how and weights.bf16 or weights.f32 } },
    { objectives = { "forget", "retain" }, period = 1 << 40 })
  o:set_counters { step = 20, objectives = { forget = 10, retain = 10 } }
  local out = {}
  local function add(name, layout, traced, set)
    local _, compiled = next(traced.compiled) -- one parameter: one variant
    local _, numbers = next(o:environment(layout, "forget", { lr_scale = 1 }, 20, 10, 1.0))
    out[#out + 1] = {
      name = name, set = set, listing = compiled.listing,
      scalars = { compile.evaluate(compiled.listing.scalars, numbers) },
    }
  end
  local plan = o.shared_plan or o.plans.forget
  local item, cx = plan.matrices[1], plan.traced[1]
  local label = ("%s, %s"):format(rule, kind == "shared" and "joint and shared" or kind)
  add(label, plan, cx, item and item.moments or plan.whole)
  if item and kind == "shared" then -- the pass after a transform: the same under every scheme
    add(rule .. ", update", plan, cx.update, item.update)
  end
  if o.ending and not how then
    add(label .. ", period's end", o.ending, o.ending.traced[1], o.ending.whole)
  end
  return out
end

-- ---- the clock

local spare = { f32 = {}, bf16 = {}, q8 = {} }

-- One pass of the memory's own loop over tensors of these kinds.
local function memory_loop(kinds, how)
  local list, taken = {}, { f32 = 0, bf16 = 0, q8 = 0 }
  for i, kind in ipairs(kinds) do
    taken[kind] = taken[kind] + 1
    local pool = spare[kind]
    pool[taken[kind]] = pool[taken[kind]] or (core.optim.state(n, kind))
    list[i] = pool[taken[kind]]
  end
  return function() core.optim.roofline(list, how) end
end

local function seconds(f)
  local start = core.clock()
  f()
  return core.clock() - start
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- Medians of the times of functions that take turns, after one round that does not count.
local function in_turn(...)
  local times = {}
  for round = 0, p.rounds do
    for i, f in ipairs { ... } do
      times[i] = times[i] or {}
      local t = seconds(f)
      if round > 0 then times[i][round] = t end
    end
  end
  for i, list in ipairs(times) do times[i] = median(list) end
  return table.unpack(times)
end

-- Nanoseconds an element, were all threads at work, when nothing leaves the caches. One thread is
-- measured: the fastest of many short runs, for whatever else goes on only adds.
local function arithmetic(pass)
  local least = math.huge
  for _ = 1, 100 do
    local start = core.clock()
    local elements = pass.set.plan:rerun(pass.scalars, 60)
    least = math.min(least, (core.clock() - start) / elements)
  end
  return least * 1e9 / core.threads()
end

local function measure(pass)
  local bytes, kinds, how = traffic(pass.listing)
  local turn = 0
  local function run()
    turn = turn + 1
    pass.set.plan:run(pass.scalars, 0, turn)
  end
  local time, loop = in_turn(run, memory_loop(kinds, how))
  local r = { bytes = bytes, time = time, rate = bytes * n / time / 1e9, share = loop / time }
  if r.share < p.goal then
    r.alone = arithmetic(pass)
    r.bound = loop * 1e9 / n / r.alone
    r.apart = 1 / (1 + 1 / r.bound)
  end
  return r
end

-- ---- the tables

print(("%.0f million parameters, %d threads, %s; medians of %d rounds\n"):format(n / 1e6,
  core.threads(), core.optim.isa(), p.rounds))
local columns = {}
for _, storage in ipairs(p.storages) do columns[#columns + 1] = { storage, storage } end
for _, how in ipairs(p.weights) do columns[#columns + 1] = { "weights " .. how, "bf16", how } end

local function cells(list)
  print("| " .. table.concat(list, " | ") .. " |")
end

local head, rule_line = { "pass" }, { "---" }
for i, c in ipairs(columns) do head[i + 1], rule_line[i + 1] = c[1], "---" end
cells(head)
cells(rule_line)
local below, times = {}, {}
for _, rule in ipairs(p.rules) do
  for _, kind in ipairs(p.schemes) do
    local names, line = {}, {}
    for i, c in ipairs(columns) do
      for _, pass in ipairs(passes_of(rule, kind, c[2], c[3])) do
        local r = measure(pass)
        if not line[pass.name] then
          names[#names + 1], line[pass.name] = pass.name, {}
          for j = 1, #columns do line[pass.name][j] = "" end
        end
        line[pass.name][i] = ("%.2f (%.0f GB/s)"):format(r.share, r.rate)
        if c[1] == "f32" then times[pass.name] = r.time end
        if c[1] == "8bit" and times[pass.name] then
          line[pass.name][i] = ("%s, %.2f"):format(line[pass.name][i], r.time / times[pass.name])
        end
        if r.alone then below[#below + 1] = { pass.name, c[1], r } end
      end
      collectgarbage()
      collectgarbage()
    end
    for _, name in ipairs(names) do cells { name, table.unpack(line[name]) } end
  end
end

if #below > 0 then
  print(("\nBelow %.2f:\n"):format(p.goal))
  cells { "pass", "storage", "bytes", "share", "arithmetic alone, ns", "its GB/s", "its share",
    "one after the other" }
  cells { "---", "---", "---", "---", "---", "---", "---", "---" }
  for _, b in ipairs(below) do
    local r = b[3]
    cells { b[1], b[2], ("%.2f"):format(r.bytes), ("%.2f"):format(r.share),
      ("%.3f"):format(r.alone), ("%.0f"):format(r.bytes / r.alone), ("%.2f"):format(r.bound),
      ("%.2f"):format(r.apart) }
  end
end

-- ---- Muon's matrix step

local function newton_schulz(height, width)
  local steps = 5
  local transform = optim.newton_schulz { steps = steps }
  local m = core.randn(1, 3, 0.02, height, width)
  local _ <close> = core.no_grad()
  local step, product = in_turn(function()
    local scope <close> = core.scope()
    transform(m)
  end, function()
    local scope <close> = core.scope()
    core.ops.linear(m, m)
  end)
  local short, long = math.min(height, width), math.max(height, width)
  local made = steps * (4.0 * short * short * long + 2.0 * short ^ 3) / step / 1e9
  local plain = 2.0 * height * height * width / product / 1e9
  cells { ("%d x %d"):format(height, width), ("%.0f"):format(made), ("%.0f"):format(plain),
    ("%.2f"):format(made / plain) }
end

for _, rule in ipairs(p.rules) do
  if rule == "muon" then
    print "\nNewton-Schulz, five steps:\n"
    cells { "matrix", "GFLOP/s", "one product's", "share" }
    cells { "---", "---", "---", "---" }
    for _, shape in ipairs { { 768, 768 }, { 768, 3072 }, { 3072, 768 } } do
      newton_schulz(shape[1], shape[2])
    end
  end
end
