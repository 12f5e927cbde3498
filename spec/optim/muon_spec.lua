-- Rules with a matrix step between moments and update: Muon against plain Lua arithmetic, under
-- every scheme and storage; parameters it does not concern; transforms of one's own.
local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

local hyper = { lr = 1e-2, momentum = 0.9, weight_decay = 0.1 }
local schemes = { "joint", "shared", "decoupled", "base_delta", "scaffold", "fedcm", "local_adam" }

local function matches(name, fields)
  local c = { hyper = hyper, frequency = { 1, 2 }, steps = 9, timing = "after_theta", source = "g",
    shape = { 12, 40 } }
  for k, v in pairs(fields) do c[k] = v end
  c.elements = c.shape[1] * c.shape[2]
  drive.compare(name, drive.run(optim.muon, c), reference.run(optim.muon, c))
end

describe("five Newton-Schulz steps", function()
  for _, shape in ipairs { { 1, 1 }, { 7, 7 }, { 5, 33 }, { 65, 9 }, { 1, 40 }, { 40, 1 } } do
    it(("of a matrix [%d, %d]"):format(shape[1], shape[2]), function()
      local m = core.randn(3, 1, 1.0, shape[1], shape[2])
      local got, want = optim.newton_schulz {} (m):tolist(), reference.ns5(m:tolist())
      for i, row in ipairs(want) do
        for j, v in ipairs(row) do assert.is_near(v, got[i][j], 2e-5) end
      end
    end)
  end

  it("of zeros give zeros, and leave what they were given", function()
    local m = core.zeros(3, 2)
    assert.are.same({ { 0, 0 }, { 0, 0 }, { 0, 0 } }, optim.newton_schulz {} (m):tolist())
    local x = core.randn(3, 1, 1.0, 4, 4)
    local before = x:tolist()
    optim.newton_schulz {} (x)
    assert.are.same(before, x:tolist())
  end)

  it("with other coefficients come to an orthogonal matrix", function()
    local m = core.randn(3, 2, 1.0, 4, 9)
    local o = optim.newton_schulz { steps = 60, coefficients = { 1.5, -0.5, 0 } } (m)
    for i, row in ipairs(core.ops.linear(o, o):tolist()) do
      for j, v in ipairs(row) do assert.is_near(i == j and 1 or 0, v, 1e-4) end
    end
  end)

  it("transpose by tiles", function()
    local m = core.randn(3, 4, 1.0, 70, 33)
    local list, turned = m:tolist(), optim.transpose(m):tolist()
    for i = 1, 70 do
      for j = 1, 33 do assert(list[i][j] == turned[j][i]) end
    end
    assert.has_error(function() optim.transpose(core.zeros(3)) end)
  end)
end)

describe("muon against plain Lua", function()
  for _, kind in ipairs(schemes) do
    for _, storage in ipairs { {}, { base = "8bit", delta = "8bit" } } do
      it(("under %s, %s"):format(kind, storage.base or "f32"), function()
        matches(kind, { scheme = kind, storage = storage })
      end)
    end
  end
  for name, fields in pairs {
    ["a tall matrix"] = { shape = { 50, 8 } },
    ["a square matrix"] = { shape = { 17, 17 } },
    ["base before delta"] = { timing = "before_delta" },
    ["base after delta"] = { timing = "after_delta" },
    ["base fed with g - delta"] = { source = "g-delta" },
    ["slow base"] = { hyper = { lr = 1e-2, momentum = 0.9, weight_decay = 0, base_momentum = 0.99 } },
    ["8-bit base"] = { storage = { base = "8bit" } },
    ["8-bit delta"] = { storage = { delta = "8bit" } },
    ["three objectives"] = { frequency = { 2, 1, 3 }, steps = 12 },
    ["a learning rate per objective"] = { lr_ratio = { 0.5, 1 } },
  } do
    it("under base_delta: " .. name, function()
      fields.scheme = "base_delta"
      matches(name, fields)
    end)
  end

  it("as the algorithm is written, without the rule", function()
    local b, lr, rows, cols = 0.9, 0.05, 6, 4
    local w = core.randn(5, 1, 0.5, rows, cols)
    w:requires_grad(true)
    local theta, base, delta = w:tolist(), {}, { {}, {} }
    for i = 1, rows do
      base[i], delta[1][i], delta[2][i] = {}, {}, {}
      for j = 1, cols do base[i][j], delta[1][i][j], delta[2][i][j] = 0, 0, 0 end
    end
    local o = optim.muon { lr = lr, momentum = b }:with(scheme.base_delta {})
      :attach({ { name = "w", tensor = w } }, { objectives = { "forget", "retain" } })
    for t = 1, 8 do
      local k = t % 3 == 1 and 1 or 2
      local gradient = core.randn(t, 9, 1.0, rows, cols)
      local g, d, m = gradient:tolist(), delta[k], {}
      for i = 1, rows do
        m[i] = {}
        for j = 1, cols do
          d[i][j] = b * d[i][j] + (g[i][j] - base[i][j])
          m[i][j] = base[i][j] + d[i][j]
        end
      end
      local turned = reference.ns5(m)
      for i = 1, rows do
        for j = 1, cols do
          theta[i][j] = theta[i][j] - lr * turned[i][j]
          base[i][j] = b * base[i][j] + g[i][j]
        end
      end
      w:set_grad(gradient)
      o:step { objective = k == 1 and "forget" or "retain" }
      local got = w:tolist()
      for i = 1, rows do
        for j = 1, cols do assert.is_near(theta[i][j], got[i][j], 1e-5) end
      end
    end
  end)
end)

-- A small model: matrices, and all other kinds.
local sizes = { { "matrix", 24, 10 }, { "bias", 10 }, { "norm", 24 }, { "embedding", 30, 10 },
  { "matrix", 10, 24 }, { "head", 30, 10 }, { "matrix", 16 } }
local function is_muons(i) return i == 1 or i == 5 end

-- Normal numbers of a parameter's shape.
local function noise(seed, counter, size)
  if size[3] then return core.randn(seed, counter, 0.1, size[2], size[3]) end
  return core.randn(seed, counter, 0.1, size[2])
end

local function model()
  local params = {}
  for i, s in ipairs(sizes) do
    local w = noise(7, i, s)
    w:requires_grad(true)
    params[i] = { name = "w" .. i, tensor = w, kind = s[1] }
  end
  return params
end

local function set_grads(params, step)
  for i, p in ipairs(params) do
    p.tensor:set_grad(noise(step, 100 + i, sizes[i]))
  end
end

local two = { objectives = { "forget", "retain" } }

describe("what is no matrix", function()
  for _, kind in ipairs(schemes) do
    it("follows adamw, under " .. kind, function()
      local adamw = optim.adamw { lr = 3e-3, betas = { 0.9, 0.95 }, weight_decay = 0.1 }
      local options = { objectives = kind ~= "joint" and two.objectives or nil, period = 2 }
      local both, alone = model(), model()
      local a = optim.muon { lr = 0.02, otherwise = adamw }:with(scheme[kind] {})
        :attach(both, options)
      local b = adamw:with(scheme[kind] {}):attach(alone, options)
      for step = 1, 4 do
        local o = { objective = kind ~= "joint" and two.objectives[1 + step % 2] or nil,
          lr_scale = 1 / step }
        set_grads(both, step)
        set_grads(alone, step)
        a:step(o)
        b:step(o)
      end
      for i, p in ipairs(both) do
        local same = pcall(assert.are.same, alone[i].tensor:tolist(), p.tensor:tolist())
        assert.are.equal(not is_muons(i), same, p.name)
      end
    end)
  end

  it("keeps the ratio of the two learning rates", function()
    local function moved(options)
      local params = model()
      local o = optim.muon { lr = 0.02, otherwise = optim.adamw { lr = 1e-3 } }:attach(params)
      local before = params[2].tensor:tolist()
      set_grads(params, 1)
      assert.are.equal(0.04, o:step(options).lr)
      return before[1] - params[2].tensor:tolist()[1]
    end
    assert.is_near(moved { lr_scale = 2 }, moved { lr = 0.04 }, 1e-9)
  end)
end)

describe("muon among objectives", function()
  it("may be the rule of one, with sgd for the other", function()
    local params = model()
    local o = optim.muon { lr = 0.02 }
      :with(scheme.decoupled { rules = { retain = optim.sgd { lr = 0.5 } } }):attach(params, two)
    set_grads(params, 1)
    local w, g = params[1].tensor:tolist(), params[1].tensor:grad():tolist()
    o:step { objective = "retain" }
    assert.is_near(w[1][1] - 0.5 * g[1][1], params[1].tensor:tolist()[1][1], 1e-6)
    w = params[1].tensor:tolist()
    o:step { objective = "forget" }
    assert.is_near(w[2][3] - 0.02 * reference.ns5(g)[2][3], params[1].tensor:tolist()[2][3], 1e-5)
  end)

  it("takes the gradient norm over all parameters", function()
    local params, sum = model(), 0
    set_grads(params, 1)
    for _, p in ipairs(params) do sum = sum + p.tensor:grad():dot(p.tensor:grad()) end
    local norm = optim.muon {}:attach(params):step({ norm = true }).grad_norm
    assert.is_near(math.sqrt(sum), norm, 1e-6)
  end)

  it("leaves a matrix without a gradient alone", function()
    local params = model()
    set_grads(params, 1)
    params[1].tensor:set_grad(nil)
    local before = params[1].tensor:tolist()
    optim.muon {}:attach(params):step()
    assert.are.same(before, params[1].tensor:tolist())
  end)

  it("goes through a checkpoint and back, bit for bit", function()
    local config = optim.muon {}:with(scheme.base_delta { quantize = { "base", "delta" },
      quantize_min = 100 })
    local function go(params, o, from, to)
      for step = from, to do
        set_grads(params, step)
        o:step { objective = two.objectives[1 + step % 2] }
      end
    end
    local params = model()
    local o = config:attach(params, two)
    go(params, o, 1, 3)
    local copies, saved = model(), {}
    for i, p in ipairs(copies) do p.tensor:copy(params[i].tensor) end
    for _, s in ipairs(o:states()) do saved[s.name] = s.tensor:clone() end
    local other = config:attach(copies, two)
    other:restore(saved, o:counters())
    go(params, o, 4, 6)
    go(copies, other, 4, 6)
    for i, p in ipairs(params) do
      assert.are.same(p.tensor:tolist(), copies[i].tensor:tolist())
    end
  end)

  it("takes 4 bytes a parameter of a matrix, 12 with a base and two deltas, and scratch", function()
    local w = core.zeros(64, 64)
    w:requires_grad(true)
    local function bytes(config)
      local list = { { name = "w", tensor = w } }
      list[2] = { name = "another", tensor = core.zeros(64, 64):requires_grad(true) }
      local held = config:attach(list, two):state_bytes()
      assert.are.equal(4 * 4096, held.scratch) -- shared by matrices of one size
      return (held.total - held.scratch) / 8192
    end
    assert.are.equal(4, bytes(optim.muon {}))
    assert.are.equal(12, bytes(optim.muon {}:with(scheme.base_delta {})))
    assert.are.equal(6, bytes(optim.muon {}:with(scheme.base_delta { storage = "bf16" })))
  end)
end)

local function own(transform)
  return optim.rule {
    name = "own", hyper = { lr = 0.5, cap = 2 }, direction = function(_, g) return g end,
    transform = transform, otherwise = optim.sgd { lr = 1 },
  }
end

local function refuses(pattern, f)
  local ok, message = pcall(f)
  assert.is_false(ok)
  assert.is_truthy(tostring(message):find(pattern), tostring(message))
end

describe("a transform of one's own", function()
  it("is given the direction as a matrix, and numbers", function()
    local w = core.zeros(2, 3)
    w:requires_grad(true)
    w:set_grad(core.tensor { { 1, 2, 3 }, { 4, 5, 6 } })
    local rule = own(function(m, h) return m * (h.cap * h.step) end)
    local o = rule {}:attach { { name = "w", tensor = w } }
    o:step()
    assert.are.same({ { -1, -2, -3 }, { -4, -5, -6 } }, w:tolist())
    o:step()
    assert.are.same({ { -3, -6, -9 }, { -12, -15, -18 } }, w:tolist())
  end)

  it("that cannot be right is refused before anything changes", function()
    for pattern, transform in pairs {
      ["made a tensor %[3, 2%] of a matrix %[2, 3%]"] = function(m) return optim.transpose(m) end,
      ["made a nil of a matrix"] = function() end,
      ["no hyper%-parameter 'cup'"] = function(m, h) return m * h.cup end,
    } do
      local w = core.zeros(2, 3)
      w:requires_grad(true)
      w:set_grad(core.full(1, 2, 3))
      local o = own(transform) {}:attach { { name = "w", tensor = w } }
      refuses(pattern, function() o:step() end)
      assert.are.equal(0, o:counters().step)
      assert.are.same({ { 0, 0, 0 }, { 0, 0, 0 } }, w:tolist())
    end
  end)

  it("needs to know what others follow", function()
    local function rule(fields)
      fields.name, fields.hyper, fields.direction = "r", { lr = 1 }, function(_, g) return g end
      return optim.rule(fields)
    end
    local same = function(m) return m end
    refuses("otherwise is a nil", function() rule { transform = same } end)
    refuses("otherwise is for a rule with", function() rule { otherwise = optim.adamw {} } end)
    refuses("optim.muon needs matrices", function()
      optim.muon { otherwise = optim.muon {} }
    end)
    refuses("scheme is that of the whole", function()
      optim.muon { otherwise = optim.adamw {}:with(scheme.decoupled {}) }
    end)
    refuses("unknown field 'otherwise'", function()
      optim.adamw { otherwise = optim.sgd {} }
    end)
  end)
end)

describe("muon", function()
  it("prints itself, and what it does", function()
    local config = optim.muon { lr = 0.02, otherwise = optim.adamw { lr = 1e-3 } }
      :with(scheme.base_delta {})
    assert.are.equal("optim.muon { lr = 0.02, otherwise = optim.adamw { lr = 0.001 } }"
      .. ":with(scheme.base_delta {})", tostring(config))
    local text = config:attach(model(), two):listing()
    assert.is_truthy(text:find("muon, plain:\n.-transform, then\ntheta += .-adamw, plain:\n"), text)
  end)
end)
