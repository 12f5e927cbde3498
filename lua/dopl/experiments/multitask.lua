--- experiments/multitask.lua - a small model that learns several tasks at once: accuracy by task.
--
-- Every method fine-tunes the same model. That model was trained on all tasks jointly for a while.
-- @module dopl.experiments.multitask

local check = require "dopl.util.check"
local chat = require "dopl.data.chat"
local data = require "dopl.data"
local generate = require "dopl.task.generate"
local loss = require "dopl.train.loss"
local metrics = require "dopl.metrics"
local models = require "dopl.models"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local settings = require "dopl.experiments.settings"
local tasks = require "dopl.data.tasks"
local text = require "dopl.text"
local train = require "dopl.train"

local multitask = {}
local Bench = {}
Bench.__index = Bench

local OPEN <const> = check.fields("experiments.multitask.open", {
  run = { type = "table", "where metrics go, from dopl.run" },
  train = { min = 0, default = 320, "rows of each task to learn from" },
  test = { min = 0, default = 60, "rows of each task to be asked" },
  seed = { default = 1, "seed of the rows" },
  start = { min = 0, default = 150, "joint steps that make the model which is fine-tuned" },
})
local COMPARE <const> = check.fields("", {
  label = { type = "string", required = true, "the name of the row" },
  optimizer = { has = "attach", "one like optim.adamw { lr = 1e-4 }" },
  schedule = { type = "table|function", "one of dopl.schedule" },
  steps = { type = "integer", min = 0, required = true, "steps; 0 evaluates the model as it is" },
  seed = { default = 1, "seed of the order of the data" },
  stream = { default = "", "name of the random stream of the data" },
})

--- Makes the tasks' rows and a tokenizer of them.
-- @tparam[opt] table options
-- @treturn Bench names = the tasks'
function multitask.open(options)
  local o = check.options(OPEN, options)
  local self = setmetatable({ run = o.run, seed = o.seed, steps = o.start, names = tasks.names,
    samples = {}, asked = {} }, Bench)
  local learnt, texts = {}, {}
  for _, name in ipairs(self.names) do
    learnt[name], self.asked[name] = tasks.generate(name,
      { train = o.train, test = o.test, seed = o.seed })
    for _, row in ipairs(learnt[name]) do
      texts[#texts + 1], texts[#texts + 2] = row.question, row.answer
    end
  end
  self.tok = text.train(texts, { vocab_size = 512, special = { "<|endoftext|>" } })
  for _, name in ipairs(self.names) do self.samples[name] = data.samples(self.tok, learnt[name]) end
  return self
end

--- The fraction of a task's questions whose greedy answer matches exactly.
function Bench:accuracy(model, name)
  collectgarbage() -- the last training run's states look like a few bytes to Lua
  local prompts, right = {}, 0
  for i, row in ipairs(self.asked[name]) do
    prompts[i] = chat.prompt(self.tok, row.question, "plain")
  end
  local answers = generate.run(model, prompts, { eos = chat.ends(self.tok), max_tokens = 100 })
  for i, row in ipairs(self.asked[name]) do
    if self.tok:decode(answers[i]) == row.answer then right = right + 1 end
  end
  return right / #prompts
end

local function fit(self, m)
  local objectives = {}
  for i, name in ipairs(self.names) do
    objectives[i] = { name = name, loss = loss.gd(), data = data.loader {
      samples = self.samples[name], batch_size = 16, seed = m.seed, stream = m.stream .. name } }
  end
  return train.fit { model = self.model, label = m.label, steps = m.steps, run = self.run, clip = 1.0,
    objectives = objectives, optimizer = m.optimizer, schedule = m.schedule,
    checkpoint = self.run and { every = settings.checkpoint } }
end

-- The model to fine-tune, with its first weights.
local function original(self)
  if not self.model then
    local config = { vocab_size = self.tok:size() }
    for key, value in pairs(settings.authors.model) do config[key] = value end
    self.model = models.new(config, self.seed)
    fit(self, { label = "start", steps = self.steps, seed = self.seed, stream = "start ",
      optimizer = optim.adamw { lr = 2e-3, betas = { 0.9, 0.95 }, weight_decay = 0.01 },
      schedule = schedule.joint() })
    self.first = self.model.parameters:snapshot()
  end
  self.model.parameters:restore(self.first)
  return self.model
end

-- Evaluates all tasks.
local function evaluate(self, model, label)
  local row, all = { label = label }, {}
  for i, name in ipairs(self.names) do
    row[name] = self:accuracy(model, name)
    all[i] = row[name]
  end
  row.average, row.parameters = metrics.mean(all), model.parameters:numel()
  if self.run then
    local logged = { kind = "result" }
    for key, value in pairs(row) do logged[key] = value end
    self.run:log(logged)
  end
  return row
end

--- Fine-tunes the model on all tasks. A resumed run takes the results that it has.
-- @tparam table method label, optimizer, schedule, steps (0: the model as it is); seed of the order of
-- the data
-- @treturn table label, one accuracy a task, average, parameters
function Bench:compare(method)
  local m = check.options(COMPARE, method, 3, "bench:compare")
  local model = original(self)
  if m.steps > 0 then fit(self, m) end
  local function work() return evaluate(self, model, m.label) end
  return self.run and self.run:once(m.label, work) or work()
end

return multitask
