-- device_spec.lua - tensors on the device: where they are, how they move, what they cost.
--
-- Runs with DOPL_DEVICE=cuda, on a GPU or on the emulator (spec/cuda/README.md).
local array = require "op.array"
local core = require "dopl.core"

local emulated = select(2, core.device()):find "emulated"

local function held() return core.memory "cuda" end

describe("a device", function()
  it("says what it is", function()
    local name, about = core.device()
    assert.equal("cuda", name)
    assert.truthy(about:find "^.+, %d+ GiB, CUDA %d+%.%d$", about)
  end)

  it("is where new tensors of numbers go, and indices do not", function()
    assert.equal("cuda", core.zeros(2):device())
    assert.equal("cuda", core.tensor({ 1, 2 }):device())
    assert.equal("cuda", core.randn(1, 2, 1, 3):device())
    assert.equal("cpu", core.i32({ 1, 2 }):device())
    core.device "cpu"
    local here = core.zeros(2)
    core.device "cuda"
    assert.equal("cpu", here:device())
    assert.error_matches(function() core.i32({ 1 }):to "cuda" end, "indices stay in host memory")
    assert.error_matches(function() core.ops.add(here, core.zeros(2)) end,
      "add: input 2 is on cuda, an earlier one on cpu")
  end)

  it("is one of the machine's", function()
    assert.error_matches(function() core.device "cuda:1" end, "cuda:0 is in use")
    assert.error_matches(function() core.device "gpu" end, "'gpu' given, cpu, cuda, cuda:N or auto")
    assert.equal("cuda", (core.device "auto"))
  end)

  it("gives back what it was given, in either direction and type", function()
    for _, n in ipairs { 0, 1, 7, 8, 1025 } do
      local scope <close> = core.scope() -- luacheck: ignore scope
      local t = core.randn(3, n, 1, n)
      local here = t:to "cpu"
      assert.equal("cpu", here:device())
      local back = here:to "cuda"
      local wanted = t:dot(t)
      assert.equal(wanted, back:dot(back))
      assert.equal(wanted, back:dot(t))
      assert.near(wanted, here:dot(here), 1e-12 * wanted)
      local narrow = t:to "bf16"
      assert.equal("bf16", narrow:dtype())
      local a, b = narrow:to("f32"):to("cpu"), here:to("bf16"):to("f32")
      assert.equal(b:dot(b), a:dot(a)) -- rounded alike on both
      assert.equal(b:dot(b), a:dot(b))
    end
    local scope <close> = core.scope() -- luacheck: ignore scope
    core.device "cpu"
    local large = core.randn(3, 1, 1, 5 << 20) -- more than what lies on the way at a time
    core.device "cuda"
    local again = large:to("cuda"):to("cpu")
    assert.equal(large:dot(large), again:dot(large))
    assert.equal(large:dot(large), again:dot(again))
  end)

  it("fills, copies and joins", function()
    assert.same({ 2.5, 2.5, 2.5 }, core.full(2.5, 3):tolist())
    assert.same({ 1.5 }, core.zeros(1):to("bf16"):fill(1.5):tolist())
    local t = core.tensor { { 1, 2 }, { 3, 4 } }
    local u = core.zeros(2, 2):copy(t)
    assert.same({ { 1, 2 }, { 3, 4 } }, u:tolist())
    assert.equal(4, u:at(4))
    assert.same({ { 1, 2 }, { 3, 4 }, { 1, 2 }, { 3, 4 } }, core.ops.concat({ t, u }):tolist())
    u:copy(core.tensor({ { 5, 6 }, { 7, 8 } }):to "bf16") -- another type
    assert.same({ { 5, 6 }, { 7, 8 } }, u:tolist())
    local row = core.ops.slice(u, 0, 1)
    row:copy(core.tensor { { 9, 9 } }) -- memory is shared
    assert.same({ { 9, 9 }, { 7, 8 } }, u:tolist())
    local wide = array.new({ 37, 70 }, function(i) return i end)
    local turned = core.optim.transpose(array.tensor(wide))
    assert.same({ 70, 37 }, turned:shape())
    for r = 0, 36 do
      for c = 0, 69 do assert.equal(wide[r * 70 + c + 1], turned:at(c * 37 + r + 1)) end
      if r == 1 then break end -- two rows touch every column's end; the rest is the same code
    end
  end)

  it("sums an inner product in double precision, the same every time", function()
    local n = 20001
    local t = core.ops.scale(core.randn(1, 2, 1, n), 1e3)
    local here, sum = t:to("cpu"), t:dot(t)
    assert.near(here:dot(here), sum, 1e-12 * sum)
    for _ = 1, 3 do assert.equal(sum, t:dot(t)) end
  end)
end)

describe("memory of the device", function()
  it("is counted by what it is for", function()
    collectgarbage()
    local before = held()
    do
      local scope <close> = core.scope() -- luacheck: ignore scope
      local w = core.zeros(8, 16):requires_grad(true)
      assert.equal(before.by_kind.parameters + 8 * 16 * 4, held().by_kind.parameters)
      local x = core.zeros(4, 16)
      assert.equal(before.by_kind.other + 4 * 16 * 4, held().by_kind.other)
      local y = core.ops.linear(x, w)
      assert.equal(before.by_kind.activations + 4 * 8 * 4, held().by_kind.activations)
      core.ops.sum(y):backward()
      assert.equal(before.by_kind.gradients + 8 * 16 * 4, held().by_kind.gradients)
      assert.equal(before.by_kind.scratch, held().by_kind.scratch)
    end
    collectgarbage()
    assert.same(before.by_kind, held().by_kind)
    assert.equal(before.live, held().live)
  end)

  it("reports its peak, and what was held then", function()
    core.reset_peak()
    local before = held()
    core.zeros(1000):close()
    assert.equal(before.live + 4000, held().peak)
    assert.equal(before.by_kind.other + 4000, held().at_peak.other)
    assert.equal(before.live, held().live)
  end)

  it("holds a copy of indices from their first use until they change or go", function()
    local scope <close> = core.scope() -- luacheck: ignore scope
    local table_, index = core.tensor { { 1 }, { 2 }, { 3 } }, core.i32 { 2, 0 }
    local before = held().by_kind.other
    local function pick() return core.ops.embedding(table_, index):tolist() end
    assert.same({ { 3 }, { 1 } }, pick())
    assert.equal(before + 8, held().by_kind.other)
    assert.same({ { 3 }, { 1 } }, pick())
    assert.equal(before + 8, held().by_kind.other)
    index:fill(1)
    assert.equal(before, held().by_kind.other)
    assert.same({ { 2 }, { 2 } }, pick())
    index:copy(core.i32 { 0, 2 })
    assert.same({ { 1 }, { 3 } }, pick())
    index:close()
    assert.equal(before, held().by_kind.other)
  end)

  it("says what was asked, what is held and what would help, when there is none left", function()
    local w = core.zeros(256, 256):requires_grad(true)
    local ok, message = pcall(core.zeros, 1 << 21, 1 << 21) -- 16 TiB
    assert.is_false(ok)
    assert.truthy(message:find "out of memory on cuda: 16 TiB asked, .+ of .+ free", message)
    assert.truthy(message:find("parameters 256 KiB", 1, true), message)
    assert.truthy(message:find("what would help: ", 1, true), message)
    assert.same({ 1 }, core.full(1, 1):tolist()) -- all goes on
    w:close()
  end)

  local quarter <const> = (256 << 20) // 4 -- elements; of the memory that the emulator has
  local function lose(n) core.zeros(n) end

  it("tries again after a collection", function()
    if not emulated then return end -- on a GPU this would fill it
    collectgarbage()
    collectgarbage "stop"
    for _ = 1, 5 do lose(quarter) end -- more than the emulator has
    collectgarbage "restart"
  end)

  it("tries again after a collection in a backward, too", function()
    if not emulated then return end
    collectgarbage()
    collectgarbage "stop"
    local x = core.zeros(quarter):requires_grad(true)
    local y = core.ops.sum(x)
    for _ = 1, 2 do lose(quarter) end -- with x three of the four that the emulator has
    y:backward()
    collectgarbage "restart"
    assert.equal(1, x:grad():at(quarter))
  end)

  it("lets no finalizer change what that backward walks", function()
    if not emulated then return end
    collectgarbage()
    collectgarbage "stop"
    local scope <close> = core.scope()
    local x = core.zeros(quarter):requires_grad(true)
    local y = core.ops.sum(x)
    local refused = {}
    local function at_end(use)
      setmetatable({}, { __gc = function() refused[#refused + 1] = select(2, pcall(use)) end })
    end
    for _ = 1, 2 do lose(quarter) end
    at_end(function() scope:close() end)
    at_end(function() y:backward() end)
    at_end(function() x:close() end)
    y:backward()
    collectgarbage "restart"
    assert.equal(3, #refused)
    for _, message in ipairs(refused) do assert.truthy(message:find("__gc", 1, true), message) end
    assert.equal(1, x:grad():at(quarter))
  end)

  it("fails cleanly wherever it fails", function()
    local function step()
      local scope <close> = core.scope() -- luacheck: ignore scope
      local w = core.full(0.5, 4, 6):requires_grad(true)
      local y = core.ops.vocab(core.full(0.1, 3, 6), w, core.i32 { 0, 2 }, core.i32 { 1, 3 })
      core.ops.sum(core.ops.select(y, 0)):backward()
      return w:grad():dot(w:grad())
    end
    local wanted = step()
    collectgarbage()
    local before, n = core.blocks(), 0
    repeat
      n = n + 1
      collectgarbage()
      core.fail_alloc(n)
      local ok, result = pcall(step)
      local left = core.fail_alloc(0)
      if ok then
        assert.equal(wanted, result)
      else
        assert.truthy(tostring(result):find "simulated", result)
      end
      collectgarbage()
      assert.equal(before, core.blocks(), "after failure " .. n)
    until left > 0
    assert.is_true(n > 10)
  end)
end)

describe("products of matrices", function()
  it("are listed by kind, with the algorithm that was chosen", function()
    local scope <close> = core.scope() -- luacheck: ignore scope
    core.ops.matmul(core.zeros(24, 6), core.zeros(6, 10))
    local found = 0
    for _, line in ipairs(core.products()) do
      if line:find("^product %[24, 6%] x %[6, 10%] of f32 into f32: algorithm %d+, tile ") then
        found = found + 1
      end
    end
    assert.equal(1, found)
  end)
end)

describe("a model on the device", function()
  it("is one with a type: bf16 weights give bf16 activations, gradients of weights stay f32", function()
    local models = require "dopl.models"
    local model = models.new({ architecture = "llama", vocab_size = 40, hidden_size = 16,
      n_layers = 1, heads = 2, kv_heads = 1, intermediate_size = 24, dtype = "bf16" }, 1)
    local batch = { ids = core.i32 { 1, 2, 3 }, positions = core.i32 { 0, 1, 2 },
      offsets = core.i32 { 0, 3 } }
    local hidden = model:hidden(batch)
    assert.equal("bf16", hidden:dtype())
    assert.equal("bf16", model:new_cache(1, 2)[1]:dtype())
    local v = core.ops.vocab(hidden, model:head(), core.i32 { 0 }, core.i32 { 5 })
    assert.equal("f32", v:dtype()) -- log-probabilities
    core.ops.sum(core.ops.select(v, 0)):backward()
    for _, p in ipairs(model.parameters) do assert.equal("f32", p.tensor:grad():dtype()) end
  end)
end)
