-- files_spec.lua - files are whole or untouched, logs keep what was written, and a sealed list of
-- roots holds against every way around it.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local shell = require "spec.cli.shell"
local files, message = core.files, folder.message

describe("dopl.core.files", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  it("reads back what it wrote, byte for byte", function()
    for _, text in ipairs { "", "x", "a\0b\r\n\xff", ("0123456789"):rep(50000) } do
      files.write(dir .. "/f", text)
      assert.equal(text, files.read(dir .. "/f"))
    end
    assert.equal("f", folder.names(dir))
  end)

  it("answers nil and a reason for what cannot be read", function()
    local text, reason = files.read(dir .. "/none")
    assert.is_nil(text)
    assert.equal("read " .. dir .. "/none: No such file or directory", reason)
    assert.match("a folder, a file is needed", select(2, files.read(dir)))
    assert.match("a device, a file or a pipe is needed", select(2, files.read("/dev/zero")))
    assert.match("NUL byte", message(files.read, "a\0b"))
  end)

  it("replaces a file whole, and keeps its permissions", function()
    files.write(dir .. "/f", "old")
    shell.sh("chmod 640 " .. dir .. "/f")
    files.write(dir .. "/f", "new")
    assert.equal("new", files.read(dir .. "/f"))
    local _, mode = shell.sh("stat -c %a " .. dir .. "/f")
    assert.equal("640\n", mode)
  end)

  it("writes through a link to the file behind it", function()
    files.write(dir .. "/f", "old")
    shell.sh(("ln -s f %s/link"):format(dir))
    files.write(dir .. "/link", "new")
    assert.equal("new", files.read(dir .. "/f"))
    assert.match("a link", message(files.remove, dir .. "/link"))
    shell.sh(("ln -s nowhere %s/broken"):format(dir))
    assert.match("a link to nothing", message(files.write, dir .. "/broken", "x"))
    assert.match("a link to nothing", message(files.append, dir .. "/broken"))
  end)

  it("claims a folder once, until the claim is given up", function()
    assert.is_nil(files.locked(dir))
    do
      local lock <close> = files.lock(dir)
      assert.truthy(lock)
      local again, holder = files.lock(dir)
      assert.is_nil(again)
      assert.equal(holder, files.locked(dir))
      local _, own = shell.sh "echo $PPID"
      assert.is_true(holder == true or holder == tonumber(own), tostring(holder))
      assert.equal("", folder.names(dir))
    end
    files.lock(dir):close()
    assert.is_nil(files.locked(dir))
    assert.match("lock /nowhere: No such file", message(files.lock, "/nowhere"))
    files.write(dir .. "/f", "x")
    assert.match("lock .*/f: Not a directory", message(files.lock, dir .. "/f"))
  end)

  it("names path and reason when the disk is full", function()
    assert.match("write /dev/full: No space left on device",
      message(files.write, "/dev/full", "x"))
    local log = files.append("/dev/full")
    assert.match("append to /dev/full: No space left on device", message(log.line, log, "x"))
    log:close()
  end)

  it("leaves the old file, no debris and no half line when a write breaks off", function()
    local status, out = shell.sh(("trap '' XFSZ && ulimit -f 8 && %s --trust -e %s %s"):format(
      shell.quote(shell.dopl), shell.quote(("local dir = %q"):format(dir .. "/") .. [[
        local files = require("dopl.core").files
        files.write(dir .. "f", "old")
        print(select(2, pcall(files.write, dir .. "f", ("x"):rep(100000))))
        local log = files.append(dir .. "log")
        log:line(("y"):rep(3000))
        print(select(2, pcall(log.line, log, ("z"):rep(100000))))
      ]]), "</dev/null"))
    assert.equal(0, status)
    assert.match("write .*/f: File too large", out)
    assert.match("append to .*/log: File too large", out)
    assert.equal("f log", folder.names(dir))
    assert.equal("old", files.read(dir .. "/f"))
    assert.equal(("y"):rep(3000) .. "\n", files.read(dir .. "/log"))
  end)

  it("refuses to write where a folder is, or where none is", function()
    assert.match("a folder of this name exists", message(files.write, dir, "x"))
    assert.match("No such file or directory", message(files.write, dir .. "/no/f", "x"))
    files.write(dir .. "/f", "x")
    assert.match("Not a directory", message(files.write, dir .. "/f/g", "x"))
    assert.match("Not a directory", message(files.mkdir, dir .. "/f/g"))
    assert.match("empty", message(files.write, "", "x"))
  end)

  it("appends line by line, and each line is there at once", function()
    local log = files.append(dir .. "/log")
    log:line("one")
    assert.equal("one\n", files.read(dir .. "/log"))
    log:write("two")
    log:line("")
    log:sync()
    log:close()
    log:close()
    assert.equal("one\ntwo\n", files.read(dir .. "/log"))
    assert.match("closed", message(log.line, log, "x"))
    do
      local again <close> = files.append(dir .. "/log")
      again:line("three")
    end
    assert.equal("one\ntwo\nthree\n", files.read(dir .. "/log"))
  end)

  it("iterates over lines whatever their ends", function()
    local function lines(text)
      files.write(dir .. "/f", text)
      local out = {}
      for line in files.lines(dir .. "/f") do out[#out + 1] = line end
      return out
    end
    assert.same({}, lines(""))
    assert.same({ "" }, lines("\n"))
    assert.same({ "a", "", "b\rc", "d" }, lines("a\r\n\nb\rc\nd"))
    assert.match("No such file", message(files.lines, dir .. "/none"))
  end)

  it("makes folders with their parents, lists in order, removes", function()
    assert.is_true(files.mkdir(dir .. "/a/b/c"))
    assert.is_false(files.mkdir(dir .. "/a/b/c/"))
    for _, name in ipairs { "z", "B", "a b", ".h" } do files.write(dir .. "/a/" .. name, "") end
    assert.same({ ".h", "B", "a b", "b", "z" }, files.list(dir .. "/a"))
    assert.same({}, files.list(dir .. "/a/b/c"))
    assert.match("No such file", select(2, files.list(dir .. "/none")))
    assert.equal("directory", files.exists(dir .. "/a"))
    assert.equal("file", files.exists(dir .. "/a/z"))
    assert.equal("other", files.exists("/dev/null"))
    assert.is_nil(files.exists(dir .. "/none"))
    assert.match("not empty", message(files.remove, dir .. "/a"))
    files.remove(dir .. "/a/b/c")
    files.remove(dir .. "/a/z")
    assert.match("No such file", message(files.remove, dir .. "/a/z"))
  end)
end)

describe("the list of writable roots", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  -- Runs Lua text with only dir/in writable; `try(f, ...)` prints "ok" or the message.
  local function sealed(text)
    local status, out, err = shell.run("--trust", "-e", ([[
      local files = require("dopl.core").files
      local dir = %q
      local function try(f, ...)
        local ok, message = pcall(f, ...)
        print(ok and "ok" or message)
      end
      files.allow(dir .. "/in")
      files.seal()
    ]]):format(dir) .. text)
    assert.equal("", err)
    assert.equal(0, status)
    return out
  end

  it("lets through what leads inside", function()
    assert.equal("ok\nok\nok\nok\nok\n", sealed [[
      try(files.mkdir, dir .. "/in/a/b")
      try(files.write, dir .. "/in/a/f", "x")
      try(files.write, dir .. "/in/a/../g", "x")
      try(files.remove, dir .. "/in/a/f")
      try(files.append, dir .. "/in/log")
    ]])
  end)

  it("refuses what leads outside, by whatever way", function()
    shell.sh(("cd %s && mkdir in inside && ln -s .. in/up && ln -s ../target in/dangling && "
      .. "echo keep >target2 && ln -s ../target2 in/link"):format(dir))
    local out = sealed [[
      try(files.write, dir .. "/f", "x")
      try(files.write, dir .. "/in/../f", "x")
      try(files.write, dir .. "/in/none/../../f", "x")
      try(files.write, dir .. "/in/up/f", "x")
      try(files.write, dir .. "/in/link", "x")
      try(files.append, dir .. "/in/link")
      try(files.append, dir .. "/in/dangling")
      try(files.write, dir .. "/inside/f", "x")
      try(files.mkdir, dir .. "/in/../new")
      try(files.remove, dir .. "/target2")
      try(files.remove, dir .. "/in/up/target2")
      try(files.write, "/dev/null", "x")
      try(files.allow, "/")
      try(require("dopl.core").safetensors.save, dir .. "/f", {})
    ]]
    local n = 0
    for line in out:gmatch("[^\n]+") do
      n = n + 1
      assert.is_truthy(line:find("--trust", 1, true) or line:find("sealed", 1, true)
        or line:find("a link to nothing", 1, true) or line:find("'..' after", 1, true), line)
    end
    assert.equal(14, n)
    assert.equal("in inside target2", folder.names(dir))
    assert.equal("keep\n", files.read(dir .. "/target2"))
  end)

  it("names the path and the way out", function()
    local out = sealed [[ try(files.write, dir .. "/f", "x") ]]
    local text = ("write %s/f: a recipe may write only to its run folder and the cache "
      .. "(--out DIR chooses the folder, --trust lifts the limit)\n"):format(dir)
    assert.is_truthy(out:find(text, 1, true), out)
  end)
end)

describe("dopl.core.hash", function()
  it("is a function of the parts and of where they end", function()
    assert.equal(32, #core.hash("a"))
    assert.equal(core.hash("ab", "c"), core.hash("ab", "c"))
    assert.not_equal(core.hash("ab", "c"), core.hash("a", "bc"))
    assert.not_equal(core.hash("a"), core.hash("a", ""))
    assert.not_equal(core.hash(), core.hash(""))
    assert.equal("d5f4f4a96940e477aa1b3fb9d3d5df18", core.hash("a")) -- on every machine
    assert.match("a nil, a string or tensor is needed", message(core.hash, nil))
  end)

  it("takes tensors by type, shape and elements", function()
    local a, b = core.tensor { 1, 2 }, core.tensor { 1, 2 }
    assert.equal(core.hash(a), core.hash(b))
    assert.not_equal(core.hash(a), core.hash(core.tensor { 1, 3 }))
    assert.not_equal(core.hash(a), core.hash(core.tensor { { 1, 2 } }))
    assert.not_equal(core.hash(core.tensor { 0 }), core.hash(core.i32 { 0 }))
  end)
end)

describe("dopl.core.getenv", function()
  it("returns only what the library needs", function()
    assert.equal(os.getenv "TERM", core.getenv("TERM"))
    assert.is_nil(core.getenv("DOPL_NOT_SET"))
    assert.match("'PATH' is not one of", message(core.getenv, "PATH"))
  end)
end)
