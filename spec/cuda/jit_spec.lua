-- jit_spec.lua - compiled optimizer passes: their files, damaged ones, a GPU newer than the compiler.
--
-- Runs with DOPL_DEVICE=cuda, on a GPU or on the emulator (spec/cuda/README.md).
local core = require "dopl.core"
local shell = require "spec.cli.shell"

local emulated = select(2, core.device()):find "^emulated"

local STEP <const> = [[
  local dopl = require "dopl"
  local w = dopl.core.full(1, 300):requires_grad(true)
  w:set_grad(dopl.core.full(0.5, 300))
  local o = dopl.optim.adamw { lr = 0.1, weight_decay = 0 }:attach { { name = "w", tensor = w } }
  o:step {}
  print(("%.3f"):format(w:at(300)))
]]

describe("compiled passes", function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
  end)
  after_each(function() shell.sh("rm -rf " .. shell.quote(folder)) end)

  local function step(environment, before)
    local source = (before or "") .. STEP
    local status, out, err = shell.sh(("%s DOPL_CACHE=%s %s --device cuda -e %s"):format(
      environment or "", shell.quote(folder), shell.quote(shell.dopl), shell.quote(source)))
    assert.equal(0, status, err)
    assert.equal("0.900\n", out)
  end

  -- Path, contents and time of the only file there.
  local function only_file()
    local _, list = shell.sh("ls " .. shell.quote(folder .. "/cubin"))
    assert.truthy(list:find "^%x+\n$", list)
    local path = folder .. "/cubin/" .. list:match "%x+"
    local _, time = shell.sh("stat -c %y " .. shell.quote(path))
    return path, shell.read(path), time
  end

  it("are kept as files, which the next program reads", function()
    step()
    local _, text, time = only_file()
    assert.is_true(#text > 1000)
    step()
    local _, again, unchanged = only_file()
    assert.equal(text, again)
    assert.equal(time, unchanged)
  end)

  it("are compiled again if a file is damaged", function()
    step()
    local path, text = only_file()
    local middle = #text // 2
    local turned = text:sub(1, middle - 1) .. string.char(text:byte(middle) ~ 1) .. text:sub(middle + 1)
    for _, bad in ipairs { "", text:sub(1, 20), text:sub(1, middle), turned, text .. "more" } do
      shell.write(path, bad)
      step()
      assert.equal(#text, #select(2, only_file()))
    end
  end)

  it("reach a GPU that is newer than the compiler", function()
    if not emulated then return end
    step "DOPL_EMULATOR_ARCH=100" -- the emulated NVRTC knows 8.0 and 9.0
    step "DOPL_EMULATOR_ARCH=86"
  end)

  it("find room in memory that is kept", function()
    if not emulated then return end -- 2.6 MB of 3.4, and the emulated driver asks for 1
    step("DOPL_EMULATOR_MEMORY=3400000", "require('dopl').core.full(0, 650000):close()")
  end)
end)
