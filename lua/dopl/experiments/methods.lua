--- experiments/methods.lua - the methods the papers compare, by the names they print.
--
-- A method is a scheme and a schedule. The recipe chooses rule, losses and data.
-- @module dopl.experiments.methods

local check = require "dopl.util.check"
local loss = require "dopl.train.loss"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local settings = require "dopl.experiments.settings"

local methods = {}

local function alternate(o)
  return o.alternate or schedule.alternate { forget = o.forget, retain = o.retain }
end

local known = {
  { "Joint", function() return scheme.joint {}, schedule.joint() end },
  { "Alternate", function(o) return scheme.shared {}, alternate(o) end },
  { "DO", function(o) return scheme.decoupled {}, alternate(o) end },
  { "DO 8-bit", function(o) return scheme.decoupled { quantize = true }, alternate(o) end },
  { "DO+", function(o) return scheme.base_delta {}, alternate(o) end },
  { "DO+ 8-bit", function(o)
    return scheme.base_delta { quantize = { "base", "delta" } }, alternate(o)
  end },
}

methods.names = {}
for i, entry in ipairs(known) do methods.names[i] = entry[1] end

--- Methods as { label, optimizer, schedule }, in the order asked for.
-- @tparam table options optimizer = a configuration; names (default: all); forget = 1 and
-- retain = 5 steps of a period, or alternate = a schedule of other objectives
-- @treturn {table,...}
function methods.list(options)
  local o = check.options("experiments.methods", options, {
    optimizer = check.required, names = methods.names, forget = 1, retain = 5,
    alternate = check.optional,
  })
  local out = {}
  for i, name in ipairs(o.names) do
    check.choice("experiments.methods", name, methods.names)
    for _, entry in ipairs(known) do
      if entry[1] == name then
        local s, plan = entry[2](o)
        out[i] = { label = name, optimizer = o.optimizer:with(s), schedule = plan }
      end
    end
  end
  return out
end

--- Methods under a forget loss as variants of `study.run`, each with the learning rate, eps and forget
-- weight that the search found for it (docs/bench.md).
-- @tparam string name of the loss: "idk", "dpo", "me", "npo"
-- @tparam[opt] table options names (default: all); lr_factor = 1.0 multiplies every learning rate
-- @treturn {table,...}
function methods.tuned(name, options)
  local o = check.options("experiments.methods.tuned", options,
    { names = methods.names, lr_factor = 1.0 })
  check.choice("experiments.methods.tuned: loss", name, check.keys(settings.methods))
  local found, out = settings.methods[name], {}
  for i, label in ipairs(o.names) do
    local best, common = found[label], settings.unlearn.adamw
    local m = methods.list { names = { label }, optimizer = optim.adamw { eps = best.eps,
      lr = best.lr * o.lr_factor, betas = common.betas, weight_decay = common.weight_decay } }[1]
    m.forget, m.forget_weight = loss[name](), best.weight
    out[i] = m
  end
  return out
end

return methods
