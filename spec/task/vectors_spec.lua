-- vectors_spec.lua - training with a task that is not text: everything that train.fit offers.
local array = require "op.array"
local folder = require "spec.io.folder"
local loss = require "dopl.train.loss"
local optim = require "dopl.optim"
local run = require "dopl.run"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local shell = require "spec.cli.shell"
local small = require "spec.train.small"
local state = require "dopl.train.state"
local task = require "dopl.task"
local train = require "dopl.train"
local vectors = require "spec.task.vectors"

local message = folder.message

local function options_of(more)
  local o = {
    model = vectors.model(), task = vectors.task, steps = 12, warmup = 0, progress = false, clip = 1.0,
    objectives = { vectors.objective("forget", vectors.error, -1),
      vectors.objective("retain", vectors.stay, 1) },
    optimizer = optim.adamw { lr = 1e-2 }:with(scheme.base_delta { floor = 0.1 }),
    schedule = schedule.alternate { forget = 1, retain = 2 },
  }
  for key, value in pairs(more or {}) do o[key] = value end
  return o
end

-- Final weights, rows without times.
local function trained(more)
  local o, rows = options_of(more), {}
  if not o.checkpoint then
    o.run = { log = function(_, row) rows[#rows + 1] = run.without_times(row) end }
  end
  local fit = train.fit(o)
  return state.model_hash(o.model), rows, fit, o.model
end

describe("a task of vectors", function()
  it("learns, with rows of metrics as any training has", function()
    local _, rows = trained { objectives = { vectors.objective("retain", vectors.error, 1) },
      steps = 60, schedule = schedule.joint(), optimizer = optim.adamw { lr = 3e-2 } }
    assert.is_true(rows[60].loss_retain < 0.2 * rows[1].loss_retain)
    assert.equal(4, rows[1].tokens) -- what a batch costs
    assert.equal(4, rows[1].labels)
  end)

  it("adds up micro-batches to the same gradient", function()
    local ends = {}
    for i, micro_tokens in ipairs { 100, 3, 1 } do
      local _, _, _, model = trained { micro_tokens = micro_tokens }
      ends[i] = {}
      for k, p in ipairs(model.parameters) do ends[i][k] = array.of(p.tensor) end
    end
    for i = 2, 3 do
      for k, values in ipairs(ends[1]) do
        for n, x in ipairs(values) do assert.near(x, ends[i][k][n], 1e-4) end
      end
    end
  end)

  it("asks the starting model once about each sample", function()
    vectors.asked = 0
    trained { steps = 30 }
    assert.equal(10, vectors.asked)
  end)

  it("goes on from a checkpoint, and from a fork, as if it had not stopped", function()
    local dir = folder.new()
    finally(function() folder.remove(dir) end)
    local function more(name)
      return { checkpoint = { every = 2, folder = dir .. "/" .. name, resume = true },
        diagnostics = { every = 2 }, schedule = schedule.phases { { serve = "forget", passes = 1 },
          { serve = schedule.alternate { forget = 1, retain = 1 } } } }
    end
    local whole = trained(more "whole")
    local o = more "cut"
    o.on_step = function(live) if live.step == 7 then error "killed" end end
    assert.match("killed", message(trained, o))
    assert.equal(whole, (trained(more "cut")))

    local function in_run(name, given)
      local r <close> = run.open { out = dir .. "/" .. name, params = {} }
      given.run, given.checkpoint, given.label = r, { every = 4, stay = 3 }, "x"
      return (trained(given))
    end
    local parent = in_run("parent", more "")
    local child = more ""
    child.from = run.fork { run = dir .. "/parent", step = 4 }
    assert.equal(parent, in_run("child", child))
  end)

  it("says what a loss needs and the task lacks, either way round", function()
    local function with(l) return { objectives = { vectors.objective("x", l, 1) } } end
    assert.match("train.fit: objective 'x': loss.gd needs 'nll'; the task 'vectors' gives prediction, "
      .. "error, and of the starting model prediction. Take a loss of these scores, or another task",
      message(trained, with(loss.gd())))
    assert.match("loss.kl needs 'hidden' of the starting model; the task 'vectors'",
      message(trained, with(loss.kl())))
    assert.match("objective 'x': loss.squared_error needs 'error'; the task 'causal_lm' gives nll",
      message(train.fit, options_of { task = require "dopl.task.causal_lm", model = small.model(),
        objectives = { small.objective("x", vectors.error) } }))
    assert.match("objective 'x': samples must be made by data.samples; number 1 is not",
      message(train.fit, options_of { task = require "dopl.task.causal_lm", model = small.model(),
        objectives = { vectors.objective("x", loss.gd(), 1) } }))
    assert.match("train.fit: task is a string, needs one like dopl.task.causal_lm",
      message(trained, { task = "vectors" }))
    assert.match("task.new: 'pack' is missing", message(task.new, { name = "x", scores = {},
      cost = print, count = print, score = print }))
  end)

  it("is planned", function()
    local dir = folder.new()
    finally(function() folder.remove(dir) end)
    shell.write(dir .. "/r.lua", [[
      package.path = "./?.lua;" .. package.path
      local vectors = require "spec.task.vectors"
      local fit = train.fit { model = vectors.model(), task = vectors.task, steps = 30, label = "v",
        objectives = { vectors.objective("forget", vectors.error, -1),
          vectors.objective("retain", vectors.stay, 1) }, optimizer = optim.adamw { lr = 1e-2 },
        schedule = schedule.alternate { forget = 1, retain = 2 } }
      assert(fit.steps == 30)
    ]])
    local status, text, err = shell.run("--trust", "--plan", dir .. "/r.lua")
    assert.equal(0, status, err)
    assert.match("\nv +30 +", text)
  end)
end)
