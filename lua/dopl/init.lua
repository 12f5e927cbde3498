--- dopl: machine unlearning for language models.
--
-- `dopl.text` is the module `text` of dopl.modules, and so on; each module is loaded when it is first
-- used. Operators (`dopl.add`, `dopl.softmax`, ...) come from the C core; `dopl.help "softmax"`
-- describes one.
-- @module dopl

local core = require "dopl.core"

local dopl = {
  core = core,
  version = core.version,
}

--- Modules, with the path and the description of each.
dopl.modules = require "dopl.modules"

if core.options == nil then -- a stock Lua; the executable has set them from its command line
  core.options = { device = core.device(), out = "runs", seed = 1, threads = core.threads() }
end

local function sorted_keys(...)
  local keys = {}
  for _, t in ipairs { ... } do
    for key in pairs(t) do
      if type(key) == "string" then keys[#keys + 1] = key end
    end
  end
  table.sort(keys)
  return keys
end

local function did_you_mean(name, names)
  local nearest = require("dopl.util.check").nearest(tostring(name), names)
  return nearest and (" (did you mean '%s'?)"):format(nearest) or ""
end

--- Prints what a module, a function or an operator does, with its options and their defaults; without
-- a name, lists them all.
-- @tparam[opt] string name "train", "train.fit", "run:log", "softmax"
-- @usage dopl.help "train.fit"
function dopl.help(name)
  local help = require "dopl.util.help"
  if name == nil then return print(help.overview()) end
  if type(name) ~= "string" then
    error(("dopl.help: a %s, needs a name in quotes: dopl.help \"train.fit\""):format(type(name)), 2)
  end
  local text, near = help.text(name)
  if not text then
    error(("dopl.help: no operator, function or module '%s'%s"):format(name,
      near and (" (did you mean '%s'?)"):format(near) or ""), 2)
  end
  print(text)
end

--- Prints a batch's text, labels and mask.
-- @param batch of a `data.loader`
-- @tparam[opt] table options as for `data.show`
function dopl.show(batch, options)
  require("dopl.data.show").print(batch, options)
end

local function missing(t, name)
  local module = dopl.modules[name]
  local value = module and require(module.path) -- core has its own `optim`
  if not value then value = core[name] end
  if value == nil then value = core.ops[name] end
  if value == nil then
    error(("dopl.%s: no such name%s"):format(tostring(name),
      did_you_mean(name, sorted_keys(t, dopl.modules, core.ops, core))), 2)
  end
  rawset(t, name, value)
  return value
end

--- Makes an operator in Lua with its own gradient; see `nn.operator`.
-- @tparam table definition name, forward, backward
-- @treturn function
function dopl.operator(definition) return require("dopl.nn").operator(definition) end

--- Runs fn(...) without keeping activations. The backward runs it again.
-- @tparam function fn
-- @param ... its arguments
-- @return what it returns
function dopl.checkpoint(fn, ...) return require("dopl.nn").checkpoint(fn, ...) end

-- What the C core makes; the descriptions are here, where they can be read.

--- An f32 tensor of one value: `dopl.full(1.5, 2, 3)` has the shape [2, 3].
-- @function dopl.full
-- @tparam number value
-- @tparam integer ... the shape
-- @treturn tensor

--- An f32 tensor of zeros: `dopl.zeros(2, 3)`.
-- @function dopl.zeros
-- @tparam integer ... the shape
-- @treturn tensor

--- Normal random numbers, a function of seed, stream and position.
-- @function dopl.randn
-- @tparam integer seed
-- @tparam integer stream
-- @tparam number std standard deviation
-- @tparam integer ... the shape
-- @treturn tensor f32

--- An f32 tensor from a table: `dopl.tensor { { 1, 2 }, { 3, 4 } }`.
-- @function dopl.tensor
-- @tparam table values nested as deep as the tensor has dimensions
-- @treturn tensor

--- An i32 tensor from a table: `dopl.i32 { 0, 1 }`.
-- @function dopl.i32
-- @tparam table values
-- @treturn tensor

--- Frees the tensors made in a block at its end: `local scope <close> = dopl.scope()`. Call
-- `scope:keep(t)` to hand t to the scope around it.
-- @function dopl.scope
-- @treturn Scope

--- Records nothing for backward until the end of the block: `local _ <close> = dopl.no_grad()`.
-- @function dopl.no_grad
-- @treturn Scope

--- The device of new tensors: `dopl.device "cuda"` chooses it, `dopl.device()` returns it and its
-- description. `t:device()` is a tensor's, and `t:to "cpu"` or `t:to "bf16"` makes a copy elsewhere or
-- of another type. Indices (i32) stay in host memory.
-- @function dopl.device
-- @tparam[opt] string name cpu, cuda, cuda:N or auto
-- @treturn string

--- Bytes in use: of the runtime { live, peak, cached }, and of the process { resident, resident_peak }.
-- `dopl.memory "cuda"` is about tensors on a device: { live, peak, by_kind, at_peak }.
-- @function dopl.memory
-- @tparam[opt] string device
-- @treturn table

--- Makes the peak of `dopl.memory()` start from what is in use now.
-- @function dopl.reset_peak

--- Waits until the device has finished its queue.
-- @function dopl.sync

--- How many threads compute.
-- @function dopl.threads
-- @tparam[opt] integer n threads from now on
-- @treturn integer

--- Bounds the memory of logits: the vocabulary operator computes them in chunks of so many bytes.
-- @function dopl.vocab_chunk
-- @tparam[opt] integer bytes
-- @treturn integer

local function names() -- for completion and for suggestions
  return sorted_keys(dopl, dopl.modules, core.ops, core)
end

return setmetatable(dopl, { __index = missing, __names = names })
