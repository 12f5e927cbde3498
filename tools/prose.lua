-- prose.lua - the checks of tools/prose, which runs this file with the built dopl.
--
-- In Markdown it reads paragraphs, list items, table cells and headings. In code it reads comments and
-- strings that hold more than one word. It ignores code between backquotes, and words that are part of
-- a name such as `batch.twin`. It also follows the links between pages of Markdown.

local LONGEST <const> = 40 -- words in a sentence of the docs

-- Nouns that make an adjective of "training": "a training run" is fine, "a training" is not.
local after_training = {}
for noun in ([[run runs step steps loop loops set sets data batch batches loss losses row rows script
  objective epoch epochs example examples process processes state curve curves time]]):gmatch "%S+" do
  after_training[noun] = true
end

local function not_a_noun(rest) return not after_training[rest:match "^%s+(%a+)" or ""] end

local function not_there(_, before) return not before:find "there%s+$" end

local function not_apart(rest) return not rest:find "^%s+apart" end

-- Each rule: a pattern of lower-case text, what to write instead, and optionally a function of the text
-- after and before the match that confirms the find. A blank in a pattern matches any space.
local rules = {
  { "an? training", "training run", not_a_noun },
  { "each training", "each training run", not_a_noun },
  { "every training", "every training run", not_a_noun },
  { "another training", "another training run", not_a_noun },
  { "trainings", "training runs" },
  { "go on with", "continue, resume" },
  { "goes on with", "continues, resumes" },
  { "going on with", "continuing, resuming" },
  { "gone on with", "resumed, continued" },
  { "went on with", "continued, resumed" },
  { "anew", "again, from scratch" },
  { "amid", "among, in" },
  { "of its own", "its own X, a separate X" },
  { "of their own", "their own X, separate X" },
  { "of your own", "your own X" },
  { "of our own", "our own X" },
  { "is told", "gets, is given, learns", not_apart },
  { "are told", "get, are given, learn", not_apart },
  { "was told", "got, was given" },
  { "tells", "says, shows, returns, reports" },
  { "what %a+ came to", "the result" },
  { "what there is", "name the thing" },
  { "that are there", "name them" },
  { "is none", "is not an X, has no X", not_there },
  { "are none", "are not Xs, have no X", not_there },
  { "another than", "different from" },
  { "dither%a*", "stochastic rounding" },
  { "ceilings?", "roofline, limit" },
  { "microscope", "diagnostics" },
  { "before paying", "planning, estimating cost" },
  { "paid for", "before it runs" },
  { "twins?", "refusal pair, counterpart" },
  { "for want of", "without, for lack of" },
  { "in the place of", "instead of" },
  { "dearer", "more expensive" },
  { "is dear", "is expensive" },
  { "hangs? on", "depends on" },
}
for _, rule in ipairs(rules) do rule[1] = "()" .. rule[1]:gsub(" ", "%%s+") .. "()" end

-- Absolute paths of one machine. A path in the docs starts in the repository.
local machine_paths = { "/home/%w", "/root/%w", "/Users/%w", "/mnt/%w" }

-- A heading that begins like this is a sentence or a question, not a topic.
local sentence_openings = {}
for word in ("what when where which who why how if those that is are does do"):gmatch "%a+" do
  sentence_openings[word] = true
end

local failed = false
local todo = {} -- lines of tools/prose_todo: a path, a folder that ends in "/", or "path: text"

local function is_todo(path, text)
  for _, entry in ipairs(todo) do
    local file, part = entry:match "^(.-): (.+)$"
    file = file or entry
    local same = path == file or file:sub(-1) == "/" and path:sub(1, #file) == file
    if same and (not part or text and text:find(part, 1, true)) then return true end
  end
  return false
end

local function complain(path, line, text, word, instead)
  if is_todo(path, text) then return end
  failed = true
  print(("%s:%d: %s: %s"):format(path, line, word, instead))
end

-- Whether the word between two places is part of a name: batch.twin, "anew", --twin.
local function is_name(text, first, last)
  local before, after = text:sub(first - 1, first - 1), text:sub(last, last + 1)
  return before:find "[%w_./'\"%-]" ~= nil and first > 1 or after:find "^[%w_('\"=]" ~= nil
    or after == " =" or after:find "^%.%w" ~= nil
end

-- Text that may span lines: `line_at` gives the line of a byte.
local function check_words(path, text, line_at)
  text = text:lower():gsub("`[^`]*`", function(code) return (" "):rep(#code) end)
  for _, rule in ipairs(rules) do
    for first, last in text:gmatch(rule[1]) do
      if not is_name(text, first, last) and (not rule[3]
        or rule[3](text:sub(last), text:sub(1, first - 1))) then
        local word = text:sub(first, last - 1):gsub("%s+", " ")
        complain(path, line_at(first), text, word, rule[2])
      end
    end
  end
end

-- A block is a list of { line, text } that belong together.
local function joined(block)
  local parts, starts, n = {}, {}, 1
  for i, piece in ipairs(block) do
    parts[i], starts[i] = piece[2], n
    n = n + #piece[2] + 1
  end
  local function line_at(place)
    for i = #starts, 1, -1 do
      if starts[i] <= place then return block[i][1] end
    end
  end
  return table.concat(parts, "\n"), line_at
end

local function check_sentences(path, text, line_at)
  text = text:gsub("`[^`]*`", function(code) return ("x"):rep(#code) end)
  text = text:gsub("%f[%a][ei]%.[ge]%.", "xxxx"):gsub("%](%b())", function(link)
    return "]" .. ("x"):rep(#link)
  end)
  local first = 1
  while first <= #text do
    local last = text:find("[.?!:][*)\"]*%f[%s%z]", first) or #text
    local words = 0
    for _ in text:sub(first, last):gmatch "%S*%a%S*" do words = words + 1 end
    if words > LONGEST then
      local start = text:find("%S", first)
      complain(path, line_at(start), text, ("sentence of %d words"):format(words),
        ("at most %d: make it several"):format(LONGEST))
    end
    first = last + 1
  end
end

local function check_heading(path, line, heading)
  local opening = heading:match "^%a+"
  if sentence_openings[(opening or ""):lower()] or heading:find "[.?!:]$" then
    complain(path, line, heading, "heading '" .. heading .. "'", "name a topic or a task")
  end
end

local function check_block(path, block, sentences)
  if #block == 0 then return end
  local text, line_at = joined(block)
  check_words(path, text, line_at)
  if sentences then check_sentences(path, text, line_at) end
end

-- The anchors of a page, as GitHub makes them of headings.
local function anchors_of(path)
  local file <close> = assert(io.open(path))
  local anchors = {}
  for line in file:lines() do
    local heading = line:match "^#+%s+(.*)"
    if heading then anchors[heading:lower():gsub("[^%w%s_-]", ""):gsub(" ", "-")] = true end
  end
  return anchors
end

local function check_links(path, line, text)
  for target in text:gmatch "%]%(([^)]+)%)" do
    if not target:find "^%a+://" then
      local file, anchor = target:match "^([^#]*)#?(.*)$"
      local whole = file == "" and path or (path:match "^.*/" or "") .. file
      local opened <close> = io.open(whole)
      if not opened then
        complain(path, line, text, "link to " .. file, "there is no such file")
      elseif anchor ~= "" and not anchors_of(whole)[anchor] then
        complain(path, line, text, "link to " .. target, "the page has no such heading")
      end
    end
  end
end

local function check_markdown(path, lines)
  local block, fenced = {}, false
  local function finish(sentences)
    check_block(path, block, sentences)
    block = {}
  end
  for i, line in ipairs(lines) do
    if line:find "^```" then fenced = not fenced end
    local heading = line:match "^#+%s+(.*)"
    if not fenced and not line:find "^    " then check_links(path, i, line) end
    if fenced or line:find "^    " or line:find "^%s*$" then
      finish(true)
    elseif heading then
      finish(true)
      check_heading(path, i, heading)
      check_block(path, { { i, heading } })
    elseif line:find "^|" then
      finish(true)
      for cell in line:gmatch "[^|]+" do check_block(path, { { i, cell } }, true) end
    else
      if line:find "^%s*[%-*] " or line:find "^%s*%d+%. " then finish(true) end
      block[#block + 1] = { i, line }
    end
  end
  finish(true)
end

-- How the languages write comments and strings.
local lua <const> = { comment = "--", quotes = "[\"']", long = true }
local c_like <const> = { comment = "//", quotes = '"', characters = true }
local python <const> = { comment = "#", quotes = "[\"']" }
local languages = { lua = lua, py = python, c = c_like, h = c_like, cu = c_like,
  cuh = c_like, cpp = c_like, def = c_like }

-- Comments and strings of code. Comments on consecutive lines are one block. So are strings on
-- consecutive lines, as a long message is written.
local function check_code(path, source, language)
  local block, line, at = {}, 1, 1
  local last_line, last_kind
  local function add(kind, text)
    if kind ~= last_kind or line > (last_line or 0) + 1 then
      check_block(path, block)
      block = {}
    end
    for piece in (text .. "\n"):gmatch "(.-)\n" do
      block[#block + 1] = { line, piece }
      line = line + 1
    end
    line = line - 1
    last_line, last_kind = line, kind
  end
  local function skip(text) for _ in text:gmatch "\n" do line = line + 1 end end
  while at <= #source do
    local c = source:sub(at, at)
    local level = language.long and source:match("^%-?%-?%[(=*)%[", at)
    if level then
      local is_comment = c == "-"
      local _, last = source:find("]" .. level .. "]", at, true)
      last = last or #source
      add(is_comment and "comment" or "string", source:sub(at, last))
      at = last + 1
    elseif source:sub(at, at + #language.comment - 1) == language.comment then
      local last = (source:find("\n", at, true) or #source + 1) - 1
      add("comment", (source:sub(at, last):gsub("^[%-/#!]+", " ")))
      at = last + 1
    elseif c:find(language.quotes) then
      local last = at + 1
      while last <= #source and source:sub(last, last) ~= c do
        if source:sub(last, last) == "\\" then last = last + 1 end
        last = last + 1
      end
      local text = source:sub(at + 1, last - 1)
      if text:find "%a%s" or text:find "%s%a" then
        add("string", (text:gsub("\\[nt]", "  ")))
      else
        skip(text)
      end
      at = last + 1
    elseif c == "'" and language.characters then
      local _, last = source:find("^'\\?.'", at)
      at = (last or at) + 1
    else
      if c == "\n" then line = line + 1 end
      at = at + 1
    end
  end
  check_block(path, block)
end

local function check_paths(path, lines)
  for i, line in ipairs(lines) do
    for _, pattern in ipairs(machine_paths) do
      local found = (" " .. line):match("[^%w._]()" .. pattern)
      if found then
        local name = line:match("^[%w/._-]*", found - 1)
        complain(path, i, line, name, "a path of one machine: leave it out")
      end
    end
  end
end

local function check_file(path)
  local file <close> = assert(io.open(path, "rb"))
  local source, lines = file:read "a", {}
  for line in (source .. "\n"):gmatch "(.-)\r?\n" do lines[#lines + 1] = line end
  local language = languages[path:match "%.(%a+)$"]
  if language then
    check_code(path, source, language)
  elseif path:find "%.md$" then
    check_markdown(path, lines)
  else -- scripts: whole lines, comments and messages alike
    for i, line in ipairs(lines) do check_block(path, { { i, line } }) end
  end
  check_paths(path, lines)
end

local list = io.open(os.getenv "DOPL_PROSE_TODO" or "tools/prose_todo")
if list then
  for line in list:lines() do
    if line ~= "" and line:sub(1, 1) ~= "#" then todo[#todo + 1] = line end
  end
  list:close()
end
for _, path in ipairs(arg) do
  if not path:find "tools/prose" and not is_todo(path) then check_file(path) end
end
os.exit(not failed)
