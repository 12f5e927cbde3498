--- optim/trace.lua - traces a rule under a scheme into the expression graphs of its passes.
--
-- A rule says how moments are pushed and how theta moves; a scheme says which copies of a moment
-- exist and which combination of them enters the direction. Tracing calls both once with symbolic
-- values; what comes back is a list of operands to write.
-- @module dopl.optim.trace
local check = require "dopl.util.check"
local expr = require "dopl.optim.expr"

local trace = {}

--- The state operand of a moment: "m" where all objectives share it, "m.own" for the one of the
-- step's objective, "m.base", and in a period-end pass "m.own.forget".
local function state_name(moment, part, objective)
  if part == "shared" then return moment end
  return objective and ("%s.%s.%s"):format(moment, part, objective) or moment .. "." .. part
end
trace.state_name = state_name

-- h.lr in a rule: a scalar of the graph; a name the rule does not declare is an error.
local function hyper_view(graph, rule)
  return setmetatable({}, { __index = function(_, name)
    if rule.hyper[name] == nil and name ~= "step" and name ~= "objective_step" then
      local near = check.nearest(tostring(name), check.keys(rule.hyper))
      error(("optim rule '%s': no hyper-parameter '%s'%s"):format(rule.name, tostring(name),
        near and (" (did you mean '%s'?)"):format(near) or ""), 0)
    end
    return graph:scalar(name)
  end })
end

-- What a function of the rule returned, as a symbolic value.
local function returned(graph, rule, what, value)
  if expr.is_node(value) then return value end
  if type(value) == "number" then return graph:const(value) end
  error(("optim rule '%s': %s returned a %s, needs a value"):format(rule.name, what, type(value)), 0)
end

local context = {}
context.__index = context

--- One push of a moment: ema b x + (1 - b) s, sum b x + s.
function context.push(_, moment, x, s, beta)
  if moment.kind == "sum" then return beta * x + s end
  return beta * x + (1 - beta) * s
end

--- Bias correction after `steps` pushes, where the rule corrects this moment.
function context:unbias(moment, x, beta, steps)
  if moment.kind == "sum" or not moment.correct then return x end
  return x * self.graph:make("unbias", beta, steps)
end

--- A state as it lies in memory before the step.
function context:state(moment, part, objective)
  local name = state_name(moment.name, part, objective)
  if not self.parts[name] then
    self.parts[name] = { moment = moment, part = part, objective = objective }
    self.order[#self.order + 1] = name
  end
  return self.graph:input(name)
end

--- What the state becomes.
function context:store(moment, part, value, objective)
  self.outputs[#self.outputs + 1] = {
    name = state_name(moment.name, part, objective), value = value,
  }
end

function context:decay(moment, part)
  local value = moment.decay
  if type(value) == "number" then return self.graph:const(value) end
  return self.graph:scalar(part == "base" and self.base_decay[value] or value)
end

local function new_context(rule, scheme, options)
  local g = expr.graph()
  return setmetatable({
    graph = g, rule = rule, options = options, scheme = scheme, h = hyper_view(g, rule),
    parts = {}, order = {}, outputs = {}, base_decay = options.base_decay or {},
    t = g:scalar("step"), t_k = g:scalar("objective_step"),
  }, context)
end

-- mom.v in a rule: traced on first use, so a signal may use another moment, whatever their order.
local function moment_view(cx, g)
  local busy, known = {}, {}
  return setmetatable({}, { __index = function(view, name)
    local moment = cx.rule.moments[name]
    if not moment then
      local near = check.nearest(tostring(name), cx.rule.moment_names)
      error(("optim rule '%s': no moment '%s'%s"):format(cx.rule.name, tostring(name),
        near and (" (did you mean '%s'?)"):format(near) or ""), 0)
    end
    if known[name] then return known[name] end
    if busy[name] then
      error(("optim rule '%s': the signal of moment '%s' needs itself"):format(cx.rule.name,
        name), 0)
    end
    busy[name] = true
    local signal = returned(cx.graph, cx.rule, ("the signal of moment '%s'"):format(name),
      moment.signal(g, cx.h, view))
    known[name] = cx.scheme.moment(cx, moment, signal)
    return known[name]
  end })
end

-- The pass after a transform: theta moves by what it made of the direction.
local function update_pass(rule, scheme, options)
  local cx = new_context(rule, scheme, options)
  local theta, h = cx.graph:input("theta"), cx.h
  local from = rule.decay and returned(cx.graph, rule, "decay", rule.decay(theta, h)) or theta
  cx.outputs[1] = { name = "theta", value = from - h.lr * cx.graph:input("direction") }
  cx.operands = { "theta", "direction" }
  return cx
end

--- The pass of a step.
-- @treturn table context with graph, outputs, operands; where the rule has a transform, it leaves
-- the direction in the operand "direction", and `update` is the pass that follows
function trace.step(rule, scheme, options)
  local cx = new_context(rule, scheme, options)
  local theta, h = cx.graph:input("theta"), cx.h
  local g = cx.graph:input("g") * cx.graph:scalar("clip")
  if rule.couple then g = returned(cx.graph, rule, "couple", rule.couple(g, theta, h)) end
  local mom = moment_view(cx, g)
  local direction = returned(cx.graph, rule, "direction", rule.direction(mom, g, h))
  for _, name in ipairs(rule.moment_names) do local _ = mom[name] end
  if rule.transform then
    table.insert(cx.outputs, 1, { name = "direction", value = direction })
    cx.operands = { "theta", "g", "direction", table.unpack(cx.order) }
    cx.update = update_pass(rule, scheme, options)
    return cx
  end
  local from = rule.decay and returned(cx.graph, rule, "decay", rule.decay(theta, h)) or theta
  -- theta comes first: the direction is the last to read states as they were (a base, under
  -- base_delta; all of them, in a lagged rule), and then each can be written over in place
  table.insert(cx.outputs, 1, { name = "theta", value = from - h.lr * direction })
  cx.operands = { "theta", "g", table.unpack(cx.order) }
  return cx
end

--- The pass at the end of a period, or nil where the scheme has none.
function trace.period_end(rule, scheme, options)
  if not scheme.period_end then return nil end
  local cx = new_context(rule, scheme, options)
  for _, name in ipairs(rule.moment_names) do scheme.period_end(cx, rule.moments[name]) end
  cx.operands = { "theta", table.unpack(cx.order) }
  return cx
end

return trace
