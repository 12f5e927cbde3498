-- check_spec.lua - what a caller got wrong, said so that it can be put right.
local check = require "dopl.util.check"
local message = require("spec.io.folder").message

describe("check.nearest", function()
  it("finds the name that was meant", function()
    local names = { "learning_rate", "steps", "split", "beta1" }
    for given, meant in pairs { lerning_rate = "learning_rate", stpes = "steps", Split = "split",
      spilt = "split", beta = "beta1", step = "steps" } do
      assert.equal(meant, check.nearest(given, names))
    end
  end)

  it("keeps silent where nothing is near", function()
    assert.is_nil(check.nearest("optimizer", { "seed", "out" }))
    assert.is_nil(check.nearest("x", {}))
    assert.is_nil(check.nearest(("a"):rep(100000), { ("b"):rep(100000) }))
  end)
end)

describe("check.list", function()
  it("names the first field that is none of a list, whatever order they lie in", function()
    local list = { 1, 2 }
    assert.equal(list, check.list("x", list))
    assert.match("x: a list has no field 'alpha'", message(check.list, "x",
      { 1, name = 1, loss = 2, data = 3, alpha = 4, weight = 5 }))
  end)
end)

describe("check.has", function()
  it("refuses what lacks the field, whatever it is", function()
    local tensor = require("dopl").zeros(2)
    assert.equal(tensor, check.has("x", tensor, "numel", "a tensor"))
    local list = { first = false }
    assert.equal(list, check.has("x", list, "first", "a list"))
    for _, wrong in ipairs { true, 3, "model", {}, print, tensor } do
      assert.match("spec.lua:%d+: fit: model: .+, needs one of models.new$", message(function()
        local function fit(model) check.has("fit: model", model, "hidden", "one of models.new") end
        fit(wrong)
      end))
    end
    assert.match("fit: model: nil, needs", message(check.has, "fit: model", nil, "hidden", "one"))
  end)
end)

describe("check.options", function()
  local defaults = { lr = 1e-3, betas = check.optional, loss = check.required, nesterov = false }

  it("fills in defaults and changes nothing it was given", function()
    local given = { loss = "idk", nesterov = true }
    assert.same({ lr = 1e-3, loss = "idk", nesterov = true }, check.options("o", given, defaults))
    assert.same({ loss = "idk", nesterov = true }, given)
    assert.same({ lr = 1 }, check.options("o", nil, { lr = 1 }))
    assert.equal(false, check.options("o", { on = false }, { on = true }).on)
  end)

  it("names the field, the place and the nearest name", function()
    local function optimizer(given)
      local options = check.options("adamw", given, defaults)
      return options.lr
    end
    assert.match("check_spec.lua:%d+: adamw: unknown field 'beta' %(did you mean 'betas'%?%)",
      message(function() optimizer { loss = 1, beta = 2 } end))
    assert.match("adamw: unknown field 'zzzzzzzz' %(there is 'betas', 'loss', 'lr', 'nesterov'%)",
      message(function() optimizer { loss = 1, zzzzzzzz = 2 } end))
    assert.match("adamw: 'loss' is missing", message(function() optimizer {} end))
    assert.match("adamw: a field named by a number %(1%)",
      message(function() optimizer { "x", loss = 1 } end))
    assert.match("adamw: a string, a table of options is needed",
      message(function() optimizer "x" end))
  end)
end)

describe("check.type, choice and range", function()
  it("let the right values through", function()
    assert.equal(1, check.type("lr", 1, "number"))
    assert.equal(print, check.type("schedule", print, "number|function"))
    assert.equal(3, check.type("n", 3, "integer"))
    local callable = setmetatable({}, { __call = print })
    assert.equal(callable, check.type("f", callable, "callable"))
    assert.equal("b", check.choice("x", "b", { "a", "b" }))
    assert.equal(0, check.range("p", 0, 0, 1))
  end)

  it("say what was given and what is needed", function()
    assert.match("lr: the string 'x', needs number or function",
      message(check.type, "lr", "x", "number|function"))
    assert.match("n: 1.5, needs integer", message(check.type, "n", 1.5, "integer"))
    assert.match("n: nil, needs integer", message(check.type, "n", nil, "integer"))
    assert.match("f: a table, needs callable", message(check.type, "f", {}, "callable"))
    assert.match("timing: 'afer' %(did you mean 'after'%?%)",
      message(check.choice, "timing", "afer", { "before", "after" }))
    assert.match("timing: 'nil' %(there is 'a', 'b'%)",
      message(check.choice, "timing", nil, { "a", "b" }))
    assert.match("lr: a value without a name %(2%), needs { a = 1 }",
      message(check.named, "lr", { a = 1, 2 }, "a = 1"))
    assert.match("lr: give at least one { a = 1 }", message(check.named, "lr", {}, "a = 1"))
    assert.match("l: a list has no field 'a'", message(check.list, "l", { 1, a = 2 }))
    assert.match("l: a list has no field '3'", message(check.list, "l", { 1, [3] = 2 }))
    assert.match("p: 2, needs 0 to 1", message(check.range, "p", 2, 0, 1))
    assert.match("p: %-1, needs at least 0", message(check.range, "p", -1, 0, math.huge))
    local ok, refused = pcall(check.choice, "--dtype", "f16", { "f32", "bf16" }) -- no line's fault
    assert.is_false(ok)
    assert.equal(2, refused.exit)
    assert.equal("--dtype: 'f16' (did you mean 'bf16'?)", tostring(refused))
    assert.match("nan, needs 0 to 1", message(check.range, "p", 0 / 0, 0, 1))
    assert.match("p: a table, needs number", message(check.range, "p", {}, 0, 1))
  end)
end)
