--- optim/expr.lua - symbolic values: what a rule computes with while it is traced.
--
-- A graph interns its nodes, so the same expression written twice is one node, and folds constants.
-- A node is a scalar (a number of the step: hyper-parameters, bias corrections) or a vector (one
-- number per element of a parameter). Operators on scalars give scalars; the compiler evaluates
-- those once per step, in double precision.
-- @module dopl.optim.expr
local expr = {}

local node = {}
node.__index = node
node.__name = "dopl.optim.value"

local graph = {}
graph.__index = graph

--- A new, empty graph.
function expr.graph()
  return setmetatable({ nodes = {}, n = 0 }, graph)
end

local function is_node(x)
  return getmetatable(x) == node
end
expr.is_node = is_node

local function sign(x)
  return x > 0 and 1.0 or x < 0 and -1.0 or 0.0
end

-- Bias correction of a moment with decay `b` after `n` pushes; nothing pushed: nothing to correct.
local function unbias(b, n)
  return n > 0 and 1 / (1 - b ^ n) or 1.0
end

--- What each operator does to numbers: constant folding, and the scalars of a step.
expr.fold = {
  add = function(a, b) return a + b end,
  sub = function(a, b) return a - b end,
  mul = function(a, b) return a * b end,
  div = function(a, b) return a / b end,
  pow = function(a, b) return a ^ b end,
  min = function(a, b) return a < b and a or b end,
  max = function(a, b) return a > b and a or b end,
  neg = function(a) return -a end,
  abs = math.abs,
  sqrt = function(a) return a ^ 0.5 end,
  exp = math.exp,
  log = math.log,
  tanh = function(a)
    local e = math.exp(-2 * math.abs(a))
    return sign(a) * (1 - e) / (1 + e)
  end,
  sign = sign,
  unbias = unbias,
}

local function intern(g, key, fields)
  local known = g.nodes[key]
  if known then return known end
  g.n = g.n + 1
  fields.id, fields.graph = g.n, g
  local made = setmetatable(fields, node)
  g.nodes[key] = made
  return made
end

--- A number.
function graph:const(value)
  value = value + 0.0
  return intern(self, ("const %a"):format(value), { op = "const", value = value })
end

--- A number known only at the step, by name.
function graph:scalar(name)
  return intern(self, "scalar " .. name, { op = "scalar", name = name })
end

--- A vector in memory: "theta", "g", or a state.
function graph:input(name)
  return intern(self, "input " .. name, { op = "input", name = name, vector = true })
end

local function as_node(g, x)
  if is_node(x) then
    if x.graph ~= g then
      error("optim: a value of one rule's trace is used in another", 0)
    end
    return x
  end
  if type(x) == "number" then return g:const(x) end
  error(("optim: arithmetic on a %s, need a number or a symbolic value"):format(type(x)), 0)
end

local function constant(x, value)
  return x.op == "const" and x.value == value
end

-- Identities that hold for every finite number.
local identity = {
  add = function(_, a, b) return constant(a, 0) and b or constant(b, 0) and a end,
  sub = function(g, a, b)
    return constant(b, 0) and a or constant(a, 0) and g:make("neg", b)
  end,
  mul = function(g, a, b)
    if constant(a, 1) then return b end
    if constant(b, 1) then return a end
    return (constant(a, 0) or constant(b, 0)) and g:const(0)
  end,
  div = function(_, a, b) return constant(b, 1) and a end,
  pow = function(g, a, b)
    if constant(b, 1) then return a end
    if constant(b, 2) then return g:make("mul", a, a) end
    return constant(b, 0.5) and g:make("sqrt", a)
  end,
  neg = function(_, a) return a.op == "neg" and a.args[1] end,
  abs = function(_, a) return a.op == "abs" and a end,
}

local commutes = { add = true, mul = true, min = true, max = true }

--- The node of `op` on one or two values.
function graph:make(op, a, b)
  a = as_node(self, a)
  b = b ~= nil and as_node(self, b) or nil
  if a.op == "const" and (not b or b.op == "const") then
    return self:const(expr.fold[op](a.value, b and b.value))
  end
  local same = identity[op] and identity[op](self, a, b)
  if same then return same end
  if b and commutes[op] and a.id > b.id then a, b = b, a end
  local key = ("%s %d %d"):format(op, a.id, b and b.id or 0)
  return intern(self, key, {
    op = op, args = { a, b }, vector = a.vector or (b and b.vector) or false,
  })
end

local function binary(op)
  return function(a, b) return (is_node(a) and a or b).graph:make(op, a, b) end
end
node.__add, node.__sub, node.__mul = binary "add", binary "sub", binary "mul"
node.__div, node.__pow = binary "div", binary "pow"
node.__unm = function(a) return a.graph:make("neg", a) end
local function no_order()
  error("optim: symbolic values have no order while a rule is traced; use optim.min, optim.max "
    .. "or optim.sign", 0)
end
node.__lt, node.__le = no_order, no_order

local infix = { add = "+", sub = "-", mul = "*", div = "/", pow = "^" }
function node:__tostring()
  if self.op == "const" then return ("%.9g"):format(self.value) end
  if self.name then return self.name end
  local a, b = self.args[1], self.args[2]
  if infix[self.op] then return ("(%s %s %s)"):format(a, infix[self.op], b) end
  return b and ("%s(%s, %s)"):format(self.op, a, b) or ("%s(%s)"):format(self.op, a)
end

--- Square root, in a rule.
-- @function optim.sqrt
-- @tparam number|value x
-- @return of the kind of x

--- Absolute value, in a rule.
-- @function optim.abs
-- @tparam number|value x
-- @return of the kind of x

--- Sign (-1, 0 or 1), in a rule.
-- @function optim.sign
-- @tparam number|value x
-- @return of the kind of x

--- Exponential, in a rule.
-- @function optim.exp
-- @tparam number|value x
-- @return of the kind of x

--- Natural logarithm, in a rule.
-- @function optim.log
-- @tparam number|value x
-- @return of the kind of x

--- Hyperbolic tangent, in a rule.
-- @function optim.tanh
-- @tparam number|value x
-- @return of the kind of x

--- The smaller of two, in a rule.
-- @function optim.min
-- @tparam number|value a
-- @tparam number|value b
-- @return a number if both are

--- The larger of two, in a rule.
-- @function optim.max
-- @tparam number|value a
-- @tparam number|value b
-- @return a number if both are

--- The functions a rule may call, on numbers and symbolic values alike.
expr.functions = {}
local function check_value(op, x)
  if type(x) == "number" or is_node(x) then return end
  error(("optim.%s: a %s, needs a number or a value of the rule"):format(op, type(x)), 3)
end
for _, op in ipairs { "sqrt", "abs", "sign", "exp", "log", "tanh" } do
  expr.functions[op] = function(x)
    check_value(op, x)
    return is_node(x) and x.graph:make(op, x) or expr.fold[op](x)
  end
end
for _, op in ipairs { "min", "max" } do
  expr.functions[op] = function(a, b)
    check_value(op, a)
    check_value(op, b)
    local n = is_node(a) and a or is_node(b) and b
    return n and n.graph:make(op, a, b) or expr.fold[op](a, b)
  end
end

return expr
