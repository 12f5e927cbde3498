-- What a recipe can reach, name by name, and what it cannot do.
local shell = require "cli.shell"

local ALLOWED = {
  "_G", "_VERSION", "assert", "collectgarbage", "coroutine.close", "coroutine.create",
  "coroutine.isyieldable", "coroutine.resume", "coroutine.running", "coroutine.status",
  "coroutine.wrap", "coroutine.yield", "error", "getmetatable", "ipairs", "load", "math.abs",
  "math.acos", "math.asin", "math.atan", "math.ceil", "math.cos", "math.deg", "math.exp",
  "math.floor", "math.fmod", "math.huge", "math.log", "math.max", "math.maxinteger", "math.min",
  "math.mininteger", "math.modf", "math.pi", "math.rad", "math.random", "math.sin", "math.sqrt",
  "math.tan", "math.tointeger", "math.type", "math.ult", "next", "os.clock", "os.date",
  "os.difftime", "os.time", "pairs", "pcall", "print", "rawequal", "rawget", "rawlen", "rawset",
  "require", "select", "setmetatable", "string.byte", "string.char", "string.find",
  "string.format", "string.gmatch", "string.gsub", "string.len", "string.lower", "string.match",
  "string.pack", "string.packsize", "string.rep", "string.reverse", "string.sub", "string.unpack",
  "string.upper", "table.concat", "table.insert", "table.move", "table.pack", "table.remove",
  "table.sort", "table.unpack", "tonumber", "tostring", "type", "utf8.char", "utf8.charpattern",
  "utf8.codepoint", "utf8.codes", "utf8.len", "utf8.offset", "xpcall",
}

describe("a recipe's globals", function()
  it("are the allow list and nothing else", function()
    local status, out, err = shell.run "spec/cli/fixtures/walk.lua"
    assert.equal(0, status, err)
    local found = {}
    for name, kind in out:gmatch "(%S+) (%a+)\n" do
      if kind ~= "table" or name == "_G" then found[#found + 1] = name end
    end
    table.sort(found)
    assert.same(ALLOWED, found)
  end)

  it("may grow, but a name nobody set is an error that names the nearest", function()
    local status, out = shell.recipe "answer = 42 print(answer)"
    assert.equal(0, status)
    assert.equal("42\n", out)
    local _, _, err = shell.recipe "print(ansver)"
    assert.truthy(err:find("undefined global 'ansver'", 1, true), err)
    _, _, err = shell.recipe "pirnt(1)"
    assert.truthy(err:find("did you mean 'print'?", 1, true), err)
  end)

  it("include the library by its short names", function()
    local status, out = shell.recipe "print(type(dopl), type(optim), optim == dopl.optim)"
    assert.equal(0, status)
    assert.equal("table\ttable\ttrue\n", out)
  end)
end)

describe("a recipe", function()
  -- Each must end in an error that says what is wrong.
  local refused = {
    ["opens no files"] = { "return io.open('/etc/passwd')", "undefined global 'io'" },
    ["starts no processes"] = { "os.execute('true')", "nil value %(field 'execute'%)" },
    ["reads no environment"] = { "os.getenv('HOME')", "nil value %(field 'getenv'%)" },
    ["does not exit"] = { "os.exit(0)", "nil value %(field 'exit'%)" },
    ["has no debug library"] = { "debug.getregistry()", "undefined global 'debug'" },
    ["has no package library"] = { "package.loadlib('x', 'y')", "undefined global 'package'" },
    ["runs no other file"] = { "dofile('/etc/hosts')", "undefined global 'dofile'" },
    ["dumps no bytecode"] = { "string.dump(print)", "nil value %(field 'dump'%)" },
    ["dumps none through a string either"] = { "('').dump(print)", "nil value" },
    ["loads no bytecode"] = { "assert(load('\\27Lua'))", "attempt to load a binary chunk" },
    ["loads none by asking"] = { "load('\\27Lua', 'x', 'b')", "only source text" },
    ["sees no metatable of strings"] = { "getmetatable('').__index = nil", "nil value" },
    ["cannot change its globals' metatable"] = { "setmetatable(_G, nil)", "protected metatable" },
    ["sets no finalizer"] = { "setmetatable({}, {__gc = print})", "__gc is not for recipes" },
    ["requires no C library"] = { "require 'lfs'", "no module 'lfs'" },
    ["requires nothing above its folder"] = { "require '..x'", "words joined by dots" },
    ["requires no path"] = { "require '/etc/passwd'", "words joined by dots" },
    ["steers no collector"] = { "collectgarbage('stop')", "invalid option 'stop'" },
    ["draws no random numbers by the clock"] = { "math.random()", "dopl.rng" },
    ["writes no file outside its folders"] = {
      "dopl.core.files.write('/tmp/dopl-escape', 'x')", "/tmp/dopl%-escape" },
    ["cannot unseal them"] = { "dopl.core.files.allow('/tmp')", "sealed" },
  }
  for name, case in pairs(refused) do
    it(name, function()
      local status, _, err = shell.recipe(case[1])
      assert.equal(1, status, err)
      assert.truthy(err:find(case[2]), err)
    end)
  end

  it("keeps strings' methods whatever it does to `string`", function()
    local status, out = shell.recipe "string.upper = nil print(('x'):upper())"
    assert.equal(0, status)
    assert.equal("X\n", out)
  end)

  it("requires files beside it, in the same sandbox", function()
    local dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir -p " .. dir .. "/part")
    shell.write(dir .. "/main.lua",
      "local m, path = require 'part.m' print(m.x, path, m == require 'part.m')")
    shell.write(dir .. "/part/m.lua", "local name, path = ... return { x = name, y = path }")
    shell.write(dir .. "/loop.lua", "require 'loop'")
    shell.write(dir .. "/binary.lua", "require 'code'")
    shell.write(dir .. "/code.lua", string.dump(function() end))
    local status, out, err = shell.run(dir .. "/main.lua")
    assert.equal(0, status, err)
    assert.equal(("part.m\t%s/part/m.lua\ttrue\n"):format(dir), out)
    status, out, err = shell.run(dir .. "/loop.lua")
    assert.equal(1, status, out)
    assert.truthy(err:find "'loop' requires itself", err)
    status, out, err = shell.run(dir .. "/binary.lua")
    assert.equal("", out)
    assert.equal(1, status)
    assert.truthy(err:find "binary chunk", err)
    os.execute("rm -r " .. dir)
  end)

  it("cannot crash Lua with an iterator that has failed", function()
    local status, _, err = shell.recipe [[
      local next_match = string.gmatch(("a"):rep(300000), ("(a?)"):rep(40))
      local deep = string.gmatch(("x"):rep(300000), ".-" .. ("x?"):rep(250) .. "y")
      for i = 1, 400 do pcall(deep) pcall(next_match) end
      print(select(2, pcall(deep)))
    ]]
    assert.equal(0, status, err)
  end)

  it("cannot overrun the C stack with nested closes", function()
    local status, out, err = shell.recipe [[
      local co
      for i = 1, 20000 do
        local inner = co
        co = coroutine.create(function()
          local x <close> = setmetatable({}, { __close = function()
            if inner then assert(coroutine.close(inner)) end
          end })
          coroutine.yield()
        end)
        coroutine.resume(co)
      end
      print(pcall(coroutine.close, co))
    ]]
    assert.equal(0, status, err)
    assert.truthy(out:find "closes inside each other", out)
  end)

  it("has coroutines that behave as Lua's", function()
    local status, out, err = shell.recipe [[
      local co = coroutine.create(function(a, b)
        local c = coroutine.yield(a + b)
        local ok, text = pcall(function() coroutine.yield(c * 2) error "inside" end)
        return ok, text
      end)
      print(coroutine.resume(co, 1, 2))
      print(coroutine.resume(co, 10))
      print(coroutine.resume(co))
      print(coroutine.resume(co))
      print(coroutine.status(co), coroutine.close(co))
      local w = coroutine.wrap(function() for i = 1, 2 do coroutine.yield(i) end error "end" end)
      print(w(), w(), pcall(w))
      print(xpcall(function(x) error(x) end, function(m) return m[1] end, { 7 }))
      print(pcall(coroutine.close, coroutine.running()))
      print(coroutine.close(coroutine.create(print)))
    ]]
    assert.equal(0, status, err)
    local expected = {
      "true\t3", "true\t20", "true\tfalse\t%S+:3: inside", "false\tcannot resume dead coroutine",
      "dead\ttrue", "1\t2\tfalse\t%S+:11: end", "false\t7", "false\tcannot close a running coroutine",
      "true" }
    local i = 0
    for line in out:gmatch "[^\n]+" do
      i = i + 1
      assert.truthy(line:find("^" .. expected[i] .. "$"), ("%s for %s"):format(line, expected[i]))
    end
    assert.equal(#expected, i)
  end)

  it("gets the standard libraries with --trust", function()
    local path = os.tmpname()
    shell.write(path, "print(type(io.open), type(os.execute), type(debug), type(string.dump))")
    local status, out = shell.run("--trust", path)
    os.remove(path)
    assert.equal(0, status)
    assert.equal("function\tfunction\ttable\tfunction\n", out)
  end)
end)
