--- util/figures.lua - results that `print` shows by name and value.
-- They stay plain tables of fields.
-- @module dopl.util.figures

local check = require "dopl.util.check"

local figures = {}

local Row, Rows = {}, {}

-- A number, or the mean and spread of several; nil: neither.
local function figure(value)
  if math.type(value) == "integer" then return tostring(value) end
  if type(value) == "number" then return ("%.4g"):format(value) end
  if type(value) ~= "table" or type(value.mean) ~= "number" then return nil end
  local spread = type(value.std) == "number" and (" ± %.2g"):format(value.std) or ""
  return ("%.4g%s"):format(value.mean, spread)
end

-- Fields that are figures, by name, but for those that begin with one of `without`.
local function listed(fields, without)
  local parts = {}
  for _, key in ipairs(check.keys(fields)) do
    local text, shown = figure(fields[key]), key ~= "n"
    for _, prefix in ipairs(without) do shown = shown and key:sub(1, #prefix) ~= prefix end
    if text and shown then parts[#parts + 1] = key .. " " .. text end
  end
  return table.concat(parts, ", ")
end

-- Whether a field is a table of figures, such as the losses of a training run.
local function holds_figures(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(value) == "table" and not figure(value) and (not meta or meta == Row)
end

function Row:__tostring()
  local lines, without = {}, {}
  for i, set in ipairs(self.results or {}) do -- a row's sets: their figures are the row's too
    without[i] = tostring(set.name) .. "_"
    lines[i] = "  " .. tostring(figures.row(set))
  end
  for _, key in ipairs(check.keys(self)) do
    local text = key ~= "results" and holds_figures(self[key]) and listed(self[key], {}) or ""
    if text ~= "" then lines[#lines + 1] = ("  %s: %s"):format(key, text) end
  end
  local count = type(self.n) == "number" and (" (%d rows)"):format(self.n) or ""
  table.insert(lines, 1, ("%s%s: %s"):format(self.label or self.name or "result", count,
    listed(self, without)))
  return table.concat(lines, "\n")
end

function Rows:__tostring()
  local lines = {}
  for i, row in ipairs(self) do lines[i] = tostring(row) end
  return table.concat(lines, "\n")
end

--- Makes a table print as its figures.
-- @tparam table fields label or name, figures, tables of figures, results = a list of such tables
-- @treturn table the same table
function figures.row(fields) return setmetatable(fields, Row) end

--- Makes a list of tables print as their figures, one below the other.
-- @tparam {table,...} list
-- @treturn table the same list
function figures.rows(list)
  for _, row in ipairs(list) do figures.row(row) end
  return setmetatable(list, Rows)
end

return figures
