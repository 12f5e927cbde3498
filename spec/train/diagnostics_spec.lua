-- diagnostics_spec.lua - what the diagnostics say of a small training, against plain arithmetic on the
-- weights, gradients and states it had.
local array = require "op.array"
local chat = require "dopl.data.chat"
local json = require "dopl.util.json"
local loader = require "dopl.data.loader"
local loss = require "dopl.train.loss"
local diagnostics = require "dopl.train.diagnostics"
local models = require "dopl.models"
local optim = require "dopl.optim"
local schedule = require "dopl.train.schedule"
local scheme = require "dopl.optim.scheme"
local train = require "dopl.train"

local tok <const> = require "spec.data.bytes"

local function objective(name, l)
  local rows = {}
  for i = 1, 8 do
    rows[i] = { question = name:sub(1, 1) .. i, answer = name:sub(1, 1):rep(1 + i * 7 % 11) }
  end
  return { name = name, loss = l, data = loader.new { samples = chat.encode_all(tok, rows),
    batch_size = 4, seed = 1, stream = name } }
end

local BETA1 <const>, BETA2 <const> = 0.9, 0.95

-- A training run of six steps; a record of each step, and the rows of the diagnostics.
local function watch(given)
  local model = models.new({ architecture = "llama", vocab_size = 257, hidden_size = 16, n_layers = 2,
    heads = 2, kv_heads = 1, intermediate_size = 24 }, 1)
  local records, rows = {}, {}
  local function values(of)
    local out = {}
    for _, p in ipairs(model.parameters) do
      local t = of(p)
      out[p.name] = t and array.of(t) or {}
    end
    return out
  end
  local function weights() return values(function(p) return p.tensor end) end
  local o = { model = model, steps = 6, progress = false, warmup = 0, label = "test",
    objectives = { objective("forget", loss.gd()), objective("retain", loss.gd()) },
    optimizer = optim.adamw { lr = 1e-2, betas = { BETA1, BETA2 }, weight_decay = 0.1 },
    schedule = schedule.alternate { forget = 1, retain = 2 }, diagnostics = { every = 3 },
    run = { log = function(_, row)
      if row.kind == "diagnostics" then rows[#rows + 1] = row end
    end } }
  for key, value in pairs(given or {}) do o[key] = value end
  local states = o.states or {}
  o.states = nil
  records[0] = { theta = weights() }
  o.on_step = function(live)
    local r = { theta = weights(), objective = live.objective, states = {},
      grad = values(function(p) return p.tensor:grad() end) }
    for _, key in ipairs(states) do
      r.states[key] = values(function(p) return live.optimizer:state(p.name, key) end)
    end
    records[live.step] = r
  end
  train.fit(o)
  return records, rows, model
end

-- Elements of all parameters, or of a layer, in one list.
local function flat(by_name, layer)
  local out, names = {}, {}
  for name in pairs(by_name) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if not layer or diagnostics.layer(name) == layer then
      table.move(by_name[name], 1, #by_name[name], #out + 1, out)
    end
  end
  return out
end

local function dot(a, b)
  local sum = 0
  for i = 1, #a do sum = sum + a[i] * b[i] end
  return sum
end
local function cosine(a, b) return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) end

local function update(records, step, layer)
  local out = flat(records[step].theta, layer)
  for i, x in ipairs(flat(records[step - 1].theta, layer)) do out[i] = out[i] - x end
  return out
end

local function average(records, last, name, layer)
  local out
  for step = 1, last do
    if records[step].objective == name then
      local g = flat(records[step].grad, layer)
      out = out or {}
      for i = 1, #g do out[i] = 0.9 * (out[i] or 0) + 0.1 * g[i] end
    end
  end
  return out
end

describe("the diagnostics", function()
  it("compares consecutive updates and gradients, in all and by layer", function()
    local records, rows = watch()
    assert.equal(2, #rows)
    for k, row in ipairs(rows) do
      local step = 3 * k - 1 -- opened at the forget step before
      assert.equal(step, row.step)
      assert.equal("test", row.label)
      assert.equal("forget", row.from)
      assert.equal("retain", row.to)
      for _, layer in ipairs { "", "layers.1", "layers.2", "embedding" } do
        local got = layer == "" and row or row.layers[layer]
        local which = layer ~= "" and layer or nil
        assert.near(cosine(update(records, step - 1, which), update(records, step, which)),
          got.cos_update, 1e-5)
        assert.near(cosine(flat(records[step - 1].grad, which), flat(records[step].grad, which)),
          got.cos_grad, 1e-6)
        assert.near(cosine(average(records, step, "forget", which),
          average(records, step, "retain", which)), got.cos_grad_ema, 1e-5)
      end
      assert.is_nil(row.delta_over_base_m_forget)
    end
  end)

  it("corrects each parameter's states as its own rule has them", function()
    local states, step = { "m.base", "m.own.retain" }, 5
    local records, rows, model = watch { states = states, optimizer = optim.muon {
      lr = 1e-2, otherwise = optim.adamw { lr = 1e-2, betas = { BETA1, BETA2 } },
    }:with(scheme.base_delta {}) }
    local base, own = 0, 0
    for _, p in ipairs(model.parameters) do
      local is_muons = p.kind == "matrix"
      local b, o = records[step].states["m.base"][p.name],
        records[step].states["m.own.retain"][p.name]
      base = base + dot(b, b) / (is_muons and 1 or (1 - BETA1 ^ step) ^ 2)
      own = own + dot(o, o) / (is_muons and 1 or (1 - BETA1 ^ 3) ^ 2)
    end
    local want = math.sqrt(own / base)
    assert.near(want, rows[2].delta_over_base_m_retain, 1e-5 * want)
    assert.truthy(rows[2].near_zero_v_retain)
  end)

  it("measures deltas and denominators", function()
    local states = { "m.base", "m.own.forget", "m.own.retain", "v.base", "v.own.forget",
      "v.own.retain" }
    for _, timing in ipairs { "after_theta", "before_delta" } do
      local records, rows = watch { states = states, optimizer = optim.adamw { lr = 1e-2,
        betas = { BETA1, BETA2 } }:with(scheme.base_delta { timing = timing }) }
      local row, step = rows[2], 5
      local counts = { forget = 2, retain = 3 }
      for moment, beta in pairs { m = BETA1, v = BETA2 } do
        local base = flat(records[step].states[moment .. ".base"])
        for name, n in pairs(counts) do
          local own = flat(records[step].states[moment .. ".own." .. name])
          local want = math.sqrt(dot(own, own) / dot(base, base)) * (1 - beta ^ step) / (1 - beta ^ n)
          assert.near(want, row[("delta_over_base_%s_%s"):format(moment, name)], 1e-5 * want)
        end
      end
      for name, at in pairs { forget = 4, retain = 5 } do
        local pushes = timing == "after_theta" and at - 1 or at
        local base = flat(records[pushes].states["v.base"])
        local own = flat(records[at].states["v.own." .. name])
        local near = 0
        for i = 1, #base do
          local b = base[i] / (1 - BETA2 ^ pushes)
          if math.abs(b + own[i] / (1 - BETA2 ^ (at == 4 and 2 or 3))) < 1e-4 * b then
            near = near + 1
          end
        end
        assert.near(near / #base, row["near_zero_v_" .. name], 2 / #base)
      end
    end
  end)

  it("parts the gradients of a joint step", function()
    local _, rows = watch { schedule = schedule.joint(), diagnostics = { every = 2 }, steps = 3 }
    assert.equal(2, #rows)
    assert.equal(1, rows[1].step)
    assert.equal(3, rows[2].step)
    assert.is_nil(rows[1].cos_update)
    local alone = {}
    for i, name in ipairs { "forget", "retain" } do
      local records = watch { objectives = { objective(name, loss.gd()) }, steps = 1,
        schedule = schedule.joint(), diagnostics = false }
      alone[i] = flat(records[1].grad)
    end
    assert.near(cosine(alone[1], alone[2]), rows[1].cos_grad, 1e-5)
    assert.near(rows[1].cos_grad, rows[1].cos_grad_ema, 1e-5)
  end)

  it("sees every change of objective with every = 1, and changes no number", function()
    local records, rows = watch { diagnostics = { every = 1 } }
    local seen = {}
    for i, row in ipairs(rows) do seen[i] = row.step .. " " .. row.from .. " " .. row.to end
    assert.same({ "2 forget retain", "4 retain forget", "5 forget retain" }, seen)
    local alone = watch { diagnostics = false }
    assert.same(alone[6].theta, records[6].theta)
  end)

  it("goes on after a checkpoint", function()
    local function opened()
      local model = models.new({ architecture = "llama", vocab_size = 9, hidden_size = 4, n_layers = 1,
        heads = 1, kv_heads = 1, intermediate_size = 4 }, 1)
      local optimizer = optim.adamw { lr = 1e-2 }:attach(model.parameters,
        { objectives = { "a", "b" } })
      return diagnostics.new({ every = 2 }, { parameters = model.parameters, optimizer = optimizer,
        objectives = { "a", "b" } }), model, optimizer
    end
    local function step(scope, model, optimizer, t, name)
      for i, p in ipairs(model.parameters) do
        local g = p.tensor:detach():clone()
        p.tensor:set_grad(g:fill(name == "a" and 1 or i - 2))
      end
      scope:gradient(t, name)
      optimizer:step { objective = name }
      return scope:after(name)[1]
    end
    local one, model, optimizer = opened()
    step(one, model, optimizer, 0, "a")
    local two, model2, optimizer2 = opened()
    step(opened(), model2, optimizer2, 0, "a") -- the same step, seen by another
    local tensors = {}
    for _, t in ipairs(one:tensors()) do tensors[t.name] = t.tensor end
    two:restore(tensors, json.decode(json.encode(one:state())))
    local want, got = step(one, model, optimizer, 1, "b"), step(two, model2, optimizer2, 1, "b")
    assert.equal("number", type(want.cos_update))
    want.seconds, got.seconds = nil, nil
    assert.same(want, got)
    tensors["ema.a.norm"] = nil
    assert.error_matches(function() two:restore(tensors, {}) end, "no tensor 'ema.a.norm'")
  end)

  it("refuses what makes no sense", function()
    assert.error_matches(function() watch { diagnostics = { every = 0 } } end, "every")
    assert.error_matches(function() watch { diagnostics = { evry = 1 } } end, "did you mean 'every'")
    assert.error_matches(function() watch { microscope = { every = 1 } } end,
      "train.fit: 'microscope' is called 'diagnostics' now: give diagnostics = { every = n }")
    assert.error_matches(function()
      watch { objectives = { objective("forget", loss.gd()) }, schedule = schedule.joint() }
    end, "there is only one")
  end)
end)

describe("tensor:dot", function()
  local core = require "dopl.core"

  it("is the inner product, whatever the number of threads", function()
    assert.equal(11, core.tensor { 1, 2 }:dot(core.tensor { 3, 4 }))
    assert.equal(0, core.zeros(0):dot(core.zeros(0)))
    local a, b = core.randn(1, 1, 1, 100, 331), core.randn(1, 2, 1, 100, 331)
    local sum = dot(array.of(a), array.of(b))
    local threads = core.threads()
    for n = 1, 2 do
      core.threads(n)
      assert.near(sum, a:dot(b), 1e-9)
      assert.equal(a:dot(b), b:dot(a))
    end
    core.threads(threads)
  end)

  it("wants two f32 of one shape", function()
    assert.error_matches(function() core.zeros(2):dot(core.zeros(3)) end,
      "dot: f32 %[2%] and f32 %[3%], needs two f32 of one shape")
    assert.error_matches(function() core.i32({ 1 }):dot(core.zeros(1)) end, "dot: i32")
  end)
end)
