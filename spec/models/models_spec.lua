-- models_spec.lua - architectures against golden values, files, packing, decoding.
local array = require "op.array"
local batch = require "dopl.data.batch"
local causal_lm = require "dopl.task.causal_lm"
local core = require "dopl.core"
local golden = require "models.golden"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local reference = require "dopl.train.reference"

local op = core.ops

local function flat(value, out)
  if type(value) ~= "table" then out[#out + 1] = value return out end
  for _, v in ipairs(value) do flat(v, out) end
  return out
end

-- What a model in bf16 gives against the f32 model of the same weights: the same on the CPU; on a
-- device, whose activations are bf16 too, up to a few of its roundings (2^-9 each).
local function alike(wide, narrow)
  if core.device() == "cpu" then return assert.same(wide, narrow) end
  local w, n = flat(wide, {}), flat(narrow, {})
  assert.equal(#w, #n)
  local largest = 1
  for _, x in ipairs(w) do largest = math.max(largest, math.abs(x)) end
  for i, x in ipairs(w) do assert.near(x, n[i], 2 ^ -5 * largest) end
end

-- Packed inputs of whole sequences of ids.
local function packed(sequences)
  local ids, positions, offsets = {}, {}, { 0 }
  for s, sequence in ipairs(sequences) do
    for i, id in ipairs(sequence) do ids[#ids + 1], positions[#positions + 1] = id, i - 1 end
    offsets[s + 1] = #ids
  end
  return { ids = core.i32(ids), positions = core.i32(positions), offsets = core.i32(offsets) }
end

local function logits(model, sequences)
  local _ <close> = core.no_grad()
  return array.of(op.linear(model:hidden(packed(sequences)), model:head()))
end

local function sequences_of(b)
  local list = {}
  for s = 1, #b.offsets - 1 do
    list[s] = table.move(b.ids, b.offsets[s] + 1, b.offsets[s + 1], 1, {})
  end
  return list
end

for _, name in ipairs { "llama_tied", "llama_untied" } do
  describe(name .. ", PyTorch's in double", function()
    local g = golden.read(name)

    it("has its logits", function()
      local got = logits(golden.model(g), sequences_of(g.batch))
      local V = g.config.vocab_size
      for _, row in ipairs(g.logits) do
        for v = 1, V do assert.near(row.values[v], got[row.row * V + v], 2e-5) end
      end
    end)

    it("has its log-probabilities, entropies and losses by position and sample", function()
      local model = golden.model(g)
      local b = batch.pack(golden.samples(g.batch, "x"))
      local s = causal_lm.scores_of(model, b)
      for field, key in pairs { logp = "log_prob", mean_logp = "mean_log_prob",
        entropy = "entropy" } do
        local got = s[field]:tolist()
        assert.equal(#g[key], #got)
        for i, want in ipairs(g[key]) do assert.near(want, got[i], 2e-5) end
      end
      local l, n = s.nll:tolist(), s.n:tolist()
      for i = 1, #g.l do
        assert.near(g.l[i], l[i], 1e-5 * g.l[i])
        assert.equal(g.n[i], n[i])
      end
    end)

    for _, recompute in ipairs { false, true } do
      it("has its gradients" .. (recompute and ", layers recomputed" or ""), function()
        local model = golden.model(g, nil, { checkpoint_layers = recompute })
        local b = batch.pack(golden.samples(g.batch, "x"))
        local value = loss.of_batch(model, loss.gd(), b)
        assert.near(g.loss, value:item(), 1e-5)
        value:backward()
        assert.equal(#g.weights, #g.gradients)
        golden.check_gradients(model, g.gradients, 1e-5)
      end)
    end

    it("gives each sequence what it gives it alone", function()
      local model, sequences = golden.model(g), sequences_of(g.batch)
      local all, V, at = logits(model, sequences), g.config.vocab_size, 0
      for _, sequence in ipairs(sequences) do
        local one = logits(model, { sequence })
        -- a GPU adds a product up in an order that its shape decides
        for i = 1, #one do assert.near(one[i], all[at * V + i], 2e-5) end
        at = at + #sequence
      end
    end)
  end)
end

local function llama(options)
  local config = { architecture = "llama", vocab_size = 50, hidden_size = 24, n_layers = 2,
    heads = 4, kv_heads = 2, intermediate_size = 20, init_std = 0.3 }
  for key, value in pairs(options or {}) do config[key] = value end
  return models.new(config, 3)
end

local function gpt2(options)
  local config = { architecture = "gpt2", vocab_size = 50, hidden_size = 24, n_layers = 2,
    heads = 4, max_positions = 40, init_std = 0.3 }
  for key, value in pairs(options or {}) do config[key] = value end
  return models.new(config, 3)
end

local architectures <const> = {
  { "llama", llama }, { "llama, untied", function() return llama { tie_embeddings = false } end },
  { "gpt2", gpt2 },
}

-- The loss of a batch as a function of the weights, in float32: its differences are good to 1e-3.
local function differences_agree(model, b, value_of)
  value_of(model, b):backward()
  for _, p in ipairs(model.parameters) do
    local t = p.tensor
    local grad, values = array.of(t:grad()), array.of(t)
    local direction = array.fill(values.shape, 0, 1, 11)
    local function at(h)
      local _ <close> = core.no_grad()
      local moved = array.new(values.shape, function(i) return values[i] + h * direction[i] end)
      t:copy(array.tensor(moved))
      local v = value_of(model, b):item()
      t:copy(array.tensor(values))
      return v
    end
    local h = 4e-3
    local want = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    local got = array.dot(grad, direction)
    local norm = math.sqrt(array.dot(grad, grad))
    assert.is_true(norm > 0, p.name .. " has no gradient")
    assert.is_true(math.abs(want - got) < 2e-3 * math.max(1, norm),
      ("%s: %.6g along a probe, differences say %.6g"):format(p.name, got, want))
  end
end

local function some_batch()
  local samples = {}
  for s, n in ipairs { 7, 2, 12 } do
    local ids = {}
    for i = 1, n do ids[i] = (s * 13 + i * i * 7) % 50 end
    samples[s] = { ids = ids, labels_from = n // 2 + 1, key = "s" .. s }
  end
  return batch.pack(samples)
end

for _, entry in ipairs(architectures) do
  local name, make = entry[1], entry[2]
  describe(name, function()
    it("has the gradients that differences give", function()
      differences_agree(make(), some_batch(), function(model, b)
        return (loss.of_batch(model, loss.gd(), b))
      end)
    end)

    it("gives each sequence what it gives it alone, and sees no later token", function()
      local model = make()
      local a, b = { 3, 1, 4, 1, 5, 9, 2, 6 }, { 3, 1, 4, 7 }
      local both, one = logits(model, { a, b }), logits(model, { a })
      for i = 1, #one do assert.near(one[i], both[i], 1e-5) end
      for i = 1, 3 * 50 do assert.near(both[i], both[8 * 50 + i], 1e-5) end
    end)

    it("depends on its seed alone", function()
      local function values(m)
        local list = {}
        for i, p in ipairs(m.parameters) do list[i] = p.tensor:tolist() end
        return list
      end
      assert.same(values(make()), values(make()))
      assert.equal(models.fingerprint(make()), models.fingerprint(make()))
      local other = models.new(make().config, 4)
      assert.not_equal(models.fingerprint(make()), models.fingerprint(other))
    end)

    it("comes back from its folder as it was", function()
      local dir, model = os.tmpname(), make()
      os.remove(dir)
      models.save(model, dir)
      local again = models.load(dir)
      assert.equal(models.fingerprint(model), models.fingerprint(again))
      assert.same(model.config, again.config)
      core.files.write(dir .. "/config.json", "{}")
      assert.error_matches(function() models.load(dir) end,
        "models.load: .*/config.json names no architecture: it is not one that models.save wrote")
      os.remove(dir .. "/config.json")
      assert.error_matches(function() models.load(dir) end, "models.load: ")
      os.remove(dir .. "/model.safetensors")
      os.remove(dir)
    end)

    it("in bf16 takes half the bytes and is the f32 model of the rounded weights", function()
      local narrow = models.to(make(), "bf16")
      local wide = models.to(narrow, "f32")
      assert.equal(narrow, models.to(narrow, "bf16"))
      local bytes = { 0, 0 }
      for i, p in ipairs(narrow.parameters) do
        assert.equal("bf16", p.tensor:dtype())
        bytes[1] = bytes[1] + p.tensor:bytes()
        bytes[2] = bytes[2] + wide.parameters[i].tensor:bytes()
      end
      assert.same({ 2 * narrow.parameters:numel(), 4 * narrow.parameters:numel() }, bytes)
      assert.not_same(logits(make(), { { 3, 1, 4 } }), logits(wide, { { 3, 1, 4 } }))
      alike(logits(wide, { { 3, 1, 4 } }), logits(narrow, { { 3, 1, 4 } }))
      -- gradients, against a frozen model of the same type
      local grads, other = {}, models.to(models.new(make().config, 4), "bf16")
      for i, model in ipairs { wide, narrow } do
        local b, frozen = some_batch(), reference.new(models.to(other, model.config.dtype))
        frozen:add(b, "hidden")
        local value = loss.of_batch(model, loss.kl(), b, frozen)
          + loss.of_batch(model, loss.gd(), b)
        value:backward()
        grads[i] = { value:item() }
        for _, p in ipairs(model.parameters) do
          assert.equal("f32", p.tensor:grad():dtype())
          table.insert(grads[i], p.tensor:grad():tolist())
        end
      end
      alike(grads[1], grads[2])
    end)

    it("comes back from its folder in either type", function()
      local dir, narrow = os.tmpname(), models.to(make(), "bf16")
      os.remove(dir)
      models.save(narrow, dir)
      for _, tensor in ipairs((core.safetensors.list(dir .. "/model.safetensors"))) do
        assert.equal("BF16", tensor.dtype)
      end
      assert.equal(models.fingerprint(narrow), models.fingerprint(models.load(dir)))
      local wide = models.load(dir, { dtype = "f32" })
      assert.equal(models.fingerprint(models.to(narrow, "f32")), models.fingerprint(wide))
      models.save(make(), dir)
      local rounded = models.load(dir, { dtype = "bf16" })
      assert.equal(models.fingerprint(narrow), models.fingerprint(rounded))
      assert.error_matches(function() models.load(dir, { dtype = "f16" }) end,
        "models.new: dtype: 'f16' .*bf16")
      for _, file in ipairs(core.files.list(dir)) do os.remove(dir .. "/" .. file) end
      os.remove(dir)
    end)

    it("draws no numbers that are written over at once", function()
      local dir, model, randn = os.tmpname(), make(), core.randn
      os.remove(dir)
      models.save(model, dir)
      core.randn = function() error "drawn" end
      local ok, again = pcall(models.load, dir)
      local ok_too, narrow = pcall(models.to, model, "bf16")
      core.randn = randn
      assert.is_true(ok and ok_too, tostring(again) .. tostring(narrow))
      assert.equal(models.fingerprint(model), models.fingerprint(again))
      for _, file in ipairs(core.files.list(dir)) do os.remove(dir .. "/" .. file) end
      os.remove(dir)
    end)

    it("says which weight is missing or does not fit, and changes nothing", function()
      local model = make()
      local before = models.fingerprint(model)
      local weights = {}
      for key, t in pairs(model:export()) do weights[key] = t:clone():fill(0) end
      local some = next(weights)
      local kept = weights[some]
      weights[some] = nil
      assert.error_matches(function() model:import(weights) end,
        "the weight '" .. some:gsub("[%.%-]", "%%%0") .. "' is missing")
      weights[some] = core.zeros(3, 3, 3)
      assert.error_matches(function() model:import(weights) end, "is f32 %[3, 3, 3%], needs f32")
      assert.equal(before, models.fingerprint(model))
      weights[some] = kept
      weights["model.layers.0.self_attn.q_proj.bias"] = core.zeros(3)
      assert.error_matches(function() model:import(weights) end,
        "the weight 'model.layers.0.self_attn.q_proj.bias' has no place in this model; weights")
      weights["model.layers.0.self_attn.q_proj.bias"] = nil
      assert.error_matches(function() model:import() end, "weights: nil, needs table")
      assert.equal(before, models.fingerprint(model))
      model:import(weights)
      assert.not_equal(before, models.fingerprint(model))
    end)
  end)
end

describe("llama with tied embeddings", function()
  it("takes a head that is the embedding again, and no other; and the angles of old files", function()
    local model = llama { tie_embeddings = true }
    local weights = model:export()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]:clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = core.zeros(4)
    model:import(weights)
    weights["lm_head.weight"]:fill(1)
    assert.error_matches(function() model:import(weights) end,
      "'lm_head.weight' differs from 'model.embed_tokens.weight'.* tie_embeddings = false keeps")
  end)
end)

describe("models.load", function()
  it("keeps one copy of the weights, and never has two of them", function()
    local dir = require("spec.io.folder").new()
    local given = models.new({ architecture = "llama", hidden_size = 256, n_layers = 8 }, 1)
    models.save(given, dir)
    local device = core.device()
    local function memory() return core.memory(device ~= "cpu" and device or nil) end
    collectgarbage()
    collectgarbage "stop"
    core.trim()
    core.reset_peak()
    local before, size, largest = memory().live, 0, 0
    for _, p in ipairs(given.parameters) do
      size, largest = size + p.tensor:bytes(), math.max(largest, p.tensor:bytes())
    end
    local resident = core.memory().resident
    local model = models.load(dir)
    local added, peak = memory().live - before, memory().peak - before
    resident = core.memory().resident - resident
    collectgarbage "restart"
    assert.equal(models.fingerprint(given), models.fingerprint(model))
    assert.is_true(added < 1.01 * size, ("%d of %d"):format(added, size))
    assert.is_true(peak < 1.01 * size + 2 * largest, ("%d of %d"):format(peak, size))
    if device == "cpu" and os.getenv "DOPL_SPEC" ~= "sanitized" then
      assert.is_true(resident < 1.1 * size + 2 * largest, ("%d of %d"):format(resident, size))
    end
    require("spec.io.folder").remove(dir)
  end)

  it("says whose folder it is", function()
    local dir = require("spec.io.folder").new()
    core.files.write(dir .. "/config.json", '{"model_type":"qwen2"}')
    assert.error_matches(function() models.load(dir) end,
      "config.json is Hugging Face's %(model_type 'qwen2'%), not one that models.save wrote")
    require("spec.io.folder").remove(dir)
  end)
end)

describe("gpt2 with dropout", function()
  it("drops while a seed is set, the same for the same seed", function()
    local model = gpt2 { dropout = 0.5 }
    local plain = logits(model, { { 1, 2, 3 } })
    assert.same(plain, logits(model, { { 1, 2, 3 } }))
    model.dropout_seed = 7
    local dropped = logits(model, { { 1, 2, 3 } })
    assert.not_same(plain, dropped)
    model.draws = 0
    assert.same(dropped, logits(model, { { 1, 2, 3 } }))
  end)

  it("says where its positions end", function()
    local long = {}
    for i = 1, 41 do long[i] = 1 end
    assert.error_matches(function() logits(gpt2(), { long }) end,
      "embedding: index 40 at 40, needs 0 to 39")
  end)
end)

describe("models.new", function()
  it("refuses what it does not know", function()
    assert.error_matches(function() models.new { architecture = "lama" } end, "llama")
    assert.error_matches(function() llama { haeds = 2 } end, "haeds.*heads")
    assert.error_matches(function() llama { heads = 5 } end, "each must divide the one before")
    assert.error_matches(function() gpt2 { heads = 5 } end, "each must divide the one before")
  end)

  it("refuses values of another type, and wrong sizes", function()
    for message, fields in pairs { -- each by itself: the order changes nothing
      ["vocab_size: the string 'big', needs integer"] = { vocab_size = "big" },
      ["hidden_size: %-32, needs at least 1"] = { hidden_size = -32 },
      ["n_layers: 1.5, needs integer"] = { n_layers = 1.5 },
      ["heads: the string '2', needs integer"] = { heads = "2" },
      ["init_std: nan, needs a finite number"] = { init_std = math.abs(0 / 0) },
      ["norm_eps: inf, needs a finite number of at least 0"] = { norm_eps = math.huge },
      ["rope_base: 0, needs a finite number above 0"] = { rope_base = 0 },
      ["tie_embeddings: the string 'no', needs boolean"] = { tie_embeddings = "no" },
    } do
      assert.error_matches(function() llama(fields) end, "models.new: " .. message)
    end
    assert.error_matches(function() models.new({ architecture = "gpt2" }, "one") end,
      "seed: the string 'one', needs integer")
    assert.error_matches(function() models.load() end, "models.load: folder: nil, needs string")
    assert.error_matches(function() gpt2 { dropout = 1.5 } end, "dropout: 1.5, needs a number below 1")
    for _, name in ipairs { "save", "to", "fingerprint" } do
      assert.error_matches(function() models[name]({}, "f32") end,
        "models." .. name .. ": model: a table, needs one of models.new")
    end
    assert.error_matches(function() models.to(llama {}, "f16") end, "dtype: 'f16' %(did you mean")
  end)
end)
