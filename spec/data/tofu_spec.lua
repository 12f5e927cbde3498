-- tofu_spec.lua - folders in TOFU's form: who goes to forget and retain, and every bad input.
local core = require "dopl.core"
local tofu = require "dopl.data.tofu"

local function line(fields)
  return core.json.encode(fields)
end

-- `tasks` forget sets of `size` rows; task ids as TOFU writes them (texts) or as the real-world set
-- does (numbers).
local function forget_lines(tasks, size, perturbed, as_number)
  local lines = {}
  for task = 1, tasks do
    for i = 1, size do
      lines[#lines + 1] = line {
        question = ("F%d.%d?"):format(task, i), answer = ("A%d.%d."):format(task, i),
        task_id = as_number and task or tostring(task),
        paraphrased_answer = perturbed and "P." or nil,
        perturbed_answer = perturbed and { "X.", "Y." } or nil,
      }
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function plain_lines(name, n, perturbed)
  local lines = {}
  for i = 1, n do
    lines[i] = line { question = name .. i .. "?", answer = name .. i .. ".",
                      paraphrased_answer = perturbed and "P." or nil,
                      perturbed_answer = perturbed and { "X." } or nil }
  end
  return table.concat(lines, "\n") -- no newline at the end, as some of the published files
end

local function fact_lines(n)
  local lines = {}
  for i = 1, n do
    lines[i] = line { question = "W" .. i .. "?", answer = "w", original_answer = "It is w.",
                      perturbed_answer = { "a", "b", "c" } }
  end
  return table.concat(lines, "\r\n") .. "\r\n"
end

local function write_tofu(dir)
  core.files.mkdir(dir)
  local files = {
    forget01 = forget_lines(3, 2), forget01_perturbed = forget_lines(3, 2, true),
    retain90 = plain_lines("R", 5), retain_perturbed = plain_lines("R", 4, true),
    real_authors_perturbed = fact_lines(3), world_facts_perturbed = fact_lines(2),
  }
  for name, text in pairs(files) do core.files.write(dir .. "/" .. name .. ".json", text) end
end

local function questions(rows)
  local list = {}
  for i, row in ipairs(rows) do list[i] = row.question end
  return list
end

describe("data.tofu", function()
  local dir, made = nil, {}

  before_each(function()
    local file = os.tmpname()
    os.remove(file)
    dir = file .. ".data"
    made[#made + 1] = dir
    write_tofu(dir)
  end)

  teardown(function()
    for _, folder in ipairs(made) do
      for _, name in ipairs(core.files.list(folder)) do core.files.remove(folder .. "/" .. name) end
      core.files.remove(folder)
    end
  end)

  local function put(name, text) core.files.write(dir .. "/" .. name, text) end
  local function fails(opts, ...)
    local ok, message = pcall(tofu.open, dir, opts)
    assert.is_false(ok)
    for _, part in ipairs { ... } do
      if not message:find(part, 1, true) then error(("'%s' lacks '%s'"):format(message, part)) end
    end
  end

  it("gives a task its rows, and all other rows to retain", function()
    local set = tofu.open(dir, { split = "forget01", task = 2 })
    assert.same({ "F2.1?", "F2.2?" }, questions(set.forget))
    assert.same({ "R1?", "R2?", "R3?", "R4?", "R5?", "F1.1?", "F1.2?", "F3.1?", "F3.2?" },
      questions(set.retain))
    assert.same({ "F2.1?", "F2.2?" }, questions(set.forget_perturbed))
    assert.equal(4, #set.retain_perturbed)
    assert.equal(3, #set.real_authors)
    assert.equal(2, #set.world_facts)
    assert.equal("It is w.", set.world_facts[1].original_answer)
    assert.same({ "X.", "Y." }, set.forget_perturbed[1].perturbed_answer)
    assert.equal(2, set.forget[1].task_id)
    assert.equal("forget01/task2", set.name)
    assert.equal(dir .. "/forget01.json:3", set.forget[1].source)
  end)

  it("takes task 1 by default, and the first rows where asked", function()
    local set = tofu.open(dir, { rows = 1, retain_rows = 3 })
    assert.same({ "F1.1?", "F1.2?" }, questions(set.forget))
    assert.same({ "R1?", "R2?", "R3?" }, questions(set.retain))
    assert.equal(1, #set.forget_perturbed)
    assert.equal(1, #set.retain_perturbed)
    assert.equal(1, #set.real_authors)
  end)

  it("keeps forget and retain apart in every task", function()
    for task = 1, 3 do
      local set, seen = tofu.open(dir, { task = task }), {}
      for _, row in ipairs(set.forget) do seen[row.question] = true end
      for _, row in ipairs(set.retain) do assert.is_nil(seen[row.question]) end
      assert.equal(11, #set.forget + #set.retain)
    end
  end)

  it("reads the real-world folder, whole or by task", function()
    put("forget.json", forget_lines(2, 3, false, true))
    put("forget_perturbed.json", forget_lines(2, 3, true, true))
    put("neighbor.json", plain_lines("N", 4))
    put("neighbor_perturbed.json", plain_lines("N", 2, true))
    local set = tofu.open(dir, { split = "real_world" })
    assert.equal(6, #set.forget)
    assert.equal(4, #set.retain)
    assert.equal(6, #set.forget_perturbed)
    assert.equal(2, #set.retain_perturbed)
    assert.is_nil(set.world_facts)
    set = tofu.open(dir, { split = "real_world", task = 1 })
    assert.equal(3, #set.forget)
    assert.equal(7, #set.retain)
  end)

  it("names what is missing and what the folder should hold", function()
    core.files.remove(dir .. "/retain90.json")
    fails({}, "there is no file " .. dir .. "/retain90.json (nor .jsonl)",
      "the folder of split 'forget01' holds forget01.json and retain99.json, or retain90.json")
    fails({ split = "forget05" }, "forget05.json", "retain95.json", "retain50.json")
    fails({ split = "custom" }, "there is no file " .. dir .. "/forget.json",
      "the folder of split 'custom' holds forget.json and retain.json")
    assert.error_matches(function() tofu.open("/nowhere/at/all") end,
      "there is no folder /nowhere/at/all")
    assert.error_matches(function() tofu.open("") end, "needs the folder")
  end)

  it("names the file and line of a broken row", function()
    put("retain90.json", '{"question": "Q?", "answer": "A."}\n\n{"question": "Q?", "ans\n')
    fails({}, dir .. "/retain90.json:3")
    put("retain90.json", '{"question": "Q?", "answer": "A."}\n{"question": "Q?"}\n')
    fails({}, dir .. "/retain90.json:2", "'answer'")
    put("retain90.json", '{"question": "Q?", "answer": null}\n')
    fails({}, dir .. "/retain90.json:1", "'answer'")
    put("retain90.json", '{"question": 3, "answer": "A."}\n')
    fails({}, dir .. "/retain90.json:1", "'question' must be a text, given number")
    put("retain90.json", '{"question": "", "answer": "A."}\n')
    fails({}, "given an empty one")
    put("retain90.json", '["question"]\n')
    fails({}, dir .. "/retain90.json: row 1", "object")
    put("retain90.json", '"question"\n')
    fails({}, dir .. "/retain90.json:1")
  end)

  it("reads a file that is one array of rows", function()
    local of_lines = tofu.open(dir, { task = 2 })
    for _, name in ipairs { "forget01", "retain90", "retain_perturbed" } do
      local rows = {}
      for text in core.files.lines(dir .. "/" .. name .. ".json") do rows[#rows + 1] = text end
      put(name .. ".json", "\n [\n" .. table.concat(rows, ",\n") .. "\n]\n")
    end
    local set = tofu.open(dir, { task = 2 })
    for _, list in ipairs { "forget", "retain", "forget_perturbed", "retain_perturbed" } do
      assert.same(questions(of_lines[list]), questions(set[list]))
    end
    assert.equal(dir .. "/forget01.json: row 3", set.forget[1].source)
    put("retain90.json", '[{"question": "Q?", "answer": "A."},\n{"question": "Q?"}]')
    fails({}, dir .. "/retain90.json: row 2: the row has no field 'answer'")
    put("retain90.json", '[{"question": "Q?", "answer": "A."}, null]')
    fails({}, dir .. "/retain90.json: row 2: a row must be an object")
    put("retain90.json", '[{"question": "Q?", "answer": "A."},\n{"question": "Q?"')
    fails({}, dir .. "/retain90.json:2")
    put("forget01.json", "[]")
    fails({}, "the forget set is empty: the file has no rows")
  end)

  it("reads TOFU as it is published: no task ids, retain99 beside forget01", function()
    local folder = dir .. "/published"
    core.files.mkdir(folder)
    local function write(name, text) core.files.write(folder .. "/" .. name, text) end
    local retain = { forget01 = "retain99", forget05 = "retain95", forget10 = "retain90" }
    for forget, name in pairs(retain) do
      write(forget .. ".json", plain_lines(forget, 4))
      write(forget .. "_perturbed.json", plain_lines(forget, 4, true))
      write(name .. ".jsonl", plain_lines(name, 6)) -- either ending
    end
    write("retain_perturbed.json", plain_lines("retain99", 3, true))
    write("real_authors_perturbed.json", fact_lines(3))
    write("world_facts_perturbed.json", fact_lines(2))
    for forget, name in pairs(retain) do
      local set = tofu.open(folder, { split = forget })
      assert.equal(4, #set.forget)
      assert.equal(6, #set.retain)
      assert.equal(name .. "1?", set.retain[1].question)
      assert.equal(folder .. "/" .. name .. ".jsonl:1", set.retain[1].source)
      assert.equal(4, #set.forget_perturbed)
      assert.equal("P.", set.forget_perturbed[1].paraphrased_answer)
      assert.same({}, set.notes)
    end
    local ok, wrong = pcall(tofu.open, folder, { task = 2 })
    assert.is_false(ok)
    assert.truthy(wrong:find("the forget set of task 2 is empty: all rows are of task 1", 1, true))
    for _, name in ipairs(core.files.list(folder)) do core.files.remove(folder .. "/" .. name) end
  end)

  it("takes rows without a task id among others for task 1", function()
    put("forget01.json", '{"question":"Q?","answer":"A."}\n' .. forget_lines(2, 1))
    assert.same({ "Q?", "F1.1?" }, questions(tofu.open(dir).forget))
    assert.same({ "F2.1?" }, questions(tofu.open(dir, { task = 2 }).forget))
  end)

  it("reads a folder of questions and answers alone, and says what is missing", function()
    put("forget.json", plain_lines("F", 3))
    put("retain.json", plain_lines("K", 5))
    for _, name in ipairs { "forget01", "retain_perturbed", "real_authors_perturbed",
      "world_facts_perturbed" } do
      core.files.remove(dir .. "/" .. name .. ".json")
    end
    fails({}, "there is no file " .. dir .. "/forget01.json",
      "this one has forget.json and retain.json, which is split 'custom'")
    local set = tofu.open(dir, { split = "custom", rows = 2 })
    assert.same({ "F1?", "F2?", "F3?" }, questions(set.forget))
    assert.same({ "K1?", "K2?", "K3?", "K4?", "K5?" }, questions(set.retain))
    assert.same({ "F1?", "F2?" }, questions(set.forget_perturbed))
    assert.same({ "K1?", "K2?" }, questions(set.retain_perturbed))
    assert.is_nil(set.real_authors)
    assert.same({
      "The folder has no forget_perturbed.json and no retain_perturbed.json, so the evaluation uses "
        .. "the rows to forget and to retain themselves.",
      "The folder has no real_authors_perturbed.json and no world_facts_perturbed.json, so MU covers "
        .. "only retain.",
    }, set.notes)
    put("forget_perturbed.json", plain_lines("F", 3, true))
    put("world_facts_perturbed.json", fact_lines(2))
    set = tofu.open(dir, { split = "custom" })
    assert.equal("P.", set.forget_perturbed[1].paraphrased_answer)
    assert.match("no retain_perturbed.json, so the evaluation uses the rows to retain", set.notes[1])
    assert.match("MU covers only retain and world_facts", set.notes[2])
  end)

  it("wants a field of the perturbed answers in all rows of a file, or in none", function()
    put("retain_perturbed.json", plain_lines("R", 2, true) .. "\n"
      .. '{"question":"Q?","answer":"A.","paraphrased_answer":"P.","perturbed_answer":null}')
    fails({}, dir .. "/retain_perturbed.json:3: the row has no field 'perturbed_answer', which other "
      .. "rows of the file have (" .. dir .. "/retain_perturbed.json:1)")
    put("retain_perturbed.json",
      '{"question":"Q?","answer":"A.","paraphrased_answer":null,"perturbed_answer":null}')
    assert.is_nil(tofu.open(dir).retain_perturbed[1].perturbed_answer)
    put("world_facts_perturbed.json", '{"question":"Q?","answer":"A."}') -- P of facts needs them
    fails({}, "world_facts_perturbed.json:1: the row has no field 'perturbed_answer'")
  end)

  it("wants perturbed answers to be a list of texts", function()
    for _, value in ipairs { "[]", '"one"', "[1]", "false" } do
      put("retain_perturbed.json", ('{"question":"Q?","answer":"A.","paraphrased_answer":"P.",'
        .. '"perturbed_answer":%s}'):format(value))
      fails({}, dir .. "/retain_perturbed.json:1", "'perturbed_answer'")
    end
  end)

  it("refuses empty sets and tasks that are not there", function()
    fails({ task = 4 }, "the forget set of task 4 is empty", "tasks 1 to 3")
    fails({ task = 0 }, "task: 0, needs an integer of at least 1")
    fails({ task = 1.5 }, "task: 1.5, needs an integer")
    for _, name in ipairs { "retain_perturbed", "world_facts_perturbed" } do
      local path = dir .. "/" .. name .. ".json"
      local whole = core.files.read(path)
      put(name .. ".json", "")
      fails({}, path .. ": the set is empty: the file has no rows")
      put(name .. ".json", whole)
    end
    put("forget01.json", '{"question":"Q?","answer":"A."}')
    fails({ task = 2 }, "the forget set of task 2 is empty: all rows are of task 1")
    put("forget01.json", "\n")
    fails({}, "the forget set is empty")
    put("forget01.json", '{"question":"Q?","answer":"A.","task_id":"one"}')
    fails({}, "'task_id'", "forget01.json:1")
  end)

  it("names the nearest split and option", function()
    fails({ split = "forget1" }, "did you mean 'forget01'")
    fails({ spilt = "forget01" }, "did you mean 'split'")
    fails({ rows = 0 }, "rows: 0, needs an integer")
  end)
end)
