--- nn/init.lua - parameters of a model, activation checkpointing, operators written in Lua.
--
-- A model is a plain table with an ordered list of parameters. The order and the names decide the
-- initial values, the layout of checkpoints and the order of optimizer states, so they are made in
-- one place, here, and never taken from `pairs`.
-- @module dopl.nn

local check = require "dopl.util.check"
local core = require "dopl.core"
local rng = require "dopl.util.rng"

local nn = {}

--- What a parameter can be. Weight decay touches matrices, embedding and head; states of embedding
-- and head stay f32 when others are quantized (dopl.optim).
nn.kinds = { "matrix", "embedding", "head", "bias", "norm" }

--- How parameters can be stored. On the CPU bf16 halves what the weights take, and all else is f32; on
-- a device activations are bf16 with them. Gradients of parameters are f32 everywhere.
nn.dtypes = { "f32", "bf16" }

local Parameters = {}
Parameters.__index = Parameters

--- A list to which a model adds its parameters as it makes them.
-- @tparam ?integer seed of the initial values; each parameter's depend on its name and the seed alone;
-- nil: what would be drawn is zero, for weights to be copied into
-- @tparam[opt="f32"] string dtype one of nn.dtypes; values are rounded to it
-- @treturn Parameters an array of { name, tensor, kind }
function nn.parameters(seed, dtype)
  dtype = check.choice("dtype", dtype or "f32", nn.dtypes)
  return setmetatable({ seed = seed, dtype = dtype }, Parameters)
end

local function add(self, name, kind, given)
  local tensor = given:to(self.dtype)
  if tensor ~= given then given:close() end -- before the next one is made
  self[#self + 1] = { name = name, tensor = tensor:requires_grad(true), kind = kind }
  return tensor
end

--- A weight drawn from a normal distribution.
-- @tparam string name
-- @tparam string kind one of nn.kinds
-- @tparam number std
-- @param ... dimensions
function Parameters:normal(name, kind, std, ...)
  return add(self, name, kind, self.seed and core.randn(self.seed, rng.hash(name), std, ...)
    or core.zeros(...))
end

--- A weight filled with one value.
function Parameters:constant(name, kind, value, ...)
  return add(self, name, kind, core.full(value, ...))
end

--- Zeros of the type of the activations that a weight leads to: f32 on the CPU, elsewhere the
-- weight's own.
-- @tparam tensor weight
-- @param ... dimensions
function nn.zeros_beside(weight, ...)
  local zeros = core.zeros(...)
  if weight:device() == "cpu" or weight:dtype() == "f32" then return zeros end
  local given <close> = zeros
  return given:to(weight:dtype())
end

--- Number of elements of all parameters.
function Parameters:numel()
  local n = 0
  for _, p in ipairs(self) do n = n + p.tensor:numel() end
  return n
end

-- A number with commas: 1,234,567.
local function grouped(n)
  local text = tostring(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local MAX_LISTED <const> = 12 -- parameters that print shows

--- What `print` shows: a line for each of the first parameters.
function Parameters:__tostring()
  local lines = { ("%d parameters, %s elements"):format(#self, grouped(self:numel())) }
  for i, p in ipairs(self) do
    if i > MAX_LISTED then
      lines[#lines + 1] = ("  ... %d more"):format(#self - MAX_LISTED)
      break
    end
    lines[#lines + 1] = ("  %-28s %-9s %s [%s]"):format(p.name, p.kind, p.tensor:dtype(),
      table.concat(p.tensor:shape(), ", "))
  end
  return table.concat(lines, "\n")
end

--- What `print` shows of a model: its architecture, sizes and parameters.
-- @param model one of models.new
-- @treturn string one line
function nn.describe(model)
  local c, p = model.config, model.parameters
  local device = #p > 0 and p[1].tensor:device() or "cpu"
  local heads = c.kv_heads and c.kv_heads ~= c.heads
    and ("%d heads over %d of keys and values"):format(c.heads, c.kv_heads)
    or ("%d heads"):format(c.heads)
  return ("%s: %d layers of width %d, %s, vocabulary %s, %s parameters in %s%s"):format(
    c.architecture, c.n_layers, c.hidden_size, heads, grouped(c.vocab_size), grouped(p:numel()),
    c.dtype, device == "cpu" and "" or " on " .. device)
end

--- Forgets every gradient; their memory is reused by the next backward.
function Parameters:zero_grad()
  for _, p in ipairs(self) do p.tensor:set_grad(nil) end
end

--- The gradients there are, as a list.
function Parameters:gradients()
  local list = {}
  for _, p in ipairs(self) do list[#list + 1] = p.tensor:grad() end
  return list
end

--- Copies of all values, to come back to with `restore`.
function Parameters:snapshot()
  local copy = {}
  for i, p in ipairs(self) do copy[i] = p.tensor:detach():clone() end
  return copy
end

function Parameters:restore(snapshot)
  for i, p in ipairs(self) do p.tensor:copy(snapshot[i]) end
end

--- Makes an operator whose forward and backward are Lua.
--
--     local cube = nn.operator {
--       name = "cube",
--       forward = function(x) return x * x * x end,
--       backward = function(dy, y, x) return dy * x * x * 3 end,
--     }
--
-- `forward` takes up to eight tensors and returns one; nothing it does is recorded. `backward` takes
-- the gradient of the output, the output and the inputs, and returns a gradient (or nil) an input.
-- @tparam table definition { name, forward, backward }
-- @treturn function
function nn.operator(definition)
  check.type("nn.operator", definition, "table")
  check.type("nn.operator: name", definition.name, "string")
  check.type("nn.operator: forward", definition.forward, "function")
  check.type("nn.operator: backward", definition.backward, "function")
  return function(...)
    local y
    do
      local _ <close> = core.no_grad()
      y = definition.forward(...)
      if type(y) ~= "userdata" then
        error(("%s: forward returned a %s, needs a tensor"):format(definition.name, type(y)), 2)
      end
      y = y:detach()
    end
    return core.record(definition.name, y, { ... }, definition.backward)
  end
end

--- Runs fn(...) without keeping what its operators would save; the backward runs it again.
-- Trades one more forward for memory. fn must be a function of its arguments and of parameters
-- alone, and return one tensor. Parameters that fn closes over get their gradients as usual. Where
-- no input is in the gradient graph, fn simply runs: nothing would lead back to it.
-- @tparam function fn
-- @param ... tensors, at most eight
function nn.checkpoint(fn, ...)
  check.type("nn.checkpoint", fn, "callable")
  local inputs, wanted, any = { ... }, {}, false
  for i, t in ipairs(inputs) do
    check.has(("nn.checkpoint: argument %d"):format(i + 1), t, "requires_grad", "a tensor")
    wanted[i] = t:requires_grad()
    any = any or wanted[i]
  end
  if not any or not core.grad_enabled() then return fn(...) end
  local y
  do
    local _ <close> = core.no_grad()
    local scope <close> = core.scope()
    y = scope:keep(fn(...):detach())
  end
  return core.record("checkpoint", y, inputs, function(dy, _, ...)
    local copies, grads = { ... }, {} -- outside the graph; gradients stop at them
    for i, t in ipairs(copies) do t:requires_grad(wanted[i]) end
    do
      local _ <close> = core.with_grad()
      local scope <close> = core.scope()
      fn(table.unpack(copies)):backward(dy)
    end
    for i, t in ipairs(copies) do grads[i] = t:grad() end
    return table.unpack(grads, 1, #copies)
  end)
end

--- Weights (or gradients) under the names of a file's layout, sharing memory with the model's.
-- @tparam table layout rows { tensor, { name, rows }, ... }: a tensor and the names of its
-- consecutive blocks of rows
-- @tparam[opt] boolean grads gradients instead of values; what has none is left out
function nn.export(layout, grads)
  local _ <close> = core.no_grad()
  local out = {}
  for _, entry in ipairs(layout) do
    local tensor = grads and entry[1]:grad() or not grads and entry[1]
    local first = 0
    for i = 2, tensor and #entry or 0 do
      local name, rows = entry[i][1], entry[i][2]
      out[name] = tensor:slice(first, rows)
      first = first + rows
    end
  end
  return out
end

-- A weight of a file, read when it is wanted.
local Stored = {}
Stored.__index = Stored
local READ_AS <const> = { F32 = "f32", F16 = "f32", BF16 = "bf16" }

function Stored:shape() return self.about.shape end
function Stored:dtype() return READ_AS[self.about.dtype] or self.about.dtype end
function Stored:read()
  local function is_it(name) return name == self.about.name end
  return core.safetensors.load(self.path, is_it)[self.about.name]
end

--- The weights of a safetensors file for `import`, which reads them one at a time: a second copy of
-- them all never exists.
-- @tparam string path
-- @treturn table by name
function nn.stored(path)
  local weights = {}
  for _, about in ipairs((core.safetensors.list(path))) do
    weights[about.name] = setmetatable({ path = path, about = about }, Stored)
  end
  return weights
end

-- fn of a weight's tensor, which is closed again where it was read for this.
local function with_tensor(weight, fn)
  if type(weight) ~= "table" then return fn(weight) end
  local read <close> = weight:read()
  return fn(read)
end

local function is_buffer(name, buffers)
  for _, pattern in ipairs(buffers) do
    if name:find(pattern) then return true end
  end
  return false
end

-- The weights by the model's names: { [own name] = { tensor =, name = as the file spells it,
-- transposed = } }. Buffers are left out: they are not weights.
local function by_own_name(weights, what, o)
  local given = {}
  for _, name in ipairs(check.keys(weights)) do
    if not is_buffer(name, o.buffers) then
      local alias = o.aliases[name]
      local own = alias and alias.own or name
      if given[own] then
        error(("%s: the weights '%s' and '%s' are the same one; weights[name] = nil leaves one out")
          :format(what, given[own].name, name), 4)
      end
      given[own] = { tensor = weights[name], name = name, transposed = alias and alias.transposed }
    end
  end
  return given
end

-- Refuses weights that the model has no place for: without them it would be another model.
local function check_spare(targets, given, what, o)
  for _, own in ipairs(check.keys(given)) do
    local name, first = given[own].name, o.copies[own]
    local kept = first and given[first]
    if kept and with_tensor(given[own].tensor, core.hash) ~= with_tensor(kept.tensor, core.hash) then
      error(("%s: the weight '%s' differs from '%s', which this model uses in its place%s")
        :format(what, name, kept.name, o.untied), 4)
    elseif not first and not targets[own] then
      error(("%s: the weight '%s' has no place in this model; weights[name] = nil leaves one out")
        :format(what, name), 4)
    end
  end
end

-- Raises for a missing weight. Says so if the file has it in a type that dopl does not read, and lists
-- the other names that files give it.
local function refuse_missing(weights, own, what, o)
  local others, _, unread = {}, core.safetensors.origin(weights)
  for name, alias in pairs(o.aliases) do
    if alias.own == own then others[#others + 1] = name end
  end
  table.sort(others)
  for _, name in ipairs { own, table.unpack(others) } do
    if unread and unread[name] then error(("%s: %s"):format(what, unread[name]), 4) end
  end
  error(("%s: the weight '%s' is missing%s%s"):format(what, own, others[1]
    and (" (also spelled '%s')"):format(table.concat(others, "', '")) or "", o.hints[own] or ""), 4)
end

--- Overwrites a model's weights. Nothing is written unless every one is there and fits, and no other
-- is. f32 becomes bf16 by rounding, bf16 f32 as it is.
-- @tparam table layout as for nn.export
-- @tparam table weights tensors by name, or from nn.stored
-- @tparam string what for messages
-- @tparam[opt] table options aliases = { [name] = { own = the name here, transposed = true where the
-- file holds [in, out] } }: other names of weights; buffers: patterns of names that are no weights;
-- copies = { [name] = name }: weights that files may hold a second time; untied: how to keep both;
-- hints = { [name] = what to do where it is missing }
function nn.import(layout, weights, what, options)
  check.type(what .. ": weights", weights, "table", 4)
  local o = check.options("nn.import", options,
    { aliases = {}, buffers = {}, copies = {}, untied = "", hints = {} })
  local targets, given = nn.export(layout), by_own_name(weights, what, o)
  local names = check.keys(targets)
  for _, own in ipairs(names) do
    local have, want = given[own], targets[own]:shape()
    if not have then refuse_missing(weights, own, what, o) end
    if have.transposed then want = { want[2], want[1] } end
    local shape, dtype = table.concat(have.tensor:shape(), ", "), have.tensor:dtype()
    want = table.concat(want, ", ")
    if shape ~= want or dtype ~= "f32" and dtype ~= "bf16" then
      error(("%s: the weight '%s' is %s [%s], needs f32 or bf16 [%s]"):format(what, have.name, dtype,
        shape, want), 3)
    end
  end
  check_spare(targets, given, what, o)
  for _, own in ipairs(names) do
    local have = given[own]
    with_tensor(have.tensor, function(tensor)
      local scope <close> = core.scope()
      targets[own]:copy(have.transposed and core.optim.transpose(tensor:to("f32")) or tensor)
    end)
  end
end

return nn
