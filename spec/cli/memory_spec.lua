-- memory_spec.lua - recipes that try to corrupt memory, in separate processes. Each ends by itself,
-- with an error or without, and never by a signal.
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- which needs address space, and no small stack

-- Runs a recipe under limits of the shell; returns its exit status and what it printed.
local function run(text, limits)
  local path = os.tmpname()
  shell.write(path, text)
  local status, out, err = shell.sh(("%s %s %s </dev/null"):format(limits or "",
    shell.quote(shell.dopl), shell.quote(path)))
  os.remove(path)
  return status, out, err
end

local cases = {
  { "closes coroutines from callbacks of coroutines, forty deep", [[
    local function deep(n, f)
      if n == 0 then return f() end
      return (string.gsub("x", "x", function() return deep(n - 1, f) end))
    end
    local prev
    for i = 1, 40 do
      local p = prev
      prev = coroutine.create(function()
        local c <close> = setmetatable({}, { __close = function()
          if p then deep(185, function() return tostring(coroutine.close(p)) end) end
        end })
        coroutine.yield()
      end)
      coroutine.resume(prev)
    end
    print(coroutine.close(prev))]] },
  { "fills weak tables while allocations fail", [[
    local hold, i = {}, 0
    pcall(function() while true do i = i + 1 hold[i] = ("x"):rep(1 << 20) .. i end end)
    hold[#hold] = nil
    local fill = {}
    pcall(function() for j = 1, 1e7 do fill[j] = { j } end end)
    for round = 1, 200 do
      pcall(function()
        local t = setmetatable({}, setmetatable({ __newindex = {} }, { __mode = "v" }))
        for j = 1, 300 do t[j] = j .. "" end
      end)
    end]], limits = "ulimit -v 400000;", not_sanitized = true },
  { "recurses as far as it may on a small stack", [[
    print(pcall(load, "return " .. ("("):rep(190) .. "1" .. (")"):rep(190)))
    local function deep(n)
      if n == 0 then return "x" end
      return (string.gsub("x", "x", function() return deep(n - 1) end))
    end
    print(pcall(deep, 190))
    print(pcall(dopl.core.json.decode, ("["):rep(199) .. ("]"):rep(199)))]],
    limits = "ulimit -s 256;" },
  { "makes the interpreter name long chains of fields", [[
    print(pcall(load "local a = {_ENV = {}}; return a._ENV.x + 1"))
    local src = { "local t0 = {} " }
    for i = 1, 190 do src[#src + 1] = "local t" .. i .. " = t" .. (i - 1) .. ".x " end
    print(pcall(load(table.concat(src) .. " return t190.y.z")))
    print(pcall(load("local a = {} return a" .. (".b"):rep(250) .. " + 1")))
    print(pcall(load("local _ENV <const> = {} return " .. ("x."):rep(200) .. "x + 1")))]] },
  { "collects in the middle of weak tables", [[
    for round = 1, 300 do
      local t = setmetatable({}, setmetatable({ __newindex = {} }, { __mode = "v" }))
      pcall(function()
        for j = 1, 40 do t[j] = 1 if j % 8 == 0 then pcall(string.rep, "x", 1 << 46) end end
      end)
    end]] },
  { "wants a finalizer by way of json.array", [[
    local mt = getmetatable(dopl.core.json.array {})
    print(pcall(function() mt.__gc = print end))
    print(pcall(setmetatable, dopl.core.json.array {}, { __gc = print }))]] },
}

it("says which stack it needs", function()
  local status, out, err = run("print(1)", "ulimit -Ss 256;") -- which it may raise
  assert.equal("1\n", out, err)
  assert.equal(0, status)
  if sanitized then return end -- starts no more on so little
  status, out, err = run("print(1)", "ulimit -s 256;")
  assert.equal("", out)
  assert.equal("dopl: the stack is limited to 256 KiB, needs 8192 KiB "
    .. "(ulimit -s 8192 before it)\n", err)
  assert.equal(1, status)
end)

describe("a recipe that", function()
  for _, case in ipairs(cases) do
    it(case[1] .. " ends by itself", function()
      if case.not_sanitized and sanitized then return pending "needs more than its limits" end
      local status, out, err = run(case[2], not sanitized and case.limits or nil)
      assert.is_true(status <= 2, ("status %d: %s%s"):format(status, out, err))
    end)
  end

  it("cannot get the metatables of the library's values", function()
    local status, out, err = run [[
      local c, run = dopl.core, dopl.run.open { params = {} }
      for _, x in ipairs { dopl.zeros(1), c.scope(), c.no_grad(), c.files.append(run.path .. "/x"),
        c.profile(), c.stop.hold(), dopl.text.train({ "x" }, { vocab_size = 256 }),
        c.dist.open("local", 0, 1),
        c.optim.program { n_reg = 0, n_scalar = 0, operands = { "f32" }, instr = {} } } do
        print(type(x), getmetatable(x), pcall(setmetatable, x, {}))
      end]]
    assert.equal(0, status, err)
    for line in out:gmatch "[^\n]+" do assert.match("^userdata\tnil\tfalse", line) end
  end)

  it("is trusted sees no metatable of the library's values", function()
    local path = os.tmpname()
    shell.write(path, [[
      local c = dopl.core
      print(getmetatable(c.optim.program { n_reg = 0, n_scalar = 0, operands = { "f32" }, instr = {} }),
        getmetatable(dopl.zeros(1)), getmetatable(c.json.array {}), getmetatable(c.scope()))]])
    local _, out, err = shell.sh(("%s --trust %s"):format(shell.dopl, path))
    os.remove(path)
    assert.equal("false\tfalse\tfalse\tfalse\n", out, err)
  end)
end)
