-- reference.lua - writes the library's reference, and files from which editors complete.
--
--   dopl --trust tools/reference.lua FOLDER
--
-- FOLDER/reference/NAME.md has a page for each module. FOLDER/meta/NAME.lua declares the same for
-- LuaLS and other servers that read its annotations (LuaCATS). Both come from the comments of the
-- library's files and from the descriptions of options (lua/dopl/util/docs.lua and fields.lua).
local core = require "dopl.core"
local docs = require "dopl.util.docs"
local fields = require "dopl.util.fields"
local help = require "dopl.util.help"
local modules = require "dopl.modules"
local signature = require "dopl.util.signature"

local folder = assert(arg[1], "usage: dopl --trust tools/reference.lua FOLDER")

-- ---- types

local PLAIN <const> = { string = "string", number = "number", integer = "integer", int = "integer",
  boolean = "boolean", bool = "boolean", table = "table", ["function"] = "function", any = "any",
  ["nil"] = "nil", callable = "function", value = "any", float = "number" }

local CALLS <const> = { Rule = "fun(hyper?: table): dopl.Config" } -- classes that can be called

local classes = {} -- names of values that are no plain Lua: Tensor, Run, Tokenizer

local function class_of(name)
  local class = name:sub(1, 1):upper() .. name:sub(2)
  classes[class] = classes[class] or {}
  return "dopl." .. class
end

-- An LDoc type as LuaCATS: "?{string,...}" becomes "string[]".
local function cats_type(text)
  if not text then return "any" end
  text = text:gsub("^%?", "")
  local parts = {}
  for part in text:gmatch "[^|]+" do
    local element = part:match "^{(.*),%.%.%.}$"
    if element then
      parts[#parts + 1] = (element:find "[{|]" and "table" or cats_type(element)) .. "[]"
    elseif PLAIN[part] then
      parts[#parts + 1] = PLAIN[part]
    elseif part:find "^%a[%w_]*$" then
      parts[#parts + 1] = class_of(part)
    else
      parts[#parts + 1] = "table"
    end
  end
  return table.concat(parts, "|")
end

-- ---- LuaCATS

local function comment(lines, text)
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = "---" .. line end
end

local function one_line(text) return (text:gsub("%s*\n%s*", " ")) end

local function option_class(lines, name, described)
  local nested = {}
  lines[#lines + 1] = ("---@class %s"):format(name)
  for _, key in ipairs(described.names) do
    local field = described.by_name[key]
    local kind = fields.type_text(field):gsub("tensor", "any"):gsub("list", "any[]")
    local below = field.fields or fields.is(field.of) and field.of
    if below then
      kind = ("%s.%s"):format(name, key) .. (field.of and "[]" or "")
      nested[#nested + 1] = { ("%s.%s"):format(name, key), below }
    end
    local default = fields.default_text(field)
    lines[#lines + 1] = ("---@field %s%s %s %s%s"):format(key, field.required and "" or "?", kind,
      one_line(field[1]), default and (" (default: %s)"):format(default) or "")
  end
  lines[#lines + 1] = ""
  for _, pair in ipairs(nested) do option_class(lines, pair[1], pair[2]) end
end

-- Names of parameters: those of the source, else those of the tags.
local function names_of(item)
  local names = {}
  if item.args then
    for name in item.args:gmatch "[%w_%.]+" do names[#names + 1] = name end
  else
    for i, param in ipairs(item.params) do names[i] = param.name end
    if #names == 0 and item.options then names[1] = "options" end
  end
  return names
end

local function declare(lines, item, owner)
  local by_name, names = {}, names_of(item)
  for _, param in ipairs(item.params) do by_name[param.name] = param end
  local class = item.options and "dopl." .. item.public:gsub(":", ".") .. ".options"
  if class then option_class(lines, class, item.options) end
  comment(lines, item.summary)
  for i, name in ipairs(names) do
    local param = by_name[name]
    local kind = cats_type(param and param.type)
    local optional = not param or param.optional
    if class and i == #names then
      kind, optional = class, #item.options.names > 0 and true
      for _, key in ipairs(item.options.names) do
        if item.options.by_name[key].required then optional = false end
      end
    end
    lines[#lines + 1] = ("---@param %s%s %s %s"):format(name, optional and name ~= "..." and "?" or "",
      kind, one_line(param and param.text or ""))
  end
  for _, result in ipairs(item.returns) do
    local optional = result.type and result.type:sub(1, 1) == "?" and "?" or ""
    local kind = result.type == "table" and "table<any, any>" or cats_type(result.type)
    lines[#lines + 1] = ("---@return %s%s # %s"):format(kind, optional, one_line(result.text))
  end
  if #item.returns == 0 then lines[#lines + 1] = "---@return any ..." end
  local own = item.public:match "([%w_]+)$"
  lines[#lines + 1] = ("function %s%s(%s) end"):format(owner, own, table.concat(names, ", "))
  lines[#lines + 1] = ""
end

local function is_function(item)
  return item.args or item["function"] or item.options or #item.returns > 0
end

-- What the module's table holds beyond what comments describe, and whether it can be called.
local function add_values(attributes, name, module)
  for key, value in pairs(module) do
    if type(key) == "string" and key:find "^[%a_][%w_]*$" and not docs.find(name .. "." .. key) then
      attributes[#attributes + 1] = ("---@field %s %s"):format(key,
        type(value) == "function" and "function" or "any")
    end
  end
  local meta = getmetatable(module)
  if type(meta) == "table" and meta.__call then
    attributes[#attributes + 1] = "---@overload fun(...): any"
  end
end

local function module_lines(name, about)
  local lines = { ("---@meta %s"):format(about.path), "" }
  local module, variable = modules[name], name:gsub("%.", "_")
  local global = module and module.global or name == "dopl"
  comment(lines, about.summary)
  lines[#lines + 1] = ("---@class dopl.%s"):format(name)
  local attributes = {}
  for child in pairs(docs.index().modules) do
    local below = child:match("^" .. name:gsub("%p", "%%%0") .. "%.([%w_]+)$")
    if below and not docs.find(child) then
      attributes[#attributes + 1] = ("---@field %s dopl.%s"):format(below, child)
    end
  end
  local declared = {}
  for _, below in ipairs(docs.below(name)) do
    local item = docs.find(below)
    if not below:find ":" and not is_function(item) then
      attributes[#attributes + 1] = ("---@field %s any %s"):format(below:match "[%w_]+$",
        one_line(item.summary))
    elseif below:find ":" then
      local class = class_of(below:match "^([%w_%.]+):":match "[%w_]+$"):match "[%w_]+$"
      table.insert(classes[class], item)
    else
      declared[#declared + 1] = item
    end
  end
  local _, module_table = pcall(require, about.path)
  if type(module_table) == "table" and name ~= "dopl" then
    add_values(attributes, name, module_table)
  end
  table.sort(attributes)
  table.move(attributes, 1, #attributes, #lines + 1, lines)
  return lines, declared, (global and "" or "local ") .. variable .. " = {}", variable
end

local function operator_lines(lines)
  for _, row in ipairs(core.op_rows) do
    comment(lines, row.doc .. "\n" .. signature.of(row))
    lines[#lines + 1] = "---@return dopl.Tensor"
    lines[#lines + 1] = ("function dopl.%s(...) end"):format(row.name)
    lines[#lines + 1] = ""
  end
end

local function tensor_lines(lines)
  local rows, names = help.operators(), {}
  for name in pairs(debug.getmetatable(core.zeros(1)).__index) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = rows[name]
      and ("---@field %s fun(self: dopl.Tensor, ...): dopl.Tensor %s"):format(name, rows[name].doc)
      or ("---@field %s fun(self: dopl.Tensor, ...): any"):format(name)
  end
  for _, operator in ipairs { "add", "sub", "mul", "div" } do
    lines[#lines + 1] = ("---@operator %s(dopl.Tensor|number): dopl.Tensor"):format(operator)
  end
  lines[#lines + 1] = "---@operator unm: dopl.Tensor"
end

local function write(path, lines)
  local text = table.concat(lines, "\n"):gsub("[ ]+\n", "\n")
  core.files.write(folder .. "/" .. path, text .. "\n")
end

local function sorted(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local function write_meta()
  core.files.mkdir(folder .. "/meta")
  for _, name in ipairs(sorted(docs.index().modules)) do
    local lines, declared, assignment, variable = module_lines(name, docs.index().modules[name])
    if name == "dopl" then
      for _, short in ipairs(sorted(modules)) do
        lines[#lines + 1] = ("---@field %s dopl.%s %s"):format(short, short, modules[short].doc)
      end
      lines[#lines + 1] = "---@field core table the C core"
      lines[#lines + 1] = "---@field version string"
    end
    lines[#lines + 1] = assignment
    lines[#lines + 1] = ""
    for _, item in ipairs(declared) do declare(lines, item, variable .. ".") end
    if name == "dopl" then operator_lines(lines) end
    lines[#lines + 1] = "return " .. variable
    write(("meta/%s.lua"):format(docs.index().modules[name].path), lines)
  end
  local lines = { "---@meta", "" }
  class_of "tensor"
  local names = sorted(classes)
  for _, class in ipairs(names) do
    lines[#lines + 1] = ("---@class dopl.%s"):format(class)
    lines[#lines + 1] = "---@field [string] any"
    if CALLS[class] then lines[#lines + 1] = "---@overload " .. CALLS[class] end
    if class == "Tensor" then tensor_lines(lines) end
    lines[#lines + 1] = ("local %s = {}"):format(class)
    lines[#lines + 1] = ""
    for _, item in ipairs(classes[class]) do declare(lines, item, class .. ":") end
  end
  write("meta/classes.lua", lines)
end

-- ---- pages

local function page(name)
  local lines = { "# " .. name, "", docs.index().modules[name].summary:gsub("^[^\n]- %- ", ""), "" }
  for _, below in ipairs(docs.below(name)) do
    local text = help.text(below)
    local head, body = text:match "^([^\n]*)\n?(.*)$"
    table.move({ "## " .. head, "", "```", body, "```", "" }, 1, 6, #lines + 1, lines)
  end
  return lines
end

local function write_pages()
  core.files.mkdir(folder .. "/reference")
  local lines = { "# Reference", "" }
  for _, name in ipairs(sorted(docs.index().modules)) do
    local summary = docs.index().modules[name].summary:gsub("^[^\n]- %- ", "")
    lines[#lines + 1] = ("- [%s](%s.md): %s"):format(name, name, help.first_sentence(summary))
    write(("reference/%s.md"):format(name), page(name))
  end
  table.move({ "", "## Operators", "" }, 1, 3, #lines + 1, lines)
  for _, row in ipairs(core.op_rows) do
    lines[#lines + 1] = ("- `dopl.%s`: %s"):format(signature.of(row), row.doc)
  end
  write("reference/index.md", lines)
end

write_meta()
write_pages()
