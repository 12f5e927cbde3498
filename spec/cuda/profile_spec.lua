-- profile_spec.lua - time on a device by operator and by kernel. Only a GPU shows real times:
-- on the emulator every launch takes one millisecond.
--
-- Runs with DOPL_DEVICE=cuda, on a GPU or on the emulator (spec/cuda/README.md).
local dopl = require "dopl"
local core = dopl.core
local shell = require "spec.cli.shell"

local function find(rows, wanted)
  local found
  for _, row in ipairs(rows) do
    local same = true
    for key, value in pairs(wanted) do same = same and row[key] == value end
    if same then
      assert.is_nil(found)
      found = row
    end
  end
  return found
end

local function sum(rows, key)
  local total = 0.0
  for _, row in ipairs(rows) do total = total + row[key] end
  return total
end

-- Work that repeats, so that graphs launch it; what it computes.
local function repeated(x, times)
  local last
  for _ = 1, times do
    local scope <close> = core.scope() -- luacheck: ignore scope
    local y = x
    for _ = 1, 12 do y = y * 0.5 + x end
    last = y:tolist()
  end
  return last
end

describe("a profile on a device", function()
  it("has operators and what they launched, and they agree", function()
    local scope <close> = core.scope() -- luacheck: ignore scope
    local x = core.randn(1, 1, 1.0, 8, 16)
    local w = core.randn(1, 2, 1.0, 32, 16):requires_grad(true)
    local o = dopl.optim.adamw { lr = 1e-3 }:attach { { name = "w", tensor = w } }
    local function step()
      local inner <close> = core.scope() -- luacheck: ignore inner
      core.ops.gelu(core.ops.linear(x, w)):sum():backward()
      o:step { clip = 1.0 }
    end
    step()
    local p <close> = dopl.profile()
    for _ = 1, 3 do step() end
    p:close()
    local rows, launches = p:rows(), p:launches()
    for _, operator in ipairs { { "linear", "forward" }, { "linear", "backward" },
      { "gelu", "forward" }, { "gelu", "backward" }, { "sum", "forward" }, { "sum", "backward" },
      { "adamw", "pass" }, { "gradient norm", "pass" } } do
      local name, part = table.unpack(operator)
      local row = find(rows, { name = name, part = part })
      assert.equal(3, row.calls)
      assert.equal("cuda", row.device)
      local own, times = 0.0, 0
      for _, launch in ipairs(launches) do
        if launch.operator == name and launch.part == part then
          own, times = own + launch.seconds, times + launch.launches
        end
      end
      assert.near(row.seconds, own, 1e-9)
      assert.truthy(times >= 3, name)
    end
    local product = find(launches, { operator = "linear", part = "forward" })
    assert.equal(3, product.launches)
    assert.equal("product [8, 16] x [16, 32] of f32 into f32", product.name)
    assert.truthy(find(launches, { name = "optimizer pass", operator = "adamw" }))
    assert.near(1.0, sum(rows, "share"), 1e-9)
    assert.truthy(p:launches_text():find("\noptimizer pass +adamw, pass +3 "))
  end)

  it("launches one by one while it is open, by graphs again after it, and changes no number",
    function()
      local x = core.tensor { 1, 2, 3 }
      local numbers = repeated(x, 4)
      local p <close> = dopl.profile()
      local _, before = core.launches()
      assert.same(numbers, repeated(x, 4))
      assert.equal(before, (select(2, core.launches())))
      p:close()
      assert.same(numbers, repeated(x, 6))
      assert.truthy(select(2, core.launches()) > before)
      assert.equal(48, find(p:rows(), { name = "scale" }).calls)
    end)

  it("waits for the device only where its events run out, and loses none", function()
    local x = core.tensor { 1, 2, 3 }
    local p <close> = dopl.profile()
    local before = core.waits()
    for _ = 1, 3000 do
      local scope <close> = core.scope() -- luacheck: ignore scope
      core.ops.exp(x)
    end
    assert.equal(1, core.waits() - before)
    p:close()
    assert.equal(3000, find(p:rows(), { name = "exp" }).calls)
    assert.equal(3000, find(p:launches(), { operator = "exp" }).launches)
  end)

  it("knows what no operator launched", function()
    local p <close> = dopl.profile()
    local x = core.zeros(64)
    x:fill(1)
    x:tolist()
    p:close()
    local copy = find(p:launches(), { name = "copy from the device" })
    assert.equal(1, copy.launches)
    assert.is_nil(copy.operator)
  end)

  it("opens none where there is no memory for its events", function()
    local before = core.blocks()
    for n = 1, 2 do
      core.fail_alloc(n)
      assert.error_matches(dopl.profile, "out of memory")
      core.fail_alloc(0)
    end
    dopl.profile():close()
    assert.equal(before, core.blocks())
  end)

  it("times a device that is opened later, and ends with the program", function()
    local status, out, err = shell.run("--device", "cpu", "--trust", "-e", [[
      local p = dopl.profile()
      dopl.device "cuda"
      dopl.exp(dopl.zeros(3))
      print(p:launches()[1].launches)
    ]])
    assert.equal(0, status, err)
    assert.equal("1\n", out)
  end)

  it("comes from the command line with both tables", function()
    local status, _, err = shell.run("--profile", "-e", "dopl.exp(dopl.zeros(3))")
    assert.equal(0, status, err)
    assert.truthy(err:find("\nexp +forward +1 "), err)
    assert.truthy(err:find("\nkernel or product +operator +launches "), err)
  end)
end)
