--- experiments/first_step.lua - DualOptim+'s first retain step, compared with double precision.
--
-- In this step base + delta is exactly the retain gradient (its square, for the second moment), while
-- the base holds what the forget step left. Rounding loses most here.
-- @module dopl.experiments.first_step

local check = require "dopl.util.check"
local core = require "dopl.core"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local train = require "dopl.train"

local first_step = {}

local LIMITS <const> = {} -- learning rates, four a decade
for k = 0, 24 do LIMITS[k + 1] = 10.0 ^ (k / 4 - 2) end

local function new_tally()
  local beyond = {}
  for k = 1, #LIMITS do beyond[k] = 0 end
  return { furthest = 0.0, over_ten = 0, difference = 0.0, length = 0.0, beyond = beyond }
end

-- Counts the step of one weight and its exact step, both in learning rates.
local function add(tally, move, reference)
  local far = math.abs(move)
  tally.furthest = math.max(tally.furthest, far)
  if far > 10 then tally.over_ten = tally.over_ten + 1 end
  tally.difference = tally.difference + (move - reference) ^ 2
  tally.length = tally.length + reference ^ 2
  for k, limit in ipairs(LIMITS) do
    if far <= limit then break end
    tally.beyond[k] = tally.beyond[k] + 1
  end
end

local function finish(tally)
  tally.distance = math.sqrt(tally.difference / tally.length)
  return tally
end

local function flat(t)
  local scope <close> = core.scope()
  return t:view(t:numel()):tolist()
end

-- B^ + D^ as the paper writes it, after the base has averaged s1 and the delta s2.
local function moment(beta, s1, s2)
  local base = (1 - beta) * s1 / (1 - beta)
  return base + (1 - beta) * (s2 - base) / (1 - beta)
end

local TAKE <const> = check.fields("experiments.first_step.take", {
  model = { required = true, has = "parameters", "one of models.new" },
  objectives = { type = "list", required = true, "forget and retain, as for train.fit" },
  lr = { default = 1e-3, "learning rate" },
  eps = { default = 1e-8, "added to the root of the second moment" },
  betas = { of = "number", default = { 0.9, 0.95 }, "decay of the moments" },
  exact = { default = true, "as for scheme.base_delta" },
})

--- Takes a forget step and a retain step with AdamW and base_delta, no weight decay.
-- @tparam table options
-- @treturn table of the retain step: furthest = its longest move of a weight, in learning rates;
-- over_ten = weights that moved by more than ten; distance to the step in doubles, over its length
-- @treturn table the same of the step in doubles, from the same gradients
function first_step.take(options)
  local o = check.options(TAKE, options)
  local parameters, start, forgot = o.model.parameters, nil, {}
  local ours, doubles = new_tally(), new_tally()
  local function after_retain()
    for k, g in ipairs(parameters:gradients()) do
      local from, to = flat(start[k]), flat(parameters[k].tensor:detach())
      local first, second = flat(forgot[k]), flat(g)
      for i, g2 in ipairs(second) do
        local g1 = first[i]
        local move = -moment(o.betas[1], g1, g2)
          / (math.sqrt(math.abs(moment(o.betas[2], g1 * g1, g2 * g2))) + o.eps)
        add(ours, (to[i] - from[i]) / o.lr, move)
        add(doubles, move, move)
      end
    end
  end
  train.fit { model = o.model, objectives = o.objectives, steps = 2, warmup = 0, decay = "none",
    schedule = schedule.alternate { forget = 1, retain = 1 }, progress = false,
    optimizer = optim.adamw { lr = o.lr, betas = o.betas, eps = o.eps }
      :with(scheme.base_delta { exact = o.exact }),
    on_step = function(live)
      if live.step == 2 then return after_retain() end
      start = parameters:snapshot()
      for k, g in ipairs(parameters:gradients()) do forgot[k] = g:clone() end
    end }
  return finish(ours), finish(doubles)
end

--- How many weights moved further than a distance, as a series of plot.line with logarithmic axes.
-- @tparam string name of the series
-- @tparam table step from `first_step.take`
-- @treturn table
function first_step.series(name, step)
  local x, y = {}, {}
  for k, n in ipairs(step.beyond) do
    if n == 0 then break end -- a logarithmic axis has no 0
    x[k], y[k] = LIMITS[k], n
  end
  return { name = name, x = x, y = y }
end

return first_step
