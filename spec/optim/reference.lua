-- reference.lua - any rule, scheme and storage in plain Lua doubles, one element at a time.
--
-- Independent of the compiler: it follows docs/optimizers.md step by step and calls the rule's own
-- functions on numbers. States and bf16 weights are rounded to what their storage keeps, with the
-- random bits that runtime/optim/rounding.h describes; nothing else is.
local rng = require "dopl.util.rng"
local reference = {}

local function f32(x)
  return (string.unpack("<f", string.pack("<f", x)))
end
reference.f32 = f32

-- ---- the problem: start, and gradients that agree on some elements and conflict on others

function reference.theta0(i)
  return 0.5 * math.sin(0.7 * i) + 0.01 * (i % 7)
end

-- The gradient at theta = 0. A matrix needs a second part: the first has so low a rank that
-- orthogonalizing it magnifies what is rounding.
local function gradient(case, k, t, i)
  local scale = 10.0 ^ -(i % 5)
  local sign = (k == 0 or i % 3 ~= 0) and 1 or -1
  local g = scale * (sign * math.cos(0.37 * i + 0.11 * k)
    + 0.3 * math.sin(0.91 * t + 0.05 * i + k))
  return case.shape and g + math.sin(1.7 * i * i + 2.3 * k + 0.4 * t) or g
end

local made = { vector = {}, matrix = {} } -- cases share these

-- The gradient of a case, times the objective's size. k: objective from 0; t: step from 1; i: element
-- from 0
function reference.gradient(case, k, t, i, theta)
  local list = case.shape and made.matrix or made.vector
  local at = (i * 1024 + t) * 8 + k
  list[at] = list[at] or gradient(case, k, t, i)
  return (list[at] + 0.05 * theta) * (case.sizes and case.sizes[k + 1] or 1.0)
end

reference.objectives = { "forget", "retain", "third", "fourth" }

-- ---- the 8-bit type

local function dynamic_map(signed)
  local values = { 0.0, 1.0 }
  for e = 0, 6 do
    local n = signed and 2 ^ e or 2 ^ (e + 1)
    for j = 0, n - 1 do
      local v = f32(10.0 ^ (e - 6) * ((0.1 + 0.9 * j / n) + (0.1 + 0.9 * (j + 1) / n)) / 2)
      values[#values + 1] = v
      if signed then values[#values + 1] = -v end
    end
  end
  table.sort(values)
  return values
end
reference.maps = { q8 = dynamic_map(true), u8 = dynamic_map(false) }

-- Code (from 0) of the entry nearest to x, the lower one on a tie.
function reference.nearest(map, x)
  local lo, hi = 1, 256
  while hi - lo > 1 do
    local mid = (lo + hi) // 2
    if map[mid] <= x then lo = mid else hi = mid end
  end
  return (x - map[lo] <= map[hi] - x and lo or hi) - 1
end

-- Codes and scales of a list.
function reference.encode(kind, values)
  local map, codes, scales = reference.maps[kind], {}, {}
  for first = 1, #values, 256 do
    local last, absmax = math.min(first + 255, #values), 0.0
    for i = first, last do absmax = math.max(absmax, math.abs(values[i])) end
    absmax = f32(absmax)
    scales[#scales + 1] = absmax
    for i = first, last do
      codes[i] = reference.nearest(map, absmax > 0 and values[i] / absmax or 0.0)
    end
  end
  return codes, scales
end

-- ---- bf16

local LOW <const> = 0xffffffff

-- The first two words of a block of Philox4x32-10.
local function philox(seed, stream, counter)
  local k0, k1, c0, c1 = seed & LOW, seed >> 32, counter & LOW, counter >> 32
  local c2, c3 = stream & LOW, stream >> 32
  for _ = 1, 10 do
    local p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
    c0, c2 = (p1 >> 32) ~ c1 ~ k0, (p0 >> 32) ~ c3 ~ k1
    c1, c3 = p1 & LOW, p0 & LOW
    k0, k1 = k0 + 0x9E3779B9 & LOW, k1 + 0xBB67AE85 & LOW
  end
  return c0, c1
end

-- The random bits of element i (from 0).
local function rounding_bits(v0, v1, i)
  local e = i % 256
  local x = (i // 256 * 128 + e % 128 & LOW) ~ v0
  x = (x ~ x >> 16) * 0x7feb352d & LOW
  x = (x ~ x >> 15 ~ v1) * 0x846ca68b & LOW
  x = x ~ x >> 16
  return e < 128 and x & 0xffff or x >> 16
end

-- bf16 values of finite numbers: to the nearest, ties to even; with seed, stream, draw
-- stochastically.
function reference.bf16(values, seed, stream, draw)
  local out, v0, v1 = {}, nil, nil
  if seed then v0, v1 = philox(seed, stream, draw) end
  for i, v in ipairs(values) do
    local bits = string.unpack("<I4", string.pack("<f", v))
    local more = v0 and rounding_bits(v0, v1, i - 1) or 0x7fff + (bits >> 16 & 1)
    out[i] = string.unpack("<f", string.pack("<I4", bits + more & 0xffff0000))
  end
  return out
end

-- What a state holds after being stored. where: { seed, draw, name of the operand }.
local function stored(kind, values, where)
  local out = {}
  if kind == "f32" then
    for i, v in ipairs(values) do out[i] = f32(v) end
    return out
  elseif kind == "bf16" then
    return reference.bf16(values, where[1], rng.hash(where[3]), where[2])
  end
  local codes, scales = reference.encode(kind, values)
  for i, c in ipairs(codes) do
    out[i] = f32(reference.maps[kind][c + 1] * scales[(i - 1) // 256 + 1])
  end
  return out
end

-- ---- moments

local function push(m, x, s, beta)
  return m.kind == "sum" and beta * x + s or m.kind ~= "sum" and beta * x + (1 - beta) * s
end

local function unbias(m, x, beta, n)
  return (m.kind ~= "sum" and m.correct and n > 0) and x / (1 - beta ^ n) or x
end

-- Reads the states of element i, returns the moment that enters the direction and fills `new`.
local update = {}

local function plain(run, m, s, i, own, n)
  local x = run.own[m.name][own][i]
  local y = push(m, x, s, run.beta(m))
  run.new_own[m.name][i] = y
  return run.rule.lagged and x or unbias(m, y, run.beta(m), n)
end

function update.joint(run, m, s, i) return plain(run, m, s, i, 1, run.t) end
update.shared = update.joint
function update.local_adam(run, m, s, i) return plain(run, m, s, i, run.k, run.t_k[run.k]) end
function update.decoupled(run, m, s, i)
  if run.splits(m) then return plain(run, m, s, i, run.k, run.t_k[run.k]) end
  return plain(run, m, s, i, 1, run.t)
end

local function floored(case, m, value, base)
  if not case.floor or not m.nonnegative then return value end
  return math.max(math.abs(value), case.floor * base)
end

function update.base_delta(run, m, s, i)
  local case, old_base, old = run.case, run.base[m.name][i], run.own[m.name][run.k][i]
  local bd, bb = run.beta(m), run.base_beta(m)
  local base, reference_base = old_base, unbias(m, old_base, bb, run.t - 1)
  if case.timing == "before_delta" then
    base = push(m, old_base, s, bb)
    reference_base = unbias(m, base, bb, run.t)
  end
  local d = push(m, old, s - reference_base, bd)
  local dhat = unbias(m, d, bd, run.t_k[run.k])
  local fed = case.source == "g-delta" and s - dhat or s
  if case.timing == "after_delta" then
    base = push(m, old_base, fed, bb)
    reference_base = unbias(m, base, bb, run.t)
  elseif case.timing == "after_theta" then
    base = push(m, old_base, fed, bb)
  end
  run.new_own[m.name][i], run.new_base[m.name][i] = d, base
  return floored(case, m, run.rule.lagged and old + old_base or reference_base + dhat, reference_base)
end

local function federated(minus_base)
  return function(run, m, s, i)
    local base, old = run.base[m.name][i], run.own[m.name][run.k][i]
    local d = push(m, old, minus_base and s - base or s, run.beta(m))
    run.new_own[m.name][i] = d -- the base stands, and is not stored again
    return floored(run.case, m, base + (run.rule.lagged and old
      or unbias(m, d, run.beta(m), run.t_k[run.k])), math.abs(base))
  end
end
update.scaffold, update.fedcm = federated(true), federated(false)

-- ---- Muon's matrix step

-- Products of matrices as lists of rows.
local function product(a, b)
  local out = {}
  for i = 1, #a do
    out[i] = {}
    for j = 1, #b[1] do
      local sum = 0.0
      for k = 1, #b do sum = sum + a[i][k] * b[k][j] end
      out[i][j] = sum
    end
  end
  return out
end

local function transposed(a)
  local out = {}
  for j = 1, #a[1] do
    out[j] = {}
    for i = 1, #a do out[j][i] = a[i][j] end
  end
  return out
end

local function combine(a, x, b, y)
  local out = {}
  for i = 1, #x do
    out[i] = {}
    for j = 1, #x[1] do out[i][j] = a * x[i][j] + b * y[i][j] end
  end
  return out
end

-- Five Newton-Schulz steps on a matrix given as a list of rows.
function reference.ns5(m)
  local square = 0.0
  for _, row in ipairs(m) do
    for _, v in ipairs(row) do square = square + v * v end
  end
  local tall = #m > #m[1]
  local x = tall and transposed(m) or m
  x = combine(1 / (square ^ 0.5 + 1e-7), x, 0, x)
  for _ = 1, 5 do
    local gram = product(x, transposed(x))
    x = combine(3.4445, x, 1, product(combine(-4.7750, gram, 2.0315, product(gram, gram)), x))
  end
  return tall and transposed(x) or x
end

local function reshape(list, rows, cols)
  local out = {}
  for i = 1, rows do out[i] = table.move(list, (i - 1) * cols + 1, i * cols, 1, {}) end
  return out
end
reference.reshape = reshape

local function ns5_of_list(list, shape)
  local out = {}
  for _, row in ipairs(reference.ns5(reshape(list, shape[1], shape[2]))) do
    table.move(row, 1, #row, #out + 1, out)
  end
  return out
end

-- ---- a run

-- The storage of a part: "f32", "bf16", "q8" or "u8".
function reference.kind(case, m, part)
  local storage = (case.storage or {})[part] or "f32"
  if storage ~= "8bit" then return storage end
  local unsigned = m.nonnegative
  if case.scheme == "base_delta" then
    unsigned = unsigned and part == "base" and case.source ~= "g-delta"
  elseif case.scheme == "scaffold" then
    unsigned = false
  end
  return unsigned and "u8" or "q8"
end

local function zeros(n)
  local out = {}
  for i = 1, n do out[i] = 0.0 end
  return out
end

local federation = { scaffold = true, fedcm = true, local_adam = true }

local function end_period(run)
  local case, K = run.case, #run.case.frequency
  for name, m in pairs(run.rule.moments) do
    local mean = {}
    for i = 1, case.elements do
      local sum = 0.0
      for j = 1, K do
        local x = run.own[name][j][i]
        sum = sum + (case.scheme == "local_adam" and x or unbias(m, x, run.beta(m), run.t_k[j]))
      end
      mean[i] = sum / K
    end
    if case.scheme == "local_adam" then
      for j = 1, K do
        run.own[name][j] = stored(reference.kind(case, m, "delta"), mean,
          run.where(name .. ".own." .. reference.objectives[j], 1))
      end
    else
      for i = 1, case.elements do mean[i] = run.base[name][i] + mean[i] end
      run.base[name] = stored(reference.kind(case, m, "base"), mean, run.where(name .. ".base", 1))
    end
  end
end

-- The moments as the direction sees them; a signal may look at another one.
local function moments_of(run, g, h, i)
  local known = {}
  return setmetatable(known, { __index = function(mom, name)
    local m = run.rule.moments[name]
    local value = update[run.case.scheme](run, m, m.signal(g, h, mom), i)
    rawset(known, name, value)
    return value
  end })
end

local function move_theta(run, from, lr, directions)
  local theta, weights = {}, run.case.weights
  for i = 1, #from do theta[i] = f32(from[i] - lr * directions[i]) end
  if weights == "master" then run.master = theta end
  if weights == "stochastic" then
    theta = stored("bf16", theta, run.where("theta", 0))
  elseif weights then
    theta = reference.bf16(theta)
  end
  run.theta = theta
end

local function one_step(run, hyper)
  local case, rule = run.case, run.rule
  local N, K = case.elements, #case.frequency
  local h = setmetatable({}, { __index = hyper })
  h.lr = hyper.lr * (case.lr_ratio and case.lr_ratio[run.k] or 1)
  run.new_own, run.new_base = {}, {}
  for name in pairs(rule.moments) do run.new_own[name], run.new_base[name] = {}, {} end
  local from, directions = {}, {}
  for i = 1, N do
    local theta, g = run.theta[i], 0.0
    if case.scheme == "joint" then
      for j = 0, K - 1 do g = g + reference.gradient(case, j, run.t, i - 1, theta) end
    else
      g = reference.gradient(case, run.k - 1, run.t, i - 1, theta)
    end
    if case.clip then g = f32(g) * case.clip end
    theta = run.master and run.master[i] or theta
    if rule.couple then g = rule.couple(g, theta, h) end
    local mom = moments_of(run, g, h, i)
    directions[i] = rule.direction(mom, g, h)
    for name in pairs(rule.moments) do local _ = mom[name] end
    from[i] = rule.decay and rule.decay(theta, h) or theta
  end
  if rule.transform then directions = ns5_of_list(directions, case.shape) end
  move_theta(run, from, h.lr, directions)
  for name, m in pairs(rule.moments) do
    local slot = run.slot(m)
    local own = run.splits(m) and name .. ".own." .. reference.objectives[slot] or name
    run.own[name][slot] = stored(reference.kind(case, m, "delta"), run.new_own[name],
      run.where(own, 0))
    if #run.new_base[name] > 0 then
      run.base[name] = stored(reference.kind(case, m, "base"), run.new_base[name],
        run.where(name .. ".base", 0))
    end
  end
end

-- case: scheme, hyper, frequency, elements, steps, and where they apply storage { base, delta },
-- weights (of bf16 parameters), seed, timing, source, floor, decouple, lr_ratio, sizes of the
-- objectives' gradients, exact (of the optimizer: arithmetic here is in doubles); rules, each
-- objective's own, { rule, hyper }; shape { rows, columns } for a rule with a transform, which is
-- taken to be Muon's. Returns theta, master, own[moment][objective], base[moment].
function reference.run(rule, case)
  local split = nil
  if case.decouple then
    split = {}
    for _, name in ipairs(case.decouple) do split[name] = true end
  end
  local run = { case = case, theta = {}, own = {}, base = {}, t_k = {} }
  local joint = case.scheme == "joint" or case.scheme == "shared"
  run.splits = function(m) return not joint and (not split or split[m.name]) end
  run.slot = function(m) return run.splits(m) and run.k or 1 end
  run.beta = function(m) return type(m.decay) == "number" and m.decay or run.hyper[m.decay] end
  run.base_beta = function(m)
    return type(m.decay) == "string" and run.hyper["base_" .. m.decay] or run.beta(m)
  end
  -- of an operand in the step's pass (0) or the period-end pass (1)
  run.where = function(name, pass)
    return { case.seed or 0, 2 * (run.t - 1) + pass, "w." .. name }
  end
  for i = 1, case.elements do run.theta[i] = f32(reference.theta0(i - 1)) end
  if case.weights then run.theta = reference.bf16(run.theta) end
  if case.weights == "master" then run.master = table.move(run.theta, 1, case.elements, 1, {}) end
  for k = 1, #case.frequency do run.t_k[k] = 0 end
  local function rule_of(k)
    local own = (case.rules or {})[k] or { rule, case.hyper }
    return own[1], own[2]
  end
  for k = 1, #case.frequency do
    for name, m in pairs((rule_of(k)).moments) do
      run.own[name], run.base[name] = run.own[name] or {}, zeros(case.elements)
      run.own[name][run.splits(m) and k or 1] = zeros(case.elements)
    end
  end
  local period = 0
  for _, f in ipairs(case.frequency) do period = period + f end
  for t = 1, case.steps do
    run.t, run.k = t, reference.objective(case.frequency, t)
    run.t_k[run.k] = run.t_k[run.k] + 1
    run.rule, run.hyper = rule_of(run.k)
    one_step(run, run.hyper)
    if t % period == 0 and federation[case.scheme] then end_period(run) end
  end
  return run
end

-- Which objective (from 1) step t (from 1) has.
function reference.objective(frequency, t)
  local period = 0
  for _, f in ipairs(frequency) do period = period + f end
  local at, k = (t - 1) % period, 1
  while at >= frequency[k] do at, k = at - frequency[k], k + 1 end
  return k
end

return reference
