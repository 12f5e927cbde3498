-- rouge_spec.lua - stems, ROUGE-L, token entropy: against NLTK, rouge_score and hand-worked cases.
local dopl = require "dopl"
local core, text = dopl.core, dopl.text

describe("stem", function()
  it("is NLTK's for every golden word", function()
    local n = 0
    for line in core.files.lines "spec/text/golden/stems.txt" do
      local word, stem = line:match "^(%S+) (%S*)$"
      assert.equal(stem, text.stem(word), word)
      n = n + 1
    end
    assert.is_true(n > 2000)
  end)

  it("lower-cases", function() assert.equal("sky", text.stem "SKIES") end)
  it("takes the empty word and any bytes", function()
    assert.equal("", text.stem "")
    assert.equal("\xff\0", text.stem "\xff\0s")
  end)
  it("takes a very long word", function()
    assert.equal(("y"):rep(100001), text.stem(("y"):rep(100001)))
  end)
end)

describe("rouge_l", function()
  it("is rouge_score's for every golden pair", function()
    for _, row in ipairs(core.json.decode(assert(core.files.read "spec/text/golden/rouge.json"))) do
      local recall, precision, f = text.rouge_l(row[1], row[2])
      assert.near(row[3], recall, 1e-15, row[1])
      assert.near(row[4], precision, 1e-15, row[1])
      assert.near(row[5], f, 1e-15, row[1])
    end
  end)

  it("is recall over the reference first", function()
    local recall, precision = text.rouge_l("a b", "a x b y")
    assert.equal(1.0, recall)
    assert.equal(0.5, precision)
  end)

  it("takes bytes that are not UTF-8 as ends of words", function()
    assert.equal(1.0, (text.rouge_l("ab\xffcd", "ab cd")))
  end)

  it("finds the words of any script where a reference is beyond ASCII", function()
    for _, s in ipairs { "北京在中国。", "पूर्व प्रधानमन्त्री", "Он родился в 1941 году", "γάτα", "القاهرة",
      "กรุงเทพมหานคร", "서울은 한국의 수도", "١٩٤١", "北京 2008" } do
      local recall, precision, f, words = text.rouge_l(s, s)
      assert.same({ 1, 1, 1, "unicode" }, { recall, precision, f, words }, s)
    end
    assert.near(3 / 5, (text.rouge_l("北京在中国。", "东京在中")), 1e-15) -- by the character
    assert.near(2 / 4, (text.rouge_l("Мой дом мал, ведь", "мой МАЛ")), 1e-15) -- by the word
    assert.near(1 / 2, (text.rouge_l("कि की", "कि")), 1e-15) -- a mark is a part of its word
    assert.equal(0, (text.rouge_l("北京在中国。", "I don't know.")))
  end)

  it("takes composed and decomposed characters, and both cases, for the same", function()
    assert.equal(1, (text.rouge_l("\u{419}\u{43e}\u{433}", "\u{438}\u{306}\u{43e}\u{433}")))
    assert.equal(1, (text.rouge_l("ΣΊΣΥΦΟΣ", "σίσυφος")))
  end)

  it("stays with ASCII where most of a reference is", function()
    local recall, _, _, words = text.rouge_l("Jürgen Müller", "Jurgen Muller")
    assert.same({ 0, "ascii" }, { recall, words })
    assert.equal("ascii", (select(4, text.rouge_l("Who? 北京 it is", ""))))
  end)

  it("says where the reference has no word", function()
    for _, s in ipairs { "", "...", "😀!", "\xff\xfe" } do
      assert.same({ 0, 0, 0 }, { text.rouge_l(s, s) }, s)
      assert.is_nil((select(4, text.rouge_l(s, s))))
    end
  end)

  it("takes any bytes in a text beyond ASCII", function()
    assert.equal(1, (text.rouge_l("北\xff京\xc3", "北京")))
    assert.equal(1, (text.rouge_l("北\0京", "北\0京")))
  end)

  it("refuses what is no string", function()
    assert.error_matches(function() text.rouge_l("a") end, "rouge_l: candidate")
  end)

  it("leaks nothing when memory ends", function()
    local before = core.blocks()
    for n = 1, 30 do
      for _, pair in ipairs { { "the quick brown foxes", "a quick fox" }, { "北京在", "在中国" } } do
        core.fail_alloc(n)
        pcall(text.rouge_l, pair[1], pair[2])
        core.fail_alloc(n)
        pcall(text.fold, pair[2])
      end
    end
    core.fail_alloc(0)
    assert.equal(before, core.blocks())
  end)
end)

describe("fold", function()
  it("gives one form to texts that differ in case or normal form", function()
    assert.equal("caf\u{e9}", text.fold "CAFE\u{301}")
    assert.equal(text.fold "Straße", text.fold "STRASSE")
    assert.equal("\u{1e69}", text.fold "S\u{307}\u{323}") -- marks in any order
    assert.equal("", text.fold "")
  end)
  it("leaves bytes that are not UTF-8, and NULs, as they are", function()
    assert.equal("a\xff\xc3b\0c", text.fold "A\xff\xc3B\0C")
  end)
  it("refuses what is no string", function()
    assert.error_matches(function() text.fold(3) end, "text.fold: 3, needs string")
  end)
end)

describe("token_entropy", function()
  it("is 0 for at most one token, and for one repeated", function()
    assert.equal(0, text.token_entropy {})
    assert.equal(0, text.token_entropy { 5 })
    assert.equal(0, text.token_entropy { 5, 5, 5 })
  end)
  it("is 1 where all differ", function()
    assert.near(1, text.token_entropy { "a", "b", "c" }, 1e-15)
    assert.is_true(text.token_entropy { 1, 2, 3, 4, 5, 6, 7 } <= 1)
  end)
  it("is the entropy over its most", function()
    assert.near(1.5 / 2, text.token_entropy { 7, 7, 8, 9 }, 1e-15) -- 1/2, 1/4, 1/4: 1.5 of 2 bits
  end)
end)
