-- small.lua - a training run of a moment for the specs: an objective of seven samples, a model of a
-- few thousand numbers.
local chat = require "dopl.data.chat"
local loader = require "dopl.data.loader"
local models = require "dopl.models"
local state = require "dopl.train.state"

local tok <const> = require "spec.data.bytes"

local small = {}

small.config = { architecture = "llama", vocab_size = 257, hidden_size = 16, n_layers = 1, heads = 2,
  kv_heads = 1, intermediate_size = 24 }

-- more: other fields of the config.
function small.model(more, seed)
  local config = {}
  for key, value in pairs(small.config) do config[key] = value end
  for key, value in pairs(more or {}) do config[key] = value end
  return models.new(config, seed or 1)
end

-- mark: put behind each answer, for other data of the same name; refusals: as for the loader.
function small.objective(name, loss, mark, refusals)
  local rows = {}
  for i = 1, 7 do
    rows[i] = { question = name .. i, answer = name:rep(1 + i % 3) .. (mark or "") }
  end
  return { name = name, loss = loss, data = loader.new { samples = chat.encode_all(tok, rows),
    batch_size = 3, seed = 1, stream = name, refusals = refusals,
    refuse = loss.needs.twin and "twin" or nil } }
end

-- A hash of a model's weights.
small.weights = state.model_hash

return small
