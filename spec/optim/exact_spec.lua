-- Base and delta summed without cancellation: an objective's first steps against doubles, where its
-- gradients are far smaller than those that the base has seen.
local optim = require "dopl.optim"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

local SIZES <const> = { 1, 1e-4 } -- of the gradients; the doubles of the reference cancel, too, below
local adam = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01 }
local rules = {
  adamw = adam, adam = adam,
  sgd = { lr = 1e-2, momentum = 0.9, weight_decay = 0 },
  nesterov = { lr = 1e-2, momentum = 0.9, weight_decay = 0 },
  lion = { lr = 1e-3, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01 },
}

local function case(name, fields)
  local c = { rule = name, hyper = rules[name], scheme = "base_delta", elements = 260, steps = 2,
    frequency = { 1, 1 }, timing = "after_theta", source = "g", sizes = SIZES }
  for k, v in pairs(fields) do c[k] = v end
  return c
end

-- The largest error of the second step's movement of theta, in learning rates.
local function error_of(rule, c)
  local session = drive.start(rule, c)
  drive.advance(session, 1, 1)
  local before = drive.collect(session).theta
  drive.advance(session, 2, 2)
  local after = drive.collect(session).theta
  local first, worst = { sizes = c.sizes }, 0.0
  for k, v in pairs(c) do first[k] = v end
  first.steps = 1
  local from, to = reference.run(rule, first).theta, reference.run(rule, c).theta
  for i = 1, c.elements do
    local off = math.abs((after[i] - before[i]) - (to[i] - from[i])) / c.hyper.lr
    worst = off <= worst and worst or off
  end
  return worst
end

local ROUNDING <const> = 1e-3 -- in learning rates

describe("the second objective's first step", function()
  for _, name in ipairs { "adam", "adamw", "lion", "nesterov", "sgd" } do
    for _, timing in ipairs { "after_theta", "after_delta", "before_delta" } do
      for _, source in ipairs { "g", "g-delta" } do
        if source == "g" or timing ~= "before_delta" then
          it(("%s, %s, base fed with %s"):format(name, timing, source), function()
            local worst = error_of(optim[name], case(name, { timing = timing, source = source }))
            assert(worst <= ROUNDING, ("%g learning rates off"):format(worst))
          end)
        end
      end
    end
  end

  it("of an ema that is not corrected", function()
    local plain = optim.rule { name = "plain", correct = false, hyper = adam,
      moments = { m = { decay = "beta1" },
        v = { decay = "beta2", signal = function(g) return g * g end, nonnegative = true } },
      direction = function(mom, _, h) return mom.m / (optim.sqrt(optim.abs(mom.v)) + h.eps) end }
    for _, timing in ipairs { "after_theta", "after_delta", "before_delta" } do
      local c = case("adam", { timing = timing })
      assert(error_of(plain, c) <= ROUNDING)
    end
  end)

  it("has nothing of the base, whose coefficient is exactly 0", function()
    local c = case("adamw", { sizes = { 1, 1e-9 }, -- 1e-16 of the base would drown the signal
      hyper = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 0, weight_decay = 0 } })
    for _, timing in ipairs { "after_theta", "before_delta" } do
      c.timing = timing
      local session = drive.start(optim.adamw, c)
      drive.advance(session, 1, 1)
      local before = drive.collect(session).theta
      drive.advance(session, 2, 2)
      local after = drive.collect(session).theta
      for i = 1, c.elements do -- m / sqrt(v) = g / |g|
        local g = reference.gradient(c, 1, 2, i - 1, before[i])
        local want = g > 0 and -0.01 or 0.01
        assert(math.abs(after[i] - before[i] - want) < 1e-7)
      end
    end
  end)

  it("is far off where base and delta are summed as they are written", function()
    for _, timing in ipairs { "after_theta", "before_delta" } do -- after_delta has a new base there
      local fields = { exact = false, timing = timing }
      local wrong = error_of(optim.adamw, case("adamw", fields))
      fields.exact = nil
      local right = error_of(optim.adamw, case("adamw", fields))
      assert(wrong > 1000 * right and wrong > 1, ("%g against %g"):format(wrong, right))
    end
  end)
end)
