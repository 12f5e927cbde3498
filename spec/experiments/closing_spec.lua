-- spec/experiments/closing_spec.lua - each closing text takes the figures of its recipe.
local closing = require "dopl.experiments.closing"
local shell = require "cli.shell"

describe("experiments.closing", function()
  it("puts a recipe's figures into its sentences", function()
    for _, path in ipairs(require("dopl.core").files.list "recipes") do
      local text = shell.read("recipes/" .. path)
      local name, from = text:match "closing%.([%w_]+)()%("
      if name then
        local arguments, depth, n = text:match("%b()", from):sub(2, -2), 0, 0
        for c in arguments:gmatch "." do -- commas outside of calls
          depth = depth + (c == "(" and 1 or c == ")" and -1 or 0)
          if c == "," and depth == 0 then n = n + 1 end
        end
        local figures = {}
        for i = 1, arguments:find "%S" and n + 1 or 0 do figures[i] = i end
        assert.match("^What this shows: ", closing[name](table.unpack(figures)), path)
      end
    end
  end)

  it("ends every text with a full stop", function()
    for name, text in pairs(closing) do -- each by itself: the order changes nothing
      assert.match("%.$", text(1, 2, 3, 4, 5, 6), name)
    end
  end)
end)
