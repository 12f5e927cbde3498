--- report/grid.lua - rows of results as a grid of text, for the terminal and the page.
-- A cell is a number, `{ mean =, std = }`, a string, or nothing. Each column has a fixed number of
-- decimals, so its figures line up, and marks its best cells.
-- @module dopl.report.grid
local check = require("dopl.util.check")
local core = require("dopl.core")
local paper_tables = require("dopl.report.paper")

local grid = {}

-- Which direction is better in the columns of metrics.
local KNOWN = {
  UFE = "higher", TFE = "higher", MU = "higher", OVR = "higher", FE = "higher",
}
local KNOWN_ORDER = { "UFE", "TFE", "FE", "MU", "OVR" }

local function mean_of(value)
  if type(value) == "table" then return value.mean end
  return type(value) == "number" and value or nil
end

-- The default columns of rows: known metrics first, then all other figures.
local function default_columns(rows)
  local seen, out = {}, {}
  for _, row in ipairs(rows) do
    for _, key in ipairs(check.keys(row)) do seen[key] = seen[key] or mean_of(row[key]) ~= nil end
  end
  for _, key in ipairs(KNOWN_ORDER) do
    if seen[key] then out[#out + 1], seen[key] = key, nil end
  end
  for _, key in ipairs(check.keys(seen)) do
    if seen[key] and key ~= "label" then out[#out + 1] = key end
  end
  return out
end

local COLUMN <const> = check.fields("", {
  key = { type = "string", required = true, "the field of a row" },
  label = { type = "string|number", shown = "the key", "what stands above it" },
  digits = { type = "integer", min = 0, max = 20, shown = "what suits the figures", "decimals" },
  scale = { type = "number", default = 1, "a factor on every figure" },
  better = { choice = { "higher", "lower" }, "marks the best row" },
  paper = { type = "string", shown = "the key", "the paper's name of the column" },
})
local TABLE <const> = check.fields("report.table", {
  columns = { type = "list", shown = "known metrics, then all other figures",
    "keys, or { key =, label =, digits =, scale =, better = \"higher\" | \"lower\", paper = }" },
  paper = { type = "string|table",
    "a paper's table to show beside ours: \"table5\", or { \"table1\", split = \"forget05\" }" },
  head = { default = "", "what stands above the labels" },
  title = { type = "string", "a line above the table" },
  note = { type = "string", "a line below the table" },
})

local function column_of(spec)
  if type(spec) == "string" then spec = { key = spec } end
  local column = check.options(COLUMN, spec, 6, "report.table: column")
  column.better, column.paper = column.better or KNOWN[column.key], column.paper or column.key
  column.label = core.visible(tostring(column.label or column.key))
  return column
end

-- Decimals that suit a column: fractions get three, larger figures two, counts none.
local function digits_of(rows, column)
  local whole, largest = true, 0
  for _, row in ipairs(rows) do
    local x = mean_of(row[column.key])
    if x and x == x and math.abs(x) < math.huge then
      whole = whole and math.type(x * column.scale) == "integer"
        and type(row[column.key]) == "number"
      largest = math.max(largest, math.abs(x * column.scale))
    end
  end
  if whole then return 0 end
  return largest <= 1 and 3 or largest < 1000 and 2 or 1
end

local function number_text(x, digits)
  if x ~= x then return "NaN" end
  if x == math.huge or x == -math.huge then return x > 0 and "∞" or "−∞" end
  return ("%." .. digits .. "f"):format(x)
end

-- The text of a cell, and of its spread where it has one.
local function cell_text(value, column)
  local mean = mean_of(value)
  if not mean then return type(value) == "string" and core.visible(value) or "–" end
  local spread = type(value) == "table" and value.std
  return number_text(mean * column.scale, column.digits),
    spread and number_text(spread * column.scale, column.digits)
end

-- The texts of a column: the cells, the spreads beside some of them, and the widest spread.
local function cells_of(rows, column)
  local cells, spreads, widest = {}, {}, 0
  for r, row in ipairs(rows) do
    cells[r], spreads[r] = cell_text(row[column.key], column)
    widest = math.max(widest, spreads[r] and #spreads[r] or 0)
  end
  return cells, spreads, widest
end

-- The best rows of a column, as a set: all that print like the best. nil if all competing rows print
-- alike.
local function best_rows(rows, column, cells)
  local best, best_value, alike = nil, nil, true
  for i, row in ipairs(rows) do
    local x = mean_of(row[column.key])
    if x and x == x and not row.reference then
      alike = alike and (not best or cells[i] == cells[best])
      if not best or (column.better == "higher" and x > best_value)
        or (column.better == "lower" and x < best_value) then
        best, best_value = i, x
      end
    end
  end
  if alike then return nil end
  local set = {}
  for i, row in ipairs(rows) do
    if cells[i] == cells[best] and not row.reference then set[i] = true end
  end
  return set
end

-- The columns of a paper's table that match ours.
local function add_paper(out, rows, columns, reference)
  if type(reference) == "string" then reference = { reference } end
  local found = paper_tables.table(reference[1], reference.split or reference[2])
  out.paper = { title = found.title, setting = found.setting }
  for _, column in ipairs(columns) do
    local has = false
    for _, name in ipairs(found.columns) do has = has or name == column.paper end
    if has then
      local cells = {}
      for i, row in ipairs(rows) do
        local figures = found.rows[row.paper_label or row.label]
        cells[i] = figures and figures[column.paper]
          and number_text(figures[column.paper], 2) or "–"
      end
      out.columns[#out.columns + 1] = {
        label = column.paper, cells = cells, spreads = {}, spread_width = 0, number = true,
        paper = true,
      }
    end
  end
end

--- Lays rows out.
-- @tparam table rows { label =, <key> = cell, ..., reference = true for rows shown for comparison };
-- a first row with a field `columns` says which columns the table has where the options do not
-- @tparam ?table options as for `report.table`
-- @treturn table { head =, labels =, reference =, columns = { { label =, cells =, spreads =,
-- spread_width =, best = { [row] = true }, number =, paper = } }, paper = { title =, setting = } }
function grid.lay_out(rows, options)
  options = check.options(TABLE, options, 4)
  check.type("report.table: rows", rows, "table", 4)
  local out = { head = core.visible(options.head), title = options.title, note = options.note,
    labels = {}, reference = {}, columns = {} }
  for i, row in ipairs(rows) do
    check.type(("report.table: row %d"):format(i), row, "table", 5)
    out.labels[i] = core.visible(tostring(row.label or i)) -- a line feed would break the table
    out.reference[i] = row.reference and true or false
  end
  local columns = {}
  local specs = options.columns or rows[1] and rows[1].columns or default_columns(rows)
  for i, spec in ipairs(specs) do
    local column = column_of(spec)
    column.digits = column.digits or digits_of(rows, column)
    local number = false
    for _, row in ipairs(rows) do number = number or mean_of(row[column.key]) ~= nil end
    columns[i] = column
    local cells, spreads, widest = cells_of(rows, column)
    out.columns[i] = { label = column.label, cells = cells, spreads = spreads,
      spread_width = widest, number = number, better = column.better,
      best = column.better and best_rows(rows, column, cells) or nil }
  end
  if options.paper then add_paper(out, rows, columns, options.paper) end
  return out
end

-- Blocks of code points that take two columns, or no column, in a terminal.
local WIDE = { { 0x1100, 0x115f }, { 0x2e80, 0x303e }, { 0x3041, 0xa4cf }, { 0xac00, 0xd7a3 },
  { 0xf900, 0xfaff }, { 0xfe30, 0xfe6f }, { 0xff00, 0xff60 }, { 0x1f300, 0x1faff },
  { 0x20000, 0x3fffd } }
local NONE = { { 0x300, 0x36f }, { 0x200b, 0x200f }, { 0xfe00, 0xfe0f }, { 0x20d0, 0x20ff } }

local function within(ranges, c)
  for _, range in ipairs(ranges) do
    if c >= range[1] and c <= range[2] then return true end
  end
  return false
end

--- The columns that a text takes in a terminal. A byte that is not UTF-8 counts as one.
function grid.width(text)
  if not utf8.len(text) then return #text end
  local n = 0
  for _, c in utf8.codes(text) do
    n = n + (c < 0x300 and 1 or within(NONE, c) and 0 or within(WIDE, c) and 2 or 1)
  end
  return n
end

local function pad(text, width, right)
  local blank = (" "):rep(width - grid.width(text))
  return right and blank .. text or text .. blank
end

-- A cell of the terminal's table: means stand below means, with or without a spread.
local function cell_with_spread(column, r)
  local cell, spread = column.cells[r], column.spreads[r]
  if spread then return ("%s ± %s"):format(cell, pad(spread, column.spread_width, true)) end
  return cell .. (" "):rep(column.spread_width > 0 and column.spread_width + 3 or 0)
end

--- A laid out grid as lines for the terminal.
-- @tparam table g from `grid.lay_out`
-- @treturn string ends in a newline
function grid.text(g)
  local widths, heads, rule = {}, {}, grid.width(g.head)
  for i, column in ipairs(g.columns) do
    local arrow = column.better == "higher" and " ↑" or column.better == "lower" and " ↓" or ""
    heads[i] = column.label .. arrow
    widths[i] = grid.width(heads[i])
    for r = 1, #column.cells do
      widths[i] = math.max(widths[i], grid.width(cell_with_spread(column, r)))
    end
  end
  for _, label in ipairs(g.labels) do rule = math.max(rule, grid.width(label)) end
  local function line(first, at)
    local out = { pad(first, rule) }
    for i, column in ipairs(g.columns) do
      local starts_paper = column.paper and not g.columns[i - 1].paper
      out[#out + 1] = (starts_paper and "  │  " or "  ") .. pad(at(i), widths[i], column.number)
    end
    return (table.concat(out):gsub("%s+$", ""))
  end
  local lines = {}
  if g.title then lines[1] = core.visible(g.title, { lines = true }) end
  local total = rule
  for i, column in ipairs(g.columns) do
    total = total + widths[i] + (column.paper and not g.columns[i - 1].paper and 5 or 2)
  end
  lines[#lines + 1] = line(g.head, function(i) return heads[i] end)
  lines[#lines + 1] = ("─"):rep(total)
  for r, label in ipairs(g.labels) do
    lines[#lines + 1] = line(label, function(i) return cell_with_spread(g.columns[i], r) end)
  end
  if g.paper then
    lines[#lines + 1] = ("right of the bar: %s (%s)"):format(g.paper.title, g.paper.setting)
  end
  if g.note then lines[#lines + 1] = core.visible(g.note, { lines = true }) end
  return table.concat(lines, "\n") .. "\n"
end

return grid
