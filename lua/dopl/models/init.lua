--- models/init.lua - architectures by name, and the folder a model is kept in.
--
-- An architecture is a file in this folder (models/decoder.lua says how to write one). A model has
--
--     model.config                   what it was made from
--     model.parameters               ordered list of { name, tensor, kind } (dopl.nn)
--     model:hidden(batch[, cache])   final hidden states [T, C] of packed tokens
--     model:head()                   the [V, C] matrix that turns them into logits
--     model:new_cache(slots, length) room for keys and values (dopl.generate)
--     model:export()                 { [Hugging Face name] = tensor }
--     model:import(weights)          the reverse
--     model:export_grads()           the gradients under those names
--     model:freeze(names)            and `unfreeze`, `train_only`: what is trained
--     model:linears(), model:adapt(name, adapter)    linear layers, and adapters on them
--
-- `batch` holds i32 tensors ids [T], positions [T] and offsets [B+1]. config.dtype is what the weights
-- are stored as: "f32", or "bf16" in half the memory. Fields of a config may have Hugging Face's names.
-- @module dopl.models

local core = require "dopl.core"
local check = require "dopl.util.check"
local families = require "dopl.models.families"
local hugging_face = require "dopl.models.hugging_face"
local json = require "dopl.util.json"
local nn = require "dopl.nn"

local MAY_BE_ZERO <const> = { dropout = true, init_std = true, n_layers = true, norm_eps = true }

-- A field is of its default's type, and sizes are sizes: said here, before they reach a product.
local function check_field(name, value, default)
  local what, kind = "models.new: " .. name, math.type(default) or type(default)
  if kind == "integer" and name ~= "rope_base" then
    check.range(what, check.type(what, value, "integer", 5), MAY_BE_ZERO[name] and 0 or 1,
      math.maxinteger, 5)
  elseif type(default) == "number" then
    check.type(what, value, "number", 5)
    if name == "dropout" and value >= 1 then
      error(("%s: %s, needs a number below 1"):format(what, value), 4)
    end
    if value ~= value or value == math.huge or value < 0 or (value == 0 and not MAY_BE_ZERO[name]) then
      error(("%s: %s, needs a finite number %s"):format(what, value, MAY_BE_ZERO[name]
        and "of at least 0" or "above 0"), 4)
    end
  else
    check.type(what, value, kind, 5)
  end
end

local models = { architectures = families.names }

-- Without a seed: weights that are yet to be given.
local function make(config, seed)
  check.type("models.new", config, "table", 4)
  local name = check.choice("models.new: architecture", config.architecture, models.architectures, 4)
  check.choice("models.new: dtype", config.dtype or "f32", nn.dtypes, 4)
  local family = families.get(name)
  local own = families.own_fields(family, config, 4)
  for _, field in ipairs(check.keys(own)) do
    local default = family.defaults[field]
    if default ~= nil then check_field(field, own[field], default) end -- else new() names it
  end
  return family.new(own, seed)
end

--- Makes a model with random weights.
-- @tparam table config `architecture` and that architecture's fields
-- @tparam[opt=1] integer seed
function models.new(config, seed)
  return (make(config, check.type("models.new: seed", seed or 1, "integer")))
end

--- Makes a model whose matrices are zeros, for `model:import`: drawing numbers that are written over
-- at once takes seconds where there are many.
-- @tparam table config as for models.new
function models.blank(config)
  return (make(config))
end

--- Writes config.json and model.safetensors in Hugging Face's layout.
function models.save(model, dir)
  check.has("models.save: model", model, "export", "one of models.new")
  check.type("models.save: folder", dir, "string")
  core.files.mkdir(dir)
  core.safetensors.save(dir .. "/model.safetensors", model:export(), { format = "pt" })
  core.files.write(dir .. "/config.json", json.encode(model.config, { indent = 2 }) .. "\n")
end

--- Reads what models.save wrote.
-- @tparam string dir
-- @tparam[opt] table options dtype: how to keep the weights; default: as config.json says
function models.load(dir, options)
  local o = check.options("models.load", options, { dtype = check.optional })
  local path = check.type("models.load: folder", dir, "string") .. "/config.json"
  local text, reason = core.files.read(path)
  if not text then error(("models.load: %s"):format(reason), 2) end
  local config = json.decode(text, path)
  if type(config) ~= "table" or config.architecture == nil then
    local what = "names no architecture: it is not one that models.save wrote"
    if hugging_face.is_config(config) then
      local unfit, name = hugging_face.reason(config)
      what = ("is Hugging Face's (model_type '%s'), not one that models.save wrote; %s"):format(
        config.model_type, unfit or ("make a model with models.new { architecture = '%s' } of its "
        .. "sizes, and model:import(dopl.core.safetensors.load(file)) takes the weights"):format(name))
    end
    error(("models.load: %s %s"):format(path, what), 2)
  end
  config.dtype = o.dtype or config.dtype
  local model = models.blank(config)
  model:import(nn.stored(dir .. "/model.safetensors"))
  return model
end

--- A model with the same weights, stored as another type; the model itself where it is that already.
-- f32 becomes bf16 by rounding to the nearest, bf16 f32 as it is. What is frozen stays so.
-- @param model
-- @tparam string dtype "f32" or "bf16"
function models.to(model, dtype)
  check.has("models.to: model", model, "export", "one of models.new")
  check.choice("models.to: dtype", dtype, nn.dtypes)
  if model.config.dtype == dtype then return model end
  local config = {}
  for key, value in pairs(model.config) do config[key] = value end -- a copy: the order changes nothing
  config.dtype = dtype
  local other = models.blank(config)
  other:import(model:export())
  for i, p in ipairs(other.parameters) do
    p.tensor:requires_grad(model.parameters[i].tensor:requires_grad())
  end
  return other
end

--- A hash of architecture and weights: what a cache of this model's results is keyed by.
function models.fingerprint(model)
  check.has("models.fingerprint: model", model, "parameters", "one of models.new")
  local hash = core.hash(json.encode(model.config))
  for _, p in ipairs(model.parameters) do hash = core.hash(hash, p.name, p.tensor) end
  return hash
end

return models
