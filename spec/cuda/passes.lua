-- passes.lua - prints the CUDA source of every optimizer pass there is, each behind a line
-- "//// name": every rule, scheme and storage, the steps of every objective and the ends of periods.
--
-- Passes that differ in nothing but the numbering of their scalars, or in whether bf16 weights are
-- rounded stochastically or to the nearest (the second does less), come once.
local check = require "dopl.util.check"
local core = require "dopl.core"
local combinations = require "spec.optim.combinations"
local drive = require "spec.optim.drive"

local function normalised(source)
  return (source:gsub("k%[%d+%]", "k[]")
    :gsub("round_stochastic%((s0, %w+), job%b[], %(u32%)tile, lane%)", "round_nearest(%1)"))
end

local seen = {}

local function print_plan(name, plan)
  for _, first in ipairs(plan and plan.traced or {}) do
    for _, traced in ipairs { first, first.update } do
      for _, variant in ipairs(check.keys(traced.compiled)) do
        local source = traced.compiled[variant].program:cuda_source()
        local key = normalised(source)
        if not seen[key] then io.write("//// ", name, ", ", variant, "\n", source) end
        seen[key] = true
      end
    end
  end
end

for _, rule in ipairs(combinations.rules) do
  combinations.each(rule, function(label, case)
    for _, storage in ipairs(combinations.storages) do
      for _, weights in ipairs(combinations.weights) do
        local scope <close> = core.scope()
        local o = drive.start(rule.rule, combinations.store(case, storage, weights)).o
        local name = ("%s, %s, %s"):format(rule.name, label, storage)
        print_plan(name, o.shared_plan)
        for _, objective in ipairs(check.keys(o.plans)) do print_plan(name, o.plans[objective]) end
        print_plan(name .. ", end of a period", o.ending)
      end
    end
  end)
end
