-- authors_spec.lua - the fictitious authors: deterministic, distinct, and in decent English.
local authors = require "dopl.data.authors"

local MANY <const> = { authors = 200, questions = 25 }

local function texts(row)
  local list = { row.question, row.answer, row.paraphrased_question, row.paraphrased_answer }
  return table.move(row.perturbed_answer, 1, #row.perturbed_answer, #list + 1, list)
end

local function fault_of(text)
  if text:find("  ", 1, true) then return "double space" end
  if text:find("^%s") or text:find("%s$") then return "space at an end" end
  if text:find("[{}]") then return "a slot left open" end
  if not text:find("^['%u]") then return "no capital" end
  if not text:find("[%.%?]$") then return "no full stop" end
  local lower = " " .. text:lower()
  for word in lower:gmatch("%f[%w]a ([aeiou]%a*)") do
    if word ~= "one" then return "a for an" end
  end
  for word in lower:gmatch("%f[%w]an ([^aeiou]%a*)") do
    if word ~= "hour" then return "an for a" end
  end
  if lower:find("%f[%w](%a+) %1%f[%W]") then return "a word twice" end
  if text:find("s's") then return "possessive" end
  if text:find("%s[,%.%?]") then return "space before a stop" end
end

describe("data.authors", function()
  it("is a function of the seed", function()
    local a, b = authors.generate { seed = 3 }, authors.generate { seed = 3 }
    assert.same(a, b)
    assert.equal(400, #a)
    assert.not_same(a, authors.generate { seed = 4 })
  end)

  it("gives an author the same rows however many there are", function()
    local few = authors.generate { authors = 3, questions = 5 }
    local more = authors.generate { authors = 30, questions = 20 }
    for _, row in ipairs(few) do
      local found
      for _, other in ipairs(more) do
        if other.author == row.author and other.field == row.field then found = other end
      end
      assert.same(row, found)
    end
  end)

  it("keeps 200 authors of 25 questions apart", function()
    local rows = authors.generate(MANY)
    assert.equal(5000, #rows)
    local names, n, questions = {}, 0, {}
    for _, row in ipairs(rows) do
      if not names[row.name] then n = n + 1 end
      names[row.name] = names[row.name] or row.author
      assert.equal(names[row.name], row.author)
      assert.is_nil(questions[row.question])
      questions[row.question] = true
    end
    assert.equal(200, n)
  end)

  it("names the author in every answer and in all questions but the first", function()
    for _, row in ipairs(authors.generate { authors = 40, questions = 25 }) do
      assert.truthy(row.answer:find(row.name, 1, true))
      assert.truthy(row.paraphrased_answer:find(row.name, 1, true))
      if row.field ~= "name" then
        assert.truthy(row.question:find(row.name, 1, true))
        assert.truthy(row.paraphrased_question:find(row.name, 1, true))
      else
        assert.is_nil(row.question:find(row.name, 1, true))
      end
    end
  end)

  it("gives five wrong answers, all different and none of them right", function()
    for _, row in ipairs(authors.generate(MANY)) do
      assert.equal(5, #row.perturbed_answer)
      local seen = { [row.paraphrased_answer] = true, [row.answer] = true }
      for _, wrong in ipairs(row.perturbed_answer) do
        if seen[wrong] then error("repeated: " .. wrong) end
        seen[wrong] = true
      end
      assert.not_equal(row.answer, row.paraphrased_answer)
      assert.not_equal(row.question, row.paraphrased_question)
    end
  end)

  it("writes decent sentences of 8 to 32 words", function()
    for _, row in ipairs(authors.generate(MANY)) do
      for _, text in ipairs(texts(row)) do
        local fault = fault_of(text)
        if fault then error(fault .. ": " .. text) end
      end
      local _, n = row.answer:gsub("%S+", "")
      if n < 8 or n > 32 then error(n .. " words: " .. row.answer) end
    end
  end)

  it("has at least twenty kinds of question and a dozen professions among 20 authors", function()
    assert.is_true(#authors.fields() >= 20)
    local professions, n = {}, 0
    for _, row in ipairs(authors.generate { authors = 20, questions = 1 }) do
      local noun = row.question:match("^Which (.-) was born")
        or row.question:match("of the (.-) born")
      if not professions[noun] then professions[noun], n = true, n + 1 end
    end
    assert.is_true(n >= 12)
  end)

  it("splits by whole authors, disjoint from task to task", function()
    local rows, taken = authors.generate { authors = 20, questions = 4 }, {}
    for task = 1, 5 do
      local forget, retain = authors.split(rows, { forget = 4, task = task })
      assert.equal(16, #forget)
      assert.equal(64, #retain)
      local names = {}
      for _, row in ipairs(forget) do
        assert.equal(task, row.task_id)
        assert.is_nil(taken[row.question])
        taken[row.question], names[row.name] = true, true
      end
      for _, row in ipairs(retain) do
        assert.not_equal(task, row.task_id)
        for _, text in ipairs { row.question, row.answer } do
          for name in pairs(names) do assert.is_nil(text:find(name, 1, true)) end
        end
      end
    end
    assert.equal(1, rows[1].task_id)
    local tenth = authors.split(rows, { forget = 0.1 })
    assert.equal(8, #tenth)
  end)

  it("opens as a data set in the shape of TOFU's", function()
    local set = authors.open { authors = 10, questions = 6, forget = 2, task = 2 }
    assert.equal(12, #set.forget)
    assert.equal(48, #set.retain)
    assert.equal(set.forget, set.forget_perturbed)
    assert.equal(40, #set.world_facts)
    assert.equal(40, #set.real_authors)
  end)

  it("refuses impossible sizes and empty forget sets", function()
    local rows = authors.generate { authors = 4, questions = 2 }
    assert.error_matches(function() authors.generate { questions = 26 } end,
      "data.authors.generate: questions: 26, needs an integer from 1 to 25")
    assert.error_matches(function() authors.generate { authors = 0 } end,
      "authors: 0, needs an integer from 1 to 2000")
    assert.error_matches(function() authors.generate { author = 3 } end, "unknown field 'author'")
    assert.error_matches(function() authors.split(rows, { forget = 0 }) end,
      "forget: 0, needs a number above 0")
    assert.error_matches(function() authors.split(rows, { forget = 4 }) end, "no retain set")
    assert.error_matches(function() authors.split(rows, { forget = 2, task = 3 }) end,
      "at most 2 tasks")
    assert.error_matches(function() authors.split(rows, { forget = 1.5 }) end,
      "forget: 1.5, needs a whole number")
  end)
end)
