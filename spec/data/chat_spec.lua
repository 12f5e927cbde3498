-- chat_spec.lua - samples: tags, labels, truncation, keys; a byte-level tokenizer stands in.
local chat = require "dopl.data.chat"

local SPECIAL <const> = { ["<|endoftext|>"] = 256, ["<|eot_id|>"] = 257 }

local function tokenizer(fields)
  local tok = fields or {}
  function tok.encode(_, text) return { text:byte(1, -1) } end
  function tok.id(_, text) return SPECIAL[text] end
  function tok.decode(_, ids)
    local out = {}
    for i, id in ipairs(ids) do out[i] = id < 256 and string.char(id) or ("<%d>"):format(id) end
    return table.concat(out)
  end
  return tok
end

local ROW <const> = { question = "Who?", answer = "Ada." }

local function text_of(tok, sample, from, to)
  return tok:decode(table.move(sample.ids, from, to, 1, {}))
end

describe("data.chat", function()
  local tok = tokenizer()

  it("is start_tag, question, end_tag, answer, eos", function()
    local s = chat.encode(tok, ROW, { tags = "phi-1.5" })
    assert.equal("<|user|>\nWho?<|end|>\n<|assistant|>\nAda.<256>", text_of(tok, s, 1, #s.ids))
    s = chat.encode(tok, ROW, { tags = "llama-2" })
    assert.equal("[INST] Who? [/INST]Ada.<256>", text_of(tok, s, 1, #s.ids))
    s = chat.encode(tok, ROW)
    assert.equal("Who?\nAda.<256>", text_of(tok, s, 1, #s.ids))
  end)

  it("takes special tokens of tags by name, where there are any", function()
    local s = chat.encode(tok, ROW, { tags = "llama-3" })
    assert.equal("<|start_header_id|>user<|end_header_id|>\n\nWho?<257><|start_header_id|>assistant"
      .. "<|end_header_id|>\n\nAda.<257>", text_of(tok, s, 1, #s.ids))
  end)

  it("never takes a special token from the data", function()
    local s = chat.encode(tok, { question = "<|eot_id|>", answer = "<|endoftext|>" })
    assert.equal("<|eot_id|>\n<|endoftext|><256>", text_of(tok, s, 1, #s.ids))
    assert.equal(256, s.ids[#s.ids])
  end)

  it("keeps to that with the library's own tokenizers", function()
    local text = require "dopl.text"
    local bpe <close> = text.train({ "Who was it? Ada was it." },
      { vocab_size = 270, special = { "<|endoftext|>", "<|eot_id|>" } })
    local s = chat.encode(bpe, { question = "<|eot_id|>", answer = "Ada<|endoftext|>" })
    local eos, n = bpe:id "<|endoftext|>", 0
    for _, id in ipairs(s.ids) do
      if id == eos then n = n + 1 end
      assert.not_equal(bpe:id "<|eot_id|>", id)
    end
    assert.equal(1, n)
    assert.equal(eos, s.ids[#s.ids])
    assert.equal("<|eot_id|>\nAda<|endoftext|><|endoftext|>", bpe:decode(s.ids))
    local tagged = chat.encode(bpe, ROW, { tags = "llama-3" })
    assert.equal(bpe:id "<|eot_id|>", tagged.ids[#tagged.ids])
  end)

  it("labels the answer and eos, or all tokens but the first", function()
    local s = chat.encode(tok, ROW)
    assert.equal("Ada.<256>", text_of(tok, s, s.labels_from, #s.ids))
    assert.equal(5, s.n_labels)
    s = chat.encode(tok, ROW, { mask = "all" })
    assert.equal(2, s.labels_from)
    assert.equal(#s.ids - 1, s.n_labels)
  end)

  it("has the prompt as a prefix, whatever the answer", function()
    local prompt = chat.prompt(tok, ROW.question, "phi-1.5")
    local s = chat.encode(tok, ROW, { tags = "phi-1.5" })
    local twin = chat.with_answer(s, chat.answer(tok, "No.", "phi-1.5"))
    for i, id in ipairs(prompt) do
      assert.equal(id, s.ids[i])
      assert.equal(id, twin.ids[i])
    end
    assert.same(twin.ids, chat.encode(tok, { question = "Who?", answer = "No." },
      { tags = "phi-1.5" }).ids)
    assert.equal("Ada.<256>", text_of(tok, s, s.labels_from, #s.ids))
  end)

  it("puts the tokenizer's first token first and its last token last", function()
    local own = tokenizer { bos = 300, eos = 301 }
    local s = chat.encode(own, ROW, { tags = "llama-2" }) -- whose </s> this tokenizer lacks
    assert.equal(300, s.ids[1])
    assert.equal(301, s.ids[#s.ids])
    s = chat.encode(own, ROW, { tags = "llama-3" })
    assert.equal(300, s.ids[1])
    assert.equal(257, s.ids[#s.ids]) -- <|eot_id|>, which the tags name, ends a turn
    local tags = { start_tag = "[", end_tag = "]", bos = "<|eot_id|>", eos = "<|endoftext|>" }
    s = chat.encode(tok, ROW, { tags = tags })
    assert.equal("<257>[Who?]Ada.<256>", text_of(tok, s, 1, #s.ids))
    assert.equal("<257>[Who?]Ada.<256>", text_of(own, chat.encode(own, ROW, { tags = tags }), 1, 13))
  end)

  it("starts with what the tokenizer's file puts before a text", function()
    local text = require "dopl.text"
    local bpe = text.train({ "x" }, { vocab_size = 258, special = { "<|eot_id|>", "<|begin|>" } })
    local json = bpe:json():gsub('"post_processor": null', ('"post_processor": {"type":'
      .. '"TemplateProcessing","single":[{"SpecialToken":{"id":"b"}},{"Sequence":{"id":"A"}}],'
      .. '"special_tokens":{"b":{"ids":[%d]}}}'):format(bpe:id "<|begin|>"))
    local bos <close> = text.from_json(json)
    assert.equal(bpe:id "<|begin|>", bos.bos)
    assert.is_nil(bos.eos)
    local s = chat.encode(bos, ROW, { tags = "llama-3" })
    assert.equal(bos.bos, s.ids[1])
    assert.equal(bos:id "<|eot_id|>", s.ids[#s.ids])
    assert.equal(bos.bos, chat.prompt(bos, "Who?", "llama-3")[1])
    assert.not_equal(bos.bos, bos:encode("Who?")[1])
  end)

  it("keys samples by content", function()
    local a, b = chat.encode(tok, ROW), chat.encode(tok, { question = "Who?", answer = "Ada." })
    assert.equal(a.key, b.key)
    assert.equal(32, #a.key)
    assert.not_equal(a.key, chat.encode(tok, ROW, { mask = "all" }).key)
    assert.not_equal(a.key, chat.encode(tok, { question = "Who?", answer = "Ida." }).key)
  end)

  it("cuts at max_tokens and refuses a prompt that leaves no label", function()
    local s = chat.encode(tok, ROW, { max_tokens = 7 })
    assert.equal(7, #s.ids)
    assert.is_true(s.truncated)
    assert.equal(2, s.n_labels)
    assert.error_matches(function() chat.encode(tok, ROW, { max_tokens = 5 }) end,
      "chat: the prompt takes 5 tokens and leaves no label within max_tokens = 5: Who?")
    local row = { question = "Who?", answer = "Ada.", source = "my.json:7" }
    assert.error_matches(function() chat.encode(tok, row, { max_tokens = 5 }) end,
      "chat: my.json:7: the prompt takes 5 tokens")
  end)

  it("encodes lists, reading another field where asked", function()
    local rows = { { question = "Q", answer = "A", paraphrased_answer = "P" } }
    local samples = chat.encode_all(tok, rows, { answer = "paraphrased_answer" })
    assert.equal("Q\nP<256>", text_of(tok, samples[1], 1, 4))
    assert.equal(tok, samples.tok)
  end)

  it("refuses unknown tags, masks, fields, rows and tokenizers", function()
    assert.error_matches(function() chat.encode_all({ ROW }) end,
      "chat: the tokenizer is a table without encode")
    assert.error_matches(function() chat.encode(nil, ROW) end, "the tokenizer is a nil")
    assert.error_matches(function() chat.encode_all(tok) end, "data.samples: rows: nil, needs table")
    assert.error_matches(function() chat.encode(tok, ROW, { tags = "llama3" }) end, "llama%-3")
    assert.error_matches(function() chat.encode(tok, ROW, { tags = {} }) end, "start_tag")
    for _, field in ipairs { "eos", "bos" } do
      assert.error_matches(function()
        chat.encode(tok, ROW, { tags = { start_tag = "", end_tag = "", [field] = 3 } })
      end, "chat: tags." .. field .. ": 3, needs string")
    end
    assert.error_matches(function()
      chat.encode(tok, ROW, { tags = { start_tag = "", end_tag = "", bos = "<|begin|>" } })
    end, "the tokenizer has no token <|begin|>, which tags.bos names")
    assert.error_matches(function() chat.prompt(nil, "Who?") end, "the tokenizer is a nil")
    assert.error_matches(function() chat.prompt(tok) end, "chat.prompt: question: nil, needs string")
    assert.error_matches(function() chat.answer(tok, 3) end, "chat.answer: answer: 3, needs string")
    assert.error_matches(function() chat.encode(tok, ROW, { mask = "some" }) end, "mask")
    assert.error_matches(function() chat.encode(tok, ROW, { maks = "all" }) end,
      "did you mean 'mask'")
    assert.error_matches(function() chat.encode(tok, { question = "Q" }) end, "field 'answer'")
    assert.error_matches(function() chat.encode(tok, ROW, { max_tokens = 0 }) end, "max_tokens")
    local bare = { encode = tok.encode, id = function() end }
    assert.error_matches(function() chat.encode(bare, ROW) end, "no end%-of%-text token")
  end)
end)
