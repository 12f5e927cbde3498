-- bench_spec.lua - what the bench needs, said before a model is trained; what it prints in the end.
local shell = require "cli.shell"
local message = require("spec.io.folder").message
local tofu = require "dopl.bench.tofu"

local function parameters(given)
  local p = {}
  for key, value in pairs(tofu.params()) do p[key] = type(value) == "table" and value[1] or value end
  p.authors, p.questions = 4, 2
  for key, value in pairs(given or {}) do p[key] = value end
  return p
end

describe("bench.tofu.open", function()
  it("names the parameter that is missing or makes no sense", function()
    local p = parameters()
    p.epochs = nil
    assert.match("bench_spec.lua:%d+: bench.tofu.open: no parameter 'epochs': give dopl.params",
      message(function() tofu.open(p) end))
    assert.match("bench.tofu.open: nil, needs table", message(tofu.open))
    assert.match("%-%-rows: 0, needs at least 1", message(tofu.open, parameters { rows = 0 }))
    assert.match("%-%-split: 'forget1' %(did you mean 'forget01'", message(tofu.open,
      parameters { split = "forget1" }))
    assert.match("there is no folder nowhere", message(tofu.open, parameters { data = "nowhere" }))
    assert.match("there are at most 2 tasks", message(tofu.open, parameters { task = 3 }))
  end)

  it("tells of rows to be forgotten and retained at once", function()
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
    assert.same({ "1 of 5 retain rows are rows to forget, too" }, notes)
    tofu.open(parameters(), { note = function() error "nothing to tell" end })
  end)

  it("asks for a label before it evaluates", function()
    local bench = tofu.open(parameters())
    assert.match("bench:evaluate: label: nil, needs string", message(bench.evaluate, bench, {}))
  end)
end)

describe("bench.summary.show", function()
  it("cuts long answers between characters, whatever bytes a model made", function()
    local status, out, err = shell.recipe [[
      local answers = { "\x80" .. ("a"):rep(250), ("é"):rep(101), ("b"):rep(199) .. "日", "short", "" }
      local samples = {}
      for i, answer in ipairs(answers) do
        samples[i] = { question = "Q?", answer = "A.", generation = answer }
      end
      require("dopl.bench.summary").show({}, { { label = "x", UFE = 1,
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
