-- fork_spec.lua - a training run that begins at another run's checkpoint: the same when nothing is
-- changed, what it may change, and what it says where the two do not fit.
local checkpoint = require "dopl.train.checkpoint"
local core = require "dopl.core"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"
local loss = require "dopl.train.loss"
local optim = require "dopl.optim"
local run = require "dopl.run"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local small = require "spec.train.small"
local train = require "dopl.train"
local message = folder.message

local objective <const> = small.objective
local adamw <const> = optim.adamw { lr = 1e-2 }
local base_delta <const> = scheme.base_delta

local function options_of(more)
  local o = {
    model = small.model(),
    objectives = { objective("forget", loss.npo()), objective("retain", loss.gd()) },
    optimizer = adamw:with(base_delta {}), steps = 11, warmup = 3, progress = false, clip = 1.0,
    schedule = schedule.alternate { forget = 1, retain = 2 }, label = "DO+, task 1",
  }
  for key, value in pairs(more or {}) do o[key] = value end
  return o
end

describe("a fork", function()
  local dir, notes, note
  before_each(function()
    dir, notes, note = folder.new(), {}, core.note
    core.note = function(text) notes[#notes + 1] = text end
  end)
  after_each(function()
    folder.remove(dir)
    core.note = note
  end)

  -- Trains in a separate run; returns the final weights, the logged rows and the result.
  local function trained(name, more)
    local o = options_of(more)
    local r <close> = run.open { out = dir .. "/" .. name, params = {} }
    o.run, o.checkpoint = r, { every = 4, stay = 3 }
    local fit = train.fit(o)
    local rows = {}
    for i, row in ipairs(run.load(r.path).metrics) do rows[i] = run.without_times(row) end
    return small.weights(o.model), rows, fit
  end

  local function from(more)
    local o = { run = dir .. "/parent", step = 4 }
    for key, value in pairs(more or {}) do o[key] = value end
    return run.fork(o)
  end

  it("with nothing changed ends as the training left alone, bit for bit", function()
    for name, more in pairs {
      float = {}, plain = { optimizer = optim.sgd { lr = 0.1, momentum = 0.9 }:with(scheme.shared {}) },
      packed = { optimizer = adamw:with(base_delta { quantize = true, quantize_min = 16 }) },
      half = { optimizer = adamw:with(scheme.decoupled { storage = "bf16" }) },
      muon = { optimizer = optim.muon { lr = 1e-3 }:with(base_delta {}) },
      joint = { optimizer = adamw:with(scheme.joint {}), schedule = schedule.joint() },
      watched = { diagnostics = { every = 1 } },
      phased = { schedule = schedule.phases { { serve = "forget", steps = 3 }, { serve = "retain" } } },
      best = { keep_best = "score", every = 2,
        evaluate = function(m, step) return { score = -math.abs(step - 2), at = step,
          first = m.parameters[1].tensor:at(1) } end },
    } do
      local weights, rows, fit = trained(name, more)
      for _, step in ipairs { 4, 8 } do
        local more_now = { from = from { run = dir .. "/" .. name, step = step } }
        for key, value in pairs(more) do more_now[key] = value end
        local forked, rest, again = trained("child", more_now)
        assert.equal(weights, forked, name)
        assert.same(table.move(rows, #rows - #rest + 1, #rows, 1, {}), rest)
        assert.is_true(#rest >= 11 - step and rest[1].step == step + 1)
        for _, key in ipairs { "losses", "tokens", "best_step", "result", "steps" } do
          assert.same(fit[key], again[key])
        end
      end
    end
    assert.same({}, notes)
  end)

  it("is written down in the run, once, with its parent", function()
    trained("parent")
    trained("child", { from = from() })
    local about = json.load(dir .. "/child/run.json")
    assert.equal(1, #about.parents)
    local parent = about.parents[1]
    assert.equal(dir .. "/parent", parent.run)
    assert.equal(dir .. "/parent/checkpoints/DO+-task-1/step-000004", parent.checkpoint)
    assert.equal("DO+, task 1", parent.training)
    assert.equal(4, parent.step)
    assert.equal(core.files.hash(parent.checkpoint .. ".safetensors"), parent.hash)
  end)

  it("never writes over its parent", function()
    trained("parent")
    local before = folder.content(dir .. "/parent")
    for _, open in ipairs {
      function() -- before the fork: the parent stays until there is something to write
        local _ <close> = run.open { out = dir .. "/parent", params = {} }
        from()
      end,
      function() -- a parameter names it
        return run.open { out = dir .. "/../" .. dir:match "[^/]+$" .. "/parent",
          params = { out = "x", of = { parent = dir .. "/parent" } } }
      end,
      function() -- after the fork
        return from() and run.open { out = dir .. "/parent", params = {} }
      end,
    } do
      assert.match("refused", (message(open):gsub("out: .*/parent is the run that this one is "
        .. "forked from, which would be overwritten; name another folder", "refused")))
      assert.equal(before, folder.content(dir .. "/parent"))
    end
  end)

  it("takes states into another storage, and another timing", function()
    trained("parent")
    local saved = from().tensors
    for kind, given in pairs {
      ["8bit"] = { storage = "8bit", quantize_min = 16 }, bf16 = { storage = "bf16" },
      timed = { timing = "before_delta" }, slow = { base_betas = { 0.99, 0.999 } },
    } do
      local largest = 0
      local o = options_of { optimizer = adamw:with(base_delta(given)), from = from(), steps = 5 }
      local attach = o.optimizer.attach
      o.optimizer = setmetatable({ attach = function(_, ...)
        local optimizer = attach(adamw:with(base_delta(given)), ...)
        local step = optimizer.step
        optimizer.step = function(self, options) -- before the first step: as they were taken
          for _, p in ipairs(self.params) do
            for key in pairs(p.state) do
              local here, there = self:state(p.name, key), saved[("state.%s.%s"):format(p.name, key)]
              local scale = math.sqrt(there:dot(there)) + 1e-30
              local d = here - there
              largest = math.max(largest, math.sqrt(d:dot(d)) / scale)
            end
          end
          assert.same({ step = 4, objectives = { forget = 2, retain = 2 }, seed = 1 },
            self:counters())
          return step(self, options)
        end
        return optimizer
      end }, { __index = adamw:with(base_delta(given)), __tostring = function() return kind end })
      train.fit(o)
      if given.storage then
        assert.is_true(largest > 0 and largest < 0.02, kind .. " " .. largest)
      else
        assert.equal(0, largest)
      end
    end
    assert.same({}, notes)
  end)

  it("from 8 bits to f32 continues with the values that the codes stand for", function()
    trained("parent", { optimizer = adamw:with(base_delta { quantize = true, quantize_min = 16 }) })
    assert.is_truthy(trained("child", { from = from() }))
    assert.same({}, notes)
  end)

  it("says which states do not fit, and takes those that do where asked to", function()
    trained("parent")
    local function child(more, how)
      more.from = from(how)
      return message(trained, "child", more)
    end
    local shared = adamw:with(scheme.shared {})
    assert.match("fork of .*/DO%+%-task%-1/step%-000004: it has no '.-%.m' %(and %d+ more%); "
      .. 'states = "fitting" takes', child { optimizer = shared })
    assert.match("it has '.-%.m%.base', which this optimizer lacks %(and %d+ more%)",
      child { optimizer = adamw:with(scheme.decoupled {}) })
    assert.match("'.-%.m%.base' is pushed as 'ema' there, as 'sum' here",
      child { optimizer = optim.sgd { lr = 0.1, momentum = 0.9 }:with(base_delta {}) })
    local fitting = { states = "fitting" }
    trained("child", { optimizer = adamw:with(scheme.decoupled {}), from = from(fitting) })
    assert.match("fork of .*: %d+ states taken, 0 begin at zero, %d+ have no place here", notes[1])
    local same = trained("child", { optimizer = shared, from = from(fitting) })
    assert.match(": 0 states taken, %d+ begin at zero, %d+ have no place here", notes[2])
    assert.equal(same, (trained("child", { optimizer = shared, from = from { states = "none" } })))
  end)

  it("counts an objective's steps from 0 where its states begin at zero", function()
    trained("parent", { optimizer = adamw:with(scheme.shared {}) })
    local _, _, fit = trained("child", { steps = 5, from = from { states = "fitting" },
      optimizer = adamw:with(scheme.decoupled { only = { "m" } }) })
    assert.same({ step = 5, objectives = { forget = 0, retain = 1 }, seed = 1 },
      fit.optimizer:counters()) -- v, which is shared, was taken
  end)

  it("refuses another model, other data and too few steps, and says what would do", function()
    trained("parent")
    local function child(more, how)
      more.from = from(how)
      return message(trained, "child", more)
    end
    assert.match("'weight.*' is f32 %[257, 16%], this training's is f32 %[257, 8%]", child {
      objectives = { objective("forget", loss.gd()), objective("retain", loss.gd()) },
      model = small.model { hidden_size = 8 } })
    assert.match("loss.npo asks the model before unlearning, and this training's is not the parent's: ",
      child { model = small.model({}, 2) })
    local others = { objective("forget", loss.npo()), objective("retain", loss.gd(), "!") }
    assert.match("the data of 'retain' is not the parent's; data = \"restart\"",
      child { objectives = others })
    assert.is_truthy(trained("child", { objectives = others, from = from { data = "restart" } }))
    assert.match("stands after step 4, and steps = 4: they count from the parent's beginning",
      child { steps = 4 })
    assert.match("from is a table, needs one of dopl.run.fork", message(train.fit, options_of {
      from = {} }))
  end)

  it("says what would do where weights are stored otherwise", function()
    trained("parent")
    local function child(dtype)
      return message(trained, "child", { model = small.model { dtype = dtype },
        objectives = { objective("forget", loss.gd()), objective("retain", loss.gd()) },
        from = from { states = "none" } })
    end
    assert.match("'weight.*' is f32 %[.*%], this training's is bf16 %[.*%]: weights are stored as "
      .. "they were: %-%-dtype f32, or models.to%(model, \"f32\"%)", child "bf16")
  end)

  it("may change the schedule, the number of steps and the losses' weights", function()
    trained("parent")
    local _, rows = trained("child", { steps = 7, from = from { step = 4 },
      schedule = schedule.alternate { forget = 5, retain = 1 } })
    assert.same({ "forget", "retain", "forget" },
      { rows[1].objective, rows[2].objective, rows[3].objective }) -- steps 4, 5, 6 of it, from 0
    assert.equal(3, #rows)
  end)

  it("finds its checkpoint, or lists the ones it has", function()
    trained("parent")
    assert.equal(11, run.fork({ run = dir .. "/parent" }).step) -- the last of those that stayed
    assert.equal(8, from({ step = 8, label = "DO+, task 1" }).step)
    assert.equal("step-000004.json step-000004.safetensors step-000008.json step-000008.safetensors "
      .. "step-000011.json step-000011.safetensors", (folder.names(
        dir .. "/parent/checkpoints/DO+-task-1"):gsub("done.json done.safetensors ", "")))
    for text, given in pairs {
      ["there is no run in /nowhere"] = { run = "/nowhere" },
      ["no checkpoint of step 5 %(it has done, step%-000011, step%-000008, step%-000004%)"] =
        { run = dir .. "/parent", step = 5 },
      ["label.*DO%+%-task%-1"] = { run = dir .. "/parent", label = "DO+, task 2" },
      ["states.*'fitting'"] = { run = dir .. "/parent", states = "fiting" },
    } do
      assert.match(text, message(run.fork, given))
    end
    checkpoint.prune(dir .. "/parent/checkpoints/DO+-task-1", 1)
    assert.match("had ended, and of it only the final weights are there; states = \"none\"",
      message(run.fork, { run = dir .. "/parent" }))
    local last = run.fork { run = dir .. "/parent", states = "none" }
    assert.equal(11, last.step)
    assert.is_truthy(trained("child", { steps = 13, from = last }))
  end)

  it("goes on after a kill from its own checkpoint, not from the parent's", function()
    trained("parent")
    local function options(more)
      local o = options_of { from = from(),
        optimizer = adamw:with(base_delta { timing = "before_delta" }),
        checkpoint = { every = 2, folder = dir .. "/c", resume = true } }
      for key, value in pairs(more or {}) do o[key] = value end
      return o
    end
    local whole = options { checkpoint = { every = 2, folder = dir .. "/w", resume = true } }
    train.fit(whole)
    for _, last in ipairs { 5, 7, 10 } do
      assert.match("killed", message(train.fit, options { on_step = function(live)
        if live.step == last then error "killed" end
      end }))
    end
    local o = options()
    train.fit(o)
    assert.equal(small.weights(whole.model), small.weights(o.model))
    assert.match("its beginning is", message(train.fit, options { from = from { step = 8 } }))
  end)
end)
