--- train/gradients.lua - the gradients of effective batches, added up over micro-batches.
--
-- Each objective's next batch is cut into micro-batches that cost at most `micro_tokens`. Losses divide
-- by the counts of the effective batch, so the cut changes nothing but memory.
-- @module dopl.train.gradients

local core = require "dopl.core"
local loss = require "dopl.train.loss"

local gradients = {}

--- Ends the training with an error that names step, objective and what to try.
function gradients.refuse(objective, step, what, value)
  error(("train.fit: step %d, objective '%s': %s is %s; the parameters are as step %d left them. "
    .. "Try a smaller learning rate, clip = 1.0, or a smaller loss weight")
    :format(step, objective.name, what, value ~= value and "NaN" or value, step - 1), 0)
end

local function read_loss(l, objective, step)
  local v = l:item()
  if v ~= v or v == math.huge or v == -math.huge then
    gradients.refuse(objective, step, "the loss", v)
  end
  return v
end

-- The micro-batches of each objective's next batch.
local function next_parts(o, objectives)
  local parts = {}
  for _, objective in ipairs(objectives) do
    for _, batch in ipairs(o.task:batches(objective.data:next(), o.micro_tokens)) do
      parts[#parts + 1] = { objective = objective, loss = objective.loss, batch = batch }
    end
  end
  return parts
end

-- Those parts, in lists that go through the model together.
local function passes_of(o, parts)
  local passes, room, share = {}, 0, o.task.shares_passes(o.model)
  for _, part in ipairs(parts) do
    local cost = part.batch.cost
    if #passes == 0 or cost > room or not share then
      passes[#passes + 1], room = {}, o.micro_tokens
    end
    table.insert(passes[#passes], part)
    room = room - cost
  end
  return passes
end

-- Adds the gradients of the objectives' next batches; returns by objective the losses of its parts
-- (numbers, or tensors that are yet to be read), and counts.
local function accumulate(o, objectives, step)
  local values, cost, labels = {}, 0, 0
  for _, objective in ipairs(objectives) do values[objective.name] = {} end
  for _, pass in ipairs(passes_of(o, next_parts(o, objectives))) do
    local scope <close> = core.scope()
    local sum
    for i, l in ipairs((loss.of_batches(o.model, pass, o.reference, o.task))) do
      local part = pass[i]
      local objective = part.objective
      table.insert(values[objective.name], l:device() == "cpu" and read_loss(l, objective, step)
        or scope:keep(l:detach())) -- reading would wait for the device
      cost, labels = cost + part.batch.cost, labels + part.batch.n_labels
      l = objective.weight == 1 and l or l * objective.weight
      sum = sum and sum + l or l
    end
    sum:backward()
  end
  return values, cost, labels
end

-- The same, one objective at a time, so that diagnostics see the gradient of each.
local function accumulate_apart(o, diagnostics, served, step)
  local values, cost, labels = {}, 0, 0
  for _, objective in ipairs(served) do
    local own, own_cost, own_labels = accumulate(o, { objective }, step)
    values[objective.name] = own[objective.name]
    cost, labels = cost + own_cost, labels + own_labels
    diagnostics:gradient(step - 1, objective.name)
  end
  return values, cost, labels
end

--- Adds the gradients of the next effective batches.
-- @tparam table t the training
-- @tparam table served the objectives of the step
-- @tparam integer step from 1
-- @treturn table by objective what `sum_losses` takes
-- @treturn number cost
-- @treturn integer labels
function gradients.add(t, served, step)
  if t.diagnostics then return accumulate_apart(t.o, t.diagnostics, served, step) end
  return accumulate(t.o, served, step)
end

--- The loss of an objective's batch from those of its parts. Their memory goes back now rather than
-- when Lua collects: the next step then finds the blocks that this one had.
function gradients.sum_losses(values, objective, step)
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

return gradients
