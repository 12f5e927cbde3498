--- models/gpt2.lua - the GPT-2 family: learned positions, LayerNorm with bias, a GELU MLP, dropout.
--
-- Matrices are [out, in] here as everywhere in dopl; Hugging Face's GPT-2 files hold them transposed
-- (Conv1D). import takes those files and dopl's own; export is for dopl's own folders.
-- @module dopl.models.gpt2

local decoder = require "dopl.models.decoder"

return decoder.family {
  name = "gpt2",

  defaults = {
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
    checkpoint_layers = false, -- recompute each layer in the backward instead of keeping it
  },

  body = function(c)
    return { norm = "layer", gated = false, mlp_size = 4 * c.hidden_size, kv_heads = c.heads,
      bias = true, learned_positions = c.max_positions, tied = true, dropout = c.dropout,
      recompute = c.checkpoint_layers }
  end,

  weights = {
    prefix = "transformer.",
    embedding = "transformer.wte",
    positions = "transformer.wpe",
    block = "transformer.h.%d.",
    attention_norm = "ln_1",
    qkv = "attn.c_attn",
    out = "attn.c_proj",
    mlp_norm = "ln_2",
    up = "mlp.c_fc",
    down = "mlp.c_proj",
    norm = "transformer.ln_f",
    head = "lm_head",
    transposed = true,
    own_names = true,
    buffers = { "h%.%d+%.attn%.bias$", "h%.%d+%.attn%.masked_bias$" },
  },

  keys = {
    n_embd = "hidden_size", n_layer = "n_layers", n_head = "heads", n_positions = "max_positions",
    layer_norm_epsilon = "norm_eps", initializer_range = "init_std",
  },
  types = { gpt2 = true },
  same = { "n_embd", "n_layer", "n_head", "layer_norm_epsilon" },
  values = { activation_function = { "gelu_new", "gelu_pytorch_tanh" },
    scale_attn_weights = { true }, scale_attn_by_inverse_layer_idx = { false } },
}
