-- A rule the library does not have, under every scheme and storage; what rules and schemes refuse.
local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

-- RMSprop with momentum, as torch has it: the momentum runs over scaled gradients.
local rmsprop = optim.rule {
  name = "rmsprop",
  hyper = { lr = 1e-2, alpha = 0.99, momentum = 0.9, eps = 1e-2, weight_decay = 0 },
  moments = {
    v = { decay = "alpha", correct = false, nonnegative = true,
          signal = function(g) return g * g end },
    m = { decay = "momentum", kind = "sum",
          signal = function(g, h, mom) return g / (optim.sqrt(optim.abs(mom.v)) + h.eps) end },
  },
  direction = function(mom) return mom.m end,
}

describe("RMSprop with momentum, ten lines of Lua", function()
  -- eps is large because the root has no slope at zero, which a base plus a delta may pass through
  local hyper = { lr = 1e-3, alpha = 0.95, momentum = 0.9, eps = 0.1, weight_decay = 0 }
  local storages = { joint = { {}, { delta = "8bit" } } }
  for _, name in ipairs { "shared", "decoupled", "scaffold", "fedcm", "local_adam" } do
    storages[name] = { {}, { delta = "8bit", base = "8bit" } }
  end
  storages.base_delta = { {}, { base = "8bit" }, { delta = "8bit" },
    { base = "8bit", delta = "8bit" } }
  for kind, list in pairs(storages) do
    for i, storage in ipairs(list) do
      it(("is right under %s, storage %d"):format(kind, i), function()
        local case = { hyper = hyper, scheme = kind, storage = storage, elements = 600, steps = 9,
          frequency = { 1, 2 }, timing = "after_theta", source = "g" }
        drive.compare(kind, drive.run(rmsprop, case), reference.run(rmsprop, case))
      end)
    end
  end
end)

describe("a rule with every function", function()
  it("agrees with plain Lua", function()
    local odd = optim.rule {
      hyper = { lr = 1e-2, beta = 0.9, cap = 0.3 },
      moments = { m = { decay = "beta" }, fixed = { decay = 0.5, signal = optim.abs } },
      direction = function(mom, g, h)
        local a = optim.max(optim.min(mom.m, h.cap), -h.cap) + optim.tanh(g) * 0.25
        local b = optim.exp(-optim.abs(g)) / optim.sqrt(1 + mom.fixed ^ 3) - 1 / (2 + g * g)
        return a - optim.log(1 + optim.abs(b)) + optim.max(g, mom.m) * optim.sign(g) - h.cap ^ 2
          + optim.min(a * b, 2 * b) + 3 * (a - b - g + mom.m) - (g - (mom.m - 1)) / 4
      end,
    }
    local case = { hyper = { lr = 1e-2, beta = 0.9, cap = 0.3 }, scheme = "shared", elements = 300,
      steps = 5, frequency = { 1, 1 } }
    drive.compare("odd", drive.run(odd, case), reference.run(odd, case))
  end)

  it("may use the step count and stay on constants", function()
    local warm = optim.rule { hyper = { lr = 1 },
      direction = function(_, g, h) return g * optim.min(1, h.step / 4) end }
    local w = core.tensor { 1, 2 }
    w:requires_grad(true)
    local o = warm {}:attach { { name = "w", tensor = w } }
    w:set_grad(core.tensor { 4, 8 })
    o:step()
    assert.are.same({ 0, 0 }, w:tolist())
    o:step()
    assert.are.same({ -2, -4 }, w:tolist())
  end)
end)

local function refuses(pattern, f)
  local ok, message = pcall(f)
  assert.is_false(ok)
  assert.is_truthy(tostring(message):find(pattern), tostring(message))
end

local function parameter(n)
  local w = core.zeros(n or 8)
  w:requires_grad(true)
  return w
end

describe("what is refused", function()
  it("names the nearest field", function()
    refuses("unknown field 'weight_decy'.*weight_decay", function()
      optim.adamw { weight_decy = 0.1 }
    end)
    refuses("unknown field 'timming'.*timing", function() scheme.base_delta { timming = "x" } end)
    refuses("'after_detla'.*after_delta", function()
      scheme.base_delta { timing = "after_detla" }
    end)
    refuses("'bse'.*base", function() scheme.base_delta { quantize = { "bse" } } end)
    refuses("joint: lr: %-1, needs", function() scheme.joint { lr = -1 } end)
    refuses("'bf61'.*bf16", function() scheme.shared { storage = "bf61" } end)
    refuses("'bsae'.*base", function() scheme.base_delta { storage = { bsae = "bf16" } } end)
    refuses("of 'base': .*8%-bit.*8bit", function()
      scheme.base_delta { storage = { base = "8-bit" } }
    end)
    refuses("both given", function() scheme.shared { storage = "bf16", quantize = true } end)
    refuses("'mastre'.*master", function() scheme.shared { weights = "mastre" } end)
    refuses("lr: a value without a name", function() scheme.joint { lr = { 1e-3 } } end)
  end)

  it("is what would be passed over", function()
    refuses("lr: a value without a name %(0.5%)", function()
      scheme.shared { lr = { forget = 1, 0.5 } }
    end)
    refuses("lr: a value without a name", function() optim.adamw { lr = { 1e-4 } } end)
    refuses("lr: give at least one { objective = lr }", function() optim.adamw { lr = {} } end)
    refuses("betas and beta1 are both given", function()
      optim.adamw { betas = { 0.9, 0.95 }, beta1 = 0.5 }
    end)
    refuses("storage: a value without a name", function()
      scheme.base_delta { storage = { "8bit" } }
    end)
    refuses("quantize: a list has no field 'base'", function()
      scheme.base_delta { quantize = { base = true } }
    end)
    refuses("quantize_embeddings.*needs true or false", function()
      scheme.shared { quantize = true, quantize_embeddings = "no" }
    end)
    refuses("only = {} splits nothing", function() scheme.decoupled { only = {} } end)
    refuses("rule of 'forget' is a string", function()
      scheme.decoupled { rules = { forget = "sgd" } }
    end)
    refuses("rules: a value without a name", function()
      scheme.decoupled { rules = { optim.sgd {} } }
    end)
    refuses("its own scheme, which would not count", function()
      scheme.decoupled { rules = { forget = optim.sgd {}:with(scheme.joint {}) } }
    end)
  end)

  it("is a value that an objective lacks, before the first step", function()
    local function attach(config)
      config:attach({ { name = "w", tensor = parameter() } }, { objectives = { "a", "b" } })
    end
    refuses("optim.sgd: lr is given by objective, and has none for 'b'", function()
      attach(optim.sgd { lr = { a = 1 } })
    end)
    refuses("scheme: lr is given by objective, and has none for 'a'", function()
      attach(optim.sgd {}:with(scheme.shared { lr = { b = 1 } }))
    end)
    local function with_rule(lr)
      local rules = { b = optim.sgd { lr = lr } }
      return optim.sgd { lr = { a = 1 } }:with(scheme.decoupled { rules = rules })
    end
    attach(with_rule { b = 1 }) -- each objective has the rate of the rule that it follows
    refuses("has none for 'b'", function() attach(with_rule { a = 1 }) end)
    for what, field in pairs { direction = "direction", couple = "couple", decay = "decay" } do
      refuses("optim rule 'r': " .. what .. " returned a nil, needs a value", function()
        local given = { name = "r", hyper = { lr = 1 }, direction = function(_, g) return g end }
        given[field] = function() end
        attach(optim.rule(given) {})
      end)
    end
    refuses("optim.rule: name: true, needs a string", function()
      optim.rule { name = true, hyper = { lr = 1 }, direction = print }
    end)
    refuses("optim.sqrt: a nil, needs a number or a value of the rule", function() optim.sqrt() end)
    refuses("optim.max: a table, needs a number", function() optim.max(1, {}) end)
  end)

  it("is not what a scheme prints itself as", function()
    assert.equal("scheme.decoupled { rules = { retain = optim.sgd { lr = 0.5 } } }",
      tostring(scheme.decoupled { rules = { retain = optim.sgd { lr = 0.5 } } }))
  end)

  it("checks ranges", function()
    refuses("lr", function() optim.adamw { lr = -1 } end)
    refuses("beta1 = 1,", function() optim.adamw { betas = { 1, 0.9 } } end)
    refuses("lr", function() optim.adamw { lr = 0 / 0 } end)
    refuses("lion: beta1 = %-1, need", function() optim.lion { beta1 = -1 } end)
    refuses("lion: beta1 = 2, need", function() optim.lion { betas = { 2, 0.9 } } end)
    refuses("lr = inf, need .* finite", function() optim.adamw { lr = math.huge } end)
    refuses("eps = inf, need .* finite", function() optim.adamw { eps = { forget = math.huge } } end)
    refuses("lr: inf, needs a finite number", function() scheme.shared { lr = math.huge } end)
    refuses("lr", function() optim.adamw { lr = { forget = "a" } } end)
    refuses("g%-delta", function()
      scheme.base_delta { source = "g-delta", timing = "before_delta" }
    end)
  end)

  it("checks rules", function()
    refuses("lr is missing", function()
      optim.rule { hyper = {}, direction = function(_, g) return g end }
    end)
    refuses("moment 'm': kind: 'emma'", function()
      optim.rule { hyper = { lr = 1, b = 0 }, moments = { m = { decay = "b", kind = "emma" } },
        direction = function(_, g) return g end }
    end)
    local function attach(direction)
      local rule = optim.rule { hyper = { lr = 1, beta = 0 }, moments = { m = { decay = "beta" } },
        direction = direction }
      rule {}:attach { { name = "w", tensor = parameter() } }
    end
    refuses("no hyper%-parameter 'bta'.*beta", function()
      attach(function(_, g, h) return g * h.bta end)
    end)
    refuses("no moment 'mm'", function() attach(function(mom) return mom.mm end) end)
    refuses("no order", function() attach(function(mom, g) return g < mom.m and g or mom.m end) end)
  end)

  it("checks attaching", function()
    local w = parameter()
    local list = { { name = "w", tensor = w } }
    refuses("objectives", function() optim.adamw {}:with(scheme.base_delta {}):attach(list) end)
    refuses("two parameters named 'w'", function()
      optim.adamw {}:attach { list[1], { name = "w", tensor = w } }
    end)
    refuses("matrx.*matrix", function()
      optim.adamw {}:attach { { name = "w", tensor = w, kind = "matrx" } }
    end)
    refuses("period", function()
      optim.adamw {}:with(scheme.fedcm {}):attach(list, { objectives = { "a" } })
    end)
    refuses("'retian'.*retain", function()
      optim.adamw { lr = { retian = 1 } }:attach(list, { objectives = { "forget", "retain" } })
    end)
  end)

  it("checks steps, and changes nothing", function()
    local w = parameter()
    local o = optim.adamw {}:with(scheme.base_delta {}):attach({ { name = "w", tensor = w } },
      { objectives = { "forget", "retain" } })
    refuses("no parameter has a gradient", function() o:step { objective = "forget" } end)
    refuses("'forgt'.*forget", function() o:step { objective = "forgt" } end)
    refuses("which objective", function() o:step {} end)
    w:set_grad(core.full(0 / 0, 8))
    refuses("gradient norm", function() o:step { objective = "forget", clip = 1 } end)
    assert.are.equal(0, o:counters().step)
    local joint = optim.sgd {}:with(scheme.joint {}):attach { { name = "w", tensor = w } }
    refuses("joint has one objective", function() joint:step { objective = "forget" } end)
  end)
end)

describe("a configuration", function()
  it("prints itself", function()
    local c = optim.adamw { lr = 1e-5, betas = { 0.9, 0.95 } }:with(scheme.base_delta {
      quantize = { "base", "delta" } })
    assert.are.equal('optim.adamw { betas = { 0.9, 0.95 }, lr = 1e-05 }'
      .. ':with(scheme.base_delta { quantize = { "base", "delta" } })', tostring(c))
  end)
end)
