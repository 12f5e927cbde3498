-- run_spec.lua - a run's folder records what happened, also after a failure.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"
local run = require "dopl.run"
local shell = require "spec.cli.shell"
local message = folder.message

describe("dopl.run", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  local function open(options)
    options = options or {}
    options.out = options.out or dir .. "/r"
    return run.open(options)
  end

  it("writes down recipe, parameters, versions and seed as it opens", function()
    local _ <close> = open { seed = 3, params = { lr = 1e-4, split = "forget05" },
      versions = { dopl = "0.1" }, recipe = { path = "recipes/x.lua", text = "-- x\n" },
      command = { "dopl", "x.lua" } }
    assert.equal("metrics.jsonl params.json recipe.lua run.json", folder.names(dir .. "/r"))
    local loaded = run.load(dir .. "/r")
    assert.same({ lr = 1e-4, split = "forget05" }, loaded.params)
    assert.equal("running", loaded.about.status)
    assert.equal("x", loaded.about.name)
    assert.equal(3, loaded.about.seed)
    assert.same({ dopl = "0.1" }, loaded.about.versions)
    assert.match("^%d+-%d+-%d+T%d+:%d+:%d+Z$", loaded.about.started)
    assert.equal("-- x\n", core.files.read(dir .. "/r/recipe.lua"))
  end)

  it("is read back up to the row that a kill cut", function()
    open { params = {} }:finish()
    core.files.write(dir .. "/r/metrics.jsonl", '{"step": 1}\n\n{"step": 2}\n{"ste')
    assert.same({ { step = 1 }, { step = 2 } }, run.load(dir .. "/r").metrics)
    core.files.write(dir .. "/r/metrics.jsonl", '{"step": 1}\n{"ste\n{"step": 2}\n')
    assert.match("metrics.jsonl:2:", message(run.load, dir .. "/r"))
  end)

  it("names the damaged file, and no line of Lua", function()
    open { params = {} }:finish()
    local function says(name, text)
      local was = core.files.read(dir .. "/r/" .. name)
      core.files.write(dir .. "/r/" .. name, text)
      local status, _, err = shell.run("compare", "--out", dir .. "/c", dir .. "/r")
      assert.equal(1, status)
      core.files.write(dir .. "/r/" .. name, was)
      return err
    end
    for _, name in ipairs { "run.json", "params.json" } do
      assert.match("^dopl: compare: '.*/r': /[^:]*/r/" .. name .. ":1:9: ", says(name, '{"name": '))
      assert.match("^dopl: compare: '.*/r': .*/" .. name .. " is damaged", says(name, "3"))
    end
    assert.match("^dopl: compare: '.*/r': /[^:]*/r/metrics.jsonl:2:5: unexpected token",
      says("metrics.jsonl", '{"a":1}\n{"x":\n'))
    assert.match("run.load: folder: nil, needs string", message(run.load))
    core.files.remove(dir .. "/r/params.json")
    local status, _, err = shell.recipe("dopl.params {}", "--resume", dir .. "/r")
    assert.equal(2, status)
    assert.match("^dopl: %-%-resume .*/r: read .*/params.json: No such file", err)
  end)

  it("logs a row a line, there at once", function()
    local r <close> = open()
    r:log { step = 1, loss = 0.5, seconds = 0.1 }
    assert.equal('{"loss": 0.5, "seconds": 0.1, "step": 1}\n',
      core.files.read(r.path .. "/metrics.jsonl"))
    r:log { step = 2, loss = 0 / 0 }
    assert.equal(json.null, run.load(r.path).metrics[2].loss)
    assert.match("run:log: the string 'x', needs table", message(r.log, r, "x"))
    assert.match("a function cannot be written", message(r.log, r, { f = print }))
    assert.equal(2, #run.load(r.path).metrics)
  end)

  it("ends as finished, or as failed with the error", function()
    do
      local r <close> = open()
      r:log { step = 1 }
    end
    local about = run.load(dir .. "/r").about
    assert.equal("finished", about.status)
    assert.equal(1, about.rows)
    local most = about.memory
    assert.is_true(most.peak > 0 and most.resident_peak > most.peak)
    assert.match("boom", message(function()
      local r <close> = open()
      r:log { step = 1 }
      error "boom"
    end))
    about = run.load(dir .. "/r").about
    assert.equal("failed", about.status)
    assert.match("boom", about.message)
    assert.equal(1, #run.load(dir .. "/r").metrics)
  end)

  it("starts an old run's folder afresh, and leaves other folders alone", function()
    do
      local r <close> = open()
      r:log { step = 1 }
    end
    local before = folder.content(dir .. "/r")
    assert.match("boom", message(function() -- the older run stays until there is something to write
      local _ <close> = open()
      error "boom"
    end))
    assert.equal(before, folder.content(dir .. "/r"))
    do local _ <close> = open() end
    assert.equal(0, #run.load(dir .. "/r").metrics)
    core.files.write(dir .. "/precious", "x")
    assert.match("has files but no run", message(run.open, { out = dir }))
    assert.equal("precious r", folder.names(dir))
    shell.write(dir .. "/kind.lua", [[ dopl.params { kind = "8bit" } dopl.run.open {}:finish() ]])
    -- a text that could name what lies in the folder, but for that nothing does
    local again = (" && %s ../kind.lua --out . </dev/null"):format(shell.quote(shell.dopl))
    local status, _, err = shell.sh(("mkdir %s/own && cd %s/own%s%s"):format(dir, dir, again, again))
    assert.equal(0, status, err)
  end)

  it("writes over what came to something where it does the same again, and only there", function()
    local text = "local p = dopl.params { lr = 1 }\n"
    local function again(given)
      local o = { seed = 1, params = { lr = 1, seed = 1, out = "a", threads = 1, of = { 1, 2 } },
        recipe = { path = "x.lua", text = text } }
      for key, value in pairs(given or {}) do o[key] = value end
      return open(o)
    end
    do
      local r <close> = again()
      r:log { step = 1 }
    end
    local before = folder.content(dir .. "/r")
    for says, given in pairs {
      ["whose lr is 1, here 2"] = { params = { lr = 2, seed = 1, of = { 1, 2 } } },
      ["whose of is %[1, 2%], here absent"] = { params = { lr = 1, seed = 1 } },
      ["whose seed is 1, here 2"] = { params = { lr = 1, seed = 2, of = { 1, 2 } } },
      ["whose more is absent, here true"] = {
        params = { lr = 1, seed = 1, of = { 1, 2 }, more = true } },
      ["of another recipe, or"] = { recipe = { path = "x.lua", text = text .. "-- y" } },
      ["another recipe"] = { recipe = { path = "y.lua" } },
    } do
      assert.match("out: .*/r holds the results of another run %(.*" .. says .. ".*%); name "
        .. "another folder, or remove", message(again, given))
      assert.equal(before, folder.content(dir .. "/r"))
    end
    do
      local _ <close> = again { params = { lr = 1, seed = 1, out = "b", threads = 2, of = { 1, 2 } } }
    end
    assert.equal(0, #run.load(dir .. "/r").metrics)
    -- one that came to nothing makes room; one that was stopped with weights does not
    assert.match("boom", message(function()
      local r <close> = again()
      r:log { step = 1 }
      error "boom"
    end))
    assert.match("boom", message(function()
      local r <close> = again { params = { lr = 3 } }
      core.files.mkdir(r:folder("checkpoints", "a"))
      error "boom"
    end))
    assert.match("whose lr is 3, here 1", message(again))
  end)

  it("has its folder to itself, until it ends or its process does", function()
    do
      local _ <close> = open()
      assert.match("out .*/r: this run is already open; end it with run:finish%(%)", message(open))
    end
    open() -- and lost
    do local _ <close> = open() end
    local function sh(text) return shell.sh((text:gsub("%$%a+", { ["$DIR"] = dir,
      ["$DOPL"] = shell.quote(shell.dopl) }))) end
    shell.write(dir .. "/r.lua", [[
      local p = dopl.params { wait = "" }
      local run <close> = dopl.run.open {}
      run:log { step = 1 }
      if p.wait ~= "" then dopl.core.files.read(p.wait) end]])
    local _, out = sh [[
      mkfifo $DIR/pipe
      $DOPL $DIR/r.lua --wait $DIR/pipe --out $DIR/a </dev/null &
      echo $!
      while kill -0 $! && ! grep -sq step $DIR/a/metrics.jsonl; do sleep 0.02; done
      for how in --out --resume; do $DOPL $DIR/r.lua $how $DIR/a </dev/null 2>&1; echo $?; done
      $DOPL compare --out $DIR/c $DIR/a
      kill -KILL $!
      wait $! 2>/dev/null
      $DOPL compare --out $DIR/c $DIR/a
      $DOPL $DIR/r.lua --resume $DIR/a --wait $DIR/pipe </dev/null & echo x >$DIR/pipe
      wait $! && $DOPL compare --out $DIR/c $DIR/a]]
    local pid = out:match "^%d+"
    for _, how in ipairs { "out", "resume" } do
      assert.truthy(out:find(("--%s %s/a: this run is active in process %s; wait for it, or end it "
        .. "first"):format(how, dir, pid), 1, true), out)
    end
    assert.match("\n1\n.*\n1\n.*/a +running .*/a +interrupted .*/a +finished ", out)
  end)

  it("writes down its end where the last rows could not be kept", function()
    local status, _, err = shell.sh(("trap '' XFSZ; ulimit -f 8; %s -e %s --out %s/full </dev/null")
      :format(shell.quote(shell.dopl), shell.quote [[
        local run <close> = dopl.run.open { name = "full" }
        for i = 1, 10000 do run:log { step = i } end]], dir))
    assert.equal(1, status)
    assert.match("append to .*/full/metrics.jsonl: File too large", err)
    local loaded = run.load(dir .. "/full")
    assert.equal("failed", loaded.about.status)
    assert.equal(loaded.about.rows, #loaded.metrics)
    local about = json.load(dir .. "/full/run.json") -- as where not even that could be written
    about.status = "running"
    json.save(dir .. "/full/run.json", about)
    assert.equal("interrupted", run.load(dir .. "/full").about.status)
  end)

  it("names folders by recipe and time, each its own", function()
    local dopl = core.files.resolve(shell.dopl)
    local status, out = shell.sh(("cd %s && %s --trust -e %s </dev/null"):format(dir,
      shell.quote(dopl), shell.quote [[
        local run = require "dopl.run"
        for _ = 1, 3 do
          local r <close> = run.open { name = "../a b!" }
          print(r.path)
        end
      ]]))
    assert.equal(0, status)
    local seen = {}
    for path in out:gmatch("[^\n]+") do
      assert.match("^runs/a%-b%-%d+%-%d+", path)
      assert.is_nil(seen[path])
      seen[path] = true
    end
  end)

  it("writes files only inside the folder", function()
    local r <close> = open()
    assert.equal(r.path .. "/samples/a.jsonl", r:write_lines("samples/a.jsonl", { { a = 1 } }))
    assert.equal('{"a": 1}\n', core.files.read(r.path .. "/samples/a.jsonl"))
    for _, name in ipairs { "../x", "/x", "a//b", "", "a/../b", "." } do
      assert.match("a name inside the run's folder", message(r.write, r, name, "x"))
    end
  end)

  it("knows which fields are times", function()
    assert.same({ step = 1, loss = 2 },
      run.without_times { step = 1, loss = 2, seconds = 3, tokens_per_second = 4, time_left = 5 })
  end)

  it("refuses unknown options", function()
    assert.match("run.open: unknown field 'sed' %(did you mean 'seed'%?%)",
      message(run.open, { sed = 1 }))
    for _, name in ipairs { "out", "name" } do
      assert.match("run.open: " .. name .. ": true, needs a string",
        message(run.open, { [name] = true }))
    end
    assert.match("run.open: params: 3, needs a table", message(run.open, { params = 3 }))
  end)
end)
