-- vocab_spec.lua - the fused vocabulary head, in one chunk of logits and in many.
local array = require "op.array"
local walker = require "op.walker"
local core = require "dopl.core"

local log, exp = math.log, math.exp

-- Log-probabilities of softmax(hidden[row] weight^T), an array of V.
local function log_probabilities(hidden, weight, row)
  local V, C = weight.shape[1], weight.shape[2]
  local z, top, sum = {}, -math.huge, 0.0
  for v = 1, V do
    local s = 0.0
    for c = 1, C do s = s + hidden[row * C + c] * weight[(v - 1) * C + c] end
    z[v], top = s, math.max(top, s)
  end
  for v = 1, V do sum = sum + exp(z[v] - top) end
  local lse = top + log(sum)
  for v = 1, V do z[v] = z[v] - lse end
  return z, lse
end

local function vocab(hidden, weight, rows, labels, eps)
  local n, V = #rows, weight.shape[1]
  local y = array.zeros { 4, n }
  for i = 1, n do
    local logp, lse = log_probabilities(hidden, weight, rows[i])
    local mean, entropy = 0.0, 0.0
    for v = 1, V do
      mean = mean + log(exp(logp[v]) + (eps or 0)) / V
      entropy = entropy - exp(logp[v]) * logp[v]
    end
    y[i], y[n + i], y[2 * n + i], y[3 * n + i] = logp[labels[i] + 1], lse, mean, entropy
  end
  return y
end

local function vocab_kl(hidden, weight, rows, ref_hidden, ref_weight)
  return array.new({ #rows }, function(i)
    local p = log_probabilities(hidden, weight, rows[i])
    local r, kl = log_probabilities(ref_hidden, ref_weight, i - 1), 0.0
    for v = 1, #p do kl = kl + exp(r[v]) * (r[v] - p[v]) end
    return kl
  end)
end

local fill, index, zeros = array.fill, array.index, array.zeros

local function sample(T, C, V, rows, labels)
  return { fill({ T, C }, 0, 1, 1), fill({ V, C }, 0, 1, 2), index(rows), index(labels) }
end

-- The same with logits `scale` times as far apart, and eps.
local function smoothed(T, C, V, rows, labels, eps, scale)
  return { fill({ T, C }, 0, scale, 1), fill({ V, C }, 0, 1, 2), index(rows), index(labels), eps }
end

local function kl_sample(T, C, V, rows, ref_C)
  return { fill({ T, C }, 0, 1, 1), fill({ V, C }, 0, 1, 2), index(rows),
    fill({ #rows, ref_C }, 0, 1, 3), fill({ V, ref_C }, 0, 1, 4) }
end

-- Values and gradients with room for `bytes` of logits at a time.
local function run(name, args, bytes)
  local before = core.vocab_chunk(bytes)
  local t = {}
  for i, a in ipairs(args) do t[i] = type(a) == "table" and array.tensor(a) or a end
  t[1]:requires_grad(true)
  t[2]:requires_grad(true)
  local y = core.ops[name](table.unpack(t))
  local shape = y:shape()
  y:backward(array.tensor(array.fill(shape, 0, 1, 50)))
  core.vocab_chunk(before)
  return array.of(y), array.of(t[1]:grad()), array.of(t[2]:grad())
end

-- The number of chunks changes rounding alone: sums over labels are cut elsewhere.
local function chunked(name, args, V)
  return function()
    local value, dhidden, dweight = run(name, args, 1 << 27)
    for _, rows in ipairs { 1, 2, 3, 4, 6 } do
      local v, dh, dw = run(name, args, rows * V * 4)
      walker.compare(name .. ": values", value, v, 1e-6)
      walker.compare(name .. ": gradient of hidden", dhidden, dh, 2e-6)
      walker.compare(name .. ": gradient of weight", dweight, dw, 2e-6)
    end
  end
end

-- n indices, `step` apart, below 40.
local function upto(n, step)
  local list = {}
  for i = 1, n do list[i] = i * step % 40 end
  return list
end

local small <const> = sample(6, 5, 11, { 0, 2, 2, 5, 4, 2, 1 }, { 3, 0, 10, 10, 5, 0, 7 })
local small_kl <const> = kl_sample(6, 5, 11, { 0, 2, 2, 5, 4, 2, 1 }, 4)
local h <const>, w <const> = zeros { 3, 4 }, zeros { 7, 4 }

return walker.check("vocab", {
  vocab = {
    reference = vocab, elements = 4,
    samples = {
      small, sample(1, 1, 1, { 0 }, { 0 }), sample(3, 4, 1025, { 2, 0 }, { 1024, 512 }),
      sample(40, 3, 600, upto(31, 2), upto(31, 19)),
      sample(3, 4, 5, {}, {}),
      smoothed(6, 5, 11, { 0, 2, 2, 5, 4, 2, 1 }, { 3, 0, 10, 10, 5, 0, 7 }, 1e-2, 1),
      smoothed(3, 4, 1025, { 2, 0 }, { 1024, 512 }, 1e-4, 3),
      smoothed(1, 1, 1, { 0 }, { 0 }, 0.5, 1), smoothed(3, 4, 5, {}, {}, 1e-12, 1),
    },
    wrong = {
      { h, zeros { 7, 5 }, index { 0 }, index { 0 },
        says = "vocab: hidden [3, 4] and weight [7, 5], need [T, C] and [V, C]" },
      { h, zeros { 0, 4 }, index {}, index {}, says = "vocab: hidden [3, 4] and weight [0, 4]" },
      { h, w, index { 0, 1 }, index { 0 },
        says = "vocab: rows [2] and labels [1], need [n] and [n]" },
      { h, w, index { 3 }, index { 0 }, says = "vocab: rows: index 3 at 0, needs 0 to 2" },
      { h, w, index { 0 }, index { 7 }, says = "vocab: labels: index 7 at 0, needs 0 to 6" },
      { h, w, index { 0 }, index { 0 }, -1e-12, says = "vocab: eps = -1e-12, needs 0, or 1e-30 to 1" },
      { h, w, index { 0 }, index { 0 }, 0 / 0, says = "nan, needs 0, or 1e-30 to 1" },
    },
    cases = {
      ["gives the same in any number of chunks"] = chunked("vocab", small, 11),
      ["gives the same with eps in any number of chunks"] = chunked("vocab",
        smoothed(6, 5, 11, { 0, 2, 2, 5, 4, 2, 1 }, { 3, 0, 10, 10, 5, 0, 7 }, 1e-3, 2), 11),
      ["has a floor of log(eps) where eps is above the probability"] = function()
        -- logits 0, 0, 0 and 200: probabilities e^-200 and 1, in closed form
        local hidden = { shape = { 1, 1 }, 1 }
        local weight = { shape = { 4, 1 }, 0, 0, 0, 200 }
        local args = { hidden, weight, index { 0 }, index { 3 }, 1e-12 }
        local y, dhidden, dweight = run("vocab", args, 1 << 20)
        assert.near(3 / 4 * log(1e-12), y[3], 1e-5)
        for _, list in ipairs { dhidden, dweight } do
          for _, v in ipairs(list) do assert.is_true(v == v and math.abs(v) < 300) end
        end
        args[5] = 0
        assert.near(-3 / 4 * 200, (run("vocab", args, 1 << 20))[3], 1e-4)
      end,
      ["keeps no logits where nothing is recorded"] = function()
        local _ <close> = core.no_grad()
        local before = core.memory().live
        local t = {}
        for i, a in ipairs(small) do t[i] = array.tensor(a):detach() end
        local inputs = core.memory().live - before
        local y = core.ops.vocab(table.unpack(t))
        local itself <const> = 128 -- bytes that a tensor takes besides its elements; logits: 308
        assert.is_true(core.memory().live - before - inputs <= y:bytes() + itself)
      end,
      ["does not care about a constant in the logits"] = function()
        -- one more column, 1 in hidden and 300 in weight, adds 300 to every logit
        local args = sample(2, 3, 5, { 0, 1 }, { 1, 4 })
        for t = 0, 1 do args[1][3 * t + 3] = 1 end
        local function values(c)
          for v = 0, 4 do args[2][3 * v + 3] = c end
          return (run("vocab", args, 1 << 20))
        end
        local low, high = values(0), values(300)
        for _, i in ipairs { 1, 2, 5, 6, 7, 8 } do assert.near(low[i], high[i], 1e-4) end
        for _, i in ipairs { 3, 4 } do assert.near(low[i] + 300, high[i], 1e-4) end
      end,
      ["a NaN in hidden shows in its rows alone"] = function()
        local bad = array.copy(small[1])
        bad[1] = 0 / 0
        for _, eps in ipairs { 0, 1e-12 } do
          local y = core.ops.vocab(array.tensor(bad), array.tensor(small[2]),
            array.tensor(small[3]), array.tensor(small[4]), eps):tolist()
          for k = 1, 4 do assert.is_true(y[k][1] ~= y[k][1] and y[k][2] == y[k][2]) end
        end
      end,
      ["refuses a chunk of no bytes"] = function()
        assert.has_error(function() core.vocab_chunk(0) end)
      end,
    },
  },
  vocab_kl = {
    reference = vocab_kl, elements = 4, frozen = 2,
    samples = { small_kl, kl_sample(1, 1, 2, { 0 }, 1), kl_sample(3, 4, 1025, { 2, 0 }, 3),
      kl_sample(3, 4, 5, {}, 4) },
    wrong = {
      { h, zeros { 7, 5 }, index { 0 }, h, w, says = "vocab_kl: hidden [3, 4] and weight [7, 5]" },
      { h, w, index { 0 }, zeros { 1, 4 }, zeros { 7, 3 },
        says = "vocab_kl: hidden [1, 4] and weight [7, 3]" },
      { h, w, index { 0, 1 }, h, w, says = "vocab_kl: rows [2] and reference hidden [3, 4]" },
      { h, w, index { 0, 1, 3 }, h, w, says = "vocab_kl: rows: index 3 at 2, needs 0 to 2" },
      { h, w, index { 0, 1, 2 }, h, zeros { 8, 4 },
        says = "vocab_kl: weight [7, 4] and reference weight [8, 4], need one V" },
    },
    cases = {
      ["gives the same in any number of chunks"] = chunked("vocab_kl", small_kl, 2 * 11),
      ["is 0, without slope, between a model and itself"] = function()
        local args = { small[1], small[2], index { 0, 1, 2, 3, 4, 5 }, small[1], small[2] }
        local value, dhidden, dweight = run("vocab_kl", args, 1 << 20)
        for _, list in ipairs { value, dhidden, dweight } do
          for _, v in ipairs(list) do assert.near(0, v, 1e-6) end
        end
      end,
      ["says that the reference is frozen"] = function()
        local t = {}
        for i, a in ipairs(small_kl) do t[i] = array.tensor(a) end
        t[4]:requires_grad(true)
        local y = core.ops.sum(core.ops.vocab_kl(table.unpack(t)))
        local ok, message = pcall(y.backward, y)
        assert.is_false(ok)
        assert.truthy(message:find("vocab_kl: the reference is frozen", 1, true))
      end,
    },
  },
})
