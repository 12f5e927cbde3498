-- Every rule, scheme and storage against a plain Lua reference; and against the oracle's golden
-- file where this clone has it beside it.
local optim = require "dopl.optim"
local core = require "dopl.core"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

local adam = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01 }
local rules = {
  adamw = adam, adam = adam,
  sgd = { lr = 1e-2, momentum = 0.9, weight_decay = 0.01 },
  nesterov = { lr = 1e-2, momentum = 0.9, weight_decay = 0.01 },
  lion = { lr = 1e-3, beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01 },
}

local function case(fields)
  local c = {
    elements = 300, steps = 14, frequency = { 1, 5 }, timing = "after_theta", source = "g",
  }
  for k, v in pairs(fields) do c[k] = v end
  return c
end

local function matches(name, c)
  local rule = optim[c.rule]
  drive.compare(name, drive.run(rule, c), reference.run(rule, c))
end

describe("optimizer against plain Lua", function()
  for rule, hyper in pairs(rules) do
    for _, scheme in ipairs { "joint", "shared", "decoupled", "base_delta", "scaffold", "fedcm",
      "local_adam" } do
      it(rule .. " under " .. scheme, function()
        matches(rule, case { rule = rule, hyper = hyper, scheme = scheme })
      end)
    end
  end

  for name, fields in pairs {
    ["base before delta"] = { timing = "before_delta" },
    ["base after delta"] = { timing = "after_delta" },
    ["base fed with g - delta"] = { source = "g-delta" },
    ["base fed with g - delta, after delta"] = { source = "g-delta", timing = "after_delta" },
    ["slow base"] = { hyper = { lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8,
      weight_decay = 0.01, base_beta1 = 0.99, base_beta2 = 0.999 } },
    ["8-bit base"] = { storage = { base = "8bit" } },
    ["8-bit delta"] = { storage = { delta = "8bit" } },
    ["8-bit base and delta"] = { storage = { base = "8bit", delta = "8bit" } },
    ["8-bit, base fed with g - delta"] = { storage = { base = "8bit", delta = "8bit" },
      source = "g-delta" },
    ["a floor under the second moment"] = { floor = 0.1 },
    ["8-bit, a floor under the second moment"] = { floor = 0.1,
      storage = { base = "8bit", delta = "8bit" } },
    ["three objectives"] = { frequency = { 2, 1, 3 } },
    ["a learning rate per objective"] = { lr_ratio = { 0.5, 1 } },
  } do
    it("adamw under base_delta: " .. name, function()
      local c = case { rule = "adamw", hyper = adam, scheme = "base_delta" }
      for k, v in pairs(fields) do c[k] = v end
      matches(name, c)
    end)
  end

  for _, part in ipairs { "m", "v" } do
    it("adamw under decoupled: only " .. part, function()
      matches(part, case { rule = "adamw", hyper = adam, scheme = "decoupled",
        decouple = { part } })
    end)
  end
  for _, scheme in ipairs { "shared", "decoupled" } do
    it("8-bit adamw under " .. scheme, function()
      matches(scheme, case { rule = "adamw", hyper = adam, scheme = scheme,
        storage = { delta = "8bit" } })
    end)
  end
end)

describe("the oracle's golden file", function()
  local path = "../shared/oracle/golden.json"
  local text = core.files.read(path)
  if not text then
    pending("no " .. path .. " beside this clone")
    return
  end
  local golden = require("dopl.util.json").decode(text, path)

  it("has the tables of the 8-bit type", function()
    for kind, want in pairs(golden.maps) do
      for i, v in ipairs(core.optim.codec_table(kind)) do
        assert.is_true(math.abs(v - want[i]) <= 1e-8 * math.abs(want[i]))
      end
    end
  end)

  for _, c in ipairs(golden.cases) do
    it(c.name, function()
      local rule = optim[c.rule]
      local got = drive.run(rule, c)
      for t, theta in pairs(c.result.theta) do
        drive.compare_theta("step " .. t, got.recorded[tonumber(t)], theta)
      end
      drive.compare(c.name, got, { theta = c.result.theta[tostring(c.steps)],
        own = c.result.own, base = c.result.base })
    end)
  end
end)
