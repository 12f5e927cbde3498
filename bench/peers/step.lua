--- step.lua - dopl's side of the comparison with PyTorch: answers requests, one JSON object per line.
--
-- compare.py starts it (with --trust, for standard input) and documents the requests. A batch has
-- dopl's layout: packed, without each sample's last token if no label follows it.

local dopl = require "dopl"
local core, json, op = dopl.core, require "dopl.util.json", dopl.core.ops

local model, optimizer
local batches = {}
local requests = {}

local function read_json(path)
  return json.decode(assert(core.files.read(path)), path)
end

function requests.open(r)
  local c = read_json(r.config)
  model = dopl.models.new({
    architecture = "llama",
    vocab_size = c.vocab_size,
    hidden_size = c.hidden_size,
    n_layers = c.num_hidden_layers,
    heads = c.num_attention_heads,
    kv_heads = c.num_key_value_heads,
    intermediate_size = c.intermediate_size,
    rope_base = c.rope_theta,
    norm_eps = c.rms_norm_eps,
    tie_embeddings = c.tie_word_embeddings,
  }, 1)
  do
    local _ <close> = core.scope()
    model:import((core.safetensors.load(r.weights)))
  end
  optimizer = dopl.optim.adamw({
    lr = r.lr, betas = r.betas, eps = r.eps, weight_decay = r.weight_decay,
  }):attach(model.parameters)
  return { version = dopl.version, threads = core.threads(r.threads) }
end

function requests.batch(r)
  local given = read_json(r.path)
  local ids, positions, offsets, rows, labels = {}, {}, { 0 }, {}, {}
  for s = 1, #given.offsets - 1 do
    local first, last = given.offsets[s] + 1, given.offsets[s + 1]
    if given.labels[last] < 0 then last = last - 1 end
    for i = first, last do
      ids[#ids + 1], positions[#positions + 1] = given.ids[i], i - first
      if given.labels[i] >= 0 then
        rows[#rows + 1], labels[#labels + 1] = #ids - 1, given.labels[i]
      end
    end
    offsets[#offsets + 1] = #ids
  end
  batches[r.name] = {
    ids = core.i32(ids), positions = core.i32(positions), offsets = core.i32(offsets),
    rows = core.i32(rows), labels = core.i32(labels), n_labels = #labels,
  }
  return { rows = #ids, head_rows = #labels }
end

local function token_mean(hidden, weight, rows, labels, n)
  return op.vocab(hidden, weight, rows, labels):select(0):sum() * (-1 / n)
end

-- Forward and backward; returns the loss as a number.
local function run_model(b)
  local _ <close> = core.scope()
  local loss = token_mean(model:hidden(b), model:head(), b.rows, b.labels, b.n_labels)
  loss:backward()
  return loss:item()
end

function requests.gradients(r)
  model.parameters:zero_grad()
  local loss = run_model(batches[r.name])
  local _ <close> = core.scope()
  core.safetensors.save(r.out, model:export_grads(), { format = "pt" })
  return { loss = loss }
end

function requests.step(r)
  local begin = core.clock()
  model.parameters:zero_grad()
  local loss = run_model(batches[r.name])
  optimizer:step {}
  return { seconds = core.clock() - begin, loss = loss }
end

function requests.optimizer_pass()
  local begin = core.clock()
  optimizer:step {}
  return { seconds = core.clock() - begin }
end

-- One figure is the difference of two large ones, so each is the median of a few, taken in turn.
local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

function requests.head(r)
  local b = batches[r.name]
  local n, width = b.n_labels, model.config.hidden_size
  local _ <close> = core.scope()
  local weight = model:head():detach():requires_grad(true)
  local x = core.randn(1, 1, 1.0, n, width):requires_grad(true)
  local dy = core.randn(1, 2, 1 / n, n, model.config.vocab_size)
  local every = {}
  for i = 1, n do every[i] = i - 1 end
  local rows = core.i32(every)
  local function time(fn)
    local _ <close> = core.scope()
    weight:set_grad(nil)
    x:set_grad(nil)
    local begin = core.clock()
    fn()
    return core.clock() - begin
  end
  local whole, products = {}, {}
  for i = 1, 3 do
    whole[i] = time(function() token_mean(x, weight, rows, b.labels, n):backward() end)
    products[i] = time(function() op.linear(x, weight):backward(dy) end)
  end
  local seconds = median(whole)
  return { seconds = seconds, cross_entropy = seconds - median(products) }
end

function requests.memory()
  return { planned_bytes = core.memory().peak }
end

for line in io.lines() do
  local request = json.decode(line)
  print(json.encode(requests[request.op](request)))
  io.stdout:flush()
end
