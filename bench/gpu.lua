--- How fast is a GPU at dopl's work, compared with that GPU's measured speeds and with PyTorch?
-- (Some minutes; sections alone: --only passes,step)
--
-- Rooflines, optimizer passes, training steps of a model of 1.3 billion random parameters on batches of
-- TOFU's lengths, generation, memory by kind, operators, and compilation while the program runs.
-- docs/performance.md explains goals and figures. PyTorch's sections run in turn with ours:
--
--   build/dopl --trust --device cuda bench/gpu.lua --python venv/bin/python
--
-- `--size tiny` shows on the emulator that everything runs. Its figures mean nothing. With
-- DOPL_EMULATOR_IDLE=1 DOPL_EMULATOR_LATE=1 the device does nothing, and `--size deep --only step`
-- measures the host's time to queue a step, without the driver.

local dopl = require "dopl"
local core = dopl.core
local work = require "gpu.work"

local ORDER <const> = { "passes", "step", "generation", "memory", "operators", "compile" }

local p = dopl.params {
  size = { "1b", "of the model: 1b or 360m; tiny and deep for the emulator" },
  only = { "all", table.concat(ORDER, ", ") .. "; several by commas; or all" },
  rounds = { 15, "times each figure is measured; medians count" },
  python = { "", "a Python with PyTorch (bench/peers/requirements.txt), to run the same there" },
  products = { false, "lists at the end the algorithm that cuBLAS was asked for, by product" },
  launches = { false, "lists where the time of a step goes, by operator and by kernel or product" },
  cpu_peer = { false, "PyTorch computes on the CPU: for trying this out without a GPU" },
  datasheet = { 989, "bf16 TFLOP/s that the maker names, dense; of an H200" },
  storage = { "bf16", "of AdamW's moments in training steps: f32, bf16 or 8bit" },
  weights = { "stochastic", "how steps update bf16 weights: stochastic, nearest or master" },
}
local size = work.sizes[p.size]
  or error(("--size %s: there are 1b, 360m, tiny and deep"):format(p.size), 0)
work.judges = p.size == "1b" or p.size == "360m"
local device, described = core.device()
if device ~= "cuda" then error("bench/gpu.lua measures a GPU: start with --device cuda", 0) end

local sections = {
  passes = require "gpu.passes",
  step = require("gpu.model").step,
  generation = require("gpu.model").generation,
  memory = require "gpu.memory",
  operators = require "gpu.operators",
  compile = require "gpu.compile",
}
local wanted = {}
for name in (p.only == "all" and table.concat(ORDER, ",") or p.only):gmatch "[^,]+" do
  wanted[name] = sections[name]
    or error(("--only %s: there are %s"):format(name, table.concat(ORDER, ", ")), 0)
end

-- What the machine itself does: bytes a second of a copy, the driver's or a kernel's, whichever is
-- faster; operations a second of a square product.
local function rooflines()
  local _ <close> = core.scope()
  local _ <close> = core.no_grad()
  local from, to = core.randn(p.seed, 1, 1.0, size.elements), core.randn(p.seed, 2, 1.0, size.elements)
  local n = size.side
  local a = core.randn(p.seed, 3, 1.0, n, n):to "bf16"
  local b = core.randn(p.seed, 4, 1.0, n, n):to "bf16"
  local theirs = work.ask(p, "rooflines", { elements = size.elements, side = n })
  local copy = work.time(function() to:copy(from) end, p.rounds)
  local kernel = work.time(function() core.ops.scale(from, 0.5) end, p.rounds)
  local product = work.time(function() core.ops.linear(a, b) end, p.rounds)
  work.row("copy, and by a kernel", ("%.0f and %.0f GB/s"):format(8 * size.elements / copy / 1e9,
    8 * size.elements / kernel / 1e9))
  work.versus("copy", copy, theirs.copy)
  work.row(("product of %d x %d in bf16"):format(n, n),
    ("%.0f TFLOP/s"):format(2 * n ^ 3 / product / 1e12))
  work.versus("product", product, theirs.product)
  return { bandwidth = 8 * size.elements / math.min(copy, kernel), rate = 2 * n ^ 3 / product }
end

print(("%s; %s"):format(described, p.python == "" and "no PyTorch beside it: --python names one"
  or p.python))
if work.judges and not described:find("H200", 1, true) then
  print "the goals are for an H200; --datasheet names another GPU's rate"
end
print "rooflines"
local roofline = rooflines()
for _, name in ipairs(ORDER) do
  if wanted[name] then
    print(name)
    do
      local _ <close> = core.scope()
      wanted[name](p, size, roofline)
    end
    collectgarbage()
    core.trim()
  end
end
if p.products then
  print "products"
  local lines = core.products()
  table.sort(lines)
  for _, line in ipairs(lines) do print("  " .. line) end
end
