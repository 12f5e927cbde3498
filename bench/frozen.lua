--- What does a step that trains only the last layer cost? Goal: at most 0.55 of a full step. (~1 min)
--
-- Forward, backward and AdamW of a random model on packed rows of TOFU's lengths, once with every
-- parameter trained and once with the last layer alone: nothing below it is recorded or walked back,
-- and no frozen weight has a gradient or states. In turn, medians; and the peak of each, by kind.

local dopl = require "dopl"
local core, op = dopl.core, dopl.core.ops

local p = dopl.params {
  rounds = { 9, "times each side is measured" },
  samples = { 8, "questions and answers in the batch" },
  layers = { 12, "layers of the model" },
  width = { 256, "hidden size; heads are 64 wide" },
  vocab = { 2048, "vocabulary size" },
}

local batch = require("dopl.data.batch").pack(require "samples"(p.seed, p.vocab, p.samples))
local t = batch:tensors()

local function new_side(label, trained)
  local model = dopl.models.new({
    architecture = "llama", vocab_size = p.vocab, hidden_size = p.width, n_layers = p.layers,
    heads = p.width // 64, kv_heads = p.width // 64, intermediate_size = p.width * 8 // 3,
  }, p.seed)
  model:train_only(trained)
  return { label = label, model = model, forward = {}, backward = {}, adamw = {}, whole = {},
    optimizer = dopl.optim.adamw { lr = 1e-5 }:attach(model.parameters) }
end

local function step(side)
  local _ <close> = core.scope()
  local begin = core.clock()
  local hidden = side.model:hidden(t)
  local loss = -op.vocab(hidden, side.model:head(), t.rows, t.labels):select(0):mean()
  local forward = core.clock()
  loss:backward()
  local backward = core.clock()
  side.optimizer:step {}
  local ended = core.clock()
  table.insert(side.forward, forward - begin)
  table.insert(side.backward, backward - forward)
  table.insert(side.adamw, ended - backward)
  table.insert(side.whole, ended - begin)
  local held = core.memory((core.device()))
  side.gradients, side.activations = held.by_kind.gradients, held.at_peak.activations
  side.model.parameters:zero_grad() -- the other model's take their memory
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local sides = { new_side("all", "*"), new_side("last layer", ("layers.%d"):format(p.layers)) }
for round = 0, p.rounds do -- the first warms up
  for _, side in ipairs(sides) do
    core.reset_peak()
    step(side)
    if round == 0 then side.forward, side.backward, side.adamw, side.whole = {}, {}, {}, {} end
  end
end

print(("%d tokens, %d layers of width %d"):format(batch.n_tokens, p.layers, p.width))
print(("%-12s %9s %9s %9s %9s %12s %12s %12s"):format("trained", "forward", "backward", "adamw",
  "step, ms", "states, MiB", "grads, MiB", "acts, MiB"))
for _, side in ipairs(sides) do
  print(("%-12s %9.1f %9.1f %9.1f %9.1f %12.2f %12.2f %12.2f"):format(side.label,
    1e3 * median(side.forward), 1e3 * median(side.backward), 1e3 * median(side.adamw),
    1e3 * median(side.whole), side.optimizer:state_bytes().total / 2 ^ 20,
    side.gradients / 2 ^ 20, side.activations / 2 ^ 20))
end
print(("last layer / all: %.2f (goal: at most 0.55)"):format(
  median(sides[2].whole) / median(sides[1].whole)))
