-- How close does an optimizer pass come to the memory's own speed? Goal: 0.85 of a read-modify-write
-- loop over as many streams, for adamw and DO+ in f32 and bf16; 8-bit passes no slower than f32
-- ones.
-- Cost: 30 s, 1.6 GB at the default size. All in one run, interleaved; the fastest of the rounds
-- counts, since what else runs only ever adds.
-- f32 passes are bound by memory. 8-bit ones move about half the bytes and are bound by arithmetic,
-- most of it the codec's: on two AVX-512 cores they reach f32's time where f32's GB/s stay under
-- about 40 (DO+) or 45 (adamw), by the rates measured, and are slower on faster memory.
--
--   build/dopl --trust --threads 2 bench/optimizer.lua --millions 24 --rounds 9
local core = require "dopl.core"
local dopl = require "dopl"
local optim = require "dopl.optim"
local scheme = require "dopl.scheme"

local p = dopl.params { millions = 24, rounds = 9 }
local n = math.floor(p.millions * 1e6)

local function fresh(stream)
  return core.randn(1, stream, 0.02, n)
end

-- A step of `config` on one large matrix; gradient and parameter are shared by all.
local theta, grad = fresh(1), fresh(2)
local narrow = core.optim.encode(theta, "bf16")
for _, w in ipairs { theta, narrow } do
  w:requires_grad(true)
  w:set_grad(grad)
end
local function stepper(config, weight)
  local o = config:attach({ { name = "w", tensor = weight or theta } },
    { objectives = { "forget", "retain" } })
  local turn = 0
  return function()
    turn = turn + 1
    o:step { objective = turn % 2 == 1 and "forget" or "retain" }
  end, o
end

local hyper = { lr = 1e-5, betas = { 0.9, 0.95 }, weight_decay = 0.01 }
local base_delta, shared = scheme.base_delta, scheme.shared
local both = { "base", "delta" }
-- bytes: per parameter and step. theta 8, gradient 4, an f32 state 8, an 8-bit one 2 and its scales.
local code = 2 + 8 / 256
local subjects = {
  { name = "adamw f32", bytes = 28, streams = 4, run = stepper(optim.adamw(hyper):with(shared {})) },
  { name = "DO+ f32", bytes = 44, streams = 6, run = stepper(optim.adamw(hyper):with(base_delta {})) },
  { name = "adamw bf16", bytes = 20, streams = 4, against = 1,
    run = stepper(optim.adamw(hyper):with(shared { storage = "bf16" })) },
  { name = "DO+ bf16", bytes = 28, streams = 6, against = 2,
    run = stepper(optim.adamw(hyper):with(base_delta { storage = "bf16" })) },
  { name = "adamw bf16, weights bf16, stochastic", bytes = 16, streams = 4, against = 1,
    run = stepper(optim.adamw(hyper):with(shared { storage = "bf16", weights = "stochastic" }),
      narrow) },
  { name = "adamw bf16, weights bf16, nearest", bytes = 16, streams = 4, against = 1,
    run = stepper(optim.adamw(hyper):with(shared { storage = "bf16", weights = "nearest" }),
      narrow) },
  { name = "adamw f32, weights bf16, master", bytes = 30, streams = 4, against = 1,
    run = stepper(optim.adamw(hyper):with(shared { weights = "master" }), narrow) },
  { name = "adamw 8-bit", bytes = 12 + 2 * code, streams = 4, against = 1,
    run = stepper(optim.adamw(hyper):with(shared { quantize = true })) },
  { name = "DO+ 8-bit", bytes = 12 + 4 * code, streams = 6, against = 2,
    run = stepper(optim.adamw(hyper):with(base_delta { quantize = both })) },
}

-- The ceiling: the same number of streams, all but one written.
local spare = {}
for i = 1, 6 do spare[i] = fresh(10 + i) end
local ceilings = {}
for _, streams in ipairs { 4, 6 } do
  local list = table.move(spare, 1, streams, 1, {})
  ceilings[streams] = { bytes = 8 * (streams - 1) + 4, run = function() core.optim.ceiling(list) end }
end

local all = { ceilings[4], ceilings[6], table.unpack(subjects) }
for _, s in ipairs(all) do
  s.seconds = {}
  s.run()
  s.run()
end
for _ = 1, p.rounds do
  for _, s in ipairs(all) do
    local start = core.clock()
    s.run()
    table.insert(s.seconds, core.clock() - start)
  end
end
for _, s in ipairs(all) do
  table.sort(s.seconds)
  s.fastest = s.seconds[1]
  s.rate = s.bytes * n / s.fastest / 1e9
end

print(("%d million parameters, %d threads, %s"):format(p.millions, core.threads(), core.optim.isa()))
print(("read-modify-write, 4 streams %6.1f GB/s, 6 streams %6.1f GB/s"):format(ceilings[4].rate,
  ceilings[6].rate))
print(("%-38s %8s %8s %8s %10s"):format("pass", "ms", "GB/s", "of peak", "of f32"))
for _, s in ipairs(subjects) do
  print(("%-38s %8.1f %8.1f %8.2f %10s"):format(s.name, s.fastest * 1e3, s.rate,
    s.rate / ceilings[s.streams].rate,
    s.against and ("%.2f"):format(s.fastest / subjects[s.against].fastest) or ""))
end
