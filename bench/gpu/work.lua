--- work.lua - shared parts of gpu.lua's sections: sizes, batches, clock, table, PyTorch's answers.

local dopl = require "dopl"
local core, json = dopl.core, require "dopl.util.json"

local work = {}

work.sizes = {
  ["1b"] = {
    layers = 24, width = 2048, head_dim = 128, inner = 5504, vocab = 51200,
    samples = { 128, 27 },   -- about 8,000 and 1,700 tokens
    elements = 1 << 28,      -- of an optimizer pass, and of a copy
    side = 8192,             -- of a square product
    rows = 8192,             -- of an operator
    norm_rows = 1 << 16,     -- of one bound by memory: more than caches hold, longer than a launch
    prompts = 32, tokens = 200,
    times = { 2, 1.1 },      -- how much faster than PyTorch as written, and tuned, a step is to be
  },
  ["360m"] = {
    layers = 24, width = 1024, head_dim = 64, inner = 2816, vocab = 51200, samples = { 128, 27 },
    elements = 1 << 28, side = 8192, rows = 8192, norm_rows = 1 << 17, prompts = 32,
    tokens = 200, times = { 3, 1.3 },
  },
  tiny = { -- for the emulator: whether everything runs, never how fast
    layers = 2, width = 64, head_dim = 32, inner = 96, vocab = 160, samples = { 3, 2 },
    elements = 1 << 13, side = 64, rows = 96, norm_rows = 96, prompts = 2, tokens = 4,
    times = { 0, 0 },
  },
}
-- For the emulator that does nothing: what the host does to queue a step of as many layers as 1b has.
work.sizes.deep = setmetatable({ layers = 24 }, { __index = work.sizes.tiny })

-- ---- the clock

local function seconds_of(fn, times)
  core.sync()
  local begin = core.clock()
  for _ = 1, times do
    local _ <close> = core.scope()
    fn()
  end
  core.sync()
  return (core.clock() - begin) / times
end

function work.median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

--- Seconds of one call: the median of rounds, each of as many calls as last 20 ms between two waits
-- for the device. Two calls come first, which make states and choose algorithms.
function work.time(fn, rounds)
  local SPAN <const> = 0.02
  seconds_of(fn, 1)
  local times = math.max(1, math.min(200, math.ceil(SPAN / seconds_of(fn, 1))))
  local all = {}
  for i = 1, rounds do all[i] = seconds_of(fn, times) end
  return work.median(all)
end

-- ---- the model

--- A model of the size, with random weights in bf16.
function work.model(p, size)
  return dopl.models.new({
    architecture = "llama", vocab_size = size.vocab, hidden_size = size.width,
    n_layers = size.layers, heads = size.width // size.head_dim,
    kv_heads = size.width // size.head_dim, intermediate_size = size.inner, dtype = "bf16",
  }, p.seed)
end

--- Mean negative log-likelihood of a batch's labels.
function work.loss(model, t)
  local values = core.ops.vocab(model:hidden(t), model:head(), t.rows, t.labels)
  return -values:select(0):mean()
end

--- Floating-point operations of the model in one step, forward and backward: real tokens, labelled
-- rows of the head, half of the attention's squares. Recomputation would not count.
function work.step_flops(size, batch)
  local c, squares = size.width, 0
  local body = size.layers * (4 * c * c + 3 * c * size.inner)
  for s = 1, batch.n_samples do
    squares = squares + (batch.offsets[s + 1] - batch.offsets[s]) ^ 2
  end
  return 6 * body * batch.n_tokens + 6 * c * size.vocab * batch.n_labels
    + 6 * size.layers * c * squares
end

-- ---- PyTorch

local function read_line(command)
  local pipe = assert(io.popen(command))
  local line = pipe:read "a"
  return pipe:close() and line or nil
end

--- What bench/peers/gpu.py answers to a request, or an empty table where there is no --python.
function work.ask(p, section, request)
  if p.python == "" then return {} end
  core.trim() -- PyTorch needs the memory that our pool keeps
  request.section, request.rounds, request.seed = section, p.rounds, p.seed
  request.device = p.cpu_peer and "cpu" or "cuda"
  local path = os.tmpname()
  json.save(path, request)
  local answer = read_line(("'%s' '%s/peers/gpu.py' '%s'"):format(p.python,
    arg[0]:match "^(.*)/" or ".", path))
  os.remove(path)
  if not answer then
    print(("  PyTorch's side of '%s' ended early; its message is above"):format(section))
    return {}
  end
  return json.decode(answer)
end

-- ---- the table

work.judges = true -- whether lines say if a goal is reached: not where figures mean nothing

--- A line: what, the figure, and where `goal` is given whether it is reached (at_most: by being no
-- more than that).
function work.row(label, text, value, goal, at_most)
  local verdict = ""
  if goal and value and work.judges then
    local good = at_most and value <= goal or not at_most and value >= goal
    verdict = ("goal %s%g: %s"):format(at_most and "at most " or "", goal,
      good and "reached" or "missed")
  end
  print(("  %-50s %-40s %s"):format(label, text, verdict))
end

--- A line for PyTorch's seconds beside ours.
function work.versus(label, ours, theirs, goal)
  if not theirs then return end
  work.row("  PyTorch, " .. label, ("%.3f ms, %.2f times ours"):format(1e3 * theirs, theirs / ours),
    theirs / ours, goal)
end

return work
