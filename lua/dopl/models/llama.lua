--- models/llama.lua - the Llama architecture: RMSNorm, rotary positions, grouped heads, gated MLP.
--
-- Queries, keys and values are one matrix, gate and up another: one product each. In files they are
-- Hugging Face's separate matrices; export and import cut and join rows.
-- @module dopl.models.llama

local core = require "dopl.core"
local check = require "dopl.util.check"
local hugging_face = require "dopl.models.hugging_face"
local nn = require "dopl.nn"

local op = core.ops
local llama = {}
local Llama = {}
Llama.__index = Llama
Llama.__tostring = nn.describe

llama.defaults = {
  architecture = "llama",
  dtype = "f32", -- what the weights are stored as, "f32" or "bf16"
  vocab_size = 2048,
  hidden_size = 128,
  n_layers = 4,
  heads = 4,
  kv_heads = 4,
  intermediate_size = 344,
  rope_base = 10000,
  norm_eps = 1e-5,
  tie_embeddings = true,
  init_std = 0.02,
  checkpoint_layers = false, -- recompute each layer in the backward instead of keeping it
}

local function new_layer(p, c, i, head_dim)
  local name = ("layers.%d."):format(i)
  local residual_std = c.init_std / math.sqrt(2 * c.n_layers) -- of what adds to the residual stream
  return {
    attention_norm = p:constant(name .. "attention_norm", "norm", 1, c.hidden_size),
    qkv = p:normal(name .. "qkv", "matrix", c.init_std, (c.heads + 2 * c.kv_heads) * head_dim,
      c.hidden_size),
    out = p:normal(name .. "out", "matrix", residual_std, c.hidden_size, c.heads * head_dim),
    mlp_norm = p:constant(name .. "mlp_norm", "norm", 1, c.hidden_size),
    gate_up = p:normal(name .. "gate_up", "matrix", c.init_std, 2 * c.intermediate_size,
      c.hidden_size),
    down = p:normal(name .. "down", "matrix", residual_std, c.hidden_size, c.intermediate_size),
  }
end

--- Makes a model with random weights.
-- @tparam table config fields of llama.defaults
-- @tparam integer seed
function llama.new(config, seed)
  local c = check.options("llama", config, llama.defaults)
  if c.hidden_size % c.heads ~= 0 or c.heads % c.kv_heads ~= 0 then
    error(("llama: hidden_size %d, heads %d, kv_heads %d: each must divide the one before")
      :format(c.hidden_size, c.heads, c.kv_heads), 2)
  end
  local p = nn.parameters(seed, c.dtype)
  local self = setmetatable({ config = c, parameters = p, head_dim = c.hidden_size // c.heads },
    Llama)
  self.embedding = p:normal("embedding", "embedding", c.init_std, c.vocab_size, c.hidden_size)
  self.layers = {}
  for i = 1, c.n_layers do self.layers[i] = new_layer(p, c, i, self.head_dim) end
  self.norm = p:constant("norm", "norm", 1, c.hidden_size)
  if not c.tie_embeddings then
    self.lm_head = p:normal("head", "head", c.init_std, c.vocab_size, c.hidden_size)
  end
  return self
end

local function attend(self, qkv, batch, cache)
  local c = self.config
  if not cache then return op.attention(qkv, batch.offsets, c.heads, c.kv_heads) end
  op.kv_store(cache, qkv, batch.where)
  if batch.offsets then return op.attention(qkv, batch.offsets, c.heads, c.kv_heads) end
  return op.kv_attention(qkv, cache, batch.where, c.heads, c.kv_heads)
end

local function run_layer(self, layer, h, batch, cache)
  local c = self.config
  local qkv = op.linear(op.rms_norm(h, layer.attention_norm, c.norm_eps), layer.qkv)
  qkv = op.rotary(qkv, batch.positions, c.heads + c.kv_heads, self.head_dim, c.rope_base)
  h = op.add(h, op.linear(attend(self, qkv, batch, cache), layer.out))
  local x = op.rms_norm(h, layer.mlp_norm, c.norm_eps)
  return op.add(h, op.linear(op.silu_mul(op.linear(x, layer.gate_up)), layer.down))
end

--- Final hidden states of packed tokens, normalised, ready for the head.
-- @tparam table batch i32 tensors ids, positions, offsets; with a cache also where [2, T] (slot and
-- position), and offsets nil in decoding
-- @tparam[opt] table cache from new_cache
-- @treturn tensor [T, C]
function Llama:hidden(batch, cache)
  local h = op.embedding(self.embedding, batch.ids)
  for i, layer in ipairs(self.layers) do
    local scope <close> = core.scope() -- the tape keeps what backward needs, and nothing else does
    local x = h
    local function run(input) return run_layer(self, layer, input, batch, cache and cache[i]) end
    h = scope:keep(self.config.checkpoint_layers and nn.checkpoint(run, x) or run(x))
  end
  return op.rms_norm(h, self.norm, self.config.norm_eps)
end

--- The matrix of the vocabulary, [V, C].
function Llama:head()
  return self.lm_head or self.embedding
end

--- Room for keys and values: one [slots, length, 2 kv_heads D] tensor a layer.
function Llama:new_cache(slots, length)
  local cache = {}
  for i = 1, #self.layers do
    cache[i] = nn.zeros_beside(self.norm, slots, length,
      2 * self.config.kv_heads * self.head_dim)
  end
  return cache
end

-- Each of our tensors and the Hugging Face names of its consecutive row blocks.
local function layout(self)
  local c, d = self.config, self.head_dim
  local rows = { { self.embedding, { "model.embed_tokens.weight", c.vocab_size } } }
  for i, layer in ipairs(self.layers) do
    local name = ("model.layers.%d."):format(i - 1)
    local function at(suffix, n) return { name .. suffix .. ".weight", n } end
    rows[#rows + 1] = { layer.attention_norm, at("input_layernorm", c.hidden_size) }
    rows[#rows + 1] = { layer.qkv, at("self_attn.q_proj", c.heads * d),
      at("self_attn.k_proj", c.kv_heads * d), at("self_attn.v_proj", c.kv_heads * d) }
    rows[#rows + 1] = { layer.out, at("self_attn.o_proj", c.hidden_size) }
    rows[#rows + 1] = { layer.mlp_norm, at("post_attention_layernorm", c.hidden_size) }
    rows[#rows + 1] = { layer.gate_up, at("mlp.gate_proj", c.intermediate_size),
      at("mlp.up_proj", c.intermediate_size) }
    rows[#rows + 1] = { layer.down, at("mlp.down_proj", c.hidden_size) }
  end
  rows[#rows + 1] = { self.norm, { "model.norm.weight", c.hidden_size } }
  if self.lm_head then rows[#rows + 1] = { self.lm_head, { "lm_head.weight", c.vocab_size } } end
  return rows
end

--- The weights under Hugging Face's names, sharing memory with the model's.
function Llama:export() return nn.export(layout(self)) end

-- Files of the model without its head leave out the first part of the names.
local function aliases_of(rows)
  local aliases = {}
  for _, row in ipairs(rows) do
    for i = 2, #row do
      local short = row[i][1]:match "^model%.(.*)"
      if short then aliases[short] = { own = row[i][1] } end
    end
  end
  return aliases
end

--- Overwrites the weights with those of a table of Hugging Face names, with or without `model.`.
function Llama:import(weights)
  local rows = layout(self)
  hugging_face.check_beside(weights, self.config)
  nn.import(rows, weights, "llama", {
    aliases = aliases_of(rows),
    buffers = { "rotary_emb%.inv_freq$" },
    copies = not self.lm_head and { ["lm_head.weight"] = "model.embed_tokens.weight" } or {},
    untied = "; tie_embeddings = false keeps both",
    hints = { ["lm_head.weight"] = "; with tie_embeddings = true the embedding is the head" },
  })
end

--- The gradients under Hugging Face's names; those of parameters that have none are left out.
function Llama:export_grads() return nn.export(layout(self), true) end

return llama
