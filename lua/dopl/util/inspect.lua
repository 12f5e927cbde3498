--- util/inspect.lua - values as text that a person can read, for the prompt and `print`.
-- @module dopl.util.inspect

local core = require "dopl.core"

local inspect = {}

local WIDTH = 96          -- a table that fits is shown on one line
local MAX_DEPTH = 4       -- of nested tables
local MAX_FIELDS = 40     -- of one table
local MAX_SHOWN = 48      -- a tensor with more elements is summarised
local EDGES = { 3, 3, 2, 1 } -- of a dimension's elements, in a summary: at the start and at the end, by
                          -- the number of dimensions
local MAX_COPIED = 1 << 24 -- elements fetched from a device to be looked through
local MAX_VISITED = 100000 -- elements looked at for the statistics

-- Short, and never taken for an integer.
local function number(x)
  if math.type(x) == "integer" or x ~= x then return tostring(x) end
  local text = ("%.5g"):format(x)
  return text
end

-- { {1, 2, 3}, {4, 5, 6} }; `first` is the index of the first element, `size` elements are below.
local function tensor_body(t, shape, level, first, size)
  if level > #shape then return number(t:at(first)) end
  local n, below, parts = shape[level], size // math.max(1, shape[level]), {}
  local edge = EDGES[#shape]
  if t:numel() <= MAX_SHOWN or n <= 2 * edge + 1 then edge = n end
  for i = 1, math.min(n, edge) do
    parts[i] = tensor_body(t, shape, level + 1, first + (i - 1) * below, below)
  end
  if edge < n then parts[edge + 1] = "..." end
  for i = math.max(edge, n - edge) + 1, n do
    parts[#parts + 1] = tensor_body(t, shape, level + 1, first + (i - 1) * below, below)
  end
  if level == #shape then return "{" .. table.concat(parts, ", ") .. "}" end
  local indent = "\n  " .. ("  "):rep(level)
  local joined = "{ " .. table.concat(parts, ", ") .. " }"
  if #joined <= WIDTH then return joined end
  return "{ " .. table.concat(parts, "," .. indent) .. " }"
end

local function statistics(t)
  local n = t:numel()
  local step = math.max(1, n // MAX_VISITED)
  local sum, count, nans, low, high = 0, 0, 0, math.huge, -math.huge
  for i = 1, n, step do
    local x = t:at(i)
    if x ~= x then
      nans = nans + 1
    else
      sum, count = sum + x, count + 1
      if x < low then low = x end
      if x > high then high = x end
    end
  end
  local text = count == 0 and "" or ("mean %s, min %s, max %s"):format(number(sum / count),
    number(low), number(high))
  if nans > 0 then text = text .. ("%s%d NaN"):format(text == "" and "" or ", ", nans) end
  if step > 1 then text = text .. (" (of every %dth element)"):format(step) end
  return text
end

-- Type and shape, and the device where it is not the CPU.
local function head_of(t)
  local device = t:device()
  return ("tensor %s [%s]%s"):format(t:dtype(), table.concat(t:shape(), ", "),
    device == "cpu" and "" or " on " .. device)
end

local function tensor_text(t, head)
  local body = tensor_body(t, t:shape(), 1, 1, t:numel())
  if t:numel() <= MAX_SHOWN then return head .. " " .. body end
  local about = (t:device() == "cpu" or t:numel() <= MAX_COPIED) and statistics(t) or ""
  return ("%s  %s\n  %s"):format(head, about, body)
end

--- A tensor: type, shape, device, elements; a large one as its edges and mean, min, max. It is what
-- `tostring` gives.
-- @tparam tensor t
-- @treturn string
function inspect.tensor(t)
  local head = head_of(t)
  if t:numel() == 0 then return head .. " {}" end
  if t:device() == "cpu" or t:numel() > MAX_COPIED then return tensor_text(t, head) end
  local _ <close> = core.no_grad()
  local here <close> = t:to "cpu" -- once, not element by element
  return tensor_text(here, head)
end

local function key_text(key)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") then return key end
  if type(key) == "string" then return ("[%q]"):format(key) end
  return "[" .. tostring(key) .. "]"
end

-- Keys in an order that does not change: numbers, then strings, then the rest by type.
local function ordered_keys(t, n_array)
  local keys = {}
  for key in next, t do
    local in_array = math.type(key) == "integer" and key >= 1 and key <= n_array
    if not in_array then keys[#keys + 1] = key end
  end
  local function rank(key)
    return type(key) == "number" and 1 or type(key) == "string" and 2 or 3
  end
  table.sort(keys, function(a, b)
    local ra, rb = rank(a), rank(b)
    if ra ~= rb then return ra < rb end
    if ra == 3 then return tostring(a) < tostring(b) end
    return a < b
  end)
  return keys
end

local render

local function render_table(t, depth, open)
  if open[t] then return "<itself, " .. open[t] .. " up>" end
  local meta = getmetatable(t)
  if type(meta) == "table" and meta.__tostring then return tostring(t) end
  if next(t) == nil then return "{}" end
  if depth >= MAX_DEPTH then return "{...}" end
  for outer in pairs(open) do open[outer] = open[outer] + 1 end
  open[t] = 1
  local n_array, parts = rawlen(t), {}
  for i = 1, math.min(n_array, MAX_FIELDS) do
    parts[#parts + 1] = render(rawget(t, i), depth + 1, open)
  end
  local left_out = math.max(0, n_array - MAX_FIELDS)
  for _, key in ipairs(ordered_keys(t, n_array)) do
    if #parts < MAX_FIELDS then
      parts[#parts + 1] = key_text(key) .. " = " .. render(rawget(t, key), depth + 1, open)
    else
      left_out = left_out + 1
    end
  end
  if left_out > 0 then parts[#parts + 1] = ("... %d more"):format(left_out) end
  open[t] = nil
  for outer in pairs(open) do open[outer] = open[outer] - 1 end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #line + 2 * depth <= WIDTH and not line:find("\n") then return line end
  local indent = ("  "):rep(depth + 1)
  return "{\n" .. indent .. table.concat(parts, ",\n" .. indent) .. "\n" .. ("  "):rep(depth) .. "}"
end

render = function(value, depth, open)
  local kind = type(value)
  if kind == "string" then
    return depth == 0 and value or (("%q"):format(value):gsub("\\\n", "\\n"))
  end
  if kind == "number" then return depth == 0 and tostring(value) or number(value) end
  if core.is_tensor(value) then return depth == 0 and inspect.tensor(value) or head_of(value) end
  if kind == "table" then return render_table(value, depth, open) end
  return tostring(value)
end

--- Any value as text.
-- @param value
-- @treturn string
function inspect.text(value)
  return render(value, 0, {})
end

--- Prints values, each on its own line.
function inspect.print(...)
  for i = 1, select("#", ...) do print(inspect.text((select(i, ...)))) end
end

return inspect
