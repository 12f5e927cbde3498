--- golden.lua - an operator against spec/golden/ops.json (PyTorch in float64).
local array = require "op.array"
local core = require "dopl.core"
local walker = require "op.walker"

local golden = {}

local function read(name)
  local text = assert(core.files.read("spec/golden/ops.json"))
  for _, entry in ipairs(core.json.decode(text).ops) do
    if entry.name == name then return entry end
  end
  error("no golden operator " .. name)
end

-- Golden inputs as they are, joined along the last dimension where there are several.
local function columns(parts)
  local first = parts[1]
  local T, width = first.shape[1], {}
  local total = 0
  for k, p in ipairs(parts) do
    width[k] = array.count(p.shape) // T
    total = total + width[k]
  end
  local out = { shape = { T, total } }
  for t = 0, T - 1 do
    for k, p in ipairs(parts) do
      table.move(p, t * width[k] + 1, (t + 1) * width[k], #out + 1, out)
    end
  end
  return out
end

--- Names of golden inputs that are one input of ours: rows of all but the first dimension, side by
-- side.
function golden.beside(...) return { ... } end

--- Runs `name` on the golden inputs and compares the output and every gradient.
-- @tparam string entry name in ops.json
-- @tparam string name ours
-- @tparam table inputs for each float input: the golden name, golden.beside(...), or a tensor
-- @tparam table attributes
function golden.check(entry, name, inputs, attributes)
  local g = read(entry)
  local filled, gradients = {}, {}
  for _, input in ipairs(g.inputs) do
    filled[input.name] = array.fill(input.shape, input.centre, input.scale, input.k)
  end
  for _, gradient in ipairs(g.gradients) do
    gradients[gradient.name] = gradient.values
    gradient.values.shape = filled[gradient.name].shape
  end
  local args, wanted = {}, {}
  for i, input in ipairs(inputs) do
    local names = type(input) == "string" and { input } or type(input) == "table" and input
    if names then
      local values, slopes = {}, {}
      for k, n in ipairs(names) do values[k], slopes[k] = filled[n], gradients[n] end
      local one = type(input) == "string"
      args[i] = array.tensor(one and values[1] or columns(values)):requires_grad(true)
      wanted[i] = one and slopes[1] or columns(slopes)
    else
      args[i] = input
    end
  end
  local all = table.move(attributes, 1, #attributes, #args + 1, table.move(args, 1, #args, 1, {}))
  local y = core.ops[name](table.unpack(all))
  local up = g.upstream
  local upstream = array.fill(up.shape, up.centre, up.scale, up.k)
  upstream.shape = y:shape()
  y:backward(array.tensor(upstream))
  g.out.shape = y:shape()
  walker.compare(entry, g.out, array.of(y), 2e-6)
  for i, w in pairs(wanted) do
    w.shape = args[i]:shape()
    walker.compare(entry .. ", gradient " .. i, w, array.of(args[i]:grad()), 4e-6)
  end
end

return golden
