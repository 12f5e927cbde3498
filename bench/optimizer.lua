-- How close does an optimizer pass come to the memory's own speed? Goal: 0.85 of a read-modify-write
-- loop over as many streams. Cost: 40 s, 1.8 GB at the default size; --all (every rule, scheme and
-- storage) 10 minutes. A pass and the loop take turns; the fastest of the rounds counts, since what
-- else runs only ever adds. Bytes are what the compiled program reads and writes of its tensors.
--
-- What bounds a pass beyond memory is arithmetic: on an AVX-512 core (Zen 4) it alone takes 115 ns
-- for 256 elements of adamw in f32, 190 ns in bf16 (a load of bf16 takes 9, a stochastic rounding
-- 27, a quotient by a root 70), 240 ns with weights rounded stochastically too, and 215 and 370 ns of
-- DO+. So bf16 passes keep the goal where memory gives a core up to some 30 GB/s (adamw) or 20 (DO+,
-- bf16 weights), and 8-bit ones, most of whose time is the codec's, up to 15 and 9. One such core,
-- with a memory of 40 GB/s to itself: adamw 1.03 in f32, 0.64 in bf16, 0.42 with bf16 weights too.
--
--   build/dopl --trust --threads 2 bench/optimizer.lua --millions 24 --rounds 9 [--all]
local core = require "dopl.core"
local dopl = require "dopl"
local optim = require "dopl.optim"
local scheme = require "dopl.scheme"

local p = dopl.params { millions = 24, rounds = 9, all = false }
local COLUMNS <const> = 1024
local rows = math.floor(p.millions * 1e6) // COLUMNS
local n = rows * COLUMNS

local function fresh(stream)
  return core.randn(1, stream, 0.02, rows, COLUMNS)
end

-- Gradient and parameter are shared by all.
local grad, weights = fresh(2), { f32 = fresh(1) }
weights.bf16 = core.optim.encode(weights.f32, "bf16")
for _, w in pairs(weights) do
  w:requires_grad(true)
  w:set_grad(grad)
end

-- ---- passes

local element = { f32 = 4, bf16 = 2, q8 = 1 + 4 / 256, u8 = 1 + 4 / 256 }

-- Bytes that a program moves for an element, and of how many tensors.
local function traffic(program)
  local bytes, streams, read, written = 0, 0, {}, {}
  for _, row in ipairs(program.instr) do
    for j = 1, core.optim.primitives[row[1]].tiles do
      if not written[row[2 + j]] then read[row[2 + j]] = true end
    end
    written[row[2]] = true
  end
  for i, kind in ipairs(program.operands) do
    local place = program.n_reg + i - 1
    local times = (read[place] and 1 or 0) + (written[place] and 1 or 0)
    bytes, streams = bytes + times * element[kind], streams + math.min(times, 1)
  end
  return bytes, streams
end

local OBJECTIVES <const> = { "forget", "retain" }

-- What runs one step, bytes per element, streams. Of a rule with a transform, the two passes only.
local function stepper(config, w)
  local o = config:attach({ { name = "w", tensor = w } },
    { objectives = OBJECTIVES, period = 1 << 40 })
  local plan = o.shared_plan or o.plans.forget
  local bytes, streams = 0, 0
  for _, cx in ipairs(plan.traced) do
    for _, pass in ipairs { cx, cx.update } do
      for _, compiled in pairs(pass.compiled) do
        local b, s = traffic(compiled.listing)
        bytes, streams = bytes + b, math.max(streams, s)
      end
    end
  end
  local turn, item = 0, plan.matrices[1]
  return function()
    turn = turn + 1
    if not item then return o:step { objective = OBJECTIVES[1 + turn % 2] } end
    local env = o:environment(plan, "forget", { lr_scale = 1 }, turn, turn, 1.0)
    item.moments:run(env, { 0, turn })
    item.update:run(env, { 0, turn })
  end, bytes, streams
end

-- ---- what is compared

local adam = { lr = 1e-5, betas = { 0.9, 0.95 }, weight_decay = 0.01 }
local momentum = { lr = 1e-5, momentum = 0.9, weight_decay = 0.01 }

local subjects = {}
local function add(name, config, w)
  subjects[#subjects + 1] = { name = name, config = config, weights = w or weights.f32 }
end

if p.all then
  for _, rule in ipairs { { optim.sgd, momentum }, { optim.nesterov, momentum },
    { optim.adam, adam }, { optim.adamw, adam }, { optim.lion, { lr = 1e-5 } },
    { optim.muon, momentum } } do
    for _, kind in ipairs { "joint", "shared", "decoupled", "base_delta", "scaffold", "fedcm",
      "local_adam" } do
      for _, storage in ipairs(scheme.storages) do
        local config = rule[1](rule[2]):with(scheme[kind] { storage = storage })
        if kind ~= "joint" then -- whose pass is that of shared
          add(("%s %s %s"):format(rule[1].name, kind, storage), config)
        end
      end
    end
  end
else
  for _, storage in ipairs(scheme.storages) do
    add("adamw " .. storage, optim.adamw(adam):with(scheme.shared { storage = storage }))
    add("DO+ " .. storage, optim.adamw(adam):with(scheme.base_delta { storage = storage }))
  end
  for _, how in ipairs(scheme.weights) do
    add("adamw bf16, bf16 weights, " .. how,
      optim.adamw(adam):with(scheme.shared { storage = "bf16", weights = how }), weights.bf16)
  end
end

-- ---- the clock

local spare = {}
local function ceiling(streams)
  for i = #spare + 1, streams do spare[i] = fresh(10 + i) end
  local list = table.move(spare, 1, streams, 1, {})
  return function() core.optim.ceiling(list) end
end

local function seconds(f)
  local start = core.clock()
  f()
  return core.clock() - start
end

print(("%d million parameters, %d threads, %s"):format(p.millions, core.threads(), core.optim.isa()))
print(("%-34s %8s %8s %8s %8s %8s"):format("pass", "bytes", "ms", "GB/s", "memory's", "of it"))
for _, s in ipairs(subjects) do
  collectgarbage()
  collectgarbage()
  local step, bytes, streams = stepper(s.config, s.weights)
  streams = math.max(2, math.min(8, streams))
  local copy = ceiling(streams)
  step()
  step()
  copy()
  local fastest, least = math.huge, math.huge
  for _ = 1, p.rounds do
    fastest, least = math.min(fastest, seconds(step)), math.min(least, seconds(copy))
  end
  local rate, most = bytes * n / fastest / 1e9, (8 * streams - 4) * n / least / 1e9
  print(("%-34s %8.2f %8.1f %8.1f %8.1f %8.2f"):format(s.name, bytes, fastest * 1e3, rate, most,
    rate / most))
end
