-- checkpoint_spec.lua - a training run resumed from a checkpoint ends as the one left alone, and
-- what is not whole is refused.
local checkpoint = require "dopl.train.checkpoint"
local core = require "dopl.core"
local folder = require "spec.io.folder"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local optim = require "dopl.optim"
local run = require "dopl.run"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local sealed = require "dopl.util.sealed"
local shell = require "spec.cli.shell"
local state = require "dopl.train.state"
local small = require "spec.train.small"
local train = require "dopl.train"
local message = folder.message

local function objective(name, l, mark)
  return small.objective(name, l, mark, name == "forget" and { "No.", "I forget." })
end

-- Answers against their refusals, beside what is retained; on a device one pass holds all three.
local function joint_preference(cut)
  return { objectives = { objective("forget", loss.dpo()), objective("retain", loss.gd()) },
    schedule = schedule.joint(), steps = 7, micro_tokens = cut and 40 or nil,
    optimizer = optim.adamw { lr = 1e-2 }:with(scheme.joint {}) }
end

local function narrow_model()
  return models.to(small.model(), "bf16")
end

-- Options of a small training; `more` replaces some.
local function options_of(dir, more)
  local o = {
    model = small.model(),
    objectives = { objective("forget", loss.idk()), objective("retain", loss.gd()) },
    optimizer = optim.adamw { lr = 1e-2 }:with(scheme.decoupled {}), steps = 11, warmup = 3,
    schedule = schedule.alternate { forget = 1, retain = 2 }, progress = false, clip = 1.0,
    checkpoint = { every = 2, folder = dir .. "/c", resume = true },
  }
  for key, value in pairs(more or {}) do o[key] = value end
  return o
end

-- Trains; dies after the steps of a list, each time to be taken up again. Final weights and result.
local function trained(dir, more, deaths)
  for _, last in ipairs(deaths or {}) do
    local o = options_of(dir, more())
    local on_step = o.on_step
    o.on_step = function(live)
      if on_step then on_step(live) end
      if live.step == last then error "killed" end
    end
    assert.match("killed", message(train.fit, o))
  end
  local o = options_of(dir, more())
  local fit = train.fit(o)
  return small.weights(o.model), fit
end

local function evaluate(model, step)
  return { score = -math.abs(step - 6), first = model.parameters[1].tensor:tolist()[1],
    odd = step == 3 and 0 / 0 or math.huge }
end

describe("a checkpoint", function()
  local dir, notes, note
  before_each(function()
    dir, notes, note = folder.new(), {}, core.note
    core.note = function(text) notes[#notes + 1] = text end
  end)
  after_each(function()
    folder.remove(dir)
    core.note = note
  end)

  local adamw <const> = optim.adamw { lr = 1e-2 }
  local trainings = {
    ["states of each objective"] = function() return {} end,
    ["8-bit states"] = function()
      return { optimizer = adamw:with(scheme.base_delta { quantize = { "base", "delta" },
        quantize_min = 16, quantize_embeddings = true }) }
    end,
    ["a joint schedule"] = function()
      return { schedule = schedule.joint(), optimizer = adamw:with(scheme.joint {}) }
    end,
    ["a joint schedule of refusal pairs"] = function() return joint_preference(false) end,
    ["a joint schedule of refusal pairs, cut into micro-batches"] = function()
      return joint_preference(true)
    end,
    ["the best weights so far"] = function()
      return { evaluate = evaluate, every = 3, keep_best = "score" }
    end,
    ["phases and diagnostics"] = function()
      return { diagnostics = { every = 2 }, schedule = schedule.phases {
        { serve = "forget", ends = "loss_forget < 5.4" },
        { serve = schedule.alternate { forget = 1, retain = 1 } } } }
    end,
    ["bf16 weights and their f32 master"] = function()
      return { model = narrow_model(), evaluate = evaluate, every = 3, keep_best = "score" }
    end,
    ["bf16 weights that are rounded stochastically"] = function()
      return { model = narrow_model(), diagnostics = { every = 2 },
        optimizer = adamw:with(scheme.base_delta { weights = "stochastic", storage = "bf16" }) }
    end,
    ["what a recipe keeps in live.saved"] = function()
      return { on_step = function(live) live.saved.n = (live.saved.n or 0) + 1 end,
        stop = function(live) return live.saved.n == 9 end }
    end,
  }
  for name, more in pairs(trainings) do
    it("brings back " .. name, function()
      local whole, fit = trained(dir .. "/whole", more)
      local weights, resumed = trained(dir, more, { 1, 4, 5, math.min(9, fit.steps - 1) })
      assert.equal(whole, weights)
      for _, key in ipairs { "steps", "losses", "tokens", "best_step", "stopped" } do
        assert.same(fit[key], resumed[key])
      end
      assert.same(fit.result and fit.result.first, resumed.result and resumed.result.first)
      assert.same({}, notes)
      assert.equal("done.json done.safetensors", folder.names(dir .. "/c"))
      assert.equal(whole, (trained(dir, more))) -- had ended: nothing is left to do
      assert.same({}, notes)
    end)
  end

  for _, cut in ipairs { false, true } do
    it("of a step that died half way" .. (cut and ", between micro-batches" or ""), function()
      local whole = trained(dir .. "/whole", function() return joint_preference(cut) end)
      local asked, dies, ends = 0, nil, { [0] = 0 }
      local function mortal() -- whose losses are asked so often, in the training under way
        asked = 0
        local o = joint_preference(cut)
        o.on_step = function(live) ends[live.step] = ends[live.step] or asked end
        for _, each in ipairs(o.objectives) do
          local l = each.loss
          each.loss = loss.new { name = l.name, needs = l.needs, text = l.text, value = function(s)
            asked = asked + 1
            if asked == dies then error "killed" end
            return l.value(s)
          end }
        end
        return o
      end
      trained(dir .. "/counted", mortal)
      assert.is_true(cut and ends[7] > 3 * 7 or ends[7] == 2 * 7)
      for _, death in ipairs { { 2, 0 }, { 3, 0 }, { 6, 2 } } do -- of a step; begun behind another
        dies = ends[death[1]] - ends[death[2]] -- at its last loss
        assert.match("killed", message(train.fit, options_of(dir, mortal())))
      end
      assert.match("step%-000004", folder.names(dir .. "/c"))
      dies = nil
      assert.equal(whole, (trained(dir, mortal)))
    end)
  end

  -- Every scheme's states, for rules with one moment, two, and their own matrix step.
  for _, kind in ipairs { "joint", "shared", "decoupled", "base_delta", "scaffold", "fedcm",
    "local_adam" } do
    it("brings back every state of scheme." .. kind, function()
      for _, rule in ipairs { "lion", "adamw", "muon" } do
        local function more()
          local quantize = rule ~= "muon" and { quantize = true, quantize_min = 16 } or {}
          return { optimizer = optim[rule] { lr = 1e-3 }:with(scheme[kind](quantize)), steps = 8,
            schedule = kind == "joint" and schedule.joint() or nil,
            checkpoint = { every = 4, folder = dir .. "/" .. rule, resume = true } }
        end
        local function whole()
          local o = more()
          o.checkpoint.folder = o.checkpoint.folder .. "/whole"
          return o
        end
        assert.equal(trained(dir, whole), (trained(dir, more, { 5 })), rule)
      end
    end)
  end

  it("keeps codes and scales of 8-bit states as they are", function()
    trained(dir, trainings["8-bit states"], { 5 })
    -- the run died after step 5 and went on to its end; look at one that did not
    message(train.fit, options_of(dir .. "/d", { optimizer = trainings["8-bit states"]().optimizer,
      on_step = function(live) if live.step == 5 then error "killed" end end }))
    local found = assert(checkpoint.load(dir .. "/d/c", "step-000004"))
    local codes
    for key, tensor in pairs(found.tensors) do
      if key:find "^state%..*%.codes$" then codes = tensor end
    end
    assert.equal("u8", codes:dtype())
    assert.same({ step = 4, objectives = { forget = 2, retain = 2 }, seed = 1 },
      found.about.counters)
  end)

  -- Two checkpoints, at steps 2 and 4.
  local function leave_two()
    local o = options_of(dir)
    o.on_step = function(live) if live.step == 5 then error "killed" end end
    message(train.fit, o)
    assert.equal("step-000002.json step-000002.safetensors step-000004.json "
      .. "step-000004.safetensors", folder.names(dir .. "/c"))
  end

  local function refused(file, bytes, why)
    shell.write(file, bytes) -- not synced: there are many
    local found, reason = checkpoint.load(dir .. "/c", "step-000004")
    assert.is_nil(found)
    assert.match(why, reason)
    assert.match("step%-000004", reason)
  end

  it("cut short at any byte is refused, and the one before it taken", function()
    leave_two()
    for _, ending in ipairs { "json", "safetensors" } do
      local file = dir .. "/c/step-000004." .. ending
      local whole = shell.read(file)
      local stride = ending == "json" and 1 or math.max(1, #whole // 200)
      for n = 0, #whole - 1, stride do
        refused(file, whole:sub(1, n), ending == "json" and "damaged" or "bytes")
      end
      refused(file, whole:sub(1, #whole - 1), ending == "json" and "damaged" or "bytes")
      assert.equal("step-000002", checkpoint.latest(dir .. "/c").name)
      assert.match("checkpoint refused: .*; taking the one before it", notes[1])
      core.files.write(file, whole)
      assert.equal("step-000004", checkpoint.latest(dir .. "/c").name)
    end
    core.files.remove(dir .. "/c/step-000004.safetensors")
    assert.equal("step-000002", checkpoint.latest(dir .. "/c").name)
  end)

  it("with a changed byte is refused", function()
    leave_two()
    for _, ending in ipairs { "json", "safetensors" } do
      local file = dir .. "/c/step-000004." .. ending
      local whole = shell.read(file)
      for i = 1, #whole, ending == "json" and 1 or math.max(1, #whole // 200) do
        refused(file, whole:sub(1, i - 1) .. string.char(whole:byte(i) ~ (1 << i % 8))
          .. whole:sub(i + 1), "damaged")
      end
      core.files.write(file, whole)
    end
  end)

  it("of an older version, which had another name for diagnostics, is resumed", function()
    local function more() return { diagnostics = { every = 2 } } end
    local whole = trained(dir .. "/whole", more)
    local o = options_of(dir, more())
    o.on_step = function(live) if live.step == 5 then error "killed" end end
    message(train.fit, o)
    local found, tensors = assert(checkpoint.load(dir .. "/c", "step-000004")), {}
    for name, tensor in pairs(found.tensors) do
      tensors[name:gsub("^diagnostics", "microscope")] = tensor
    end
    local about = found.about
    about.microscope, about.diagnostics = about.diagnostics, nil
    about.live.microscope, about.live.diagnostics = about.live.diagnostics, nil
    checkpoint.save(dir .. "/c", "step-000004", tensors, about)
    assert.equal(whole, (trained(dir, more)))
    assert.same({}, notes)
  end)

  it("leaves alone what else is in its folder", function()
    leave_two()
    local left = dir .. "/c/.step-000006.safetensors.123.tmp" -- by writing that was killed
    for _, file in ipairs { left, dir .. "/c/notes.json", dir .. "/c/model.safetensors" } do
      core.files.write(file, "x")
    end
    core.files.mkdir(dir .. "/c/more")
    checkpoint.prune(dir .. "/c", 1)
    assert.equal("model.safetensors more notes.json step-000004.json step-000004.safetensors",
      folder.names(dir .. "/c"))
  end)

  it("that is damaged changes nothing but the way", function()
    local whole = trained(dir .. "/whole", function() end)
    leave_two()
    core.files.write(dir .. "/c/step-000004.safetensors", "short")
    assert.equal(whole, (trained(dir, function() end)))
    assert.match("has 5 bytes, %d+ were written", notes[1])
    assert.equal("done.json done.safetensors", folder.names(dir .. "/c"))
    core.files.write(dir .. "/c/done.json", '{ "hash": ')
    local _, reason = checkpoint.load(dir .. "/c", "done")
    assert.match("^/[^:]*/c/done.json:1:10: .* %(cut short or damaged%)$", reason) -- no recipe's line
  end)

  it("says what differs where model, data or method are others", function()
    leave_two()
    local function resumed(more) return message(train.fit, options_of(dir, more)) end
    assert.match("checkpoint .*/c/step%-000004: its starting model is", resumed {
      model = small.model({}, 2) })
    assert.match("its optimizer is optim.adamw .*, this training's is optim.sgd",
      resumed { optimizer = optim.sgd { lr = 0.1 }:with(scheme.decoupled {}) })
    assert.match("its steps is 11, this training's is 12", resumed { steps = 12 })
    assert.match("its data of retain is %x+, this training's is %x+", resumed { objectives = {
      objective("forget", loss.idk()), objective("retain", loss.gd(), "!") } })
    assert.match("its schedule is", resumed { schedule = schedule.alternate {
      forget = 2, retain = 2 } })
  end)

  it("fills nothing unless everything fits", function()
    local a, b = core.zeros(2), core.zeros(3)
    local function filled(saved)
      return message(state.fill, saved, { { name = "a", tensor = a }, { name = "b",
        tensor = b } }, "w.", "checkpoint x")
    end
    assert.equal("checkpoint x: it has no 'w.b', which this model and optimizer need",
      filled { ["w.a"] = core.full(1, 2) })
    assert.equal("checkpoint x: 'w.b' is f32 [4], this training's is f32 [3]",
      filled { ["w.a"] = core.full(1, 2), ["w.b"] = core.zeros(4) })
    assert.equal("checkpoint x: it has 'w.c', which this model and optimizer lack",
      filled { ["w.a"] = core.full(1, 2), ["w.b"] = core.zeros(3), ["w.c"] = core.zeros(1) })
    assert.same({ 0, 0 }, a:tolist())
  end)

  it("checks its options", function()
    local function fails(given) return message(train.fit, options_of(dir, { checkpoint = given })) end
    assert.match("without a run, a folder is needed", fails {})
    assert.match("checkpoint.every: 0", fails { folder = dir, every = 0 })
    assert.match("unknown field 'evry' %(did you mean 'every'%?%)", fails { evry = 1 })
  end)
end)

describe("a run", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  -- Runs lines of a recipe in a separate process, as the command line does.
  local function recipe(text, ...)
    shell.write(dir .. "/r.lua", "local p = dopl.params { n = 3, list = { 1, 2 } }\n"
      .. "local run <close> = dopl.run.open {}\n" .. text)
    return shell.run(dir .. "/r.lua", ...)
  end
  local function rows() return run.load(dir .. "/r").metrics end

  local WORK <const> = [[
    run:log { first = true, seconds = dopl.core.clock() }
    for _, label in ipairs { "a", "b", "a" } do
      local value = run:once(label, function()
        print("work", label)
        for i = 1, p.n do run:log { label = label, i = i } end
        return { x = 0.1, big = 1 / 0, none = {} }
      end)
      assert(value.x == 0.1 and value.big == math.huge)
    end
    run:log { last = true }
  ]]

  it("takes finished work from its folder, and gives the same rows", function()
    assert.equal(0, (recipe(WORK, "--out", dir .. "/r", "--seed", "3")))
    local whole = rows()
    local _, out = shell.run(dir .. "/r.lua", "--resume", dir .. "/r")
    assert.equal("", out)
    assert.same(whole, rows())
    -- the last piece of work is lost, and a half line was being written
    core.files.remove(dir .. "/r/results/a.2.json")
    local text = shell.read(dir .. "/r/metrics.jsonl")
    core.files.write(dir .. "/r/metrics.jsonl", (text:gsub('[^\n]*\n[^\n]*"last"[^\n]*\n$', '{"i')))
    _, out = shell.run(dir .. "/r.lua", "--resume", dir .. "/r")
    assert.equal("work\ta\n", out)
    assert.same(whole, rows())
  end)

  it("cuts off rows that come out otherwise, and works that out again", function()
    assert.equal(0, (recipe(WORK, "--out", dir .. "/r")))
    local whole = rows()
    local text = shell.read(dir .. "/r/metrics.jsonl")
    core.files.write(dir .. "/r/metrics.jsonl", (text:gsub('true', 'false', 1)))
    local _, out = shell.run(dir .. "/r.lua", "--resume", dir .. "/r")
    assert.equal("work\ta\nwork\tb\nwork\ta\n", out)
    whole[1].seconds = rows()[1].seconds
    assert.same(whole, rows())
  end)

  it("has its own parameters, and no others beside --resume", function()
    assert.equal(0, (recipe("print(p.n, p.list[2], p.seed)", "--out", dir .. "/r", "--seed", "3",
      "--n", "5", "--list", "8,9")))
    local function resumed(...) return shell.run(dir .. "/r.lua", "--resume", dir .. "/r", ...) end
    local _, out = resumed()
    assert.equal("5\t9\t3\n", out)
    assert.equal(0, (resumed("--n", "5")))
    local status, _, err = resumed("--n", "6")
    assert.equal(2, status)
    assert.match("%-%-n 6: the run .* has 5; beside %-%-resume no other value can be given", err)
    assert.equal(2, (resumed("--list", "8,8")))
    assert.equal(2, (shell.run("--seed", "4", dir .. "/r.lua", "--resume", dir .. "/r")))
    status, _, err = shell.run(dir .. "/r.lua", "--resume", dir .. "/nothing")
    assert.equal(2, status)
    assert.match("there is no run in this folder", err)
    assert.is_nil(run.load(dir .. "/r").params.resume)
    local about = core.files.read(dir .. "/r/run.json")
    for _, text in ipairs { "[]", '{"na' } do
      core.files.write(dir .. "/r/run.json", text)
      status, _, err = resumed()
      assert.equal(1, status)
      assert.match("its run.json is damaged", err)
    end
    core.files.write(dir .. "/r/run.json", about)
    status, _, err = recipe("print 'changed'", "--resume", dir .. "/r")
    assert.equal(1, status)
    assert.match("the recipe has changed", err)
  end)

  it("keeps numbers that JSON lacks", function()
    sealed.save(dir .. "/s.json", { a = { 0 / 0, -math.huge, math.huge, 1, 0.1 }, b = {} })
    local value = sealed.load(dir .. "/s.json")
    assert.is_true(value.a[1] ~= value.a[1])
    assert.same({ -math.huge, math.huge, 1, 0.1 }, { table.unpack(value.a, 2) })
    assert.equal("integer", math.type(value.a[4]))
    assert.is_nil((sealed.load(dir .. "/none.json")))
  end)
end)
