-- Small tasks: their rows, and that what is asked was not learnt.
local tasks = require "dopl.data.tasks"

describe("dopl.data.tasks", function()
  it("asks no question that was learnt, and is a function of the seed", function()
    for _, name in ipairs(tasks.names) do
      local train, test = tasks.generate(name)
      assert.equal(320, #train)
      assert.equal(60, #test)
      local seen = {}
      for _, row in ipairs(train) do seen[row.question] = true end
      for _, row in ipairs(test) do
        assert.falsy(seen[row.question])
        assert.falsy(row.question:find "[NV]%f[%A]" or row.answer:find "%f[%a][NV]%f[%A]")
      end
      assert.same({ train, test }, { tasks.generate(name) })
      assert.not_same(train, (tasks.generate(name, { seed = 2 })))
    end
  end)

  it("has sums that are sums", function()
    for _, row in ipairs((tasks.generate "sums")) do
      local a, b = row.question:match "(%d+) %+ (%d+)"
      assert.equal(a + b, tonumber(row.answer))
    end
  end)

  it("names the tasks", function()
    assert.error_matches(function() tasks.generate "sum" end, "did you mean 'sums'")
    assert.error_matches(function() tasks.generate("sums", { train = 700 }) end, "which has 625")
  end)
end)
