-- drive.lua - runs a case of the reference through the real optimizer, and compares the two.
local core = require "dopl.core"
local scheme = require "dopl.scheme"
local reference = require "spec.optim.reference"

local drive = {}

local letters = { "forget", "retain", "third", "fourth" }

local function scheme_of(case)
  local o, storage = { quantize_min = 0 }, case.storage or {}
  if case.scheme == "base_delta" then
    o.timing, o.source, o.floor, o.quantize = case.timing, case.source, case.floor, {}
    for _, part in ipairs { "base", "delta" } do
      if storage[part] == "8bit" then table.insert(o.quantize, part) end
    end
    for name, value in pairs(case.hyper) do
      local own = name:match "^base_(.+)"
      if own then
        o.base_betas = o.base_betas or {}
        o.base_betas[own] = value
      end
    end
  else
    o.quantize = storage.delta == "8bit"
    if case.scheme == "decoupled" then o.only = case.decouple end
  end
  return scheme[case.scheme](o)
end

-- The rule called with a case's hyper-parameters.
function drive.config(rule, case)
  local hyper = {}
  for name, value in pairs(case.hyper) do
    if rule.hyper[name] ~= nil then hyper[name] = value end
  end
  if case.lr_ratio then
    hyper.lr = {}
    for k, ratio in ipairs(case.lr_ratio) do hyper.lr[letters[k]] = case.hyper.lr * ratio end
  end
  return rule(hyper):with(scheme_of(case))
end

-- A list as the parameter's tensor; the numbers of a tensor as a list.
local function tensor_of(case, list)
  if not case.shape then return core.tensor(list) end
  return core.tensor(reference.reshape(list, case.shape[1], case.shape[2]))
end

local function list_of(case, tensor)
  local list = tensor:tolist()
  if not case.shape then return list end
  local out = {}
  for _, row in ipairs(list) do table.move(row, 1, #row, #out + 1, out) end
  return out
end

local function gradient(case, t, k, theta)
  local g = {}
  for i = 1, case.elements do
    if case.scheme == "joint" then
      g[i] = 0.0
      for j = 0, #case.frequency - 1 do
        g[i] = g[i] + reference.gradient(case, j, t, i - 1, theta[i])
      end
    else
      g[i] = reference.gradient(case, k - 1, t, i - 1, theta[i])
    end
  end
  return g
end

-- { theta, own, base, codes, recorded } like reference.run's, and the optimizer.
function drive.run(rule, case)
  local K, period, objectives = #case.frequency, 0, {}
  for k = 1, K do objectives[k], period = letters[k], period + case.frequency[k] end
  local start = {}
  for i = 1, case.elements do start[i] = reference.theta0(i - 1) end
  local w = tensor_of(case, start)
  w:requires_grad(true)
  local config = drive.config(rule, case)
  local o = config:attach({ { name = "w", tensor = w } },
    { objectives = objectives, period = period })
  local out = { recorded = {}, optimizer = o }
  for t = 1, case.steps do
    local k = reference.objective(case.frequency, t)
    w:set_grad(tensor_of(case, gradient(case, t, k, list_of(case, w))))
    o:step { objective = case.scheme ~= "joint" and letters[k] or nil }
    for _, r in ipairs(case.record or {}) do
      if r == t then out.recorded[t] = list_of(case, w) end
    end
  end
  out.theta, out.own, out.base = list_of(case, w), {}, {}
  for name in pairs(rule.moments) do
    out.own[name] = {}
    local shared = o.params[1].state[name]
    for k = 1, shared and 1 or K do
      local key = shared and name or name .. ".own." .. letters[k]
      out.own[name][k] = { list = o:state("w", key):tolist(), state = o.params[1].state[key] }
    end
    local base = o.params[1].state[name .. ".base"]
    if base then
      out.base[name] = { list = o:state("w", name .. ".base"):tolist(), state = base }
    end
  end
  return out
end

-- theta: within 1e-5 for 99% of the elements and 1e-3 for all.
function drive.compare_theta(where, got, want)
  local off, worst = 0, 0.0
  for i = 1, #want do
    local d = math.abs(got[i] - want[i])
    if d > 1e-5 or d ~= d then off = off + 1 end
    if d > worst or d ~= d then worst = d end
  end
  assert(worst <= 1e-3, ("%s: theta is %g off"):format(where, worst))
  assert(off <= 0.01 * #want, ("%s: %d of %d theta are over 1e-5 off"):format(where, off, #want))
end

-- f32: within 1e-5 of the block's largest value. 8 bits: 99% of codes equal, none off by more.
function drive.compare_state(where, got, want)
  local s = got.state
  if not s.scales then
    for first = 1, #want, 256 do
      local last, largest = math.min(first + 255, #want), 0.0
      for i = first, last do largest = math.max(largest, math.abs(want[i])) end
      for i = first, last do
        local d = math.abs(got.list[i] - want[i])
        assert(d <= 1e-5 * largest + 1e-30, ("%s: element %d is %.9g, not %.9g"):format(where, i,
          got.list[i], want[i]))
      end
    end
    return
  end
  -- what is wanted is decoded values: their codes follow from the block's scale, which the largest
  -- value tells only where it is positive, so it is taken from the state and checked by the values
  local codes, scales, off = s.value:tolist(), s.scales:tolist(), 0
  for i = 1, #want do
    local scale = scales[(i - 1) // 256 + 1]
    local code = reference.nearest(reference.maps[s.kind], scale > 0 and want[i] / scale or 0.0)
    local d = math.abs(codes[i] - code)
    assert(d <= 1, ("%s: code %d is %d, not %d"):format(where, i, codes[i], code))
    assert(d > 0 or math.abs(got.list[i] - want[i]) <= 1e-5 * scale + 1e-30,
      ("%s: element %d is %.9g, not %.9g"):format(where, i, got.list[i], want[i]))
    off = off + d
  end
  assert(off <= 0.01 * #want, ("%s: %d of %d codes differ"):format(where, off, #want))
end

function drive.compare(where, rule, got, want)
  drive.compare_theta(where, got.theta, want.theta)
  for name in pairs(rule.moments) do
    for k, state in ipairs(got.own[name]) do
      drive.compare_state(("%s: %s of objective %d"):format(where, name, k), state,
        want.own[name][k])
    end
    if got.base[name] then
      drive.compare_state(("%s: base %s"):format(where, name), got.base[name], want.base[name])
    end
  end
end

return drive
