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
  it("names the first field that a list does not hold, whatever order they lie in", function()
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

describe("check.fields", function()
  local AXIS = check.fields("", { log = { default = false, "a logarithmic axis" } })
  local FIT = check.fields("spec.fit", {
    model = { required = true, has = "parameters", "one of models.new" },
    steps = { type = "integer", min = 1, required = true, "optimizer steps" },
    decay = { choice = { "linear", "none" }, default = "linear", "how the rate falls" },
    clip = { type = "number", above = 0, "largest gradient norm" },
    rows = { type = "integer", min = 1, max = 9, default = false, "rows to take" },
    names = { of = "string", default = { "a" }, "names" },
    x = { fields = AXIS, "an axis" },
    lines = { of = check.fields("", { y = { type = "table", required = true, "numbers" } }), "lines" },
  })
  local model = { parameters = {} }

  local function fit(given)
    local o = check.options(FIT, given)
    return o
  end

  it("fill in defaults, of tables a new copy", function()
    local given = { model = model, steps = 3 }
    local o, other = fit(given), fit(given)
    assert.same({ model = model, steps = 3, decay = "linear", rows = false, names = { "a" },
      x = { log = false } }, o)
    assert.is_true(o.names ~= other.names)
    assert.same({ model = model, steps = 3 }, given)
    assert.equal("integer", math.type(fit({ model = model, steps = 1e3 }).steps))
    assert.equal(9, fit({ model = model, steps = 3, rows = 9 }).rows)
  end)

  it("say what was given and what is needed, and blame the caller's line", function()
    for given, says in pairs {
      [{ steps = 1 }] = "'model' is missing %(one of models.new%)",
      [{ model = 3, steps = 1 }] = "model: 3, needs one of models.new",
      [{ model = {}, steps = 1 }] = "model: a table, needs one of models.new",
      [{ model = model, steps = 0 }] = "steps: 0, needs an integer of at least 1",
      [{ model = model, steps = 1.5 }] = "steps: 1.5, needs an integer of at least 1",
      [{ model = model, steps = "x" }] = "steps: the string 'x', needs an integer of at least 1",
      [{ model = model, stpes = 1 }] = "unknown field 'stpes' %(did you mean 'steps'%?%)",
      [{ model = model, steps = 1, decay = "lineal" }] = "decay: 'lineal' %(did you mean 'linear'%?%)",
      [{ model = model, steps = 1, clip = 0 }] = "clip: 0, needs a number above 0",
      [{ model = model, steps = 1, clip = 0 / 0 }] = "clip: .*nan, needs a number above 0",
      [{ model = model, steps = 1, rows = 10 }] = "rows: 10, needs an integer from 1 to 9",
      [{ model = model, steps = 1, rows = true }] = "rows: true, needs an integer from 1 to 9",
      [{ model = model, steps = 1, names = "a" }] = "names: the string 'a', needs a list of strings",
      [{ model = model, steps = 1, names = { 1 } }] = "names: element 1: 1, needs a string",
      [{ model = model, steps = 1, names = { a = 1 } }] = "names: a list has no field 'a'",
      [{ model = model, steps = 1, x = { lgo = 1 } }] = "x: unknown field 'lgo'",
      [{ model = model, steps = 1, lines = { {} } }] = "lines: element 1: 'y' is missing",
    } do
      local text = message(function() local o = fit(given) return o end)
      assert.match("check_spec.lua:%d+: spec.fit: " .. says, text)
    end
  end)

  it("are themselves checked", function()
    assert.match("spec.x.a: say what it is", message(check.fields, "spec.x", { a = { default = 1 } }))
    assert.match("no such property 'mni'", message(check.fields, "spec.x", { a = { mni = 1, "a" } }))
    assert.match("spec.x.a: give its type", message(check.fields, "spec.x", { a = { "a" } }))
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
