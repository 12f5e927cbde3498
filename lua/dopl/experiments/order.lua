--- experiments/order.lua - compares our order of methods with a paper's, beyond chance.
--
-- All variants run on the same forget sets and seeds. A difference is therefore judged by the spread of
-- the paired differences, not by the spread of the figures.
-- @module dopl.experiments.order

local metrics = require "dopl.metrics"

local order = {}

-- Student's t for a two-sided interval of 95%, by degrees of freedom.
local T95 <const> = { 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201,
  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060,
  2.056, 2.052, 2.048, 2.045, 2.042 }

--- Half the width of the 95% confidence interval of a mean.
-- @tparam {number,...} list
-- @treturn ?number nil for fewer than two numbers
function order.interval(list)
  if #list < 2 then return nil end
  return (T95[#list - 1] or 1.96) * metrics.spread(list).std / math.sqrt(#list)
end

local function sign(x) return x > 0 and 1 or x < 0 and -1 or 0 end

--- Kendall's tau-a of two lists of figures for the same things: 1 the same order, -1 the reverse.
-- @tparam {number,...} ours
-- @tparam {number,...} theirs
-- @treturn number tau; a tie of one counts as neither, a tie of both as agreement; NaN for fewer than
-- two figures
-- @treturn integer pairs in the same order
-- @treturn integer pairs
function order.tau(ours, theirs)
  local sum, same, pairs_of = 0, 0, 0
  for i = 1, #ours do
    for j = i + 1, #ours do
      local a, b = sign(ours[i] - ours[j]), sign(theirs[i] - theirs[j])
      local s = a == b and 1 or a * b
      sum, pairs_of = sum + s, pairs_of + 1
      if s > 0 then same = same + 1 end
    end
  end
  return sum / pairs_of, same, pairs_of
end

--- Mean of the differences of two variants in pairs, and half its 95% interval.
-- @tparam {number,...} ours
-- @tparam {number,...} theirs over the same repetitions
-- @treturn number
-- @treturn ?number nil for fewer than two repetitions
function order.difference(ours, theirs)
  local differences = {}
  for k = 1, #ours do differences[k] = ours[k] - theirs[k] end
  return metrics.mean(differences), order.interval(differences)
end

--- Pairs of variants whose difference is beyond chance: zero lies outside its 95% interval.
-- @tparam {{number,...},...} lists the figures of each variant, over the same repetitions
-- @tparam[opt] table theirs a paper's figure by variant, larger is better; some may lack
-- @treturn integer such pairs
-- @treturn integer pairs
-- @treturn integer such pairs that have figures of the paper
-- @treturn integer those of them that the paper has in the same order
function order.distinct(lists, theirs)
  local n, pairs_of, known, agree = 0, 0, 0, 0
  for i = 1, #lists do
    for j = i + 1, #lists do
      local mean, half = order.difference(lists[i], lists[j])
      pairs_of = pairs_of + 1
      if half and math.abs(mean) > half then
        n = n + 1
        if theirs and theirs[i] and theirs[j] then
          known = known + 1
          if sign(mean) == sign(theirs[i] - theirs[j]) then agree = agree + 1 end
        end
      end
    end
  end
  return n, pairs_of, known, agree
end

--- One sentence on the order of variants beside a paper's.
-- @tparam table o what = name of our figure; labels, ours = means, theirs = the paper's figures;
-- their_name; lower = whether less is better in the paper's
-- @treturn string
function order.sentence(o)
  if #o.ours < 2 then return "Too few rows have a figure in the paper to compare the order." end
  local theirs = {}
  for i, x in ipairs(o.theirs) do theirs[i] = o.lower and -x or x end
  local tau, same, pairs_of = order.tau(o.ours, theirs)
  local function best(list)
    local at = 1
    for i = 2, #list do -- a NaN is never the best
      if list[i] > list[at] or list[at] ~= list[at] then at = i end
    end
    return o.labels[at]
  end
  return ("Order by %s compared with the paper's %s: %d of %d pairs agree (Kendall's tau %+.2f). First "
    .. "here: %s. First in the paper: %s."):format(o.what, o.their_name or o.what, same, pairs_of, tau,
      best(o.ours), best(theirs))
end

return order
