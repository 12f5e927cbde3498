--- report/highlight.lua - Lua source as HTML with marked comments, strings, numbers and keywords.
-- @module dopl.report.highlight
local escape = require("dopl.report.plot").escape

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end

-- Where the long bracket that opens at `at` ends; nil where none opens there.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, stop = text:find("]" .. level .. "]", at, true)
  return stop or #text
end

-- Where the quoted string that opens at `at` ends, at the latest with its line.
local function quoted(text, at)
  local quote, i = text:sub(at, at), at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == "\\" then
      i = i + 1
    elseif c == quote or c == "\n" then
      return c == quote and i or i - 1
    end
    i = i + 1
  end
  return #text
end

-- The kind and the end of the token at `at`.
local function token(text, at)
  local c = text:sub(at, at)
  if text:sub(at, at + 1) == "--" then
    return "comment", long_bracket(text, at + 2) or (text:find("\n", at, true) or #text + 1) - 1
  elseif c == '"' or c == "'" then
    return "string", quoted(text, at)
  elseif c == "[" and long_bracket(text, at) then
    return "string", long_bracket(text, at)
  elseif c:match("%d") then
    local _, stop = text:find("^0[xX][%x.]*", at)
    if not stop then _, stop = text:find("^[%d.]+[eE][+-]?%d+", at) end
    if not stop then _, stop = text:find("^[%d.]+", at) end
    return "number", stop
  elseif c:match("[%a_]") then
    local _, stop = text:find("^[%w_]+", at)
    return KEYWORDS[text:sub(at, stop)] and "keyword" or nil, stop
  end
  local _, stop = text:find("^[^%w_%-\"'%[]+", at)
  return nil, stop or at
end

--- Marks up a source text. Other text passes unchanged, perhaps with odd colours.
-- @tparam string text
-- @treturn string HTML, to stand in a <pre>
return function(text)
  local out, at = {}, 1
  while at <= #text do
    local kind, stop = token(text, at)
    local piece = escape(text:sub(at, stop))
    out[#out + 1] = kind and ('<span class="%s">%s</span>'):format(kind, piece) or piece
    at = stop + 1
  end
  return table.concat(out)
end
