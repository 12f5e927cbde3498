-- vectors.lua - a task that has nothing to do with text: a number predicted from a vector.
--
-- A sample is { x = { numbers }, y = number, key }. It shows what a task needs, and that training, its
-- checkpoints, plans and references know nothing else.
local core = require "dopl.core"
local loader = require "dopl.data.loader"
local loss = require "dopl.train.loss"
local nn = require "dopl.nn"
local rng = require "dopl.util.rng"
local task = require "dopl.task"

local op = core.ops
local vectors = {}

local WIDTH <const>, HIDDEN <const> = 4, 8

function vectors.model(seed)
  local p = nn.parameters(seed or 1)
  local w1, b1 = p:normal("layers.1.w", "matrix", 0.5, HIDDEN, WIDTH),
    p:constant("layers.1.b", "bias", 0, HIDDEN)
  local w2, b2 = p:normal("layers.2.w", "matrix", 0.5, 1, HIDDEN),
    p:constant("layers.2.b", "bias", 0, 1)
  return { parameters = p, predict = function(_, x)
    return op.linear(op.tanh(op.linear(x, w1, b1)), w2, b2)
  end }
end

-- y is the sum of x times `slope`.
function vectors.samples(name, n, slope)
  local draws, list = rng.new(1, name), {}
  for i = 1, n do
    local x, sum = {}, 0
    for k = 1, WIDTH do
      x[k] = draws:uniform()
      sum = sum + x[k]
    end
    list[i] = { x = x, y = slope * sum, key = name .. i }
  end
  return list
end

function vectors.objective(name, l, slope)
  return { name = name, loss = l, data = loader.new { samples = vectors.samples(name, 10, slope),
    batch_size = 4, seed = 1, stream = name } }
end

vectors.asked = 0 -- how many samples the starting model was asked about

local function predict(model, batch)
  local x = core.tensor(batch.x)
  return op.view(model:predict(x), batch.n_samples)
end

vectors.task = task.new {
  name = "vectors", unit = "vectors", scores = { "prediction", "error" },
  cost = function() return 1 end,
  count = function(samples) return { n_samples = #samples, n_labels = #samples } end,
  pack = function(part, whole)
    local batch = { samples = part.samples, keys = part.keys, n_samples = part.n_samples,
      n_labels = part.n_samples, whole = whole, x = {}, y = {} }
    for i, sample in ipairs(part.samples) do batch.x[i], batch.y[i] = sample.x, sample.y end
    return batch
  end,
  score = function(model, batches)
    local list = {}
    for i, batch in ipairs(batches) do
      local prediction = predict(model, batch)
      list[i] = { prediction = prediction, error = prediction - core.tensor(batch.y),
        whole = batch.whole }
    end
    return list
  end,
  references = { prediction = {
    ask = function(model, batch)
      vectors.asked = vectors.asked + batch.n_samples
      return predict(model, batch):tolist()
    end,
    join = function(values) return core.tensor(values) end,
    attach = function(s, _, batch, reference) s.before = reference:values("prediction", batch) end,
  } },
}

-- The mean squared error.
vectors.error = loss.new { name = "squared_error", needs = { scores = { "error" } },
  value = function(s) return op.sum(op.square(s.error)) * (1 / s.whole.n_samples) end }

-- The mean squared distance from what the starting model said.
vectors.stay = loss.new { name = "stay", needs = { scores = { "prediction" },
  reference = "prediction" }, value = function(s)
  return op.sum(op.square(s.prediction - s.before)) * (1 / s.whole.n_samples)
end }

return vectors
