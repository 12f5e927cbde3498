--- How much of a training step is not matrix products? Goal: step / products at most 1.35. (~1 min)
--
-- Forward, backward and AdamW of a random 12-layer model on packed rows of TOFU's lengths, compared
-- with the same products alone: every linear layer and the head, forward and both gradients, with the
-- same shapes, weights and oneDNN calls. Also compared with the same step with bf16 weights, which
-- should cost only their decoding: at most 1.05 of the step. Medians, in turn.

local dopl = require "dopl"
local core, op = dopl.core, dopl.core.ops

local p = dopl.params {
  rounds = { 9, "times each side is measured" },
  samples = { 8, "questions and answers in the batch" },
  layers = { 12, "layers of the model" },
  width = { 576, "hidden size; heads are 64 wide, three to a key head" },
  vocab = { 49152, "vocabulary size" },
  weights = { "stochastic", "how bf16 weights are updated: stochastic, nearest or master" },
}

-- A model whose weights are stored as `dtype`, its optimizer, and the times of its parts.
local function new_side(dtype)
  local model = dopl.models.new({
    architecture = "llama", vocab_size = p.vocab, hidden_size = p.width, n_layers = p.layers,
    heads = p.width // 64, kv_heads = p.width // 192, intermediate_size = p.width * 8 // 3,
    dtype = dtype,
  }, p.seed)
  local rule = dopl.optim.adamw { lr = 1e-5, weight_decay = 0.01 }
  return { model = model, forward = {}, backward = {}, adamw = {}, whole = {},
    optimizer = rule:with(dopl.scheme.joint { weights = p.weights }):attach(model.parameters) }
end

local wide, narrow = new_side "f32", new_side "bf16"
local model = wide.model

local batch = require("dopl.data.batch").pack(require "samples"(p.seed, p.vocab, p.samples))
local t = batch:tensors()

local function timed(fn, side)
  local _ <close> = core.scope()
  local begin = core.clock()
  fn(side)
  local seconds = core.clock() - begin
  side.model.parameters:zero_grad() -- the other model's take their memory
  return seconds
end

local function step(side)
  local begin = core.clock()
  local hidden = side.model:hidden(t)
  local loss = -op.vocab(hidden, side.model:head(), t.rows, t.labels):select(0):mean()
  local forward = core.clock()
  loss:backward()
  local backward = core.clock()
  side.optimizer:step {}
  table.insert(side.forward, forward - begin)
  table.insert(side.backward, backward - forward)
  table.insert(side.adamw, core.clock() - backward)
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
  for _, parameter in ipairs(model.parameters) do
    if parameter.kind == "matrix" then add(batch.n_tokens, parameter.tensor) end
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

local alone = {}
for round = 0, p.rounds do -- round 0 makes optimizer states and fills the pool
  local a, b, c = timed(step, wide), timed(step, narrow), timed(run_products, wide)
  if round > 0 then wide.whole[round], narrow.whole[round], alone[round] = a, b, c end
end

print(("%d tokens, %d labels, %.1fM parameters, %d threads"):format(batch.n_tokens, batch.n_labels,
  model.parameters:numel() / 1e6, core.threads()))
local function report(label, side)
  print(("%-9s %7.1f ms   forward %.1f, backward %.1f, adamw %.1f"):format(label,
    1e3 * median(side.whole), 1e3 * median(side.forward), 1e3 * median(side.backward),
    1e3 * median(side.adamw)))
end
local base = median(alone)
report("step", wide)
report("in bf16", narrow)
print(("products  %7.1f ms   %.0f GFLOP/s"):format(1e3 * base, flops() / base / 1e9))
print(("step / products %.2f (goal: at most 1.35)"):format(median(wide.whole) / base))
print(("step in bf16 / step %.3f (goal: at most 1.05)"):format(
  median(narrow.whole) / median(wide.whole)))
