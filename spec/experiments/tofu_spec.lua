-- tofu_spec.lua - what the bench needs, said before a model is trained; what it prints in the end.
local shell = require "cli.shell"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"
local message = folder.message
local tofu = require "dopl.experiments.tofu"

local function parameters(given)
  local p = {}
  for key, value in pairs(tofu.params()) do p[key] = type(value) == "table" and value[1] or value end
  p.authors, p.questions = 4, 2
  for key, value in pairs(given or {}) do p[key] = value end
  return p
end

describe("experiments.tofu.open", function()
  it("names the parameter that is missing or makes no sense", function()
    local p = parameters()
    p.epochs = nil
    assert.match("tofu_spec.lua:%d+: experiments.tofu.open: the parameter 'epochs' is missing; give "
      .. "dopl.params", message(function() tofu.open(p) end))
    assert.match("experiments.tofu.open: nil, needs table", message(tofu.open))
    assert.match("%-%-rows: 0, needs at least 1", message(tofu.open, parameters { rows = 0 }))
    assert.match("%-%-split: 'forget1' %(did you mean 'forget01'", message(tofu.open,
      parameters { split = "forget1" }))
    assert.match("there is no folder nowhere", message(tofu.open, parameters { data = "nowhere" }))
    assert.match("there are at most 2 tasks", message(tofu.open, parameters { task = 3 }))
  end)

  it("notes rows that are both forgotten and retained", function()
    local data, notes = require "dopl.data", {}
    local open = data.authors.open
    data.authors.open = function(options)
      local set = open(options)
      set.retain[#set.retain + 1] = set.forget[1]
      return set
    end
    local ok, message_or_bench = pcall(tofu.open, parameters(),
      { note = function(text) notes[#notes + 1] = text end })
    data.authors.open = open
    assert(ok, message_or_bench)
    assert.same({ "1 of 5 rows of 'retain' are also in 'forget' (ignoring case, blanks and Unicode "
      .. "normal forms)" }, notes)
    tofu.open(parameters(), { note = function() error "nothing to tell" end })
  end)

  -- A bench over a folder with these files, and its notes.
  local function open_folder(files, given)
    local dir, notes = folder.new(), {}
    for name, rows in pairs(files) do
      local lines = {}
      for i, row in ipairs(rows) do lines[i] = json.encode(row) end
      shell.write(dir .. "/" .. name .. ".json", table.concat(lines, "\n"))
    end
    local p = parameters(given)
    p.data = dir
    local ok, bench = pcall(tofu.open, p, { note = function(text) notes[#notes + 1] = text end })
    folder.remove(dir)
    return assert(ok and bench, bench), notes
  end

  local function rows_of(n, more)
    local rows = {}
    for i = 1, n do
      rows[i] = { question = ("Question %d of %d?"):format(i, n), answer = "Answer " .. i .. "." }
      for key, value in pairs(more or {}) do rows[i][key] = value end
    end
    return rows
  end

  local WRONG <const> = { perturbed_answer = { "Wrong." }, paraphrased_answer = "Right." }

  it("names aggregates for what the data have, before anything is trained", function()
    local bench, notes = open_folder({ forget = rows_of(3), retain = rows_of(5) },
      { split = "custom" })
    assert.same({ UFE = "UFE(R,P)", TFE = "TFE(TE)", MU = "MU(R,P,TE)", OVR = "OVR(R,P,TE)" },
      bench.keys)
    assert.match("no forget_perturbed.json and no retain_perturbed.json", notes[1])
    assert.match("forget: all 3 rows have no perturbed answers, so they have no TR", notes[3])
    assert.equal("The data allow the aggregates UFE(R,P), MU(R,P,TE) and OVR(R,P,TE).",
      notes[#notes])
    assert.same({ "forget", "retain" }, { bench.sets[1].name, bench.sets[2].name })
  end)

  it("reads TOFU as it is published", function()
    local bench, notes = open_folder { forget01 = rows_of(3), forget01_perturbed = rows_of(3, WRONG),
      retain99 = rows_of(6), retain_perturbed = rows_of(6, WRONG),
      real_authors_perturbed = rows_of(2, WRONG), world_facts_perturbed = rows_of(4, WRONG) }
    assert.same(require("dopl.metrics").keys, bench.keys)
    assert.same({}, notes)
    assert.equal(4, #bench.sets)
  end)

  it("learns what it asks of retain rows that it does not train on", function()
    local bench = open_folder({ forget = rows_of(3), neighbor = rows_of(5),
      forget_perturbed = rows_of(3, WRONG), neighbor_perturbed = rows_of(4, WRONG) },
      { split = "real_world" })
    assert.is_true(bench.set.asks_others)
    assert.equal(4, #bench.sets[2].rows)
    bench = open_folder({ forget = rows_of(3), retain = rows_of(5) }, { split = "custom" })
    assert.is_false(bench.set.asks_others) -- else each of them would be learnt twice
  end)

  it("refuses questions that leave no room for an answer", function()
    assert.match("leaves room for an answer; give more than %-%-max_tokens 2",
      message(open_folder, { forget = rows_of(3), retain = rows_of(5) },
        { split = "custom", max_tokens = 2 }))
  end)

  it("asks for a label before it evaluates", function()
    local bench = tofu.open(parameters())
    assert.match("bench:evaluate: label: nil, needs string", message(bench.evaluate, bench, {}))
  end)
end)

describe("experiments.summary.notes", function()
  it("gives each note once, and what went wrong with a row's model", function()
    local summary = require "dopl.experiments.summary"
    assert.same({ "a", "b", "x: c" }, summary.notes({ { faults = { "x: c" } },
      { faults = { "x: c" } }, {} }, { "a", "b" }, { "a" }))
  end)
end)

describe("experiments.summary.show", function()
  it("cuts long answers between characters, whatever bytes a model made", function()
    local status, out, err = shell.recipe [[
      local answers = { "\x80" .. ("a"):rep(250), ("é"):rep(101), ("b"):rep(199) .. "日", "short", "" }
      local samples = {}
      for i, answer in ipairs(answers) do
        samples[i] = { question = "Q?", answer = "A.", generation = answer }
      end
      require("dopl.experiments.summary").show({}, { { label = "x", UFE = 1,
        results = { { name = "forget", n = #answers, samples = samples } } } },
        { title = "T", questions = { forget = #answers } })
    ]]
    assert.equal(0, status, err)
    local printed = {}
    for text in out:gmatch "\n  x +([^\n]*)" do printed[#printed + 1] = text end
    assert.same({ "\\x80" .. ("a"):rep(199) .. "…", ("é"):rep(100) .. "…", ("b"):rep(199) .. "…",
      "short", "(nothing)" }, printed)
  end)
end)
