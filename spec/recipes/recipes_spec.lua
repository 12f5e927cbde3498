-- The recipes as a user runs them, on a setting small enough for a test: few authors, few steps.
local shell = require "cli.shell"
local json = require "dopl.util.json"
local run = require "dopl.run"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- minutes there, and nothing new to find
local emulated = os.getenv "DOPL_SPEC" == "emulated" -- a GPU that is a CPU: still less
local folder

local SMALL <const> = { "--authors", "4", "--questions", "3", "--epochs", emulated and "1" or "2",
  "--rows", emulated and "1" or "4", "--threads", "2" }
local STEPS <const> = emulated and "2" or "6"

local function recipe(name, out, ...)
  local words = { "recipes/" .. name .. ".lua", "--out", folder .. "/" .. out,
    table.unpack(SMALL) }
  for _, word in ipairs { ... } do words[#words + 1] = word end
  return shell.sh(("DOPL_CACHE=%s/cache %s"):format(folder, (function()
    local quoted = { shell.quote(shell.dopl) }
    for i, word in ipairs(words) do quoted[i + 1] = shell.quote(word) end
    return table.concat(quoted, " ") .. " </dev/null"
  end)()))
end

local function metrics_of(out)
  local rows = {}
  for i, row in ipairs(run.load(folder .. "/" .. out).metrics) do
    rows[i] = json.encode(run.without_times(row))
  end
  return rows
end

describe("recipes", function()
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder))
  end)
  teardown(function() os.execute("rm -rf " .. folder) end)

  it("quickstart ends in a table, answers and a report; the seed decides the numbers", function()
    if sanitized then return end
    local status, text, err = recipe("quickstart", "a", "--steps", STEPS, "--seed", "3")
    assert.equal(0, status, err)
    for _, label in ipairs { "original", "retrained", "Joint", "Alternate", "DO+", "DO+ 8-bit" } do
      assert.truthy(text:find("\n" .. label .. " ", 1, true), label)
    end
    assert.truthy(text:find("MU(R,P,TR,TE)", 1, true))
    assert.falsy(text:find(" MU ", 1, true)) -- never under the bare name
    assert.truthy(text:find "\n%[forget%] ")
    assert.truthy(text:find "\n%[retain%] ")
    assert.truthy(text:find("report: " .. folder .. "/a/report.html", 1, true))
    local page = shell.read(folder .. "/a/report.html")
    assert.truthy(page:find "<svg" and page:find "DO%+ 8%-bit")
    assert.falsy(page:find "https?://[^w]") -- fetches nothing (w: the names of XML's vocabularies)
    local samples = shell.read(folder .. "/a/samples/DO+.jsonl")
    assert.truthy(json.decode(samples:match "^[^\n]+").generation)

    assert.equal(0, (recipe("quickstart", "b", "--steps", STEPS, "--seed", "3")))
    assert.same(metrics_of "a", metrics_of "b") -- "a" trained its models, "b" found them
    assert.equal(0, (recipe("quickstart", "c", "--steps", STEPS, "--seed", "4")))
    assert.not_same(metrics_of "a", metrics_of "c")
  end)

  -- Folders of own data: as TOFU is published, and questions with answers alone.
  local function rows_of(first, n, wrong)
    local lines = {}
    for i = first, first + n - 1 do
      lines[#lines + 1] = json.encode { question = ("Where was author %d born?"):format(i),
        answer = ("Author %d was born in town %d."):format(i, i % 3),
        paraphrased_answer = wrong and ("In town %d."):format(i % 3) or nil,
        perturbed_answer = wrong and { "In a village.", "In a city." } or nil }
    end
    return table.concat(lines, "\n") .. "\n"
  end
  for name, case in pairs {
    published = { split = "forget05", aggregates = "UFE(R,P,TR)", files = {
      forget05 = rows_of(1, 2), forget05_perturbed = rows_of(1, 2, true), retain95 = rows_of(3, 6),
      retain_perturbed = rows_of(5, 3, true), real_authors_perturbed = rows_of(20, 2, true),
      world_facts_perturbed = rows_of(30, 2, true) } },
    plain = { split = "custom", aggregates = "UFE(R,P) ", note = "MU covers only retain",
      files = { forget = rows_of(1, 2), retain = rows_of(3, 6) } },
  } do
    it("quickstart runs a folder to its report: " .. name, function()
      if sanitized then return end
      local dir = folder .. "/" .. name .. ".data"
      assert(os.execute("mkdir " .. dir))
      for file, lines in pairs(case.files) do shell.write(dir .. "/" .. file .. ".jsonl", lines) end
      local status, text, err = recipe("quickstart", name, "--steps", "2", "--data", dir, "--split",
        case.split, "--rows", "2", "--epochs", "1")
      assert.equal(0, status, err)
      assert.truthy(text:find(case.aggregates, 1, true))
      local page = shell.read(folder .. "/" .. name .. "/report.html")
      assert.truthy(page:find((case.aggregates:gsub(" $", "")), 1, true))
      if case.note then
        assert.truthy(err:find(case.note, 1, true))
        assert.truthy(page:find(case.note, 1, true))
      end
    end)
  end

  -- What each recipe's rows are called, and a figure of the paper that stands beside them.
  for _, case in ipairs {
    { "ablation_timing", { "before_delta", "after_delta", "after_theta" }, "59.57" },
    { "ablation_rule", { "g", "g-delta" }, "59.08" },
    { "ablation_momentum", { "fast, fast", "slow, slow" }, "57.59" },
    { "ablation_quantize", { "none", "base", "delta", "base+delta" }, "58.55" },
    { "federated", { "scaffold", "fedcm", "local_adam", "DO+" }, "58.93" },
    { "decouple_moments", { "none", "m", "v", "m and v" }, "1.45" },
    { "losses", { "Joint", "DO+ 8-bit" }, "58.64", { "--losses", "idk,npo" } },
    { "methods", { "Joint", "Alternate", "DO", "DO 8-bit", "DO+", "DO+ 8-bit" }, "58.64" },
    { "retain_frequency", { "Alternate, 1:1", "DO+, 1:14" }, "58.16", { "--frequencies", "1,14" } },
    { "learning_rates", { "DO+" }, "Kendall's tau of the order", { "--methods", "Joint,DO+",
      "--rates", "1e-3,2e-3" }, true },
    { "joint_grid", { "weight 1", "lr x 2", "DO+" }, "53.72", { "--weights", "1", "--rates", "2" } },
    { "optimizer_pairs", { "Single SGD", "Adam (F) + SGD (R)", "Muon (F) + Muon (R)" }, "0.66" },
    { "big_momentum", { "SGD 0.99", "Adam 0.999", "DO" }, "0.66" },
    { "cost", { "Joint", "DO+ 8-bit" }, "33.68", { "--seeds", "2" } },
    { "curves", { "Joint", "Alternate", "DO", "DO+" }, "58.64", { "--every", "3", "--glance", "1" } },
    { "similarity", { "Alternate", "DO", "DO+" }, "averaged gradients", {}, true },
    { "variance", { "SGD, shared", "AdamW, decoupled" }, "of 4 pairs", { "--seeds", "2" }, true },
  } do
    local name, labels, figure, more, no_table = table.unpack(case)
    it(name .. " prints mean and deviation beside the paper's figures, and what they say", function()
      if sanitized then return end
      local status, text, err = recipe(name, name, "--steps", STEPS, "--tasks", "2", "--authors", "6",
        "--rows", "1", "--checkpoint", "0", table.unpack(more or {}))
      assert.equal(0, status, err)
      for _, label in ipairs(labels) do
        local line = text:match("\n" .. label:gsub("%p", "%%%0") .. " [^\n]*")
        assert.truthy(line and line:find "±", label)
      end
      assert.truthy(text:find(figure, 1, true))
      assert.truthy(text:find "What this shows: ")
      assert.truthy(no_table or text:find "Order by [^\n]*Kendall's tau [+-]")
      assert.truthy(text:find "What this does not show: ")
      assert.truthy(shell.read(folder .. "/" .. name .. "/report.html"):find "<svg")
    end)
  end

  it("multitask shows the accuracy of each task beside the paper's", function()
    if sanitized then return end
    local status, text, err = shell.sh(("%s recipes/multitask.lua --steps 3 --start 2 --seeds 2 "
      .. "--train 20 --test 4 --out %s/multitask </dev/null"):format(shell.quote(shell.dopl), folder))
    assert.equal(0, status, err)
    for _, label in ipairs { "start", "Joint", "Alternate", "DO 8%-bit", "DO%+", "DO%+ 8%-bit" } do
      assert.truthy(text:find("\n" .. label .. " +[%d.]+ ±"), label)
    end
    assert.truthy(text:find("67.14", 1, true))
    assert.truthy(text:find "Order by average [^\n]*Kendall's tau [+-]")
  end)

  it("exact_moments shows what the plain sum loses", function()
    if sanitized then return end
    local status, text, err = recipe("exact_moments", "exact", "--epochs", "20")
    assert.equal(0, status, err)
    local plain = tonumber(text:match "\nas written, f32 +([%d.]+)")
    local exact = tonumber(text:match "\ncollected, f32 +([%d.]+)")
    assert.truthy(plain > 100 * exact, text)
    assert.truthy(shell.read(folder .. "/exact/report.html"):find "<svg")
  end)

  it("theorem agrees with its closed form", function()
    local status, text = shell.run("recipes/theorem.lua")
    assert.equal(0, status)
    assert.truthy(text:find "the theorem holds")
  end)
end)
