--- models - architectures by name, and the folder a model is kept in.
--
-- An architecture is a file in this folder that returns `new(config, seed)`. A model has
--
--     model.config                   what it was made from
--     model.parameters               ordered list of { name, tensor, kind } (dopl.nn)
--     model:hidden(batch[, cache])   final hidden states [T, C] of packed tokens
--     model:head()                   the [V, C] matrix that turns them into logits
--     model:new_cache(slots, length) room for keys and values (dopl.generate)
--     model:export()                 { [Hugging Face name] = tensor }
--     model:import(weights)          the reverse
--     model:export_grads()           the gradients under those names
--
-- `batch` holds i32 tensors ids [T], positions [T] and offsets [B+1].
-- @module dopl.models

local core = require "dopl.core"
local check = require "dopl.check"
local json = require "dopl.json"

local models = { architectures = { "gpt2", "llama" } }

--- Makes a model with random weights.
-- @tparam table config `architecture` and that architecture's fields
-- @tparam[opt=1] integer seed
function models.new(config, seed)
  check.type("models.new", config, "table")
  local name = check.choice("models.new: architecture", config.architecture, models.architectures)
  return require("dopl.models." .. name).new(config, seed or 1)
end

--- Writes config.json and model.safetensors in Hugging Face's layout.
function models.save(model, dir)
  core.files.mkdir(dir)
  core.safetensors.save(dir .. "/model.safetensors", model:export(), { format = "pt" })
  core.files.write(dir .. "/config.json", json.encode(model.config, { indent = 2 }) .. "\n")
end

--- Reads what models.save wrote.
function models.load(dir)
  local path = dir .. "/config.json"
  local text, reason = core.files.read(path)
  if not text then error(("models.load: %s"):format(reason), 2) end
  local model = models.new(json.decode(text, path))
  model:import((core.safetensors.load(dir .. "/model.safetensors")))
  return model
end

--- A hash of architecture and weights: what a cache of this model's results is keyed by.
function models.fingerprint(model)
  local hash = core.hash(json.encode(model.config))
  for _, p in ipairs(model.parameters) do hash = core.hash(hash, p.name, p.tensor) end
  return hash
end

return models
