-- facts_spec.lua - short questions with one right answer and three wrong ones.
local facts = require "dopl.data.facts"

describe("data.facts", function()
  it("has three wrong answers a row, and the right one in the sentence", function()
    for _, rows in ipairs { facts.world(), facts.authors() } do
      local questions = {}
      assert.equal(40, #rows)
      for _, row in ipairs(rows) do
        assert.is_nil(questions[row.question])
        questions[row.question] = true
        assert.equal(3, #row.perturbed_answer)
        local seen = { [row.answer] = true }
        for _, wrong in ipairs(row.perturbed_answer) do
          assert.is_nil(seen[wrong])
          seen[wrong] = true
        end
        assert.truthy(row.question:find("^%u.*%?$"))
        assert.truthy(row.original_answer:find("^['%u].*%.$"))
        assert.truthy(row.original_answer:lower():find(row.answer:lower(), 1, true))
      end
    end
  end)
end)
