--- train/checkpoint.lua - where a training stands, on disk: whole, or not there.
--
-- A checkpoint is two files in a folder of the training's own:
--
--     step-000050.safetensors   weight.<parameter>, state.<optimizer state>, best.<parameter>;
--                               8-bit states as their codes and scales
--     step-000050.json          the rest: counters, positions in the data, losses, best score, and
--                               hash and length of the other file
--
-- Each is written beside, synced and renamed, the JSON last: a pair of which a part is missing, cut
-- short or changed is refused, with the reason, and the one before it is taken. When a training has
-- ended, `done` takes the place of its steps: the final weights and what train.fit returned. Those
-- that are to stay behind (`stay`) are there to fork from (dopl.fork).
--
-- (The function dopl.checkpoint, which trades time for memory, is dopl.nn's.)
-- @module dopl.train.checkpoint

local chat = require "dopl.data.chat"
local check = require "dopl.util.check"
local core = require "dopl.core"
local sealed = require "dopl.util.sealed"

local DONE <const> = "done"
local checkpoint = { done = DONE } -- the name of the one that is written when a training has ended

-- ---- a folder of checkpoints

--- Writes a checkpoint.
-- @tparam string folder made where it is missing
-- @tparam string name "step-000050"
-- @tparam table tensors by name
-- @tparam table about plain values
function checkpoint.save(folder, name, tensors, about)
  core.files.mkdir(folder)
  local path = ("%s/%s"):format(folder, name)
  core.safetensors.save(path .. ".safetensors", tensors)
  local hash, bytes = core.files.hash(path .. ".safetensors")
  if not hash then error(bytes, 0) end
  sealed.save(path .. ".json", { about = about, tensors = { hash = hash, bytes = bytes } })
end

--- Reads a checkpoint.
-- @treturn ?table { name, about, tensors, hash of the tensors' file }; nil where it is not whole
-- @treturn ?string why
function checkpoint.load(folder, name)
  local path = ("%s/%s"):format(folder, name)
  local file, reason = sealed.load(path .. ".json")
  if not file then return nil, reason end
  path = path .. ".safetensors"
  local hash, bytes = core.files.hash(path)
  if not hash then return nil, bytes end
  if bytes ~= file.tensors.bytes then
    return nil, ("%s has %d bytes, %d were written"):format(path, bytes, file.tensors.bytes)
  end
  if hash ~= file.tensors.hash then
    return nil, path .. " is damaged: its content is not what was written"
  end
  return { name = name, about = file.about, tensors = core.safetensors.load(path), hash = hash }
end

--- Names of the checkpoints in a folder, newest first; whether they are whole is not looked at.
function checkpoint.names(folder)
  local steps, names = {}, {}
  for _, file in ipairs(core.files.list(folder) or {}) do
    local name = file:match "^(.+)%.json$"
    local step = name == DONE and math.huge or name and tonumber(name:match "^step%-(%d+)$")
    if step then
      names[#names + 1] = name
      steps[name] = step
    end
  end
  table.sort(names, function(a, b) return steps[a] > steps[b] end)
  return names
end

--- The newest checkpoint that is whole. What is refused is said.
-- @tparam string folder
-- @tparam[opt] function fits(about) false: not this one, the one before
-- @treturn ?table { name, about, tensors }
function checkpoint.latest(folder, fits)
  for _, name in ipairs(checkpoint.names(folder)) do
    local found, reason = checkpoint.load(folder, name)
    if found and (not fits or fits(found.about)) then return found end
    if not found then
      core.note(("checkpoint refused: %s; taking the one before it, if there is one")
        :format(reason))
    end
  end
end

--- Removes a checkpoint.
function checkpoint.remove(folder, name)
  for _, ending in ipairs { ".json", ".safetensors" } do -- a JSON alone would be refused aloud
    local path = ("%s/%s%s"):format(folder, name, ending)
    if core.files.exists(path) then core.files.remove(path) end
  end
end

-- Whether a file is a part of a checkpoint, or of one whose writing broke off.
local function is_ours(file)
  local name = file:match "^%.?([^.]+)%.json" or file:match "^%.?([^.]+)%.safetensors"
  return name == DONE or name ~= nil and name:find "^step%-%d+$" ~= nil
end

--- Removes all but the newest checkpoints, and what broken-off writing left. Other files stay.
-- @tparam string folder
-- @tparam integer keep how many stay
function checkpoint.prune(folder, keep)
  local kept = {}
  for i, name in ipairs(checkpoint.names(folder)) do
    if i <= keep then kept[name .. ".json"], kept[name .. ".safetensors"] = true, true end
  end
  for _, file in ipairs(core.files.list(folder) or {}) do -- of a pair the JSON first
    if is_ours(file) and not kept[file] then core.files.remove(folder .. "/" .. file) end
  end
end

local function shape_of(tensor)
  return ("%s [%s]"):format(tensor:dtype(), table.concat(tensor:shape(), ", "))
end

local STORED <const> = ": weights are stored as they were: --dtype %s, or models.to(model, \"%s\")"

--- Copies saved tensors into those of a model or an optimizer. Nothing is copied unless all are
-- there and fit.
-- @tparam table saved by name
-- @tparam {{name=string,tensor=tensor},...} targets
-- @tparam string prefix of the saved names: "weight."
-- @tparam string what for messages
function checkpoint.fill(saved, targets, prefix, what)
  local wanted = {}
  for _, target in ipairs(targets) do
    local name = prefix .. target.name
    local found = saved[name]
    wanted[name] = true
    if not found then
      error(("%s: it has no '%s', which this model and optimizer need"):format(what, name), 0)
    end
    local have, need = shape_of(found), shape_of(target.tensor)
    if have ~= need then
      local as = prefix == "weight." and found:dtype() ~= target.tensor:dtype() and found:dtype()
      error(("%s: '%s' is %s, this training's is %s%s"):format(what, name, have, need,
        as and STORED:format(as, as) or ""), 0)
    end
  end
  for _, name in ipairs(check.keys(saved)) do
    if name:sub(1, #prefix) == prefix and not wanted[name] then
      error(("%s: it has '%s', which this model and optimizer lack"):format(what, name), 0)
    end
  end
  for _, target in ipairs(targets) do target.tensor:copy(saved[prefix .. target.name]) end
end

-- ---- what a training is

--- The states of an optimizer, as a checkpoint names them, and what they hold.
-- @treturn {table,...} { name, param, state = { kind, value, scales }, moment = how it is pushed
-- ("ema", "sum"; "master" for a copy of weights), objective = whose own it is }
function checkpoint.states_of(optimizer)
  local out = {}
  for _, param in ipairs(optimizer.params) do
    for _, key in ipairs(check.keys(param.state)) do
      local state = param.state[key]
      local objective = key:match "%.own%.(.+)$"
      local rule = optimizer:config_of(param, objective).rule
      out[#out + 1] = { name = param.name .. "." .. key, state = state, objective = objective,
        param = param, moment = state.moment and rule.moments[state.moment].kind or state.part }
    end
  end
  return out
end

--- A content hash of a model's weights.
function checkpoint.model_hash(model)
  local weights = {}
  for i, p in ipairs(model.parameters) do weights[i] = p.tensor end
  return core.hash(table.unpack(weights))
end

-- ---- the checkpoints of one training

local Keeper = {}
Keeper.__index = Keeper

local defaults = {
  every = 50,              -- steps; one more is written when the training is stopped
  keep = 2,                -- how many are there while it runs
  stay = 0,                -- how many stay when it has ended, to fork from
  folder = check.optional, -- default: the run's checkpoints/<label>
  resume = check.optional, -- whether to go on from what the folder holds; default: as the run
}

-- What makes two trainings the same, as texts.
local function describe(o, training)
  local parts = { optimizer = tostring(o.optimizer), schedule = training.plan.text,
    steps = o.steps, warmup = o.warmup, decay = o.decay, clip = o.clip, label = o.label,
    objectives = table.concat(training.names, ", ") }
  for _, objective in ipairs(training.objectives) do
    local name = objective.name
    parts["loss of " .. name] = ("%s, weight %s, lr %s, batches of %s"):format(objective.loss.name,
      objective.weight, objective.lr, objective.data.batch_size)
    local samples = objective.data.samples
    parts["data of " .. name] = samples and chat.fingerprint(samples) or "unknown"
  end
  parts["starting model"] = checkpoint.model_hash(o.model)
  parts["beginning"] = o.from and tostring(o.from)
  return parts
end

--- The keeper of a training's checkpoints.
-- @tparam table o options of train.fit, resolved
-- @tparam table training what it works with: objectives, names, plan, optimizer, microscope, live,
-- best, totals = { tokens, seconds }
-- @treturn Keeper
function checkpoint.keeper(o, training)
  local given = check.options("train.fit: checkpoint", o.checkpoint, defaults, 4)
  for key, least in pairs { every = 1, keep = 1, stay = 0 } do
    local what = "train.fit: checkpoint." .. key
    check.range(what, check.type(what, given[key], "integer", 4), least, math.huge, 4)
  end
  check.type("train.fit: checkpoint.folder", given.folder or "", "string", 4)
  check.type("train.fit: checkpoint.resume", given.resume or false, "boolean", 4)
  if not o.run and not given.folder then
    error("train.fit: checkpoint: without a run, a folder is needed", 3)
  end
  local self = setmetatable({ every = given.every, steps = o.steps, stay = given.stay,
    keep = math.max(given.keep, given.stay),
    resume = given.resume, run = o.run, clock = core.clock(),
    folder = given.folder or o.run:folder("checkpoints", o.label),
    parameters = o.model.parameters, training = training, about = describe(o, training) }, Keeper)
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
      error(("%s: its %s is %s, this training's is %s"):format(self.what, key, tostring(its[key]),
        tostring(self.about[key])), 0)
    end
  end
end

--- Looks for a checkpoint to go on from. One is taken only together with the rows of metrics that
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
  self.what = ("checkpoint %s/%s"):format(self.folder, self.found.name)
  check_same(self, self.found.about.training)
  for _, name in ipairs(checkpoint.names(self.folder)) do -- those that were refused
    if name == self.found.name then break end
    checkpoint.remove(self.folder, name)
  end
  local ended = self.found.name == DONE
  checkpoint.prune(self.folder, ended and 1 + self.stay or self.keep)
  return ended
end

-- Everything a training needs to go on and the final weights do not hold.
local function restore_states(self, about, tensors)
  local t = self.training
  local function fill(part, prefix)
    checkpoint.fill(tensors, part, prefix, self.what)
    local out = {}
    for _, target in ipairs(part) do out[target.name] = tensors[prefix .. target.name] end
    return out
  end
  t.optimizer:restore(fill(t.optimizer:states(), "state."), about.counters)
  t.plan:restore(about.schedule)
  if t.microscope then
    t.microscope:restore(fill(t.microscope:tensors(), "microscope."), about.microscope)
  end
  if not about.best.score then return end
  local best = {}
  t.best.weights = {}
  for i, p in ipairs(self.parameters) do
    t.best.weights[i] = p.tensor:detach():clone()
    best[i] = { name = p.name, tensor = t.best.weights[i] }
  end
  fill(best, "best.")
end

--- Puts everything back as the found checkpoint has it.
-- @treturn boolean whether one was found
function Keeper:restore()
  if not self.found then return false end
  local about, tensors, t = self.found.about, self.found.tensors, self.training
  checkpoint.fill(tensors, self.parameters, "weight.", self.what)
  if self.found.name ~= DONE then restore_states(self, about, tensors) end
  for _, objective in ipairs(t.objectives) do
    objective.data:restore(about.loaders[objective.name])
  end
  for _, part in ipairs { "live", "best", "totals" } do
    for key, value in pairs(about[part]) do t[part][key] = value end -- each field is its own
  end
  if self.run then self.run:skip(about.rows.to) end
  self.found = nil
  return true
end

local live_fields <const> = { "step", "losses", "objective", "lr", "grad_norm", "result",
  "evaluated", "microscope", "saved", "stopped" }

local function write(self, name)
  local t = self.training
  local tensors, loaders, live, states = {}, {}, {}, {}
  local function add(prefix, list)
    for _, each in ipairs(list) do tensors[prefix .. each.name] = each.tensor end
  end
  add("weight.", self.parameters)
  if name ~= DONE then
    add("state.", t.optimizer:states())
    for _, s in ipairs(checkpoint.states_of(t.optimizer)) do
      states[s.name] = { kind = s.state.kind, moment = s.moment }
    end
    if t.microscope then add("microscope.", t.microscope:tensors()) end
    for i, p in ipairs(t.best.weights and self.parameters or {}) do
      tensors["best." .. p.name] = t.best.weights[i]
    end
  end
  for _, objective in ipairs(t.objectives) do loaders[objective.name] = objective.data:state() end
  for _, field in ipairs(live_fields) do live[field] = t.live[field] end
  if self.run then self.run:sync() end -- the rows a checkpoint counts on are on the disk before it
  checkpoint.save(self.folder, name, tensors, {
    training = self.about, counters = t.optimizer:counters(), states = states, loaders = loaders,
    live = live,
    schedule = t.plan:state(), microscope = t.microscope and t.microscope:state(),
    best = { score = t.best.score, step = t.best.step, result = t.best.result },
    totals = { tokens = t.totals.tokens, seconds = t.totals.seconds + core.clock() - self.clock },
    rows = self.run and { from = self.from, to = self.run.rows },
  })
end

--- Writes a checkpoint where one is due, or where a stop was asked for. The last step has none,
-- unless some are to stay: `finish` follows.
-- @treturn boolean whether it was
function Keeper:step()
  local step = self.training.live.step
  if step == self.steps and self.stay == 0 then return false end
  local asked = step < self.steps and core.stop and core.stop.asked()
  if step % self.every == 0 or asked or step == self.steps then
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

return checkpoint
