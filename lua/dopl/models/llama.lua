--- models/llama.lua - the Llama family: RMSNorm, rotary positions, grouped heads, gated MLP.
-- @module dopl.models.llama

local decoder = require "dopl.models.decoder"
local json = require "dopl.util.json"

return decoder.family {
  name = "llama",

  defaults = {
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
  },

  body = function(c)
    return { norm = "rms", gated = true, mlp_size = c.intermediate_size, kv_heads = c.kv_heads,
      rope_base = c.rope_base, tied = c.tie_embeddings, recompute = c.checkpoint_layers }
  end,

  weights = {
    prefix = "model.",
    embedding = "model.embed_tokens",
    block = "model.layers.%d.",
    attention_norm = "input_layernorm",
    qkv = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" },
    out = "self_attn.o_proj",
    mlp_norm = "post_attention_layernorm",
    up = { "mlp.gate_proj", "mlp.up_proj" },
    down = "mlp.down_proj",
    norm = "model.norm",
    head = "lm_head",
    buffers = { "rotary_emb%.inv_freq$" },
  },

  keys = {
    num_hidden_layers = "n_layers", num_attention_heads = "heads", num_key_value_heads = "kv_heads",
    rope_theta = "rope_base", rms_norm_eps = "norm_eps", tie_word_embeddings = "tie_embeddings",
    initializer_range = "init_std",
  },
  types = { llama = true, mistral = true },
  same = { "hidden_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps", "rope_theta" },
  values = { hidden_act = { "silu", "swish" }, sliding_window = { json.null },
    partial_rotary_factor = { 1.0 } },
}
