--- util/signature.lua - how an operator is called, from its row of ops.def.
-- @module dopl.util.signature

local signature = {}

local KINDS <const> = { weight = "f32 or bf16", list = "tensors of one type" }

local function input_text(input)
  return ("%s: %s%s"):format(input.name, KINDS[input.kind] or input.kind,
    input.optional and " or nil" or "")
end

local function attribute_text(attribute)
  local kind, default = attribute.kind, attribute.default
  if attribute.names then
    kind = '"' .. table.concat(attribute.names, '" or "') .. '"'
    default = default and ('"%s"'):format(default)
  end
  return ("%s: %s%s"):format(attribute.name, kind, default and " = " .. default or "")
end

--- The call of an operator, with names, types and defaults:
-- `attention(qkv: f32, offsets: i32, heads: integer, kv_heads: integer)`.
-- @tparam table row of `core.op_rows`
-- @treturn string
function signature.of(row)
  local parts = {}
  for i, input in ipairs(row.inputs) do parts[i] = input_text(input) end
  for _, attribute in ipairs(row.attributes) do parts[#parts + 1] = attribute_text(attribute) end
  return ("%s(%s)"):format(row.name, table.concat(parts, ", "))
end

return signature
