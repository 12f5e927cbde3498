-- dopl as a module of a stock Lua, and as an installed program.
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- a stock Lua cannot load such a module

describe("require 'dopl'", function()
  it("works from a stock lua5.4", function()
    if sanitized then return end
    local status, out, err = shell.sh(([[
      LUA_PATH='lua/?.lua;lua/?/init.lua' LUA_CPATH='%s/lib/?.so' lua5.4 -e '
        local dopl = require "dopl"
        local sum = dopl.add(dopl.full(1, 2), dopl.full(2, 2))
        print(dopl.version, dopl.core.options.device, sum:at(2))
      ']]):format(shell.build))
    assert.equal(0, status, err)
    assert.truthy(out:find "^%d+%.%d+%.%d+\tcpu\t3.0\n$", out)
  end)

  it("names the nearest of what is not there, and helps", function()
    local dopl = require "dopl"
    local ok, err = pcall(function() return dopl.sofmax end)
    assert.falsy(ok)
    assert.truthy(err:find("dopl.sofmax: no such name (did you mean 'softmax'?)", 1, true), err)
    local _, out = shell.run("-e", "dopl.help 'softmax'")
    assert.equal("dopl.softmax(x: f32)\n  softmax over the last dimension\n", out)
    for operator, call in pairs {
      attention = "qkv: f32, offsets: i32, heads: integer, kv_heads: integer",
      layer_norm = "x: f32, weight: f32 or bf16, bias: f32 or bf16 or nil, eps: number = 1e-05",
      gelu = 'x: f32, form: "tanh" or "erf" = "tanh"',
      concat = "parts: tensors of one type",
    } do
      _, out = shell.run("-e", ("dopl.help '%s'"):format(operator))
      assert.equal(("dopl.%s(%s)"):format(operator, call), out:match "[^\n]+")
    end
    local status, _, message = shell.run("-e", "dopl.help 'sofmax'")
    assert.equal(1, status)
    assert.truthy(message:find "did you mean 'softmax'%?", message)
    _, out = shell.run("-e", "dopl.help 'no_grad'")
    assert.truthy(out:find("Records nothing", 1, true), out)
    _, out = shell.run("-e", "dopl.help()")
    for _, row in ipairs(dopl.core.op_rows) do
      assert.truthy(out:find("dopl." .. row.name, 1, true), row.name)
    end
  end)
end)

describe("cmake --install", function()
  it("lays out a program and a module that find their library", function()
    if sanitized then return end
    local dir = os.tmpname()
    os.remove(dir)
    local status, _, err = shell.sh(("cmake --install %s --prefix %s"):format(shell.build, dir))
    assert.equal(0, status, err)
    local _, out = shell.sh(("cd / && %s/bin/dopl -l rng=dopl.util.rng -e 'print(type(rng.new))'")
      :format(dir))
    assert.equal("function\n", out)
    _, out, err = shell.sh(([[cd / && LUA_PATH='%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua' \
      LUA_CPATH='%s/lib/lua/5.4/?.so' lua5.4 -l dopl -e 'print(dopl.zeros{1}:item())']]):format(
      dir, dir, dir))
    os.execute("rm -r " .. dir)
    assert.equal("0.0\n", out, err)
  end)
end)
