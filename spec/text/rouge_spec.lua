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

  it("refuses what is no string", function()
    assert.error_matches(function() text.rouge_l("a") end, "rouge_l: candidate")
  end)

  it("leaks nothing when memory ends", function()
    local before = core.blocks()
    for n = 1, 30 do
      core.fail_alloc(n)
      pcall(text.rouge_l, "the quick brown foxes", "a quick fox")
    end
    core.fail_alloc(0)
    assert.equal(before, core.blocks())
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
