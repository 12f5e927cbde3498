-- bpe_spec.lua - the tokenizer: exact round trips, training, tokenizer.json, what it refuses.
local dopl = require "dopl"
local core, text = dopl.core, dopl.text

local sentences = {
  "The keeper of the lighthouse kept the light.", "The light kept the keeper awake.",
  "Lighthouses keep ships from the rocks; rocks keep ships from harbours.",
}

local function trained(options)
  local o = { vocab_size = 320, special = { "<|endoftext|>", "<|end|>" } }
  for k, v in pairs(options or {}) do o[k] = v end
  return text.train(sentences, o)
end

local function golden(name)
  return core.json.decode(assert(core.files.read("spec/text/golden/" .. name .. ".json")))
end

local function tokens(tok, ids)
  local out = {}
  for i, id in ipairs(ids) do out[i] = tok:token(id) end
  return out
end

describe("round trip", function()
  local samples = {
    "", " ", "\0", "\0\0\0", (" "):rep(5000), ("\n"):rep(300) .. "x", ("a"):rep(70000),
    "emoji 😀👍🏽👨‍👩‍👧 and e\u{301}", "\u{feff}mark", "東京は雨", "\xff\xfe", "ab\xffcd\x80\x80 \xc3",
    "\xc3\xa9\xc3", "\xed\xa0\x80 a surrogate", "\xf4\x90\x80\x80 beyond", "\xc0\xaf overlong",
    "a<|endoftext|>b<|end|>", "<|end|", "x\r\n\r\n  y\t z  ",
  }
  for _, pattern in ipairs { "llama3", "gpt2", "[a-e]+", "(?i)the", "x*" } do
    it("gives back any bytes under the pattern " .. pattern, function()
      local tok = trained { pattern = pattern }
      for _, s in ipairs(samples) do assert.equal(s, tok:decode(tok:encode(s))) end
      for byte = 0, 255 do
        local s = string.char(byte)
        assert.same({ tok:id(s) }, tok:encode(s))
        assert.equal(s, tok:decode { tok:id(s) })
      end
      local rng = require("dopl.util.rng").new(7, "bytes")
      for n = 1, 200 do
        local bytes = {}
        for i = 1, n do bytes[i] = string.char(rng:integer(256) - 1) end
        local s = table.concat(bytes)
        assert.equal(s, tok:decode(tok:encode(s)))
      end
    end)
  end

  it("is the same for a text met before", function()
    local tok = trained()
    local first = tok:encode(sentences[1])
    assert.same(first, tok:encode(sentences[1]))
    assert.same(first, trained():encode(sentences[1]))
  end)
end)

describe("training", function()
  it("merges the commonest pair first, of equals the one with the smaller ids", function()
    -- ab 5, bc 2; then ab+c 2, cd 2, ef 2: c is the smallest id of the left ones
    local tok = text.train({ "ef\nef\nab\nab\nab\nabc\nabc\ncd\ncd" }, { vocab_size = 260 })
    assert.same({ "ab", "cd", "ef", "abc" }, tokens(tok, { 256, 257, 258, 259 }))
  end)

  it("joins runs from the left", function()
    local tok = text.train({ "aaaaa" }, { vocab_size = 258, min_count = 1 })
    assert.same({ "aa", "aaa" }, tokens(tok, { 256, 257 })) -- aa aa a, and "a" has the smaller id
    assert.same({ "aa", "aaa" }, tokens(tok, tok:encode "aaaaa"))
    assert.same({ "aa", "aa" }, tokens(tok, tok:encode "aaaa"))
  end)

  it("refuses a match that ends before it starts, and one that starts too early", function()
    for _, pattern in ipairs { "(?=(?1))a|(?!)(..\\K)", "(?(DEFINE)(?<k>..\\K))a(?=(?&k))",
      "a|(?<=(?2))|(?!)((\\Ka))" } do
      assert.error_matches(function()
        text.train({ "abcabcabc" }, { vocab_size = 257, pattern = pattern }):encode "abcabcabcaaa"
      end, "tokenizer pattern: \\K in a lookaround made a match from byte %d+ to byte %d+")
    end
    local tok = text.train({ "abab" }, { vocab_size = 257, pattern = "a\\Kb" }) -- this is sound
    assert.equal("abcab", tok:decode(tok:encode "abcab"))
  end)

  it("gives the same tokenizer for the same texts", function()
    assert.equal(trained():json(), trained():json())
    assert.equal(trained():hash(), trained():hash())
    assert.not_equal(trained():hash(), trained({ vocab_size = 270 }):hash())
  end)

  it("stops where no pair is met often enough", function()
    assert.equal(256, text.train({ "abc" }, { vocab_size = 1000 }):size())
    assert.equal(258, text.train({ "abc" }, { vocab_size = 1000, min_count = 1 }):size())
    assert.equal(256, text.train({}, { vocab_size = 1000 }):size())
  end)

  it("learns what Hugging Face's trainer learns", function()
    local g = golden "encodings"
    for _, pattern in ipairs { "llama3", "gpt2" } do
      local tok = text.train(g.train,
        { vocab_size = 480, special = { "<|endoftext|>" }, pattern = pattern })
      local ours = core.json.decode(tok:json())
      local theirs = g[pattern].tokenizer.model
      assert.same(theirs.vocab, ours.model.vocab)
      for i, pair in ipairs(theirs.merges) do
        assert.equal(table.concat(pair, " "), ours.model.merges[i])
      end
      assert.equal(#theirs.merges, #ours.model.merges)
    end
  end)
end)

describe("special tokens", function()
  local tok
  setup(function() tok = trained() end)
  teardown(function() tok = nil end)

  it("have the first ids, in the order given, and are never cut", function()
    assert.equal(0, tok:id "<|endoftext|>")
    assert.equal(1, tok:id "<|end|>")
    assert.same({ 0, 1, 0 }, tok:encode "<|endoftext|><|end|><|endoftext|>")
  end)

  it("are ordinary text on request", function()
    local ids = tok:encode("<|end|>", { special = false })
    assert.is_true(#ids > 1)
    assert.equal("<|end|>", tok:decode(ids))
  end)

  it("win by length where one begins another", function()
    local both = text.train({}, { vocab_size = 258, special = { "<a", "<ab" } })
    assert.same({ 1, 0 }, both:encode "<ab<a")
  end)
end)

describe("tokenizer.json", function()
  it("gives the ids that Hugging Face's tokenizers gives", function()
    local g = golden "encodings"
    for _, pattern in ipairs { "llama3", "gpt2" } do
      local tok = text.from_json(core.json.encode(g[pattern].tokenizer))
      for i, s in ipairs(g.texts) do
        assert.same(g[pattern].ids[i], tok:encode(s), ("%s: %q"):format(pattern, s))
      end
    end
  end)

  it("finds added tokens and names bos and eos as Hugging Face's tokenizers does", function()
    local g = golden "added"
    for n, case in ipairs(g.cases) do
      local file = {}
      for key, value in pairs(g.base) do file[key] = value end
      for _, key in ipairs { "added_tokens", "post_processor" } do file[key] = case[key] end
      local read = text.from_json(core.json.encode(file))
      for _, tok in ipairs { read, (text.from_json(read:json())) } do
        for i, s in ipairs(g.texts) do
          local where, ids = ("case %d: %q"):format(n, s), tok:encode(s)
          assert.same(case.ids[i], ids, where)
          assert.equal(s, tok:decode(ids), where)
          assert.same(case.as_text[i], tok:encode(s, { special = false }), where)
          if tok.bos then table.insert(ids, 1, tok.bos) end
          ids[#ids + 1] = tok.eos
          assert.same(case.around[i], ids, where)
        end
      end
      assert.equal(read:json(), text.from_json(read:json()):json())
    end
  end)

  it("merges to words, not to an added token of the same bytes", function()
    local file = golden("added").base
    local two = file.model.vocab["ĠĠ"]
    file.added_tokens = { { id = 264, content = "  ", special = true } }
    local tok = text.from_json(core.json.encode(file))
    assert.same({ tok:id "a", 264, tok:id " ", tok:id "b" }, tok:encode "a   b")
    assert.same({ tok:id "a", two, tok:id " ", tok:id "b" }, tok:encode("a   b", { special = false }))
    assert.equal(264, tok:id "  ")
    assert.equal("  ", tok:token(two))
  end)

  it("takes no special token for a piece of text that is a word", function()
    local tok = text.from_json(('{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",'
      .. '"pattern":{"Regex":"[^ ]+"},"behavior":"Isolated"},{"type":"ByteLevel","use_regex":false}]},'
      .. '"added_tokens":[{"id":3,"content":"ab","special":true}],"model":{"type":"BPE",'
      .. '"ignore_merges":true,"vocab":{"a":0,"b":1,"bb":2,"ab":3},"merges":[]}}'))
    assert.same({ 3 }, tok:encode "ab")
    assert.same({ 0, 1 }, tok:encode("ab", { special = false }))
    assert.same({ 2 }, tok:encode("bb", { special = false }))
  end)

  it("keeps numbers that fit no integer from closing the file", function()
    local tok = trained()
    local json = tok:json():gsub('"truncation": null',
      '"truncation": {"max_length": 1000000000000000019884624838656, "x": 1e999}')
    assert.equal(tok:hash(), text.from_json(json):hash())
  end)

  it("is read back as it was written", function()
    for _, pattern in ipairs { "llama3", "gpt2", "\"quoted\"|\\\\+" } do
      local tok = trained { pattern = pattern, special = { "<\"\\\t>", "<é ü>" } }
      local again = text.from_json(tok:json())
      assert.equal(tok:json(), again:json())
      assert.same({ 0, 1 }, again:encode "<\"\\\t><é ü>")
      assert.same(tok:encode(sentences[1]), again:encode(sentences[1]))
    end
  end)

  it("is saved and loaded as a file, or by its folder", function()
    local folder = os.tmpname()
    os.remove(folder)
    core.files.mkdir(folder)
    local tok = trained()
    tok:save(folder .. "/tokenizer.json")
    assert.equal(tok:hash(), text.load(folder):hash())
    assert.equal(tok:hash(), text.load(folder .. "/tokenizer.json"):hash())
    os.remove(folder .. "/tokenizer.json")
    assert.error_matches(function() text.load(folder) end,
      "text.load: read .*/tokenizer.json: No such file")
    os.remove(folder)
  end)

  local level = '"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}'
  local function model(vocab, merges, rest)
    return ('{%s,%s"model":{"type":"BPE","vocab":{%s},"merges":[%s]}}'):format(level, rest or "",
      vocab, merges)
  end

  it("takes both spellings of a merge, ids in any order, and gaps", function()
    local tok = text.from_json(model('"ab":9,"a":3,"b":1,"abb":5', '"a b",["ab","b"]'))
    assert.equal(10, tok:size())
    assert.same({ 5, 3 }, tok:encode "abba")
    assert.is_nil(tok:token(0))
    assert.equal("a", tok:decode { 0, 3, 10, 1 << 40 }) -- an id without a token is no text
    assert.error_matches(function() tok:encode "c" end, "no token for the byte 0x63")
  end)

  it("takes a piece that is a token whole where the file says so", function()
    local json = model('"a":0,"b":1,"ab":2', '')
    assert.same({ 0, 1 }, text.from_json(json):encode "ab")
    json = json:gsub('"BPE"', '"BPE","ignore_merges":true')
    assert.same({ 2 }, text.from_json(json):encode "ab")
  end)

  local broken = {
    [":1:1: "] = "{",
    ["post_processor: \"Other\" is not"] = model('"a":0', '', '"post_processor":{"type":"Other"},'),
    ["post_processor.single: needs a sequence"] =
      model('"a":0', '', '"post_processor":{"type":"TemplateProcessing"},'),
    ["needs a SpecialToken or a Sequence"] =
      model('"a":0', '', '"post_processor":{"type":"TemplateProcessing","single":[{}]},'),
    ["several tokens, or none, before a text for \"a\""] = model('"a":0', '',
      '"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a"}}]},'),
    ["no token has the id 7"] = model('"a":0', '',
      '"post_processor":{"type":"BertProcessing","cls":["a",7],"sep":["a",0]},'),
    ["puts the tokens 0 and 1 on one side"] = model('"a":0,"b":1', '', '"post_processor":{"type":'
      .. '"Sequence","processors":[{"type":"BertProcessing","cls":["a",0],"sep":["a",0]},'
      .. '{"type":"BertProcessing","cls":["b",1],"sep":["a",0]}]},'),
    ["Regex: needs a string"] = '{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",'
      .. '"pattern":{"Regex":"a\\u0000b"},"behavior":"Isolated"},{"type":"ByteLevel",'
      .. '"use_regex":false}]}}',
    ["added_tokens[0]: \"a\" has the id 1, and 0 in"] =
      model('"a":0', '', '"added_tokens":[{"content":"a","id":1}],'),
    ["model.merges[0]: needs \"left right\" or"] = model('"a":0,"aa":1', '"a a\\u0000b"'),
    ["needs an object"] = "[]",
    ["duplicate object key"] = model('"a":0,"a":1', ''),
    ["model.type: \"\", needs \"BPE\""] = "{" .. level .. "}",
    ["model.type: \"WordPiece\""] = "{" .. level .. ',"model":{"type":"WordPiece"}}',
    ["model.merges: needs an array"] = "{" .. level .. ',"model":{"type":"BPE","vocab":{"a":0}}}',
    ["model.vocab: needs an object"] = "{" .. level .. ',"model":{"type":"BPE","merges":[]}}',
    ["a: needs an id from 0"] = model('"a":-1', ''),
    ["a: needs an id"] = model('"a":99999999999', ''),
    ["two tokens have the id 0"] = model('"a":0,"b":0', ''),
    ["an empty token"] = model('"":0', ''),
    ["model.merges[0]: needs"] = model('"a":0', '"a"'),
    ["model.merges[0]: needs \"left right\""] = model('"a":0', '["a","a","a"]'),
    ["model.merges[0]: \"b\" is not in the vocabulary"] = model('"a":0', '"a b"'),
    ["join to no token"] = model('"a":0', '"a a"'),
    ["model.merges[1]: merged once already"] = model('"a":0,"aa":1', '"a a","a a"'),
    ["normalizer: \"NFC\" is not supported"] = model('"a":0', '', '"normalizer":{"type":"NFC"},'),
    ["added_tokens: needs an array"] = model('"a":0', '', '"added_tokens":{},'),
    ["added_tokens[0].content"] = model('"a":0', '', '"added_tokens":[3],'),
    ["added_tokens[0].id"] = model('"a":0', '', '"added_tokens":[{"content":"x"}],'),
    ["added_tokens[0].lstrip: set for \"x\""] =
      model('"a":0', '', '"added_tokens":[{"content":"x","id":1,"lstrip":true}],'),
    ["id 0 is \"a\" in the vocabulary, and added token \"x\""] =
      model('"a":0', '', '"added_tokens":[{"content":"x","id":0}],'),
    ["needs ByteLevel"] = '{"pre_tokenizer":{"type":"Whitespace"}}',
    ["add_prefix_space"] = '{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true}}',
    ["missing closing parenthesis"] = '{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{'
      .. '"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"},{"type":"ByteLevel",'
      .. '"use_regex":false}]}}',
    ["nested more than 200 deep"] = ("["):rep(100000),
  }
  for _, what in ipairs(require("dopl.util.check").keys(broken)) do
    it("says what is wrong: " .. what, function()
      local ok, message = pcall(text.from_json, broken[what])
      assert.is_false(ok)
      assert.truthy(message:find(what, 1, true), message)
      assert.truthy(message:find("tokenizer JSON:", 1, true), message)
    end)
  end

  it("refuses every cut of a good file", function()
    local json = trained():json()
    for n = 0, #json - 3, 97 do assert.is_false((pcall(text.from_json, json:sub(1, n)))) end
  end)
end)

describe("bad input", function()
  local function fails(pattern, fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    assert.truthy(tostring(message):find(pattern, 1, true), message)
  end

  it("to training is refused by name", function()
    fails("'vocab_size' is missing", text.train, {})
    fails("unknown field 'vocab'", text.train, {}, { vocab = 1 })
    fails("vocab_size 100, needs 256", text.train, {}, { vocab_size = 100 })
    fails("vocab_size 256, needs 256 bytes + 1", text.train, {},
      { vocab_size = 256, special = { "<a>" } })
    fails("did you mean 'llama3'", text.train, {}, { vocab_size = 300, pattern = "lama3" })
    fails("missing closing parenthesis", text.train, {}, { vocab_size = 300, pattern = "(a" })
    fails("texts[2] is a number", text.train, { "a", 1 }, { vocab_size = 300 })
    fails("is given twice", text.train, {}, { vocab_size = 300, special = { "<a>", "<a>" } })
    fails("special token 1", text.train, {}, { vocab_size = 300, special = { "\xff\xff" } })
    fails("special token 1", text.train, {}, { vocab_size = 300, special = { "" } })
  end)

  it("to a pattern that backtracks without end is an error", function()
    local tok = text.train({}, { vocab_size = 256, pattern = "(a+a+)+b" })
    fails("gave up at byte 0", tok.encode, tok, ("a"):rep(60) .. "cb")
    assert.same({ tok:id "x" }, tok:encode "x") -- and it works on
  end)

  it("to decode is refused by place", function()
    local tok = trained()
    fails("place 2 holds a string", tok.decode, tok, { 1, "x" })
    fails("place 1 holds -1", tok.decode, tok, { -1 })
    fails("string", tok.encode, tok, 5)
    tok:close()
    tok:close()
    fails("it is closed", tok.size, tok)
  end)
end)

describe("a failing allocation", function()
  -- Fails the 1st, 2nd, ... allocation of `fn` until none is left to fail.
  local function sweep(fn)
    collectgarbage()
    collectgarbage()
    local before, failures = core.blocks(), 0
    for n = 1, 2000 do
      core.fail_alloc(n)
      local ok, message = pcall(fn)
      core.fail_alloc(0)
      if not ok then
        assert.truthy(tostring(message):find("out of memory", 1, true), message)
        failures = n
      elseif n > failures + 3 then -- PCRE2 may do without its JIT, so one success proves nothing
        break
      end
    end
    assert.is_true(failures > 3)
    collectgarbage()
    collectgarbage()
    assert.equal(before, core.blocks())
  end

  it("in training leaks nothing", function() sweep(trained) end)
  it("in reading leaks nothing", function()
    local json = trained():json()
    sweep(function() text.from_json(json) end)
  end)
  it("in use leaves the tokenizer usable", function()
    local json, tok, want = trained():json(), nil, trained():encode(sentences[1])
    sweep(function()
      tok = nil
      tok = text.from_json(json)
      tok:decode(tok:encode(sentences[1]))
      tok = nil
    end)
    tok = text.from_json(json)
    core.fail_alloc(1)
    assert.is_false((pcall(tok.encode, tok, sentences[1])))
    core.fail_alloc(0)
    assert.same(want, tok:encode(sentences[1]))
  end)
end)
