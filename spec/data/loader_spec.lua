-- loader_spec.lua - the order of batches is the seed's, whatever happens to a batch afterwards.
local chat = require "dopl.data.chat"
local loader = require "dopl.data.loader"

local tok <const> = require "spec.data.bytes"

local function samples(n)
  local rows = {}
  for i = 1, n do rows[i] = { question = "Q" .. i, answer = "A" .. i } end
  return chat.encode_all(tok, rows)
end

local REFUSALS <const> = { "No.", "Not known.", "Ask someone else.", "Never heard of it." }

local function keys_of(from, steps)
  local keys = {}
  for step = 1, steps do keys[step] = table.concat(from:next().keys, " ") end
  return keys
end

describe("data.loader", function()
  it("gives every sample once an epoch, in another order each", function()
    local l = loader.new { samples = samples(10), batch_size = 4, seed = 1 }
    assert.equal(3, l:steps_per_epoch())
    local orders = {}
    for epoch = 1, 3 do
      local seen, sizes = {}, {}
      for i = 1, 3 do
        local b = l:next()
        assert.equal(epoch, b.epoch)
        assert.equal(epoch, l:epoch())
        assert.equal((epoch - 1) * 3 + i, b.step)
        sizes[i] = b.n_samples
        for _, index in ipairs(b.indices) do seen[#seen + 1] = index end
      end
      assert.same({ 4, 4, 2 }, sizes)
      orders[epoch] = table.concat(seen, " ")
      table.sort(seen)
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, seen)
    end
    assert.not_equal(orders[1], orders[2])
    assert.not_equal(orders[2], orders[3])
  end)

  it("is a function of seed and stream", function()
    local list = samples(20)
    local function keys(seed, stream)
      return keys_of(loader.new { samples = list, batch_size = 3, seed = seed, stream = stream,
                                  refusals = REFUSALS }, 15)
    end
    assert.same(keys(1, "forget"), keys(1, "forget"))
    assert.not_same(keys(1, "forget"), keys(2, "forget"))
    assert.not_same(keys(1, "forget"), keys(1, "retain"))
  end)

  it("is not moved by splitting a batch", function()
    local list = samples(9)
    local a = loader.new { samples = list, batch_size = 6, refusals = REFUSALS }
    local b = loader.new { samples = list, batch_size = 6, refusals = REFUSALS }
    for step = 1, 6 do
      local whole, keys = a:next(), {}
      for _, part in ipairs(b:next():split { n = step }) do
        for _, key in ipairs(part.keys) do keys[#keys + 1] = key end
      end
      assert.same(whole.keys, keys)
    end
  end)

  it("is not moved by the batch size as far as the order goes", function()
    local list, orders = samples(12), {}
    for i, size in ipairs { 1, 5, 12 } do
      local l, order = loader.new { samples = list, batch_size = size, seed = 4 }, {}
      for _ = 1, l:steps_per_epoch() do
        for _, index in ipairs(l:next().indices) do order[#order + 1] = index end
      end
      orders[i] = order
    end
    assert.same(orders[1], orders[2])
    assert.same(orders[1], orders[3])
  end)

  it("takes all samples where batch_size is above their number", function()
    local l = loader.new { samples = samples(3), batch_size = 32 }
    for epoch = 1, 3 do
      local b = l:next()
      assert.equal(3, b.n_samples)
      assert.equal(epoch, b.epoch)
    end
    l = loader.new { samples = samples(3), batch_size = 32, drop_last = true }
    assert.equal(3, l:next().n_samples)
    assert.equal(1, l:steps_per_epoch())
  end)

  it("leaves short batches out where asked, and shuffles only where asked", function()
    local l = loader.new { samples = samples(10), batch_size = 4, drop_last = true,
                           shuffle = false }
    assert.equal(2, l:steps_per_epoch())
    assert.same({ 1, 2, 3, 4 }, l:next().indices)
    assert.same({ 5, 6, 7, 8 }, l:next().indices)
    assert.same({ 1, 2, 3, 4 }, l:next().indices)
    assert.equal(2, l:epoch())
  end)

  it("answers with refusals, drawn afresh per sample and step", function()
    local list = samples(40)
    local l = loader.new { samples = list, batch_size = 40, seed = 9, refusals = REFUSALS,
                           stream = "forget", shuffle = false }
    local first, second, used = l:next(), l:next(), {}
    assert.is_nil(first.twin)
    assert.equal("forget", first.tag)
    assert.not_same(first.keys, second.keys)
    for i, sample in ipairs(first.samples) do
      local k = l:refusal_of(1, i)
      used[k] = true
      assert.same(chat.encode(tok, { question = "Q" .. i, answer = REFUSALS[k] }).ids, sample.ids)
      assert.not_equal(list[i].key, sample.key)
    end
    for k = 1, #REFUSALS do assert.is_true(used[k]) end
  end)

  it("keeps the answer and adds a refusal if asked", function()
    local list = samples(6)
    local l = loader.new { samples = list, batch_size = 4, refusals = REFUSALS, refuse = "twin" }
    local b = l:next()
    for i, index in ipairs(b.indices) do
      assert.equal(list[index].key, b.keys[i])
      assert.equal(chat.encode(tok, { question = "Q" .. index,
        answer = REFUSALS[l:refusal_of(1, index)] }).key, b.twin.keys[i])
    end
    assert.equal(b.n_samples, b.twin.n_samples)
  end)

  it("goes on from a state", function()
    local list = samples(7)
    local function new()
      return loader.new { samples = list, batch_size = 3, seed = 2, refusals = REFUSALS }
    end
    for before = 0, 5 do
      local a, b = new(), new()
      keys_of(a, before)
      b:restore(a:state())
      assert.same(keys_of(a, 6), keys_of(b, 6))
    end
    local other = loader.new { samples = samples(8), seed = 2 }
    assert.error_matches(function() other:restore(new():state()) end, "samples is 7")
    assert.error_matches(function() other:restore(nil) end, "loader:restore")
  end)

  it("refuses bad options", function()
    local list = samples(2)
    local function fails(opts, message)
      assert.error_matches(function() loader.new(opts) end, message)
    end
    fails({ samples = {}, stream = "forget" }, "samples must not be empty %(objective 'forget'%)")
    fails({}, "samples must be a list")
    fails({ samples = { 1, 2 } }, "samples must be tables with a content key, .*: number 1, given 1")
    fails({ samples = { {} } }, "number 1, given a table without key")
    fails({ samples = list, batch_size = 0 }, "batch_size")
    fails({ samples = list, batch_size = "4" }, "batch_size must be an integer")
    fails({ samples = list, stream = 3 }, "stream must be a string, given 3")
    fails({ samples = list, refusals = { "no", 3 } }, "refusals must be a list of texts, given 3")
    fails({ samples = list, seed = 0.5 }, "seed")
    fails({ samples = list, batchsize = 2 }, "did you mean 'batch_size'")
    fails({ samples = list, refusals = {} }, "refusals")
    fails({ samples = list, refuse = "twin" }, "refuse needs refusals")
    fails({ samples = list, refusals = REFUSALS, refuse = "both" }, "'replace' or 'twin'")
    fails({ samples = { list[1] }, refusals = REFUSALS }, "tokenizer")
  end)
end)
