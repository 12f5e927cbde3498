-- A step over many parameters: instruction sets, sizes, threads, decay groups, clipping, skipping,
-- bytes, checkpoints.
local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

-- A large eps: among thousands of elements some v^_B + v^_D is next to zero, where one code more or
-- less would move theta by any amount.
local hyper = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-2, weight_decay = 0.01 }

describe("instruction sets and odd sizes", function()
  teardown(function() core.optim.isa "" end)
  for _, isa in ipairs { "portable", "avx2", "avx512" } do
    for _, n in ipairs { 1, 255, 256, 257, 513, 4097 } do
      it(("%s, %d elements"):format(isa, n), function()
        if core.optim.isa(isa) ~= isa then return pending(isa .. " is not on this machine") end
        for _, storage in ipairs { {}, { base = "8bit", delta = "8bit" } } do
          local case = { hyper = hyper, scheme = "base_delta", storage = storage, elements = n,
            steps = 3, frequency = { 1, 2 }, timing = "after_theta", source = "g" }
          drive.compare(isa, drive.run(optim.adamw, case),
            reference.run(optim.adamw, case))
        end
      end)
    end
  end
end)

-- Parameters of very different sizes with gradients that differ by step and element.
local sizes = { { 70000, "matrix" }, { 1, "bias" }, { 257, "norm" }, { 5000, "embedding" },
  { 4096, "matrix" }, { 300, "matrix" } }

local function model(dtype)
  local params = {}
  for i, s in ipairs(sizes) do
    local w = core.randn(7, i, 0.1, s[1])
    if dtype == "bf16" then w = core.optim.encode(w, "bf16") end
    w:requires_grad(true)
    params[i] = { name = "w" .. i, tensor = w, kind = s[2] }
  end
  return params
end

local function set_grads(params, step)
  for i, p in ipairs(params) do p.tensor:set_grad(core.randn(step, 100 + i, 0.1, sizes[i][1])) end
end

local function attach(params, options)
  return optim.adamw { lr = 1e-2, betas = { 0.9, 0.95 }, weight_decay = 0.1 }
    :with(scheme.base_delta(options or {}))
    :attach(params, { objectives = { "forget", "retain" } })
end

local function everything(o, params)
  local out = {}
  for _, p in ipairs(params) do out[#out + 1] = p.tensor:tolist() end
  for _, s in ipairs(o:states()) do out[#out + 1] = s.tensor:tolist() end
  return out
end

describe("threads", function()
  local before = core.threads()
  teardown(function() core.threads(before) end)
  local function change_no_bit(dtype, options)
    local results = {}
    for _, n in ipairs { 1, 2 } do
      core.threads(n)
      local params = model(dtype)
      local o = attach(params, options)
      local norms = {}
      for step = 1, 4 do
        set_grads(params, step)
        norms[step] = o:step { objective = step % 2 == 1 and "forget" or "retain",
          clip = 1 }.grad_norm
      end
      results[n] = { norms, everything(o, params) }
    end
    assert.are.same(results[1], results[2])
  end
  it("change no bit", function()
    change_no_bit("f32", { quantize = { "base", "delta" } })
    change_no_bit("f32", { storage = { base = "8bit", delta = "bf16" } })
    change_no_bit("bf16", { storage = "bf16", weights = "stochastic" })
  end)
end)

describe("a step", function()
  it("shrinks matrices only", function()
    local params = model()
    local o = optim.adamw { lr = 0.5, weight_decay = 0.5 }:attach(params)
    for i, p in ipairs(params) do
      p.tensor:fill(1)
      p.tensor:set_grad(core.zeros(sizes[i][1]))
    end
    o:step()
    local want = { 0.75, 1, 1, 0.75, 0.75, 0.75 }
    for i, p in ipairs(params) do assert.are.equal(want[i], p.tensor:at(1)) end
  end)

  it("clips by the global norm, as torch does", function()
    local a, b = core.tensor { 1, 1 }, core.tensor { 1 }
    for _, t in ipairs { a, b } do t:requires_grad(true) end
    a:set_grad(core.tensor { 3, 0 })
    b:set_grad(core.tensor { 4 })
    local o = optim.sgd { lr = 1 }:attach { { name = "a", tensor = a }, { name = "b", tensor = b } }
    local r = o:step { clip = 1 }
    assert.are.equal(5, r.grad_norm)
    assert.is_true(r.clipped)
    assert.is_near(0.4, a:at(1), 1e-6)
    assert.is_near(0.2, b:at(1), 1e-6)
    assert.is_false(o:step({ clip = 10 }).clipped)
    assert.is_nil(o:step().grad_norm)
  end)

  it("leaves a parameter without a gradient alone", function()
    local params = model()
    local o = attach(params)
    set_grads(params, 1)
    params[1].tensor:set_grad(nil)
    local before = params[1].tensor:tolist()
    o:step { objective = "forget" }
    assert.are.same(before, params[1].tensor:tolist())
    assert.are.equal(0, o:state("w1", "m.base"):at(1))
    assert.are_not.equal(0, o:state("w2", "m.base"):at(1))
  end)

  it("takes a learning rate and a factor on it", function()
    local w = core.tensor { 1 }
    w:requires_grad(true)
    w:set_grad(core.tensor { 1 })
    local o = optim.sgd { lr = 0.5 }:attach({ { name = "w", tensor = w } })
    assert.are.equal(0.25, o:step({ lr_scale = 0.5 }).lr)
    assert.are.equal(0.75, w:at(1))
    o:step { lr = 0.25 }
    assert.are.equal(0.5, w:at(1))
  end)
end)

describe("objectives with their own rules", function()
  it("keep their states apart", function()
    local w = core.tensor { 1 }
    w:requires_grad(true)
    local o = optim.adam { lr = 1e-2 }
      :with(scheme.decoupled { rules = { retain = optim.sgd { lr = 0.5, momentum = 0.9 } } })
      :attach({ { name = "w", tensor = w } }, { objectives = { "forget", "retain" } })
    w:set_grad(core.tensor { 1 })
    o:step { objective = "retain" }
    assert.are.equal(0.5, w:at(1))
    o:step { objective = "forget" }
    assert.is_near(0.49, w:at(1), 1e-6)
    o:step { objective = "retain" }
    assert.is_near(0.49 - 0.5 * 1.9, w:at(1), 1e-6)
    local names = {}
    for i, s in ipairs(o:states()) do names[i] = s.name end
    assert.are.same({ "w.m.own.forget", "w.m.own.retain", "w.v.own.forget" }, names)
  end)
end)

describe("states", function()
  it("take the bytes that are promised", function()
    local w = core.zeros(256 * 100)
    w:requires_grad(true)
    local function per_parameter(config, objectives)
      local o = config:attach({ { name = "w", tensor = w } }, { objectives = objectives })
      return o:state_bytes().total / w:numel()
    end
    local two, adamw = { "forget", "retain" }, optim.adamw {}
    assert.are.equal(8, per_parameter(adamw))
    assert.are.equal(16, per_parameter(adamw:with(scheme.decoupled {}), two))
    assert.are.equal(24, per_parameter(adamw:with(scheme.base_delta {}), two))
    assert.are.equal(4.0625, per_parameter(adamw:with(scheme.decoupled { quantize = true }), two))
    assert.are.equal(6.09375,
      per_parameter(adamw:with(scheme.base_delta { quantize = { "base", "delta" } }), two))
    assert.are.equal(4, per_parameter(adamw:with(scheme.shared { storage = "bf16" })))
    assert.are.equal(8, per_parameter(adamw:with(scheme.decoupled { storage = "bf16" }), two))
    assert.are.equal(12, per_parameter(adamw:with(scheme.base_delta { storage = "bf16" }), two))
    assert.are.equal(4 + 4 * 1.015625, per_parameter(adamw:with(scheme.base_delta {
      storage = { base = "bf16", delta = "8bit" } }), two))
    w = core.optim.encode(core.zeros(256 * 100), "bf16"):requires_grad(true)
    assert.are.equal(4 + 4, per_parameter(adamw:with(scheme.shared { storage = "bf16" })))
    local held = adamw:with(scheme.base_delta { weights = "master" }):attach({ { name = "w",
      tensor = w } }, { objectives = two }):state_bytes()
    local each = 4 * w:numel()
    assert.are.same({ base = 2 * each, own = 4 * each, master = each, scratch = 0,
      total = 7 * each }, held)
    for _, weights in ipairs { "stochastic", "nearest" } do
      assert.are.equal(8, per_parameter(adamw:with(scheme.shared { weights = weights })))
    end
  end)

  it("stay f32 for embeddings and small tensors unless asked", function()
    local function kinds(options)
      options.quantize = true
      local params, out = model(), {}
      local o = attach(params, options)
      for i, p in ipairs(o.params) do out[i] = p.state["v.base"].kind end
      return out
    end
    assert.are.same({ "u8", "f32", "f32", "f32", "u8", "f32" }, kinds {})
    assert.are.same({ "u8", "f32", "f32", "u8", "u8", "f32" }, kinds { quantize_embeddings = true })
    assert.are.same({ "u8", "f32", "u8", "f32", "u8", "u8" }, kinds { quantize_min = 200 })
  end)

  it("go through a checkpoint and back", function()
    local options = { quantize = { "base", "delta" } }
    local params = model()
    local o = attach(params, options)
    for step = 1, 3 do
      set_grads(params, step)
      o:step { objective = step == 2 and "retain" or "forget" }
    end
    local copies, saved = {}, {}
    for i, p in ipairs(params) do
      copies[i] = { name = p.name, tensor = p.tensor:detach():clone(), kind = p.kind }
      copies[i].tensor:requires_grad(true)
    end
    for _, s in ipairs(o:states()) do saved[s.name] = s.tensor:clone() end
    local other = attach(copies, options)
    other:restore(saved, o:counters())
    assert.are.same({ step = 3, objectives = { forget = 2, retain = 1 }, seed = 0 }, other:counters())
    for _, pair in ipairs { { o, params }, { other, copies } } do
      set_grads(pair[2], 9)
      pair[1]:step { objective = "retain" }
    end
    assert.are.same(everything(o, params), everything(other, copies))
  end)
end)

describe("the listing", function()
  it("shows an AdamW step as three instructions", function()
    local w = core.zeros(4)
    w:requires_grad(true)
    local text = optim.adamw {}:attach({ { name = "w", tensor = w } }):listing()
    local _, lines = text:gsub("\n", "")
    assert.are.equal(3, lines)
    assert.is_truthy(text:find("theta += k0 %* theta"))
  end)
end)
