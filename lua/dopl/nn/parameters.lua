--- nn/parameters.lua - the parameters of a model: their order, initial values and what is trained.
--
-- The order and the names decide the initial values, the layout of checkpoints and the order of
-- optimizer states, so parameters are made in one place, here, and never taken from `pairs`.
--
-- A frozen parameter requires no gradient. The tape then records nothing below the lowest trained
-- parameter, no backward computes the gradient of a frozen one, and an optimizer keeps no states of it.
-- @module dopl.nn.parameters

local check = require "dopl.util.check"
local core = require "dopl.core"
local rng = require "dopl.util.rng"

local parameters = {}

--- What a parameter can be. Weight decay touches matrices, embedding and head; states of embedding
-- and head stay f32 when others are quantized (dopl.optim).
parameters.kinds = { "matrix", "embedding", "head", "bias", "norm" }

--- How parameters can be stored. On the CPU bf16 halves what the weights take, and all else is f32; on
-- a device activations are bf16 with them. Gradients of parameters are f32 everywhere.
parameters.dtypes = { "f32", "bf16" }

local Parameters = {}
Parameters.__index = Parameters

--- A list to which a model's layers add their parameters as they make them.
-- @tparam ?integer seed of the initial values; each parameter's depend on its name and the seed alone;
-- nil: what would be drawn is zero, for weights to be copied into
-- @tparam[opt="f32"] string dtype one of nn.dtypes; values are rounded to it
-- @treturn Parameters an array of { name, tensor, kind }
function parameters.new(seed, dtype)
  dtype = check.choice("dtype", dtype or "f32", parameters.dtypes)
  return setmetatable({ seed = seed, dtype = dtype }, Parameters)
end

local function make(self, name, kind, given)
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
  return make(self, name, kind, self.seed and core.randn(self.seed, rng.hash(name), std, ...)
    or core.zeros(...))
end

--- A weight filled with one value.
function Parameters:constant(name, kind, value, ...)
  return make(self, name, kind, core.full(value, ...))
end

--- Adds parameters that were made elsewhere, such as an adapter's.
-- @tparam {table,...} list of { name, tensor, kind }; a name that is there already is an error
function Parameters:add(list)
  local known = {}
  for _, p in ipairs(self) do known[p.name] = true end
  for i, given in ipairs(check.list("parameters: add", list)) do
    local p = check.options(("parameter %d"):format(i), given,
      { name = check.required, tensor = check.required, kind = "matrix" })
    check.choice(("parameter '%s': kind"):format(p.name), p.kind, parameters.kinds)
    if known[p.name] then
      error(("parameter '%s': the model has one of that name already"):format(p.name), 2)
    end
    known[p.name] = true
  end
  for _, p in ipairs(list) do
    self[#self + 1] = { name = p.name, tensor = p.tensor:requires_grad(true),
      kind = p.kind or "matrix" }
  end
end

--- Takes parameters out again.
-- @tparam {table,...} list as `add` took it
function Parameters:remove(list)
  local gone, kept = {}, 0
  for _, p in ipairs(list) do gone[p.name] = true end
  for i = 1, #self do
    local p = self[i]
    self[i] = nil
    if not gone[p.name] then
      kept = kept + 1
      self[kept] = p
    end
  end
end

-- ---- frozen parameters

-- A pattern as a Lua pattern: `*` stands for any characters, everything else for itself.
local function anchored(pattern)
  return "^" .. pattern:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$"
end

-- What a pattern may describe of a name: the beginnings of it before a dot, and all of it.
local function beginnings(name)
  local list = {}
  for at in name:gmatch "()%." do list[#list + 1] = name:sub(1, at - 1) end
  list[#list + 1] = name
  return list
end

local function matches(name, pattern)
  for _, beginning in ipairs(beginnings(name)) do
    if beginning:find(pattern) then return true end
  end
  return false
end

local function refuse_pattern(self, given, what)
  local known = {}
  for _, p in ipairs(self) do
    for _, beginning in ipairs(beginnings(p.name)) do known[#known + 1] = beginning end
  end
  local near = check.nearest(given, known)
  error(("%s: no parameter is named '%s'%s; give a name or its beginning up to a dot, with * for any "
    .. "characters; print(model.parameters) lists the names"):format(what, given,
    near and (" (did you mean '%s'?)"):format(near) or ""), 4)
end

-- The set of the parameters that a list of patterns describes.
local function matching(self, patterns, what)
  if type(patterns) == "string" then patterns = { patterns } end
  local found = {}
  for _, given in ipairs(check.list(what, patterns, 4)) do
    local pattern, any = anchored(check.type(what, given, "string", 4)), false
    for _, p in ipairs(self) do
      if matches(p.name, pattern) then found[p], any = true, true end
    end
    if not any then refuse_pattern(self, given, what) end
  end
  return found
end

--- Trains a parameter, or freezes it and forgets its gradient.
-- @tparam tensor tensor
-- @tparam boolean trained
function parameters.set_trained(tensor, trained)
  if tensor:requires_grad() == trained then return end
  if not trained then tensor:set_grad(nil) end
  tensor:requires_grad(trained)
end

--- Freezes parameters: no gradient of them is computed and no optimizer state is kept.
-- @tparam string|{string,...} patterns names, or their beginnings up to a dot ("layers.1" means all of
-- that layer); `*` stands for any characters; one that describes no parameter is an error
function Parameters:freeze(patterns)
  local found = matching(self, patterns, "freeze")
  for _, p in ipairs(self) do
    if found[p] then parameters.set_trained(p.tensor, false) end
  end
end

--- Trains frozen parameters again.
-- @tparam string|{string,...} patterns as for `freeze`
function Parameters:unfreeze(patterns)
  local found = matching(self, patterns, "unfreeze")
  for _, p in ipairs(self) do
    if found[p] then parameters.set_trained(p.tensor, true) end
  end
end

--- Trains these parameters and freezes all others.
-- @tparam string|{string,...} patterns as for `freeze`
function Parameters:train_only(patterns)
  local found = matching(self, patterns, "train_only")
  for _, p in ipairs(self) do parameters.set_trained(p.tensor, found[p] or false) end
end

--- The parameters that are not frozen.
-- @treturn Parameters a separate list over the same tensors
function Parameters:trained()
  local list = parameters.new(self.seed, self.dtype)
  for _, p in ipairs(self) do
    if p.tensor:requires_grad() then list[#list + 1] = p end
  end
  return list
end

-- ---- all of them

--- Number of elements of all parameters.
function Parameters:numel()
  local n = 0
  for _, p in ipairs(self) do n = n + p.tensor:numel() end
  return n
end

--- A number with commas: 1,234,567.
function parameters.grouped(n)
  local text = tostring(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local MAX_LISTED <const> = 12 -- parameters that print shows

--- What `print` shows: a line for each of the first parameters.
function Parameters:__tostring()
  local lines = { ("%d parameters, %s elements"):format(#self, parameters.grouped(self:numel())) }
  for i, p in ipairs(self) do
    if i > MAX_LISTED then
      lines[#lines + 1] = ("  ... %d more"):format(#self - MAX_LISTED)
      break
    end
    lines[#lines + 1] = ("  %-28s %-9s %s [%s]%s"):format(p.name, p.kind, p.tensor:dtype(),
      table.concat(p.tensor:shape(), ", "), p.tensor:requires_grad() and "" or " frozen")
  end
  return table.concat(lines, "\n")
end

--- Forgets every gradient; their memory is reused by the next backward.
function Parameters:zero_grad()
  for _, p in ipairs(self) do
    if p.tensor:requires_grad() then p.tensor:set_grad(nil) end
  end
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

--- Puts back the values of a snapshot.
function Parameters:restore(snapshot)
  for i, p in ipairs(self) do p.tensor:copy(snapshot[i]) end
end

return parameters
