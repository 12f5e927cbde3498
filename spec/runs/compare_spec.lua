-- compare_spec.lua - runs side by side.
local compare = require "dopl.run.compare"
local run = require "dopl.run"
local shell = require "cli.shell"

describe("dopl compare", function()
  local folder

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder))
  end)
  teardown(function() os.execute("rm -rf " .. folder) end)

  local function make(name, params, rows, seed)
    local r <close> = run.open { out = folder .. "/" .. name, params = params, seed = seed,
      recipe = { path = "mine.lua", text = "-- mine\n" } }
    for _, row in ipairs(rows) do r:log(row) end
    return r.path
  end

  local function steps(label, n)
    local rows = {}
    for i = 1, n do
      rows[i] = { kind = "step", label = label, step = i, lr = 0.1, seconds = 2,
        [i % 2 == 0 and "loss_forget" or "loss_retain"] = i / 8 }
    end
    return rows
  end

  local function two()
    local a = steps("DO", 4)
    a[#a + 1] = { kind = "result", label = "DO", ["MU(R,P,TR,TE)"] = 0.5, retain_R = 0.25, other = 7 }
    a[#a + 1] = { kind = "result", label = "DO+", ["MU(R,P,TR,TE)"] = 0.625 }
    local b = steps("DO", 4)
    b[#b + 1] = { kind = "result", label = "DO", ["MU(R,P,TR,TE)"] = 0.25, retain_R = 0.5, other = 8 }
    b[#b + 1] = { kind = "result", label = "DO", ["MU(R,P,TR,TE)"] = 0.75, retain_R = 0.5, other = 8 }
    return make("a", { steps = 300, adamw = { lr = 1e-3, betas = { 0.9, 0.95 } }, out = "x" }, a, 1),
      make("b", { steps = 300, adamw = { lr = 1e-4, betas = { 0.9, 0.95 } }, out = "y", new = true },
        b, 2)
  end

  it("shows the parameters that differ, and no other", function()
    local runs = compare.load { two() }
    assert.same({
      { label = "adamw.lr", A = "0.001", B = "0.0001" }, { label = "new", A = "–", B = "true" },
      { label = "seed", A = "1", B = "2" },
    }, compare.parameters(runs))
    assert.same({}, compare.parameters { runs[1], runs[1] })
  end)

  it("shows results of one label together; of several with one label, mean and deviation", function()
    local rows = compare.results(compare.load { two() })
    local labels = {}
    for i, row in ipairs(rows) do labels[i] = row.label end
    assert.same({ "A  DO", "B  DO", "A  DO+" }, labels)
    assert.equal(0.5, rows[1]["MU(R,P,TR,TE)"])
    assert.equal(0.5, rows[2]["MU(R,P,TR,TE)"].mean)
    assert.near(0.35355, rows[2]["MU(R,P,TR,TE)"].std, 1e-5)
  end)

  it("shows the last evaluation, or the last losses, where there is no result", function()
    local c = make("c", {}, steps("x", 4))
    local d = make("d", {}, { { kind = "evaluation", label = "x", step = 2, P = 0.5 },
      { kind = "evaluation", label = "x", step = 4, P = 0.25, eval_seconds = 1 } })
    assert.same({ { label = "A  x", loss_forget = 0.5, loss_retain = 0.375, step = 4 },
      { label = "B  x", P = 0.25, step = 4 } }, compare.results(compare.load { c, d }))
    assert.same({}, compare.results(compare.load { make("e", {}, {}) }))
    local before = make("f", {}, { { kind = "result", label = "original", UFE = 1 } })
    assert.same({ { label = "A  original", UFE = 1, reference = true } },
      compare.results(compare.load { before })) -- is not ranked
  end)

  it("prints tables and writes a page", function()
    local a, b = two()
    local status, out, err = shell.run("compare", "--out", folder, a, b .. "/")
    assert.equal(0, status, err)
    assert.truthy(out:find("A  " .. a:gsub("%p", "%%%0"))) -- which run is A
    assert.truthy(out:find "adamw.lr +0.001 +0.0001")
    assert.truthy(out:find "\nB  DO .*50.0 ± 35.4")
    assert.falsy(out:find "betas")
    assert.truthy(out:find("as a page: " .. folder .. "/compare.html", 1, true))
    local page = shell.read(folder .. "/compare.html")
    assert.truthy(page:find "2 runs side by side" and page:find "forget loss" and page:find "other")
    status, out = shell.run("--out", folder, "compare", a, a)
    assert.equal(0, status)
    assert.truthy(out:find "All parameters are the same")
  end)

  it("says what is wrong", function()
    local status, _, err = shell.run("compare")
    assert.equal(2, status)
    assert.truthy(err:find("which runs", 1, true))
    status, _, err = shell.run("compare", folder .. "/none")
    assert.equal(1, status)
    assert.truthy(err:find("none' is not a run", 1, true))
    status, _, err = shell.run("compare", "--ouf", "x")
    assert.equal(2, status)
    assert.truthy(err:find "unknown option")
    local _, help = shell.run("compare", "--help")
    assert.truthy(help:find "usage: dopl compare")
  end)
end)
