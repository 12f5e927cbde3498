--- run/params.lua - a recipe's parameters: defaults, values from the command line, checks.
--
--    local p = dopl.params {
--      steps = { 300, "optimizer steps" },
--      split = "forget05",
--      adamw = { lr = 1e-4, weight_decay = 0.01 },
--    }
--
-- `./dopl recipe.lua --steps 100 --adamw.lr 1e-5` sets two of them, `--help` lists them all. A default
-- gives the type: integer, number, string, boolean (`--flag`, `--no-flag`) or list (`{ 1, 2 }`,
-- `--sizes 1,2`). A table with a default and a text adds the text to the help. With `least = 0`,
-- smaller values are errors. Two strings are a default and its text, so a list of two strings needs a
-- second pair of braces: `{ { "a", "b" } }`, or `{ { "a", "b" }, "text" }`. A table of named values is
-- a group. Every recipe also has seed, out, device and threads, and `--resume RUN`, which takes all
-- values from the run's params.json.
-- @module dopl.run.params

local core = require "dopl.core"
local check = require "dopl.util.check"
local json = require "dopl.util.json"

local params = {}
local resolved

local PASSING <const> = { resume = true } -- no parameter of the run itself
local MACHINE <const> = { device = true } -- of the machine: a run may resume on another one

local function usage(status, message)
  local value = { exit = status, message = message }
  error(setmetatable(value, { __tostring = function() return message end }), 0)
end

-- What to say after an unknown name.
local function suggestion(name, names)
  if core.early_options[name] then
    return (": it goes before the recipe: dopl --%s RECIPE"):format(name)
  end
  local nearest = check.nearest(name, names)
  if nearest then return (" (did you mean --%s?)"):format(nearest) end
  return (" (there are: --%s)"):format(table.concat(names, ", --"))
end

local function kind_of(value)
  return math.type(value) or type(value)
end

local function is_documented(value) -- { default, "text" }, or a list in a second pair of braces
  if type(value) ~= "table" then return false end
  return #value == 2 and type(value[2]) == "string" or #value == 1 and type(value[1]) == "table"
end

-- What the elements of a list are: all of one type.
local function element_type(name, list)
  local found
  for i, item in ipairs(list) do
    local kind = kind_of(item)
    if kind == "float" then kind = "number" end
    if kind == "integer" and found == "number" or kind == "number" and found == "integer" then
      kind, found = "number", "number"
    end
    if kind == "table" or found and kind ~= found then
      error(("dopl.params: %s: element %d of the list is a %s%s"):format(name, i, kind,
        found and (", those before it are of type " .. found) or ""), 5)
    end
    found = kind
  end
  return found
end

-- Flattens declarations into `list`, an array of { name, path, default, type, help }.
local function declare(list, declared, prefix, path)
  for _, key in ipairs(check.keys(declared)) do
    local value, help, least = declared[key], nil, nil
    if is_documented(value) then value, help, least = value[1], value[2], value.least end
    local name = prefix .. key
    local where = table.move(path, 1, #path, 1, {})
    where[#where + 1] = key
    local kind = kind_of(value)
    if kind == "float" then kind = "number" end
    if kind == "table" and #value == 0 then
      if declared[key] ~= value then
        error(("dopl.params: %s: a group takes no text; its fields do"):format(name), 4)
      end
      declare(list, value, name .. ".", where)
    elseif kind == "table" then
      list[#list + 1] = { name = name, path = where, default = value, type = "list", help = help,
        of = element_type(name, value) }
    elseif kind == "integer" or kind == "number" or kind == "string" or kind == "boolean" then
      list[#list + 1] = { name = name, path = where, default = value, type = kind, help = help,
        least = least }
    else
      error(("dopl.params: %s: a %s given, a number, string, boolean or table needed")
        :format(name, kind), 4)
    end
  end
end

local function convert(entry, text)
  if entry.type == "string" then return text end
  if entry.type == "boolean" then
    if text == "true" or text == "1" or text == "yes" then return true end
    if text == "false" or text == "0" or text == "no" then return false end
  elseif entry.type == "list" then
    local items, one = {}, { name = entry.name, type = entry.of }
    for item in text:gmatch("[^,]+") do items[#items + 1] = convert(one, item) end
    if #items > 0 then return items end
  else
    local number = tonumber(text)
    if entry.type == "integer" then number = math.tointeger(number) end
    if number and entry.least then check.range("--" .. entry.name, number, entry.least, math.huge) end
    if number then return number end
  end
  usage(2, ("--%s: '%s' given, %s needed"):format(entry.name, text,
    entry.type == "integer" and "an integer" or entry.type == "list" and "a list like 1,2" or "a "
      .. entry.type))
end

local function show(value)
  if type(value) == "string" then return value == "" and '""' or value end
  if type(value) ~= "table" then return tostring(value) end
  local items = {}
  for i, item in ipairs(value) do items[i] = tostring(item) end
  return table.concat(items, ",")
end

-- The comment a recipe opens with.
local function header_of(recipe)
  local text = recipe and core.files and core.files.read(recipe)
  if not text then return nil end
  local lines = {}
  for line in text:gmatch("([^\n]*)\n") do
    local comment = line:match("^%-%-%s?(.*)")
    if not comment and not line:match("^#!") then break end
    if comment then lines[#lines + 1] = comment end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

local function print_help(list)
  local recipe = core.options.recipe or "recipe.lua"
  local header = header_of(core.options.recipe)
  if header then print(header .. "\n") end
  print(("usage: dopl %s [--param value ...]\n"):format(recipe))
  local width = 0
  for _, entry in ipairs(list) do width = math.max(width, #entry.name) end
  for _, entry in ipairs(list) do
    print(("  --%-" .. width .. "s  %s%s(default: %s)"):format(entry.name,
      entry.help and entry.help .. " " or "", entry.help and "" or entry.type .. " ",
      show(entry.default)))
  end
end

-- Reads the arguments after the recipe's name into { [entry] = value }.
local function read(list, args)
  local by_name, names = {}, {}
  for _, entry in ipairs(list) do
    by_name[entry.name] = entry
    names[#names + 1] = entry.name
  end
  local given, i = {}, 1
  while args[i] do
    local word = args[i]
    if word == "--help" or word == "-h" then
      print_help(list)
      usage(0)
    end
    local name, value = word:match("^%-%-([^=]+)=(.*)$")
    name = name or word:match("^%-%-(.+)$")
    if not name then usage(2, ("'%s' given, --param value needed"):format(word)) end
    local entry, negated = by_name[name], name:match("^no%-(.+)$")
    if not entry then entry = by_name[(name:gsub("-", "_"))] end
    if not entry and negated and value == nil then
      entry = by_name[negated] or by_name[(negated:gsub("-", "_"))]
      if entry and entry.type ~= "boolean" then entry = nil end
      value = "false"
    end
    if not entry then
      usage(2, ("unknown parameter --%s%s"):format(name, suggestion(name, names)))
    end
    if entry.type == "boolean" and value == nil then
      value = "true"
    elseif value == nil then
      i = i + 1
      value = args[i]
      if value == nil then usage(2, ("--%s needs a value"):format(entry.name)) end
    end
    given[entry] = convert(entry, value)
    i = i + 1
  end
  return given
end

-- Acts on the common options as the command line does before the recipe starts.
local function apply_common(entry, value)
  if entry.name == "device" then
    local ok, message = pcall(core.device, value)
    if not ok then usage(value:find("^cuda") and 1 or 2, "--" .. tostring(message):match "device.*") end
  elseif entry.name == "threads" then
    if value < 1 or value > 1024 then
      usage(2, ("--threads: %d given, 1 to 1024 needed"):format(value))
    end
    if core.threads then core.threads(value) end
  elseif entry.name == "seed" and value < 0 then
    usage(2, ("--seed: %d given, 0 or more needed"):format(value))
  elseif (entry.name == "out" or entry.name == "resume") and value == "" then
    usage(2, ("--%s: the name of a folder is needed"):format(entry.name))
  end
  core.options[entry.name] = value
end

-- ---- --resume

-- Whether an option stands before the recipe's name.
local function stands_before(name)
  local words, i = rawget(_G, "arg") or {}, -1
  while words[i] do
    if words[i] == "--" .. name or words[i]:find("--" .. name .. "=", 1, true) == 1 then
      return true
    end
    i = i - 1
  end
  return false
end

local function same(a, b)
  return a == b or type(a) == "table" and json.encode(a) == json.encode(b)
end

-- The values a run has, by entry. What is given besides must be the same.
local function values_of(run, list, given)
  if core.files.exists(run .. "/run.json") ~= "file" then
    usage(2, ("--resume %s: there is no run in this folder"):format(run))
  end
  local saved, reason = json.read(run .. "/params.json")
  if reason then usage(2, ("--resume %s: %s"):format(run, reason)) end
  local values = {}
  for _, entry in ipairs(list) do
    local value = saved
    for _, key in ipairs(entry.path) do
      if type(value) == "table" then value = value[key] else value = nil end
    end
    if not entry.passing then
      if value == nil then
        usage(2, ("--resume %s: the run has no parameter %s: another version of the recipe began it")
          :format(run, entry.name))
      end
      local word = given[entry]
      if word == nil and entry.common and stands_before(entry.name) then word = entry.default end
      if word ~= nil and entry.machine then
        value = word
      elseif word ~= nil and not same(word, value) then
        usage(2, ("--%s %s: the run %s has %s; beside --resume no other value can be given"):format(
          entry.name, show(word), run, show(value)))
      end
      values[entry] = value
    end
  end
  return values
end

--- Declares the parameters and reads them from the command line (the global `arg`).
-- @tparam table declared defaults by name
-- @tparam[opt] {string,...} args instead of the command line's
-- @treturn table values by name
function params.declare(declared, args)
  check.type("dopl.params", declared, "table", 4)
  local list, own = {}, {}
  declare(list, declared, "", {})
  for _, entry in ipairs(list) do own[entry.name] = true end
  for _, row in ipairs(core.option_rows) do
    local name, default = row.name, core.options[row.name]
    if not own[name] and default ~= nil then
      list[#list + 1] = { name = name, path = { name }, default = default, common = true,
        type = row.type, help = row.text, passing = PASSING[name], machine = MACHINE[name] }
    end
  end
  local words = rawget(_G, "arg")
  if not words or words[-1] == nil then words = {} end -- no recipe: what is there is the program's
  local given = read(list, args or words)
  for _, entry in ipairs(list) do
    if entry.passing and given[entry] ~= nil then apply_common(entry, given[entry]) end
  end
  local run = core.options.resume or ""
  if run ~= "" then given = values_of(run, list, given) end
  local result = {}
  for _, entry in ipairs(list) do
    local value = given[entry]
    if value == nil then value = entry.default end
    if entry.common and given[entry] ~= nil then apply_common(entry, value) end
    local group = result
    for i = 1, #entry.path - 1 do
      group[entry.path[i]] = group[entry.path[i]] or {}
      group = group[entry.path[i]]
    end
    if not entry.passing then group[entry.path[#entry.path]] = value end
  end
  for key, value in pairs(declared) do -- groups without fields
    if type(value) == "table" and result[key] == nil then result[key] = {} end
  end
  resolved = result
  return result
end

--- What the recipe's parameters came to; nil before it declared any.
-- @treturn ?table
function params.resolved()
  return resolved
end

return setmetatable(params, { __call = function(_, declared, args)
  return (params.declare(declared, args)) -- no tail call: errors name the caller's line
end })
