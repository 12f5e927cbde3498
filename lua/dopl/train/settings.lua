--- train/settings.lua - the options of train.fit, checked before anything is computed.
-- @module dopl.train.settings

local causal_lm = require "dopl.task.causal_lm"
local check = require "dopl.util.check"
local fork = require "dopl.train.fork"
local loss = require "dopl.train.loss"
local tasks = require "dopl.task"

local settings = {}

settings.defaults = {
  model = check.required,
  objectives = check.required, -- array of { name, loss, data, weight = 1, lr = optimizer's }
  optimizer = check.required,  -- a configuration of dopl.optim
  task = causal_lm,            -- packs samples and gives the scores that losses read: dopl.task
  schedule = check.optional,   -- default: joint where there is one objective
  steps = check.required,      -- an integer, or schedule.passes(n)
  warmup = check.optional,     -- the same; default: one epoch, counting the steps of all objectives
  decay = "linear",            -- of the learning rate: "linear" or "none"
  clip = check.optional,       -- largest global gradient norm
  micro_tokens = 4096,         -- cost of one forward pass: input tokens, where the task is text
  reference = check.optional,  -- from dopl.reference, of this starting model; made where needed
  evaluate = check.optional,   -- function(model, step) -> table of numbers
  every = check.optional,      -- steps between evaluations; default: none but the last
  stop = check.optional,       -- function(live) -> true to end now
  keep_best = check.optional,  -- name of an evaluation result, or function(result) -> score
  on_step = check.optional,    -- function(live), after each step
  diagnostics = check.optional, -- { every = n }: see dopl.diagnostics
  checkpoint = check.optional, -- { every = 50 steps, keep = 2, stay = 0 }: see dopl.train.checkpoint
  from = check.optional,       -- from dopl.run.fork: a checkpoint of another run
  world = check.optional,      -- from dopl.dist.open: gradients are summed over its processes
  run = check.optional,        -- from dopl.run: gets one row of metrics a step
  label = "train",             -- names the run's rows and the progress line
  progress = true,
}

local objective_defaults = {
  name = check.required, loss = check.required, data = check.required, weight = 1.0,
  lr = check.optional,
}

-- Errors point at the line that called train.fit, which calls `read`, which calls these functions.

-- Refuses NaN, infinity and numbers below `low`.
local function check_number(what, value, low)
  check.type(what, value, "number", 7)
  if value ~= value or math.abs(value) == math.huge or value < low then
    error(("%s = %s, needs a finite number%s"):format(what, value,
      low > -math.huge and " of at least " .. low or ""), 6)
  end
end

local function check_objective(o, i)
  check.type(("train.fit: name of objective %d"):format(i), o.name, "string", 6)
  local where = ("train.fit: objective '%s': "):format(o.name)
  if not loss.is_loss(o.loss) then
    error(("%sloss is a %s, needs one like loss.gd() or loss.new { ... }"):format(where,
      type(o.loss)), 5)
  end
  if type(o.data) ~= "table" or not o.data.steps_per_epoch then
    error(("%sdata is a %s, needs a data.loader { ... }"):format(where,
      type(o.data) == "table" and "table that is no loader" or type(o.data)), 5)
  end
  check_number(where .. "weight", o.weight, -math.huge)
  if o.lr ~= nil then check_number(where .. "lr", o.lr, 0) end
end

local function read_objectives(o)
  local given = check.list("train.fit: objectives", o.objectives, 5)
  if #given == 0 then error("train.fit: no objectives: give { { name, loss, data }, ... }", 4) end
  local list, by_name, names = {}, {}, {}
  for i, objective in ipairs(given) do
    local each = check.options(("train.fit: objective %d"):format(i), objective, objective_defaults, 5)
    check_objective(each, i)
    if by_name[each.name] then error(("train.fit: two objectives '%s'"):format(each.name), 4) end
    local where = ("train.fit: objective '%s': "):format(each.name)
    o.task:check_loss(where, each.loss, 4)
    o.task.check_data(where, each, o.model, 4)
    list[i], by_name[each.name], names[i] = each, each, each.name
  end
  return list, by_name, names
end

local function check_model(o)
  if type(o.model) ~= "table" or not o.model.parameters then
    error(("train.fit: model is a %s, needs one of models.new"):format(type(o.model) == "table"
      and "table without parameters" or type(o.model)), 4)
  end
  if type(o.optimizer) ~= "table" or not o.optimizer.attach then
    error(("train.fit: optimizer is a %s, needs one like optim.adamw { lr = 1e-4 }"):format(
      type(o.optimizer) == "table" and "table without attach" or type(o.optimizer)), 4)
  end
  if not tasks.is_task(o.task) then
    error(("train.fit: task is a %s, needs one like dopl.task.causal_lm or task.new { ... }"):format(
      type(o.task)), 4)
  end
  o.task.check_model("train.fit: ", o.model, 4)
end

local function check_numbers(o)
  check.choice("train.fit: decay", o.decay, { "linear", "none" }, 5)
  if o.clip ~= nil then
    check.type("train.fit: clip", o.clip, "number", 5)
    if o.clip ~= o.clip or o.clip <= 0 then
      error(("train.fit: clip = %s, needs a number above 0"):format(o.clip), 4)
    end
  end
  for _, name in ipairs { "micro_tokens", "every" } do
    local n = o[name]
    if n ~= nil and (math.type(n) ~= "integer" or n < 1) then
      error(("train.fit: %s = %s, needs an integer of at least 1"):format(name, tostring(n)), 4)
    end
  end
end

local function check_evaluation(o)
  for _, name in ipairs { "evaluate", "stop", "on_step" } do
    if o[name] ~= nil then check.type("train.fit: " .. name, o[name], "callable", 5) end
  end
  if o.keep_best ~= nil then
    check.type("train.fit: keep_best", o.keep_best, "string|callable", 5)
    if not o.evaluate then error("train.fit: keep_best needs evaluate", 4) end
  end
  if o.every and not o.evaluate then error("train.fit: every needs evaluate", 4) end
end

local function check_others(o)
  check.type("train.fit: label", o.label, "string", 5)
  check.type("train.fit: progress", o.progress, "boolean", 5)
  if o.from ~= nil and not fork.is_fork(o.from) then
    error(("train.fit: from is a %s, needs one of dopl.run.fork"):format(type(o.from)), 4)
  end
  for _, name in ipairs { "run", "reference" } do
    local needed = name == "run" and "log" or "prepare"
    if o[name] ~= nil and not (type(o[name]) == "table" and o[name][needed]) then
      error(("train.fit: %s is a %s, needs one of dopl.%s"):format(name, type(o[name]),
        name == "run" and "run.open" or "reference.new"), 4)
    end
  end
end

--- Refuses the option `microscope`, an older name of `diagnostics`, and says the name to use.
-- @tparam string where "train.fit"
-- @param given the caller's options
-- @tparam integer level where the error points, as for `error`
function settings.refuse_old_name(where, given, level)
  if type(given) == "table" and given.microscope ~= nil then
    error(("%s: 'microscope' is called 'diagnostics' now: give diagnostics = { every = n }"):format(
      where), level + 1)
  end
end

--- The options of train.fit, complete and checked, and its objectives.
-- @tparam table options
-- @treturn table o; objectives, a list; by_name; names
function settings.read(options)
  settings.refuse_old_name("train.fit", options, 3)
  local o = check.options("train.fit", options, settings.defaults, 4)
  check_model(o)
  check_evaluation(o)
  check_numbers(o)
  check_others(o)
  local list, by_name, names = read_objectives(o)
  return { o = o, objectives = list, by_name = by_name, names = names }
end

--- Refuses a schedule that does not suit the objectives or the evaluation.
-- @tparam table t from `read`
-- @tparam Schedule plan
function settings.check_schedule(t, plan)
  for _, name in ipairs(plan.objectives or {}) do
    if not t.by_name[name] then check.choice("train.fit: schedule", name, t.names, 4) end
  end
  for _, name in ipairs(plan.weights and t.names or {}) do
    if not plan.weights[name] then
      error(("train.fit: %s gives '%s' no weight"):format(plan.text, name), 3)
    end
  end
  if plan.needs_result and not (t.o.evaluate and t.o.every) then
    error(("train.fit: %s asks for results of evaluations: give evaluate and every")
      :format(plan.text), 3)
  end
end

-- A joint step has one rate: values by objective have no meaning there.
local function check_joint_rates(config, list)
  local function refuse(what)
    error(("train.fit: %s is given by objective, and a step of schedule.joint() serves all of them "
      .. "at once: give one number, or a schedule that alternates (schedule.alternate)"):format(what),
      5)
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

--- Refuses an optimizer that keeps apart what a joint step has together.
-- @tparam table t from `read`
function settings.check_joint(t)
  local kind = t.o.optimizer.scheme.kind
  if #t.objectives > 1 and kind ~= "joint" and kind ~= "shared" then
    error(("train.fit: scheme.%s keeps states by objective, and a step of schedule.joint() has all "
      .. "of them: take scheme.joint {}, or a schedule that names one, as schedule.alternate")
      :format(kind), 3)
  end
  check_joint_rates(t.o.optimizer, t.objectives)
end

return settings
