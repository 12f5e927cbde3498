--- data/overlap.lua - rows that are in both the forget set and the retain set.
--
-- The comparison ignores case, the number of blanks, and Unicode normal forms.
-- @module dopl.data.overlap

local text = require "dopl.text"

local overlap = {}

local function form(str)
  return (text.fold(str):gsub("\u{a0}", " "):gsub("%s+", " "):match "^ ?(.-) ?$")
end

-- The text of a row; nil for a sample without a row.
local function key_of(sample)
  local row = sample.row or sample
  if type(row.question) ~= "string" or type(row.answer) ~= "string" then return nil end
  return form(row.question) .. "\0" .. form(row.answer)
end

--- The number of rows of one list that are also in another.
-- @tparam {table,...} rows or samples of dopl.data.samples
-- @tparam {table,...} others
-- @treturn integer how many of `others`
function overlap.count(rows, others)
  local known, n = {}, 0
  for _, row in ipairs(rows) do
    local key = key_of(row)
    if key then known[key] = true end
  end
  for _, row in ipairs(others) do
    if known[key_of(row) or 1] then n = n + 1 end
  end
  return n
end

local told = setmetatable({}, { __mode = "k" }) -- by list, the lists that it was compared with

--- Notes once how many rows two lists share, if any.
-- @tparam table list { name =, samples = }
-- @tparam table other the same
-- @tparam function note
function overlap.tell(list, other, note)
  local known = told[list.samples] or setmetatable({}, { __mode = "k" })
  if known[other.samples] then return end
  told[list.samples], known[other.samples] = known, true
  local n = overlap.count(list.samples, other.samples)
  if n > 0 then
    note(("%d of %d rows of '%s' are also in '%s' (ignoring case, blanks and Unicode normal "
      .. "forms)"):format(n, #other.samples, other.name, list.name))
  end
end

return overlap
