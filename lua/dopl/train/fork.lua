--- train/fork.lua - a training run that starts from another one's checkpoint, with other settings.
--
--     local from = dopl.run.fork { run = "runs/quickstart-20260102-030405", label = "DO+", step = 200 }
--     bench:compare { from = from, label = "DO+ 8-bit from 200", optimizer = ..., ... }
--
-- Weights, position in the data, losses and counters are the checkpoint's. A state is taken by its
-- name where the moment it holds is pushed alike and has as many elements; how it is stored may
-- differ. The schedule is asked for the step after the checkpoint's: it counts from the parent's
-- beginning, and so does `steps`.
-- @module dopl.train.fork

local check = require "dopl.util.check"
local checkpoint = require "dopl.train.checkpoint"
local core = require "dopl.core"
local state = require "dopl.train.state"

local fork = {}
local Fork = { __name = "dopl.fork" }
Fork.__index = Fork

local defaults = {
  run = check.required,   -- the parent's folder
  label = check.optional, -- of its training; may be left out where it has one
  step = check.optional,  -- default: its newest checkpoint
  states = "all",         -- "fitting": others begin at zero or are dropped; "none": all at zero
  data = "continue",      -- "restart": from the beginning of its order
}

-- ---- finding the checkpoint

-- The folder of the training's checkpoints.
local function folder_of(o, name_of)
  if core.files.exists(o.run .. "/run.json") ~= "file" then
    error(("run.fork: there is no run in %s"):format(o.run), 3)
  end
  local root = o.run .. "/checkpoints"
  local names = {}
  for _, name in ipairs(core.files.exists(root) and core.files.list(root) or {}) do
    if #checkpoint.names(root .. "/" .. name) > 0 then names[#names + 1] = name end
  end
  table.sort(names)
  if #names == 0 then error(("run.fork: the run %s has no checkpoints"):format(o.run), 3) end
  if o.label == nil and #names == 1 then return root .. "/" .. names[1] end
  if o.label == nil then
    error(("run.fork: the run %s has several training runs; give label: '%s'"):format(o.run,
      table.concat(names, "', '")), 3)
  end
  check.type("run.fork: label", o.label, "string", 4)
  return ("%s/%s"):format(root, check.choice("run.fork: label", name_of(o.label), names, 4))
end

local KEEP <const> = "checkpoints stay behind with --keep-checkpoints N, or checkpoint = { stay = N }"

-- The names to try, the best first.
local function candidates(o, folder)
  local names = checkpoint.names(folder)
  if o.step ~= nil then
    check.range("run.fork: step", check.type("run.fork: step", o.step, "integer", 4), 1, math.huge, 4)
    local wanted = ("step-%06d"):format(o.step)
    for _, name in ipairs(names) do
      if name == wanted then return { name } end
    end
    error(("run.fork: %s has no checkpoint of step %d (it has %s); %s"):format(folder, o.step,
      table.concat(names, ", "), KEEP), 3)
  end
  if o.states == "none" then return names end
  local steps = {}
  for _, name in ipairs(names) do
    if name ~= checkpoint.done then steps[#steps + 1] = name end
  end
  if #steps == 0 then
    error(("run.fork: the training of %s had ended, and of it only the final weights are there; "
      .. "states = \"none\" goes on from them; %s"):format(folder, KEEP), 3)
  end
  return steps
end

--- Reads a checkpoint of another run. Reached as `dopl.run.fork`.
-- @tparam table options run = the parent's folder; label of its training run; step (default: the newest
-- checkpoint); states = "all", "fitting" or "none"; data = "continue" or "restart"
-- @tparam function name_of a label's name in a run's folder
-- @treturn Fork for `from` of train.fit and bench:compare
function fork.open(options, name_of)
  local o = check.options("run.fork", options, defaults, 3)
  check.type("run.fork: run", o.run, "string", 3)
  check.choice("run.fork: states", o.states, { "all", "fitting", "none" }, 3)
  check.choice("run.fork: data", o.data, { "continue", "restart" }, 3)
  local folder, found = folder_of(o, name_of), nil
  for _, name in ipairs(candidates(o, folder)) do
    local reason
    found, reason = checkpoint.load(folder, name)
    if found then break end
    core.note(("checkpoint refused: %s"):format(reason))
  end
  if not found then error(("run.fork: no checkpoint of %s is whole"):format(folder), 2) end
  if not found.about.states and o.states ~= "none" then
    error(("run.fork: %s/%s was written by an older version and does not say what its states are; "
      .. "states = \"none\" takes its weights alone"):format(folder, found.name), 2)
  end
  return setmetatable({ run = o.run, folder = folder, name = found.name, about = found.about,
    tensors = found.tensors, states = o.states, data = o.data, hash = found.hash,
    step = found.about.live.step, what = ("fork of %s/%s"):format(folder, found.name) }, Fork)
end

--- Whether a value is one.
function fork.is_fork(x) return getmetatable(x) == Fork end

--- What distinguishes two beginnings.
function Fork:__tostring()
  return ("%s (%s), states = %q, data = %q"):format(self.what, self.hash, self.states, self.data)
end

-- ---- states

-- Copies a saved state into one of the optimizer, in whatever storage that has.
local function take(self, own)
  local scope <close> = core.scope()
  local key, kind, target = "state." .. own.name, self.about.states[own.name].kind, own.state
  local value, scales = self.tensors[key .. ".codes"] or self.tensors[key],
    self.tensors[key .. ".scales"]
  if kind ~= target.kind then
    if kind ~= "f32" then value = core.optim.decode(value, scales, kind) end
    if target.kind ~= "f32" then value, scales = core.optim.encode(value, target.kind) end
  end
  target.value:copy(value)
  if target.scales then target.scales:copy(scales) end
end

-- An f32 copy of weights that the parent did not have is made from the weights.
local function copy_weights(own)
  local scope <close> = core.scope()
  local weights = core.optim.decode(own.param.tensor, nil, "bf16")
  own.state.value:copy(core.ops.view(weights, own.param.n))
end

local function elements(self, name)
  local key = "state." .. name
  return (self.tensors[key .. ".codes"] or self.tensors[key]):numel()
end

-- Why a saved state does not fit this optimizer; nil if it does.
local function misfit(self, own)
  local saved = self.about.states[own.name]
  if not saved then return ("it has no '%s'"):format(own.name) end
  if saved.moment ~= own.moment then
    return ("'%s' is pushed as '%s' there, as '%s' here"):format(own.name, saved.moment, own.moment)
  end
  local n, need = elements(self, own.name), own.state.value:numel()
  if n ~= need then
    return ("'%s' has %d elements there, %d here"):format(own.name, n, need)
  end
end

local function complain(self, reasons, left)
  local text = reasons[1] or ("it has '%s', which this optimizer lacks"):format(left[1])
  local others = #reasons + #left - 1
  error(("%s: %s%s; states = \"fitting\" takes the states that fit, begins others at zero and drops "
    .. "what has no place"):format(self.what, text, others > 0 and (" (and %d more)"):format(others)
      or ""), 0)
end

-- The optimizer's states that a saved one fits; why others do not; and names of saved ones that have no
-- place. `taken` says for each objective ("" for shared states) whether its own one was taken.
local function match_states(self, optimizer)
  local fitting, reasons, left, known, taken = {}, {}, {}, {}, {}
  for _, own in ipairs(state.states_of(optimizer)) do
    local reason, whose = self.states == "none" and "" or misfit(self, own), own.objective or ""
    known[own.name], taken[whose] = true, taken[whose] or false
    if reason and own.moment == "master" then
      copy_weights(own)
    elseif reason then
      reasons[#reasons + 1] = reason
    else
      fitting[#fitting + 1], taken[whose] = own, true
    end
  end
  for _, name in ipairs(check.keys(self.about.states or {})) do
    if not known[name] then left[#left + 1] = name end
  end
  return fitting, reasons, left, taken
end

-- Takes the states that fit. Counters go with the states they correct: an objective none of whose own
-- states were taken counts its steps from 0, and so does the optimizer where nothing was.
local function restore_states(self, optimizer)
  local fitting, reasons, left, taken = match_states(self, optimizer)
  if self.states == "none" then return end
  if self.states == "all" and #reasons + #left > 0 then complain(self, reasons, left) end
  for _, own in ipairs(fitting) do take(self, own) end
  if #reasons + #left > 0 then
    core.note(("%s: %d states taken, %d begin at zero, %d have no place here"):format(self.what,
      #fitting, #reasons, #left))
  end
  if #fitting == 0 then return end
  local counters, by_objective = self.about.counters, {}
  for _, name in ipairs(optimizer.objectives) do
    by_objective[name] = taken[name] ~= false and counters.objectives[name] or 0
  end
  optimizer:set_counters { step = counters.step, objectives = by_objective, seed = counters.seed }
end

-- ---- the rest

-- A loss that asks the starting model must ask the one that the parent asked.
local function check_model(self, t)
  for _, objective in ipairs(t.objectives) do
    if objective.loss.needs.reference then
      local here = state.model_hash(t.o.model)
      if here ~= self.about.training["starting model"] then
        error(("%s: loss.%s asks the model before unlearning, and this training's is not the "
          .. "parent's: pass the model as it was before the parent's training"):format(self.what,
            objective.loss.name), 0)
      end
    end
  end
end

local function restore_data(self, objectives)
  for _, objective in ipairs(objectives) do
    local was = self.about.loaders[objective.name]
    if self.data == "continue" and was then
      local there = self.about.training["data of " .. objective.name]
      local now = objective.data:state()
      local other = state.data_of(objective) ~= there and "data" or was.seed ~= now.seed and "seed"
        or was.stream ~= now.stream and "stream"
      if other then
        error(("%s: the %s of '%s' is not the parent's; data = \"restart\" begins its order "
          .. "from the first batch"):format(self.what, other, objective.name), 0)
      end
      state.restore_loader(objective, self)
    end
  end
end

-- Averages of gradients go on where the parent was watched too, with these objectives among others.
local function restore_diagnostics(self, t)
  if not t.diagnostics or not self.about.diagnostics then return end
  local tensors = {}
  for _, own in ipairs(t.diagnostics:tensors()) do
    tensors[own.name] = self.tensors["diagnostics." .. own.name]
    if not tensors[own.name] then return end
  end
  t.diagnostics:restore(tensors, self.about.diagnostics)
end

--- How many batches an objective had been served; 0 for one that the parent did not have.
function Fork:served(name)
  local loader = self.data == "continue" and self.about.loaders[name]
  return loader and loader.step or 0
end

--- Whether a training run of so many steps has any left.
function Fork:check_steps(steps)
  if self.step >= steps then
    error(("%s stands after step %d, and steps = %d: they count from the parent's beginning"):format(
      self.what, self.step, steps), 0)
  end
end

--- Puts a training run where this stands.
-- @tparam table t the training (dopl.train.state)
function Fork:start(t)
  local about, o = self.about, t.o
  check_model(self, t)
  state.restore_weights(t, self)
  restore_states(self, t.optimizer)
  restore_data(self, t.objectives)
  if about.training.schedule == t.plan.text then state.restore_schedule(t, self) end
  restore_diagnostics(self, t)
  if o.keep_best and about.best.score then state.restore_best(t, self, true) end
  state.restore_live(t, self, { stopped = true })
  if o.run and o.run.descends then
    o.run:descends { training = o.label, run = self.run, checkpoint = self.folder .. "/" .. self.name,
      step = self.step, hash = self.hash, states = self.states, data = self.data }
  end
end

return fork
