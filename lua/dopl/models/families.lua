--- models/families.lua - the architectures there are, by name.
-- @module dopl.models.families

local check = require "dopl.util.check"

local families = { names = { "gpt2", "llama" } }

--- The family of a name: a file in this folder.
-- @tparam string name
-- @treturn table see models/decoder.lua
function families.get(name) return require("dopl.models." .. name) end

--- A config under the family's own names of fields, whether it was given those or Hugging Face's.
-- @tparam table family
-- @tparam table config
-- @tparam[opt=3] int level where an error points
-- @treturn table a new one
function families.own_fields(family, config, level)
  local out = {}
  for key, value in pairs(config) do -- a copy: the order changes nothing
    if type(key) ~= "string" or family.defaults[key] ~= nil then out[key] = value end
  end
  for _, key in ipairs(check.keys(config)) do
    if family.defaults[key] == nil then
      local own = family.keys[key] or key
      if out[own] ~= nil then
        error(("models.new: '%s' and '%s' are the same field; give one of them"):format(key, own),
          level or 3)
      end
      out[own] = config[key]
    end
  end
  return out
end

return families
