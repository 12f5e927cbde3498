-- fit_spec.lua - the loop: what must not change a number, and what must end it.
local array = require "op.array"
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local loader = require "dopl.data.loader"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local train = require "dopl.train"

local tok <const> = require "spec.data.bytes"

local function samples(n, letter)
  local rows = {}
  for i = 1, n do
    rows[i] = { question = letter .. i .. ("?"):rep(i % 5), answer = letter:rep(1 + i * 7 % 11) }
  end
  return chat.encode_all(tok, rows)
end

local function new_model(dtype)
  return models.new({ architecture = "llama", vocab_size = 257, hidden_size = 16, n_layers = 1,
    heads = 2, kv_heads = 1, intermediate_size = 24, dtype = dtype }, 1)
end

local function objective(name, l, options)
  local o = { samples = samples(12, name:sub(1, 1)), batch_size = 6, seed = 1, stream = name }
  for key, value in pairs(options or {}) do o[key] = value end
  return { name = name, loss = l, data = loader.new(o) }
end

-- warmup = false: the default
local function options_of(given)
  local o = { model = new_model(), objectives = { objective("retain", loss.gd()) }, steps = 3,
    optimizer = optim.adamw { lr = 1e-2 }, progress = false, warmup = 0 }
  for key, value in pairs(given or {}) do o[key] = value end
  o.warmup = o.warmup or nil
  return o
end

local function weights(model)
  local list = {}
  for _, p in ipairs(model.parameters) do
    local values = array.of(p.tensor)
    table.move(values, 1, #values, #list + 1, list)
  end
  return list
end

local function furthest(a, b)
  local worst = 0
  for i = 1, #a do worst = math.max(worst, math.abs(a[i] - b[i])) end
  return worst
end

-- Losses and weights of a run.
local function fit(given)
  local o, losses = options_of(given), {}
  local names = {}
  for i, each in ipairs(o.objectives) do names[i] = each.name end
  o.on_step = function(live)
    for _, name in ipairs(names) do losses[#losses + 1] = live.losses[name] or false end
    if given and given.on_step then given.on_step(live) end
  end
  local result = train.fit(o)
  return losses, weights(o.model), result, o
end

local refusals <const> = { "No.", "Not known." }

local function two(forget_loss, refuse)
  return {
    objective("forget", forget_loss, refuse and { refusals = refusals, refuse = refuse }),
    objective("retain", loss.gd()),
  }
end

describe("train.fit", function()
  it("learns", function()
    local losses = fit { steps = 30 }
    assert.is_true(losses[30] < 0.8 * losses[1])
  end)

  it("learns with weights in bf16, with or without an f32 master", function()
    local wide = fit { steps = 30 }
    for _, way in ipairs(scheme.weights) do
      local losses, _, _, o = fit { steps = 30, model = new_model "bf16",
        optimizer = optim.adamw({ lr = 1e-2 }):with(scheme.joint { weights = way }) }
      assert.equal("bf16", o.model.parameters[1].tensor:dtype())
      assert.near(wide[30], losses[30], 0.1 * wide[30], way)
    end
  end)

  it("gives the same numbers for the same seed, bit for bit", function()
    local function run(seed)
      local l, w = fit { objectives = { objective("retain", loss.gd(), { seed = seed }) } }
      return { l, w }
    end
    assert.same(run(1), run(1))
    assert.not_same(run(1), run(2))
  end)

  it("gives the same numbers however a batch is cut", function()
    for _, case in ipairs {
      { objectives = function() return { objective("retain", loss.gd()) } end },
      { objectives = function() return two(loss.npo()) end,
        schedule = schedule.alternate { forget = 1, retain = 2 } },
      { objectives = function() return two(loss.dpo(), "twin") end, schedule = schedule.joint() },
      { objectives = function() return two(loss.idk(), "replace") end,
        schedule = schedule.joint() },
    } do
      local function run(micro_tokens)
        return fit { objectives = case.objectives(), schedule = case.schedule,
          micro_tokens = micro_tokens, optimizer = optim.sgd { lr = 0.1 } }
      end
      local whole, w = run(4096)
      for _, micro_tokens in ipairs { 1, 30 } do
        local cut, w2 = run(micro_tokens)
        for i = 1, #whole do
          if whole[i] then assert.near(whole[i], cut[i], 1e-5 * math.max(1, math.abs(whole[i]))) end
        end
        assert.is_true(furthest(w, w2) < 1e-5)
      end
    end
  end)

  it("weighs the sum of a joint step, and takes turns where it alternates", function()
    local served = {}
    local _, joint = fit { objectives = two(loss.ga()), schedule = schedule.joint(), steps = 1,
      optimizer = optim.sgd { lr = 0.1 } }
    local list = two(loss.ga())
    list[1].weight = 0.0
    local _, retained = fit { objectives = list, schedule = schedule.joint(), steps = 1,
      optimizer = optim.sgd { lr = 0.1 } }
    local _, alone = fit { objectives = { objective("retain", loss.gd()) }, steps = 1,
      optimizer = optim.sgd { lr = 0.1 } }
    assert.is_true(furthest(retained, alone) < 1e-7)
    assert.is_true(furthest(joint, alone) > 1e-5)
    fit { objectives = two(loss.ga()), schedule = schedule.alternate { forget = 1, retain = 2 },
      steps = 6, on_step = function(live) served[#served + 1] = live.objective end }
    assert.same({ "forget", "retain", "retain", "forget", "retain", "retain" }, served)
  end)

  it("takes an objective's learning rate and the schedule's", function()
    local rates = {}
    local list = two(loss.ga())
    list[1].lr = 1e-3
    fit { objectives = list, schedule = schedule.alternate { forget = 1, retain = 1 }, steps = 4,
      warmup = 2, optimizer = optim.adamw { lr = 1e-2 }:with(scheme.decoupled()),
      on_step = function(live) rates[#rates + 1] = live.lr end }
    for i, want in ipairs { 0.5e-3, 1e-2, 1e-3, 0.5e-2 } do assert.near(want, rates[i], 1e-12) end
  end)

  -- Another cut rounds the gradients' sums differently. A second moment of base and delta that passes
  -- through zero would magnify the difference, so base_delta and scaffold have the floor that
  -- docs/optimizers.md recommends.
  it("ends in the same place with another size of micro-batches, under every scheme", function()
    if core.device() ~= "cpu" then return end -- minutes on the emulator, and the cut is the host's
    local schemes = { joint = {}, shared = {}, decoupled = {}, base_delta = { floor = 0.1 },
      scaffold = { floor = 0.1 }, fedcm = {}, local_adam = {} }
    local start = weights(new_model())
    for kind, o in pairs(schemes) do
      local ends = {}
      for i, micro_tokens in ipairs { 4096, 30 } do
        local list = two(loss.ga())
        list[1].weight = 1e-3
        local _, w = fit { objectives = list, steps = 24, micro_tokens = micro_tokens,
          schedule = kind == "joint" and schedule.joint()
            or schedule.alternate { forget = 1, retain = 2 },
          optimizer = optim.adamw { lr = 1e-3, betas = { 0.9, 0.95 }, eps = 1e-8 }
            :with(scheme[kind](o)) }
        ends[i] = w
      end
      local apart, gone = 0.0, 0.0
      for i, x in ipairs(ends[1]) do
        apart, gone = apart + (x - ends[2][i]) ^ 2, gone + (x - start[i]) ^ 2
      end
      assert(math.sqrt(apart / gone) < 1e-4, ("%s: %g"):format(kind, math.sqrt(apart / gone)))
    end
  end)

  it("warms up over an epoch of the forget set, counting the steps of both objectives", function()
    local function rates(plan, steps)
      local seen = {}
      fit { objectives = two(loss.ga()), schedule = plan, steps = steps, decay = "none", warmup = false,
        on_step = function(live) seen[#seen + 1] = live.lr end }
      return seen
    end
    local seen = rates(schedule.alternate { forget = 1, retain = 2 }, 8) -- epochs of two steps
    for t, rate in ipairs(seen) do assert.near(1e-2 * math.min(1, t / 6), rate, 1e-12) end
    seen = rates(schedule.joint(), 3)
    for t, rate in ipairs(seen) do assert.near(1e-2 * math.min(1, t / 2), rate, 1e-12) end
    -- whose turn it is shows in running: an epoch of the forget set's own steps
    seen = rates(function() return "retain" end, 3)
    for t, rate in ipairs(seen) do assert.near(1e-2 * math.min(1, t / 2), rate, 1e-12) end
  end)

  it("says that a joint step takes one learning rate, not one for each objective", function()
    local by_objective = { forget = 1e-3, retain = 1e-2 }
    local function refuses(what, given)
      given.objectives, given.schedule = given.objectives or two(loss.ga()), schedule.joint()
      local ok, message = pcall(fit, given)
      assert.is_false(ok)
      assert.matches(what .. " is given by objective, and a step of schedule.joint() serves all of "
        .. "them at once: give one number, or a schedule that alternates", message, 1, true)
    end
    refuses("optim.adamw: lr", { optimizer = optim.adamw { lr = by_objective } })
    refuses("scheme: lr", { optimizer = optim.adamw {}:with(scheme.joint { lr = by_objective }) })
    local list = two(loss.ga())
    list[1].lr = 1e-3
    refuses("lr of objective 'forget'", { objectives = list })
  end)

  it("obeys a function of the step and the last losses", function()
    local seen = {}
    fit { objectives = two(loss.ga()), steps = 3, schedule = function(t, live)
      seen[t + 1] = live.losses.retain or false
      return t == 1 and "forget" or "retain"
    end }
    assert.is_false(seen[1])
    assert.equal("number", type(seen[2]))
    assert.equal(seen[2], seen[3])
  end)

  it("takes lengths in passes, and weights of a joint step from the schedule", function()
    local _, _, result = fit { objectives = two(loss.ga()), steps = schedule.passes(2),
      schedule = schedule.alternate { forget = 1, retain = 2 }, warmup = schedule.passes(1) }
    assert.equal(12, result.steps) -- epochs of two steps
    local _, w = fit { objectives = two(loss.ga()), steps = 2, optimizer = optim.sgd { lr = 0.1 },
      schedule = schedule.joint { forget = 0.25, retain = 2 } }
    local list = two(loss.ga())
    list[1].weight, list[2].weight = 0.25, 2
    local _, w2 = fit { objectives = list, steps = 2, optimizer = optim.sgd { lr = 0.1 },
      schedule = schedule.joint() }
    assert.same(w2, w)
  end)

  it("goes from phase to phase by what evaluations say", function()
    local served = {}
    fit { objectives = two(loss.ga()), steps = 6, every = 2,
      evaluate = function(_, step) return { P = 1 / step } end,
      on_step = function(live) served[#served + 1] = live.objective end,
      schedule = schedule.phases { { serve = "forget", ends = "P < 0.3" }, { serve = "retain" } } }
    assert.same({ "forget", "forget", "forget", "forget", "retain", "retain" }, served)
  end)

  it("stops on request, and evaluates once", function()
    local evaluated = {}
    local _, _, result = fit { steps = 10, stop = function(live) return live.step == 4 end,
      evaluate = function(_, step)
        evaluated[#evaluated + 1] = step
        return { score = step }
      end, every = 3 }
    assert.is_true(result.stopped)
    assert.equal(4, result.steps)
    assert.same({ 3, 4 }, evaluated)
    assert.same({ score = 4 }, result.result)
    evaluated = {}
    fit { steps = 2, stop = function(live) return live.step == 2 end,
      evaluate = function(_, step)
        evaluated[#evaluated + 1] = step
        return {}
      end }
    assert.same({ 2 }, evaluated)
  end)

  it("goes back to the best weights", function()
    local at = {}
    local _, final, result, o = fit { steps = 6, every = 1, keep_best = "score",
      evaluate = function(model, step)
        at[step] = weights(model)
        return { score = -math.abs(step - 3) }
      end }
    assert.equal(3, result.best_step)
    assert.same({ score = 0 }, result.result)
    assert.same(at[3], final)
    assert.not_same(at[6], weights(o.model))
    local _, other = fit { steps = 6, every = 1, keep_best = function(r) return -r.score end,
      evaluate = function(_, step) return { score = step } end }
    assert.same(at[1], other)
    assert.error_matches(function()
      fit { keep_best = "scor", evaluate = function() return { score = 1 } end }
    end, "keep_best = 'scor', but the evaluation gave no such number %(it has score%)")
  end)

  it("takes no NaN for the best, first or last", function()
    local function best(scores)
      local at = 0
      return (select(3, fit { steps = #scores, every = 1, keep_best = "s", evaluate = function()
        at = at + 1
        return { s = scores[at] }
      end }))
    end
    local nan = 0 / 0
    for at, scores in pairs { [3] = { nan, 2, 3 }, [2] = { 2, 3, nan }, [1] = { 3, nan, 2 } } do
      local result = best(scores)
      assert.equal(at, result.best_step)
      assert.equal(3, result.result.s)
    end
    local note, said = core.note, nil
    core.note = function(text) said = text end
    local result = best { nan, nan }
    core.note = note
    assert.is_nil(result.best_step)
    assert.match("every evaluation of 'train' gave NaN to keep_best", said)
  end)

  it("says once which rows one objective forgets and another retains", function()
    local note, notes = core.note, {}
    core.note = function(text) notes[#notes + 1] = text end
    local rows = {}
    for i, pair in ipairs { { "Où?", "Au café." }, { "Who?", "Bo." } } do
      rows[i] = { question = pair[1], answer = pair[2] }
    end
    local others = { { question = "OU\u{300}? ", answer = "au  cafe\u{301}." },
      { question = "Who?", answer = "Cy." } }
    local objectives = {}
    for i, list in ipairs { rows, others } do
      objectives[i] = { name = i == 1 and "forget" or "retain", loss = loss.gd(), data = loader.new {
        samples = chat.encode_all(tok, list), batch_size = 2, stream = "s" .. i } }
    end
    local ok, wrong = pcall(function()
      for _ = 1, 2 do
        fit { objectives = objectives, schedule = schedule.joint(), steps = 1,
          optimizer = optim.adamw { lr = 1e-3 }:with(scheme.joint {}) }
      end
    end)
    core.note = note
    assert(ok, wrong)
    assert.same({ "1 of 2 rows of 'retain' are also in 'forget' (ignoring case, blanks and Unicode "
      .. "normal forms)" }, notes)
  end)

  it("leaves no gradient behind", function()
    local _, _, _, o = fit()
    for _, p in ipairs(o.model.parameters) do assert.is_nil(p.tensor:grad()) end
  end)
end)

describe("train.fit at a number that is not finite", function()
  local function broken(at, make)
    return loss.new { name = "broken", value = function(s)
      at = at - 1
      return make(s, at == 0)
    end }
  end

  local function message_of(l, given)
    local o = options_of(given)
    o.objectives = { objective("forget", l) }
    local before
    o.on_step = function() before = weights(o.model) end
    local ok, message = pcall(train.fit, o)
    assert.is_false(ok)
    assert.same(before, weights(o.model)) -- as the last good step left them
    return message
  end

  it("names step, objective and what to try: the loss", function()
    local message = message_of(broken(2, function(s, now)
      return core.ops.sum(s.nll) * (now and 0 / 0 or 1e-3)
    end))
    assert.truthy(message:find("train.fit: step 2, objective 'forget': the loss is NaN;", 1, true))
    assert.truthy(message:find("the parameters are as step 1 left them", 1, true))
    assert.truthy(message:find("Try a smaller learning rate", 1, true))
  end)

  for _, clip in ipairs { false, 1.0 } do
    it("names them: the gradient" .. (clip and ", clipped" or ""), function()
      -- sqrt at 0: the value is 0, the slope infinite
      local message = message_of(broken(2, function(s, now)
        local x = core.ops.sum(s.nll) * 1e-3
        return now and x + core.ops.sum(core.ops.sqrt(s.nll - s.nll)) or x
      end), { clip = clip or nil })
      assert.truthy(message:find("step 2, objective 'forget': the gradient norm is ", 1, true))
    end)
  end
end)

describe("train.fit refuses", function()
  local function refused(given, pattern)
    assert.error_matches(function() train.fit(options_of(given)) end, pattern)
  end

  it("options that are not there or missing", function()
    refused({ stepss = 3 }, "train.fit.*stepss.*steps")
    refused({ steps = 1.5 }, "train.fit: steps = 1.5, needs an integer")
    refused({ steps = -1 }, "steps = %-1")
    refused({ objectives = two(loss.ga()), schedule = schedule.joint { forget = 1 } },
      "gives 'retain' no weight")
    refused({ objectives = two(loss.ga()), schedule = schedule.phases {
      { serve = "forget", ends = "P < 0.3" }, { serve = "retain" } } }, "give evaluate and every")
    refused({ objectives = {} }, "train.fit: no objectives")
    refused({ objectives = { { name = "x", loss = loss.gd() } } }, "data")
  end)

  it("values of the wrong kind, before anything is computed", function()
    local evaluate = function() return { score = 1 } end
    for pattern, given in pairs {
      ["decay: 'linaer' %(did you mean 'linear'"] = { decay = "linaer" },
      ["clip: the string '1', needs number"] = { clip = "1" },
      ["clip = 0, needs a number above 0"] = { clip = 0 },
      ["clip = %-?nan, needs"] = { clip = 0 / 0 },
      ["micro_tokens = 0, needs an integer"] = { micro_tokens = 0 },
      ["every = %-2, needs an integer"] = { every = -2, evaluate = evaluate },
      ["every needs evaluate"] = { every = 2 },
      ["keep_best needs evaluate"] = { keep_best = "score" },
      ["keep_best: 3, needs string or callable"] = { keep_best = 3, evaluate = evaluate },
      ["evaluate: 3, needs callable"] = { evaluate = 3 },
      ["on_step: the string 'x', needs callable"] = { on_step = "x" },
      ["stop: true, needs callable"] = { stop = true },
      ["run is a table, needs one of dopl.run.open"] = { run = {} },
      ["reference is a string, needs one of dopl.reference.new"] = { reference = "x" },
      ["label: a table, needs string"] = { label = {} },
      ["model is a table without parameters, needs one of models.new"] = { model = {} },
      ["optimizer is a table without attach, needs one like optim.adamw"] = { optimizer = {} },
    } do
      refused(given, "train.fit: " .. pattern)
    end
  end)

  it("objectives of the wrong kind", function()
    local function with(field, value)
      local o = objective("retain", loss.gd())
      o[field] = value
      return { objectives = { o } }
    end
    refused(with("name", 3), "train.fit: name of objective 1: 3, needs string")
    for pattern, given in pairs {
      ["loss is a function, needs one like loss.gd%(%)"] = with("loss", loss.gd),
      ["data is a table that is no loader, needs a data.loader"] = with("data", {}),
      ["weight: the string '1', needs number"] = with("weight", "1"),
      ["weight = %-?nan, needs a finite number"] = with("weight", 0 / 0),
      ["lr = %-1, needs a finite number of at least 0"] = with("lr", -1),
    } do
      refused(given, "train.fit: objective 'retain': " .. pattern)
    end
  end)

  it("a loss whose value is no tensor with one element", function()
    local function value(f) return { objectives = { objective("retain",
      loss.new { name = "mine", value = f }) } } end
    refused(value(function() end), "loss.mine: its value function returned a nil, needs a tensor")
    refused(value(function(s) return s.nll end), "a tensor of shape %[6%], needs one element")
  end)

  it("a score that is no number", function()
    refused({ evaluate = function() return {} end, keep_best = function() end },
      "what keep_best returns: nil, needs number")
  end)

  it("several objectives without a schedule, or one that does not name them", function()
    refused({ objectives = two(loss.ga()) }, "several objectives need a schedule")
    refused({ objectives = two(loss.ga()), schedule = schedule.alternate { forgot = 1 } },
      "forgot.*forget")
    refused({ objectives = two(loss.ga()), schedule = function() return "forgot" end },
      "forgot.*forget")
    refused({ objectives = two(loss.ga()), schedule = function() end },
      "the schedule names no objective for step 0")
    refused({ objectives = two(loss.ga()), schedule = "joint" }, "schedule: a string given")
    refused({ objectives = { objective("a", loss.gd()), objective("a", loss.gd()) },
      schedule = schedule.joint() }, "two objectives 'a'")
  end)

  it("samples that a model has no positions for", function()
    local objectives = { objective("retain", loss.gd()) }
    local longest = 0
    for _, s in ipairs(objectives[1].data.samples) do longest = math.max(longest, #s.ids) end
    local function gpt2(positions)
      return models.new({ architecture = "gpt2", vocab_size = 257, hidden_size = 16, n_layers = 1,
        heads = 2, max_positions = positions }, 1)
    end
    refused({ model = gpt2(longest - 2), objectives = objectives },
      ("objective 'retain': sample %%d+ has %d tokens, the model has positions for %d"):format(
        longest, longest - 2))
    train.fit(options_of { model = gpt2(longest - 1), objectives = objectives })
  end)

  it("data that does not suit the loss", function()
    refused({ objectives = { objective("forget", loss.idk()) } },
      "objective 'forget': loss.idk needs data whose answers are refusals")
    for _, refuse in ipairs { false, "replace" } do -- said before the reference model is asked
      local o = objective("forget", loss.dpo(), { refusals = refuse and { "No." }, refuse = refuse })
      refused({ objectives = { o }, reference = { prepare = function() error "asked" end } },
        "train.fit: objective 'forget': loss.dpo needs data with refusal pairs %(data.loader: ")
    end
  end)
end)
