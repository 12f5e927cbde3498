--- How much of a training step is not matrix products? Goal: step / products at most 1.35. (~1 min)
--
-- Forward, backward and AdamW of a random 12-layer model on packed rows of TOFU's lengths, against
-- the same products alone: every linear layer and the head, forward and both gradients, the same
-- shapes, weights and oneDNN calls. In turn, medians.

local dopl = require "dopl"
local core, op = dopl.core, dopl.core.ops

local p = dopl.params {
  rounds = { 9, "times each side is measured" },
  samples = { 8, "questions and answers in the batch" },
  layers = { 12, "layers of the model" },
  width = { 576, "hidden size; heads are 64 wide, three to a key head" },
  vocab = { 49152, "vocabulary size" },
}

local model = dopl.models.new({
  architecture = "llama", vocab_size = p.vocab, hidden_size = p.width, n_layers = p.layers,
  heads = p.width // 64, kv_heads = p.width // 192, intermediate_size = p.width * 8 // 3,
}, p.seed)
local optimizer = dopl.optim.adamw({ lr = 1e-5, weight_decay = 0.01 }):attach(model.parameters)

-- Prompts of 15 to 30 tokens, answers around 42: TOFU's, with a tokenizer of this size.
local function make_batch()
  local rng = dopl.rng.new(p.seed, "bench batch")
  local samples = {}
  for s = 1, p.samples do
    local prompt = 14 + rng:integer(16)
    local answer = math.floor(math.min(97, math.max(14, 42 + 16 * rng:normal())))
    local ids = {}
    for i = 1, prompt + answer do ids[i] = rng:integer(p.vocab) - 1 end
    samples[s] = { ids = ids, labels_from = prompt + 1, key = tostring(s) }
  end
  return require("dopl.data.batch").pack(samples)
end

local batch = make_batch()
local t = batch:tensors()

local function timed(fn)
  local _ <close> = core.scope()
  model.parameters:zero_grad()
  local begin = core.clock()
  fn()
  return core.clock() - begin
end

local split = { forward = {}, backward = {}, adamw = {} }

local function step()
  local begin = core.clock()
  local hidden = model:hidden(t)
  local loss = -op.vocab(hidden, model:head(), t.rows, t.labels):select(0):mean()
  local forward = core.clock()
  loss:backward()
  local backward = core.clock()
  optimizer:step {}
  table.insert(split.forward, forward - begin)
  table.insert(split.backward, backward - forward)
  table.insert(split.adamw, core.clock() - backward)
end

-- { input, weight, gradient of the output }; layers share inputs and gradients of one shape.
local function make_products()
  local made, products = {}, {}
  local function random(rows, cols)
    local key = rows .. "x" .. cols
    made[key] = made[key]
      or core.randn(p.seed, dopl.rng.hash(key), 1.0, rows, cols):requires_grad(true)
    return made[key]
  end
  local function add(rows, weight)
    local shape = weight:shape()
    table.insert(products, { random(rows, shape[2]), weight, random(rows, shape[1]):detach() })
  end
  for _, layer in ipairs(model.layers) do
    for _, name in ipairs { "qkv", "out", "gate_up", "down" } do
      add(batch.n_tokens, layer[name])
    end
  end
  add(batch.n_labels, model:head())
  return products
end

local products = make_products()

local function run_products()
  for _, product in ipairs(products) do
    local x, weight, dy = table.unpack(product)
    local _ <close> = core.scope()
    op.linear(x, weight):backward(dy)
    x:set_grad(nil) -- written afresh by the next, as in the step
  end
end

local function flops()
  local n = 0
  for _, product in ipairs(products) do n = n + 6 * product[1]:shape()[1] * product[2]:numel() end
  return n
end

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

local steps, alone = {}, {}
for round = 0, p.rounds do -- round 0 makes optimizer states and fills the pool
  local a = timed(step)
  local b = timed(run_products)
  if round > 0 then steps[round], alone[round] = a, b end
end

print(("%d tokens, %d labels, %.1fM parameters, %d threads"):format(batch.n_tokens, batch.n_labels,
  model.parameters:numel() / 1e6, core.threads()))
local whole, base = median(steps), median(alone)
print(("step      %7.1f ms   forward %.1f, backward %.1f, adamw %.1f"):format(1e3 * whole,
  1e3 * median(split.forward), 1e3 * median(split.backward), 1e3 * median(split.adamw)))
print(("products  %7.1f ms   %.0f GFLOP/s"):format(1e3 * base, flops() / base / 1e9))
print(("step / products %.2f (goal: at most 1.35)"):format(whole / base))
