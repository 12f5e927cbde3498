--- optim/compile.lua - from an expression graph to a program of the tile interpreter.
--
-- Sums of scalar x vector terms become `lin1..3` (any nesting of +, - and scaling that is used once
-- is one instruction), products fold into them (`mac`), quotients by roots are one instruction
-- (`divr`, `divar`), or part of the sum they enter (`step`, `step2`): an AdamW step is three
-- instructions. Every scalar-only sub-tree becomes a number of the step. A value that replaces a
-- state is written over it as soon as nobody needs the old one. What is stored in 8 or 16 bits is
-- read by one instruction and written by one more.
-- @module dopl.optim.compile
local expr = require "dopl.optim.expr"

local compile = {}

local TILES, SCALARS = 5, 6 -- of an instruction, at most

local lower = {}
lower.__index = lower

-- ---- scalars

-- The number of scalar node `s` in the program's list.
function lower:scalar(s)
  local index = self.scalar_index[s]
  if not index then
    index = #self.scalars
    self.scalars[index + 1] = s
    self.scalar_index[s] = index
  end
  return index
end

-- ---- terms: coefficient x vector

local is_scale = { neg = true, mul = true, div = true }

-- Strips scalar factors: returns coefficient, remaining vector.
function lower:strip(x)
  local g, k = self.graph, self.graph:const(1)
  while is_scale[x.op] do
    local a, b = x.args[1], x.args[2]
    if x.op == "neg" then
      k, x = -k, a
    elseif x.op == "mul" and not a.vector then
      k, x = g:make("mul", k, a), b
    elseif not b.vector then -- mul or div by a scalar
      k, x = g:make(x.op, k, b), a
    else
      break
    end
  end
  return k, x
end

-- Adds k * x to the sum { terms, constant }. A sum used elsewhere too stays a separate value.
function lower:gather(sum, k, x, top)
  local g = self.graph
  if not x.vector then
    sum.constant = g:make("add", sum.constant, g:make("mul", k, x))
    return
  end
  local c, v = self:strip(x)
  k = g:make("mul", k, c)
  if (v.op == "add" or v.op == "sub") and (top or self.uses[v] == 1) then
    self:gather(sum, k, v.args[1])
    self:gather(sum, v.op == "add" and k or -k, v.args[2])
    return
  end
  for _, term in ipairs(sum) do
    if term.x == v then
      term.k = g:make("add", term.k, k)
      return
    end
  end
  sum[#sum + 1] = { k = k, x = v }
end

-- ---- instructions

function lower:emit(op, inputs, scalars)
  local value = { op = op, inputs = inputs, scalars = {} }
  for i, s in ipairs(scalars or {}) do value.scalars[i] = self:scalar(s) end
  self.code[#self.code + 1] = value
  value.index = #self.code
  return value
end

function lower:product(k, x)
  local k1, a = self:strip(x.args[1])
  local k2, b = self:strip(x.args[2])
  local g = self.graph
  return g:make("mul", k, g:make("mul", k1, k2)), self:value(a), self:value(b)
end

-- sqrt(k0 * a), or of its absolute value: prefix of the primitive, k0, a.
function lower:root_parts(x)
  local k, a = self:strip(x.args[1])
  if a.op ~= "abs" then return "", k, a end
  local k0, inner = self:strip(a.args[1])
  -- k |k0 a| = |k k0 a| for positive k; for a negative one the root is not a number anyway
  return "a", self.graph:make("mul", k, k0), inner
end

-- Where the sum is one root that nobody else needs: prefix, a, { k0, k1, k2 }.
function lower:root_of(sum)
  local x = #sum == 1 and sum[1].x
  if not x or x.op ~= "sqrt" or self.uses[x] ~= 1 then return nil end
  local prefix, k0, a = self:root_parts(x)
  return prefix, a, { k0, sum[1].k, sum.constant }
end

-- A product among at least two terms takes one other term along. mac has no constant.
function lower:fold_product(sum)
  for i, term in ipairs(sum) do
    local x = term.x
    if #sum > 1 and x and x.op == "mul" and self.uses[x] == 1 then
      table.remove(sum, i)
      local other = table.remove(sum, 1)
      local k, a, b = self:product(term.k, x)
      local c = other.made or self:value(other.x)
      table.insert(sum, 1, { k = self.one, made = self:emit("mac", { a, b, c }, { k, other.k }) })
      return
    end
  end
end

-- The sum that vector `x`, times k, is, where it has two terms and nobody else needs x; else x alone.
function lower:terms_of(k, x)
  local sum = { constant = self.zero }
  self:gather(sum, k, x)
  if #sum <= 2 and sum.constant == self.zero then return sum end
  local c, v = self:strip(x)
  return { { k = self.graph:make("mul", k, c), x = v } }
end

-- A sum of two terms, one of them a quotient by the root of an absolute value: a step of theta.
-- Numerator and what is under the root may be sums of two terms (a base and a delta).
function lower:fold_step(sum)
  local at = #sum == 2 and sum.constant == self.zero and (sum[1].x.op == "div" and 1 or 2)
  local x = at and sum[at].x
  if not x or x.op ~= "div" or not x.args[1].vector or self.uses[x] ~= 1
    or self.uses[x.args[2]] ~= 1 then
    return nil
  end
  local below = { constant = self.zero }
  self:gather(below, self.one, x.args[2], true)
  local root = #below == 1 and below[1].x
  if not root or below[1].k ~= self.one or root.op ~= "sqrt" or self.uses[root] ~= 1 then
    return nil
  end
  local prefix, k, v = self:root_parts(root)
  if prefix ~= "a" then return nil end
  local over, under = self:terms_of(sum[at].k, x.args[1]), self:terms_of(k, v)
  local other, n = sum[3 - at], math.max(#over, #under)
  local inputs, scalars = { self:value(other.x) }, { other.k }
  for _, part in ipairs { over, under } do
    for i = 1, n do -- where one has two terms and the other has not: nothing of the first, again
      local term = part[i] or { x = part[1].x, k = self.zero }
      inputs[#inputs + 1], scalars[#scalars + 1] = self:value(term.x), term.k
    end
  end
  scalars[#scalars + 1] = below.constant
  return self:emit(n == 1 and "step" or "step2", inputs, scalars)
end

-- Emits k1 x1 + k2 x2 + ... + constant.
function lower:sum(sum)
  local step = self:fold_step(sum)
  if step then return step end
  local prefix, a, scalars = self:root_of(sum)
  if prefix then return self:emit(prefix .. "root", { self:value(a) }, scalars) end
  self:fold_product(sum)
  while true do
    local only = #sum == 1 and sum[1]
    if only and only.made and only.k == self.one and sum.constant == self.zero then
      return only.made
    end
    local inputs, k, last = {}, {}, #sum <= 3
    for i = 1, math.min(3, #sum) do
      local term = table.remove(sum, 1)
      inputs[i], k[i] = term.made or self:value(term.x), term.k
    end
    k[#k + 1] = last and sum.constant or self.zero
    local made = self:emit("lin" .. #inputs, inputs, k)
    if last then return made end
    table.insert(sum, 1, { k = self.one, made = made })
  end
end

function lower:quotient(x)
  local g, above, below = self.graph, x.args[1], x.args[2]
  if not above.vector then
    local k, b = self:strip(below)
    return self:emit("rcp", { self:value(b) }, { g:make("div", above, k) })
  end
  local ka, a = self:strip(above)
  if self.uses[below] == 1 then
    local sum = { constant = self.zero }
    self:gather(sum, self.one, below, true)
    local prefix, b, k = self:root_of(sum)
    if prefix then
      local inputs = { self:value(a), self:value(b) }
      return self:emit("div" .. prefix .. "r", inputs, { ka, k[1], k[2], k[3] })
    end
  end
  local kb, b = self:strip(below)
  return self:emit("div", { self:value(a), self:value(b) }, { g:make("div", ka, kb) })
end

function lower:extreme(x)
  local a, b = x.args[1], x.args[2]
  if not a.vector then a, b = b, a end
  if not b.vector then return self:emit(x.op .. "s", { self:value(a) }, { b }) end
  return self:emit(x.op, { self:value(a), self:value(b) })
end

function lower:power(x)
  if x.args[2].vector then
    error("optim: a power needs a number for its exponent", 0)
  end
  return self:emit("pow", { self:value(x.args[1]) }, { x.args[2] })
end

local function is_linear(x)
  if x.op == "add" or x.op == "sub" or x.op == "neg" then return true end
  if x.op == "mul" then return not (x.args[1].vector and x.args[2].vector) end
  return x.op == "div" and not x.args[2].vector
end

function lower:compute(x)
  if is_linear(x) then
    local sum = { constant = self.zero }
    self:gather(sum, self.one, x, true)
    return self:sum(sum)
  elseif x.op == "mul" then
    local k, a, b = self:product(self.one, x)
    return self:emit("mul", { a, b }, { k })
  elseif x.op == "div" then
    return self:quotient(x)
  elseif x.op == "sqrt" then
    local prefix, k0, a = self:root_parts(x)
    return self:emit(prefix .. "root", { self:value(a) }, { k0, self.one, self.zero })
  elseif x.op == "min" or x.op == "max" then
    return self:extreme(x)
  elseif x.op == "pow" then
    return self:power(x)
  end
  return self:emit(x.op, { self:value(x.args[1]) })
end

-- The instructions that read and write what is not stored as f32.
local loads = { q8 = "load8", u8 = "load8", bf16 = "load16" }
local stores = { q8 = "store8", u8 = "store8", bf16 = "stochastic16" }

-- The value of vector node `x`, computed on first need.
function lower:value(x)
  local known = self.values[x]
  if known then return known end
  if x.op == "input" then
    local name = x.name == "theta" and self.weights == "master" and "master" or x.name
    local load = loads[self.kind[name]]
    known = { input = name }
    if load then known = self:emit(load, { known }) end
  else
    known = self:compute(x)
  end
  self.values[x] = known
  return known
end

local function count_uses(outputs)
  local uses = {}
  local function visit(x)
    if not x.vector then return end
    uses[x] = (uses[x] or 0) + 1
    if uses[x] > 1 then return end
    for _, arg in ipairs(x.args or {}) do visit(arg) end
  end
  for _, out in ipairs(outputs) do visit(out.value) end
  return uses
end

-- ---- places

-- Index of the last instruction that reads each value, and each memory operand.
local function last_uses(code)
  local last = {}
  for i, instr in ipairs(code) do
    for _, v in ipairs(instr.inputs) do last[v.input or v] = i end
  end
  return last
end

-- What packs a value into an operand; nil where it lies there as it is.
local function store_of(self, name)
  if name == "theta" and (self.weights == "master" or self.weights == "nearest") then
    return "store16"
  end
  return stores[self.kind[name]]
end

-- Writes every output. A value may be written straight over the state it replaces once that has
-- been read for the last time.
local function place_outputs(self, outputs)
  local last = last_uses(self.code)
  local function put(v, name)
    local store = store_of(self, name)
    if store then
      self:emit(store, { v }).operand = name
    elseif v.index and not v.operand and (last[name] or 0) <= v.index then
      v.operand = name
    else
      self:emit("lin1", { v }, { self.one, self.zero }).operand = name
    end
  end
  for _, out in ipairs(outputs) do
    if out.name == "theta" and self.weights == "master" then put(out.result, "master") end
    put(out.result, out.name)
  end
end

local function allocate(code)
  local last, free, n_reg = last_uses(code), {}, 0
  for i, instr in ipairs(code) do
    local released = {}
    for _, v in ipairs(instr.inputs) do
      if v.reg and last[v] == i and not released[v] then
        released[v] = true
        free[#free + 1] = v.reg
      end
    end
    if not instr.operand then
      if #free > 0 then
        instr.reg = table.remove(free)
      else
        instr.reg, n_reg = n_reg, n_reg + 1
      end
    end
  end
  return n_reg
end

--- Compiles outputs to a program.
-- @tparam graph graph what the nodes belong to
-- @tparam {{name=string,value=node},...} outputs operands to write, in order of evaluation
-- @tparam {string,...} operands every operand's name; the first is theta, "g" is the gradient
-- @tparam {[string]=string} kind of each operand: "f32", "bf16", "q8" or "u8"
-- @tparam ?string weights where theta is bf16: "stochastic", "nearest", or "master", which the
--   operand of that name is
-- @treturn table { instr, n_reg, n_scalar, operands, has_grad, scalars }
function compile.program(graph, outputs, operands, kind, weights)
  local self = setmetatable({
    graph = graph, code = {}, values = {}, scalars = {}, scalar_index = {}, kind = kind,
    weights = weights, uses = count_uses(outputs), one = graph:const(1), zero = graph:const(0),
  }, lower)
  for _, out in ipairs(outputs) do
    if not out.value.vector then
      error(("optim: %s becomes a number, the same for every element"):format(out.name), 0)
    end
    out.result = self:value(out.value)
    if out.result.input then -- read now: that operand may be about to change
      out.result = self:emit("lin1", { out.result }, { self.one, self.zero })
    end
  end
  place_outputs(self, outputs)
  local n_reg = allocate(self.code)
  local place, kinds, has_grad = {}, {}, false
  for i, name in ipairs(operands) do
    place[name] = n_reg + i - 1
    kinds[i] = kind[name]
    has_grad = has_grad or name == "g"
  end
  local instr = {}
  for i, v in ipairs(self.code) do
    local row = { v.op, v.operand and place[v.operand] or v.reg }
    for j = 1, TILES + SCALARS do row[2 + j] = 0 end
    for j, input in ipairs(v.inputs) do
      row[2 + j] = input.input and place[input.input] or input.operand and place[input.operand]
        or input.reg
    end
    for j, k in ipairs(v.scalars) do row[2 + TILES + j] = k end
    instr[i] = row
  end
  return {
    instr = instr, n_reg = n_reg, n_scalar = #self.scalars, operands = kinds, names = operands,
    has_grad = has_grad, scalars = self.scalars,
  }
end

--- The numbers of a step.
-- @tparam {node,...} scalars of a program
-- @tparam {[string]=number} env values of the named scalars
-- @treturn {number,...}
function compile.evaluate(scalars, env)
  local known, out = {}, {}
  local function eval(x)
    local v = known[x]
    if v then return v end
    if x.op == "const" then
      v = x.value
    elseif x.op == "scalar" then
      v = env[x.name] or error(("optim: no value for scalar '%s'"):format(x.name), 0)
    else
      v = expr.fold[x.op](eval(x.args[1]), x.args[2] and eval(x.args[2]))
    end
    known[x] = v
    return v
  end
  for i, s in ipairs(scalars) do out[i] = eval(s) end
  return out
end

--- A readable listing of a program, one instruction a line.
function compile.listing(program)
  local primitives = require("dopl.core").optim.primitives
  local function place(i)
    return i < program.n_reg and "t" .. i or program.names[i - program.n_reg + 1]
  end
  local lines = {}
  for _, row in ipairs(program.instr) do
    local p = primitives[row[1]]
    local text = p.text:gsub("sqrtf", "sqrt"):gsub("f?absf?", "abs"):gsub("%f[%w_]([a-e])%f[^%w_]",
      function(c) return place(row[3 + c:byte() - ("a"):byte()]) end)
    local where = {}
    for j = 1, p.scalars do
      where[j] = ("k%d = %s"):format(j - 1, program.scalars[row[2 + TILES + j] + 1])
    end
    lines[#lines + 1] = ("%-10s = %-44s %s"):format(place(row[2]), text, table.concat(where, ", "))
  end
  return table.concat(lines, "\n")
end

return compile
