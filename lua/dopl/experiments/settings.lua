--- experiments/settings.lua - the numbers of the small setting, found by the search of docs/bench.md.
--
-- If you change one, dopl trains the cached models again.
-- @module dopl.experiments.settings

return {
  vocab_size = 1024,
  checkpoint = 100, -- steps between checkpoints

  data = {
    authors = 20,
    questions = 10,
    forget_authors = 2, -- a task forgets one author in ten
    retain_rows = 400,  -- of TOFU's 3,960
    rows = 40,          -- of each evaluation set
  },

  unlearn = {
    steps = 300,
    adamw = { lr = 1e-3, betas = { 0.9, 0.95 }, eps = 1e-4, weight_decay = 0.01 },
  },

  -- the forget sets of the search; recipes report others, from 1 up
  tuning = { sets = { 6, 7, 8 } },

  -- the settings found, by forget loss and method; weight is that of the forget loss
  methods = {
    idk = {
      ["Joint"] = { lr = 5e-4, eps = 1e-4, weight = 1 },
      ["Alternate"] = { lr = 5e-4, eps = 1e-5, weight = 1 },
      ["DO"] = { lr = 1e-3, eps = 1e-4, weight = 1 },
      ["DO 8-bit"] = { lr = 1e-3, eps = 1e-4, weight = 1 },
      ["DO+"] = { lr = 1e-3, eps = 1e-5, weight = 1 },
      ["DO+ 8-bit"] = { lr = 1e-3, eps = 1e-4, weight = 1 },
    },
    dpo = {
      ["Joint"] = { lr = 5e-4, eps = 1e-4, weight = 0.1 },
      ["Alternate"] = { lr = 5e-4, eps = 1e-5, weight = 0.1 },
      ["DO"] = { lr = 1e-3, eps = 1e-4, weight = 0.1 },
      ["DO 8-bit"] = { lr = 1e-3, eps = 1e-4, weight = 0.1 },
      ["DO+"] = { lr = 1e-3, eps = 1e-5, weight = 0.1 },
      ["DO+ 8-bit"] = { lr = 1e-3, eps = 1e-5, weight = 0.1 },
    },
    me = {
      ["Joint"] = { lr = 5e-4, eps = 1e-4, weight = 0.1 },
      ["Alternate"] = { lr = 5e-4, eps = 1e-5, weight = 1 },
      ["DO"] = { lr = 1e-3, eps = 1e-4, weight = 0.1 },
      ["DO 8-bit"] = { lr = 1e-3, eps = 1e-4, weight = 0.1 },
      ["DO+"] = { lr = 5e-4, eps = 1e-5, weight = 0.1 },
      ["DO+ 8-bit"] = { lr = 5e-4, eps = 1e-5, weight = 0.1 },
    },
    npo = {
      ["Joint"] = { lr = 5e-4, eps = 1e-4, weight = 1 },
      ["Alternate"] = { lr = 5e-4, eps = 1e-5, weight = 1 },
      ["DO"] = { lr = 1e-3, eps = 1e-4, weight = 1 },
      ["DO 8-bit"] = { lr = 1e-3, eps = 1e-4, weight = 1 },
      ["DO+"] = { lr = 5e-4, eps = 1e-5, weight = 1 },
      ["DO+ 8-bit"] = { lr = 5e-4, eps = 1e-5, weight = 1 },
    },
  },

  -- the fictitious authors
  authors = {
    model = {
      architecture = "llama", hidden_size = 128, n_layers = 4, heads = 4, kv_heads = 2,
      intermediate_size = 352,
    },
    pretrain = { epochs = 30, batch_size = 16, lr = 3e-3 },
    unlearn = { batch_size = 10 },
  },

  -- TOFU's rows, whose answers are longer
  tofu = {
    model = {
      architecture = "llama", hidden_size = 192, n_layers = 4, heads = 6, kv_heads = 2,
      intermediate_size = 512,
    },
    pretrain = { epochs = 28, batch_size = 16, lr = 2e-3 },
    unlearn = { batch_size = 16 },
  },
}
