-- fault_spec.lua - a kernel that faults: what is said, and that the program ends; work that is late.
--
-- Only on the emulator, which can be made to fault (spec/cuda/emulator/emulator.cpp). A fault leaves a
-- GPU unusable for the rest of the process.
local core = require "dopl.core"
local shell = require "spec.cli.shell"

local emulated = select(2, core.device()):find "^emulated"

local TRAINING <const> = [[
  local dopl = require "dopl"
  local core = dopl.core
  local model = dopl.models.new({ architecture = "llama", vocab_size = 40, hidden_size = 16,
    n_layers = 1, heads = 2, kv_heads = 1, intermediate_size = 24, dtype = "bf16" }, 1)
  local o = dopl.optim.adamw { lr = 0.1 }:attach(model.parameters)
  local function step()
    local _ <close> = core.scope()
    local hidden = model:hidden { ids = core.i32 { 1, 2, 3 }, positions = core.i32 { 0, 1, 2 },
      offsets = core.i32 { 0, 3 } }
    local v = core.ops.vocab(hidden, model:head(), core.i32 { 0 }, core.i32 { 5 })
    core.ops.sum(core.ops.select(v, 0)):backward()
    o:step { clip = 1.0 }
    return v:select(0):at(1)
  end
]]
local THREE_STEPS <const> = TRAINING .. " for _ = 1, 3 do print(step()) end"
local GO_ON <const> = TRAINING .. [[
  print((select(2, pcall(step))))
  print((select(2, pcall(model.parameters[1].tensor.tolist, model.parameters[1].tensor))))
  print((select(2, pcall(core.sync))))
]]

local function run(environment, text)
  return shell.sh(("%s timeout 60 %s -e %s </dev/null"):format(environment, shell.quote(shell.dopl),
    shell.quote(text)))
end

local ILLEGAL <const> = "an illegal memory access was encountered (cudaErrorIllegalAddress)"

describe("a kernel's fault", function()
  it("ends the program with an error, whoever is the next to ask", function()
    if not emulated then return end
    for _, late in ipairs { 0, 1 } do
      local status, out, err = run("DOPL_EMULATOR_FAULT=attention DOPL_EMULATOR_LATE=" .. late,
        THREE_STEPS)
      assert.equal(1, status)
      assert.equal("", out)
      assert.truthy(err:find(ILLEGAL .. "; DOPL_SYNC=1 names the kernel at fault", 1, true), err)
    end
  end)

  it("is laid on its kernel by DOPL_SYNC=1", function()
    if not emulated then return end
    local status, _, err = run("DOPL_EMULATOR_FAULT=attention DOPL_SYNC=1", THREE_STEPS)
    assert.equal(1, status)
    assert.truthy(err:find("attention: " .. ILLEGAL, 1, true), err)
  end)

  it("of a product that cuBLAS has no algorithm for, too", function()
    if not emulated then return end
    local status, _, err = run("DOPL_EMULATOR_FAULT=product_kernel DOPL_SYNC=1", [[
      local core = require "dopl.core"
      local a, b = core.zeros(6, 35):to "bf16", core.zeros(35, 9):to "bf16"
      print(core.ops.matmul(a, b):to("f32"):tolist())]])
    assert.equal(1, status)
    assert.truthy(err:find("product [6, 35] x [35, 9] of bf16 into bf16: " .. ILLEGAL, 1, true), err)
  end)

  it("in an optimizer pass too", function()
    if not emulated then return end
    local status, out, err = run("DOPL_EMULATOR_FAULT='compiled kernel'", THREE_STEPS)
    assert.equal(1, status)
    assert.equal("", out)
    assert.truthy(err:find(ILLEGAL, 1, true), err)
    local ended, _, words = run("DOPL_EMULATOR_FAULT='compiled kernel' DOPL_SYNC=1", THREE_STEPS)
    assert.equal(1, ended)
    assert.truthy(words:find("optimizer pass: " .. ILLEGAL, 1, true), words)
  end)

  it("is what every later call says, and the end is in good order", function()
    if not emulated then return end
    local status, out = run("DOPL_EMULATOR_FAULT=attention", GO_ON)
    assert.equal(0, status)
    local n = 0
    for line in out:gmatch "[^\n]+" do
      assert.truthy(line:find(ILLEGAL, 1, true), line)
      n = n + 1
    end
    assert.equal(3, n)
  end)
end)

describe("work that is done only when the host waits", function()
  it("gives the same numbers", function()
    if not emulated then return end
    local _, wanted = run("DOPL_EMULATOR_LATE=0", THREE_STEPS)
    local status, out, err = run("DOPL_EMULATOR_LATE=1", THREE_STEPS)
    assert.equal(0, status, err)
    assert.equal(wanted, out)
  end)
end)
