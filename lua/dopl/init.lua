--- dopl: machine unlearning for language models.
--
-- `dopl.text` is `require "dopl.text"`, and so for every module below; each is opened when first
-- named. Operators (`dopl.add`, `dopl.softmax`, ...) come from the C core; `dopl.help "softmax"`
-- tells what one does.
-- @module dopl

local core = require "dopl.core"

local dopl = {
  core = core,
  version = core.version,
}

--- Modules, with what each holds.
dopl.modules = {
  check = "checks of what users give",
  compare = "runs side by side",
  data = "rows, batches, the fictitious authors, TOFU",
  dist = "processes that train one model: one, for now",
  generate = "greedy and sampled continuation of prompts",
  inspect = "values as text",
  loss = "unlearning losses",
  metrics = "what unlearning is judged by",
  microscope = "the optimizer watched at work",
  models = "architectures",
  nn = "layers and parameters",
  optim = "optimizer rules",
  params = "parameters of a recipe",
  plan = "what a recipe will need, before it is paid for",
  profile = "local p <close> = dopl.profile(): where time goes, by operator; print(p), p:rows(), "
    .. "p:launches() on a device",
  reference = "what the frozen starting model says, asked once",
  report = "tables, curves, the HTML report",
  rng = "random numbers that depend on nothing but seed, name and position",
  run = "the folder a run leaves",
  schedule = "which objective comes next; learning rates",
  scheme = "how objectives share optimizer states",
  text = "tokenizers, stemming, ROUGE",
  train = "the training loop",
}

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
  local nearest = require("dopl.check").nearest(tostring(name), names)
  return nearest and (" (did you mean '%s'?)"):format(nearest) or ""
end

--- Prints what an operator or a module does; without a name, lists them all.
-- @tparam ?string name
function dopl.help(name)
  local docs = {}
  for _, row in ipairs(core.op_rows) do docs[row.name] = row.doc end
  if name == nil then
    print("modules:")
    for _, key in ipairs(sorted_keys(dopl.modules)) do
      print(("  dopl.%-12s %s"):format(key, dopl.modules[key]))
    end
    print("functions:")
    for _, key in ipairs(sorted_keys(dopl.functions)) do print("  dopl." .. key) end
    print("operators:")
    for _, key in ipairs(sorted_keys(docs)) do print(("  dopl.%-16s %s"):format(key, docs[key])) end
    return
  end
  local text = docs[name] or dopl.modules[name] or dopl.functions[name]
  if not text then
    error(("dopl.help: no operator, function or module '%s'%s"):format(tostring(name),
      did_you_mean(name, sorted_keys(docs, dopl.modules, dopl.functions))), 2)
  end
  print(("dopl.%s: %s"):format(name, text))
end

--- Prints a batch's text, labels and mask.
-- @param batch from `dopl.data`
-- @tparam[opt] table options colour = true, limit = samples shown
function dopl.show(batch, options)
  require("dopl.data.show").print(batch, options)
end

local function missing(t, name)
  local value = dopl.modules[name] and require("dopl." .. name) -- core has an `optim` of its own
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
