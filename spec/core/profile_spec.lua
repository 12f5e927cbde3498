-- profile_spec.lua - where time goes, by operator: what is counted, and whom time belongs to.
local dopl = require "dopl"
local core = dopl.core

-- Rows by "name part".
local function by_name(rows)
  local out = {}
  for _, row in ipairs(rows) do out[row.part and row.name .. " " .. row.part or row.name] = row end
  return out
end

local function sum(rows, key)
  local total = 0.0
  for _, row in ipairs(rows) do total = total + row[key] end
  return total
end

-- A little training: names and calls of what it does are known.
local STEPS <const> = 3
local function train()
  local scope <close> = core.scope() -- luacheck: ignore scope
  local x = core.randn(1, 1, 1.0, 4, 8)
  local w = core.randn(1, 2, 1.0, 16, 8):requires_grad(true)
  local o = dopl.optim.adamw { lr = 1e-3 }:attach { { name = "w", tensor = w } }
  for _ = 1, STEPS do
    core.ops.gelu(core.ops.linear(x, w)):sum():backward()
    o:step { clip = 1.0 }
  end
  return w:tolist()
end

local EXPECTED <const> = { ["linear forward"] = STEPS, ["gelu forward"] = STEPS,
  ["sum forward"] = STEPS, ["linear backward"] = STEPS, ["gelu backward"] = STEPS,
  ["sum backward"] = STEPS, ["adamw pass"] = STEPS, ["gradient norm pass"] = STEPS }

describe("a profile", function()
  it("has each operator of a training run, as often as it ran", function()
    local p <close> = dopl.profile()
    train()
    p:close()
    local calls = {}
    for key, row in pairs(by_name(p:rows())) do calls[key] = row.calls end
    assert.same(EXPECTED, calls) -- "elsewhere" has none
  end)

  it("gives shares that add up, the largest first, and what is left last", function()
    local p <close> = dopl.profile()
    train()
    p:close()
    local rows = p:rows()
    assert.near(1.0, sum(rows, "share"), 1e-9)
    assert.equal("elsewhere", rows[#rows].name)
    assert.truthy(rows[#rows].seconds >= 0)
    for i = 2, #rows - 1 do assert.truthy(rows[i - 1].seconds >= rows[i].seconds) end
    assert.same(p:rows(), rows) -- nothing is added once it is closed
  end)

  it("changes no number", function()
    local numbers = train()
    local p <close> = dopl.profile() -- luacheck: ignore p
    assert.same(numbers, train())
  end)

  it("counts nothing before and after", function()
    train()
    local p <close> = dopl.profile()
    p:close()
    train()
    assert.equal(1, #p:rows())
    assert.equal(0, #p:launches())
  end)

  it("charges the innermost operator alone", function()
    local function wait(seconds)
      local begin = core.clock()
      repeat until core.clock() - begin >= seconds
    end
    local slow = dopl.operator {
      name = "slow",
      forward = function(x) return x + 0 end,
      backward = function(dy)
        wait(0.02)
        local y = dy
        for _ = 1, 5 do y = y * 1.0 end
        return y
      end,
    }
    local x = core.randn(1, 1, 1.0, 4):requires_grad(true)
    local p <close> = dopl.profile()
    local scope <close> = core.scope() -- luacheck: ignore scope
    slow(x):sum():backward()
    wait(0.02)
    p:close()
    local rows = by_name(p:rows())
    assert.equal(1, rows["slow backward"].calls)
    assert.equal(5, rows["scale forward"].calls)
    if x:device() == "cpu" then
      assert.truthy(rows["slow backward"].seconds >= 0.02)
      assert.truthy(rows["scale forward"].seconds < rows["slow backward"].seconds)
      assert.truthy(rows.elsewhere.seconds >= 0.02)
      assert.truthy(sum(p:rows(), "seconds") >= 0.04)
    end
    assert.near(1.0, sum(p:rows(), "share"), 1e-9)
  end)

  it("goes on after an operator that fails", function()
    local x = core.zeros(2, 3):requires_grad(true)
    local bad = dopl.operator { name = "bad", forward = function(a) return a + 1 end,
      backward = function() error "no gradient today" end }
    local p <close> = dopl.profile()
    assert.has_error(function() core.ops.add(x, core.zeros(4, 5)) end)
    assert.error_matches(function() bad(x):sum():backward() end, "no gradient today")
    core.ops.exp(x)
    p:close()
    local rows = by_name(p:rows())
    assert.equal(1, rows["bad backward"].calls)
    assert.equal(1, rows["exp forward"].calls)
    assert.near(1.0, sum(p:rows(), "share"), 1e-9)
  end)

  it("shows the times so far", function()
    local p <close> = dopl.profile()
    local x = core.zeros(3)
    core.ops.exp(x)
    assert.equal(1, by_name(p:rows())["exp forward"].calls)
    core.ops.exp(x)
    assert.equal(2, by_name(p:rows())["exp forward"].calls)
  end)

  it("is the only one that is open", function()
    do
      local p <close> = dopl.profile() -- luacheck: ignore p
      assert.error_matches(dopl.profile, "profile: one is open already; close it first")
      core.ops.exp(core.zeros(3))
    end
    dopl.profile():close()
    dopl.profile() -- lost: the next one ends it
    dopl.profile():close()
  end)

  it("may be closed twice, by another coroutine, and by an error", function()
    local p = dopl.profile()
    coroutine.wrap(function()
      core.ops.exp(core.zeros(3))
      p:close()
    end)()
    p:close()
    assert.equal(1, by_name(p:rows())["exp forward"].calls)
    coroutine.wrap(function()
      local inner <close> = dopl.profile()
      coroutine.yield(inner)
    end)() -- never resumed: lost, profile and all
    assert.error_matches(function()
      local q <close> = dopl.profile() -- luacheck: ignore q
      error "another error"
    end, "another error")
    dopl.profile():close()
  end)

  it("that opens in the middle of an operator, and is followed by another, loses nothing", function()
    local p, q
    local odd = dopl.operator { name = "odd", forward = function(x) return x + 0 end,
      backward = function(dy)
        p:close()
        q = dopl.profile()
        return dy * 2.0
      end }
    p = dopl.profile()
    odd(core.zeros(2):requires_grad(true)):sum():backward()
    q:close()
    assert.equal(1, by_name(p:rows())["odd backward"].calls)
    assert.equal(1, by_name(q:rows())["scale forward"].calls)
  end)

  it("gives its memory back, and opens none where there is none", function()
    local before = core.blocks()
    core.fail_alloc(1)
    assert.error_matches(dopl.profile, "out of memory")
    core.fail_alloc(0)
    local p = dopl.profile()
    p:close()
    assert.equal(before, core.blocks())
  end)

  it("asks for no memory by operator", function()
    local x = core.zeros(3)
    local function allocations()
      core.fail_alloc(1000)
      local y <close> = core.ops.exp(x) -- luacheck: ignore y
      return 1000 - core.fail_alloc(0)
    end
    local without = allocations()
    local p <close> = dopl.profile() -- luacheck: ignore p
    for _ = 1, 2 do assert.equal(without, allocations()) end -- with a new row, and without
  end)

  it("is a table on paper", function()
    local p <close> = dopl.profile()
    train()
    p:close()
    local text = tostring(p)
    assert.truthy(text:find("^operator +part +calls +ms +%% +µs a call\n"), text)
    assert.truthy(text:find("\nlinear +backward +3 +[%d.]+ +[%d.]+ +[%d.]+\n"), text)
    assert.truthy(text:find("\nelsewhere +– +[%d.]+ +[%d.]+ +–$"), text)
  end)
end)
