-- What do bf16 weights lose, and what restores it? The benchmark unlearns (IDK + GD, DO+) with f32
-- weights and with bf16 weights written from an f32 master, rounded stochastically, or rounded to
-- nearest. Activations and gradients stay f32 in all four, so only the storage of the weights differs.
-- `kept` is the length of theta's path relative to f32, `apart` the distance from f32's end point
-- relative to that length. The interesting case is a learning rate that is small compared with the
-- spacing of bf16 (2^-8 of a weight). Cost: about 20 s per training run.
--
--   build/dopl --trust bench/weights.lua --steps 150 --lr 1e-5,1e-4,1e-3
local core = require "dopl.core"
local dopl = require "dopl"
local loss = require "dopl.train.loss"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local tofu = require "dopl.experiments.tofu"

local p = dopl.params(tofu.params { steps = 150, lr = "1e-5,1e-4,1e-3" })
p.checkpoint = 0
local bench = tofu.open(p, {})

local function to_bf16(t) return core.optim.encode(t, "bf16") end
local function to_f32(t) return core.optim.decode(t, nil, "bf16") end

-- An optimizer over bf16 copies of the parameters. After a step the parameters take their values.
local function over_copies(config)
  local object = { scheme = config.scheme }
  function object.attach(_, parameters, options)
    local copies = {}
    for i, q in ipairs(parameters) do
      copies[i] = { name = q.name, kind = q.kind, tensor = to_bf16(q.tensor):requires_grad(true) }
    end
    local inner = config:attach(copies, options)
    return setmetatable({ step = function(_, o)
      local scope <close> = core.scope()
      for i, q in ipairs(parameters) do copies[i].tensor:set_grad(q.tensor:grad()) end
      local result = inner:step(o)
      for i, q in ipairs(parameters) do q.tensor:copy(to_f32(copies[i].tensor)) end
      return result
    end }, { __index = inner })
  end
  return object
end

local function train(lr, weights)
  local config = optim.adamw { lr = lr, betas = { 0.9, 0.95 }, eps = 1e-8 }
    :with(scheme.base_delta { floor = 0.1, weights = weights })
  return bench:compare { label = ("%g %s"):format(lr, weights or "f32"), evaluate = false,
    optimizer = weights and over_copies(config) or config, forget = loss.idk(), retain = loss.gd(),
    schedule = schedule.alternate { forget = 1, retain = 5 }, steps = p.steps, clip = 1.0 }
end

local function distance(a, b)
  local square = 0.0
  for i, t in ipairs(a) do
    local scope <close> = core.scope()
    local d = t - b[i]
    square = square + d:dot(d)
  end
  return math.sqrt(square)
end

-- Everybody starts from weights that bf16 holds.
local model = bench:original()
for i, t in ipairs(bench.start) do bench.start[i]:copy(to_f32(to_bf16(t))) end
local start = bench.start

print(("%-8s %-12s %12s %12s %8s %8s"):format("lr", "weights", "forget loss", "retain loss", "kept",
  "apart"))
for lr in p.lr:gmatch "[^,]+" do
  local there, way
  for _, weights in ipairs { false, "master", "stochastic", "nearest" } do
    local row = train(tonumber(lr), weights or nil)
    local now = model.parameters:snapshot()
    if not weights then there, way = now, distance(now, start) end
    print(("%-8s %-12s %12.4f %12.4f %8.2f %8.2f"):format(lr, weights or "f32", row.losses.forget,
      row.losses.retain, distance(now, start) / way, distance(now, there) / way))
  end
end
