--- train/init.lua - the training loop: objectives, a schedule, an optimizer.
--
-- A step takes the effective batch of its objective (of all of them where the schedule is joint),
-- cut into micro-batches of at most `micro_tokens` tokens whose gradients add up, and one optimizer
-- step. Losses divide by the counts of the effective batch, so the cut changes nothing but memory.
-- @module dopl.train

local core = require "dopl.core"
local check = require "dopl.util.check"
local checkpoint = require "dopl.train.checkpoint"
local figures = require "dopl.util.figures"
local fork = require "dopl.train.fork"
local loss = require "dopl.train.loss"
local microscope = require "dopl.train.diagnostics"
local overlap = require "dopl.data.overlap"
local progress = require "dopl.util.progress"
local reference = require "dopl.train.reference"
local schedule = require "dopl.train.schedule"

local train = {}

local defaults = {
  model = check.required,
  objectives = check.required, -- array of { name, loss, data, weight = 1, lr = optimizer's }
  optimizer = check.required,  -- a configuration of dopl.optim
  schedule = check.optional,   -- default: joint where there is one objective
  steps = check.required,      -- an integer, or schedule.passes(n)
  warmup = check.optional,     -- the same; default: one epoch, counting the steps of all objectives
  decay = "linear",            -- of the learning rate: "linear" or "none"
  clip = check.optional,       -- largest global gradient norm
  micro_tokens = 4096,         -- input tokens of one forward pass
  reference = check.optional,  -- from dopl.reference, of this starting model; made where needed
  evaluate = check.optional,   -- function(model, step) -> table of numbers
  every = check.optional,      -- steps between evaluations; default: none but the last
  stop = check.optional,       -- function(live) -> true to end now
  keep_best = check.optional,  -- name of an evaluation result, or function(result) -> score
  on_step = check.optional,    -- function(live), after each step
  microscope = check.optional, -- { every = n }: see dopl.microscope
  checkpoint = check.optional, -- { every = 50 steps, keep = 2, stay = 0 }: see dopl.checkpoint
  from = check.optional,       -- from dopl.run.fork: where another training stood
  world = check.optional,      -- from dopl.dist.open: gradients are summed over its processes
  run = check.optional,        -- from dopl.run: gets one row of metrics a step
  label = "train",             -- names the run's rows and the progress line
  progress = true,
}

local objective_defaults = {
  name = check.required, loss = check.required, data = check.required, weight = 1.0,
  lr = check.optional,
}

-- A number that is one: not a NaN, not infinite, and at least `low`.
local function check_number(what, value, low)
  check.type(what, value, "number", 6)
  if value ~= value or math.abs(value) == math.huge or value < low then
    error(("%s = %s, needs a finite number%s"):format(what, value,
      low > -math.huge and " of at least " .. low or ""), 5)
  end
end

local function check_objective(o, i)
  check.type(("train.fit: name of objective %d"):format(i), o.name, "string", 5)
  local where = ("train.fit: objective '%s': "):format(o.name)
  if not loss.is_loss(o.loss) then
    error(("%sloss is a %s, needs one like loss.gd() or loss.new { ... }"):format(where,
      type(o.loss)), 4)
  end
  if type(o.data) ~= "table" or not o.data.steps_per_epoch then
    error(("%sdata is a %s, needs a data.loader { ... }"):format(where,
      type(o.data) == "table" and "table that is no loader" or type(o.data)), 4)
  end
  check_number(where .. "weight", o.weight, -math.huge)
  if o.lr ~= nil then check_number(where .. "lr", o.lr, 0) end
end

local function read_objectives(given)
  check.list("train.fit: objectives", given, 4)
  if #given == 0 then error("train.fit: no objectives: give { { name, loss, data }, ... }", 4) end
  local list, by_name, names = {}, {}, {}
  for i, objective in ipairs(given) do
    local o = check.options(("train.fit: objective %d"):format(i), objective, objective_defaults, 4)
    check_objective(o, i)
    if by_name[o.name] then error(("train.fit: two objectives '%s'"):format(o.name), 4) end
    if o.loss.needs.answers == "refusals" and o.data.refuse ~= "replace" then
      error(("train.fit: objective '%s': loss.%s needs data whose answers are refusals "
        .. "(data.loader: refusals = list)"):format(o.name, o.loss.name), 4)
    elseif o.loss.needs.twin and o.data.refuse ~= "twin" then
      error(("train.fit: objective '%s': loss.%s needs data with refusal twins (data.loader: "
        .. "refusals = list, refuse = \"twin\")"):format(o.name, o.loss.name), 4)
    end
    list[i], by_name[o.name], names[i] = o, o, o.name
  end
  return list, by_name, names
end

-- Rows that one objective forgets and another retains: own data may hold some by mistake.
local function note_overlap(list)
  for i, objective in ipairs(list) do
    for j = 1, i - 1 do
      local first = list[j]
      if first.data.samples and objective.data.samples then
        overlap.tell({ name = first.name, samples = first.data.samples },
          { name = objective.name, samples = objective.data.samples }, core.note)
      end
    end
  end
end

-- Samples longer than a model's learned positions: one may come up after hours.
local function check_lengths(model, list)
  local positions = model.config and model.config.max_positions
  for _, objective in ipairs(positions and list or {}) do
    for i, sample in ipairs(objective.data.samples or {}) do
      if #sample.ids - 1 > positions then -- the last token is no input
        error(("train.fit: objective '%s': sample %d has %d tokens, the model has positions for %d; "
          .. "data.samples cuts at max_tokens"):format(objective.name, i, #sample.ids, positions), 3)
      end
    end
  end
end

local function check_schedule(o, plan, by_name, names)
  for _, name in ipairs(plan.objectives or {}) do
    if not by_name[name] then check.choice("train.fit: schedule", name, names, 5) end
  end
  for _, name in ipairs(plan.weights and names or {}) do
    if not plan.weights[name] then
      error(("train.fit: %s gives '%s' no weight"):format(plan.text, name), 3)
    end
  end
  if plan.needs_result and not (o.evaluate and o.every) then
    error(("train.fit: %s asks for results of evaluations: give evaluate and every")
      :format(plan.text), 3)
  end
end

-- What the starting model says, asked before it changes.
local function prepare_reference(o, list, plan)
  for _, objective in ipairs(list) do
    local kind = objective.loss.needs.reference
    if kind then
      o.reference = o.reference or reference.new(o.model)
      local steps = plan:count(objective.name, o.steps) or o.steps
      steps = steps + (o.from and o.from:served(objective.name) or 0)
      o.reference:prepare(objective.data, steps, kind, o.micro_tokens)
    end
  end
end

local function nan_error(objective, step, what, value)
  error(("train.fit: step %d, objective '%s': %s is %s; the parameters are as step %d left them. "
    .. "Try a smaller learning rate, clip = 1.0, or a smaller loss weight")
    :format(step, objective.name, what, value ~= value and "NaN" or value, step - 1), 0)
end

local function read_loss(l, objective, step)
  local v = l:item()
  if v ~= v or v == math.huge or v == -math.huge then
    nan_error(objective, step, "the loss", v)
  end
  return v
end

-- The next batch of each objective, in parts of at most micro_tokens tokens.
local function next_parts(o, objectives)
  local parts = {}
  for _, objective in ipairs(objectives) do
    local batch <close> = objective.data:next()
    for _, part in ipairs(batch:split { max_tokens = o.micro_tokens }) do
      parts[#parts + 1] = { objective = objective, loss = objective.loss, batch = part,
        tokens = part.n_tokens + (part.twin and part.twin.n_tokens or 0) }
    end
  end
  return parts
end

-- Those parts, in lists that go through the model together.
local function passes_of(o, parts)
  local passes, room = {}, 0
  for _, part in ipairs(parts) do
    if #passes == 0 or part.tokens > room or not loss.shares_passes(o.model) then
      passes[#passes + 1], room = {}, o.micro_tokens
    end
    table.insert(passes[#passes], part)
    room = room - part.tokens
  end
  return passes
end

-- Adds the gradients of the objectives' next batches; returns by objective the losses of its parts
-- (numbers, or tensors that are yet to be read), and counts.
local function accumulate(o, objectives, step)
  local values, tokens, labels = {}, 0, 0
  for _, objective in ipairs(objectives) do values[objective.name] = {} end
  for _, pass in ipairs(passes_of(o, next_parts(o, objectives))) do
    local scope <close> = core.scope()
    local sum
    for i, l in ipairs((loss.of_batches(o.model, pass, o.reference))) do
      local part = pass[i]
      local objective = part.objective
      table.insert(values[objective.name], l:device() == "cpu" and read_loss(l, objective, step)
        or scope:keep(l:detach())) -- reading would wait for the device
      tokens, labels = tokens + part.tokens, labels + part.batch.n_labels
      l = objective.weight == 1 and l or l * objective.weight
      sum = sum and sum + l or l
    end
    sum:backward()
  end
  return values, tokens, labels
end

-- The sum of what `accumulate` gave for losses. Their memory goes back now rather than when Lua
-- collects: the next step then finds the blocks that this one had.
local function sum_losses(values, objective, step)
  local sum = 0
  for _, v in ipairs(values) do
    if type(v) == "number" then
      sum = sum + v
    else
      local l <close> = v
      sum = sum + read_loss(l, objective, step)
    end
  end
  return sum
end

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
local function evaluate(o, live, best)
  local clock = core.clock()
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

-- What the options other than the objectives may be, said before anything is computed.
local function check_options(o)
  if type(o.model) ~= "table" or not o.model.parameters then
    error(("train.fit: model is a %s, needs one of models.new"):format(type(o.model) == "table"
      and "table without parameters" or type(o.model)), 3)
  end
  if type(o.optimizer) ~= "table" or not o.optimizer.attach then
    error(("train.fit: optimizer is a %s, needs one like optim.adamw { lr = 1e-4 }"):format(
      type(o.optimizer) == "table" and "table that is none" or type(o.optimizer)), 3)
  end
  for _, name in ipairs { "evaluate", "stop", "on_step" } do
    if o[name] ~= nil then check.type("train.fit: " .. name, o[name], "callable", 4) end
  end
  check.choice("train.fit: decay", o.decay, { "linear", "none" }, 4)
  check.type("train.fit: label", o.label, "string", 4)
  check.type("train.fit: progress", o.progress, "boolean", 4)
  if o.clip ~= nil then
    check.type("train.fit: clip", o.clip, "number", 4)
    if o.clip ~= o.clip or o.clip <= 0 then
      error(("train.fit: clip = %s, needs a number above 0"):format(o.clip), 3)
    end
  end
  for _, name in ipairs { "micro_tokens", "every" } do
    local n = o[name]
    if n ~= nil and (math.type(n) ~= "integer" or n < 1) then
      error(("train.fit: %s = %s, needs an integer of at least 1"):format(name, tostring(n)), 3)
    end
  end
  if o.keep_best ~= nil then
    check.type("train.fit: keep_best", o.keep_best, "string|callable", 4)
    if not o.evaluate then error("train.fit: keep_best needs evaluate", 3) end
  end
  if o.every and not o.evaluate then error("train.fit: every needs evaluate", 3) end
  if o.from ~= nil and not fork.is_fork(o.from) then
    error(("train.fit: from is a %s, needs one of dopl.run.fork"):format(type(o.from)), 3)
  end
  for _, name in ipairs { "run", "reference" } do
    local needed = name == "run" and "log" or "prepare"
    if o[name] ~= nil and not (type(o[name]) == "table" and o[name][needed]) then
      error(("train.fit: %s is a %s, needs one of dopl.%s"):format(name, type(o[name]),
        name == "run" and "run.open" or "reference.new"), 3)
    end
  end
end

-- accumulate, one objective at a time, so that the microscope sees the gradient of each.
local function accumulate_apart(o, scope, served, t)
  local values, tokens, labels = {}, 0, 0
  for _, objective in ipairs(served) do
    local own, n_tokens, n_labels = accumulate(o, { objective }, t + 1)
    values[objective.name] = own[objective.name]
    tokens, labels = tokens + n_tokens, labels + n_labels
    scope:gradient(t, objective.name)
  end
  return values, tokens, labels
end

-- Logs what the microscope saw of the step.
local function observe(o, scope, live)
  for _, row in ipairs(scope:after(live.objective)) do
    row.label, row.step, row.kind = o.label, live.step, "microscope"
    live.microscope = row
    if o.run then o.run:log(row) end
  end
end

-- One epoch of the forget objective (of the first where there is none), with the steps that the others
-- have meanwhile. Where only running shows whose turn it is, and in phases, which may never complete an
-- epoch, it is that objective's steps alone.
local function default_warmup(plan, sizes)
  if not plan.by_running and plan.kind ~= "phases" then return schedule.passes(1) end
  return sizes.epochs.forget or sizes.epochs[sizes.names[1]]
end

-- A joint step has one rate: values by objective have no meaning there.
local function check_joint_rates(config, list)
  local function refuse(what)
    error(("train.fit: %s is given by objective, and a step of schedule.joint() serves all of them "
      .. "at once: give one number, or a schedule that alternates (schedule.alternate)"):format(what),
      3)
  end
  if type(config.scheme.lr) == "table" then refuse "scheme: lr" end
  for _, each in ipairs { config, config.otherwise } do
    for _, name in ipairs(check.keys(each.hyper)) do
      if type(each.hyper[name]) == "table" then
        refuse(("optim.%s: %s"):format(each.rule.name, name))
      end
    end
  end
  for _, objective in ipairs(list) do
    if objective.lr ~= nil and #list > 1 then
      refuse(("lr of objective '%s'"):format(objective.name))
    end
  end
end

--- Trains a model.
-- @tparam table options see `defaults` in the source: model, objectives, optimizer, schedule, steps,
-- warmup, decay, clip, micro_tokens, reference, evaluate, every, stop, keep_best, on_step,
-- microscope, checkpoint, from, run, label, progress
-- @treturn table { label, steps, losses = { [objective] = last value }, result (of the last or kept
-- evaluation), best_step, optimizer, tokens, seconds, stopped }
function train.fit(options)
  local o = check.options("train.fit", options, defaults)
  check_options(o)
  local list, by_name, names = read_objectives(o.objectives)
  check_lengths(o.model, list)
  note_overlap(list)
  local plan = schedule.from(o.schedule or (#list == 1 and schedule.joint())
    or error("train.fit: several objectives need a schedule", 2))
  check_schedule(o, plan, by_name, names)
  local sizes = schedule.sizes(list)
  o.steps = plan:length(o.steps, sizes, "train.fit: steps")
  o.warmup = plan:length(o.warmup or default_warmup(plan, sizes), sizes, "train.fit: warmup")
  if o.from then o.from:check_steps(o.steps) end
  plan = plan:resolve(sizes)
  for _, objective in ipairs(list) do
    objective.weight = objective.weight * plan:weight(objective.name)
  end
  local joint, kind = plan.kind == "joint", o.optimizer.scheme.kind
  if joint and #list > 1 and kind ~= "joint" and kind ~= "shared" then
    error(("train.fit: scheme.%s keeps states by objective, and a step of schedule.joint() has all "
      .. "of them: take scheme.joint {}, or a schedule that names one, as schedule.alternate")
      :format(kind), 2)
  end
  if joint then check_joint_rates(o.optimizer, list) end
  collectgarbage() -- states of a training before this one: to Lua a few bytes, in truth gigabytes
  local optimizer = o.optimizer:attach(o.model.parameters,
    { objectives = not joint and names or nil, period = plan.period, seed = core.options.seed })
  local scope = o.microscope and microscope.new(o.microscope, { optimizer = optimizer,
    parameters = optimizer.params, objectives = names, joint = joint })

  local best, clock, totals = {}, core.clock(), { tokens = 0, seconds = 0.0 }
  local live = { step = 0, losses = {}, saved = {}, model = o.model, optimizer = optimizer }
  local training = { objectives = list, names = names, plan = plan, optimizer = optimizer,
    microscope = scope, live = live, best = best, totals = totals }
  local keeper = o.checkpoint and checkpoint.keeper(o, training)
  local ended = keeper and keeper:find() or false
  -- one that is shared is asked even so: what it answers depends, in the last bit, on the order
  if not ended or o.reference then prepare_reference(o, list, plan) end
  if not (keeper and keeper:restore()) and o.from then o.from:start(o, training) end

  local hold <close> = keeper and core.stop and core.stop.hold() -- no stop before a checkpoint
  local line <close> = progress.new(o.label, o.steps, o.progress)
  for t = live.step, (ended and live.step or o.steps) - 1 do
    local name = plan:at(t, live)
    local served = list
    if name ~= nil then
      served = { by_name[name] or check.choice("train.fit: schedule's objective", name, names, 3) }
    elseif not joint then
      error(("train.fit: the schedule names no objective for step %d; a step of all objectives at "
        .. "once is schedule.joint()"):format(t), 2)
    end
    local began = core.clock()
    o.model.parameters:zero_grad()
    local values, tokens, labels
    if scope then
      values, tokens, labels = accumulate_apart(o, scope, served, t)
    else
      values, tokens, labels = accumulate(o, served, t + 1)
    end
    local rate = schedule.rate(t, o.steps, o.warmup, o.decay)
    if o.world then o.world:sum(o.model.parameters:gradients()) end
    local alone = #served == 1 and served[1] or {}
    local done = optimizer:step { objective = name, lr = alone.lr, lr_scale = rate, clip = o.clip,
      norm = true }
    for _, objective in ipairs(served) do -- a step on a device is queued by now, as a whole
      live.losses[objective.name] = sum_losses(values[objective.name], objective, t + 1)
    end
    if done.skipped then
      nan_error(served[1], t + 1, "the gradient norm", done.grad_norm)
    end
    totals.tokens = totals.tokens + tokens
    live.step, live.objective, live.lr, live.grad_norm = t + 1, name, done.lr, done.grad_norm
    if o.run then
      local row = { label = o.label, step = t + 1, kind = "step", objective = name or "joint",
        lr = done.lr, grad_norm = done.grad_norm, tokens = tokens, labels = labels,
        seconds = core.clock() - began }
      for _, objective in ipairs(served) do
        row["loss_" .. objective.name] = live.losses[objective.name]
      end
      o.run:log(row)
    end
    if scope then observe(o, scope, live) end
    line:step(t + 1, live.losses, names, tokens)
    if o.on_step then o.on_step(live) end
    if o.evaluate and (t + 1 == o.steps or o.every and (t + 1) % o.every == 0) then
      evaluate(o, live, best)
    end
    if o.stop and o.stop(live) then
      live.stopped = true
      if o.evaluate and live.evaluated ~= live.step then evaluate(o, live, best) end
      break
    end
    if keeper and keeper:step() then hold:close() end -- which raises the stop
  end
  o.model.parameters:zero_grad()
  if best.weights then
    o.model.parameters:restore(best.weights)
  elseif o.keep_best and live.result then
    core.note(("train.fit: every evaluation of '%s' gave NaN to keep_best: the weights are those of "
      .. "the last step"):format(o.label))
  end
  if keeper and not ended then keeper:finish() end
  return figures.row {
    label = o.label, steps = live.step, losses = live.losses, stopped = live.stopped or false,
    tokens = totals.tokens, seconds = totals.seconds + core.clock() - clock,
    result = best.result or live.result, best_step = best.step, optimizer = optimizer,
  }
end

return train
