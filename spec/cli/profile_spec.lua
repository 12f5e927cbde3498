-- profile_spec.lua - what `dopl --profile` says of a recipe, however that ends.
local shell = require "cli.shell"

local COMPUTES <const> = [[
  local x = dopl.zeros(3)
  for _ = 1, 7 do dopl.exp(x) end
  print "computed"
]]

describe("dopl --profile", function()
  -- Exit status, standard output and standard error of a recipe with that text.
  local function profile(text, ...)
    local path = os.tmpname()
    shell.write(path, text)
    local words = { ... }
    words[#words + 1] = path
    local status, out, err = shell.run("--profile", table.unpack(words))
    os.remove(path)
    return status, out, err
  end

  local function has_table(err)
    return err:find "\nprofile of [%d.]+ s\noperator " and err:find "\nexp +forward +7 "
      and err:find "\nelsewhere "
  end

  it("prints the table on standard error when the recipe ends", function()
    local status, out, err = profile(COMPUTES)
    assert.equal(0, status, err)
    assert.equal("computed\n", out)
    assert.truthy(has_table(err), err)
  end)

  it("prints it after an error, whose message and status stay", function()
    local status, _, err = profile(COMPUTES .. "error 'broken'")
    assert.equal(1, status)
    assert.truthy(err:find(":4: broken\n", 1, true), err)
    assert.truthy(has_table(err), err)
  end)

  it("prints it after a stop", function()
    local signal = "os.execute '(sleep 0.2; kill -INT $PPID) &' while true do end"
    local status, _, err = profile(COMPUTES .. signal, "--trust")
    assert.equal(130, status)
    assert.truthy(err:find("dopl: stopped\n", 1, true), err)
    assert.truthy(has_table(err), err)
  end)

  it("says so where no operator ran, and goes with -e and --plan", function()
    local _, _, err = profile "print(1)"
    assert.truthy(err:find("profile: no operator ran in", 1, true), err)
    local status, _, of_statement = shell.run("--profile", "-e", COMPUTES)
    assert.equal(0, status)
    assert.truthy(has_table(of_statement), of_statement)
    local planned, out, of_plan = profile(COMPUTES, "--plan")
    assert.equal(0, planned)
    assert.truthy(out:find("nothing is trained", 1, true), out)
    assert.truthy(has_table(of_plan), of_plan)
  end)

  it("is the one profile of its recipe", function()
    local status, _, err = profile "local p <close> = dopl.profile()"
    assert.equal(1, status)
    assert.truthy(err:find("--profile keeps one open for the whole recipe", 1, true), err)
  end)
end)
