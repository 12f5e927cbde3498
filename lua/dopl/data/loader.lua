--- data/loader.lua - chooses the samples of each effective batch, in an order fixed by the seed.
--
-- Every objective has its own loader and its own epochs. The order of epoch e is a function of
-- (seed, stream, e); the refusal of a sample is a function of (seed, stream, step, sample). Neither
-- depends on how a batch is later split, so accumulation changes no number. A loader does not look
-- into the samples: a task packs what is chosen (dopl.task).
--
-- The last batch of an epoch is short where batch_size does not divide the number of samples, and a
-- batch_size above it makes every epoch one batch of all samples. `drop_last` leaves short batches
-- out, as long as the epoch has a full one.
--
-- @module dopl.data.loader

local check = require "dopl.util.check"
local rng = require "dopl.util.rng"
local chosen = require "dopl.data.chosen"
local refusals = require "dopl.data.refusals"

local loader = {}
local Loader = {}
Loader.__index = Loader

local DEFAULTS <const> = {
  samples = false, batch_size = 32, seed = 1, stream = "train", tag = false, shuffle = true,
  drop_last = false, refusals = false, refuse = false,
}

local function read_options(opts, level)
  local o = check.options("data.loader", opts, DEFAULTS, level + 2)
  local function need(ok, what, value)
    if not ok then
      error(("data.loader: %s, given %s"):format(what, tostring(value)), level + 2)
    end
  end
  need(type(o.stream) == "string", "stream must be a string", o.stream)
  need(type(o.samples) == "table", "samples must be a list", o.samples)
  need(#o.samples > 0, "samples must not be empty (objective '" .. o.stream .. "')", "none")
  for i, sample in ipairs(o.samples) do
    need(type(sample) == "table" and sample.key ~= nil,
      ("samples must be tables with a content key, as data.samples makes them: number %d"):format(i),
      type(sample) == "table" and "a table without key" or sample)
  end
  need(type(o.batch_size) == "number" and math.tointeger(o.batch_size) and o.batch_size >= 1,
    "batch_size must be an integer of at least 1", o.batch_size)
  need(math.tointeger(o.seed), "seed must be an integer", o.seed)
  if o.refusals then
    need(type(o.refusals) == "table" and #o.refusals > 0, "refusals must be a list of texts",
      type(o.refusals) == "table" and "none" or o.refusals)
    for _, text in ipairs(o.refusals) do
      need(type(text) == "string", "refusals must be a list of texts", text)
    end
    o.refuse = o.refuse or "replace"
  end
  need(not o.refuse or o.refuse == "replace" or o.refuse == "twin",
    "refuse must be 'replace' or 'twin'", o.refuse)
  need(not o.refuse or o.refusals, "refuse needs refusals", "none")
  need(not o.refusals or o.samples.tok,
    "refusals need samples that know their tokenizer (data.samples)", "a plain list")
  return o
end

--- A loader of effective batches.
-- @tparam table opts samples (a list of tables with a `key` of their content, as `data.samples` makes
-- them), batch_size = 32, seed, stream = name of the random stream, tag = objective (default: the
-- stream's name), shuffle = true, drop_last = false, refusals = list of texts, refuse = "replace" (the
-- refusal is the answer: IDK) or "twin" (the batch keeps the answer and carries `twin`: DPO, AP)
-- @treturn Loader
function loader.new(opts)
  local o = read_options(opts, 2)
  local self = setmetatable({
    samples = o.samples, batch_size = o.batch_size, seed = math.tointeger(o.seed),
    stream = o.stream, tag = o.tag or o.stream, shuffle = o.shuffle, drop_last = o.drop_last,
    refuse = o.refuse, steps = 0, epoch_now = 1, used = 0,
  }, Loader)
  if o.refusals then
    self.n_refusals, self.answer = #o.refusals, refusals.answers(o.samples, o.refusals)
  end
  return self
end

local function order_of(self, epoch)
  if self.ordered ~= epoch then
    local order = {}
    for i = 1, #self.samples do order[i] = i end
    if self.shuffle then rng.new(self.seed, self.stream .. "/epoch/" .. epoch):shuffle(order) end
    self.order, self.ordered = order, epoch
  end
  return self.order
end

--- Batches in one epoch.
function Loader:steps_per_epoch()
  local full = #self.samples // self.batch_size
  local short = #self.samples % self.batch_size > 0
  if short and not (self.drop_last and full > 0) then full = full + 1 end
  return full
end

--- The epoch, counted from 1, of the batch that `next` gave last (1 before the first).
function Loader:epoch()
  return self.epoch_now
end

--- Which refusal sample `index` gets at a step: a function of the arguments and the seed alone.
-- @treturn integer index into the list of refusals
function Loader:refusal_of(step, index)
  local name = ("%s/refusal/%d/%d"):format(self.stream, step, index)
  return rng.new(self.seed, name):integer(self.n_refusals)
end

--- The samples of the next effective batch; never ends, a new epoch follows the last batch of the one
-- before.
-- @treturn Chosen with `step` (from 1), `epoch` and `indices` (of its samples in the list)
function Loader:next()
  local n = #self.samples
  local left = n - self.used
  if left == 0 or (self.drop_last and left < self.batch_size and self.used > 0) then
    self.epoch_now, self.used = self.epoch_now + 1, 0
  end
  local order = order_of(self, self.epoch_now)
  local step, indices = self.steps + 1, {}
  local samples, refused = {}, self.refuse and {} or nil
  for i = self.used + 1, math.min(self.used + self.batch_size, n) do
    local index = order[i]
    local k = #indices + 1
    indices[k], samples[k] = index, self.samples[index]
    if refused then refused[k] = self.answer(samples[k], self:refusal_of(step, index)) end
  end
  self.used, self.steps = self.used + #indices, step
  local c = chosen.new(self.refuse == "replace" and refused or samples, {
    tag = self.tag, source = self.samples, twins = self.refuse == "twin" and refused or nil,
  })
  c.step, c.epoch, c.indices = step, self.epoch_now, indices
  return c
end

--- A short stable name of the loader's samples: the hash of their keys in order.
function Loader:fingerprint()
  local keys = {}
  for i, sample in ipairs(self.samples) do keys[i] = sample.key end
  return ("%016x"):format(rng.hash(table.concat(keys)))
end

--- Where the loader stands; plain data that survives JSON.
function Loader:state()
  return { step = self.steps, epoch = self.epoch_now, used = self.used, samples = #self.samples,
           stream = self.stream, seed = self.seed }
end

--- Goes on where `state` was taken, on the same samples, stream and seed.
function Loader:restore(state)
  for _, field in ipairs { "samples", "stream", "seed" } do
    local mine = field == "samples" and #self.samples or self[field]
    if type(state) ~= "table" or state[field] ~= mine then
      error(("loader:restore: the state's %s is %s, the loader's %s"):format(field,
        tostring(type(state) == "table" and state[field]), tostring(mine)), 2)
    end
  end
  self.steps, self.epoch_now, self.used = state.step, state.epoch, state.used
end

return loader
