--- nn/weights.lua - a model's weights under the names and in the layout of files.
-- @module dopl.nn.weights

local check = require "dopl.util.check"
local core = require "dopl.core"

local files = {}

--- Weights (or gradients) under the names of a file's layout, sharing memory with the model's.
-- @tparam table layout rows { tensor, { name, rows }, ... }: a tensor and the names of its
-- consecutive blocks of rows
-- @tparam[opt] boolean grads gradients instead of values; what has none is left out
function files.export(layout, grads)
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
function files.stored(path)
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
function files.import(layout, weights, what, options)
  check.type(what .. ": weights", weights, "table", 4)
  local o = check.options("nn.import", options,
    { aliases = {}, buffers = {}, copies = {}, untied = "", hints = {} })
  local targets, given = files.export(layout), by_own_name(weights, what, o)
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

return files
