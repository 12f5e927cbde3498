--- util/docs.lua - the comments of the library's files as data.
--
-- A block of comments that begins with `---` describes the function, the table or the value below it.
-- The first sentences are its summary; tags follow LDoc: @tparam, @param, @treturn, @return, @usage (an
-- example), @function (for what is made elsewhere: in C, or by a loop), @type (a class), @see (the
-- module that describes the options), @module.
-- `dopl.help`, the reference and the files for editors are made of these.
-- @module dopl.util.docs

local core = require "dopl.core"
local fields = require "dopl.util.fields"
local modules = require "dopl.modules"

local docs = {}

local _, own_path = ...
local ROOT <const> = own_path and own_path:match "^(.*)/util/docs%.lua$"

-- ---- one file

-- "[opt=3] integer level where it points" of @tparam; type is nil for @param.
local function read_param(text, has_type)
  local option, rest = text:match "^(%b[])%s*(.*)$"
  rest = rest or text:gsub("^%s+", "")
  local kind
  if has_type then kind, rest = rest:match "^(%S+)%s*(.*)$" end
  local name, about = (rest or ""):match "^(%S+)%s*(.*)$"
  return { name = name or "?", type = kind, text = about or "",
    optional = option ~= nil or kind ~= nil and kind:sub(1, 1) == "?",
    default = option and option:match "^%[opt=(.*)%]$" }
end

local function read_return(text, has_type)
  local kind, rest
  if has_type then kind, rest = text:match "^(%S+)%s*(.*)$" end
  return { type = kind, text = rest or text }
end

local TAGS <const> = {
  tparam = function(block, text) table.insert(block.params, read_param(text, true)) end,
  param = function(block, text) table.insert(block.params, read_param(text, false)) end,
  treturn = function(block, text) table.insert(block.returns, read_return(text, true)) end,
  ["return"] = function(block, text) table.insert(block.returns, read_return(text, false)) end,
}

-- Appends a line to what the block's last tag has said; of examples the line breaks matter.
local function add_line(block, line)
  if block.tag == "usage" then
    block.usage = (block.usage and block.usage .. "\n" or "") .. line
  elseif block.open then
    block.open.text = block.open.text .. " " .. line:gsub("^%s+", "")
  elseif not block.tag then
    block.summary[#block.summary + 1] = line
  end
end

local function add_tag(block, name, text)
  local base, option = name:match "^(%l+)(.*)$"
  local read = TAGS[base]
  block.tag, block.open = base, nil
  if read then
    read(block, option .. (option ~= "" and " " or "") .. text)
    block.open = base:find "param" and block.params[#block.params] or block.returns[#block.returns]
  elseif base == "usage" then
    if text ~= "" then block.usage = text end
  else
    block[base] = text
  end
end

-- A block from the lines of its comment, "--" already cut off.
local function read_block(lines, line_number)
  local block = { params = {}, returns = {}, summary = {}, line = line_number }
  for _, line in ipairs(lines) do
    local tag, text = line:match "^%s*@(%l[%l%[%]=%w_%.%-\"]*)%s*(.*)$"
    if tag then add_tag(block, tag, text) else add_line(block, line) end
  end
  block.summary = table.concat(block.summary, "\n"):gsub("^%s+", ""):gsub("%s+$", "")
  block.open, block.tag = nil, nil
  return block
end

-- Names the thing that a line of code declares: "authors.split", "rows, options".
local function declared(code)
  local name, args = code:match "^function%s+([%w_%.:]+)%s*(%b())"
  if name then return name, args:sub(2, -2) end
  name = code:match "^([%w_]+%.[%w_%.]+)%s*="
  if name then return name, code:match "=%s*function%s*%((.-)%)" end
  if code:find "^return function" then return "", code:match "%((.-)%)" end
end

local function lines_of(text)
  local list = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do list[#list + 1] = line end
  return list
end

-- Names that a module has for another module's functions: `samples = chat.encode_all`. `inside` names
-- the table at the top of the file that the line belongs to; "" is the one that the file returns.
local function note_aliases(file, line, inside)
  local name, path = line:match "^local ([%w_]+) = require%s*%(?%s*\"([%w_%.]+)\""
  if name then file.required[name] = path end
  if not inside then
    local owner, target, from, f = line:match "^([%w_]+)%.([%w_]+) = ([%w_]+)%.([%w_]+)$"
    if owner then file.aliases[#file.aliases + 1] = { owner, target, from, f } end
    return
  end
  for target, from, f in line:gmatch "([%w_]+) = ([%w_]+)%.([%w_]+)" do
    file.aliases[#file.aliases + 1] = { inside, target, from, f }
  end
  for target, from, f in line:gmatch "([%w_]+) = require%s*%(?\"([%w_%.]+)\"%)?%.([%w_]+)" do
    file.aliases[#file.aliases + 1] = { inside, target, from, f }
  end
  for target, from in line:gmatch "([%w_]+) = ([%w_]+)[,%s]" do
    file.aliases[#file.aliases + 1] = { inside, target, from }
  end
end

--- Reads the comments of a file.
-- @tparam string text of a Lua file
-- @treturn table { module, summary, items = { { name, args, summary, params, returns, usage, line } } }
function docs.read(text)
  local file = { items = {}, aliases = {}, required = {} }
  local comment, began, inside
  for number, line in ipairs(lines_of(text)) do
    local rest = comment and line:match "^%-%-+%s?(.*)$" or line:match "^%-%-%-%s?([^%-].*)$"
    if rest then
      began, comment = began or number, comment or {}
      comment[#comment + 1] = rest
    else
      if comment then
        local block = read_block(comment, began)
        local name, args = declared(line)
        block.name, block.args = block["function"] or name, args
        if block.module then
          file.module, file.summary = block.module, block.summary
        elseif block.name and not block.type then
          file.items[#file.items + 1] = block
        end
        comment, began = nil, nil
      end
      inside = inside or line:match "^local ([%w_]+) = {$" or line:find "^return {" and ""
      note_aliases(file, line, inside)
      if line:find "^}" then inside = nil end
      file.returns = line:match "^return ([%w_]+)$" or line:match "^return setmetatable%(([%w_]+),"
        or line:find "^return {" and "" or file.returns
    end
  end
  return file
end

-- ---- the library

local function short_names()
  local names = {}
  for name, module in pairs(modules) do names[module.path] = name end
  return names
end

-- The public name of a module: its short name, or its path below dopl.
local function public_name(path, short)
  if path == "dopl" then return "dopl" end
  if short[path] then return short[path] end
  local parent, rest = path:match "^(.*)%.([%w_]+)$"
  if short[parent] then return short[parent] .. "." .. rest end
  return (path:gsub("^dopl%.", ""))
end

-- Public names of an item: a function of the module, or a method of a class.
local function item_name(file, item, prefix)
  local base, method = item.name:match "^([%w_]+):([%w_]+)$"
  if base then
    if base == file.returns then return prefix .. ":" .. method end
    return base:sub(1, 1):lower() .. base:sub(2) .. ":" .. method
  end
  if item.name == "" then return prefix end
  local owner, rest = item.name:match "^([%w_]+)%.(.+)$"
  if not owner then return prefix == "dopl" and item.name or prefix .. "." .. item.name end
  if owner == file.returns or owner == prefix then
    return prefix == "dopl" and rest or prefix .. "." .. rest
  end
  return item["function"] -- of another module
end

local function collect(found, folder)
  for _, name in ipairs(core.files.list(folder)) do
    local path = folder .. "/" .. name
    if core.files.exists(path) == "directory" then
      collect(found, path)
    elseif name:find "%.lua$" then
      found[#found + 1] = path
    end
  end
  return found
end

local function add_aliases(index, file, prefix, short)
  for _, alias in ipairs(file.aliases) do
    local owner, name, from, f = table.unpack(alias)
    local path = file.required[from] or from:match "^dopl%..*"
    local public = prefix .. "." .. name
    local meant = path and public_name(path, short) .. (f and "." .. f or "")
    if meant and owner == file.returns and meant ~= public then index.aliases[public] = meant end
  end
end

local index

local function module_of(file, path)
  local below = path:sub(#ROOT + 2):gsub("%.lua$", ""):gsub("/?init$", ""):gsub("/", ".")
  return file.module or "dopl." .. below
end

--- All that the library's comments describe.
-- @treturn table { items = { [name] = item }, names (in byte order), modules = { [name] = { path,
-- summary } }, aliases = { [name] = name } }
function docs.index()
  if index then return index end
  if not ROOT then error("docs: the library's files are not where they can be read", 2) end
  index = { items = {}, names = {}, modules = {}, aliases = {} }
  local short = short_names()
  for _, path in ipairs(collect({}, ROOT)) do
    local file = docs.read(core.files.read(path))
    local module = module_of(file, path)
    local prefix = public_name(module, short)
    index.modules[prefix] = { path = module, summary = file.summary or "" }
    for _, item in ipairs(file.items) do
      local name = item_name(file, item, prefix)
      if name and not name:find ":__" then
        item.public, item.module = name, module
        if not index.items[name] then index.names[#index.names + 1] = name end
        index.items[name] = index.items[name] or item
      end
    end
    add_aliases(index, file, prefix, short)
  end
  table.sort(index.names)
  return index
end

--- What is known of a name.
-- @tparam string name "train.fit", "data.loader", "run:log"; with or without "dopl."
-- @treturn ?table the item; its `options` is the description of its options, if it has one
function docs.find(name)
  local all, asked = docs.index(), name:gsub("^dopl%.", "")
  name = asked
  while all.aliases[name] and not all.items[name] do name = all.aliases[name] end
  local item = all.items[name]
  if not item then return nil end
  require(item.module) -- a module describes its options when it is loaded
  if item.see then require(item.see) end
  return setmetatable({ public = asked, options = fields.known[asked] or fields.known[name] },
    { __index = item })
end

--- The names below a module: functions and methods.
-- @tparam string prefix "data.authors"
-- @treturn {string,...}
function docs.below(prefix)
  local all, list = docs.index(), {}
  for _, name in ipairs(all.names) do
    if all.items[name].module == (all.modules[prefix] or {}).path then list[#list + 1] = name end
  end
  for name in pairs(all.aliases) do
    local is_below = name:match("^(.*)%.") == prefix
    if is_below and not all.items[name] and docs.find(name) then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

return docs
