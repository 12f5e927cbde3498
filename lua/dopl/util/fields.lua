--- util/fields.lua - typed descriptions of options.
--
-- A function that takes a table of options describes each field once:
--
--     local SPLIT <const> = check.fields("data.authors.split", {
--       forget = { type = "number", above = 0, default = 1, "how many authors, or a fraction" },
--       task = { type = "integer", min = 1, default = 1, "task 2 forgets the next authors" },
--     })
--
--     function authors.split(rows, options)
--       local o = check.options(SPLIT, options)
--
-- `check.options` fills in defaults and refuses what does not fit; `dopl.help`, the reference and the
-- files for editors read the same description. A field may say:
--
--     [1]        what it is; required
--     type       a Lua type, "integer", "callable" or "list"; several are separated by "|"; taken from
--                the default if there is one
--     default    the value if none is given. A table is copied. A default of false also allows false
--     required   true: it must be given. A field without it and without a default may stay nil
--     min, max   bounds of a number, inclusive; `above` is an exclusive lower bound
--     choice     a list of all allowed values
--     has        a field that the value must have; [1] then says what has it: "one of models.new"
--     of         what a list holds: a type, or a description made by check.fields
--     fields     the description of a table of options inside this one
--     shown      the default as help prints it, if it is not a plain value
-- @module dopl.util.fields

local core = require "dopl.core"

local fields = {}

local Fields = { __name = "fields" }

--- All descriptions, by the public name of the function that takes the options.
fields.known = {}

local KEYS <const> = { type = true, default = true, required = true, min = true, max = true,
  above = true, choice = true, has = true, of = true, fields = true, shown = true }

--- A value as a message shows it.
-- @param value
-- @treturn string
function fields.show(value)
  local kind = type(value)
  if kind == "number" or kind == "boolean" then return tostring(value) end
  if kind == "string" then return ("the string '%s'"):format(value:sub(1, 40)) end
  if kind == "nil" then return kind end
  return "a " .. kind
end

-- The smallest key that makes a table no list, as text; nil if it is one.
local function stray_key(list)
  local first
  for key in pairs(list) do
    if math.type(key) ~= "integer" or key < 1 or key > #list then
      local text = tostring(key)
      if not first or text < first then first = text end
    end
  end
  return first
end
fields.stray_key = stray_key

local function is_one(value, want)
  if type(value) == want then return true end
  if want == "integer" then return math.type(value) == "integer" end
  if want == "list" then return type(value) == "table" end -- accept() looks at its keys
  if want ~= "callable" then return false end
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Whether a value is of a type.
-- @param value
-- @tparam string kind a Lua type, "integer", "callable" or "list"; several are separated by "|"
-- @treturn boolean
function fields.is_a(value, kind)
  for want in kind:gmatch "[^|]+" do
    if is_one(value, want) then return true end
  end
  return false
end

--- Whether a value has a field.
function fields.has(value, field)
  local kind = type(value)
  if kind ~= "table" and kind ~= "userdata" then return false end
  local ok, found = pcall(function() return value[field] end)
  return ok and found ~= nil
end

--- What to say after an unknown name: the one that may be meant, or all of them.
-- @param word what was given
-- @tparam {string,...} names
-- @treturn string in parentheses
function fields.suggestion(word, names)
  local near = type(word) == "string" and core.nearest(word, names)
  if near then return ("(did you mean '%s'?)"):format(near) end
  if #names == 0 then return "(there is none)" end
  return ("(there is '%s')"):format(table.concat(names, "', '"))
end

local NOUNS <const> = {
  integer = "an integer", number = "a number", string = "a string", boolean = "true or false",
  table = "a table", list = "a list", ["function"] = "a function", callable = "a function",
  userdata = "a tensor", ["nil"] = "nil",
}

local function plural(kind)
  return kind == "boolean" and "booleans" or kind .. "s"
end

-- A value that fits, in words: "an integer from 1 to 2000".
local function needed(field)
  if field.has then return field[1] end
  local nouns = {}
  for kind in field.type:gmatch "[^|]+" do nouns[#nouns + 1] = NOUNS[kind] end
  local text = table.concat(nouns, " or ")
  if type(field.of) == "string" then text = "a list of " .. plural(field.of) end
  if field.above then
    text = ("%s above %s"):format(text, field.above)
    if field.max then text = ("%s and at most %s"):format(text, field.max) end
  elseif field.min and field.max then
    text = ("%s from %s to %s"):format(text, field.min, field.max)
  elseif field.min or field.max then
    text = ("%s of %s %s"):format(text, field.min and "at least" or "at most", field.min or field.max)
  end
  return text
end

local function in_range(field, value)
  return value == value and (not field.min or value >= field.min)
    and (not field.max or value <= field.max) and (not field.above or value > field.above)
end

local function accept_list(field, list)
  local stray = stray_key(list)
  if stray then return nil, ("a list has no field '%s'"):format(stray) end
  if not field.of then return list end
  local out = {}
  for i, item in ipairs(list) do
    if type(field.of) == "string" then
      if not fields.is_a(item, field.of) then
        return nil, ("element %d: %s, needs %s"):format(i, fields.show(item), NOUNS[field.of])
      end
      out[i] = item
    else
      local message
      out[i], message = fields.read(field.of, item, ("element %d"):format(i))
      if message then return nil, message end
    end
  end
  return out
end

-- The value as the function gets it, or nil and what is wrong with it.
local function accept(field, value)
  if field.default == false and value == false then return value end
  if field.choice then
    for _, allowed in ipairs(field.choice) do
      if value == allowed then return value end
    end
    return nil, ("'%s' %s"):format(tostring(value), fields.suggestion(value, field.choice))
  end
  if field.type == "integer" and math.type(value) == "float" then -- 1e3 is one
    value = math.tointeger(value) or value
  end
  if field.has and not fields.has(value, field.has) or not fields.is_a(value, field.type)
    or type(value) == "number" and not in_range(field, value) then
    return nil, ("%s, needs %s"):format(fields.show(value), needed(field))
  end
  if field.fields then return fields.read(field.fields, value, "") end
  if field.type == "list" then return accept_list(field, value) end
  return value
end

local function copy(value)
  if type(value) ~= "table" or getmetatable(value) then return value end
  local out = {}
  for key, item in pairs(value) do out[key] = item end -- the order changes nothing
  return out
end

--- What is wrong with a table of options as such, or with the names of its fields.
-- @param given
-- @tparam {string,...} names of the fields that it may have, in byte order
-- @treturn ?string nil if nothing is
function fields.wrong_names(given, names)
  if type(given) ~= "table" then return ("a %s, a table of options is needed"):format(type(given)) end
  local known, unknown, nameless = {}, nil, nil
  for _, name in ipairs(names) do known[name] = true end
  for key in pairs(given) do -- of several that are wrong, the same one in every run
    if type(key) ~= "string" then
      nameless = nameless or key
    elseif not known[key] and (not unknown or key < unknown) then
      unknown = key
    end
  end
  if unknown then
    return ("unknown field '%s' %s"):format(unknown, fields.suggestion(unknown, names))
  end
  if nameless ~= nil then
    return ("a field named by a %s (%s), names are needed %s"):format(type(nameless),
      tostring(nameless), fields.suggestion(nameless, names))
  end
end

local function joined(where, what)
  return where == "" and what or where .. ": " .. what
end

--- Fills in defaults and looks at every field.
-- @tparam Fields self
-- @tparam ?table given never changed
-- @tparam[opt] string where what the options are for, in messages; "" leaves it out
-- @treturn ?table a new table with every field set
-- @treturn ?string what is wrong
function fields.read(self, given, where)
  where = where or self.name
  given = given == nil and {} or given
  local wrong = fields.wrong_names(given, self.names)
  if wrong then return nil, joined(where, wrong) end
  local out = {}
  for _, name in ipairs(self.names) do
    local field, value = self.by_name[name], given[name]
    if value == nil and field.required then
      return nil, joined(where, ("'%s' is missing (%s)"):format(name, field[1]))
    elseif value == nil and field.fields then
      value = {}
    elseif value == nil then
      value = copy(field.default)
      out[name] = value
      goto continue
    end
    out[name], wrong = accept(field, value)
    if wrong then return nil, joined(where, name .. ": " .. wrong) end
    ::continue::
  end
  return out
end

-- The type of a field that does not say.
local function type_of(where, field)
  local default = field.default
  if field.type then return field.type end
  if field.of then return "list" end
  if field.fields then return "table" end
  if field.has then return "table|userdata" end
  if field.choice then return type(field.choice[1]) end
  if math.type(default) == "integer" then return "integer" end
  if default == nil or default == false then
    if default == false then return "boolean" end
    error(("check.fields: %s: give its type"):format(where), 4)
  end
  return type(default)
end

--- Describes the options of a function; see the top of this file.
-- @tparam string name the function's public name: "data.authors.split"
-- @tparam table described descriptions by field
-- @treturn Fields for `check.options`
function fields.new(name, described)
  local self = { name = name, names = {}, by_name = {} }
  for key, field in pairs(described) do
    local where = name .. "." .. key
    if type(field) ~= "table" or type(field[1]) ~= "string" then
      error(("check.fields: %s: say what it is: { ..., \"text\" }"):format(where), 2)
    end
    for said in pairs(field) do
      if said ~= 1 and not KEYS[said] then
        error(("check.fields: %s: no such property '%s'"):format(where, tostring(said)), 2)
      end
    end
    self.names[#self.names + 1] = key
    self.by_name[key] = copy(field)
    self.by_name[key].type = type_of(where, field)
  end
  table.sort(self.names)
  setmetatable(self, Fields)
  if name ~= "" then fields.known[name] = self end
  return self
end

--- Whether a value was made by `check.fields`.
function fields.is(value) return getmetatable(value) == Fields end

-- A value as Lua source would write it; nil for what has no short form.
local function literal(value)
  if type(value) == "string" then return ("%q"):format(value):gsub("\\\n", "\\n") end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  if type(value) ~= "table" or #value > 8 then return nil end
  local parts = {}
  for i, item in ipairs(value) do parts[i] = literal(item) end
  for _ in pairs(value) do
    if #parts ~= #value then return nil end
  end
  if next(value) ~= nil and #value == 0 then return nil end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

--- The default of a field as help prints it; nil if it has none or it cannot be shown.
-- @tparam table field
-- @treturn ?string
function fields.default_text(field)
  if field.shown then return field.shown end
  if field.default == nil then return nil end
  return (literal(field.default))
end

--- The type of a field: `integer`, `string[]`, `"linear"|"none"`, `list`.
-- @tparam table field
-- @treturn string
function fields.type_text(field)
  local text
  if field.choice then
    local parts = {}
    for i, value in ipairs(field.choice) do parts[i] = literal(value) end
    text = table.concat(parts, "|")
  elseif type(field.of) == "string" then
    text = field.of .. "[]"
  else
    text = field.type:gsub("callable", "function"):gsub("userdata", "tensor")
  end
  if field.default == false and field.type ~= "boolean" then text = text .. "|false" end
  return text
end

--- The bounds of a field in words: "at least 1"; nil if it has none.
-- @tparam table field
-- @treturn ?string
function fields.range_text(field)
  if field.above then
    return ("above %s"):format(field.above) .. (field.max and (", at most %s"):format(field.max) or "")
  end
  if field.min and field.max then return ("%s to %s"):format(field.min, field.max) end
  if field.min then return ("at least %s"):format(field.min) end
  return field.max and ("at most %s"):format(field.max)
end

return fields
