-- plan_spec.lua - what `dopl --plan` says of recipes, against what they then take.
--
-- With DOPL_DEVICE=cuda of the device's memory: on a GPU, or on the emulator.
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- memory is another there
local emulated = os.getenv "DOPL_SPEC" == "emulated" -- a GPU that is a CPU: as little as will do

local SETTING <const> = "--authors 4 --questions 3 --threads 2"
  .. (emulated and " --epochs 1 --rows 1 --steps 6" or " --epochs 2 --rows 4")

local RECIPE <const> = [[
  local tofu = require "dopl.experiments.tofu"
  local p = dopl.params(tofu.params { steps = 12, kind = "", tasks = 1 })
  local run <close> = dopl.run.open { params = p }
  local kinds = {
    plus = { loss.idk(), loss.gd(), optim.adamw { lr = 1e-3 }:with(scheme.base_delta {}),
      schedule.alternate { forget = 1, retain = 2 } },
    preference = { loss.npo(), loss.kl(), optim.adamw { lr = 1e-3 }:with(scheme.decoupled
      { quantize = true }), schedule.phases { { serve = "forget", passes = 1 },
      { serve = schedule.random { "forget", "retain" } } } },
    joint = { loss.ga(), loss.gd(), optim.sgd { lr = 1e-3 }:with(scheme.joint {}), schedule.joint() },
  }
  local k = kinds[p.kind]
  for task = 1, p.tasks do
    p.task = task
    local bench = tofu.open(p, { run = run })
    local rows = { bench:compare { label = p.kind, forget = k[1], retain = k[2], optimizer = k[3],
      schedule = k[4], steps = p.steps, diagnostics = p.kind == "plus" and { every = 4 } or nil } }
    bench:report(rows, { title = "x" })
  end
  local device = dopl.core.device()
  print("PEAK", dopl.core.memory(device ~= "cpu" and device or nil).peak / 2^20)
  local held = dopl.core.memory(device).at_peak
  print("PASS", (held.activations + held.scratch) / 2^20)
]]

-- No two of its steps have as many tokens.
local VARIED <const> = [[
  local p = dopl.params { storage = "f32" }
  local V <const> = 2048
  local model = models.new { architecture = "gpt2", vocab_size = V, n_layers = 2 }
  local draws = dopl.rng.new(1, "samples")
  local function objective(name)
    local samples = {}
    for s = 1, 320 do
      local ids = {}
      for i = 1, 30 + draws:integer(60) do ids[i] = draws:integer(V) - 1 end
      samples[s] = { ids = ids, labels_from = 20, key = tostring(s) }
    end
    return { name = name, loss = loss.gd(),
      data = data.loader { samples = samples, batch_size = 16, stream = name } }
  end
  dopl.train.fit { model = model, objectives = { objective "forget", objective "retain" },
    optimizer = optim.adamw { lr = 1e-5 }:with(scheme.base_delta { storage = p.storage }),
    schedule = schedule.alternate { forget = 1, retain = 5 }, steps = 24, progress = false }
  local m = dopl.memory()
  assert(m.resident > m.live and m.resident_peak >= m.resident)
  print("RESIDENT", m.resident_peak / 2^20)
]]

-- A row of the table of kinds.
local function mib_of(text, label) return tonumber(text:match("\n" .. label .. "%s+([%d.]+)")) end

describe("dopl --plan", function()
  local folder, path

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder))
    path = folder .. "/recipe.lua"
    shell.write(path, RECIPE)
  end)
  teardown(function() os.execute("rm -rf " .. folder) end)

  -- kind: "plus", or with more options "plus --dtype bf16"
  local function run(kind, ...)
    os.execute(("rm -rf %s/runs"):format(folder))
    local words = { "DOPL_CACHE=" .. folder .. "/cache", shell.quote(shell.dopl) }
    for _, word in ipairs { ... } do words[#words + 1] = shell.quote(word) end
    words[#words + 1] = ("%s %s --kind %s --out %s/runs </dev/null"):format(shell.quote(path),
      SETTING, kind, folder)
    return shell.sh(table.concat(words, " "))
  end

  for _, kind in ipairs { "plus", "preference", "joint", "plus --dtype bf16",
    "joint --authors 8 --tasks 4" } do
    it("is within 10% of the measured peak: " .. kind, function()
      if sanitized or emulated and kind:find "tasks" then return end
      local status, text, err = run(kind, "--plan")
      assert.equal(0, status, err)
      assert.falsy(text:find "PEAK") -- the recipe's own printing is silent
      local planned = tonumber(text:match "the whole recipe: peak memory ([%d.]+) MiB")
      local _, measured, reason = run(kind)
      local peak = tonumber(measured:match "PEAK%s+([%d.]+)")
      assert.truthy(peak, reason)
      assert.near(peak, planned, 0.1 * peak)
      if os.getenv "DOPL_DEVICE" == "cuda" then -- which counts by kind; a CPU's scratch is no tensor
        local pass = tonumber(measured:match "PASS%s+([%d.]+)")
        assert.near(pass, mib_of(text, "activations, at the peak") + mib_of(text, "chunk of logits"),
          0.15 * pass)
      end
      local steps = emulated and 6 or 12
      assert.truthy(text:find(("\n%s +%d "):format(kind:match "^%w+", steps)))
    end)
  end

  for _, storage in ipairs { "f32", "8bit" } do
    it("covers what is resident after many batches of unlike lengths: " .. storage, function()
      if sanitized or emulated then return end
      local varied = folder .. "/varied.lua"
      shell.write(varied, VARIED)
      local words = ("--trust %s --storage %s --threads 2"):format(shell.quote(varied), storage)
      local _, text, reason = shell.sh(("%s --plan %s"):format(shell.quote(shell.dopl), words))
      local planned = tonumber(text:match "resident at most: ([%d.]+) MiB")
      assert.truthy(planned, reason)
      local _, measured, err = shell.sh(("%s %s"):format(shell.quote(shell.dopl), words))
      local resident = tonumber(measured:match "RESIDENT%s+([%d.]+)")
      assert.truthy(resident, err)
      assert.is_true(resident < 1.1 * planned, ("%g, %g planned"):format(resident, planned))
      assert.is_true(resident > 0.8 * planned, ("%g, %g planned"):format(resident, planned))
    end)
  end

  it("shows memory by kind, and writes nothing", function()
    if sanitized then return end
    os.execute(("rm -rf %s/cache"):format(folder))
    local status, text = run("plus", "--plan")
    assert.equal(0, status)
    for _, label in ipairs { "parameters", "gradients, at the peak", "state m.base",
      "state v.own.retain", "activations, at the peak", "diagnostics" } do
      assert.truthy(text:find("\n" .. label .. "  ", 1, true), label)
    end
    assert.truthy(text:find("8-bit states", 1, true))
    assert.truthy(text:find("\noriginal +")) -- the small model is to be trained, and was not
    assert.not_equal(0, (shell.sh(("ls %s/cache"):format(folder))))
    assert.not_equal(0, (shell.sh(("ls %s/runs"):format(folder))))
  end)

  it("counts a bf16 parameter's bytes: 2, 4 of its gradient, 4 of its master", function()
    if sanitized then return end
    local status, text = run("plus --dtype bf16", "--plan")
    assert.equal(0, status)
    local function mib(label) return mib_of(text, label) end
    assert.near(2 * mib "parameters", mib "gradients, at the peak", 0.11)
    assert.near(mib "gradients, at the peak", mib "state master", 0.11)
    assert.truthy(text:find("weights = \"stochastic\" in the scheme, instead of", 1, true))
  end)

  it("shows what was measured where the recipe fails, with its error", function()
    shell.write(path, RECIPE .. "error 'broken'\n")
    local status, text, err = run("joint", "--plan")
    shell.write(path, RECIPE)
    assert.equal(1, status)
    assert.truthy(err:find "broken")
    assert.truthy(text:find "^up to where the recipe failed:\n" and text:find "whole recipe")
  end)

  it("says so where nothing is trained", function()
    local status, text = shell.run("--plan", "recipes/theorem.lua")
    assert.equal(0, status)
    assert.truthy(text:find "^nothing is trained; peak memory")
  end)
end)
