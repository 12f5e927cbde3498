--- report/diagnostics.lua - what train.fit's diagnostics logged, as charts of a report.
-- @module dopl.report.diagnostics

local check = require "dopl.util.check"
local report = require "dopl.report"

local diagnostics = {}

local COSINES <const> = {
  { "cos_update", "Cosine of consecutive updates", "Updates of theta in two consecutive steps of "
    .. "different objectives: below 0, one step undoes a part of the other." },
  { "cos_grad", "Cosine of gradients", "Gradients of the two objectives, at the same two steps." },
  { "cos_grad_ema", "Cosine of averaged gradients", "Moving averages, factor 0.9, of the "
    .. "objectives' gradients." },
}

-- Fields of the rows that begin so, in order.
local function fields_like(rows, prefix)
  local seen = {}
  for _, row in ipairs(rows) do
    for _, key in ipairs(check.keys(row)) do
      if key:sub(1, #prefix) == prefix then seen[key] = true end
    end
  end
  return check.keys(seen)
end

local function labels_of(rows)
  local list, seen = {}, {}
  for _, row in ipairs(rows) do
    local label = tostring(row.label)
    if not seen[label] then list[#list + 1], seen[label] = label, true end
  end
  return list
end

-- One curve a layer.
local function layer_chart(rows, label, field)
  local flat, seen = {}, {}
  for _, row in ipairs(rows) do
    if tostring(row.label) == label then
      local out = { step = row.step }
      for _, layer in ipairs(check.keys(row.layers or {})) do
        out[layer], seen[layer] = row.layers[layer][field], true
      end
      flat[#flat + 1] = out
    end
  end
  return report.curves(flat, { fields = check.keys(seen), title = label .. ": by layer",
    y = { label = field } })
end

--- Whether a logged row is of diagnostics. Runs of older versions call the kind "microscope".
function diagnostics.is_row(row) return row.kind == "diagnostics" or row.kind == "microscope" end

--- Curves of logged rows.
-- @tparam {table,...} rows of metrics; other kinds are passed over
-- @treturn {{svg=string,caption=string},...} empty where there are none
function diagnostics.charts(rows)
  local mine, out = {}, {}
  for _, row in ipairs(rows) do
    if diagnostics.is_row(row) then mine[#mine + 1] = row end
  end
  local function chart(title, caption, fields, y)
    if #fields == 0 then return end
    out[#out + 1] = { caption = caption,
      svg = report.curves(mine, { fields = fields, by = "label", title = title, y = y or {} }) }
  end
  for _, c in ipairs(COSINES) do
    if #fields_like(mine, c[1]) > 0 then chart(c[2], c[3], { c[1] }, { min = -1, max = 1 }) end
  end
  for _, label in ipairs(labels_of(mine)) do
    local field = "cos_grad"
    for _, row in ipairs(mine) do
      if tostring(row.label) == label and row.cos_update then field = "cos_update" end
    end
    out[#out + 1] = { svg = layer_chart(mine, label, field),
      caption = "The same cosine (" .. field .. ") by layer." }
  end
  chart("Delta over base", "Norm of each objective's delta over that of the base, by moment.",
    fields_like(mine, "delta_over_base_"))
  chart("Denominators near zero", "Share of elements whose denominator is below 1% of what the base "
    .. "alone would give.", fields_like(mine, "near_zero_"), { min = 0 })
  return out
end

return diagnostics
