--- nn/attention.lua - causal self-attention over packed sequences, with grouped heads.
--
-- Queries, keys and values are one matrix, `qkv`, whose parts are separate layers to adapters and
-- files where the family's files keep them apart; `out` projects what the heads found.
-- @module dopl.nn.attention

local check = require "dopl.util.check"
local core = require "dopl.core"
local layer = require "dopl.nn.layer"
local linear = require "dopl.nn.linear"

local op = core.ops
local attention = {}
local Attention = layer.class()

--- Makes an attention layer.
-- @tparam Parameters p the model's
-- @tparam string prefix of its layers' names: "layers.1." makes layers.1.qkv and layers.1.out
-- @tparam table options size of the input and output; heads, kv_heads, head_dim; rope_base of rotary
-- positions, nil for none; bias = false; std and out_std of the initial weights; parts of qkv: names
-- of queries, keys and values, or one name for all; out_part: the name of `out`
-- @treturn Attention called with x [T, size], a batch and a cache or nil
function attention.new(p, prefix, options)
  local o = check.options("nn.attention", options, { size = check.required, heads = check.required,
    kv_heads = check.required, head_dim = check.required, rope_base = check.optional, bias = false,
    std = check.required, out_std = check.required, parts = { "q", "k", "v" }, out_part = "out" })
  local self = layer.new(Attention, p, prefix .. "attention")
  self.heads, self.kv_heads, self.head_dim = o.heads, o.kv_heads, o.head_dim
  self.rope_base = o.rope_base
  local own, shared = o.heads * o.head_dim, o.kv_heads * o.head_dim
  local rows = #o.parts == 1 and { own + 2 * shared } or { own, shared, shared }
  local parts = {}
  for i, name in ipairs(o.parts) do parts[i] = { name = name, rows = rows[i] } end
  self.qkv = linear.new(p, prefix .. "qkv", { inputs = o.size, outputs = own + 2 * shared, std = o.std,
    bias = o.bias, parts = parts })
  self.out = linear.new(p, prefix .. "out", { inputs = own, outputs = o.size, std = o.out_std,
    bias = o.bias, parts = { { name = o.out_part, rows = o.size } } })
  self.inner = { self.qkv, self.out }
  return self
end

-- Whole sequences attend to themselves; single tokens to what the cache has of their sequence.
local function attend(self, qkv, batch, cache)
  if cache then op.kv_store(cache, qkv, batch.where) end
  if batch.offsets then return op.attention(qkv, batch.offsets, self.heads, self.kv_heads) end
  return op.kv_attention(qkv, cache, batch.where, self.heads, self.kv_heads)
end

function Attention:forward(x, batch, cache)
  local qkv = self.qkv(x)
  if self.rope_base then
    qkv = op.rotary(qkv, batch.positions, self.heads + self.kv_heads, self.head_dim, self.rope_base)
  end
  return self.out(attend(self, qkv, batch, cache))
end

--- Room for keys and values of generation, in the type of the activations: f32 on the CPU, elsewhere
-- the weights'.
-- @tparam integer slots sequences
-- @tparam integer length tokens of each
-- @treturn tensor [slots, length, 2 kv_heads head_dim]
function Attention:new_cache(slots, length)
  local weight = self.qkv.weight
  local zeros = core.zeros(slots, length, 2 * self.kv_heads * self.head_dim)
  if weight:device() == "cpu" or weight:dtype() == "f32" then return zeros end
  local given <close> = zeros
  return given:to(weight:dtype())
end

return attention
