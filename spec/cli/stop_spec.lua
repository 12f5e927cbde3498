-- Ctrl-C and kill: code that would swallow the stop, and code that wants to end in good order.
local shell = require "cli.shell"

-- Starts a recipe, sends it a signal when it has printed "ready", first of all unless its text does
-- so itself, and returns what it left.
local function stop(text, signal)
  local recipe = os.tmpname()
  shell.write(recipe, (text:find "print 'ready'" and "" or "print 'ready'\n") .. text)
  local status, out, err = shell.sh(([[
    exec 3>&1
    { %s %s & echo $! >%s.pid; wait $!; echo status $?; } | while read -r line; do
      echo "$line" >&3
      [ "$line" = ready ] || continue
      sleep 0.1
      until [ -s %s.pid ]; do sleep 0.01; done
      kill -%s "$(cat %s.pid)"
    done
    true
  ]]):format(shell.dopl, recipe, recipe, recipe, signal or "INT", recipe))
  os.remove(recipe)
  os.remove(recipe .. ".pid")
  assert.equal(0, status)
  return tonumber(out:match "status (%d+)"), out, err
end

describe("a stop", function()
  it("ends a loop with status 130, 143 for SIGTERM or 129 for SIGHUP, and one message", function()
    local status, _, err = stop "while true do end"
    assert.equal(130, status)
    assert.equal("dopl: stopped\n", err)
    assert.equal(143, (stop("while true do end", "TERM")))
    status, _, err = stop("while true do end", "HUP")
    assert.equal(129, status)
    assert.equal("dopl: stopped\n", err)
  end)

  it("does not come from a terminal that closes over nohup", function()
    local pipe = os.tmpname()
    os.remove(pipe)
    local status, out = shell.sh((([[
      mkfifo PIPE
      nohup DOPL -e 'print(dopl.core.files.read "PIPE")' </dev/null &
      sleep 0.3; kill -HUP $!; echo "went on" >PIPE
      wait $!]]):gsub("%u%u%u%u", { PIPE = pipe, DOPL = shell.dopl })))
    os.remove(pipe)
    assert.equal(0, status)
    assert.equal("went on\n\n", out)
  end)

  -- oneDNN's products use the stack register for their buffers; a signal's frame must not go there
  it("overwrites nothing in the middle of a matrix product", function()
    for i = 1, 8 do
      local status, _, err = stop(([[
        local core = require "dopl.core"
        core.threads(1)
        local n = %d
        local x = core.randn(1, 1, 1, n, 128):requires_grad(true)
        local w = core.randn(1, 2, 1, 352, 128):requires_grad(true)
        while true do
          core.ops.linear(x, w):sum():backward()
          x:set_grad(nil)
          w:set_grad(nil)
        end]]):format(300 + 29 * i), "TERM")
      assert.equal(143, status)
      assert.equal("dopl: stopped\n", err)
    end
  end)

  local swallowers = {
    ["pcall"] = "while true do pcall(function() while true do end end) end",
    ["pcall of nothing"] = "while true do pcall(print) pcall(error) end",
    ["xpcall with a handler that loops"] =
      "xpcall(function() while true do end end, function() while true do end end)",
    ["an error in a handler in a handler"] =
      "xpcall(error, function() while true do end end)",
    ["coroutine.resume"] = [[
      while true do coroutine.resume(coroutine.create(function() while true do end end)) end]],
    ["coroutine.wrap"] = [[
      while true do pcall(coroutine.wrap(function() while true do end end)) end]],
    ["a coroutine in a coroutine"] = [[
      local function nest(n)
        if n == 0 then while true do end end
        coroutine.resume(coroutine.create(function() nest(n - 1) end))
        while true do end
      end
      nest(20)]],
    ["a variable whose __close loops"] = [[
      local x <close> = setmetatable({}, { __close = function() while true do end end })
      while true do end]],
    ["a coroutine whose __close loops"] = [[
      local co = coroutine.create(function()
        local x <close> = setmetatable({}, { __close = function() while true do end end })
        while true do end
      end)
      coroutine.resume(co)
      coroutine.close(co)
      while true do end]],
    ["load with a reader that loops"] = "while true do load(function() while true do end end) end",
    ["a comparison in sort"] =
      "while true do pcall(table.sort, {3, 2, 1}, function(a, b) while true do end end) end",
    ["a replacement in gsub"] =
      "while true do pcall(string.gsub, 'x', 'x', function() while true do end end) end",
    ["a metamethod"] = [[
      local t = setmetatable({}, { __index = function() while true do end end })
      while true do pcall(function() return t.x end) end]],
  }
  for name, text in pairs(swallowers) do
    it("is not swallowed by " .. name, function()
      local status, _, err = stop(text)
      assert.equal(130, status)
      assert.equal("dopl: stopped\n", err)
    end)
  end

  it("lets __close variables end in good order", function()
    local status, out = stop [[
      local x <close> = setmetatable({}, { __close = function()
        local n = 0
        for i = 1, 1000 do n = n + i end
        print("closed", n)
      end })
      print 'ready'
      while true do end]]
    assert.equal(130, status)
    assert.truthy(out:find "closed%s+500500", out)
  end)

  it("costs running code nothing before it is asked for: there is no hook", function()
    local status, out = shell.run("--trust", "-e", [[
      print(debug.gethook())
      coroutine.wrap(function() print(debug.gethook()) end)()
    ]])
    assert.equal(0, status)
    assert.equal("nil\nnil\n", out)
  end)
end)
