--- optim/layout.lua - traced passes laid over parameters: compiled once per storage, run together.
--
-- A set is passes that run at once. A rule with a transform has two sets per matrix, with the
-- transform between: the first pushes the moments and leaves the direction in a scratch tensor, the
-- second moves theta by what the transform made of it. Matrices of one size share the scratch.
-- @module dopl.optim.layout
local check = require "dopl.util.check"
local compile = require "dopl.optim.compile"
local core = require "dopl.core"

local layout = {}

-- ---- sets

local set = {}
set.__index = set

local function new_set()
  return setmetatable({ programs = {}, passes = {}, jobs = {}, pass_of = {} }, set)
end

-- The program of a pass for parameters whose states are stored alike.
local function compiled(cx, variant, names, kind, weights)
  local known = cx.compiled[variant]
  if not known then
    local listing = compile.program(cx.graph, cx.outputs, names, kind, weights)
    known = { listing = listing, program = core.optim.program(listing) }
    cx.compiled[variant] = known
  end
  return known
end

-- What a name in a pass stands for: its kind, its tensors, its stream of random bits.
local function operand_of(name, param, state, scratch)
  if state then
    return state.kind, state.scales and { state.value, state.scales } or state.value, state.stream
  elseif name == "theta" then
    return param.weights and "bf16" or "f32", param.tensor, param.stream
  end
  return "f32", name == "direction" and scratch, 0
end

-- Lays a pass over a parameter. scratch: the tensor its "direction" is, where it has one.
function set:add(cx, config, param, state_of, scratch)
  local names, kind, operands, streams = cx.operands, {}, {}, {}
  if param.state.master then
    names = table.move(names, 1, #names, 1, {})
    names[#names + 1] = "master"
  end
  for i, name in ipairs(names) do
    local part = cx.parts[name]
    local state = part and state_of(param, part) or param.state[name]
    kind[name], operands[i], streams[i] = operand_of(name, param, state, scratch)
  end
  local variant = param.quantized and "packed" or "plain"
  if param.weights then variant = ("%s, bf16 weights, %s"):format(variant, param.weights) end
  local c = compiled(cx, variant, names, kind, param.weights)
  local key = ("%s %s %s"):format(cx.id, variant, param.decayed)
  if not self.pass_of[key] then
    self.programs[#self.programs + 1] = c.program
    self.pass_of[key] = #self.programs
    self.passes[#self.programs] = {
      scalars = c.listing.scalars, decayed = param.decayed, config = config,
    }
  end
  self.jobs[#self.jobs + 1] = {
    pass = self.pass_of[key], operands = operands, streams = streams,
  }
end

-- The names of the rules, for profiles.
local function name_of(passes)
  local names, seen = {}, {}
  for _, pass in ipairs(passes) do
    local name = pass.config.rule.name
    if not seen[name] then names[#names + 1], seen[name] = name, true end
  end
  return table.concat(names, ", ")
end

function set:seal()
  self.plan = core.optim.plan(self.programs, self.jobs, name_of(self.passes))
  self.programs, self.jobs, self.pass_of = nil, nil, nil
  return self
end

-- env: the numbers of a step by configuration; random: { seed, draw }. Returns how many parameters
-- had a gradient.
function set:run(env, random)
  local scalars = {}
  for i, pass in ipairs(self.passes) do
    local numbers = env[pass.config]
    local decay = numbers.weight_decay
    numbers.weight_decay = pass.decayed and decay or 0.0
    scalars[i] = compile.evaluate(pass.scalars, numbers)
    numbers.weight_decay = decay
  end
  return self.plan:run(scalars, random[1], random[2])
end

-- ---- matrices

-- h in a transform: the rule's hyper-parameters, and the counters.
local function hyper_numbers(rule, numbers)
  return setmetatable({}, { __index = function(_, name)
    if rule.hyper[name] == nil and name ~= "step" and name ~= "objective_step" then
      error(("optim rule '%s': no hyper-parameter '%s'"):format(rule.name, tostring(name)), 0)
    end
    return numbers[name]
  end })
end

local function transform(item, numbers)
  local rule = item.config.rule
  local scope <close> = core.scope()
  local _ <close> = core.no_grad()
  local given = core.ops.view(item.scratch, item.rows, item.cols)
  local made = rule.transform(given, hyper_numbers(rule, numbers))
  local ok, shape = pcall(function() return made:shape() end)
  if not ok or #shape ~= 2 or shape[1] ~= item.rows or shape[2] ~= item.cols then
    error(("optim rule '%s': transform made a %s of a matrix [%d, %d], need another of that shape")
      :format(rule.name, ok and "tensor [" .. table.concat(shape, ", ") .. "]" or type(made),
        item.rows, item.cols), 0)
  end
  given:copy(made)
end

-- ---- layouts

local object = {}
object.__index = object

--- Lays passes over every parameter.
-- @tparam {param,...} params as the optimizer keeps them
-- @tparam function pass_of param -> traced pass, configuration
-- @tparam function state_of param, part -> state
-- @tparam table scratch by number of elements, shared by all layouts of an optimizer
-- @treturn layout with `run`, `norm`, `configs`
function layout.new(params, pass_of, state_of, scratch)
  local self = setmetatable({ matrices = {}, configs = {}, traced = {} }, object)
  local whole, seen = new_set(), {}
  for _, param in ipairs(params) do
    local cx, config = pass_of(param)
    if not seen[cx] then
      seen[cx] = true
      cx.id, cx.compiled = #self.configs + 1, cx.compiled or {}
      self.configs[#self.configs + 1], self.traced[#self.traced + 1] = config, cx
    end
    if cx.update then
      local n = param.n
      scratch[n] = scratch[n] or core.optim.state(n, "f32")
      cx.update.id, cx.update.compiled = cx.id, cx.update.compiled or {}
      local moments, update = new_set(), new_set()
      moments:add(cx, config, param, state_of, scratch[n])
      update:add(cx.update, config, param, state_of, scratch[n])
      self.matrices[#self.matrices + 1] = {
        moments = moments:seal(), update = update:seal(), scratch = scratch[n], config = config,
        rows = param.rows, cols = param.cols,
      }
    else
      whole:add(cx, config, param, state_of)
    end
  end
  if #whole.jobs > 0 then self.whole = whole:seal() end
  return self
end

-- Tries each transform on a matrix of zeros of every shape, so that what it refuses it refuses
-- before any state has moved.
local function try(self, env)
  local seen = {}
  for _, item in ipairs(self.matrices) do
    local key = ("%d %d"):format(item.rows, item.cols)
    if not seen[key] then
      seen[key] = true
      item.scratch:fill(0)
      transform(item, env[item.config])
    end
  end
  self.tried = true
end

--- One step, or the end of a period.
-- @tparam {[config]=table} env numbers of the step
-- @tparam {integer,integer} random seed and draw of stochastic rounding
-- @treturn integer parameters that had what the passes need
function object:run(env, random)
  if not self.tried then try(self, env) end
  local n = self.whole and self.whole:run(env, random) or 0
  for _, item in ipairs(self.matrices) do
    if item.moments:run(env, random) > 0 then
      transform(item, env[item.config])
      n = n + item.update:run(env, random)
    end
  end
  return n
end

--- The 2-norm of all gradients.
function object:norm()
  if #self.matrices == 0 then return (self.whole.plan:norm()) end
  local square = self.whole and self.whole.plan:norm() ^ 2 or 0.0
  for _, item in ipairs(self.matrices) do square = square + item.moments.plan:norm() ^ 2 end
  return math.sqrt(square)
end

--- Whether the parameters' device can find norm and clipping factor by itself. Then `clip` before a
-- run and `clip_norm` after it take the place of `norm`, and no step waits in its middle.
function object:defers()
  return #self.matrices == 0 and self.whole.plan:device() ~= "cpu"
end

--- The next run clips gradients at this norm, and changes nothing where the norm is not finite.
function object:clip(max_norm)
  self.whole.plan:clip(max_norm)
end

--- The norm that `clip` found.
function object:clip_norm()
  return self.whole.plan:clip_norm()
end

--- The compiled passes as text: one instruction a line, or CUDA sources where target is "cuda".
function object:listing(target)
  local out = {}
  local function text_of(compiled_pass)
    if target == "cuda" then return compiled_pass.program:cuda_source() end
    return compile.listing(compiled_pass.listing)
  end
  for i, cx in ipairs(self.traced) do
    local name = #self.traced > 1 and self.configs[i].rule.name .. ", " or ""
    for _, variant in ipairs(check.keys(cx.compiled)) do
      local text = text_of(cx.compiled[variant])
      if cx.update then
        text = ("%s\n  transform, then\n%s"):format(text, text_of(cx.update.compiled[variant]))
      end
      out[#out + 1] = ("%s%s:\n%s"):format(name, variant, text)
    end
  end
  return table.concat(out, "\n\n")
end

return layout
