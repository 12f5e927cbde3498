--- train/reference.lua - what the frozen starting model says of each sample, computed once.
--
-- Preference losses and KL compare the model with the one training started from. That one never
-- changes, so instead of keeping a second model it is asked about every sample before the first
-- step, and its answers are kept under the samples' content keys. A task says what can be asked, by
-- kind (`references` of dopl.task):
--
--     ask(model, batch)      one value a sample: a number, or a tensor
--     join(values)           those of a batch's samples as a tensor
--     attach(s, model, batch, reference)   puts them where a loss reads them
--     keep(model)            optional: a tensor of the model to keep beside them
--     `twins`                whether it is asked about refusal pairs, too
--     bytes(model, samples)  optional: memory that the answers take, for a plan
--
-- Refusals are drawn afresh each step, but the draw is a function of seed and step, so the pairs that
-- will come up are known beforehand.
-- @module dopl.train.reference

local causal_lm = require "dopl.task.causal_lm"
local check = require "dopl.util.check"
local chosen = require "dopl.data.chosen"
local core = require "dopl.core"

local reference = {}
local Reference = {}
Reference.__index = Reference

--- An empty cache of one starting model. The model must not change between calls of `add`.
-- @param model
-- @tparam[opt] Task task default: dopl.task.causal_lm
-- @treturn Reference
function reference.new(model, task)
  return setmetatable({ model = model, task = task or causal_lm, answers = {}, kept_of = {},
    size = 0 }, Reference)
end

-- Asks about the samples of a batch that there is no answer for, as a separate batch.
local function add(self, batch, kind, how)
  local known = self.answers[kind] or {}
  self.answers[kind] = known
  local samples, seen = {}, {}
  for i, key in ipairs(batch.keys) do
    if known[key] == nil and not seen[key] then
      samples[#samples + 1], seen[key] = batch.samples[i], true
    end
  end
  if #samples == 0 then return end
  local new = chosen.new(samples)
  local scope <close> = core.scope()
  local values = how.ask(self.model, self.task.pack(new))
  for i, key in ipairs(new.keys) do
    known[key] = values[i]
    if type(values[i]) == "userdata" then
      scope:keep(values[i])
      self.size = self.size + values[i]:bytes()
    end
  end
end

--- Asks the model about the samples of a batch (and their refusal pairs) that are not known yet.
-- @param batch packed, or chosen (dopl.data.chosen)
-- @tparam string kind one that the task knows
function Reference:add(batch, kind)
  local how = self.task.references[kind]
  if not how then
    check.choice("reference:add: kind", kind, check.keys(self.task.references))
  end
  local _ <close> = core.no_grad()
  if how.keep and not self.kept_of[kind] then self.kept_of[kind] = how.keep(self.model) end
  add(self, batch, kind, how)
  if how.twins and batch.twin then add(self, batch.twin, kind, how) end
end

--- Asks about every batch that a loader will give in its next `steps` steps, and leaves the loader
-- where it stood.
-- @param loader from dopl.data.loader
-- @tparam integer steps
-- @tparam string kind
-- @tparam integer max the largest cost of one forward pass
function Reference:prepare(loader, steps, kind, max)
  local state = loader:state()
  local epoch = loader:steps_per_epoch()
  if not loader.refuse and not loader.drop_last then
    steps = math.min(steps, 2 * epoch) -- two epochs hold every sample
  end
  for _ = 1, steps do
    for _, part in ipairs((loader:next():split { max = max, cost = self.task.cost })) do
      self:add(part, kind)
    end
  end
  loader:restore(state)
end

--- What the model said of a batch's samples, as a tensor.
-- @tparam string kind
-- @param batch
function Reference:values(kind, batch)
  local known, values = self.answers[kind] or {}, {}
  for i, key in ipairs(batch.keys) do
    values[i] = known[key]
    if values[i] == nil then
      error(("reference: a sample that was not prepared (its content key is %s): reference:add(batch, "
        .. "\"%s\") asks the starting model"):format(key, kind), 2)
    end
  end
  return self.task.references[kind].join(values)
end

--- The tensor of the starting model that comes with a kind: of "hidden", the head.
function Reference:kept(kind) return self.kept_of[kind] end

--- Bytes it holds: of samples, and of the model.
-- @treturn integer
-- @treturn integer
function Reference:bytes()
  local kept = 0
  for _, tensor in pairs(self.kept_of) do kept = kept + tensor:bytes() end -- a sum of integers
  return self.size + kept, kept
end

return reference
