-- layers_spec.lua - layers: what they compute, what of them is trained, adapters and parts.
local array = require "op.array"
local core = require "dopl.core"
local folder = require "spec.io.folder"
local models = require "dopl.models"
local nn = require "dopl.nn"

local op = core.ops
local message = folder.message

local function names_of(list)
  local names = {}
  for i, p in ipairs(list) do names[i] = p.name end
  return table.concat(names, " ")
end

local function near(want, got, tolerance)
  assert.equal(#want, #got)
  for i = 1, #want do assert.near(want[i], got[i], tolerance or 1e-5) end
end

-- y + scale (x A^T) B^T: what LoRA adds to a layer.
local function low_rank(name, inputs, outputs, scale)
  local a, b = core.randn(1, 1, 0.3, 2, inputs), core.randn(1, 2, 0.3, outputs, 2)
  local adapter = { a = a, b = b, parameters = { { name = name .. ".A", tensor = a },
    { name = name .. ".B", tensor = b } } }
  return setmetatable(adapter, { __call = function(_, x, y)
    return op.add(y, op.scale(op.linear(op.linear(x, a), b), scale))
  end })
end

local function llama(more)
  local config = { architecture = "llama", vocab_size = 30, hidden_size = 16, n_layers = 2, heads = 4,
    kv_heads = 2, intermediate_size = 24, init_std = 0.3 }
  for key, value in pairs(more or {}) do config[key] = value end
  return models.new(config, 3)
end

local function gpt2()
  return models.new({ architecture = "gpt2", vocab_size = 30, hidden_size = 16, n_layers = 2, heads = 4,
    max_positions = 8, init_std = 0.3 }, 3)
end

local function batch()
  return { ids = core.i32 { 3, 1, 4, 1, 5 }, positions = core.i32 { 0, 1, 2, 0, 1 },
    offsets = core.i32 { 0, 3, 5 } }
end

describe("a linear layer", function()
  local x
  before_each(function() x = core.randn(5, 1, 1, 3, 8) end)

  it("owns its weight and bias, which join the model's list", function()
    local p = nn.parameters(1)
    local layer = nn.linear(p, "up", { inputs = 8, outputs = 6, std = 0.1, bias = true })
    assert.equal("up up.bias", names_of(p))
    assert.same({ 6, 8 }, layer.weight:shape())
    assert.same(op.linear(x, layer.weight, layer.bias):tolist(), layer(x):tolist())
    assert.match("'up' have 5 rows, and outputs = 6", message(nn.linear, p, "up", { inputs = 8,
      outputs = 6, std = 1, parts = { { name = "a", rows = 2 }, { name = "b", rows = 3 } } }))
  end)

  it("is trained or frozen by its flag", function()
    local p = nn.parameters(1)
    local layer = nn.linear(p, "up", { inputs = 8, outputs = 6, std = 0.1, bias = true })
    op.sum(layer(x)):backward()
    assert.is_true(layer:trainable())
    assert.is_false(layer:trainable(false))
    assert.is_nil(layer.weight:grad())
    assert.is_false(layer(x):requires_grad())
    assert.is_true(layer:trainable(true))
    local mlp = nn.mlp(p, "layers.1.", { size = 8, hidden = 12, gated = true, std = 1, out_std = 1 })
    assert.is_false(mlp:trainable(false))
    assert.is_false(mlp.down:trainable())
    mlp.down:trainable(true)
    assert.is_true(mlp:trainable())
  end)

  it("takes a function of input and output as its adapter", function()
    local layer = nn.linear(nn.parameters(1), "up", { inputs = 8, outputs = 6, std = 0.1 })
    local plain = layer(x):tolist()
    local seen
    layer:adapt(function(input, y)
      seen = input
      return y * 2
    end)
    near(array.of(op.linear(x, layer.weight * 2)), array.of(layer(x)))
    assert.equal(x, seen)
    layer:adapt(nil)
    assert.same(plain, layer(x):tolist())
    assert.match("adapt: adapter: 3, needs callable", message(layer.adapt, layer, 3))
  end)

  it("with parts has an adapter for each, as if they were separate layers", function()
    local p = nn.parameters(1)
    local layer = nn.linear(p, "qkv", { inputs = 8, outputs = 10, std = 0.1, bias = true,
      parts = { { name = "q", rows = 4 }, { name = "k", rows = 3 }, { name = "v", rows = 3 } } })
    layer.bias:copy(core.randn(1, 9, 1, 10))
    local plain = array.of(layer(x))
    local shown
    layer:adapt(function(_, y)
      shown = y:shape()
      return op.shift(y, 1)
    end, "k")
    local shifted = array.of(layer(x))
    assert.same({ 3, 3 }, shown)
    for row = 0, 2 do
      for column = 1, 10 do
        local i = row * 10 + column
        assert.near(plain[i] + (column > 4 and column <= 7 and 1 or 0), shifted[i], 1e-5)
      end
    end
    assert.match("adapt: part of qkv: 'w'", message(layer.adapt, layer, print, "w"))
    assert.match("adapt: part of qkv: 'nil' .*'q'", message(layer.adapt, layer, print))
    layer:adapt(nil, "k")
    assert.same(plain, array.of(layer(x)))
  end)

  it("gives parts the gradients of one product", function()
    local function gradients(apart)
      local p = nn.parameters(1)
      local layer = nn.linear(p, "qkv", { inputs = 8, outputs = 10, std = 0.1, bias = true,
        parts = { { name = "q", rows = 6 }, { name = "k", rows = 4 } } })
      if apart then layer:adapt(function(_, y) return y end, "k") end
      local input = x:clone():requires_grad(true)
      op.sum(op.square(layer(input))):backward()
      return array.of(input:grad()), array.of(layer.weight:grad()), array.of(layer.bias:grad())
    end
    local want, got = { gradients(false) }, { gradients(true) }
    for i = 1, 3 do near(want[i], got[i]) end
  end)
end)

describe("a model", function()
  it("lists the linear layers of its blocks under their names in files", function()
    local function list(model)
      local names = {}
      for i, l in ipairs(model:linears()) do names[i] = l.name end
      return table.concat(names, " ", 1, #names // 2)
    end
    assert.equal("model.layers.0.self_attn.q_proj model.layers.0.self_attn.k_proj "
      .. "model.layers.0.self_attn.v_proj model.layers.0.self_attn.o_proj model.layers.0.mlp.gate_proj "
      .. "model.layers.0.mlp.up_proj model.layers.0.mlp.down_proj", list(llama()))
    assert.equal(14, #llama { tie_embeddings = false }:linears())
    assert.equal("transformer.h.0.attn.c_attn transformer.h.0.attn.c_proj transformer.h.0.mlp.c_fc "
      .. "transformer.h.0.mlp.c_proj", list(gpt2()))
    for _, l in ipairs(llama():linears()) do
      assert.equal(l.name:match "[^.]+$", l.part)
    end
  end)

  it("with a low-rank adapter computes as with the merged weight, and trains it", function()
    for name, make in pairs { ["model.layers.1.self_attn.k_proj"] = llama,
      ["model.layers.0.mlp.up_proj"] = llama, ["model.layers.1.self_attn.o_proj"] = llama,
      ["transformer.h.1.mlp.c_fc"] = gpt2, ["transformer.h.0.attn.c_attn"] = gpt2 } do
      local model, merged = make(), make()
      local own = { ["transformer.h.1.mlp.c_fc"] = "layers.2.up",
        ["transformer.h.0.attn.c_attn"] = "layers.1.qkv" }
      local stored = own[name] or name .. ".weight"
      local weight = merged:export()[stored]
      local rows, columns = weight:shape(1), weight:shape(2)
      local adapter = low_rank("lora", columns, rows, 0.5)
      do
        local _ <close> = core.no_grad()
        weight:copy(weight + op.matmul(adapter.b, adapter.a) * 0.5)
      end
      local before, n = array.of(model:hidden(batch())), #model.parameters
      model:adapt(name, adapter)
      assert.equal(n + 2, #model.parameters)
      assert.equal("lora.A", model.parameters[n + 1].name)
      model:train_only "lora"
      local hidden = model:hidden(batch())
      near(array.of(merged:hidden(batch())), array.of(hidden), 1e-4)
      op.sum(op.square(hidden)):backward()
      for i, p in ipairs(model.parameters) do assert.equal(i > n, p.tensor:grad() ~= nil) end
      op.sum(op.square(merged:hidden(batch()))):backward() -- dB = 0.5 dW A^T, dA = 0.5 B^T dW
      local dw, _ <close> = merged:export_grads()[stored], core.no_grad()
      near(array.of(op.matmul(dw, core.optim.transpose(adapter.a)) * 0.5), array.of(adapter.b:grad()),
        1e-3)
      near(array.of(op.matmul(core.optim.transpose(adapter.b), dw) * 0.5), array.of(adapter.a:grad()),
        1e-3)
      assert.same(make():export()[stored]:tolist(), model:export()[stored]:tolist())
      assert.is_nil(model:export()["lora.A"])
      model:adapt(name, nil)
      assert.equal(n, #model.parameters)
      assert.same(before, array.of(model:hidden(batch())))
    end
  end)

  it("refuses an adapter whose parameters it has, and one without a place", function()
    local model = llama()
    model:adapt("model.layers.0.mlp.up_proj", low_rank("lora", 16, 24, 1))
    assert.match("parameter 'lora.A': the model has one of that name already", message(model.adapt,
      model, "model.layers.1.mlp.up_proj", low_rank("lora", 16, 24, 1)))
    local wrong = "model.layers.9.mlp.up_proj"
    assert.match("adapt: linear layer: '" .. wrong .. "' %(did you mean", message(model.adapt, model,
      wrong, print))
  end)

  it("recomputes layers with dropout as it computed them", function()
    local function gradients(recompute)
      local model = models.new({ architecture = "gpt2", vocab_size = 30, hidden_size = 16, n_layers = 3,
        heads = 4, max_positions = 8, dropout = 0.3, checkpoint_layers = recompute }, 3)
      model.dropout_seed = 7
      local list = {}
      for _ = 1, 2 do op.sum(op.square(model:hidden(batch()))):backward() end
      for i, p in ipairs(model.parameters) do list[i] = p.tensor:grad():tolist() end
      return list, model.draws
    end
    local want, draws = gradients(false)
    local got, again = gradients(true)
    assert.equal(2 * 7, draws)
    assert.equal(draws, again)
    assert.same(want, got)
  end)

  it("takes Hugging Face's names of its config's fields", function()
    local own = models.new({ architecture = "llama", hidden_size = 16, n_layers = 1, heads = 2,
      kv_heads = 1, intermediate_size = 8, rope_base = 500 }, 1)
    local theirs = models.new({ architecture = "llama", hidden_size = 16, num_hidden_layers = 1,
      num_attention_heads = 2, num_key_value_heads = 1, intermediate_size = 8, rope_theta = 500 }, 1)
    assert.same(own.config, theirs.config)
    assert.equal(models.fingerprint(own), models.fingerprint(theirs))
    assert.match("'num_hidden_layers' and 'n_layers' are the same field", message(models.new,
      { architecture = "llama", n_layers = 2, num_hidden_layers = 2 }))
    assert.match("models.new: heads: %-1, needs at least 1", message(models.new,
      { architecture = "gpt2", n_head = -1 }))
  end)
end)
