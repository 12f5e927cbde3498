-- Tables 1 and 12 of DualOptim+: six methods under four losses.
--
-- IDK + GD and DPO + GD aim at refusals, ME + GD and NPO + GD only away from the answers. OVR includes
-- TFE for the first two. One table per loss, beside the paper's figures for Phi 1.5. Every method has
-- the learning rate, eps and forget weight that the same search found for it on other forget sets
-- (docs/bench.md). About five minutes on two cores. methods.lua runs one loss over five forget sets.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local methods = require "dopl.experiments.methods"
local study = require "dopl.experiments.study"

local declared = study.params {
  tasks = { 2, "disjoint forget sets: task 1 to this one" },
  losses = { "idk", "me", "dpo", "npo" },
  lr_factor = { 1.0, "multiplies every method's learning rate" },
}
declared.adamw = nil -- each method has separate settings
local p = dopl.params(declared)
local run <close> = dopl.run.open {}

local papers = { idk = "table1", me = "table1_me", dpo = "table12_dpo", npo = "table12_npo" }
local parts, first, places = {}, {}, {}
for i, name in ipairs(p.losses) do
  local compared = study.run(p, run, methods.tuned(name, { lr_factor = p.lr_factor }),
    { prefix = name .. ", " })
  local key = compared.keys.OVR
  parts[i] = compared:part { title = name:upper() .. " + GD", paper = papers[name] }
  first[i] = ("%s %s"):format(name:upper(), compared:best(key).label)
  for k, row in ipairs(compared.rows) do -- by place, for OVR is another figure with another loss
    places[k] = places[k] or 0
    for _, other in ipairs(compared.rows) do
      local x, y = row[key].mean, other[key].mean
      if y >= x or x ~= x then places[k] = places[k] + 1 / #p.losses end -- a NaN comes last
    end
  end
end

local means = {}
for k, label in ipairs(methods.names) do means[k] = ("%s %.1f"):format(label, places[k]) end
study.report(run, p, parts, {
  title = "Methods by loss (Tables 1 and 12)",
  shows = closing.losses(table.concat(first, ", "), table.concat(means, ", ")),
})
