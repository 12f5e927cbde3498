--- models/gpt2.lua - the GPT-2 family: learned positions, LayerNorm with bias, a GELU MLP, dropout.
--
-- Matrices are [out, in] here as everywhere in dopl; Hugging Face's GPT-2 files hold them transposed
-- (Conv1D). import takes those files and dopl's own; export is for dopl's own folders.
-- @module dopl.models.gpt2

local core = require "dopl.core"
local check = require "dopl.util.check"
local hugging_face = require "dopl.models.hugging_face"
local nn = require "dopl.nn"

local op = core.ops
local gpt2 = {}
local GPT2 = {}
GPT2.__index = GPT2
GPT2.__tostring = nn.describe

gpt2.defaults = {
  architecture = "gpt2",
  dtype = "f32", -- what the weights are stored as, "f32" or "bf16"
  vocab_size = 2048,
  hidden_size = 128,
  n_layers = 4,
  heads = 4,
  max_positions = 1024,
  norm_eps = 1e-5,
  init_std = 0.02,
  dropout = 0.0, -- on embeddings and on both residual branches, while model.dropout_seed is set
}

local function new_layer(p, c, i)
  local name, n = ("layers.%d."):format(i), c.hidden_size
  local residual_std = c.init_std / math.sqrt(2 * c.n_layers)
  local function dense(suffix, rows, cols, std)
    return { weight = p:normal(name .. suffix, "matrix", std, rows, cols),
      bias = p:constant(name .. suffix .. ".bias", "bias", 0, rows) }
  end
  local function norm(suffix)
    return { weight = p:constant(name .. suffix, "norm", 1, n),
      bias = p:constant(name .. suffix .. ".bias", "bias", 0, n) }
  end
  return {
    attention_norm = norm "attention_norm",
    qkv = dense("qkv", 3 * n, n, c.init_std),
    out = dense("out", n, n, residual_std),
    mlp_norm = norm "mlp_norm",
    up = dense("up", 4 * n, n, c.init_std),
    down = dense("down", n, 4 * n, residual_std),
  }
end

--- Makes a model with random weights.
-- @tparam table config fields of gpt2.defaults
-- @tparam integer seed
function gpt2.new(config, seed)
  local c = check.options("gpt2", config, gpt2.defaults)
  if c.hidden_size % c.heads ~= 0 then
    error(("gpt2: hidden_size %d is no multiple of heads %d"):format(c.hidden_size, c.heads), 2)
  end
  local p = nn.parameters(seed, c.dtype)
  local self = setmetatable({ config = c, parameters = p, draws = 0 }, GPT2)
  self.embedding = p:normal("embedding", "embedding", c.init_std, c.vocab_size, c.hidden_size)
  self.positions = p:normal("positions", "embedding", c.init_std, c.max_positions, c.hidden_size)
  self.layers = {}
  for i = 1, c.n_layers do self.layers[i] = new_layer(p, c, i) end
  self.norm = p:constant("norm", "norm", 1, c.hidden_size)
  self.norm_bias = p:constant("norm.bias", "bias", 0, c.hidden_size)
  return self
end

local function drop(self, x)
  if self.config.dropout == 0 or not self.dropout_seed then return x end
  self.draws = self.draws + 1
  return op.dropout(x, self.config.dropout, self.dropout_seed, self.draws)
end

local function dense(x, layer) return op.linear(x, layer.weight, layer.bias) end

local function normalise(self, x, layer)
  return op.layer_norm(x, layer.weight, layer.bias, self.config.norm_eps)
end

local function attend(self, qkv, batch, cache)
  local heads = self.config.heads
  if cache then op.kv_store(cache, qkv, batch.where) end
  if batch.offsets then return op.attention(qkv, batch.offsets, heads, heads) end
  return op.kv_attention(qkv, cache, batch.where, heads, heads)
end

--- Final hidden states of packed tokens (dopl.models).
function GPT2:hidden(batch, cache)
  local h = drop(self, op.add(op.embedding(self.embedding, batch.ids),
    op.embedding(self.positions, batch.positions)))
  for i, layer in ipairs(self.layers) do
    local scope <close> = core.scope()
    local qkv = dense(normalise(self, h, layer.attention_norm), layer.qkv)
    local x = op.add(h, drop(self, dense(attend(self, qkv, batch, cache and cache[i]), layer.out)))
    h = scope:keep(op.add(x, drop(self, op.mlp(normalise(self, x, layer.mlp_norm),
      layer.up.weight, layer.up.bias, layer.down.weight, layer.down.bias))))
  end
  return op.layer_norm(h, self.norm, self.norm_bias, self.config.norm_eps)
end

--- The matrix of the vocabulary, [V, C].
function GPT2:head() return self.embedding end

--- Room for keys and values: one [slots, length, 2 C] tensor a layer.
function GPT2:new_cache(slots, length)
  local cache = {}
  for i = 1, #self.layers do
    cache[i] = nn.zeros_beside(self.norm, slots, length, 2 * self.config.hidden_size)
  end
  return cache
end

local function layout(self)
  local rows = {}
  for i, p in ipairs(self.parameters) do rows[i] = { p.tensor, { p.name, p.tensor:shape(1) } } end
  return rows
end

function GPT2:export() return nn.export(layout(self)) end
function GPT2:export_grads() return nn.export(layout(self), true) end

-- Hugging Face's names in a layer and ours; weights of `dense` are transposed in the files.
local LAYER <const> = {
  ln_1 = "attention_norm", ["attn.c_attn"] = "qkv", ["attn.c_proj"] = "out", ln_2 = "mlp_norm",
  ["mlp.c_fc"] = "up", ["mlp.c_proj"] = "down",
}

-- Files of the model with a head begin all names but the head's with `transformer.`.
local function aliases_of(self)
  local aliases = {}
  local function add(name, own, transposed)
    aliases[name] = { own = own, transposed = transposed }
    aliases["transformer." .. name] = aliases[name]
  end
  local function pair(name, own, transposed)
    add(name .. ".weight", own, transposed)
    add(name .. ".bias", own .. ".bias")
  end
  add("wte.weight", "embedding")
  add("wpe.weight", "positions")
  for i = 1, self.config.n_layers do
    for theirs, ours in pairs(LAYER) do
      pair(("h.%d.%s"):format(i - 1, theirs), ("layers.%d.%s"):format(i, ours), theirs:find "c_")
    end
  end
  pair("ln_f", "norm")
  return aliases
end

--- Overwrites the weights with those of a table of Hugging Face names, with or without
-- `transformer.`, or of the names that export gives.
function GPT2:import(weights)
  hugging_face.check_beside(weights, self.config)
  nn.import(layout(self), weights, "gpt2", {
    aliases = aliases_of(self),
    buffers = { "h%.%d+%.attn%.bias$", "h%.%d+%.attn%.masked_bias$" },
    copies = { ["lm_head.weight"] = "embedding" },
  })
end

return gpt2
