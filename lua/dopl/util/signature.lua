--- util/signature.lua - how an operator is called, from its row of ops.def.
-- @module dopl.util.signature

local signature = {}

local NAMES <const> = { f = "x", i = "index", w = "weight" }
local KINDS <const> = { f = "f32", i = "i32", w = "f32 or bf16" }

--- The call of an operator: its inputs, then its attributes with types and defaults.
-- @tparam table row of `core.op_rows`
-- @treturn string "softmax(x: f32)"
function signature.of(row)
  local parts, seen = {}, {}
  for kind, optional in row.inputs:gmatch "(%l)(%??)" do
    local name = NAMES[kind]
    seen[name] = (seen[name] or 0) + 1
    parts[#parts + 1] = ("%s%s: %s%s"):format(name, seen[name] > 1 and seen[name] or "", KINDS[kind],
      optional == "?" and " or nil" or "")
  end
  for name, kind, default in row.attributes:gmatch "([%w_]+):(%l)=?(%S*)" do
    parts[#parts + 1] = ("%s: %s%s"):format(name, kind == "i" and "integer" or "number",
      default ~= "" and " = " .. default or "")
  end
  return ("%s(%s)"):format(row.name, table.concat(parts, ", "))
end

return signature
