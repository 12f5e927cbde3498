--- Does a token ever cost more in a larger batch of generation? Goal: nowhere. (~2 min)
--
-- Decoding steps of a random model of GPT-2's 124M shape, with batches of 1 to 32 sequences in turn.
-- The fastest round counts. The time is that of the thread that runs Lua (with --threads 1, all of the
-- step), so other work on the machine counts less.

local dopl = require "dopl"
local core = dopl.core

local p = dopl.params {
  rounds = { 7, "times each batch is measured" },
  tokens = { 3, "of each sequence" },
  layers = { 12, "layers of the model" },
  width = { 768, "hidden size; heads are 64 wide" },
  vocab = { 50257, "vocabulary size" },
  dtype = { "f32", "what the weights are stored as: f32 or bf16" },
  most = { 32, "sequences of the largest batch" },
}

local NOISE <const> = 1.05 -- a step up in time per token that counts

local model = dopl.models.new({
  architecture = "gpt2", vocab_size = p.vocab, hidden_size = p.width, n_layers = p.layers,
  heads = p.width // 64, dtype = p.dtype,
}, p.seed)

-- Seconds that this thread has been running.
local function own_time()
  return tonumber((core.files.read "/proc/thread-self/schedstat"):match "%d+") * 1e-9
end

-- A prompt of one token makes prefill a step like the others.
local function seconds_a_step(n)
  local prompts = {}
  for i = 1, n do prompts[i] = { i } end
  local begin = own_time()
  dopl.generate.run(model, prompts, { eos = -1, max_tokens = 1 + p.tokens, batch_size = n })
  return (own_time() - begin) / p.tokens
end

local best = {}
for round = 0, p.rounds do -- round 0 fills caches
  for n = 1, p.most do
    local seconds = seconds_a_step(n)
    if round > 0 then best[n] = math.min(best[n] or math.huge, seconds) end
  end
end

print(("%.0fM parameters in %s, %d threads"):format(model.parameters:numel() / 1e6, p.dtype,
  core.threads()))
print(("%5s %12s %13s"):format("batch", "ms a step", "ms a token"))
local least, steps = math.huge, 0
for n = 1, p.most do
  local each = best[n] / n
  local mark = each > NOISE * least and ("  %.2f of a smaller batch's"):format(each / least) or ""
  if mark ~= "" then steps = steps + 1 end
  least = math.min(least, each)
  print(("%5d %12.1f %13.2f%s"):format(n, 1e3 * best[n], 1e3 * each, mark))
end
print(("a token costs more than in a smaller batch %d times (goal: 0)"):format(steps))
