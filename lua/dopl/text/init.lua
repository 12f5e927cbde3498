--- text/init.lua - tokenizers, stemming, and the text metrics that need no model.
--
--     local tok = text.train(texts, { vocab_size = 4096, special = { "<|endoftext|>" } })
--     local ids = tok:encode "Where was she born?"       -- 0-based ids, as the field writes them
--     assert(tok:decode(ids) == "Where was she born?")   -- exact for any bytes
--     tok:save "tokenizer.json"                          -- what Hugging Face's tokenizers read
--
-- @module dopl.text
local check = require "dopl.util.check"
local core = require "dopl.core"

local text = {}

--- The names that `pattern` takes. A pattern cuts text into pieces before pairs are merged.
text.patterns = { "llama3", "gpt2" }

-- A pattern's regular expression. A bare word is a name, so that a misspelt one is not taken for a
-- regular expression.
local function pattern_of(given, level)
  check.type("text.train: pattern", given, "string", level + 1)
  local known = core.bpe.pattern(given)
  if known then return known end
  if given:find "^[%w_%-]*$" then
    check.choice("text.train: pattern", given, text.patterns, level + 1)
  end
  return given
end

local TRAIN <const> = check.fields("text.train", {
  vocab_size = { type = "integer", required = true,
    "tokens wanted, with the special ones and the 256 bytes" },
  special = { of = "string", default = {},
    "strings that are one token each and are never cut; their ids start at 0, in this order" },
  pattern = { default = "llama3", "how text is cut first: llama3, gpt2, or a PCRE2 expression" },
  min_count = { default = 2, "pairs that occur less often are not merged" },
})

--- Learns a byte-level BPE vocabulary. The same texts give the same tokenizer.
-- @tparam {string,...} texts
-- @tparam table options
-- @treturn tokenizer
-- @usage
-- local tok = dopl.text.train(texts, { vocab_size = 4096, special = { "<|endoftext|>" } })
function text.train(texts, options)
  local o = check.options(TRAIN, options)
  check.type("text.train: texts", texts, "table")
  return core.bpe.train(texts, o.vocab_size, pattern_of(o.pattern, 2), o.special, o.min_count)
end

--- A tokenizer from the text of a tokenizer.json.
-- @tparam string json
-- @treturn tokenizer
function text.from_json(json)
  check.type("text.from_json", json, "string")
  return core.bpe.from_json(json, "tokenizer JSON")
end

--- A tokenizer from a file, or from the folder of a Hugging Face model.
-- @tparam string path
-- @treturn tokenizer
function text.load(path)
  check.type("text.load: path", path, "string")
  local json, reason = core.files.read(path)
  if not json then
    local inside = path:gsub("/+$", "") .. "/tokenizer.json"
    local missing
    json, missing = core.files.read(inside)
    if core.files.exists(path) == "directory" then reason = missing end
    if not json then error("text.load: " .. reason, 2) end
    path = inside
  end
  return core.bpe.from_json(json, path)
end

--- The Porter stem of a word, lower-cased, as NLTK's default stemmer gives it.
-- @tparam string word
-- @treturn string
function text.stem(word)
  check.type("text.stem", word, "string")
  return core.rouge.stem(word)
end

--- A text in NFC with its case folded, so that texts which look the same to a reader become the same
-- bytes. Bytes that are not UTF-8 stay as they are.
-- @tparam string str
-- @treturn string
function text.fold(str)
  check.type("text.fold", str, "string")
  return core.rouge.fold(str)
end

--- ROUGE-L with stemming, as rouge_score computes it. Its words are runs of a-z and 0-9. Where more
-- letters and digits of the reference lie beyond ASCII than within, words are runs of letters, marks
-- and digits of any script, and single characters of scripts without spaces.
-- @tparam string reference
-- @tparam string candidate
-- @treturn number recall: the longest common subsequence of words over the reference's length
-- @treturn number precision: the same over the candidate's length
-- @treturn number f: their harmonic mean; all are 0 where either text holds no word
-- @treturn ?string the words: "ascii" or "unicode"; nil where the reference holds none, so that
-- nothing was measured
function text.rouge_l(reference, candidate)
  check.type("text.rouge_l: reference", reference, "string")
  check.type("text.rouge_l: candidate", candidate, "string")
  return core.rouge.l(reference, candidate)
end

--- How varied a generation is: the entropy of its tokens over the most that so many can have.
-- -sum f log2 f over distinct tokens, divided by log2 n; 0 for at most one token, 1 where all
-- differ.
-- @tparam table tokens an array of ids or words
-- @treturn number in 0..1
function text.token_entropy(tokens)
  check.type("text.token_entropy", tokens, "table")
  local n, count, distinct = #tokens, {}, {}
  for i = 1, n do
    local token = tokens[i]
    if not count[token] then
      count[token] = 0
      distinct[#distinct + 1] = token
    end
    count[token] = count[token] + 1
  end
  if n < 2 then return 0.0 end
  local bits = 0.0
  for _, token in ipairs(distinct) do -- in order of appearance: the sum is the same in every run
    local f = count[token] / n
    bits = bits - f * math.log(f, 2)
  end
  return math.min(bits / math.log(n, 2), 1.0)
end

--- What `text.train`, `text.load` and `text.from_json` return.
-- @type tokenizer
local tokenizer = core.bpe.methods
core.bpe.encode = core.bpe.encode or tokenizer.encode -- the core's own, should this file run again
local encode = core.bpe.encode

local ENCODE <const> = check.fields("tokenizer:encode", {
  special = { default = true, "whether special tokens written out in the text become their ids" },
})

--- The ids of a text. Added tokens that are not special, such as runs of blanks, become their ids
-- whatever the options say.
-- @tparam string str any bytes
-- @tparam[opt] table options
-- @treturn {int,...} ids from 0
function tokenizer:encode(str, options)
  check.type("tokenizer:encode", str, "string")
  if options == nil then return encode(self, str, true) end
  local o = check.options(ENCODE, options)
  return encode(self, str, o.special)
end

--- Writes a tokenizer.json, whole or not at all.
-- @tparam string path
function tokenizer:save(path)
  check.type("tokenizer:save: path", path, "string")
  core.files.write(path, self:json())
end

--- A content hash: two tokenizers with the same one encode alike.
-- @treturn string
function tokenizer:hash()
  return core.hash(self:json())
end

--- The token that the file's post-processor puts before a whole text, and the one it puts behind it:
-- ids, or nil where it names none. `encode` adds neither; dopl.data.chat does.
-- @field bos
-- @field eos

--- The bytes of a list of ids. An id that no token has is no text.
-- @function tokenizer:decode
-- @tparam {int,...} ids
-- @treturn string

--- How many ids there are: one more than the largest.
-- @function tokenizer:size
-- @treturn int

--- The id of a token given by its bytes.
-- @function tokenizer:id
-- @tparam string token
-- @treturn ?int nil where there is none

--- The bytes of a token.
-- @function tokenizer:token
-- @tparam int id
-- @treturn ?string nil where there is none

--- The tokenizer as the text of a tokenizer.json.
-- @function tokenizer:json
-- @treturn string

return text
