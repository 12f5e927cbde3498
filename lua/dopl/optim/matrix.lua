--- optim/matrix.lua - matrix steps: what a rule's `transform` may be made of.
-- @module dopl.optim.matrix
local check = require "dopl.util.check"
local core = require "dopl.core"

local matrix = {}

--- The transpose of a matrix, in separate memory, outside the gradient graph.
-- @tparam tensor m [R, C]
-- @treturn tensor [C, R]
function matrix.transpose(m)
  return core.optim.transpose(m)
end

-- a X + (b A + c A^2) X with A = X X^T
local function iterate(x, k)
  local ops = core.ops
  local gram <close> = ops.linear(x, x)
  local square <close> = ops.matmul(gram, gram)
  local first <close> = ops.scale(gram, k[2])
  local second <close> = ops.scale(square, k[3])
  local polynomial <close> = ops.add(first, second)
  local turned <close> = ops.matmul(polynomial, x)
  local straight <close> = ops.scale(x, k[1])
  return ops.add(straight, turned)
end

-- The matrix, or its transpose, times k.
local function start(m, tall, k)
  if not tall then return core.ops.scale(m, k) end
  local turned <close> = matrix.transpose(m)
  return core.ops.scale(turned, k)
end

local NEWTON_SCHULZ <const> = check.fields("optim.newton_schulz", {
  steps = { min = 0, max = 1000, default = 5, "how many steps" },
  coefficients = { of = "number", default = { 3.4445, -4.7750, 2.0315 },
    "three coefficients of a step" },
  eps = { type = "number", min = 0, default = 1e-7, "added to the norm of the matrix" },
})

--- Newton-Schulz steps towards the nearest orthogonal matrix: all singular values go to about 1,
-- the singular vectors stay. Muon's coefficients are steep at 0 and let the values end between
-- about 0.7 and 1.2; { 2, -1.5, 0.5 } converges, slowly.
-- @tparam[opt] table options
-- @treturn function a `transform`
function matrix.newton_schulz(options)
  local o = check.options(NEWTON_SCHULZ, options)
  for i = 1, 3 do
    check.type(("optim.newton_schulz: coefficient %d"):format(i), o.coefficients[i], "number", 3)
  end
  return function(m)
    local shape, size = m:shape(), math.sqrt(m:dot(m))
    local tall = shape[1] > shape[2]
    local x = start(m, tall, 1 / (size + o.eps))
    for _ = 1, o.steps do
      local old <close> = x
      x = iterate(old, o.coefficients)
    end
    if not tall then return x end
    local wide <close> = x
    return matrix.transpose(wide)
  end
end

return matrix
