--- data/chosen.lua - the samples of an effective batch, chosen and not yet packed.
--
-- A loader chooses samples, and a task packs them (dopl.task), so nothing here looks into a sample.
--
--     samples     {table,...}
--     keys        the samples' content keys
--     `twin`      the same samples with other answers, sample for sample, also chosen; nil without
--     n_samples
--     whole       the effective batch of which this is a part; itself if it is not a part
--     source      the list that the samples were chosen from
--     tag, step, epoch, indices     which objective, which batch, which samples of `source`
--
-- @module dopl.data.chosen

local chosen = {}
local Chosen = {}
Chosen.__index = Chosen

local function list_of(samples, tag)
  local keys = {}
  for i, sample in ipairs(samples) do keys[i] = sample.key end
  return setmetatable({ samples = samples, keys = keys, n_samples = #samples, tag = tag }, Chosen)
end

--- Chosen samples.
-- @tparam {table,...} samples
-- @tparam[opt] table about tag, `twins` = {table,...}, source
-- @treturn Chosen
function chosen.new(samples, about)
  about = about or {}
  local self = list_of(samples, about.tag)
  self.whole, self.source = self, about.source or samples
  if about.twins then
    self.twin = list_of(about.twins, about.tag)
    self.twin.whole, self.twin.source = self.twin, self.source
  end
  return self
end

--- What sample i and its refusal pair cost in one forward pass.
-- @tparam function cost of a sample
-- @tparam integer i
function Chosen:cost_of(cost, i)
  return cost(self.samples[i]) + (self.twin and cost(self.twin.samples[i]) or 0)
end

-- Ends of runs of samples, none of which costs more than `max` unless it is a single sample.
local function ends_by_cost(self, max, cost)
  local ends, costs, used = {}, {}, 0
  for i = 1, self.n_samples do
    local c = self:cost_of(cost, i)
    if used > 0 and used + c > max then
      ends[#ends + 1], costs[#costs + 1], used = i - 1, used, 0
    end
    used = used + c
  end
  ends[#ends + 1], costs[#costs + 1] = self.n_samples, used
  return ends, costs
end

-- Ends of n runs of samples that differ by at most one in length.
local function ends_by_number(self, n)
  local ends = {}
  n = math.min(n, self.n_samples)
  for i = 1, n do ends[i] = self.n_samples * i // n end
  return ends
end

local function part_of(self, first, last)
  local part = list_of(table.move(self.samples, first, last, 1, {}), self.tag)
  part.step, part.epoch, part.whole, part.source = self.step, self.epoch, self.whole, self.source
  if self.twin then part.twin = part_of(self.twin, first, last) end
  return part
end

--- Parts that together hold the same samples in the same order.
-- @tparam table how max = the largest cost of a part and cost = function(sample), or n = number of
-- parts (fewer if there are fewer samples)
-- @treturn {Chosen,...} the samples themselves if one part holds all
-- @treturn ?{number,...} the cost of each part, if they were cut by it
function Chosen:split(how)
  local ends, costs
  if how.n then
    ends = ends_by_number(self, how.n)
  else
    ends, costs = ends_by_cost(self, how.max, how.cost)
  end
  if #ends == 1 then return { self }, costs end
  local parts, first = {}, 1
  for i, last in ipairs(ends) do
    parts[i] = part_of(self, first, last)
    first = last + 1
  end
  return parts, costs
end

return chosen
