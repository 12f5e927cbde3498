-- import_spec.lua - weights as other programs write them: names, layouts, what lies beside them.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"
local message = folder.message
local models = require "dopl.models"

local function llama(options, seed)
  local config = { architecture = "llama", vocab_size = 20, hidden_size = 16, n_layers = 2, heads = 2,
    kv_heads = 1, intermediate_size = 24 }
  for key, value in pairs(options or {}) do config[key] = value end
  return models.new(config, seed)
end

local function gpt2(seed, dtype)
  return models.new({ architecture = "gpt2", vocab_size = 20, hidden_size = 16, n_layers = 2, heads = 2,
    max_positions = 8, dtype = dtype }, seed)
end

local function renamed(weights, rename)
  local out = {}
  for name, tensor in pairs(weights) do out[rename(name)] = tensor end
  return out
end

-- The weights of a gpt2 as Hugging Face's files hold them, each spelled out.
local function hugging_face(model, prefix)
  local w, out = model:export(), {}
  local function turned(tensor)
    local rows, columns = tensor:shape(1), tensor:shape(2)
    local from, to = tensor:to("f32"):tolist(), {}
    for c = 1, columns do
      to[c] = {}
      for r = 1, rows do to[c][r] = from[r][c] end
    end
    return core.tensor(to)
  end
  local function put(name, tensor) out[prefix .. name] = tensor end
  put("wte.weight", w.embedding)
  put("wpe.weight", w.positions)
  for i = 1, 2 do
    local theirs, ours = ("h.%d."):format(i - 1), ("layers.%d."):format(i)
    put(theirs .. "ln_1.weight", w[ours .. "attention_norm"])
    put(theirs .. "ln_1.bias", w[ours .. "attention_norm.bias"])
    put(theirs .. "attn.c_attn.weight", turned(w[ours .. "qkv"]))
    put(theirs .. "attn.c_attn.bias", w[ours .. "qkv.bias"])
    put(theirs .. "attn.c_proj.weight", turned(w[ours .. "out"]))
    put(theirs .. "attn.c_proj.bias", w[ours .. "out.bias"])
    put(theirs .. "ln_2.weight", w[ours .. "mlp_norm"])
    put(theirs .. "ln_2.bias", w[ours .. "mlp_norm.bias"])
    put(theirs .. "mlp.c_fc.weight", turned(w[ours .. "up"]))
    put(theirs .. "mlp.c_fc.bias", w[ours .. "up.bias"])
    put(theirs .. "mlp.c_proj.weight", turned(w[ours .. "down"]))
    put(theirs .. "mlp.c_proj.bias", w[ours .. "down.bias"])
    put(theirs .. "attn.bias", core.zeros(1, 1, 8, 8))
    put(theirs .. "attn.masked_bias", core.zeros(1))
  end
  put("ln_f.weight", w.norm)
  put("ln_f.bias", w["norm.bias"])
  return out
end

describe("gpt2's import", function()
  it("takes Hugging Face's files, with and without transformer., and dopl's own", function()
    for _, dtype in ipairs { "f32", "bf16" } do
      local model = gpt2(1, dtype)
      for _, prefix in ipairs { "", "transformer." } do
        local other = gpt2(2, dtype)
        other:import(hugging_face(model, prefix))
        assert.equal(models.fingerprint(model), models.fingerprint(other))
      end
      local other = gpt2(2, dtype)
      other:import(model:export())
      assert.equal(models.fingerprint(model), models.fingerprint(other))
    end
  end)

  it("takes a head that is the embedding again, and no other", function()
    local model = gpt2(1)
    local weights = hugging_face(model, "transformer.")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]:clone()
    gpt2(2):import(weights)
    weights["lm_head.weight"]:fill(1)
    assert.match("'lm_head.weight' differs from 'transformer.wte.weight', which this model uses in "
      .. "its place$", message(model.import, model, weights))
  end)

  it("names weights as the file does", function()
    local model = gpt2(1)
    local before = models.fingerprint(model)
    local weights = hugging_face(gpt2(2), "")
    weights["h.1.mlp.c_fc.weight"] = nil
    assert.match("the weight 'layers.2.up' is missing %(also spelled 'h.1.mlp.c_fc.weight', "
      .. "'transformer.h.1.mlp.c_fc.weight'%)", message(model.import, model, weights))
    weights["h.1.mlp.c_fc.weight"] = core.zeros(64, 16)
    assert.match("the weight 'h.1.mlp.c_fc.weight' is f32 %[64, 16%], needs f32 or bf16 %[16, 64%]",
      message(model.import, model, weights))
    weights["h.1.mlp.c_fc.weight"] = core.zeros(16, 64)
    weights["transformer.wte.weight"] = weights["wte.weight"]
    assert.match("'transformer.wte.weight' and 'wte.weight' are the same one",
      message(model.import, model, weights))
    weights["transformer.wte.weight"] = nil
    weights["h.2.ln_1.weight"] = core.zeros(16)
    assert.match("the weight 'h.2.ln_1.weight' has no place in this model",
      message(model.import, model, weights))
    assert.equal(before, models.fingerprint(model))
  end)
end)

describe("llama's import", function()
  it("takes names with and without model.", function()
    local model = llama({ tie_embeddings = false }, 1)
    local other = llama({ tie_embeddings = false }, 2)
    other:import(renamed(model:export(), function(name) return (name:gsub("^model%.", "")) end))
    assert.equal(models.fingerprint(model), models.fingerprint(other))
  end)

  it("says what a missing head may mean", function()
    local model = llama({ tie_embeddings = false }, 1)
    assert.match("the weight 'lm_head.weight' is missing; with tie_embeddings = true the embedding is",
      message(model.import, model, llama({}, 1):export()))
  end)
end)

describe("a file of weights", function()
  local dir, path
  before_each(function()
    dir = folder.new()
    path = dir .. "/model.safetensors"
  end)
  after_each(function() folder.remove(dir) end)

  -- Writes a file with these tensors and one more, of a type that cannot be read.
  local function save_with(weights, name, dtype, shape, bytes)
    core.safetensors.save(path, weights)
    local header, at = string.unpack("<s8", core.files.read(path))
    local data = core.files.read(path):sub(at)
    header = json.decode(header)
    header[name] = { dtype = dtype, shape = shape, data_offsets = { #data, #data + bytes } }
    core.files.write(path, string.pack("<s8", json.encode(header)) .. data .. ("\0"):rep(bytes))
  end

  it("may hold integers and booleans beside its weights", function()
    local model, other = gpt2(1), gpt2(2)
    save_with(hugging_face(model, ""), "h.7.position_ids", "I64", { 1, 4 }, 32)
    other:import((core.safetensors.load(path)))
    assert.equal(models.fingerprint(model), models.fingerprint(other))
  end)

  it("is refused by the type of a weight that cannot be read", function()
    local model = llama({}, 1)
    local weights = model:export()
    for _, name in ipairs { "model.norm.weight", "norm.weight" } do
      weights["model.norm.weight"] = nil
      save_with(weights, name, "F8_E4M3", { 16 }, 16)
      assert.match("llama: .*tensor '" .. name .. "': F8_E4M3 is not supported",
        message(model.import, model, (core.safetensors.load(path))))
    end
  end)

  it("is refused where the config beside it asks for another computation", function()
    local model = llama({}, 1)
    core.safetensors.save(path, llama({}, 2):export())
    local config = { model_type = "llama", hidden_size = 16, num_hidden_layers = 2,
      num_attention_heads = 2, rms_norm_eps = 1e-5, rope_theta = 10000.0, rope_scaling = json.null,
      hidden_act = "silu", vocab_size = 20 }
    local function import(changes)
      local c = {}
      for key, value in pairs(config) do c[key] = value end
      for key, value in pairs(changes) do c[key] = value end
      json.save(dir .. "/config.json", c)
      model:import((core.safetensors.load(path)))
    end
    local before = models.fingerprint(model)
    for reason, changes in pairs {
      ["rope_scaling: rope_type 'llama3' %(factor 32.0%): rotary positions that are scaled"] =
        { rope_scaling = { rope_type = "llama3", factor = 32.0 } },
      ["rope_type 'yarn'"] = { rope_scaling = { type = "yarn" } },
      ["rope_type 'linear' %(factor 2%)"] = { rope_scaling = { factor = 2 } },
      ["rope_parameters: rope_type 'longrope'"] = { rope_parameters = { rope_type = "longrope" } },
      ["rope_parameters: rope_type 'dynamic'"] =
        { rope_parameters = { full_attention = { rope_type = "dynamic" } } },
      ["rope_theta is 500000.0, and the model has rope_base = 10000"] = { rope_theta = 5e5 },
      ["rope_theta is 1000000, and the model"] = { rope_parameters = { rope_type = "default",
        rope_theta = 1000000 } },
      ["model_type 'gemma': no architecture of dopl"] = { model_type = "gemma" },
      ["model_type 'gpt2' is a gpt2, the model a llama"] = { model_type = "gpt2" },
      ["hidden_act is 'gelu', and llama computes with 'silu'"] = { hidden_act = "gelu" },
      ["sliding_window is 4096, and llama"] = { model_type = "mistral", sliding_window = 4096 },
      ["num_attention_heads is 4, and the model has heads = 2"] = { num_attention_heads = 4 },
      ["rms_norm_eps is 1e%-06, and the model has norm_eps = 1e%-05"] = { rms_norm_eps = 1e-6 },
    } do
      local text = message(import, changes)
      assert.match("llama: the weights lie beside .*/config.json: .*" .. reason, text)
      assert.equal(before, models.fingerprint(model), reason)
      if reason:find "rope_type" or reason:find "no architecture" then
        assert.match("models.load: .*config.json is Hugging Face's.*" .. reason,
          message(models.load, dir))
      end
    end
    for _, changes in ipairs {
      {}, { rope_scaling = { rope_type = "default" } }, { hidden_act = json.null },
      { model_type = "mistral", hidden_act = "swish", sliding_window = json.null },
      { rope_parameters = { rope_type = "default", rope_theta = 10000 } },
    } do
      model = llama({}, 1)
      import(changes)
      assert.equal(models.fingerprint(llama({}, 2)), models.fingerprint(model))
    end
    assert.match("make a model with models.new { architecture = 'llama' }", message(models.load, dir))
  end)

  it("is taken without a config, beside a file that is not one, and beside dopl's", function()
    local model = llama({}, 1)
    core.safetensors.save(path, llama({}, 2):export())
    for _, text in ipairs { "", "[1]", "{", '{"model_type":3}' } do
      if text ~= "" then core.files.write(dir .. "/config.json", text) end
      model:import((core.safetensors.load(path)))
    end
    models.save(model, dir)
    assert.equal(models.fingerprint(model), models.fingerprint(models.load(dir)))
  end)
end)
