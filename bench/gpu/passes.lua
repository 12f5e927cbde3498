--- passes.lua - optimizer passes as a share of the speed of a copy.
--
-- One parameter of 2^28 elements. The bytes are those that the compiled program reads and writes.

local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local traffic = require "traffic"
local work = require "gpu.work"

local GOALS <const> = { f32 = 0.9, ["8bit"] = 0.8 }
local EAGER <const> = 10 -- times faster than DO+ written as tensor operations

local adam <const> = { lr = 1e-5, betas = { 0.9, 0.95 }, weight_decay = 0.01 }

local function list(weights)
  local subjects = {}
  local function add(name, config, dtype, goal)
    subjects[#subjects + 1] = { name = name, config = config, weights = weights[dtype], goal = goal }
  end
  local kinds = { { "AdamW", "shared" }, { "DO", "decoupled" }, { "DO+", "base_delta" } }
  for _, storage in ipairs(scheme.storages) do
    for _, kind in ipairs(kinds) do
      add(kind[1] .. " " .. storage, optim.adamw(adam):with(scheme[kind[2]] { storage = storage }),
        "f32", GOALS[storage])
    end
  end
  for _, how in ipairs(scheme.weights) do
    add("AdamW bf16, bf16 weights, " .. how,
      optim.adamw(adam):with(scheme.shared { storage = "bf16", weights = how }), "bf16")
  end
  add("DO+ 8bit, bf16 weights, stochastic", -- what 8 billion parameters take
    optim.adamw(adam):with(scheme.base_delta { storage = "8bit", weights = "stochastic" }), "bf16")
  return subjects
end

-- What runs one step of a configuration over `w`, objectives in turn; bytes it moves for an element.
local function stepper(config, w)
  local objectives = { "forget", "retain" }
  local o = config:attach({ { name = "w", tensor = w } }, { objectives = objectives })
  local plan, turn = o.shared_plan or o.plans.forget, 0
  local _, compiled = next(plan.traced[1].compiled) -- one parameter: one variant
  return function()
    turn = turn + 1
    o:step { objective = objectives[1 + turn % 2] }
  end, (traffic(compiled.listing))
end

return function(p, size, roofline)
  local COLUMNS <const> = 1024
  local rows = size.elements // COLUMNS
  local function fresh(stream, std) return core.randn(p.seed, stream, std, rows, COLUMNS) end
  local theirs = work.ask(p, "passes", { rows = rows, columns = COLUMNS })
  local grad, weights = fresh(2, 0.02), { f32 = fresh(1, 0.02) }
  weights.bf16 = weights.f32:to "bf16"
  for _, w in pairs(weights) do w:requires_grad(true):set_grad(grad) end
  for _, s in ipairs(list(weights)) do
    local _ <close> = core.scope()
    local step, bytes = stepper(s.config, s.weights)
    local seconds = work.time(step, p.rounds)
    local share = bytes * rows * COLUMNS / seconds / roofline.bandwidth
    work.row(s.name, ("%.3f ms, %.2f B each, %.2f of copy"):format(1e3 * seconds, bytes, share), share,
      s.goal)
    work.versus("fused", seconds, theirs[s.name .. ", fused"])
    work.versus("bitsandbytes", seconds, theirs[s.name .. ", bitsandbytes"], 1.3)
    if s.name:find("DO+", 1, true) then -- whatever our states are stored as, eager ones are f32
      work.versus("eager, f32", seconds, theirs["DO+ f32, eager"], EAGER)
    end
    collectgarbage()
  end
end
