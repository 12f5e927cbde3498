--- models/hugging_face.lua - checks a model against the Hugging Face config.json beside its weights.
--
-- Weights of the same names and shapes can belong to different computations: scaled rotary positions,
-- another activation, another eps. The file of weights does not record this; config.json does. A
-- setting that dopl does not implement is refused by name. A family's file says what it implements:
--
--     keys     Hugging Face's names of the fields of our configs
--     types    the model types that it computes as
--     same     fields that must equal the model's
--     values   fields that must have one of the listed values (an absent field has the first)
--
-- @module dopl.models.hugging_face

local check = require "dopl.util.check"
local core = require "dopl.core"
local families = require "dopl.models.families"
local json = require "dopl.util.json"

local hugging_face = {}

local function is_set(value) return value ~= nil and value ~= json.null end

local function shown(value)
  return value == json.null and "null" or type(value) == "string" and "'" .. value .. "'"
    or tostring(value)
end

-- Why the rotary positions differ from ours. Transformers 5 writes `rope_parameters` in place of
-- `rope_scaling`, and may nest one table for each kind of layer.
local function rope_reason(config)
  for _, field in ipairs { "rope_scaling", "rope_parameters" } do
    local rope = config[field]
    local list = type(rope) == "table" and { rope } or {}
    for _, inner in pairs(list[1] or {}) do
      if type(inner) == "table" then list[#list + 1] = inner end
    end
    for _, r in ipairs(list) do
      local kind = is_set(r.rope_type) and r.rope_type or r.type
      if kind == nil and r.factor ~= nil then kind = "linear" end -- the oldest spelling names no type
      if is_set(kind) and kind ~= "default" then
        return ("%s: rope_type %s%s: rotary positions that are scaled are not supported"):format(field,
          shown(kind), r.factor and (" (factor %s)"):format(r.factor) or "")
      end
    end
  end
end

-- A field of the config; rope_theta stands inside rope_parameters since Transformers 5.
local function field_of(config, name)
  local rope = config.rope_parameters
  if name == "rope_theta" and type(rope) == "table" and rope.rope_theta then return rope.rope_theta end
  return config[name]
end

local function is_one_of(value, list)
  for _, allowed in ipairs(list) do
    if value == allowed then return true end
  end
  return false
end

-- The first field of the config that a model with the config `own` does not implement, as text.
local function fields_reason(config, family, own)
  for _, name in ipairs(check.keys(family.values)) do
    local value, allowed = config[name], family.values[name]
    if is_set(value) and not is_one_of(value, allowed) then
      return ("%s is %s, and %s computes with %s"):format(name, shown(value), own.architecture,
        shown(allowed[1]))
    end
  end
  for _, name in ipairs(family.same) do
    local value, here = field_of(config, name), family.keys[name] or name
    if is_set(value) and value ~= own[here] then
      return ("%s is %s, and the model has %s = %s"):format(name, shown(value), here,
        shown(own[here]))
    end
  end
end

--- Whether a value is a Hugging Face config, not one of dopl's own.
function hugging_face.is_config(config)
  return type(config) == "table" and config.architecture == nil and type(config.model_type) == "string"
end

--- Why no model here computes with weights of a config, whatever its sizes.
-- @tparam table config as config.json has it
-- @treturn ?string nil where one may
-- @treturn ?string the architecture's name
function hugging_face.reason(config)
  local reason = rope_reason(config)
  if reason then return reason end
  for _, name in ipairs(families.names) do
    if families.get(name).types[config.model_type] then return nil, name end
  end
  return ("model_type %s: no architecture of dopl computes as it does"):format(
    shown(config.model_type))
end

--- Refuses weights whose config.json asks for another computation than the model's. Weights that
-- were read from no file, or from one without such a neighbour, pass.
-- @tparam table weights from core.safetensors.load
-- @tparam table own the config of a model here
function hugging_face.check_beside(weights, own)
  local path = type(weights) == "table" and core.safetensors.origin(weights)
  path = path and (path:match "^(.*/)[^/]*$" or "") .. "config.json"
  if not path or not core.files.exists(path) then return end
  local config = json.read(path) -- nil if it is not JSON: then no program reads it as a config
  if not hugging_face.is_config(config) then return end
  local reason, name = hugging_face.reason(config)
  if not reason and name ~= own.architecture then
    reason = ("model_type %s is a %s, the model a %s"):format(shown(config.model_type), name,
      own.architecture)
  end
  reason = reason or fields_reason(config, families.get(name), own)
  if not reason then return end
  error(("%s: the weights lie beside %s: %s"):format(own.architecture, path, reason), 3)
end

return hugging_face
