--- train/state.lua - the state of a training run: what a checkpoint holds, and how it is restored.
--
-- Weights, optimizer states and counters, positions in the data, the schedule's phase, diagnostics, the
-- best weights, and what the loop shows (`live`, `totals`). Two policies use it: dopl.train.resume puts
-- everything back, dopl.train.fork chooses.
--
-- `t`, a training run, is the table that train.fit works with: o, objectives, names, plan, parameters,
-- optimizer, diagnostics, live, best, totals, clock. A saved state is { tensors, about, what = its name
-- for messages }.
-- @module dopl.train.state

local check = require "dopl.util.check"
local core = require "dopl.core"

local state = {}

-- The fields of `live` that are saved; train.fit sets the others.
local LIVE <const> = { "step", "losses", "objective", "lr", "grad_norm", "result", "evaluated",
  "diagnostics", "saved", "stopped" }

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
function state.fill(saved, targets, prefix, what)
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

--- The states of an optimizer, as a checkpoint names them, and what they hold.
-- @treturn {table,...} { name, param, state = { kind, value, scales }, moment = how it is pushed
-- ("ema", "sum"; "master" for a copy of weights), objective = whose own it is }
function state.states_of(optimizer)
  local out = {}
  for _, param in ipairs(optimizer.params) do
    for _, key in ipairs(check.keys(param.state)) do
      local own = param.state[key]
      local objective = key:match "%.own%.(.+)$"
      local rule = optimizer:config_of(param, objective).rule
      out[#out + 1] = { name = param.name .. "." .. key, state = own, objective = objective,
        param = param, moment = own.moment and rule.moments[own.moment].kind or own.part }
    end
  end
  return out
end

--- A content hash of a model's weights.
function state.model_hash(model)
  local weights = {}
  for i, p in ipairs(model.parameters) do weights[i] = p.tensor end
  return core.hash(table.unpack(weights))
end

--- A name for an objective's data: the hash of its samples.
function state.data_of(objective)
  return objective.data.fingerprint and objective.data:fingerprint() or "unknown"
end

-- ---- saving

-- The best weights so far, under the parameters' names.
local function best_of(t)
  local list = {}
  for i, p in ipairs(t.best.weights and t.parameters or {}) do
    list[i] = { name = p.name, tensor = t.best.weights[i] }
  end
  return list
end

--- What a training run is at the moment.
-- @tparam table t the training
-- @tparam boolean ended whether it is over: then the final weights stand for states and diagnostics
-- @treturn table tensors by name
-- @treturn table about, plain values
function state.capture(t, ended)
  local tensors, loaders, live, states = {}, {}, {}, {}
  local function add(prefix, list)
    for _, each in ipairs(list) do tensors[prefix .. each.name] = each.tensor end
  end
  add("weight.", t.parameters)
  if not ended then
    add("state.", t.optimizer:states())
    for _, s in ipairs(state.states_of(t.optimizer)) do
      states[s.name] = { kind = s.state.kind, moment = s.moment }
    end
    if t.diagnostics then add("diagnostics.", t.diagnostics:tensors()) end
    add("best.", best_of(t))
  end
  for _, objective in ipairs(t.objectives) do loaders[objective.name] = objective.data:state() end
  for _, field in ipairs(LIVE) do live[field] = t.live[field] end
  return tensors, {
    counters = t.optimizer:counters(), states = states, loaders = loaders, live = live,
    schedule = t.plan:state(), diagnostics = t.diagnostics and t.diagnostics:state(),
    best = { score = t.best.score, step = t.best.step, result = t.best.result },
    totals = { tokens = t.totals.tokens, seconds = t.totals.seconds + core.clock() - t.clock },
  }
end

-- ---- putting back

--- The weights.
function state.restore_weights(t, saved)
  state.fill(saved.tensors, t.parameters, "weight.", saved.what)
end

-- Saved tensors by the names of a list, whose values they take.
local function filled(saved, list, prefix)
  state.fill(saved.tensors, list, prefix, saved.what)
  local out = {}
  for _, target in ipairs(list) do out[target.name] = saved.tensors[prefix .. target.name] end
  return out
end

--- Every optimizer state, as it was stored, and the counters.
function state.restore_optimizer(t, saved)
  t.optimizer:restore(filled(saved, t.optimizer:states(), "state."), saved.about.counters)
end

--- What the schedule remembers beyond the step.
function state.restore_schedule(t, saved) t.plan:restore(saved.about.schedule) end

--- What the diagnostics remember between steps.
function state.restore_diagnostics(t, saved)
  t.diagnostics:restore(filled(saved, t.diagnostics:tensors(), "diagnostics."),
    saved.about.diagnostics)
end

--- The best score, if there is one, and its weights.
-- @tparam boolean with_weights those of a training run that has ended are the model's
function state.restore_best(t, saved, with_weights)
  for key, value in pairs(saved.about.best) do t.best[key] = value end -- each field is its own
  if not with_weights or not saved.about.best.score then return end
  t.best.weights = {}
  for i, p in ipairs(t.parameters) do t.best.weights[i] = p.tensor:detach():clone() end
  state.fill(saved.tensors, best_of(t), "best.", saved.what)
end

--- Where an objective's loader stood.
function state.restore_loader(objective, saved)
  objective.data:restore(saved.about.loaders[objective.name])
end

--- What the loop shows.
-- @tparam[opt] table except a set of fields of `live` that stay
function state.restore_live(t, saved, except)
  for _, field in ipairs(LIVE) do
    if not (except and except[field]) then t.live[field] = saved.about.live[field] end
  end
  for key, value in pairs(saved.about.totals) do t.totals[key] = value end -- each field is its own
end

return state
