--- model.lua - a training step and batched generation, as shares of the machine's roofline.

local dopl = require "dopl"
local core = dopl.core
local pack = require("dopl.data.batch").pack
local samples = require "samples"
local work = require "gpu.work"

local model = {}

-- The share of f()'s launches that graphs make, once it has repeated.
local function graph_row(f)
  local sent, replayed = core.launches()
  f()
  core.sync()
  local sent_after, replayed_after = core.launches()
  local n = sent_after - sent
  work.row("  launches, by graphs", ("%d, %.2f of them"):format(n, (replayed_after - replayed) / n))
end

-- Seconds of the host to queue a step, which the device does not wait for.
local function host_time(step, rounds)
  local all = {}
  for i = 1, rounds do
    core.sync()
    local _ <close> = core.scope()
    local begin = core.clock()
    step()
    all[i] = core.clock() - begin
  end
  core.sync()
  return work.median(all)
end

-- Seconds a token of steps on batches that come once, as in training: with their lengths the shapes of
-- products change, and which memory fits; no graph has been made of them.
local function unseen_time(p, size, n_samples, step)
  local WARM <const>, TIMED <const> = 4, 12
  local batches, tokens, begin = {}, 0, nil
  for i = 1, WARM + TIMED do batches[i] = pack(samples(p.seed + i, size.vocab, n_samples)) end
  for i, batch in ipairs(batches) do
    if i == WARM + 1 then
      core.sync()
      begin = core.clock()
    end
    local _ <close> = core.scope()
    step(batch:tensors())
    tokens = tokens + (i > WARM and batch.n_tokens or 0)
  end
  core.sync()
  local seconds = core.clock() - begin
  for _, batch in ipairs(batches) do batch:close() end
  return seconds / tokens
end

-- Where the time of steps goes: they are launched one by one for that, and take the host longer.
local function list_launches(step, rounds)
  local seen <close> = dopl.profile()
  for _ = 1, rounds do
    local _ <close> = core.scope()
    step()
  end
  seen:close()
  print(("%s\n\n%s\n"):format(seen:text(), seen:launches_text()))
end

local function config_of(size)
  return {
    num_hidden_layers = size.layers, hidden_size = size.width, intermediate_size = size.inner,
    num_attention_heads = size.width // size.head_dim,
    num_key_value_heads = size.width // size.head_dim, vocab_size = size.vocab,
  }
end

-- A batch as PyTorch's side reads it: tokens end to end, -1 where no label follows.
local function plain(batch)
  local labels = {}
  for i = 1, batch.n_tokens do labels[i] = -1 end
  for i, row in ipairs(batch.rows) do labels[row + 1] = batch.labels[i] end
  return { ids = batch.ids, offsets = batch.offsets, labels = labels }
end

local function step_of(p, size, roofline, n_samples, goal)
  local batch = pack(samples(p.seed, size.vocab, n_samples))
  local theirs = work.ask(p, "step", { config = config_of(size), batch = plain(batch) })
  local _ <close> = core.scope()
  local m = work.model(p, size)
  local t = batch:tensors()
  local o = dopl.optim.adamw { lr = 1e-5, weight_decay = 0.01 }
    :with(dopl.scheme.joint { storage = p.storage, weights = p.weights }):attach(m.parameters)
  local function step_on(tensors)
    work.loss(m, tensors):backward()
    o:step {}
    m.parameters:zero_grad()
  end
  local function step() step_on(t) end
  core.reset_peak()
  local seconds = work.time(step, p.rounds)
  local queued, rate = host_time(step, p.rounds), work.step_flops(size, batch) / seconds
  work.row(("step, %d tokens, %d labels, %.2f billion"):format(batch.n_tokens, batch.n_labels,
    m.parameters:numel() / 1e9), ("%.3f ms, %.0f tokens/s"):format(1e3 * seconds,
    batch.n_tokens / seconds))
  work.row("  TFLOP/s", ("%.1f, %.2f of products"):format(rate / 1e12, rate / roofline.rate))
  work.row("  of the data sheet's rate", ("%.3f"):format(rate / p.datasheet / 1e12),
    rate / p.datasheet / 1e12, goal)
  work.row("  to queue it", ("%.3f ms, %.3f of it"):format(1e3 * queued, queued / seconds),
    queued / seconds, 0.05, true)
  graph_row(function()
    local _ <close> = core.scope()
    step()
  end)
  work.row("  peak memory", ("%.2f GiB"):format(core.memory("cuda").peak / 2 ^ 30))
  local unseen = unseen_time(p, size, n_samples, step_on) * batch.n_tokens
  work.row("  batches that come once, for as many tokens", ("%.3f ms, %.2f of that"):format(
    1e3 * unseen, unseen / seconds))
  work.versus("as users write it, padded", seconds, theirs.default, size.times[1])
  work.versus("tuned: packed, compiled", seconds, theirs.tuned, size.times[2])
  if theirs.default_bytes then
    work.row("  PyTorch's peak memory, padded", ("%.2f GiB"):format(theirs.default_bytes / 2 ^ 30))
  end
  if p.launches then list_launches(step, p.rounds) end
  batch:close()
end

function model.step(p, size, roofline)
  for i, goal in ipairs { 0.5, 0.25 } do
    step_of(p, size, roofline, size.samples[i], goal)
    collectgarbage()
  end
end

function model.generation(p, size, roofline)
  local prompts, longest, shortest, cached = {}, 0, math.huge, 0
  for i, sample in ipairs(samples(p.seed, size.vocab, size.prompts)) do
    prompts[i] = table.move(sample.ids, 1, sample.labels_from - 1, 1, {})
    longest, shortest = math.max(longest, #prompts[i]), math.min(shortest, #prompts[i])
  end
  local theirs = work.ask(p, "generation",
    { config = config_of(size), prompts = prompts, tokens = size.tokens })
  local _ <close> = core.scope()
  local m, n_new = work.model(p, size), 0
  local options = { eos = -1, max_tokens = longest + size.tokens, batch_size = #prompts }
  local function run()
    n_new = 0
    for _, tokens in ipairs(dopl.generate.run(m, prompts, options)) do n_new = n_new + #tokens end
  end
  run()
  local rounds = math.min(p.rounds, 3) -- a run is many steps long
  local seconds = work.time(run, rounds)
  -- of every step: the weights once (the embedding is the head), and the keys and values so far
  for _, ids in ipairs(prompts) do
    for length = #ids, longest + size.tokens - 1 do cached = cached + length end
  end
  local steps = longest + size.tokens - shortest
  local bytes = 2 * m.parameters:numel() * steps + cached * size.layers * 2 * size.width * 2
  work.row(("%d prompts, %d tokens"):format(#prompts, n_new),
    ("%.3f s, %.0f tokens/s"):format(seconds, n_new / seconds))
  work.row("  of copy", ("%.3f"):format(bytes / seconds / roofline.bandwidth),
    bytes / seconds / roofline.bandwidth, 0.6)
  graph_row(run)
  if theirs.seconds then -- of as many tokens
    work.versus("generate(), a token", seconds / n_new, theirs.seconds / theirs.tokens, 8)
  end
end

return model
