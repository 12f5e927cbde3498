-- drive.lua - runs a case of the reference through the real optimizer, and compares the two.
local core = require "dopl.core"
local scheme = require "dopl.optim.scheme"
local reference = require "spec.optim.reference"

local drive = {}

local names = reference.objectives

local function config_of(rule, values)
  local hyper = {}
  for name, value in pairs(values) do
    if rule.hyper[name] ~= nil then hyper[name] = value end
  end
  return hyper
end

local function scheme_of(case)
  local storage = case.storage or {}
  local o = { quantize_min = 0, weights = case.weights, floor = case.floor }
  if case.scheme == "base_delta" then
    o.timing, o.source = case.timing, case.source
    o.exact = case.exact
    o.storage = { base = storage.base, delta = storage.delta }
    for name, value in pairs(case.hyper) do
      local own = name:match "^base_(.+)"
      if own then
        o.base_betas = o.base_betas or {}
        o.base_betas[own] = value
      end
    end
  else
    o.storage = storage.delta
    if case.scheme == "decoupled" then o.only = case.decouple end
    for k, own in pairs(case.rules or {}) do
      o.rules = o.rules or {}
      o.rules[names[k]] = own[1](config_of(own[1], own[2]))
    end
  end
  return scheme[case.scheme](o)
end

-- The rule called with a case's hyper-parameters.
function drive.config(rule, case)
  local hyper = config_of(rule, case.hyper)
  if case.lr_ratio then
    hyper.lr = {}
    for k, ratio in ipairs(case.lr_ratio) do hyper.lr[names[k]] = case.hyper.lr * ratio end
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

--- A fresh optimizer on a fresh parameter "w".
function drive.start(rule, case)
  local K, period, objectives, start = #case.frequency, 0, {}, {}
  for k = 1, K do objectives[k], period = names[k], period + case.frequency[k] end
  for i = 1, case.elements do start[i] = reference.theta0(i - 1) end
  local w = tensor_of(case, start)
  if case.weights then w = core.optim.encode(w, "bf16") end
  w:requires_grad(true)
  local o = drive.config(rule, case):attach({ { name = "w", tensor = w } },
    { objectives = objectives, period = period, seed = case.seed })
  return { rule = rule, case = case, w = w, o = o, recorded = {} }
end

--- Steps `from` to `to`, counted from 1.
function drive.advance(session, from, to)
  local case, w = session.case, session.w
  for t = from, to do
    local k = reference.objective(case.frequency, t)
    w:set_grad(tensor_of(case, gradient(case, t, k, list_of(case, w))))
    session.o:step { objective = case.scheme ~= "joint" and names[k] or nil }
    for _, r in ipairs(case.record or {}) do
      if r == t then session.recorded[t] = list_of(case, w) end
    end
  end
end

--- { theta, master, own, base, recorded } like reference.run's, and the optimizer.
function drive.collect(session)
  local o, case = session.o, session.case
  local states = o.params[1].state
  local out = { recorded = session.recorded, optimizer = o, own = {}, base = {} }
  out.theta = list_of(case, session.w)
  out.master = states.master and states.master.value:tolist()
  for key, state in pairs(states) do
    local list = o:state("w", key):tolist()
    local name, objective = key:match "^(.-)%.own%.(.+)$"
    local base = key:match "^(.-)%.base$"
    if base then
      out.base[base] = { list = list, state = state }
    elseif key ~= "master" then
      name = name or key
      out.own[name] = out.own[name] or {}
      local k = 1
      while objective and names[k] ~= objective do k = k + 1 end
      out.own[name][k] = { list = list, state = state }
    end
  end
  return out
end

function drive.run(rule, case)
  local session = drive.start(rule, case)
  drive.advance(session, 1, case.steps)
  return drive.collect(session)
end

-- The spacing of bf16 at x.
local function spacing(x)
  return 2.0 ^ (math.max(-126, math.floor(math.log(math.abs(x), 2))) - 7)
end

-- bf16: what is compared was computed in f32 here and in f64 there, then rounded with the same
-- bits. The two differ by a few 2^-24, so about one rounding in 2^16 / 2 falls on either side of
-- where it turns: 99% are the same, and the others are neighbours, or what came of neighbours of
-- something as large as `allowed`.
local function compare_bf16(where, got, want, allowed)
  local off = 0
  for i = 1, #want do
    local d = math.abs(got[i] - want[i])
    if d > 0 then
      off = off + 1
      local most = 2 * spacing(math.max(math.abs(got[i]), math.abs(want[i])))
      assert(d <= most + allowed, ("%s: element %d is %.9g, not %.9g"):format(where, i, got[i],
        want[i]))
    end
  end
  assert(off <= 0.01 * #want, ("%s: %d of %d bf16 values differ"):format(where, off, #want))
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

-- The largest magnitude in each block of 256.
local function largest_of(list)
  local largest = {}
  for i, v in ipairs(list) do
    local b = (i - 1) // 256 + 1
    largest[b] = math.max(largest[b] or 0.0, math.abs(v))
  end
  return largest
end

-- A device's roots and quotients are up to two units in the last place off (runtime/cuda/jit.c): where
-- v^_B + v^_D is next to zero that moves theta, and with it the gradients to come.
local rough <const> = core.device() ~= "cpu"

-- f32: within 1e-5 of the block's largest value; on a device, and where weights are bf16 (one rounded
-- otherwise changes its gradient), for 99% of the elements. 8 bits: 99% of codes equal, none off by
-- more.
function drive.compare_state(where, got, want, weights)
  local s = got.state
  local largest = largest_of(want)
  if s.kind == "bf16" then return compare_bf16(where, got.list, want, largest[1] * 2 ^ -8) end
  if not s.scales then
    local off = 0
    for i = 1, #want do
      local d, scale = math.abs(got.list[i] - want[i]), largest[(i - 1) // 256 + 1]
      local near = d <= 1e-5 * scale + 1e-30
      off = off + (near and 0 or 1)
      assert(near or (weights or rough) and d <= 1e-2 * scale,
        ("%s: element %d is %.9g, not %.9g"):format(where, i, got.list[i], want[i]))
    end
    assert(off <= 0.01 * #want, ("%s: %d of %d are off"):format(where, off, #want))
    return
  end
  -- what is wanted is decoded values: their codes follow from the block's scale, which the largest
  -- value gives only if it is positive, so it is taken from the state and checked by the values
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

function drive.compare(where, got, want)
  local weights = got.optimizer and got.optimizer.params[1].weights
  if weights then
    compare_bf16(where .. ": theta", got.theta, want.theta, 1e-3)
  else
    drive.compare_theta(where, got.theta, want.theta)
  end
  if got.master then drive.compare_theta(where .. ": master", got.master, want.master) end
  for name, list in pairs(got.own) do
    for k, state in pairs(list) do
      drive.compare_state(("%s: %s of objective %d"):format(where, name, k), state,
        want.own[name][k], weights)
    end
  end
  for name, state in pairs(got.base) do
    drive.compare_state(("%s: base %s"):format(where, name), state, want.base[name], weights)
  end
end

return drive
