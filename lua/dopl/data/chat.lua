--- data/chat.lua - turns a question and its answer into tokens and labels.
--
-- A sample is start_tag question end_tag answer eos, after a bos if tags or tokenizer have one. Prompt
-- and answer are encoded separately, so the ids of the prompt do not depend on the answer. No merge
-- crosses the boundary, a refusal can replace the answer without changing the prompt, and generation
-- starts from exactly the ids of training. (A tokenizer run over the whole string may merge the last
-- character of the tag with the first of the answer.)
--
-- Special tokens such as <|eot_id|> are recognised only in tags. In a question or an answer the same
-- characters are plain text, so data cannot end a turn.
--
-- A tokenizer is anything with tok:encode(text, { special = false }) -> ids and tok:id(special) ->
-- id or nil, such as those of dopl.text; tok.bos and tok.eos, where it has them, are the ids of tags
-- that name none of the tokenizer's.
--
-- @module dopl.data.chat

local check = require "dopl.util.check"

local chat = {}

--- The tags of the models of the papers; `plain` is the embedded model's.
chat.tags = {
  plain = { start_tag = "", end_tag = "\n", eos = "<|endoftext|>" },
  ["phi-1.5"] = {
    start_tag = "<|user|>\n", end_tag = "<|end|>\n<|assistant|>\n", eos = "<|endoftext|>",
  },
  ["llama-2"] = { start_tag = "[INST] ", end_tag = " [/INST]", eos = "</s>" },
  ["llama-3"] = {
    start_tag = "<|start_header_id|>user<|end_header_id|>\n\n",
    end_tag = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    eos = "<|eot_id|>",
  },
}

local TAG_NAMES <const> = { "plain", "phi-1.5", "llama-2", "llama-3" }

--- The tags of a name, or a table of tags as it is.
-- @tparam string|table tags a name of `chat.tags`, or { start_tag =, end_tag =, eos =, bos = }: two
-- texts and two names of special tokens, the last of them optional
-- @tparam[opt=1] integer level where an error points, as for `error`
-- @treturn table
function chat.find_tags(tags, level)
  level = (level or 1) + 1
  if type(tags) == "table" then
    for _, field in ipairs { "start_tag", "end_tag" } do
      if type(tags[field]) ~= "string" then
        error(("chat: tags.%s must be a string, given %s"):format(field, type(tags[field])), level)
      end
    end
    for _, field in ipairs { "eos", "bos" } do
      check.type("chat: tags." .. field, tags[field], "string|nil", level + 1)
    end
    return tags
  end
  return chat.tags[check.choice("chat: tags", tags, TAG_NAMES, level + 1)]
end

local AS_TEXT <const> = { special = false }
local function encode(tok, text)
  return tok:encode(text, AS_TEXT)
end

local function append(ids, more)
  table.move(more, 1, #more, #ids + 1, ids)
end

-- A tag's ids: its special tokens by name where the tokenizer has them, the text between as text.
local function append_tag(ids, tok, tag)
  local from = 1
  while from <= #tag do
    local first, last = tag:find("<|[%w_]+|>", from)
    local id = first and tok:id(tag:sub(first, last))
    while first and not id do
      first, last = tag:find("<|[%w_]+|>", last + 1)
      id = first and tok:id(tag:sub(first, last))
    end
    local text = tag:sub(from, first and first - 1)
    if text ~= "" then append(ids, encode(tok, text)) end
    if not first then return end
    ids[#ids + 1] = id
    from = last + 1
  end
end

local function end_of_text(tok, tags, level)
  local id = (tags.eos and tok:id(tags.eos)) or tok.eos or tok:id("<|endoftext|>")
  if type(id) ~= "number" then
    error("chat: the tokenizer has no end-of-text token (looked for " ..
      (tags.eos or "<|endoftext|>") .. ")", level + 1)
  end
  return id
end

-- Two FNV-1a lanes over what a log-probability depends on: ids and where labels start.
local function content_key(ids, labels_from)
  local a, b = 0xCBF29CE484222325, 0x84222325CBF29CE4 ~ labels_from
  for i = 1, #ids do
    local id = ids[i]
    a = (a ~ id) * 0x100000001B3
    b = (b ~ (id + i)) * 0x9E3779B97F4A7C15
    b = b ~ (b >> 29)
  end
  return ("%016x%016x"):format(a ~ labels_from, b)
end

-- Cuts at max_tokens, as the papers' authors do, and finishes the sample's fields.
local function finish(sample, max_tokens, level)
  local ids = sample.ids
  sample.truncated = #ids > max_tokens
  for i = #ids, max_tokens + 1, -1 do ids[i] = nil end
  sample.labels_from = sample.mask == "all" and 2 or math.max(2, sample.n_prompt + 1)
  sample.n_labels = #ids - sample.labels_from + 1
  if sample.n_labels < 1 then
    local row = sample.row or {}
    error(("chat: %sthe prompt takes %d tokens and leaves no label within max_tokens = %d: %s")
      :format(row.source and row.source .. ": " or "", sample.n_prompt, max_tokens,
        (row.question or ""):sub(1, 60)), level + 1)
  end
  sample.key = content_key(ids, sample.labels_from)
  return sample
end

local MAX_TOKENS <const> = 500
local ENCODING <const> = {
  tags = { type = "string|table", default = "plain", "a name of chat.tags, or a table of tags" },
  mask = { choice = { "answer", "all" }, default = "answer",
    "the labels: the answer with its end of text, or all tokens but the first" },
  max_tokens = { min = 2, default = MAX_TOKENS, "longer samples are cut" },
  answer = { default = "answer", "the field of a row that holds its answer" },
}
local ENCODE <const> = check.fields("data.chat.encode", ENCODING)
local SAMPLES <const> = check.fields("data.samples", ENCODING)

local function read_options(described, opts, level)
  local o = check.options(described, opts, level + 2)
  return o, chat.find_tags(o.tags, level + 1)
end

local function check_text(row, field, level)
  if type(row) ~= "table" or type(row[field]) ~= "string" then
    error(("chat: a row needs a text field '%s'"):format(field), level + 1)
  end
  return row[field]
end

local function check_tokenizer(tok, level)
  local has_fields, method = pcall(function() return tok.encode end)
  if not has_fields or not method then
    error(("chat: the tokenizer is a %s, needs one of dopl.text"):format(type(tok) == "table"
      and "table without encode" or type(tok)), level + 1)
  end
end

-- The id that goes before a prompt, if any does. One that tags name is there.
local function start_of_text(tok, tags, level)
  if not tags.bos then return tok.bos end
  local id = tok:id(tags.bos)
  if not id then
    error(("chat: the tokenizer has no token %s, which tags.bos names"):format(tags.bos), level + 1)
  end
  return id
end

--- The ids of a prompt: what generation starts from.
-- @param tok tokenizer
-- @tparam string question
-- @tparam[opt="plain"] string|table tags
-- @treturn {integer,...} 0-based ids
function chat.prompt(tok, question, tags)
  tags = chat.find_tags(tags or "plain", 2)
  check_tokenizer(tok, 2)
  check.type("chat.prompt: question", question, "string")
  local ids = { start_of_text(tok, tags, 2) }
  append_tag(ids, tok, tags.start_tag)
  append(ids, encode(tok, question))
  append_tag(ids, tok, tags.end_tag)
  return ids
end

--- The ids of an answer: its text, then end of text.
-- @treturn {integer,...} 0-based ids
function chat.answer(tok, answer, tags)
  tags = chat.find_tags(tags or "plain", 2)
  check_tokenizer(tok, 2)
  check.type("chat.answer: answer", answer, "string")
  local ids = {}
  append(ids, encode(tok, answer))
  ids[#ids + 1] = end_of_text(tok, tags, 2)
  return ids
end

--- The ids that end a generation: what ends an answer, and what else the tokenizer ends a text with.
-- @treturn {integer,...} 0-based ids
function chat.ends(tok, tags)
  tags = chat.find_tags(tags or "plain", 2)
  check_tokenizer(tok, 2)
  local ids = { end_of_text(tok, tags, 2) }
  for _, id in ipairs { tok.eos or ids[1], tok:id("<|endoftext|>") } do
    if id ~= ids[1] then ids[#ids + 1] = id end
  end
  return ids
end

local function make(tok, row, field, o, tags, level)
  level = level + 1
  local ids = chat.prompt(tok, check_text(row, "question", level), tags)
  local n_prompt = #ids
  append(ids, chat.answer(tok, check_text(row, field, level), tags))
  return finish({ ids = ids, n_prompt = n_prompt, mask = o.mask, row = row }, o.max_tokens, level)
end

--- One row as a sample.
-- @param tok tokenizer
-- @tparam table row with `question` and `answer`
-- @tparam[opt] table opts
-- @treturn table { ids, n_prompt, labels_from (1-based index of the first label), n_labels, mask,
-- truncated, key (hash of the content), row }
function chat.encode(tok, row, opts)
  local o, tags = read_options(ENCODE, opts, 2)
  check_tokenizer(tok, 2)
  return make(tok, row, o.answer, o, tags, 2)
end

--- Many rows as samples, in order; the list keeps the tokenizer and the options (fields `tok`,
-- `tags`, `max_tokens`) for loaders, refusals and `show`.
-- @param tok tokenizer
-- @tparam {table,...} rows
-- @tparam[opt] table opts
-- @treturn {table,...}
function chat.encode_all(tok, rows, opts)
  local o, tags = read_options(SAMPLES, opts, 2)
  check_tokenizer(tok, 2)
  check.type("data.samples: rows", rows, "table")
  local samples = { tok = tok, tags = tags, max_tokens = o.max_tokens }
  for i, row in ipairs(rows) do samples[i] = make(tok, row, o.answer, o, tags, 2) end
  return samples
end

--- A sample with the same prompt and another answer.
-- @tparam table sample
-- @tparam {integer,...} answer ids from `chat.answer`
-- @tparam[opt=500] integer max_tokens
-- @treturn table a new sample; its key differs from the first's, as its content does
function chat.with_answer(sample, answer, max_tokens)
  check.has("chat.with_answer: sample", sample, "n_prompt", "one of data.samples")
  check.type("chat.with_answer: answer", answer, "table")
  local ids = table.move(sample.ids, 1, sample.n_prompt, 1, {})
  append(ids, answer)
  return finish({ ids = ids, n_prompt = sample.n_prompt, mask = sample.mask, row = sample.row },
    max_tokens or MAX_TOKENS, 2)
end

return chat
