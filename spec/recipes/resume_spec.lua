-- resume_spec.lua - a run that is killed again and again ends as the one left alone.
--
-- DOPL_KILLS sets how often the long case kills.
local core = require "dopl.core"
local json = require "dopl.util.json"
local run = require "dopl.run"
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- minutes there, and nothing new to find
local kills <const> = tonumber(os.getenv "DOPL_KILLS") or 5
local folder
local whole_seconds -- that a run takes when nobody kills it

local PARAMS <const> = "--authors 4 --questions 3 --epochs 2 --rows 4 --threads 2 --steps 9 "
  .. "--checkpoint 2"

-- Runs the quickstart, under a program that may end it.
local function quickstart(under, words)
  return shell.sh(("DOPL_CACHE=%s/cache %s %s recipes/quickstart.lua %s </dev/null"):format(folder,
    under, shell.quote(shell.dopl), words))
end

local function metrics_of(out)
  local rows = {}
  for i, row in ipairs(run.load(folder .. "/" .. out).metrics) do
    rows[i] = json.encode(run.without_times(row))
  end
  return rows
end

-- Final weights of every method, as one hash a file. (The starting models' folders end in a hash;
-- who finds them in the cache has none.)
local function weights_of(out)
  local _, text = shell.sh(("cd %s/%s/checkpoints && find . -name '*.safetensors' | sort | "
    .. "grep -v -- '-[0-9a-f]\\{8\\}/' | tr '\\n' '\\0' | xargs -0 sha256sum"):format(folder, out))
  return text
end

describe("a run of a recipe", function()
  setup(function()
    if sanitized then return end
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder))
    local start = core.clock()
    assert.equal(0, (quickstart("", PARAMS .. " --out " .. folder .. "/whole")))
    whole_seconds = core.clock() - start
  end)
  teardown(function()
    if not sanitized then os.execute("rm -rf " .. folder) end
  end)

  it("killed at random moments and resumed gives the same weights and metrics", function()
    if sanitized then return end
    local resume = "--resume " .. folder .. "/k"
    -- the first as soon as there is a run to resume, however slow the machine
    shell.sh(([[
      DOPL_CACHE=%s/cache %s recipes/quickstart.lua %s --out %s/k </dev/null >/dev/null 2>&1 &
      while kill -0 $! && ! [ -e %s/k/run.json ]; do sleep 0.02; done
      kill -KILL $!
      wait $!]]):format(folder, shell.quote(shell.dopl), PARAMS, folder, folder))
    assert.equal("interrupted", run.load(folder .. "/k").about.status)
    for i = 2, kills do
      -- any moment will do, so they need not be the same in every run of this spec
      local share = 0.1 + 0.3 * (i - 2 + os.clock() * 1e6 % 100 / 100) / kills
      local under = ("timeout --foreground -s KILL %.3f"):format(share * whole_seconds)
      local status = quickstart(under, resume) -- in the foreground: it waits for the one it killed
      assert.is_true(status == 137 or status == 0)
    end
    local status, _, err = quickstart("", resume)
    assert.equal(0, status, err)
    assert.same(metrics_of "whole", metrics_of "k")
    assert.equal(weights_of "whole", weights_of "k")
    assert.truthy(weights_of("k"):find "DO%+%-8%-bit/done")
    assert.equal("finished", run.load(folder .. "/k").about.status)
  end)

  it("of three tasks goes on after a kill as well", function()
    if sanitized then return end
    -- so many steps that the run is far from its end when it is seen to have come half way
    local words = "--steps 30 --start 4 --seeds 1 --train 20 --test 4 --threads 2"
    local function multitask(under, given)
      return shell.sh(("%s %s recipes/multitask.lua %s </dev/null"):format(under,
        shell.quote(shell.dopl), given))
    end
    assert.equal(0, (multitask("", ("%s --out %s/tasks"):format(words, folder))))
    -- killed when the second method is running
    shell.sh(([[
      %s recipes/multitask.lua %s --out %s/tasks2 </dev/null >/dev/null 2>&1 &
      while kill -0 $! && ! grep -sq 'Alternate.*"step": 5' %s/tasks2/metrics.jsonl; do
        sleep 0.02
      done
      kill -KILL $!
      wait $!]]):format(shell.quote(shell.dopl), words, folder, folder))
    assert.equal("interrupted", run.load(folder .. "/tasks2").about.status)
    local status, _, err = multitask("", ("--resume %s/tasks2"):format(folder))
    assert.equal(0, status, err)
    assert.same(metrics_of "tasks", metrics_of "tasks2")
    assert.equal(weights_of "tasks", weights_of "tasks2")
  end)

  it("stopped by a signal writes a checkpoint, and says how to resume", function()
    if sanitized then return end
    for signal, expected in pairs { INT = 130, TERM = 143 } do
      local out = folder .. "/" .. signal
      -- the signal comes after the first rows of a training run
      local status, _, err = shell.sh(([[
        export DOPL_CACHE=%s/cache
        %s recipes/quickstart.lua %s --checkpoint 1000 --steps 2000 --out %s </dev/null &
        while kill -0 $! && ! grep -sq '"step": 3' %s/metrics.jsonl; do sleep 0.05; done
        kill -%s $!
        wait $!]]):format(folder, shell.quote(shell.dopl), PARAMS, out, out, signal))
      assert.equal(expected, status, err)
      assert.truthy(err:find("to resume: dopl recipes/quickstart.lua --resume " .. out, 1, true), err)
      assert.equal("stopped", run.load(out).about.status)
      local rows = run.load(out).metrics
      local last = rows[#rows].step
      assert.equal(0, (shell.sh(("test -e %s/checkpoints/Joint/step-%06d.json"):format(out, last))))
    end
  end)
end)
