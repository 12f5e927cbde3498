--- walker.lua - the checks every operator goes through, driven by samples.
--
-- spec/op/<family>_spec.lua mirrors runtime/op/<family>.c. It gives, for each operator,
--
--     reference   a plain Lua function of arrays (op.array) and attributes, in double
--     samples     lists of arguments: arrays, array.index, numbers, names; false where optional
--     wrong       { arguments..., says = "message" }: what must be refused, and how
--     cases       named functions, for what samples cannot say; on_cpu: those of the CPU alone
--
-- and the walker checks values, attributes by position and by name, every gradient against differences
-- of the reference, gradients that
-- find a gradient already there, each input differentiated alone, any number of threads, errors.
-- A weight in bf16 must give what the same numbers in f32 give, bit for bit, gradients included.
-- Fresh memory is full of NaN throughout.
--
-- With DOPL_DEVICE=cuda all of it is done there: against the reference, and besides against the CPU
-- on inputs never seen before, in f32 and, where the device computes in it, bf16. A second run must
-- repeat the first to the bit. A failure names the seed of its inputs; DOPL_SEED=N gives them back.
local array = require "op.array"
local core = require "dopl.core"
local assert = require "luassert"

local busted = require("spec.busted").api -- a module does not see a spec file's globals
local describe, it = busted.describe, busted.it
local before_each, after_each = busted.before_each, busted.after_each

local walker = {}
local device = core.device()
local on_cpu = device == "cpu"

-- Of inputs never seen before; on the emulator too, though it runs wherever nobody can look into a
-- failure by chance: over 300 seeds the errors stayed within 0.51 of what is allowed.
local seed = math.tointeger(tonumber(os.getenv "DOPL_SEED"))
  or (core.clock() * 1e6 // 1 | 0) % 1000003

-- Largest |got - wanted| / max(1, |wanted|). The reference is exact to 1e-9 and the inputs are the
-- same float32 numbers, so these are the operators' own rounding errors, with a margin of about 4.
local TOLERANCE = {
  value = {
    default = 1e-6,      -- a few roundings of an element
    exp = 4e-7,          -- of a GPU, two units in the last place
    gelu = 2e-6,         -- tanh to 1e-7, times x
    log = 3e-7,
    rms_norm = 3e-6,     -- the sum of 1025 squares, one after the other where nothing vectorises
    layer_norm = 3e-6,
    attention = 3e-6,    -- sums of up to 130 products
    kv_attention = 3e-6,
    vocab = 4e-6,        -- log-sum-exp of up to 1025 logits
    vocab_kl = 8e-6,     -- differences of two such
    linear = 4e-6,       -- sums of products, in any order
    matmul = 4e-6,
    mlp = 4e-6,
    view = 0, slice = 0, select = 0, concat = 0, embedding = 0, kv_store = 0, argmax = 0, sample = 0,
  },
  gradient = {
    default = 2e-6,
    add = 5e-6, sub = 5e-6, mul = 5e-6, div = 5e-6, -- a stretched side sums up to 1025 elements
    exp = 1e-6,
    gelu = 4e-6,
    attention = 6e-6,
    rms_norm = 6e-6,     -- a weight's gradient sums over rows
    layer_norm = 8e-6,
    vocab = 8e-6,
    vocab_kl = 6e-6,
    linear = 8e-6,
    matmul = 8e-6,
    mlp = 8e-6,
  },
}

-- What bf16 adds to these, against f32 on the CPU, whose inputs are the same numbers. A result
-- rounded to 8 bits is off by at most 2^-8 of itself, which correct rounding reaches and cutting
-- off exceeds; more where a kernel hands rounded numbers from one part to the next.
local NARROW = {
  value = { default = 2 ^ -8, attention = 2 ^ -7, layer_norm = 2 ^ -7 },
  gradient = { default = 2 ^ -7, attention = 2 ^ -6, vocab = 2 ^ -6, vocab_kl = 2 ^ -6 },
}

local rows = {}
for _, row in ipairs(core.op_rows) do rows[row.name] = row end

local function takes_list(row) return row.inputs[1].kind == "list" end

-- Which arguments are tensors of floats: a gradient can flow into them. Which of those may be bf16
-- beside f32. An operator of a list takes as many as it is given.
local function float_inputs(row, args)
  local list, weights = {}, {}
  local n = takes_list(row) and #args or #row.inputs
  for i = 1, n do
    local kind = takes_list(row) and (args[i].index and "i32" or "f32") or row.inputs[i].kind
    if kind ~= "i32" then list[#list + 1] = i end
    if kind == "weight" then weights[#weights + 1] = i end
  end
  return list, n, weights
end

local function tensors_of(args)
  local out = { n = #args }
  for i, a in ipairs(args) do
    if type(a) == "table" then out[i] = array.tensor(a) elseif a ~= false then out[i] = a end
  end
  return out
end

local function call(name, args) return core.ops[name](table.unpack(args, 1, args.n)) end

local function refer(spec, args)
  local plain = {}
  for i, a in ipairs(args) do
    if type(a) == "table" and a.index then plain[i] = a.index else plain[i] = a or nil end
  end
  return spec.reference(table.unpack(plain, 1, #args))
end

-- Element by element; `slack`, if given, is an array of what each may be off besides.
local function compare(what, wanted, got, tolerance, slack)
  assert.same(wanted.shape, got.shape, what .. ": shape")
  for i = 1, #wanted do
    local w, g = wanted[i], got[i]
    local allowed = tolerance * math.max(1, math.abs(w)) + (slack and slack[i] or 0)
    if not (w == g or math.abs(w - g) <= allowed) then
      error(("%s: element %d of %d is %.9g, the reference says %.9g (off by %.3g, allowed %.3g)")
        :format(what, i, #wanted, g, w, math.abs(g - w), allowed), 0)
    end
  end
end
walker.compare = compare

local function tolerance_of(kind, name, narrow)
  local list, more = TOLERANCE[kind], NARROW[kind]
  return (list[name] or list.default) + (narrow and (more[name] or more.default) or 0)
end

-- Runs an operator and its backward. `wants`: positions of the inputs that require a gradient.
-- Returns the output and gradients by position, after `times` backward passes. `narrow`: positions
-- of the inputs that are given in bf16.
local function run(name, args, wants, upstream, times, narrow)
  local scope <close> = core.scope()
  local t = tensors_of(args)
  for _, i in ipairs(narrow or {}) do t[i] = t[i]:to("bf16") end
  for _, i in ipairs(wants) do t[i]:requires_grad(true) end
  local y
  for _ = 1, times or 1 do
    y = call(name, t)
    if #wants > 0 then y:backward(array.tensor(upstream):to(on_cpu and "f32" or y:dtype())) end
  end
  local grads = {}
  for _, i in ipairs(wants) do grads[i] = array.of(t[i]:grad()) end
  return array.of(y), grads
end

-- d(reference . upstream)/dh along `direction` in input `position`: five points, error O(h^4).
local function slope(spec, args, position, direction, upstream)
  local function at(h)
    local moved = table.move(args, 1, #args, 1, {})
    moved[position] = array.new(args[position].shape, function(i)
      return args[position][i] + h * direction[i]
    end)
    return array.dot(refer(spec, moved), upstream)
  end
  local h = 1e-3
  return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
end

-- Along one direction that moves every element, and at up to `limit` single elements.
local function check_gradient(what, spec, args, position, got, upstream, tolerance, slack)
  local shape = args[position].shape
  assert.same(shape, got.shape, what .. ": shape of the gradient")
  local n, limit = #args[position], spec.elements or 12
  if n == 0 then return end
  local u = array.fill(shape, 0, 1, 7)
  local norm = math.sqrt(array.dot(got, got) + 1)
  local wanted, along = slope(spec, args, position, u, upstream), array.dot(got, u)
  local besides = slack and math.sqrt(array.dot(slack, slack)) or 0
  local most = tolerance * norm * math.max(1, math.sqrt(n) / 8) + besides
  local near = math.abs(wanted - along) <= most -- false of a NaN
  if not near then
    error(("%s: the gradient along a probe is %.9g, differences say %.9g"):format(what, along,
      wanted), 0)
  end
  for k = 1, math.min(n, limit) do
    local i = n <= limit and k or (k - 1) * (n - 1) // (limit - 1) + 1
    local unit = array.zeros(shape)
    unit[i] = 1.0
    local want = slope(spec, args, position, unit, upstream)
    local allowed = tolerance * math.max(1, math.abs(want)) + (slack and slack[i] or 0)
    near = math.abs(want - got[i]) <= allowed
    if not near then
      error(("%s: the gradient of element %d is %.9g, differences say %.9g (off by %.3g, not %.3g)")
        :format(what, i, got[i], want, math.abs(want - got[i]), allowed), 0)
    end
  end
end

local function wanted_inputs(row, args)
  local wants = {}
  for _, i in ipairs((float_inputs(row, args))) do
    if args[i] then wants[#wants + 1] = i end
  end
  return row.differentiable and wants or {}
end

local function text_of(args)
  local parts = {}
  for i, a in ipairs(args) do
    if type(a) ~= "table" then
      parts[i] = tostring(a)
    elseif a.index then
      parts[i] = "index"
    else
      parts[i] = "[" .. table.concat(a.shape, ", ") .. "]"
    end
  end
  return table.concat(parts, ", ")
end

-- Weights in bf16, one by one and all together, against f32 weights of the same numbers.
local function check_narrow(what, name, row, args, wants, upstream)
  local _, _, weights = float_inputs(row, args)
  local rounded, given = table.move(args, 1, #args, 1, {}), {}
  for _, i in ipairs(weights) do
    if args[i] then
      rounded[i] = array.of(array.tensor(args[i]):to("bf16"))
      given[#given + 1] = i
    end
  end
  if #given == 0 then return end
  local value, grads = run(name, rounded, wants, upstream)
  local choices = { given }
  for k = 1, #given > 1 and #given or 0 do choices[k + 1] = { given[k] } end
  for _, narrow in ipairs(choices) do
    local at = ("%s, bf16 in %s"):format(what, table.concat(narrow, ", "))
    local again, grads_again = run(name, rounded, wants, upstream, 1, narrow)
    compare(at, value, again, 0)
    for _, i in ipairs(wants) do
      compare(("%s, gradient %d"):format(at, i), grads[i], grads_again[i], 0)
    end
  end
end

-- f(...) with tensors on another device.
local function on(where, f, ...)
  core.device(where)
  local results = table.pack(pcall(f, ...))
  core.device(device)
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- Each number of the arguments moved by up to a tenth of itself, and rounded.
local function fresh_inputs(row, args, narrow)
  local draws = require("dopl.util.rng").new(seed, row.name)
  local fresh = table.move(args, 1, #args, 1, {})
  for _, i in ipairs((float_inputs(row, args))) do
    if args[i] then
      fresh[i] = array.map(args[i], function(x) return x * (0.9 + 0.2 * draws:uniform()) end)
      local scope <close> = core.scope() -- luacheck: ignore scope
      local t = array.tensor(fresh[i])
      fresh[i] = array.of(narrow and t:to("bf16") or t)
    end
  end
  return fresh
end

-- Sums of products of their inputs, forward and backward.
local SUMS <const> = {
  add = true, sub = true, mul = true, div = true, sum = true, mean = true, sum_last = true,
  segment_sum = true, embedding = true, linear = true, matmul = true, mlp = true,
}
local SUM_ROUNDING <const> = 2 ^ -20 -- 16 roundings of f32; up to 4 are seen, of 130 products
local MLP_ROUNDING <const> = 2 ^ -8 -- in bf16: its second layer's terms are rounded, each of them

-- What each element of a value, and of the gradients by position, may be off besides on a device,
-- which sums in f32, most of it, where the CPU and the reference sum in double.
--
-- A sum's rounding errors grow with its terms and its partial sums; where these cancel, the sum is
-- small and the errors are not. Their scale is the sum of the terms' magnitudes: what the operator
-- itself gives for the magnitudes of its inputs, backward for those of the upstream gradient. A
-- term left out is off by far more, one of a thousand by some 1000 times the slack.
-- Of other operators the terms are not known. A gradient's are taken to be as large as what sums of
-- such terms come to elsewhere in it: as its largest element.
local function device_slack(name, args, wants, upstream, grads, narrow)
  local slack = {}
  if SUMS[name] then
    local unit = narrow and name == "mlp" and MLP_ROUNDING or SUM_ROUNDING
    local function rounding(a)
      return array.map(a, function(x) return math.abs(x) * unit end)
    end
    local sizes = table.move(args, 1, #args, 1, {})
    for i, a in ipairs(args) do
      if type(a) == "table" and a.shape then sizes[i] = array.map(a, math.abs) end
    end
    local value, sums = on("cpu", run, name, sizes, wants, array.map(upstream, math.abs))
    for _, i in ipairs(wants) do slack[i] = rounding(sums[i]) end
    return rounding(value), slack
  end
  for _, i in ipairs(wants) do
    local most = 0
    for _, g in ipairs(grads[i]) do most = math.max(most, math.abs(g)) end
    local allowed = most * tolerance_of("gradient", name, narrow)
    slack[i] = array.map(grads[i], function() return allowed end)
  end
  return nil, slack
end
walker.device_slack = device_slack

-- The device against the CPU.
local function check_device(name, row, args, wants, upstream, narrow)
  local fresh, floats = fresh_inputs(row, args, narrow), {}
  for _, i in ipairs((float_inputs(row, args))) do
    if narrow and args[i] then floats[#floats + 1] = i end
  end
  local what = ("%s(%s) in %s, DOPL_SEED=%d"):format(name, text_of(args),
    narrow and "bf16" or "f32", seed)
  local wanted, grads = on("cpu", run, name, fresh, wants, upstream)
  local value, grads_there = run(name, fresh, wants, upstream, 1, floats)
  local value_slack, slack = device_slack(name, fresh, wants, upstream, grads, narrow)
  compare(what, wanted, value, tolerance_of("value", name, narrow), value_slack)
  for _, i in ipairs(wants) do
    compare(("%s, gradient %d"):format(what, i), grads[i], grads_there[i],
      tolerance_of("gradient", name, narrow), slack[i])
  end
end

local function check_sample(name, spec, row, args)
  local what = ("%s(%s)"):format(name, text_of(args))
  local wanted = refer(spec, args)
  local wants = wanted_inputs(row, args)
  if spec.frozen then wants = table.move(wants, 1, spec.frozen, 1, {}) end
  local upstream = array.fill(wanted.shape, 0, 1, 50)
  local value, grads = run(name, args, wants, upstream)
  local value_slack, slack = nil, {}
  if not on_cpu then
    value_slack, slack = device_slack(name, args, wants, upstream, grads)
  end
  compare(what, wanted, value, tolerance_of("value", name), value_slack)
  local tolerance = tolerance_of("gradient", name)
  for _, i in ipairs(wants) do
    local at = ("%s, input %d"):format(what, i)
    check_gradient(at, spec, args, i, grads[i], upstream, tolerance, slack[i])
    local _, alone = run(name, args, { i }, upstream)
    compare(at .. " alone", grads[i], alone[i], on_cpu and (spec.reordered or 0) or tolerance,
      slack[i])
    local _, twice = run(name, args, { i }, upstream, 2)
    compare(at .. " on top of itself", array.map(grads[i], function(g) return 2 * g end), twice[i],
      tolerance, slack[i])
  end
  if on_cpu then
    check_narrow(what, name, row, args, wants, upstream)
  else
    check_device(name, row, args, wants, upstream)
    -- exact in bf16
    local halved = array.map(upstream, function(u) return u > 0 and 1.0 or -0.5 end)
    check_device(name, row, args, wants, halved, true)
  end
  local threads = core.threads()
  core.threads(threads == 1 and 2 or 1)
  local again, grads_again = run(name, args, wants, upstream)
  core.threads(threads)
  local reordered = on_cpu and spec.reordered or 0
  compare(what .. " on another number of threads", value, again, reordered)
  for _, i in ipairs(wants) do
    compare(("%s, gradient %d on another number of threads"):format(what, i), grads[i],
      grads_again[i], reordered)
  end
end

local function refused(name, args, says)
  local ok, message = pcall(call, name, args)
  assert.is_false(ok, name .. " took what it must refuse")
  assert.truthy(tostring(message):find(says, 1, true),
    ("the message is %q, it must say %q"):format(tostring(message), says))
end

-- Input i, whose sample is good, as each thing that it must not be.
local function check_input(name, row, good, i)
  local list, _, weights = float_inputs(row, good)
  local needs = {}
  for _, k in ipairs(list) do needs[k] = "f32" end
  for _, k in ipairs(weights) do needs[k] = "f32 or bf16" end
  local args = tensors_of(good)
  if not takes_list(row) then
    args[i] = needs[i] and core.i32 { 1, 2 } or core.tensor { 1, 2 }
    refused(name, args, ("%s: input %d is %s [2], needs %s"):format(name, i,
      needs[i] and "i32" or "f32", needs[i] or "i32"))
  end
  if needs[i] == "f32" and on_cpu and not takes_list(row) then
    args[i] = core.tensor({ 1, 2 }):to("bf16")
    refused(name, args, ("%s: input %d is bf16 [2], needs f32"):format(name, i))
  elseif not on_cpu and needs[i] and i > list[1] then
    args[i] = core.tensor({ 1, 2 }):to("bf16")
    refused(name, args, ("%s: input %d is bf16, an earlier one f32"):format(name, i))
    args[i] = on("cpu", core.tensor, { 1, 2 })
    refused(name, args, ("%s: input %d is on cpu, an earlier one on %s"):format(name, i, device))
  end
  args[i] = "a string"
  refused(name, args, ("%s: input %d is a string, needs a tensor"):format(name, i))
  args[i] = array.tensor(good[i])
  args[i]:close()
  refused(name, args, ("%s: input %d has been released"):format(name, i))
end

local NEEDS <const> = { integer = "an integer", number = "a number" }

-- Attributes of a wrong type; all of them by name, which must give what they give by position.
local function check_attributes(name, row, good)
  local n_in, names = #row.inputs, {}
  local by_position, by_name = tensors_of(good), {}
  for k, attribute in ipairs(row.attributes) do
    local args = tensors_of(good)
    args.n = math.max(args.n, n_in + k)
    args[n_in + k] = true
    refused(name, args, ("%s: %s is true, needs %s"):format(name, attribute.name,
      NEEDS[attribute.kind] or table.concat(attribute.names, " or ")))
    names[k], by_name[attribute.name] = attribute.name, by_position[n_in + k]
  end
  if #names == 0 then return end
  local args = table.move(by_position, 1, n_in, 1, { n = n_in + 1 })
  args[n_in + 1] = by_name
  compare(name .. " by name", array.of(call(name, by_position)), array.of(call(name, args)), 0)
  by_name.nothing = 1
  refused(name, args, ("%s: no attribute 'nothing', has %s"):format(name,
    table.concat(names, ", ")))
end

local function check_errors(name, spec, row)
  local scope <close> = core.scope() -- luacheck: ignore scope
  local good = spec.samples[1]
  local _, n_inputs = float_inputs(row, good)
  refused(name, { n = 0 }, name .. ": input 1 is a ")
  for _, wrong in ipairs(spec.wrong or {}) do refused(name, tensors_of(wrong), wrong.says) end
  for i = 1, n_inputs do
    if good[i] then check_input(name, row, good, i) end
  end
  check_attributes(name, row, good)
  if takes_list(row) then return end
  local args, most = tensors_of(good), n_inputs + #row.attributes
  args.n = most + 1
  args[args.n] = 1
  refused(name, args, ("%s: %d arguments, takes %d"):format(name, most + 1, most))
end

--- Declares the checks of one family.
-- @tparam string family the file's name
-- @tparam table ops operator name -> spec
function walker.check(family, ops)
  local names = {}
  for name in pairs(ops) do names[#names + 1] = name end
  table.sort(names)
  describe("operators of " .. family .. ".c", function()
    local poison
    before_each(function() poison = core.poison(true) end)
    after_each(function()
      core.poison(poison)
      core.fail_alloc(0)
    end)
    for _, name in ipairs(names) do
      local spec, row = ops[name], assert(rows[name], "no operator " .. name)
      describe(name, function()
        it("gives the reference's values and gradients", function()
          for _, args in ipairs(spec.samples) do check_sample(name, spec, row, args) end
        end)
        it("refuses what does not fit, by name", function() check_errors(name, spec, row) end)
        local cases = {}
        for case in pairs(spec.cases or {}) do cases[#cases + 1] = case end
        table.sort(cases)
        if on_cpu and spec.on_cpu then -- what the CPU alone can do, or does in its own way
          for case, f in pairs(spec.on_cpu) do it(case, f) end
        end
        for _, case in ipairs(cases) do it(case, spec.cases[case]) end
      end)
    end
  end)
  return ops
end

return walker
