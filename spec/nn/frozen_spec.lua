-- frozen_spec.lua - frozen parameters: no gradient, no states, nothing recorded below the lowest
-- trained layer, and for all others the values of a full step.
local batch = require "dopl.data.batch"
local core = require "dopl.core"
local folder = require "spec.io.folder"
local loss = require "dopl.train.loss"
local models = require "dopl.models"
local optim = require "dopl.optim"
local run = require "dopl.run"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local shell = require "spec.cli.shell"
local small = require "spec.train.small"
local train = require "dopl.train"
local message = folder.message

local function memory() return core.memory((core.device())) end

local function some_batch(vocab)
  local samples = {}
  for s, n in ipairs { 30, 12, 40 } do
    local ids = {}
    for i = 1, n do ids[i] = (s * 13 + i * i * 7) % vocab end
    samples[s] = { ids = ids, labels_from = n // 2 + 1, key = "s" .. s }
  end
  return batch.pack(samples)
end

local makes <const> = {
  llama = function(more)
    local config = { architecture = "llama", vocab_size = 64, hidden_size = 32, n_layers = 4, heads = 4,
      kv_heads = 2, intermediate_size = 48, init_std = 0.1 }
    for key, value in pairs(more or {}) do config[key] = value end
    return models.new(config, 3)
  end,
  gpt2 = function(more)
    local config = { architecture = "gpt2", vocab_size = 64, hidden_size = 32, n_layers = 4, heads = 4,
      max_positions = 64, init_std = 0.1 }
    for key, value in pairs(more or {}) do config[key] = value end
    return models.new(config, 3)
  end,
}

-- Hashes of the gradients of a loss by name, and how much was recorded for them.
local function gradients(model)
  local scope <close> = core.scope()
  local before = core.tape_size()
  local value = loss.of_batch(model, loss.gd(), some_batch(64))
  local recorded = core.tape_size() - before
  value:backward()
  local list = {}
  for _, p in ipairs(model.parameters) do
    local grad = p.tensor:grad()
    list[p.name] = grad and core.hash(grad)
  end
  return list, recorded
end

describe("a frozen parameter", function()
  for name, make in pairs(makes) do
    it("has no gradient, and changes nobody else's: " .. name, function()
      local all, recorded = gradients(make())
      for _, trained in ipairs { { "layers.4" }, { "layers.2.qkv", "norm" }, { "embedding" },
        { "layers.*.down" }, { "layers.3", "layers.4.attention_norm" } } do
        for _, recompute in ipairs { false, true } do
          local model = make { checkpoint_layers = recompute }
          model:train_only(trained)
          local some = gradients(model)
          for _, p in ipairs(model.parameters) do
            local wanted = p.tensor:requires_grad() and all[p.name] or nil
            if core.device() == "cpu" or not wanted or not some[p.name] then
              assert.same(wanted, some[p.name], p.name)
            end
          end
        end
      end
      local model = make()
      model:train_only "layers.4"
      local _, few = gradients(model)
      assert.is_true(few < 0.5 * recorded, ("%d of %d"):format(few, recorded))
    end)

    it("takes no memory but its own: " .. name, function()
      local model = make()
      local function peak_of_step()
        local o = optim.adamw { lr = 1e-3 }:attach(model.parameters)
        gradients(model)
        model.parameters:zero_grad()
        collectgarbage()
        core.reset_peak()
        local before = memory().live
        gradients(model)
        local held, peak = memory().by_kind.gradients, memory().peak - before
        o:step {}
        model.parameters:zero_grad()
        return held, peak, o
      end
      local all, all_peak, full = peak_of_step()
      assert.equal(4 * model.parameters:numel(), all)
      assert.equal(8 * model.parameters:numel(), full:state_bytes().total)
      model:train_only "layers.4"
      local n = model.parameters:trained():numel()
      local some, some_peak, o = peak_of_step()
      assert.equal(4 * n, some)
      assert.equal(8 * n, o:state_bytes().total)
      for _, s in ipairs(o:states()) do assert.match("^layers%.4%.", s.name) end
      assert.is_true(some_peak < 0.6 * all_peak, ("%d of %d"):format(some_peak, all_peak))
    end)
  end

  it("is named, or described by the beginning of a name", function()
    local model = makes.llama { n_layers = 11 }
    local function trained()
      local names = {}
      for i, p in ipairs(model.parameters:trained()) do names[i] = p.name end
      return table.concat(names, " ")
    end
    model:train_only "layers.1"
    assert.equal("layers.1.attention_norm layers.1.qkv layers.1.out layers.1.mlp_norm layers.1.gate_up "
      .. "layers.1.down", trained())
    model:freeze { "*norm", "layers.1.d*" }
    assert.equal("layers.1.qkv layers.1.out layers.1.gate_up", trained())
    model:train_only { "norm", "layers.1*.qkv" }
    assert.equal("layers.1.qkv layers.10.qkv layers.11.qkv norm", trained())
    model:unfreeze "*"
    assert.equal(#model.parameters, #model.parameters:trained())
    model:freeze "layers.*"
    assert.equal("embedding norm", trained())
    assert.match(", 2,080 trained$", tostring(model))
    assert.match("layers.1.qkv +matrix +f32 %[64, 32%] frozen\n", tostring(model.parameters))
    for _, wrong in ipairs { "layers.12", "qkv", "layer", "layers.1.qk" } do
      for _, how in ipairs { "freeze", "unfreeze", "train_only" } do
        assert.match(how .. ": no parameter is named '" .. wrong .. "'", message(model[how], model,
          { "norm", wrong }))
      end
    end
    assert.equal("embedding norm", trained()) -- a refused list changes nothing
    assert.match("freeze: nil, needs table", message(model.freeze, model))
  end)

  it("is an error if nothing else is there", function()
    local model = makes.gpt2()
    model:freeze "*"
    assert.match("attach: all 52 parameters are frozen; model:unfreeze", message(function()
      optim.adamw {}:attach(model.parameters)
    end))
    assert.is_false(model:hidden(some_batch(64):tensors()):requires_grad())
  end)

  it("stays frozen in another type, and comes back with a snapshot", function()
    local model = makes.llama()
    model:freeze { "embedding", "layers.2" }
    local narrow = models.to(model, "bf16")
    assert.equal(#model.parameters:trained(), #narrow.parameters:trained())
    local before, snapshot = models.fingerprint(model), model.parameters:snapshot()
    for _, p in ipairs(model.parameters) do p.tensor:copy(p.tensor:detach() * 2) end
    model.parameters:restore(snapshot)
    assert.equal(before, models.fingerprint(model))
  end)
end)

describe("training with frozen parameters", function()
  local dir, note
  before_each(function()
    dir, note = folder.new(), core.note
    core.note = function() end
  end)
  after_each(function()
    folder.remove(dir)
    core.note = note
  end)

  local function fit(more)
    local model = small.model { n_layers = 2 }
    model:train_only { "layers.2", "norm" }
    local o = { model = model, steps = 7, progress = false,
      objectives = { small.objective("forget", loss.npo()), small.objective("retain", loss.kl()) },
      optimizer = optim.adamw { lr = 1e-2 }:with(scheme.base_delta {}), clip = 1.0,
      schedule = schedule.alternate { forget = 1, retain = 1 }, diagnostics = { every = 2 },
      checkpoint = { every = 2, folder = dir .. "/c", resume = true } }
    for key, value in pairs(more or {}) do o[key] = value end
    return small.weights(model), train.fit(o), model
  end

  it("changes the others alone", function()
    local start, result, model = fit()
    local first = small.model { n_layers = 2 }
    assert.not_equal(start, small.weights(model))
    for i, p in ipairs(model.parameters) do
      local was = first.parameters[i].tensor:tolist()
      local moved = p.name == "norm" or p.name:find "^layers%.2%." ~= nil
      if moved then assert.not_same(was, p.tensor:tolist()) else assert.same(was, p.tensor:tolist()) end
    end
    assert.equal(7, #result.optimizer.params)
  end)

  it("is resumed, and forked, as it was", function()
    local _, _, whole = fit { checkpoint = { every = 2, folder = dir .. "/whole" } }
    assert.match("killed", message(fit, { on_step = function(live)
      if live.step == 5 then error "killed" end
    end }))
    local _, _, resumed = fit()
    assert.equal(small.weights(whole), small.weights(resumed))
    local function open(name) return run.open { out = dir .. "/" .. name, params = {} } end
    do
      local parent <close> = open "parent"
      fit { run = parent, checkpoint = { every = 2, stay = 4 } }
    end
    local from = run.fork { run = dir .. "/parent", step = 4, data = "continue" }
    local child <close> = open "child"
    local _, _, forked = fit { run = child, from = from, checkpoint = { every = 2 } }
    assert.equal(small.weights(whole), small.weights(forked))
  end)

  it("is planned without their gradients and states", function()
    if os.getenv "DOPL_SPEC" == "sanitized" or core.device() ~= "cpu" then return end
    local recipe <const> = [[
      local p = dopl.params { trained = "*" }
      local model = models.new { architecture = "llama", vocab_size = 512, n_layers = 4 }
      model:train_only(p.trained)
      local samples = {}
      for s = 1, 8 do
        local ids = {}
        for i = 1, 40 do ids[i] = (s * i) % 512 end
        samples[s] = { ids = ids, labels_from = 20, key = tostring(s) }
      end
      dopl.train.fit { model = model, steps = 4, progress = false, optimizer = optim.adamw {},
        objectives = { { name = "retain", loss = loss.gd(),
          data = data.loader { samples = samples, batch_size = 4, stream = "x" } } } }
    ]]
    local function planned(trained)
      local path = dir .. "/recipe.lua"
      shell.write(path, recipe)
      local status, text, err = shell.run("--plan", path, "--trained", trained, "--threads", "1")
      assert.equal(0, status, err)
      local function mib(label) return tonumber(text:match("\n" .. label .. "%s+([%d.]+)")) or 0 end
      return mib "gradients, at the peak", mib "state m", mib "state v", mib "parameters"
    end
    local all, m = planned "*"
    assert.is_true(all > 0 and m > 3)
    local gradients_left, m_left, v_left, parameters = planned "layers.4"
    local model = models.new { architecture = "llama", vocab_size = 512, n_layers = 4 }
    assert.near(4 * model.parameters:numel() / 2 ^ 20, parameters, 0.06)
    model:train_only "layers.4"
    local one = 4 * model.parameters:trained():numel() / 2 ^ 20
    assert.is_true(gradients_left < all)
    assert.near(one, m_left, 0.06)
    assert.near(one, v_left, 0.06)
  end)
end)
