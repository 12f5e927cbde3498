-- fork_spec.lua - a run of a recipe, forked by another recipe as docs/resuming.md describes it.
local json = require "dopl.util.json"
local run = require "dopl.run"
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- minutes there, and nothing new to find

local SMALL <const> = "--authors 4 --questions 3 --epochs 2 --rows 4 --threads 2 --steps 9 "
  .. "--checkpoint 3"

local CHILD <const> = [[
local tofu = require "dopl.experiments.tofu"
local p = dopl.params(tofu.params { steps = 9, parent = "",
  adamw = { lr = 1e-3, betas = { 0.9, 0.95 }, eps = 1e-5, weight_decay = 0.01 } })
local run <close> = dopl.run.open {}
local bench = tofu.open(p, { run = run })
local from = dopl.run.fork { run = p.parent, label = "DO+", step = 6 }
local function go(label, scheme, retain)
  bench:compare { label = label, from = from, steps = p.steps, forget = loss.idk(), retain = loss.gd(),
    optimizer = optim.adamw(p.adamw):with(scheme),
    schedule = schedule.alternate { forget = 1, retain = retain } }
end
go("DO+", scheme.base_delta {}, 5)
go("DO+ 8-bit", scheme.base_delta { quantize = true }, 1)
]]

describe("a run of a recipe, forked", function()
  local folder
  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder))
  end)
  after_each(function() os.execute("rm -rf " .. folder) end)

  local function dopl(words)
    return shell.sh(("DOPL_CACHE=%s/cache %s %s </dev/null"):format(folder, shell.quote(shell.dopl),
      words))
  end

  -- The rows that a training run logged, without times.
  local function rows_of(out, label, after)
    local rows = {}
    for _, row in ipairs(run.load(folder .. "/" .. out).metrics) do
      if row.label == label and (row.step or after) >= after then
        rows[#rows + 1] = json.encode(run.without_times(row))
      end
    end
    return rows
  end

  it("continues like the parent, or with the changes that it makes", function()
    if sanitized then return end
    local status, _, err = dopl(("recipes/quickstart.lua %s --keep-checkpoints 2 --out %s/parent")
      :format(SMALL, folder))
    assert.equal(0, status, err)
    shell.write(folder .. "/child.lua", CHILD)
    status, _, err = dopl(("%s/child.lua %s --parent %s/parent --out %s/child"):format(folder, SMALL,
      folder, folder))
    assert.equal(0, status, err)
    local whole = rows_of("parent", "DO+", 7)
    assert.equal(4, #whole) -- three steps and the result
    assert.same(whole, rows_of("child", "DO+", 7))
    local otherwise = rows_of("child", "DO+ 8-bit", 7)
    assert.equal(4, #otherwise)
    assert.truthy(otherwise[1]:find '"objective": ?"forget"') -- step 6 of one to one, from 0
    local parents = run.load(folder .. "/child").about.parents
    assert.equal(2, #parents)
    assert.equal("DO+ 8-bit", parents[2].training)
    assert.equal(folder .. "/parent/checkpoints/DO+/step-000006", parents[2].checkpoint)
    -- resumed after its end: nothing is left to do, and nothing changes
    assert.equal(0, (dopl(("%s/child.lua --resume %s/child"):format(folder, folder))))
    assert.same(otherwise, rows_of("child", "DO+ 8-bit", 7))
    assert.equal(2, #run.load(folder .. "/child").about.parents)
  end)

  it("says what to do where the parent kept no checkpoints", function()
    if sanitized then return end
    assert.equal(0, (dopl(("recipes/quickstart.lua %s --out %s/parent"):format(SMALL, folder))))
    shell.write(folder .. "/child.lua", CHILD)
    local status, _, err = dopl(("%s/child.lua %s --parent %s/parent --out %s/child"):format(folder,
      SMALL, folder, folder))
    assert.equal(1, status)
    assert.truthy(err:find("child.lua:6: run.fork: ", 1, true), err)
    assert.truthy(err:find("has no checkpoint of step 6 (it has done); checkpoints stay behind with "
      .. "--keep-checkpoints N", 1, true), err)
  end)
end)
