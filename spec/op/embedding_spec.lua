-- embedding_spec.lua - rows by index; a repeated index adds up.
local array = require "op.array"
local walker = require "op.walker"

local function embedding(table_, index)
  local C = table_.shape[2]
  local y = { shape = { #index, C } }
  for i, row in ipairs(index) do
    table.move(table_, row * C + 1, (row + 1) * C, (i - 1) * C + 1, y)
  end
  return y
end

local function many(n, V)
  local list = {}
  for i = 1, n do list[i] = i * i % V end
  return array.index(list)
end

local rows <const> = array.fill({ 5, 3 }, 0, 2, 1)

return walker.check("embedding", {
  embedding = {
    reference = embedding,
    elements = 6,
    samples = {
      { rows, array.index { 4, 0, 0, 2, 0 } }, { rows, array.index { 1 } },
      { rows, array.index {} }, { array.fill({ 9, 300 }, 0, 2, 2), many(70, 9) },
    },
    wrong = {
      { rows, array.index { 0, 5 }, says = "embedding: index 5 at 1, needs 0 to 4" },
      { rows, array.index { -1 }, says = "embedding: index -1 at 0, needs 0 to 4" },
      { array.zeros { 5 }, array.index { 0 },
        says = "embedding: table [5] and index [1], need [V, C] and [N]" },
      { rows, array.index { { 0 } }, says = "embedding: table [5, 3] and index [1, 1]" },
    },
  },
})
