--- util/help.lua - what `dopl.help` prints.
-- @module dopl.util.help

local check = require "dopl.util.check"
local core = require "dopl.core"
local docs = require "dopl.util.docs"
local fields = require "dopl.util.fields"
local modules = require "dopl.modules"
local signature = require "dopl.util.signature"

local help = {}

local WIDTH <const> = 96

-- Breaks text into lines of at most WIDTH columns; `first` begins the first of them, and the others
-- are indented as far.
local function wrapped(first, text)
  local indent, lines, line = (" "):rep(#first), {}, first
  for word in text:gmatch "%S+" do
    if #line + #word + 1 > WIDTH and line:find "%S" and #line > #indent then
      lines[#lines + 1] = line:gsub("%s+$", "")
      line = indent
    end
    line = line .. word .. " "
  end
  lines[#lines + 1] = line:gsub("%s+$", "")
  return table.concat(lines, "\n")
end

-- Rows of { left, text } in two columns.
local function columns(rows, indent)
  local width, out = 0, {}
  for _, row in ipairs(rows) do width = math.max(width, math.min(#row[1], 34)) end
  for i, row in ipairs(rows) do
    out[i] = wrapped(("%s%-" .. width .. "s  "):format(indent, row[1]), row[2])
  end
  return out
end

-- ---- operators

local function operator_text(row)
  local text = ("dopl.%s\n%s"):format(signature.of(row), wrapped("  ", row.doc))
  return row.differentiable and text or text .. "\n  It has no gradient."
end

-- ---- functions

-- A description of options as rows: those that must be given come first.
local function option_rows(described, prefix)
  local required, rest = {}, {}
  for _, name in ipairs(described.names) do
    local field = described.by_name[name]
    local about = { fields.type_text(field) }
    about[#about + 1] = fields.range_text(field)
    local default = fields.default_text(field)
    if default then about[#about + 1] = "default " .. default end
    if field.required then about[#about + 1] = "required" end
    local row = { prefix .. name, ("%s (%s)"):format(field[1], table.concat(about, ", ")) }
    local list = field.required and required or rest
    list[#list + 1] = row
    if field.fields then
      for _, below in ipairs(option_rows(field.fields, prefix .. name .. ".")) do
        list[#list + 1] = below
      end
    end
  end
  return table.move(rest, 1, #rest, #required + 1, required)
end

local function param_row(param)
  local text = param.text
  if param.default then text = ("%s (default %s)"):format(text, param.default) end
  local kind = param.type and " " .. param.type:gsub("^%?", "") or ""
  return { (param.optional and "[%s]%s" or "%s%s"):format(param.name, kind), text }
end

-- The call that asks for least.
local function example(item)
  if item.usage then return item.usage end
  if not item.options then return nil end
  local args = {}
  for _, name in ipairs(item.options.names) do
    if item.options.by_name[name].required then args[#args + 1] = ("%s = %s"):format(name, name) end
  end
  if #args == 0 then return nil end
  local before = {}
  for i, param in ipairs(item.params) do
    if i < #item.params then before[i] = param.name end
  end
  local given = "{ " .. table.concat(args, ", ") .. " }"
  if #before == 0 then return ("%s %s"):format(item.public, given) end
  return ("%s(%s, %s)"):format(item.public, table.concat(before, ", "), given)
end

local function function_text(item)
  local args = item.args
  if not args then
    local names = {}
    for i, param in ipairs(item.params) do names[i] = param.name end
    args = (item["function"] or #names > 0) and table.concat(names, ", ") or nil
  end
  local lines = { item.public .. (args and ("(%s)"):format(args) or "") }
  lines[#lines + 1] = item.summary:gsub("[^\n]+", "  %0")
  local rows = {}
  for i, param in ipairs(item.params) do
    local is_described = item.options and i == #item.params and param.text == ""
    if not is_described then rows[#rows + 1] = param_row(param) end
  end
  if #rows > 0 then
    lines[#lines + 1] = "parameters"
    table.move(columns(rows, "  "), 1, #rows, #lines + 1, lines)
  end
  if item.options then
    lines[#lines + 1] = "options"
    for _, line in ipairs(columns(option_rows(item.options, ""), "  ")) do lines[#lines + 1] = line end
  end
  for i, result in ipairs(item.returns) do
    if i == 1 then lines[#lines + 1] = "returns" end
    lines[#lines + 1] = wrapped("  ", (result.type and result.type .. " " or "") .. result.text)
  end
  local usage = example(item)
  if usage then lines[#lines + 1] = "example\n" .. usage:gsub("[^\n]+", "  %0") end
  return table.concat(lines, "\n")
end

-- ---- modules

-- The first sentence of a summary.
local function first_sentence(text)
  local sentence = text:gsub("\n", " "):match "^(.-[%.:])%s" or text:gsub("\n", " ")
  return (sentence:gsub("[%.:]$", ""))
end
help.first_sentence = first_sentence

local function module_text(name, about)
  local found = docs.index().modules[name]
  local text = about and about.doc or found.summary:gsub("^.- %- ", ""):match "^[^\n]*"
  local rows, listed = {}, {}
  for _, below in ipairs(docs.below(name)) do
    listed[below] = true
    rows[#rows + 1] = { below, first_sentence(docs.find(below).summary) }
  end
  for path in pairs(docs.index().modules) do
    local child = path:match("^" .. name:gsub("%p", "%%%0") .. "%.([%w_]+)$")
    if child and not listed[path] then rows[#rows + 1] = { path, "module" } end
  end
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  return ("%s: %s\n%s"):format(name, text, table.concat(columns(rows, "  "), "\n"))
end

-- ---- names

--- The operators by name.
-- @treturn table rows of core.op_rows
function help.operators()
  local rows = {}
  for _, row in ipairs(core.op_rows) do rows[row.name] = row end
  return rows
end

--- Every name that help knows, in byte order.
-- @treturn {string,...}
function help.names()
  local set, all = {}, docs.index()
  for _, table_of in ipairs { modules, help.operators(), all.items, all.aliases, all.modules } do
    for name in pairs(table_of) do set[name] = true end
  end
  return check.keys(set)
end

-- The name that may be meant: "fit" is train.fit; else the nearest of the module's, or of all.
local function nearest(name)
  local module = name:match "^(.*)%.[%w_]+$"
  local names = help.names()
  for _, known in ipairs(names) do
    if known:match "([%w_]+)$" == name then return known end
  end
  if module and docs.index().modules[module] then
    local found = check.nearest(name, docs.below(module))
    if found then return found end
  end
  return check.nearest(name, names)
end

--- What is known of a name, as text.
-- @tparam string name
-- @treturn ?string nil if nothing is
-- @treturn ?string the name that may be meant
function help.text(name)
  name = name:gsub("^dopl%.", ""):gsub("%(.*$", "")
  local row, module = help.operators()[name], modules[name]
  if row then return operator_text(row) end
  local item = docs.find(name)
  if item then return function_text(item) end
  if docs.index().modules[name] or module then return module_text(name, module) end
  return nil, nearest(name)
end

--- All modules, functions and operators, a line each.
-- @treturn string
function help.overview()
  local lines = { "modules" }
  local function add(name, text) lines[#lines + 1] = ("  dopl.%-14s %s"):format(name, text) end
  for _, name in ipairs(check.keys(modules)) do add(name, modules[name].doc) end
  lines[#lines + 1] = "functions"
  for _, name in ipairs(docs.below "dopl") do
    if not name:find "[%.:]" then add(name, first_sentence(docs.find(name).summary)) end
  end
  lines[#lines + 1] = "operators"
  for _, row in ipairs(core.op_rows) do add(row.name, row.doc) end
  lines[#lines + 1] = "dopl.help \"train\" lists a module's functions; "
    .. "dopl.help \"train.fit\" prints one with its options"
  return table.concat(lines, "\n")
end

return help
