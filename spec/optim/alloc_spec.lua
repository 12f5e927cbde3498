-- Attaching an optimizer and taking a step, in which the first, second, third ... allocation fails.
local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"

local function params(dtype)
  local list = {}
  for i, n in ipairs { 300, 5, 256 } do
    local w = core.randn(3, i, 0.1, n)
    if dtype == "bf16" then w = core.optim.encode(w, "bf16") end
    w:requires_grad(true)
    w:set_grad(core.randn(3, 10 + i, 0.1, n))
    list[i] = { name = "w" .. i, tensor = w, kind = i == 2 and "bias" or "matrix" }
  end
  return list
end

local function values(list)
  local out = {}
  for i, p in ipairs(list) do out[i] = p.tensor:tolist() end
  return out
end

local function attach_and_step(list, config)
  local o = config:attach(list, { objectives = { "forget", "retain" }, period = 2 })
  o:step { objective = "forget", clip = 1.0 }
  o:step { objective = "retain" }
end

local function settle()
  collectgarbage()
  collectgarbage()
  return core.blocks()
end

for name, case in pairs {
  ["8-bit base_delta"] = { optim.adamw {}:with(scheme.base_delta { quantize = { "base", "delta" },
    quantize_min = 0 }) },
  ["local_adam"] = { optim.adamw {}:with(scheme.local_adam {}) },
  ["bf16 with masters"] = { optim.adamw {}:with(scheme.decoupled { storage = "bf16" }), "bf16" },
} do
  local config, dtype = case[1], case[2]
  describe("attach and step short of memory, " .. name, function()
    after_each(function() core.fail_alloc(0) end)

    it("fail cleanly or come out right, whichever allocation fails", function()
      local right = params(dtype)
      attach_and_step(right, config)
      right = values(right)
      local n, failures = 0, 0
      while true do
        n = n + 1
        local list = params(dtype)
        local start, blocks = values(list), settle()
        core.fail_alloc(n)
        local ok, message = pcall(attach_and_step, list, config)
        local reached = core.fail_alloc(0) == 0
        if not ok then
          failures = failures + 1
          assert.truthy(tostring(message):find("out of memory", 1, true), message)
          assert.equal(blocks, settle(), ("after failure %d"):format(n))
          assert.same(start, values(list)) -- running allocates nothing: no step is half taken
          attach_and_step(list, config)
        end
        assert.same(right, values(list))
        if not reached then break end
      end
      assert.is_true(failures > 15, ("%d allocations: %d failures"):format(n, failures))
    end)
  end)
end

-- A transform allocates while the step runs: what it had done stays, but nothing leaks, and another
-- step can follow.
describe("muon short of memory", function()
  after_each(function() core.fail_alloc(0) end)

  it("fails cleanly, whichever allocation fails", function()
    local function matrix()
      local w = core.randn(3, 1, 0.1, 20, 10)
      w:requires_grad(true)
      w:set_grad(core.randn(3, 11, 0.1, 20, 10))
      return { { name = "w", tensor = w }, { name = "b", tensor = params()[2].tensor, kind = "bias" } }
    end
    local config = optim.muon {}:with(scheme.base_delta {})
    local n, failures = 0, 0
    repeat
      n = n + 1
      local list = matrix()
      local blocks = settle()
      core.fail_alloc(n)
      local ok, message = pcall(attach_and_step, list, config)
      local reached = core.fail_alloc(0) == 0
      if not ok then
        failures = failures + 1
        assert.truthy(tostring(message):find("out of memory", 1, true), message)
        assert.equal(blocks, settle(), ("after failure %d"):format(n))
        attach_and_step(list, config)
      end
    until not reached
    assert.is_true(failures > 30, ("%d allocations: %d failures"):format(n, failures))
  end)
end)
