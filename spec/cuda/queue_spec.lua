-- queue_spec.lua - work that repeats is launched by CUDA graphs, and nothing else changes by it.
--
-- Runs with DOPL_DEVICE=cuda, on a GPU or on the emulator (spec/cuda/README.md).
local core = require "dopl.core"
local shell = require "spec.cli.shell"

local emulated = select(2, core.device()):find "emulated"

-- A chain of `n` operators on x, and a factor that each multiplies with.
local function chain(x, n, factor)
  local scope <close> = core.scope()
  local y = x
  for _ = 1, n do y = y * factor + x end
  return y:tolist()
end

-- Whether it gives what it should. One at a time: addresses then repeat.
local function check(numbers, x, n, factor)
  local got = chain(x, n, factor)
  for i, v in ipairs(numbers) do
    local wanted = v
    for _ = 1, n do wanted = wanted * factor + v end
    assert.near(wanted, got[i], 1e-6 * math.abs(wanted))
  end
end

-- Pieces of work that f() sent to the device, and those of them that graphs launched.
local function launches(f)
  local sent, replayed = core.launches()
  f()
  local sent_after, replayed_after = core.launches()
  return sent_after - sent, replayed_after - replayed
end

-- What a program prints, given settings of the environment.
local function output(settings, source)
  local status, text, err = shell.sh(("%s %s --trust -e %s"):format(settings,
    shell.quote(shell.dopl), shell.quote(source)))
  assert.equal(0, status, err)
  return text
end

describe("work that repeats", function()
  it("may have products that cuBLAS refuses or has no algorithm for", function()
    local function square(n) return core.randn(1, n, 1.0, n, n):to "bf16" end
    local x, y = square(33), core.randn(1, 2, 1.0, 33, 34):to "bf16"
    local function run()
      local scope <close> = core.scope() -- luacheck: ignore scope
      local z = x
      for _ = 1, 8 do z = core.ops.matmul(z, x) * 0.1 end
      local wide = core.ops.matmul(z, y)
      for _ = 1, 8 do wide = wide * 0.5 end
      return wide:to("f32"):tolist()
    end
    collectgarbage()
    collectgarbage "stop" -- what is collected in the middle changes addresses
    finally(function() collectgarbage "restart" end)
    local wanted = run()
    local _, replayed = launches(function()
      for _ = 1, 5 do assert.same(wanted, run()) end
    end)
    assert.truthy(replayed > 0)
  end)

  it("is launched by a graph when it came twice before, on what its memory then holds", function()
    collectgarbage()
    collectgarbage "stop" -- what is collected in the middle changes addresses
    finally(function() collectgarbage "restart" end)
    local x = core.zeros(3)
    for time = 1, 6 do
      local numbers = { time, -time, time / 2 }
      do
        local scope <close> = core.scope() -- luacheck: ignore scope
        x:copy(core.tensor(numbers))
      end
      core.sync()
      local sent, replayed = launches(function()
        check(numbers, x, 12, 0.5)
      end)
      assert.equal(24, sent)
      -- as a batch of 16 and one of 8; the first time may have taken its memory from the driver
      if time ~= 3 then assert.equal(time > 3 and 24 or 0, replayed) end
    end
  end)

  it("does what is asked where it all but repeats", function()
    local x = core.tensor { 1, 2, 3 }
    for time = 1, 4 do
      for _, factor in ipairs { 0.5, time } do
        check({ 1, 2, 3 }, x, 12, factor)
      end
    end
    local longer = core.tensor { 1, 2, 3, 4 }
    check({ 1, 2, 3, 4 }, longer, 12, 0.5)
    longer:close()
    check({ 1, 2, 3 }, x, 12, 0.5)
  end)

  it("gives its graphs up with the memory that is kept", function()
    local x = core.tensor { 1, 2, 3 }
    for _ = 1, 4 do chain(x, 12, 0.5) end
    assert.truthy(select(3, core.launches()) > 0)
    core.trim()
    assert.equal(0, (select(3, core.launches())))
    for _ = 1, 4 do check({ 1, 2, 3 }, x, 12, 0.5) end
    assert.truthy(select(3, core.launches()) > 0)
  end)

  it("goes on as it is when there are more kinds of it than are kept", function()
    local x = core.tensor { 1, 2, 3 }
    for factor = 1, 300 do
      for _ = 1, 3 do chain(x, 4, factor) end
    end
    local _, _, graphs = core.launches()
    assert.equal(256, graphs)
    for _, factor in ipairs { 1, 2, 299, 300 } do -- the first are gone by now, the last are not
      check({ 1, 2, 3 }, x, 4, factor)
    end
  end)
end)

describe("a batch that CUDA makes no graph of", function()
  it("is tried again when it has come as often again", function()
    local source <const> = [[
      local core = require "dopl.core"
      local x = core.tensor { 1, 2, 3 }
      for _ = 1, 8 do
        local scope <close> = core.scope()
        local y = x
        for _ = 1, 4 do y = y * 0.5 + x end
        assert(y:at(1) == 1.9375)
      end
      local _, replayed = core.launches()
      print(replayed)
    ]]
    if not emulated then return end -- a GPU captures them all
    assert.equal("48\n", output("", source))
    assert.equal("24\n", output("DOPL_EMULATOR_CAPTURE=1", source)) -- at the sixth, not the third
    assert.equal("0\n", output("DOPL_EMULATOR_CAPTURE=0", source))
  end)
end)

describe("a training run on a device", function()
  local source <const> = [[
    local core, dopl = require "dopl.core", require "dopl"
    local chat, loader = require "dopl.data.chat", require "dopl.data.loader"
    local rows = {}
    for i = 1, 3 do rows[i] = { question = "q" .. i, answer = "aaaa" } end
    local samples = chat.encode_all(require "spec.data.bytes", rows)
    local model = dopl.models.new({ architecture = "llama", vocab_size = 257, hidden_size = 16,
      n_layers = 2, heads = 2, kv_heads = 1, intermediate_size = 24 }, 1)
    dopl.train.fit { model = model, steps = 8, progress = false, warmup = 0, clip = 1.0,
      optimizer = dopl.optim.adamw { lr = 1e-2 },
      objectives = { { name = "retain", loss = dopl.loss.gd(),
        data = loader.new { samples = samples, batch_size = 3, seed = 1, stream = "r" } } },
      on_step = function(live) print(("%a"):format(live.losses.retain)) end }
    local said = dopl.generate.run(model, { { 1, 2 }, { 3 } }, { eos = -1, max_tokens = 12 })
    for _, ids in ipairs(said) do print(table.concat(ids, " ")) end
    local sent, replayed = core.launches()
    print(replayed / sent > 0.3)
  ]]

  it("gives the same bits with and without graphs", function()
    local with = output("", source)
    assert.truthy(with:find "true\n$", with)
    local without = output("DOPL_GRAPHS=0", source)
    assert.equal((with:gsub("true\n$", "false\n")), without)
    assert.equal(without, output("DOPL_SYNC=1", source))
    if emulated then -- a device that captures nothing
      assert.equal(without, output("DOPL_EMULATOR_CAPTURE=0", source))
    end
  end)
end)

describe("memory of the device", function()
  it("is found again by who asks for as much, and leaves for who asks for more", function()
    if not emulated then return end -- on a GPU this would fill it
    assert.equal("true\n", output("DOPL_EMULATOR_MEMORY=100000000", [[
      local core = require "dopl.core"
      for k = 1, 40 do -- sizes that never fit what was kept: 1 to 40 MB, twice
        local a = core.full(k, k * 250000)
        local b = core.full(-k, k * 250000)
        assert(a:at(1) == k and a:at(k * 250000) == k and b:at(1) == -k)
        a:close()
        b:close()
      end
      print(core.memory("cuda").live == 0)
    ]]))
  end)

  it("is what was asked for where there is no more", function()
    if not emulated then return end
    assert.equal("4.0\n", output("DOPL_EMULATOR_MEMORY=100000000", [[
      local core = require "dopl.core"
      local a = core.full(1, 8100000) -- 32.4 MB, as what is made of it: of 36 MB no three fit
      local b, c = core.ops.scale(a, 2), core.ops.scale(a, 2)
      print(b:at(8100000) + c:at(1))
    ]]))
  end)

  it("is found again by batches of about as many tokens", function()
    if not emulated then return end -- whose driver counts
    local function asked(steps)
      return tonumber(select(3, shell.sh(("DOPL_EMULATOR_BLOCKS=1 %s -e %s"):format(
        shell.quote(shell.dopl), shell.quote(([[
        local core = require "dopl.core"
        local w = core.zeros(64, 64):requires_grad(true)
        for k = 1, %d do
          local rows = 2000 + 37 * k %% 80
          local _ <close> = core.scope()
          local h = core.zeros(rows, 64)
          for _ = 1, 6 do h = core.ops.gelu(core.ops.linear(h, w)) end
          core.ops.sum(h):backward()
          w:set_grad(nil)
        end
      ]]):format(steps))))):match "emulator: (%d+) blocks")
    end
    assert.is_true(asked(30) < asked(5) + 30)
  end)
end)
