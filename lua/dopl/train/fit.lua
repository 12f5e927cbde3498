--- train/fit.lua - the training loop.
--
-- A step takes the effective batch of its objective (of all of them where the schedule is joint),
-- adds up the gradients of its micro-batches, and does one optimizer step. The loop knows no modality:
-- a task packs what the loaders choose and gives the scores that losses read.
-- @module dopl.train.fit

local core = require "dopl.core"
local check = require "dopl.util.check"
local diagnostics = require "dopl.train.diagnostics"
local figures = require "dopl.util.figures"
local gradients = require "dopl.train.gradients"
local measure = require "dopl.train.measure"
local measuring = require "dopl.util.measuring"
local progress = require "dopl.util.progress"
local reference = require "dopl.train.reference"
local resume = require "dopl.train.resume"
local schedule = require "dopl.train.schedule"
local settings = require "dopl.train.settings"

-- ---- before the first step

-- One epoch of the forget objective (of the first where there is none), with the steps that the others
-- have meanwhile. Where only running shows whose turn it is, and in phases, which may never complete an
-- epoch, it is that objective's steps alone.
local function default_warmup(plan, sizes)
  if not plan.by_running and plan.kind ~= "phases" then return schedule.passes(1) end
  return sizes.epochs.forget or sizes.epochs[sizes.names[1]]
end

-- Attaches the optimizer and makes what the loop keeps.
local function attach(t, plan)
  local o, joint = t.o, plan.kind == "joint"
  t.plan, t.joint = plan, joint
  for _, objective in ipairs(t.objectives) do
    objective.weight = objective.weight * plan:weight(objective.name)
  end
  collectgarbage() -- states of an earlier training run: to Lua a few bytes, in truth gigabytes
  t.optimizer = o.optimizer:attach(o.model.parameters,
    { objectives = not joint and t.names or nil, period = plan.period, seed = core.options.seed })
  t.diagnostics = o.diagnostics and diagnostics.new(o.diagnostics, { optimizer = t.optimizer,
    parameters = t.optimizer.params, objectives = t.names, joint = joint })
  t.parameters = o.model.parameters
  t.best, t.clock, t.totals = {}, core.clock(), { tokens = 0, seconds = 0.0 }
  t.live = { step = 0, losses = {}, saved = {}, model = o.model, optimizer = t.optimizer }
end

-- What the starting model says, asked before it changes.
local function prepare_reference(t)
  local o = t.o
  for _, objective in ipairs(t.objectives) do
    local kind = objective.loss.needs.reference
    if kind then
      o.reference = o.reference or reference.new(o.model, o.task)
      local steps = t.plan:count(objective.name, o.steps) or o.steps
      steps = steps + (o.from and o.from:served(objective.name) or 0)
      o.reference:prepare(objective.data, steps, kind, o.micro_tokens)
    end
  end
end

-- ---- a step

-- The objectives of step i (from 0), and the name that the schedule gave.
local function objectives_of(t, i)
  local name = t.plan:at(i, t.live)
  if name ~= nil then
    return { t.by_name[name] or check.choice("train.fit: schedule's objective", name, t.names, 4) },
      name
  end
  if not t.joint then
    error(("train.fit: the schedule names no objective for step %d; a step of all objectives at "
      .. "once is schedule.joint()"):format(i), 3)
  end
  return t.objectives
end

local function log_step(t, name, served, done, row)
  local live = t.live
  row.label, row.step, row.kind, row.objective = t.o.label, live.step, "step", name or "joint"
  row.lr, row.grad_norm = done.lr, done.grad_norm
  for _, objective in ipairs(served) do
    row["loss_" .. objective.name] = live.losses[objective.name]
  end
  t.o.run:log(row)
end

-- Logs what the diagnostics saw of the step.
local function observe(t)
  local live = t.live
  for _, row in ipairs(t.diagnostics:after(live.objective)) do
    row.label, row.step, row.kind = t.o.label, live.step, "diagnostics"
    live.diagnostics = row
    if t.o.run then t.o.run:log(row) end
  end
end

-- Step i (from 0), from its batch to its row of metrics; returns what its batch cost.
local function do_step(t, i, served, name)
  local o, live, began = t.o, t.live, core.clock()
  o.model.parameters:zero_grad()
  local values, cost, labels = gradients.add(t, served, i + 1)
  local rate = schedule.rate(i, o.steps, o.warmup, o.decay)
  if o.world then o.world:sum(o.model.parameters:gradients()) end
  local alone = #served == 1 and served[1] or {}
  local done = t.optimizer:step { objective = name, lr = alone.lr, lr_scale = rate, clip = o.clip,
    norm = true }
  for _, objective in ipairs(served) do -- a step on a device is queued by now, as a whole
    live.losses[objective.name] = gradients.sum_losses(values[objective.name], objective, i + 1)
  end
  if done.skipped then
    gradients.refuse(served[1], i + 1, "the gradient norm", done.grad_norm)
  end
  t.totals.tokens = t.totals.tokens + cost
  live.step, live.objective, live.lr, live.grad_norm = i + 1, name, done.lr, done.grad_norm
  if o.run then
    log_step(t, name, served, done, { tokens = cost, labels = labels, seconds = core.clock() - began })
  end
  if t.diagnostics then observe(t) end
  return cost
end

-- ---- evaluation

local function score_of(o, result)
  if type(o.keep_best) ~= "string" then
    return check.type("train.fit: what keep_best returns", o.keep_best(result), "number")
  end
  local score = result[o.keep_best]
  if type(score) ~= "number" then
    error(("train.fit: keep_best = '%s', but the evaluation gave no such number (it has %s)")
      :format(tostring(o.keep_best), table.concat(check.keys(result), ", ")), 0)
  end
  return score
end

-- Evaluates, logs, keeps the best weights.
local function evaluate(t)
  local o, live, best, clock = t.o, t.live, t.best, core.clock()
  local result = o.evaluate(o.model, live.step)
  check.type("train.fit: what evaluate returns", result, "table")
  live.result, live.evaluated = result, live.step
  if o.run then
    local row = { label = o.label, step = live.step, kind = "evaluation",
      eval_seconds = core.clock() - clock }
    for _, key in ipairs(check.keys(result)) do
      if type(result[key]) == "number" then row[key] = result[key] end
    end
    o.run:log(row)
  end
  if not o.keep_best then return end
  local score = score_of(o, result)
  if score ~= score then return end -- a NaN is no better than anything
  if not best.score or score > best.score then
    best.score, best.step, best.result = score, live.step, result
    best.weights = o.model.parameters:snapshot()
  end
end

-- What follows a step; returns whether the recipe asked to stop.
local function after_step(t)
  local o, live = t.o, t.live
  if o.on_step then o.on_step(live) end
  if o.evaluate and (live.step == o.steps or o.every and live.step % o.every == 0) then evaluate(t) end
  if not (o.stop and o.stop(live)) then return false end
  live.stopped = true
  if o.evaluate and live.evaluated ~= live.step then evaluate(t) end
  return true
end

-- ---- the end

local function finish(t)
  local o, live, best = t.o, t.live, t.best
  o.model.parameters:zero_grad()
  if best.weights then
    o.model.parameters:restore(best.weights)
  elseif o.keep_best and live.result and not best.score then
    core.note(("train.fit: every evaluation of '%s' gave NaN to keep_best: the weights are those of "
      .. "the last step"):format(o.label))
  end
end

local function result_of(t)
  local live = t.live
  return figures.row {
    label = t.o.label, steps = live.step, losses = live.losses, stopped = live.stopped or false,
    tokens = t.totals.tokens, seconds = t.totals.seconds + core.clock() - t.clock,
    result = t.best.result or live.result, best_step = t.best.step, optimizer = t.optimizer,
  }
end

local function run(options)
  local t = settings.read(options)
  local o = t.o
  o.task.note(t.objectives, core.note)
  local plan = schedule.from(o.schedule or (#t.objectives == 1 and schedule.joint())
    or error("train.fit: several objectives need a schedule", 2))
  settings.check_schedule(t, plan)
  local sizes = schedule.sizes(t.objectives)
  o.steps = plan:length(o.steps, sizes, "train.fit: steps")
  o.warmup = plan:length(o.warmup or default_warmup(plan, sizes), sizes, "train.fit: warmup")
  if o.from then o.from:check_steps(o.steps) end
  plan = plan:resolve(sizes)
  if plan.kind == "joint" then settings.check_joint(t) end
  attach(t, plan)

  local keeper = o.checkpoint and resume.keeper(t)
  local ended = keeper and keeper:find() or false
  -- one that is shared is asked even so: what it answers depends, in the last bit, on the order
  if not ended or o.reference then prepare_reference(t) end
  if not (keeper and keeper:restore()) and o.from then o.from:start(t) end

  local hold <close> = keeper and core.stop and core.stop.hold() -- no stop before a checkpoint
  local line <close> = progress.new(o.label, o.steps, o.progress)
  for i = t.live.step, (ended and t.live.step or o.steps) - 1 do
    local served, name = objectives_of(t, i)
    local cost = do_step(t, i, served, name)
    line:step(i + 1, t.live.losses, t.names, cost)
    if after_step(t) then break end
    if keeper and keeper:step() then hold:close() end -- which raises the stop
  end
  finish(t)
  if keeper and not ended then keeper:finish() end
  return result_of(t)
end

--- Trains a model. While memory and time are measured for a plan, a few steps stand for the training.
-- @tparam table options see `defaults` in train/settings.lua: model, objectives, optimizer, task,
-- schedule, steps, warmup, decay, clip, micro_tokens, reference, evaluate, every, stop, keep_best,
-- on_step, diagnostics, checkpoint, from, run, label, progress
-- @treturn table { label, steps, losses = { [objective] = last value }, result (of the last or kept
-- evaluation), best_step, optimizer, tokens, seconds, stopped }
return function(options)
  local recorder = measuring.recorder()
  if recorder then return measure.fit(recorder, options, run) end
  return run(options)
end
