--- Does a training run stay within its planned memory? Goal: resident at most 1.1 of the plan.
--
-- DualOptim+ trains a random model of GPT-2's 124M shape on questions and answers of TOFU's lengths, so
-- no two steps ask for the same memory. (200 steps: about 10 min, 3 GiB)
--
--   ./dopl --plan bench/memory.lua --states 8bit
--   ./dopl --trust bench/memory.lua --states 8bit

local dopl = require "dopl"
local core, loss, optim, schedule = dopl.core, dopl.loss, dopl.optim, dopl.schedule
local samples = require "samples"

local p = dopl.params {
  steps = { 200, "of both objectives" },
  batch = { 8, "questions and answers in a batch" },
  layers = { 12, "layers of the model" },
  width = { 768, "hidden size; heads are 64 wide" },
  vocab = { 50257, "vocabulary size" },
  states = { "f32", "what the optimizer's states are stored as: f32 or 8bit" },
}

local model = dopl.models.new({
  architecture = "gpt2", vocab_size = p.vocab, hidden_size = p.width, n_layers = p.layers,
  heads = p.width // 64,
}, p.seed)

local function objective(name, seed)
  return { name = name, loss = loss.gd(), data = dopl.data.loader {
    samples = samples(seed, p.vocab, 50 * p.batch), batch_size = p.batch, seed = p.seed,
    stream = name,
  } }
end

local function page_faults()
  local text = core.files.read "/proc/self/stat"
  return tonumber(text:match "%) %a %-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+ %-?%d+ (%d+)")
end

local clock, seconds, faults = core.clock(), {}, {}
print(("%5s %9s %9s %9s %9s %9s"):format("step", "live", "peak", "cached", "resident", "at most"))
dopl.train.fit {
  model = model, objectives = { objective("forget", 1), objective("retain", 2) },
  optimizer = optim.adamw { lr = 1e-5 }:with(dopl.scheme.base_delta { storage = p.states }),
  schedule = schedule.alternate { forget = 1, retain = 5 }, steps = p.steps, progress = false,
  on_step = function(live)
    seconds[#seconds + 1], clock = core.clock() - clock, core.clock()
    faults[#faults + 1] = page_faults()
    if live.step % 20 > 0 and live.step < p.steps then return end
    local m = core.memory()
    print(("%5d %9.1f %9.1f %9.1f %9.1f %9.1f"):format(live.step, m.live / 2 ^ 20, m.peak / 2 ^ 20,
      m.cached / 2 ^ 20, m.resident / 2 ^ 20, m.resident_peak / 2 ^ 20))
  end,
}

if #seconds > 1 then -- none where this is planned
  local half = #faults // 2
  table.sort(seconds)
  print(("MiB; %.0f ms a step, %.0f page faults a step in the second half"):format(
    1e3 * seconds[(#seconds + 1) // 2], (faults[#faults] - faults[half]) / (#faults - half)))
end
