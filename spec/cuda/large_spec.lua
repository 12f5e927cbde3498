-- large_spec.lua - tensors of more than 2^32 elements have the same ends as small ones.
--
-- On a GPU with room for them, and on the emulator with DOPL_EMULATOR_SPARSE=1 (spec/cuda/README.md).
-- That mode computes only the ends of tensors, and no products of matrices. Other memory is 0 there.
local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"

local op = core.ops
local about = select(2, core.device())
local here = tonumber(about:match ", (%d+) GiB,") > 100

local function ones(...)
  return core.zeros(...):to("bf16"):fill(1)
end

local function parameter(...)
  return ones(...):requires_grad(true)
end

-- Of another operator, so that the gradient has the type of the value.
local function result(...)
  return op.view(parameter(...), ...)
end

local function indices(n, f)
  local list = {}
  for i = 1, n do list[i] = f(i - 1) end
  return list
end

local function last(t)
  return t:at(t:numel())
end

-- The last number of op(x, ...) and of the gradient of x, an operator's result of `shape`.
local function ends_of(name, shape, ...)
  local leaf = parameter(table.unpack(shape))
  local y = op[name](op.view(leaf, table.unpack(shape)), ...)
  local value = last(y)
  y:backward(ones(table.unpack(y:shape())))
  return { value, last(leaf:grad()) }
end

-- Each is given a number of rows, and returns numbers that do not depend on it.
local T <const> = 90112
local cases = {
  { "gelu", T, function(rows) return ends_of("gelu", { rows, 57344 }) end },
  { "silu_mul", T, function(rows) return ends_of("silu_mul", { rows, 57344 }) end },
  { "a product with a column", T, function(rows)
    return ends_of("mul", { rows, 57344 }, ones(rows, 1))
  end },
  { "a sum with a row that is off 16 bytes", T, function(rows)
    return ends_of("add", { rows, 57343 }, parameter(57343))
  end },
  { "softmax", T, function(rows) return ends_of("softmax", { rows, 50257 }) end },
  { "log_softmax", T, function(rows) return ends_of("log_softmax", { rows, 50256 }) end },
  { "rms_norm", 6 * T, function(rows)
    return ends_of("rms_norm", { rows, 8192 }, parameter(8192), 1e-5)
  end },
  { "layer_norm", 6 * T, function(rows)
    return ends_of("layer_norm", { rows, 8191 }, parameter(8191), parameter(8191), 1e-5)
  end },
  { "rotary", 5 * T, function(rows)
    local positions = core.i32(indices(rows, function() return 7 end))
    return ends_of("rotary", { rows, 10240 }, positions, 72, 128, 1e6)
  end },
  { "sum_last", T, function(rows) return ends_of("sum_last", { rows, 57344 }) end },
  { "slice", T, function(rows) return ends_of("slice", { rows, 57344 }, rows - 3, 3) end },
  { "select", T, function(rows) return ends_of("select", { rows, 57344 }, rows - 1) end },
  { "embedding", 3 * T + 7, function(rows)
    local picked = core.i32(indices(1024, function(i) return i < 1023 and i % 50 or rows - 1 end))
    return ends_of("embedding", { rows, 16384 }, picked)
  end },
  { "linear", 3 * T + 7, function(rows) -- of so few rows that no library multiplies
    return { last(op.linear(ones(2, 16384), ones(rows, 16384))) }
  end },
  { "vocab", 3 * T, function(rows)
    local at = core.i32(indices(256, function(i) return i end))
    local y = op.vocab(result(256, 16384), parameter(rows, 16384), at, at)
    y:backward(core.zeros(table.unpack(y:shape())):fill(1))
    return {}
  end },
  { "attention", 6 * T, function(rows)
    local heads, cols = 24, 128
    local offsets = indices(rows // 16 - 7, function(i) return 16 * i end)
    offsets[#offsets + 1] = rows -- the longest is the last one: its tiles come first
    local leaf = parameter(rows, 3 * heads * cols)
    local y = op.attention(op.view(leaf, rows, 3 * heads * cols), core.i32(offsets), heads, heads)
    y:backward(ones(table.unpack(y:shape())))
    local function first_of_row(t, column)
      return t:at(t:numel() - t:shape()[2] + 1 + column)
    end
    return { first_of_row(y, 0), first_of_row(leaf:grad(), 2 * heads * cols) }
  end },
  { "a cache of keys and values", T // 2, function(rows)
    local width, length, slots = 2 * 8 * 128, 32768, rows // 128
    local cache, row = core.zeros(slots, length, width):to "bf16", ones(1, 32 * 128 + width)
    local where = core.i32 { { slots - 1 }, { 3 } }
    op.kv_store(cache, row, where)
    return { cache:at(((slots - 1) * length + 3) * width + width), last(op.kv_attention(row, cache,
      where, 32, 8)) }
  end },
  { "argmax", 32768, function(rows)
    local x = ones(rows, 152064)
    op.slice(x, rows - 1, 1):copy(core.zeros(1, 152064):to "bf16")
    op.view(op.slice(op.view(x, rows * 152064), rows * 152064 - 2, 1), 1):fill(2)
    return { last(op.argmax(x)) }
  end },
  { "a transpose", 3 * T, function(rows)
    return { last(core.optim.transpose(core.zeros(16384, rows):fill(1))) }
  end },
}

describe("tensors of more than 2^32 elements", function()
  for _, case in ipairs(cases) do
    local name, rows, run = table.unpack(case)
    it("end as small ones do: " .. name, function()
      if not here then return pending "no 100 GiB" end
      local scope <close> = core.scope() -- luacheck: ignore scope
      local small = run(256)
      collectgarbage()
      local large = run(rows)
      for i, wanted in ipairs(small) do assert.near(wanted, large[i], 1e-6 * math.abs(wanted)) end
    end)
    collectgarbage()
  end

  for _, storage in ipairs { "f32", "8bit", "bf16" } do
    it("take a step with states in " .. storage, function()
      if not here then return pending "no 100 GiB" end
      local w = core.zeros(3 * T, 16384):requires_grad(true)
      w:set_grad(core.zeros(3 * T, 16384))
      local o = optim.adamw { lr = 1e-3 }:with(scheme.shared { storage = storage })
        :attach { { name = "w", tensor = w, kind = "matrix" } }
      o:step()
      assert.equal(0, last(w))
    end)
  end
end)
