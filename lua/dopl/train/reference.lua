--- train/reference.lua - what the frozen starting model says of each sample, computed once.
--
-- Preference losses and KL compare the model with the one training started from. That one never
-- changes, so instead of keeping a second model it is asked about every sample before the first
-- step, and its answers are kept under the samples' content keys: one number a sample for
-- log-likelihoods, the final hidden states of labelled positions (C floats each) and one copy of the
-- head for KL. Refusals are drawn afresh each step, but the draw is a function of seed and step, so
-- the pairs that will come up are known beforehand.
-- @module dopl.train.reference

local core = require "dopl.core"
local check_id = require("dopl.data.batch").check_id
local loss = require "dopl.train.loss"

local op = core.ops
local reference = {}
local Reference = {}
Reference.__index = Reference

--- An empty cache of one starting model. The model must not change between calls of `add`.
-- @param model
-- @treturn Reference
function reference.new(model)
  return setmetatable({ model = model, nlls = {}, states = {}, size = 0 }, Reference)
end

-- The samples of a batch that `known` has no entry for, as a batch of their own.
local function unknown_of(batch, known)
  local pack = require("dopl.data.batch").pack
  local samples, seen = {}, {}
  for i, key in ipairs(batch.keys) do
    if known[key] == nil and not seen[key] then
      samples[#samples + 1] = batch.samples[i]
      seen[key] = true
    end
  end
  return #samples > 0 and pack(samples) or nil
end

local function add_nll(self, batch)
  local new = unknown_of(batch, self.nlls)
  if not new then return end
  local scope <close> = core.scope()
  local nll = loss.score(self.model, new).nll:tolist()
  for i, key in ipairs(new.keys) do self.nlls[key] = nll[i] end
end

local function add_states(self, batch)
  local new = unknown_of(batch, self.states)
  if not new then return end
  local scope <close> = core.scope()
  local t = new:tensors()
  check_id("a sample", new.largest, self.model:head():shape(1), 4)
  local rows = op.embedding(self.model:hidden(t), t.rows)
  for i, key in ipairs(new.keys) do
    local first = new.label_offsets[i]
    local part = op.slice(rows, first, new.label_offsets[i + 1] - first):clone()
    self.states[key] = scope:keep(part)
    self.size = self.size + part:bytes()
  end
end

--- Asks the model about the samples of a batch (and their twins) that are not known yet.
-- @param batch
-- @tparam string kind "nll" or "hidden"
function Reference:add(batch, kind)
  local _ <close> = core.no_grad()
  if kind == "hidden" then
    if not self.head then self.head = self.model:head():clone() end
    add_states(self, batch)
  else
    add_nll(self, batch)
    if batch.twin then add_nll(self, batch.twin) end
  end
end

--- Asks about every batch that a loader will give in its next `steps` steps, and leaves the loader
-- where it stood.
-- @param loader from dopl.data.loader
-- @tparam integer steps
-- @tparam string kind
-- @tparam integer max_tokens of one forward pass
function Reference:prepare(loader, steps, kind, max_tokens)
  local state = loader:state()
  local epoch = loader:steps_per_epoch()
  if not loader.refusals and not loader.drop_last then
    steps = math.min(steps, 2 * epoch) -- two epochs hold every sample
  end
  for _ = 1, steps do
    for _, part in ipairs(loader:next():split { max_tokens = max_tokens }) do
      self:add(part, kind)
    end
  end
  loader:restore(state)
end

local function known(map, key, kind)
  local value = map[key]
  if value == nil then
    error(("reference: a sample that was not prepared (its content key is %s): reference:add(batch, "
      .. "\"%s\") asks the starting model"):format(key, kind), 3)
  end
  return value
end

--- Negative log-likelihoods of a batch's samples, [B].
function Reference:nll(batch)
  local values = {}
  for i, key in ipairs(batch.keys) do values[i] = known(self.nlls, key, "nll") end
  return core.tensor(values)
end

--- Hidden states of a batch's labelled positions, [n, C].
function Reference:hidden(batch)
  local parts = {}
  for i, key in ipairs(batch.keys) do parts[i] = known(self.states, key, "hidden") end
  return op.concat(parts)
end

--- Bytes it holds.
function Reference:bytes()
  return self.size + (self.head and self.head:bytes() or 0)
end

return reference
