--- golden.lua - the golden model of spec/golden (PyTorch in float64), its batches and gradients.
local array = require "op.array"
local batch = require "dopl.data.batch"
local core = require "dopl.core"
local models = require "dopl.models"
local walker = require "op.walker"

local golden = {}

function golden.read(name)
  return core.json.decode((assert(core.files.read("spec/golden/" .. name .. ".json"))))
end

--- A dopl model with golden weights.
function golden.model(g, weights, options)
  local c = g.config
  local config = {
    architecture = "llama", vocab_size = c.vocab_size, hidden_size = c.hidden_size,
    n_layers = c.num_hidden_layers, heads = c.num_attention_heads,
    kv_heads = c.num_key_value_heads, intermediate_size = c.intermediate_size,
    rope_base = c.rope_theta, norm_eps = c.rms_norm_eps, tie_embeddings = c.tie_word_embeddings,
  }
  for key, value in pairs(options or {}) do config[key] = value end
  local model = models.new(config)
  local values = {}
  for _, w in ipairs(weights or g.weights) do
    values[w.name] = array.tensor(array.fill(w.shape, w.centre, w.scale, w.k))
  end
  model:import(values)
  return model
end

--- Samples as dopl.data makes them, of a golden batch of tokens.
function golden.samples(b, name)
  local samples = {}
  for s = 1, #b.offsets - 1 do
    local first, last = b.offsets[s] + 1, b.offsets[s + 1]
    local from
    for i = last, first, -1 do
      if b.labels[i] >= 0 then from = i - first + 2 end
    end
    samples[s] = { ids = table.move(b.ids, first, last, 1, {}), labels_from = from,
      key = name .. s }
  end
  return samples
end

--- A golden batch packed by dopl.data, with `twin`.
function golden.batch(g, name, twin)
  return batch.pack(golden.samples(g.batches[name], name), {
    twins = twin and golden.samples(g.batches[twin], twin),
  })
end

--- A model's gradients against the golden ones.
function golden.check_gradients(model, wanted, tolerance)
  local grads = model:export_grads()
  for _, w in ipairs(wanted) do
    local got = array.of(grads[w.name])
    local norm = math.sqrt(array.dot(got, got))
    local function near(what, want, have, scale)
      if math.abs(want - have) > tolerance * scale then
        error(("%s: %s is %.9g, needs %.9g"):format(w.name, what, have, want), 0)
      end
    end
    near("the norm", w.norm, norm, w.norm)
    near("the product with a probe", w.probe, array.dot(got, array.fill(got.shape, 0, 1, 7)),
      w.norm * math.max(1, math.sqrt(#got) / 8))
    for k, value in ipairs(w.values) do -- `at` says which elements, where it is not all
      local at = w.at and w.at[k] or k - 1
      near("element " .. at, value, got[at + 1], w.norm)
    end
  end
end

golden.compare = walker.compare

return golden
