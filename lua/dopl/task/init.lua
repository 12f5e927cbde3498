--- task/init.lua - what training needs to know of a modality, and nothing else does.
--
-- A task says what a sample costs, packs chosen samples into a batch, and runs a model forward into
-- the scores that losses read. `dopl.task.causal_lm` is the task of causal language models, and
-- train.fit's default. Schedules, optimizers, checkpoints and plans never look into a batch.
-- @module dopl.task

local check = require "dopl.util.check"

local task = {}
local Task = {}
Task.__index = Task

local function nothing() end
local function never() return false end

local fields = {
  name = check.required,
  scores = check.required,   -- names of what `score` gives, besides `whole`
  unit = "cost",             -- what cost is counted in, for messages: "tokens"
  cost = check.required,     -- (sample): what it takes in a forward pass
  count = check.required,    -- (samples): { n_samples, n_labels, ... } of an effective batch
  pack = check.required,     -- (Chosen, whole, twin_whole): a batch, with n_labels, samples and keys;
                             -- with `twin`, if the samples have it
  score = check.required,    -- (model, batches, needs): scores of each batch; needs: of its loss
  shares_passes = never,     -- (model): whether batches of several objectives go forward together
  references = {},           -- what losses can ask of the starting model, by kind: see dopl.reference
  check_model = nothing,     -- (where, model, level): raises an error if it is not for this task
  check_data = nothing,      -- (where, objective, model, level): the same of an objective's data
  note = nothing,            -- (objectives, note): what a person should know before training
  scratch = function() return 0 end, -- (model, cost): bytes of a forward pass that a plan names
}

--- Makes a task.
-- @tparam table definition see `fields` in the source
-- @treturn Task
function task.new(definition)
  local self = check.options("task.new", definition, fields)
  check.type("task.new: name", self.name, "string")
  check.list("task.new: scores", self.scores)
  for _, name in ipairs { "cost", "count", "pack", "score" } do
    check.type("task.new: " .. name, self[name], "function")
  end
  self.has = {}
  for _, name in ipairs(self.scores) do self.has[name] = true end
  return setmetatable(self, Task)
end

--- Whether a value is a task.
function task.is_task(value) return getmetatable(value) == Task end

--- Packs chosen samples, each once, in micro-batches.
-- @tparam Chosen chosen an effective batch
-- @tparam integer max the largest cost of a micro-batch; a single sample may cost more
-- @treturn {table,...} batches; each has `cost`, its own and its twin's
function Task:batches(chosen, max)
  local parts, costs = chosen:split { max = max, cost = self.cost }
  local whole = self.count(chosen.samples)
  local twin_whole = chosen.twin and self.count(chosen.twin.samples)
  local batches = {}
  for i, part in ipairs(parts) do
    batches[i] = self.pack(part, whole, twin_whole)
    batches[i].cost = costs[i]
  end
  return batches
end

-- What a loss needs and a task does not give, as texts.
local function missing(self, needs)
  local list = {}
  for _, name in ipairs(needs.scores) do
    if not self.has[name] then list[#list + 1] = ("'%s'"):format(name) end
  end
  if needs.reference and not self.references[needs.reference] then
    list[#list + 1] = ("'%s' of the starting model"):format(needs.reference)
  end
  return list
end

--- Refuses a loss that reads scores which the task does not give.
-- @tparam string where for the message
-- @tparam Loss loss
-- @tparam integer level where the error points, as for `error`
function Task:check_loss(where, loss, level)
  local list = missing(self, loss.needs)
  if #list == 0 then return end
  local kinds = check.keys(self.references)
  local more = #kinds > 0 and (", and of the starting model %s"):format(table.concat(kinds, ", ")) or ""
  error(("%sloss.%s needs %s; the task '%s' gives %s%s. Take a loss of these scores, or another task")
    :format(where, loss.name, table.concat(list, ", "), self.name, table.concat(self.scores, ", "),
      more), level + 1)
end

return setmetatable(task, { __index = function(_, name)
  return name == "causal_lm" and require "dopl.task.causal_lm" or nil -- dopl.task.causal_lm
end })
