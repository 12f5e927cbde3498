--- experiments/tofu.lua - the unlearning benchmark that recipes share: data, models, evaluation.
--
-- With no data and no model given, the data are the fictitious authors, and the model a small one
-- trained on them (and on general knowledge) until it answers by heart; with `--data DIR` the rows
-- are TOFU's, and the small model is trained on those. Because it is small, the gold standard exists
-- too: the model retrained without the forget set. Both are cached by the content of all that they
-- depend on.
-- @module dopl.experiments.tofu

local core = require "dopl.core"
local cache = require "dopl.run.cache"
local check = require "dopl.util.check"
local data = require "dopl.data"
local fit_settings = require "dopl.train.settings"
local figures = require "dopl.util.figures"
local loss = require "dopl.train.loss"
local metrics = require "dopl.metrics"
local models = require "dopl.models"
local nn = require "dopl.nn"
local optim = require "dopl.optim"
local overlap = require "dopl.data.overlap"
local progress = require "dopl.util.progress"
local reference = require "dopl.train.reference"
local settings = require "dopl.experiments.settings"
local summary = require "dopl.experiments.summary"
local text = require "dopl.text"
local train = require "dopl.train"

local tofu = {}
local Bench = {}
Bench.__index = Bench

--- The parameters of every recipe that uses this benchmark. A recipe adds more.
-- @tparam[opt] table more
-- @treturn table for dopl.params
function tofu.params(more)
  check.type("experiments.tofu.params", more or {}, "table")
  local p = {
    data = { "", "folder of TOFU files; default: generated fictitious authors" },
    split = { "forget01", "forget01, forget05, forget10, real_world or custom (with --data)" },
    task = { 1, "which of the disjoint forget sets" },
    authors = { settings.data.authors, "fictitious authors (without --data)" },
    questions = { settings.data.questions, "questions about each author (without --data)" },
    retain_rows = { settings.data.retain_rows, "retain rows to train on (with --data)" },
    rows = { settings.data.rows, "rows of each evaluation set" },
    max_tokens = { 200, "most tokens of a question and its generated answer together" },
    model_seed = { 1, "seed of the small model and of the authors" },
    epochs = { 0, "epochs that train the small model; 0: until it answers by heart" },
    checkpoint = { settings.checkpoint, "steps between checkpoints; 0: no checkpoints" },
    keep_checkpoints = { 0, "checkpoints to keep after unlearning, to fork from" },
    dtype = { "f32", "type of the stored weights during unlearning: f32 or bf16" },
    fresh = { false, "train the small models again instead of taking them from the cache" },
  }
  for key, value in pairs(more or {}) do p[key] = value end
  return p
end

-- Every k-th row, so that even a few rows come from all authors.
local function spread(rows, n)
  if #rows <= n then return rows end
  local out = {}
  for i = 1, n do out[i] = rows[(i - 1) * #rows // n + 1] end
  return out
end

--- The rows of a forget set: generated, or from --data.
-- @tparam table p resolved `tofu.params`
-- @treturn table as of data.tofu.open
function tofu.rows(p)
  if p.data == "" then
    return data.authors.open { authors = p.authors, questions = p.questions, seed = p.model_seed,
      forget = settings.data.forget_authors, task = p.task }
  end
  return data.tofu.open(p.data, { split = p.split, task = p.task, retain_rows = p.retain_rows })
end

-- The rows that the small model learns: forget and retain rows, general facts, and refusals of
-- questions that nobody can answer.
local function training_rows(set, with_forget, seed)
  local rows = {}
  local function add(list)
    for _, row in ipairs(list or {}) do rows[#rows + 1] = row end
  end
  if with_forget then add(set.forget) end
  add(set.retain)
  if set.asks_others then add(set.retain_perturbed) end
  add(set.real_authors)
  add(set.world_facts)
  add(data.unanswerable.generate { seed = seed })
  return rows
end

-- Every task and the retrained model share one tokenizer.
local function train_tokenizer(rows)
  local texts = {}
  for _, row in ipairs(rows) do
    texts[#texts + 1] = row.question
    texts[#texts + 1] = row.answer
  end
  table.sort(texts) -- tasks differ in order only
  for _, refusal in ipairs(data.refusals.list()) do texts[#texts + 1] = refusal end
  return text.train(texts, { vocab_size = settings.vocab_size, special = { "<|endoftext|>" } })
end

-- The perturbed retain rows that the small model learns. If it learns a part of the retain rows, these
-- are the rows of that part. If none match (the real-world set has other questions there), it learns
-- all of them, and set.asks_others is true.
local function known_retain(set)
  local known, out = {}, {}
  for _, row in ipairs(set.retain) do known[row.question] = true end
  for _, row in ipairs(set.retain_perturbed) do
    if known[row.question] then out[#out + 1] = row end
  end
  set.asks_others = #out == 0
  return #out > 0 and out or set.retain_perturbed
end

-- Finds the metrics that the data allow and the names of the aggregates, before any training.
local function inspect(self)
  local held, entropy = {}, false
  for i, set in ipairs(self.sets) do
    held[i] = metrics.inspect(self.tok, set, { max_tokens = self.p.max_tokens })
    entropy = entropy or set.kind == "forget" and held[i].TE
    table.move(held[i].notes, 1, #held[i].notes, #self.notes + 1, self.notes)
  end
  if not entropy then
    error(("experiments.tofu.open: no question of the forget set leaves room for an answer; give more "
      .. "than --max_tokens %d"):format(self.p.max_tokens), 3)
  end
  self.keys = metrics.names(held)
  if self.keys.OVR ~= metrics.keys.OVR then
    self.notes[#self.notes + 1] = ("The data allow the aggregates %s, %s and %s."):format(
      self.keys.UFE, self.keys.MU, self.keys.OVR)
  end
end

local OPEN <const> = check.fields("experiments.tofu.open", {
  run = { type = "table", "where metrics go, from dopl.run" },
  note = { type = "function", default = core.note, "function(text), called with messages" },
})

--- Opens the bench for resolved parameters (`tofu.params`).
-- @tparam table p
-- @tparam[opt] table options
-- @treturn Bench keys = names of the aggregates that these data allow; notes = what to know of them
function tofu.open(p, options)
  local o = check.options(OPEN, options)
  check.type("experiments.tofu.open", p, "table")
  for _, name in ipairs(check.keys(tofu.params())) do
    if p[name] == nil then
      error(("experiments.tofu.open: the parameter '%s' is missing; give dopl.params(tofu.params "
        .. "{ ... })"):format(name), 2)
    end
  end
  for name, least in pairs { rows = 1, steps = 0, epochs = 0, authors = 2, questions = 1, task = 1,
    retain_rows = 1, checkpoint = 0, keep_checkpoints = 0, max_tokens = 1 } do -- now, not in an hour
    if p[name] ~= nil then check.range("--" .. name, p[name], least, math.huge, 3) end
  end
  if p.dtype then check.choice("--dtype", p.dtype, nn.dtypes, 3) end
  if p.split then check.choice("--split", p.split, data.tofu.splits, 3) end
  local self = setmetatable({ p = p, run = o.run, note = o.note, set = tofu.rows(p) }, Bench)
  self.notes = table.move(self.set.notes or {}, 1, #(self.set.notes or {}), 1, {})
  local retain = known_retain(self.set)
  self.setting = p.data == "" and settings.authors or settings.tofu
  self.epochs = p.epochs > 0 and p.epochs or self.setting.pretrain.epochs
  local all = training_rows(self.set, true, p.model_seed)
  self.tok = train_tokenizer(all)
  self.refusals = data.refusals.list()
  self.forget = data.samples(self.tok, self.set.forget)
  self.retain = data.samples(self.tok, self.set.retain)
  overlap.tell({ name = "forget", samples = self.forget }, { name = "retain", samples = self.retain },
    function(note) self.notes[#self.notes + 1] = note end)
  self.sets = {}
  local function add(name, kind, rows) -- the real-world folder has no fact sets
    if not rows then return end
    self.sets[#self.sets + 1] = { name = name, kind = kind, rows = spread(rows, p.rows) }
  end
  add("forget", "forget", self.set.forget_perturbed)
  add("retain", "retain", retain)
  add("real_authors", "facts", self.set.real_authors)
  add("world_facts", "facts", self.set.world_facts)
  inspect(self)
  for _, note in ipairs(self.notes) do self.note(note) end
  return self
end

-- ---- models

local function config_of(self)
  local config = { vocab_size = self.tok:size() }
  for key, value in pairs(self.setting.model) do config[key] = value end
  return config
end

-- Whether and where training runs write checkpoints. Without a run there is nothing to resume.
local function checkpoint_of(self, folder, stay)
  local every = self.p.checkpoint
  if not self.run or every == 0 then return nil end
  return { every = every, folder = folder, resume = self.run.resumed, stay = stay or 0 }
end

-- Trains the small model on rows until it answers by heart. The run's metrics exclude this, because
-- they must be the same if the model comes from the cache.
local function memorise(self, rows, label, key)
  local pretrain, model = self.setting.pretrain, models.new(config_of(self), self.p.model_seed)
  local loader = data.loader { samples = data.samples(self.tok, rows), seed = self.p.model_seed,
    batch_size = pretrain.batch_size, stream = "pretrain" }
  local folder = self.run and self.run:folder("checkpoints", ("%s-%s"):format(label, key:sub(1, 8)))
  train.fit {
    model = model, label = label, steps = self.epochs * loader:steps_per_epoch(),
    warmup = loader:steps_per_epoch(), clip = 1.0, checkpoint = checkpoint_of(self, folder),
    objectives = { { name = "gd", loss = loss.gd(), data = loader } },
    optimizer = optim.adamw { lr = pretrain.lr, betas = { 0.9, 0.95 }, weight_decay = 0.01 },
  }
  return model
end

-- The rows in an order that does not depend on the task, and their text.
local function in_order(rows)
  local keys, by_key = {}, {}
  for i, row in ipairs(rows) do
    keys[i] = row.question .. "\0" .. row.answer
    by_key[keys[i]] = row
  end
  table.sort(keys)
  local sorted = {}
  for i, key in ipairs(keys) do sorted[i] = by_key[key] end
  return sorted, table.concat(keys, "\1")
end

-- The last bits of a model also depend on the number of threads or the device.
local function computed_by()
  local device, about = core.device()
  return device == "cpu" and core.threads() or about
end

--- The small model trained on rows, or taken from the cache, stored as --dtype says.
-- @tparam {table,...} rows
-- @tparam string label for the progress line
-- @return model
function Bench:trained(rows, label)
  local sorted, content = in_order(rows)
  local key = cache.key("experiments.tofu", core.version, self.setting, self.epochs, self.p.model_seed,
    self.tok:hash(), content, computed_by())
  local model
  if self.p.fresh then
    model = memorise(self, sorted, label, key)
  else
    local weights, _, reason = cache.tensors("model", key, function()
      model = memorise(self, sorted, label, key)
      return model:export()
    end)
    if reason then self.note(("%s: not kept in the cache: %s"):format(label, reason)) end
    if not model then
      model = models.blank(config_of(self))
      model:import(weights)
      self.note(label .. ": from the cache")
    end
  end
  return models.to(model, self.p.dtype or "f32")
end

--- The model before unlearning. Every call returns the same object and restores its first weights.
function Bench:original()
  if not self.model then
    self.model = self:trained(training_rows(self.set, true, self.p.model_seed), "original")
    self.start = self.model.parameters:snapshot()
    self.reference = reference.new(self.model)
  end
  self.model.parameters:restore(self.start)
  return self.model
end

--- The model that never saw the forget set.
function Bench:retrained()
  return self:trained(training_rows(self.set, false, self.p.model_seed), "retrained")
end

-- ---- evaluation

local function evaluate(self, model, label, targeted)
  local results = {}
  local line <close> = progress.new("evaluate " .. label, #self.sets, true)
  for i, set in ipairs(self.sets) do
    results[i] = metrics.evaluate(model, self.tok, set, { refusals = self.refusals,
      max_tokens = self.p.max_tokens })
    line:at(i)
  end
  local row, keys = metrics.aggregate(results, targeted ~= false)
  row.label, row.results, row.keys, row.columns = label, results, keys, summary.columns_of(keys)
  row.faults = {}
  for _, r in ipairs(results) do
    for _, fault in ipairs(r.faults) do
      row.faults[#row.faults + 1] = ("%s: %s"):format(label, fault)
      self.note(row.faults[#row.faults])
    end
    for _, key in ipairs { "R", "P", "TR", "TE", "refused" } do row[r.name .. "_" .. key] = r[key] end
  end
  if self.run then
    local logged = { label = label, kind = "result", dialect = metrics.dialect }
    for _, key in ipairs(check.keys(row)) do
      if type(row[key]) == "number" then logged[key] = row[key] end
    end
    self.run:log(logged)
    local lines = {}
    for _, r in ipairs(results) do table.move(r.samples, 1, #r.samples, #lines + 1, lines) end
    self.run:write_lines(("samples/%s.jsonl"):format((label:gsub("[^%w+.-]+", "-"))), lines)
  end
  return row
end

--- The aggregates of a model on a few rows of each set, for frequent use. It logs nothing.
-- @param model
-- @tparam[opt=10] integer rows of each set
-- @tparam[opt=true] boolean targeted as for `evaluate`
-- @treturn table { [bench.keys.OVR] = ..., ... }
function Bench:glance(model, rows, targeted)
  check.range("bench:glance: rows", rows or 10, 1, math.huge)
  local results = {}
  for i, set in ipairs(self.sets) do
    results[i] = metrics.evaluate(model, self.tok, { name = set.name, kind = set.kind,
      rows = spread(set.rows, rows or 10) }, { refusals = self.refusals,
        max_tokens = self.p.max_tokens })
  end
  return (metrics.aggregate(results, targeted ~= false))
end

--- Evaluates a model on all sets. A resumed run takes the results that it has.
-- @param model
-- @tparam string label
-- @tparam[opt=true] boolean targeted whether a refusal is the desired answer (metrics.aggregate)
-- @treturn table a row: label, aggregates, their names in keys, forget_R, retain_R, refused, results
function Bench:evaluate(model, label, targeted)
  check.type("bench:evaluate: label", label, "string")
  local function work() return evaluate(self, model, label, targeted) end
  local row = self.run and self.run:once(label, work) or work()
  figures.rows(row.results) -- results that a resumed run reads are plain tables
  return figures.row(row)
end

local COMPARE <const> = check.fields("bench:compare", {
  label = { type = "string", required = true, "the name of the row" },
  forget = { type = "table", required = true, has = "needs", "a loss like loss.idk()" },
  retain = { type = "table", required = true, has = "needs", "a loss like loss.gd()" },
  optimizer = { required = true, has = "attach", "one like optim.adamw { lr = 1e-4 }" },
  schedule = { type = "table|function", required = true, "one of dopl.schedule" },
  steps = { type = "integer|string|table", required = true, "as for train.fit" },
  forget_weight = { type = "number", default = 1.0, "factor on the forget loss" },
  retain_weight = { type = "number", default = 1.0, "factor on the retain loss" },
  seed = { type = "integer", shown = "--seed", "seed of the order of the data" },
  clip = { type = "number", "largest norm of the gradient" },
  evaluate = { default = true, "whether the result is evaluated" },
  watch = { type = "function", "function(model, step) -> numbers, called every `every` steps" },
  every = { type = "integer", min = 1, "steps between two calls of watch" },
  diagnostics = { type = "table", "{ every = n }: watches the optimizer (dopl.diagnostics)" },
  from = { type = "table", "where another training run stood, from dopl.run.fork" },
})

local function refusal_mode(l)
  return l.needs.answers == "refusals" and "replace" or l.needs.twin and "twin" or nil
end

local function loader_of(self, l, samples, stream, seed)
  local mode = refusal_mode(l)
  return data.loader { samples = samples, batch_size = self.setting.unlearn.batch_size, seed = seed,
    stream = stream, refusals = mode and self.refusals or nil, refuse = mode }
end

--- Unlearns from the original model and evaluates the result.
-- @tparam table method
-- @treturn table the evaluation's row with seconds, tokens, state_bytes
function Bench:compare(method)
  fit_settings.refuse_old_name("bench:compare", method, 2)
  local m = check.options(COMPARE, method)
  local model, seed = self:original(), m.seed or core.options.seed
  local fit = train.fit {
    model = model, label = m.label, steps = m.steps, run = self.run, clip = m.clip,
    evaluate = m.watch, every = m.every, diagnostics = m.diagnostics,
    objectives = {
      { name = "forget", loss = m.forget, weight = m.forget_weight,
        data = loader_of(self, m.forget, self.forget, "forget", seed) },
      { name = "retain", loss = m.retain, weight = m.retain_weight,
        data = loader_of(self, m.retain, self.retain, "retain", seed) },
    },
    optimizer = m.optimizer, schedule = m.schedule, reference = self.reference,
    checkpoint = checkpoint_of(self, nil, self.p.keep_checkpoints), from = m.from,
  }
  local targeted = refusal_mode(m.forget) ~= nil
  local row = m.evaluate and self:evaluate(model, m.label, targeted)
    or figures.row { label = m.label }
  row.seconds, row.tokens = fit.seconds, fit.tokens
  row.state_bytes = fit.optimizer:state_bytes().total
  row.losses = fit.losses
  return row
end

--- Prints rows and writes the run's report; see dopl.experiments.summary.
function Bench:report(rows, options) return summary.show(self, rows, options) end

return tofu
