--- train/resume.lua - resumes an interrupted training run, with the same results.
--
-- train.fit's `checkpoint` makes a keeper: it writes checkpoints on the way, and in a resumed run finds
-- the newest one that is whole and belongs to the same training.
-- @module dopl.train.resume

local check = require "dopl.util.check"
local checkpoint = require "dopl.train.checkpoint"
local core = require "dopl.core"
local settings = require "dopl.train.settings"
local state = require "dopl.train.state"

local resume = {}
local Keeper = {}
Keeper.__index = Keeper

local DONE <const> = checkpoint.done

local defaults = {
  every = 50,              -- steps; one more is written when the training is stopped
  keep = 2,                -- how many are there while it runs
  stay = 0,                -- how many stay when it has ended, to fork from
  folder = check.optional, -- default: the run's checkpoints/<label>
  resume = check.optional, -- whether to resume from what the folder holds; default: as the run
}

-- What makes two training runs the same, as texts.
local function describe(t)
  local o = t.o
  local parts = { optimizer = tostring(o.optimizer), schedule = t.plan.text,
    steps = o.steps, warmup = o.warmup, decay = o.decay, clip = o.clip, label = o.label,
    objectives = table.concat(t.names, ", ") }
  if o.task ~= settings.defaults.task then parts.task = o.task.name end
  for _, objective in ipairs(t.objectives) do
    local name = objective.name
    parts["loss of " .. name] = ("%s, weight %s, lr %s, batches of %s"):format(objective.loss.name,
      objective.weight, objective.lr, objective.data.batch_size)
    parts["data of " .. name] = state.data_of(objective)
  end
  parts["starting model"] = state.model_hash(o.model)
  parts["beginning"] = o.from and tostring(o.from)
  return parts
end

--- The keeper of a training's checkpoints.
-- @tparam table t the training (dopl.train.state)
-- @treturn Keeper
function resume.keeper(t)
  local o = t.o
  local given = check.options("train.fit: checkpoint", o.checkpoint, defaults, 4)
  for _, key in ipairs { "every", "keep", "stay" } do
    local what = "train.fit: checkpoint." .. key
    check.range(what, check.type(what, given[key], "integer", 4), key == "stay" and 0 or 1, math.huge,
      4)
  end
  check.type("train.fit: checkpoint.folder", given.folder or "", "string", 4)
  check.type("train.fit: checkpoint.resume", given.resume or false, "boolean", 4)
  if not o.run and not given.folder then
    error("train.fit: checkpoint: without a run, a folder is needed", 3)
  end
  local self = setmetatable({ every = given.every, stay = given.stay,
    keep = math.max(given.keep, given.stay), resume = given.resume, run = o.run, training = t,
    folder = given.folder or o.run:folder("checkpoints", o.label), about = describe(t) }, Keeper)
  if self.resume == nil then self.resume = o.run ~= nil and o.run.resumed end
  self.from = o.run and o.run.rows
  return self
end

-- What differs between the training that wrote a checkpoint and this one.
local function check_same(self, its)
  local keys = {}
  for _, list in ipairs { self.about, its } do
    for _, key in ipairs(check.keys(list)) do keys[key] = true end
  end
  for _, key in ipairs(check.keys(keys)) do
    if self.about[key] ~= its[key] then
      error(("%s: its %s is %s, this training's is %s"):format(self.found.what, key,
        tostring(its[key]), tostring(self.about[key])), 0)
    end
  end
end

--- Looks for a checkpoint to resume from. One is taken only together with the rows of metrics that
-- were logged before it.
-- @treturn boolean whether the training had ended
function Keeper:find()
  if self.resume then
    self.found = checkpoint.latest(self.folder, function(about)
      local rows = about.rows
      return not self.run or rows and rows.from == self.from and self.run:has(rows.to)
    end)
  end
  if not self.found then
    checkpoint.prune(self.folder, 0) -- of an older run; of none, where there is no such folder
    return false
  end
  self.found.what = ("checkpoint %s/%s"):format(self.folder, self.found.name)
  check_same(self, self.found.about.training)
  for _, name in ipairs(checkpoint.names(self.folder)) do -- those that were refused
    if name == self.found.name then break end
    checkpoint.remove(self.folder, name)
  end
  local ended = self.found.name == DONE
  checkpoint.prune(self.folder, ended and 1 + self.stay or self.keep)
  return ended
end

--- Puts everything back as the found checkpoint has it.
-- @treturn boolean whether one was found
function Keeper:restore()
  local found, t = self.found, self.training
  if not found then return false end
  local ended = found.name == DONE
  state.restore_weights(t, found)
  if not ended then
    state.restore_optimizer(t, found)
    state.restore_schedule(t, found)
    if t.diagnostics then state.restore_diagnostics(t, found) end
  end
  state.restore_best(t, found, not ended)
  for _, objective in ipairs(t.objectives) do state.restore_loader(objective, found) end
  state.restore_live(t, found)
  if self.run then self.run:skip(found.about.rows.to) end
  self.found = nil
  return true
end

local function write(self, name)
  local tensors, about = state.capture(self.training, name == DONE)
  if self.run then self.run:sync() end -- the rows a checkpoint counts on are on the disk before it
  about.training = self.about
  about.rows = self.run and { from = self.from, to = self.run.rows }
  checkpoint.save(self.folder, name, tensors, about)
end

--- Writes a checkpoint where one is due, or where a stop was asked for. The last step has none,
-- unless some are to stay: `finish` follows.
-- @treturn boolean whether a stop was asked for
function Keeper:step()
  local step, steps = self.training.live.step, self.training.o.steps
  if step == steps and self.stay == 0 then return false end
  local asked = step < steps and core.stop and core.stop.asked()
  if step % self.every == 0 or asked or step == steps then
    write(self, ("step-%06d"):format(step))
    checkpoint.prune(self.folder, self.keep)
  end
  return asked
end

--- Writes down how the training ended.
function Keeper:finish()
  write(self, DONE)
  checkpoint.prune(self.folder, 1 + self.stay)
end

return resume
