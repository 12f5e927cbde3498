--- metrics/aggregate.lua - means, and aggregates whose names list the metrics they contain.
--
-- An aggregate contains a metric only if all of its sets have it. A NaN in its metrics makes it NaN: a
-- metric that could not be computed counts neither as forgetting nor as utility.
-- @module dopl.metrics.aggregate

local check = require "dopl.util.check"
local figures = require "dopl.util.figures"

local aggregate = {}

local METRICS <const> = { "R", "P", "TR", "TE" }
local OF_FORGETTING <const> = { "R", "P", "TR" } -- TE is TFE's

local function check_numbers(name, list)
  check.type(name, list, "table", 4)
  for _, x in ipairs(list) do check.type(name, x, "number", 4) end
end

--- Mean of a list of numbers; NaN for an empty list.
function aggregate.mean(list)
  check_numbers("metrics.mean", list)
  local sum = 0
  for _, x in ipairs(list) do sum = sum + x end
  return sum / #list
end

--- Harmonic mean; NaN for an empty list or one with a NaN, otherwise 0 if one number is 0.
function aggregate.harmonic_mean(list)
  check_numbers("metrics.harmonic_mean", list)
  local sum, zero = 0, false
  for _, x in ipairs(list) do
    if x ~= x then return x end
    zero = zero or x <= 0
    sum = sum + 1 / x
  end
  return zero and 0 or #list / sum
end

--- Mean and sample standard deviation.
-- @treturn table { mean, std, n }; a single number has no deviation
function aggregate.spread(list)
  check_numbers("metrics.spread", list)
  local mean, ss = aggregate.mean(list), 0
  for _, x in ipairs(list) do ss = ss + (x - mean) ^ 2 end
  return { mean = mean, std = #list > 1 and math.sqrt(ss / (#list - 1)) or nil, n = #list }
end

-- The metrics of a list that every set has; nil if there is no set.
local function held(sets, wanted)
  if #sets == 0 then return nil end
  local list = {}
  for _, metric in ipairs(wanted) do
    local all = true
    for _, set in ipairs(sets) do all = all and set[metric] ~= nil end
    if all then list[#list + 1] = metric end
  end
  return #list > 0 and list or nil
end

local function name(what, list) return list and ("%s(%s)"):format(what, table.concat(list, ",")) end

-- OVR has the list of MU, which is UFE's and TE. If they differ otherwise, it names both.
local function name_of_overall(forgetting, utility, keys)
  local rest = {}
  for _, metric in ipairs(utility) do
    if metric ~= "TE" then rest[#rest + 1] = metric end
  end
  local alike = table.concat(rest, ",") == table.concat(forgetting, ",")
  return alike and name("OVR", utility) or name("OVR", { keys.UFE, keys.MU })
end

-- Names of the aggregates, and what UFE and MU hold.
local function read(sets)
  local forget, others = {}, {}
  for _, set in ipairs(sets) do
    check.type("metrics.names: a set", set, "table", 5)
    local list = set.kind == "forget" and forget or others
    list[#list + 1] = set
  end
  local forgetting, utility = held(forget, OF_FORGETTING), held(others, METRICS)
  local keys = { UFE = name("UFE", forgetting), TFE = name("TFE", held(forget, { "TE" })),
    MU = name("MU", utility) }
  if forgetting and utility then keys.OVR = name_of_overall(forgetting, utility, keys) end
  return keys, forgetting, utility
end

--- Names of the aggregates of sets: "UFE(R,P)" if the forget set has no truth ratio. OVR is
-- "OVR(R,P,TE)" if UFE and MU differ only in TE, otherwise "OVR(UFE(R,P),MU(R,P,TR,TE))".
-- @tparam {table,...} sets results of `metrics.evaluate`, or of `metrics.inspect`: kind, and a
-- field for each metric that the set has
-- @treturn table { UFE =, TFE =, MU =, OVR = }; a field is nil if the aggregate is empty
function aggregate.names(sets)
  check.type("metrics.names: sets", sets, "table")
  return (read(sets))
end

--- Names of the aggregates if every set has every metric.
aggregate.keys = aggregate.names {
  { kind = "forget", R = true, P = true, TR = true, TE = true },
  { kind = "retain", R = true, P = true, TR = true, TE = true },
}

--- Aggregates of evaluated sets, under names that list their metrics.
-- @tparam {table,...} results from `metrics.evaluate`
-- @tparam boolean targeted whether the loss aims at refusals (idk, dpo): OVR then includes TFE
-- @treturn table { ["UFE(R,P,TR)"] = ..., ... }
-- @treturn table the names, as `metrics.names` gives them
function aggregate.of(results, targeted)
  check.type("metrics.aggregate: results", results, "table")
  local keys, forgetting, utility = read(results)
  local useful, out, entropy = {}, {}, nil
  for _, r in ipairs(results) do
    if r.kind == "forget" then
      local list = {}
      for i, metric in ipairs(forgetting or {}) do list[i] = r[metric] end
      if keys.UFE then out[keys.UFE] = 1 - aggregate.mean(list) end
      entropy = targeted and r.TE
    else
      for _, metric in ipairs(utility or {}) do useful[#useful + 1] = r[metric] end
    end
  end
  if keys.MU then out[keys.MU] = aggregate.harmonic_mean(useful) end
  if entropy then out[keys.TFE] = entropy end
  local ufe, mu = out[keys.UFE], out[keys.MU]
  if keys.OVR and targeted then
    out[keys.OVR] = entropy and 0.25 * (ufe + entropy) + 0.5 * mu
  elseif keys.OVR then
    out[keys.OVR] = 0.5 * (ufe + mu)
  end
  return figures.row(out), keys
end

return aggregate
