-- The command line: options, parameters, exit status.
local shell = require "cli.shell"

describe("dopl's options", function()
  local function outcome(...)
    local status, out, err = shell.run(...)
    return { status = status, out = out, err = err }
  end

  it("prints help and version", function()
    local help = outcome "--help"
    assert.equal(0, help.status)
    assert.truthy(help.out:find("usage: dopl [options] [recipe.lua", 1, true))
    local version = outcome "--version"
    assert.equal(0, version.status)
    assert.truthy(version.out:find "^dopl %d+%.%d+%.%d+, Lua 5%.4")
  end)

  it("follows lua(1) with -e, -l, -v and -", function()
    assert.equal("3\n", outcome("-e", "x = 3", "-e", "print(x)").out)
    assert.equal("2\n", outcome("-e", "y = 2", "-eprint(y)").out)
    assert.equal("table\n", outcome("-l", "c=dopl.util.check", "-e", "print(type(c))").out)
    local _, out = shell.sh(("echo 'print(...)' | %s - a b"):format(shell.dopl))
    assert.equal("a\tb\n", out)
    _, out = shell.sh(("echo 'print(7)' | %s"):format(shell.dopl))
    assert.equal("7\n", out)
  end)

  it("gives options to the library", function()
    local r = outcome("--seed", "9", "--threads=1", "--out", "o", "-e",
      "local o = dopl.core.options print(o.seed, o.threads, o.out, o.device)")
    assert.equal("9\t1\to\t" .. (os.getenv "DOPL_DEVICE" or "cpu") .. "\n", r.out)
  end)

  it("names the nearest option, status 2", function()
    for given, meant in pairs { ["--sed"] = "--seed", ["--devise=cpu"] = "--device",
      ["--trsut"] = "--trust" } do
      local r = outcome(given, "1")
      assert.equal(2, r.status)
      assert.truthy(r.err:find("did you mean '" .. meant .. "'?", 1, true), r.err)
      assert.equal("", r.out)
    end
  end)

  it("asks which recipe to plan or to resume, status 2", function()
    for _, words in ipairs { { "--plan" }, { "--resume", "runs/x" } } do
      local r = outcome(table.unpack(words))
      assert.equal(2, r.status)
      assert.truthy(r.err:find(words[1] .. ": which recipe?", 1, true), r.err)
    end
  end)

  it("refuses wrong values, status 2", function()
    for _, words in ipairs { { "--threads", "0" }, { "--threads", "two" }, { "--seed", "-1" },
      { "--seed", "99999999999999999999" }, { "--seed" }, { "--device", "tpu" }, { "--out", "" },
      { "--device", "cuda:" }, { "--device=cuda1" }, { "--device", "" }, { "-e" }, { "-x" } } do
      local r = outcome(table.unpack(words))
      assert.equal(2, r.status, table.concat(words, " "))
      assert.truthy(r.err:find "^dopl: ", r.err)
    end
    local r = outcome("--device", "tpu")
    assert.equal("dopl: --device: 'tpu' given, cpu, cuda, cuda:N or auto needed\n", r.err)
  end)

  it("reports a recipe's error with file, line and traceback, status 1", function()
    local status, out, err = shell.recipe "local function f()\n  error 'broken'\nend\nf()\n"
    assert.equal(1, status)
    assert.equal("", out)
    assert.truthy(err:find ":2: broken\nstack traceback:\n", err)
    assert.truthy(err:find ":4: in main chunk", err)
    assert.falsy(err:find "%[C%]: in %?", err)
  end)

  it("reports syntax errors, missing files and odd error values, status 1", function()
    assert.equal(1, (shell.recipe "x = = 1"))
    local missing = outcome "no/such/recipe.lua"
    assert.equal(1, missing.status)
    assert.truthy(missing.err:find "no/such/recipe.lua: No such file", missing.err)
    assert.equal(1, (shell.recipe "error()"))
    assert.equal(1, (shell.recipe "error({})"))
    assert.equal(1, (shell.recipe "error(setmetatable({}, {__tostring = error}))"))
  end)

  it("says which recipe a name may mean", function()
    for given, meant in pairs { quickstart = "recipes/quickstart.lua",
      ["recipes/curves"] = "recipes/curves.lua", ["cost.lua"] = "recipes/cost.lua" } do
      local r = outcome(given)
      assert.equal(1, r.status)
      assert.truthy(r.err:find(("cannot open %s: No such file or directory (did you mean %s?)"):format(
        given, meant), 1, true), r.err)
    end
    assert.falsy(outcome("nosuch").err:find "did you mean")
  end)

  it("prints into no file where standard output is closed", function()
    local folder = os.tmpname()
    os.remove(folder)
    local status, _, err = shell.sh(("%s -e %s --out %s >&- </dev/null"):format(shell.dopl,
      shell.quote "local run <close> = dopl.run.open {} print 'printed'", folder))
    local _, text = shell.sh("cat " .. folder .. "/*")
    os.execute("rm -r " .. folder)
    assert.equal(0, status, err)
    assert.falsy(text:find "^printed" or text:find "\nprinted")
  end)

  it("is not killed by a file that must not grow", function()
    local file = os.tmpname()
    local status, _, err = shell.sh(("ulimit -f 8; %s --trust -e %s </dev/null"):format(shell.dopl,
      shell.quote(("dopl.core.files.write('%s', ('x'):rep(100000))"):format(file))))
    os.remove(file)
    assert.equal(1, status)
    assert.truthy(err:find(("write %s: File too large"):format(file), 1, true), err)
  end)

  it("refuses bytecode", function()
    local status, _, err = shell.recipe(string.dump(load "return 1"))
    assert.equal(1, status)
    assert.truthy(err:find "attempt to load a binary chunk", err)
  end)

  it("says so when standard output is full", function()
    local status, _, err = shell.sh(shell.dopl .. " -e 'print(1)' >/dev/full")
    assert.equal(1, status)
    assert.truthy(err:find "disk full", err)
  end)
end)

describe("a recipe's parameters", function()
  local RECIPE = [[
    -- Does the moon matter?
    local p = dopl.params {
      steps = { 300, "optimizer steps" }, rate = 0.5, split = "forget05", fast = false,
      careful = true, adamw = { lr = 1e-4, eps = 1e-8 }, layers = { 1, 2, 3 },
    }
    print(p.steps, p.rate, p.split, p.fast, p.careful, p.adamw.lr, p.layers[1], #p.layers, p.seed)
  ]]

  local function values(...)
    local status, out, err = shell.recipe(RECIPE, ...)
    assert.equal(0, status, err)
    return out
  end

  it("have defaults", function()
    assert.equal("300\t0.5\tforget05\tfalse\ttrue\t0.0001\t1\t3\t1\n", values())
  end)

  it("are set by name, in every form", function()
    assert.equal("7\t2\tx y\ttrue\tfalse\t0.001\t4\t2\t5\n", values("--steps", "7", "--rate=2",
      "--split", "x y", "--fast", "--no-careful", "--adamw.lr", "1e-3", "--layers=4,5",
      "--seed", "5"))
  end)

  it("refuse what was not declared, naming the nearest", function()
    local status, _, err = shell.recipe(RECIPE, "--stpes", "3")
    assert.equal(2, status)
    assert.truthy(err:find("unknown parameter --stpes (did you mean --steps?)", 1, true), err)
  end)

  it("say where options of the program go, and blame no line for a value", function()
    local status, _, err = shell.run("recipes/quickstart.lua", "--plan")
    assert.equal(2, status)
    assert.equal("dopl: unknown parameter --plan: it goes before the recipe: dopl --plan RECIPE\n", err)
    status, _, err = shell.recipe("local p = dopl.params { n = 1 }\n"
      .. "require 'dopl.util.check'.range('--n', p.n, 1, math.huge)", "--n", "-3")
    assert.equal(2, status)
    assert.equal("dopl: --n: -3, needs at least 1\n", err)
  end)

  it("have defaults where no recipe is run", function()
    assert.equal("1\n", select(2, shell.run("-e", "print(dopl.params { a = 1 }.a)")))
  end)

  it("refuse what is below the least, and a list of nothing", function()
    for given, says in pairs { ["--n=0"] = "--n: 0, needs at least 1",
      ["--l=,"] = "--l: ',' given, a list like 1,2 needed" } do
      local status, _, err = shell.recipe(
        "dopl.params { n = { 3, 'so many', least = 1 }, l = { 8, 9 } }", given)
      assert.equal(2, status)
      assert.equal(("dopl: %s\n"):format(says), err)
    end
  end)

  it("are lists of numbers or of texts, where two texts need a second pair of braces", function()
    local recipe = [[
      local p = dopl.params { a = { "x", "y" }, b = { { "x", "y" } }, c = { { "x", "y" }, "letters" },
        d = { "x", "y", "z" }, e = { 1, 0.5 }, f = { { 8 }, "sizes" } }
      for _, key in ipairs { "a", "b", "c", "d", "e", "f" } do
        print(type(p[key]) == "table" and table.concat(p[key], "+") or p[key])
      end]]
    assert.equal("x\nx+y\nx+y\nx+y+z\n1+0.5\n8\n", select(2, shell.recipe(recipe)))
    local _, out, err = shell.recipe(recipe, "--a", "p,q", "--b", "p", "--c", "p,q", "--e", "0.25,2",
      "--f", "1,2")
    assert.equal("p,q\np\np+q\nx+y+z\n0.25+2\n1+2\n", out, err)
    _, out = shell.recipe(recipe, "--help")
    assert.truthy(out:find "%-%-a +y %(default: x%)")
    assert.truthy(out:find "%-%-b +list %(default: x,y%)")
    assert.truthy(out:find "%-%-c +letters %(default: x,y%)")
    for text, says in pairs {
      ["{ l = { 1, 'x', 2 } }"] = "l: element 2 of the list is a string, those before it are of type "
        .. "integer",
      ["{ l = { { 1 }, 2 } }"] = "l: element 1 of the list is a table",
      ["{ g = { { lr = 1 }, 'rates' } }"] = "g: a group takes no text; its fields do",
    } do
      _, _, err = shell.recipe("dopl.params " .. text)
      assert.truthy(err:find(":1: dopl.params: " .. says, 1, true), err)
    end
  end)

  it("refuse values of another type", function()
    for _, words in ipairs { { "--steps", "1.5" }, { "--rate", "fast" }, { "--fast=maybe" },
      { "--steps" }, { "loose" }, { "--threads", "0" }, { "--seed", "-3" },
      { "--device", "tpu" } } do
      local status, out, err = shell.recipe(RECIPE, table.unpack(words))
      assert.equal(2, status, table.concat(words, " "))
      assert.equal("", out)
      assert.falsy(err:find "traceback", err)
    end
    local _, _, err = shell.recipe(RECIPE, "--steps", "1.5")
    assert.truthy(err:find("--steps: '1.5' given, an integer needed", 1, true), err)
  end)

  it("are listed by --help with the recipe's opening comment", function()
    local status, out = shell.recipe(RECIPE:gsub("^%s+", ""), "--help")
    assert.equal(0, status)
    assert.truthy(out:find "^Does the moon matter%?\n")
    assert.truthy(out:find "%-%-steps +optimizer steps %(default: 300%)")
    assert.truthy(out:find "%-%-adamw%.lr +number %(default: 0%.0001%)")
  end)

  it("are, beside the recipe's own, those of the program that may follow it", function()
    local core = require "dopl.core"
    local _, usage = shell.run("--help")
    local _, help = shell.recipe("dopl.params { a = 1 }", "--help")
    for _, row in ipairs(core.option_rows) do
      assert.truthy(usage:find(("--%s .*%s"):format(row.name, row.text:sub(1, 12))), row.name)
      assert.truthy(help:find(("--%s +%s"):format(row.name, row.text:sub(1, 12))), row.name)
      assert.is_nil(core.early_options[row.name])
    end
    for name in pairs(core.early_options) do -- each by itself: the order changes nothing
      assert.truthy(usage:find("--" .. name, 1, true), name)
    end
  end)

  it("are remembered for the run folder", function()
    local _, out = shell.recipe("dopl.params { a = 1 } print(dopl.params.resolved().a)", "--a", "2")
    assert.equal("2\n", out)
  end)
end)

describe("an error inside the library", function()
  it("names the recipe's line, and the library's in the traceback", function()
    local status, _, err = shell.recipe("\n\nloss.npo { bata = 1 }\n")
    assert.equal(1, status)
    assert.truthy(err:find("^dopl: [^\n]*:3: loss.npo: unknown field 'bata'"), err)
    assert.truthy(err:find("lua/dopl/util/check.lua", 1, true), err)
    _, _, err = shell.recipe("local w = dopl.zeros(2, 3)\n\ndopl.linear(w, dopl.zeros(4, 4))\n")
    assert.truthy(err:find(":3: linear: x [2, 3] and weight [4, 4], need [T, C] and [O, C]", 1, true))
  end)
end)
