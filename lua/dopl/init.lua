--- dopl: machine unlearning for language models.
--
-- `dopl.text` is the module `text` of dopl.modules, and so on; each module is loaded when it is first
-- used. Operators (`dopl.add`, `dopl.softmax`, ...) come from the C core; `dopl.help "softmax"`
-- tells what one does.
-- @module dopl

local core = require "dopl.core"

local dopl = {
  core = core,
  version = core.version,
}

--- Modules, with the path and the description of each.
dopl.modules = require "dopl.modules"

--- Functions, with what each does.
dopl.functions = {
  checkpoint = "dopl.checkpoint(fn, x, ...) runs fn without keeping what its backward needs; the "
    .. "backward runs it again",
  full = "dopl.full(1.5, 2, 3): an f32 tensor of one value",
  i32 = "dopl.i32 { 0, 1 }: a tensor of integers from a table",
  no_grad = "local _ <close> = dopl.no_grad(): nothing is recorded until the end of the block",
  operator = "dopl.operator { name, forward, backward }: an operator in Lua with its own gradient",
  randn = "dopl.randn(seed, stream, std, 2, 3): normal numbers, a function of seed, stream and "
    .. "position",
  reset_peak = "the peak that dopl.memory() tells starts anew",
  scope = "local scope <close> = dopl.scope(): tensors made in the block are freed at its end; "
    .. "scope:keep(t) hands t to the scope around it",
  show = "dopl.show(batch) prints a batch's text, labels and mask",
  tensor = "dopl.tensor { { 1, 2 }, { 3, 4 } }: an f32 tensor from a table",
  threads = "dopl.threads() tells how many threads are in use",
  vocab_chunk = "dopl.vocab_chunk(bytes) bounds the logits that exist at a time",
  zeros = "dopl.zeros(2, 3): an f32 tensor of zeros",
  device = "dopl.device \"cuda\" puts new tensors there from now on; dopl.device() tells which device "
    .. "is in use, and what it is. t:device() tells where a tensor is, t:to \"cpu\" or t:to \"bf16\" "
    .. "makes a copy elsewhere or of another type; indices (i32) stay in host memory",
  memory = "bytes of the runtime, { live, peak, cached }, and of the process, { resident, "
    .. "resident_peak }; dopl.memory \"cuda\": of the tensors on a device, { live, peak, by_kind, "
    .. "at_peak }",
  sync = "waits until the device has done what was asked of it",
}

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

--- Prints what an operator or a module does; without a name, lists them all.
-- @tparam ?string name
function dopl.help(name)
  local docs, calls = {}, {}
  for _, row in ipairs(core.op_rows) do
    docs[row.name], calls[row.name] = row.doc, require("dopl.util.signature").of(row)
  end
  if name == nil then
    print("modules:")
    for _, key in ipairs(sorted_keys(dopl.modules)) do
      print(("  dopl.%-12s %s"):format(key, dopl.modules[key].doc))
    end
    print("functions:")
    for _, key in ipairs(sorted_keys(dopl.functions)) do print("  dopl." .. key) end
    print("operators:")
    for _, key in ipairs(sorted_keys(docs)) do print(("  dopl.%-16s %s"):format(key, docs[key])) end
    return
  end
  local module = dopl.modules[name]
  local text = docs[name] or module and module.doc or dopl.functions[name]
  if not text then
    error(("dopl.help: no operator, function or module '%s'%s"):format(tostring(name),
      did_you_mean(name, sorted_keys(docs, dopl.modules, dopl.functions))), 2)
  end
  if not calls[name] then return print(("dopl.%s: %s"):format(name, text)) end
  print(("dopl.%s\n  %s"):format(calls[name], text))
end

--- Prints a batch's text, labels and mask.
-- @param batch from `dopl.data`
-- @tparam[opt] table options colour = true, limit = samples shown
function dopl.show(batch, options)
  require("dopl.data.show").print(batch, options)
end

local function missing(t, name)
  local module = dopl.modules[name]
  local value = module and require(module.path) -- core has an `optim` of its own
  if not value then value = core[name] end
  if value == nil then value = core.ops[name] end
  if value == nil then
    error(("dopl.%s: no such name%s"):format(tostring(name),
      did_you_mean(name, sorted_keys(t, dopl.modules, core.ops, core))), 2)
  end
  rawset(t, name, value)
  return value
end

--- An operator with its own backward, in Lua (dopl.nn).
function dopl.operator(definition) return require("dopl.nn").operator(definition) end

--- Runs fn(...) without keeping activations; the backward runs it again (dopl.nn).
function dopl.checkpoint(fn, ...) return require("dopl.nn").checkpoint(fn, ...) end

local function names() -- for completion and for suggestions
  return sorted_keys(dopl, dopl.modules, core.ops, core)
end

return setmetatable(dopl, { __index = missing, __names = names })
