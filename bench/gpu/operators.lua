--- operators.lua - single operators: the norm, a GELU MLP, attention, the head with its loss.
--
-- The gradient of an operator is timed with an input that is not a parameter, as inside a model. The
-- time of the graph without the operator is subtracted.

local core = require "dopl.core"
local samples = require "samples"
local work = require "gpu.work"

local op = core.ops

local function bf16(p, stream, std, ...)
  return core.randn(p.seed, stream, std, ...):to "bf16"
end

-- Seconds of apply(x), and of its backward, for x like `leaf` and the gradient dy.
local function both(apply, leaf, dy, rounds)
  local rows = leaf:shape()[1]
  local dx = leaf:detach()
  local forward = work.time(function()
    local _ <close> = core.no_grad()
    apply(leaf)
  end, rounds)
  local whole = work.time(function()
    apply(op.slice(leaf, 0, rows)):backward(dy)
    leaf:set_grad(nil)
  end, rounds)
  local around = work.time(function()
    op.slice(leaf, 0, rows):backward(dx)
    leaf:set_grad(nil)
  end, rounds)
  return forward, whole - around - forward
end

local function norm(p, size, roofline)
  local _ <close> = core.scope()
  local rows, c = size.norm_rows, size.width
  local theirs = work.ask(p, "norm", { rows = rows, width = c })
  local x, dy = bf16(p, 1, 1.0, rows, c):requires_grad(true), bf16(p, 2, 1.0, rows, c)
  local w = bf16(p, 3, 1.0, c):requires_grad(true)
  local forward, backward = both(function(t) return op.rms_norm(t, w, 1e-5) end, x, dy, p.rounds)
  for i, seconds in ipairs { forward, backward } do
    local bytes = (i + 1) * 2 * rows * c -- x and y; x, dy and dx
    work.row("rms_norm " .. (i == 1 and "forward" or "backward"), ("%.1f us, %.0f GB/s, %.2f of copy")
      :format(1e6 * seconds, bytes / seconds / 1e9, bytes / seconds / roofline.bandwidth))
  end
  work.versus("norm forward", forward, theirs.forward)
  work.versus("norm backward", backward, theirs.backward, 1.8)
end

-- Six products of the same size, and GELU between them: as part of products, and by itself.
local function mlp(p, size, roofline)
  local _ <close> = core.scope()
  local rows, c, f = size.rows, size.width, 4 * size.width
  local theirs = work.ask(p, "mlp", { rows = rows, width = c })
  local dy = bf16(p, 1, 1.0, rows, c)
  local inputs = { bf16(p, 2, 1.0, rows, c), bf16(p, 3, 0.02, f, c), bf16(p, 4, 0.02, f),
    bf16(p, 5, 0.02, c, f), bf16(p, 6, 0.02, c) }
  for _, t in ipairs(inputs) do t:requires_grad(true) end
  local function seconds_of(apply)
    return work.time(function()
      apply(table.unpack(inputs)):backward(dy)
      for _, t in ipairs(inputs) do t:set_grad(nil) end
    end, p.rounds)
  end
  local seconds = seconds_of(op.mlp)
  local apart = seconds_of(function(x, w1, b1, w2, b2)
    return op.linear(op.gelu(op.linear(x, w1, b1)), w2, b2)
  end)
  work.row("GELU MLP, both ways", ("%.3f ms, %.2f of products"):format(1e3 * seconds,
    12 * rows * c * f / seconds / roofline.rate))
  work.row("  with GELU apart", ("%.3f ms, %.2f times that"):format(1e3 * apart, apart / seconds),
    apart / seconds, 1)
  work.versus("GELU MLP, both ways", seconds, theirs.seconds)
end

-- Operations as FlashAttention counts them: two products forward, five backward, half of each.
local function attention(p, size, head_dim, length)
  local _ <close> = core.scope()
  local heads, n = math.max(1, size.width // head_dim), math.max(1, size.rows // length)
  local width, rows = heads * head_dim, n * length
  local theirs = work.ask(p, "attention",
    { batch = n, heads = heads, length = length, width = head_dim })
  local offsets = {}
  for i = 0, n do offsets[i + 1] = i * length end
  local where = core.i32(offsets)
  local qkv = bf16(p, 1, 1.0, rows, 3 * width):requires_grad(true)
  local dy = bf16(p, 2, 1.0, rows, width)
  local forward, backward = both(function(t) return op.attention(t, where, heads, heads) end, qkv, dy,
    p.rounds)
  local flops = 2 * n * length ^ 2 * width
  local rate = 3.5 * flops / (forward + backward) / 1e12
  work.row(("attention, %d x %d tokens, heads of %d"):format(n, length, head_dim),
    ("%.1f us, %.1f back"):format(1e6 * forward, 1e6 * backward))
  work.row("  TFLOP/s, both ways", ("%.0f"):format(rate), rate, length == 512 and 150 or nil)
  work.versus("attention, both ways", forward + backward, theirs.seconds)
end

local function head(p, size, roofline)
  local _ <close> = core.scope()
  local batch = require("dopl.data.batch").pack(samples(p.seed, size.vocab, size.samples[1]))
  local n, longest = batch.n_labels, 0
  for s = 1, batch.n_samples do
    longest = math.max(longest, batch.offsets[s + 1] - batch.offsets[s])
  end
  local padded = batch.n_samples * longest
  local theirs = work.ask(p, "head",
    { rows = padded, labelled = n, width = size.width, vocab = size.vocab })
  local x = bf16(p, 1, 1.0, n, size.width):requires_grad(true)
  local weight = bf16(p, 2, 0.02, size.vocab, size.width):requires_grad(true)
  local every, labels = {}, core.i32(batch.labels)
  for i = 1, n do every[i] = i - 1 end
  local rows = core.i32(every)
  local before = core.memory("cuda").live
  core.reset_peak()
  local seconds = work.time(function()
    (-op.vocab(x, weight, rows, labels):select(0):mean()):backward()
    x:set_grad(nil)
    weight:set_grad(nil)
  end, p.rounds)
  local bytes = core.memory("cuda").peak - before
  local flops = 6 * n * size.width * size.vocab
  work.row(("head and loss, both ways, %d rows"):format(n), ("%.3f ms, %.2f of products, %.2f GiB")
    :format(1e3 * seconds, flops / seconds / roofline.rate, bytes / 2 ^ 30))
  work.versus(("%d padded rows"):format(padded), seconds, theirs.seconds, 3)
  if theirs.bytes then
    work.row("  PyTorch's memory for it", ("%.2f GiB, %.1f times ours"):format(theirs.bytes / 2 ^ 30,
      theirs.bytes / bytes), theirs.bytes / bytes, 5)
  end
end

return function(p, size, roofline)
  norm(p, size, roofline)
  mlp(p, size, roofline)
  for _, head_dim in ipairs { 64, 128 } do
    for _, length in ipairs(size.rows < 512 and { 32 } or { 128, 256, 512 }) do
      attention(p, size, head_dim, length)
    end
  end
  head(p, size, roofline)
end
