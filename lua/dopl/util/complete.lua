--- util/complete.lua - what the Tab key knows at the prompt.
-- @module dopl.util.complete

local MAX_DEPTH = 5 -- of metatables whose __index is a table
local MAX_LISTED = 60

local function names_into(set, value, metatable_of, depth)
  if type(value) == "table" then
    local key = next(value)
    while key ~= nil do
      if type(key) == "string" and key:find("^[%a_][%w_]*$") then set[key] = true end
      key = next(value, key)
    end
  end
  local meta = metatable_of(value)
  if not meta or depth > MAX_DEPTH then return end
  local more = rawget(meta, "__names") -- names that __index makes on demand
  if type(more) == "function" then
    for _, name in ipairs(more()) do set[name] = true end
  end
  local index = rawget(meta, "__index")
  if type(index) == "table" then
    names_into(set, index, metatable_of, depth + 1)
  elseif type(index) == "function" and type(value) == "userdata" then
    names_into(set, meta, function() end, depth) -- methods kept in the metatable itself
  end
end

local function resolve(globals, path, metatable_of)
  local value = globals
  for name in path:gmatch("[%w_]+") do
    local known = {}
    names_into(known, value, metatable_of, 0)
    if not known[name] then return nil end
    local ok, field = pcall(function() return value[name] end)
    if not ok then return nil end
    value = field
  end
  return value
end

local function common_prefix(words)
  local prefix = words[1]
  for _, word in ipairs(words) do
    while word:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
  end
  return prefix
end

--- Completes the name that ends a line.
-- @tparam table globals
-- @tparam string line up to the cursor
-- @tparam function metatable_of
-- @treturn string what to insert; may be empty
-- @treturn string the candidates, where nothing can be inserted and there are several
local function complete(globals, line, metatable_of)
  local path, start = line:match("([%w_%.:]-)([%w_]*)$")
  if path == "" and start == "" then return "", "" end
  local value = resolve(globals, path, metatable_of)
  if value == nil then return "", "" end
  local set, words = {}, {}
  names_into(set, value, metatable_of, 0)
  for name in pairs(set) do
    local hidden = name:sub(1, 2) == "__" and start == ""
    if name:sub(1, #start) == start and not hidden then words[#words + 1] = name end
  end
  if #words == 0 then return "", "" end
  table.sort(words)
  local rest = common_prefix(words):sub(#start + 1)
  if rest ~= "" or #words == 1 then return rest, "" end
  local listed = table.concat(words, "  ", 1, math.min(#words, MAX_LISTED))
  if #words > MAX_LISTED then listed = listed .. ("  ... (%d in all)"):format(#words) end
  return "", listed
end

return complete
