-- first_gpu_run_spec.lua - tools/first_gpu_run, on the emulator, with one or two small specs.
local core = require "dopl.core"
local shell = require "spec.cli.shell"

local emulated = select(2, core.device()):find "^emulated"

local GOOD <const> = [[
  local core = require "dopl.core"
  it("copies", function() assert.equal(3, core.tensor({ 3 }):at(1)) end)
]]
local FAULTY <const> = [[
  local core = require "dopl.core"
  it("doubles", function() assert.equal(6, core.ops.scale(core.tensor { 3 }, 2):at(1)) end)
]]

describe("the first run on a GPU", function()
  local folder, good, faulty

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    good, faulty = folder .. "/good_spec.lua", folder .. "/faulty_spec.lua"
    shell.write(good, GOOD)
    shell.write(faulty, FAULTY)
  end)

  after_each(function() os.execute("rm -r " .. folder) end)

  local function first_run(environment, ...)
    return shell.sh(("%s timeout 120 tools/first_gpu_run --no-build --out %s/report %s </dev/null")
      :format(environment, folder, table.concat({ ... }, " ")))
  end

  it("runs specs and bench and reports on both", function()
    if not emulated then return end
    local status, out, err = first_run("", "--specs", good, "--bench compile --size tiny --rounds 1")
    assert.equal(0, status, out .. err)
    assert.truthy(out:find("device: emulated GPU", 1, true), out)
    assert.truthy(out:find("specs: 1 of 1 files passed\nbench compile: done\n", 1, true), out)
    assert.equal(out, shell.read(folder .. "/report/summary.txt"))
    assert.truthy(shell.read(folder .. "/report/bench.txt"):find("==== compile\nemulated GPU", 1, true))
  end)

  it("keeps a fault to its file and says whose it was", function()
    if not emulated then return end
    local status, out = first_run("DOPL_EMULATOR_FAULT=pointwise", "--bench '' --jobs 1 --specs",
      ("'%s %s'"):format(faulty, good))
    assert.equal(1, status, out)
    assert.truthy(out:find("specs: 1 of 2 files passed\nFAILED(1) " .. faulty, 1, true), out)
    assert.truthy(out:find("again with DOPL_SYNC=1: FAILED(1) ", 1, true), out)
    assert.truthy(out:find("scale: [^\n]*cudaErrorIllegalAddress"), out)
    assert.truthy(shell.read(folder .. "/report/failures.txt"):find(faulty, 1, true))
  end)

  it("ends where no device opens", function()
    if not emulated then return end
    local status, out = first_run("DOPL_CUDA_PLUGIN=/nowhere.so", "--bench '' --specs", good)
    assert.equal(1, status)
    assert.truthy(out:find("^no device: "), out)
  end)
end)
