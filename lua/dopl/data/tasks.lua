--- data/tasks.lua - three small tasks with checkable answers, for multi-task training.
--
--     code    complete a line of a program
--     choice  which of three things is of a kind
--     sums    add two numbers
--
-- Training and test rows differ, so a correct answer needs the rule, not the row.
--
-- @module dopl.data.tasks

local check = require "dopl.util.check"
local rng = require "dopl.util.rng"

local tasks = { names = { "code", "choice", "sums" } }

local NOUNS <const> = {
  "apple", "boat", "card", "door", "engine", "flag", "garden", "hat", "island", "jar", "kite",
  "lamp", "map", "nail", "orchard", "pen", "road", "stone", "table", "window",
}

-- given | completion; N is a noun, V a number
local LINES <const> = {
  { "for i, N in ipairs(Ns) do", "print(i, N) end" },
  { "local N = Ns[V]", "assert(N, \"no N V\")" },
  { "if #Ns > V then", "table.remove(Ns, V) end" },
  { "function add_N(N)", "Ns[#Ns + V] = N end" },
}

local KINDS <const> = {
  { "an animal", { "fox", "heron", "otter", "mole", "hare", "badger", "wren", "toad" } },
  { "a metal", { "iron", "copper", "tin", "zinc", "silver", "nickel", "lead", "gold" } },
  { "a fruit", { "plum", "pear", "fig", "cherry", "quince", "lemon", "peach", "grape" } },
  { "a tool", { "saw", "chisel", "hammer", "rasp", "spade", "pliers", "drill", "awl" } },
}

-- All rows of a task, or sufficiently many, in a fixed order.
local make = {}

function make.code()
  local rows = {}
  for _, line in ipairs(LINES) do
    for _, noun in ipairs(NOUNS) do
      for v = 1, 9 do
        local function fill(text) return (text:gsub("[NV]", { N = noun, V = tostring(v) })) end
        if line[1]:find "V" or line[2]:find "V" or v == 1 then
          rows[#rows + 1] = { question = "Go on: " .. fill(line[1]), answer = fill(line[2]) }
        end
      end
    end
  end
  return rows
end

function make.choice(stream)
  local rows = {}
  for k, kind in ipairs(KINDS) do
    for _, word in ipairs(kind[2]) do
      for _ = 1, 16 do
        local others = { k % #KINDS + 1, (k + 1) % #KINDS + 1, (k + 2) % #KINDS + 1 }
        stream:shuffle(others)
        local three = { word, stream:pick(KINDS[others[1]][2]), stream:pick(KINDS[others[2]][2]) }
        stream:shuffle(three)
        rows[#rows + 1] = { question = ("Which of %s is %s?"):format(table.concat(three, ", "),
          kind[1]), answer = word }
      end
    end
  end
  return rows
end

function make.sums()
  local rows = {}
  for a = 0, 24 do
    for b = 0, 24 do
      rows[#rows + 1] = { question = ("What is %d + %d?"):format(a, b), answer = tostring(a + b) }
    end
  end
  return rows
end

local GENERATE <const> = check.fields("data.tasks.generate", {
  train = { min = 0, default = 320, "rows to learn from" },
  test = { min = 0, default = 60, "rows to be asked" },
  seed = { default = 1, "seed of the rows" },
})

--- A task's rows to learn from and rows to be asked; no question is in both.
-- @tparam string name "code", "choice" or "sums"
-- @tparam[opt] table opts
-- @treturn {table,...} rows { question, answer } to learn from
-- @treturn {table,...} rows to be asked
function tasks.generate(name, opts)
  check.choice("tasks.generate", name, tasks.names)
  local o = check.options(GENERATE, opts)
  local stream = rng.new(o.seed, "task " .. name)
  local all, seen, unique = make[name](stream), {}, {}
  for _, row in ipairs(all) do
    if not seen[row.question] then seen[row.question], unique[#unique + 1] = true, row end
  end
  if #unique < o.train + o.test then
    error(("tasks.generate: %d + %d rows of '%s' requested, which has %d"):format(o.train, o.test, name,
      #unique), 2)
  end
  stream:shuffle(unique)
  return table.move(unique, 1, o.train, 1, {}),
    table.move(unique, o.train + 1, o.train + o.test, 1, {})
end

return tasks
