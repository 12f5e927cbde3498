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

local LIST <const> = check.fields("experiments.methods.list", {
  optimizer = { required = true, has = "with", "one like optim.adamw { lr = 1e-4 }" },
  names = { type = "list", default = methods.names, "methods, in the order of the rows" },
  forget = { default = 1, "forget steps of a period" },
  retain = { default = 5, "retain steps of a period" },
  alternate = { type = "table|function", "a schedule of other objectives, instead" },
})
local TUNED <const> = check.fields("experiments.methods.tuned", {
  names = { type = "list", default = methods.names, "methods, in the order of the rows" },
  lr_factor = { type = "number", default = 1.0, "a factor on every learning rate" },
})

--- Methods as { label, optimizer, schedule }, in the order asked for.
-- @tparam table options
-- @treturn {table,...}
function methods.list(options)
  local o = check.options(LIST, options)
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
-- @tparam[opt] table options
-- @treturn {table,...}
function methods.tuned(name, options)
  local o = check.options(TUNED, options)
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
