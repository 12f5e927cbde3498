-- batch_spec.lua - packing, and splits that hold exactly what the whole holds.
local batch = require "dopl.data.batch"
local chat = require "dopl.data.chat"

local tok <const> = require "spec.data.bytes"

local function rows(n)
  local list = {}
  for i = 1, n do
    list[i] = { question = ("Question %d%s"):format(i, ("?"):rep(i % 3)),
                answer = ("answer"):rep(1 + i % 4) .. i }
  end
  return list
end

local function twins_of(samples)
  local list = {}
  for i, sample in ipairs(samples) do
    list[i] = chat.with_answer(sample, chat.answer(tok, ("no"):rep(i)))
  end
  return list
end

-- What a loss sees of a batch: for every label its sample's key, position and token.
local function labels_seen(parts)
  local seen = {}
  for _, b in ipairs(parts) do
    for s, key in ipairs(b.keys) do
      for i = b.label_offsets[s] + 1, b.label_offsets[s + 1] do
        seen[#seen + 1] = ("%s/%d/%d"):format(key, b.positions[b.rows[i] + 1], b.labels[i])
      end
    end
  end
  return seen
end

describe("data.batch", function()
  it("packs ids, offsets, positions, rows and labels", function()
    local samples = { { ids = { 5, 6, 7, 8 }, labels_from = 3, n_labels = 2, key = "a" },
                      { ids = { 9, 4 }, labels_from = 2, n_labels = 1, key = "b" } }
    local b = batch.pack(samples, { tag = "forget" })
    assert.same({ 5, 6, 7, 9 }, b.ids)
    assert.same({ 0, 1, 2, 0 }, b.positions)
    assert.same({ 0, 3, 4 }, b.offsets)
    assert.same({ 1, 2, 3 }, b.rows)
    assert.same({ 7, 8, 4 }, b.labels)
    assert.same({ 0, 2, 3 }, b.label_offsets)
    assert.same({ "a", "b" }, b.keys)
    assert.same({ n_samples = 2, n_tokens = 4, n_labels = 3 }, b.whole)
    assert.equal("forget", b.tag)
  end)

  it("counts as labels what the samples count", function()
    local samples = chat.encode_all(tok, rows(9))
    local b, n = batch.pack(samples), 0
    for _, sample in ipairs(samples) do n = n + sample.n_labels end
    assert.equal(n, b.n_labels)
    assert.equal(#b.ids, b.n_tokens)
    assert.equal(#b.rows, b.n_labels)
    for s = 1, b.n_samples do
      for i = b.label_offsets[s] + 1, b.label_offsets[s + 1] do
        assert.is_true(b.rows[i] >= b.offsets[s] and b.rows[i] < b.offsets[s + 1])
      end
    end
  end)

  it("splits into micro-batches that together are the whole", function()
    local samples = chat.encode_all(tok, rows(11))
    local b = batch.pack(samples, { tag = "retain", twins = twins_of(samples) })
    for _, how in ipairs { { n = 1 }, { n = 3 }, { n = 11 }, { n = 50 }, { max_tokens = 1 },
                           { max_tokens = 90 }, { max_tokens = 100000 } } do
      local parts, twins, n = b:split(how), {}, 0
      for i, part in ipairs(parts) do
        twins[i] = part.twin
        n = n + part.n_samples
        assert.equal("retain", part.tag)
        assert.same(b.whole, part.whole)
        assert.same(b.twin.whole, part.twin.whole)
        assert.equal(part.n_samples, part.twin.n_samples)
        if how.max_tokens and part.n_samples > 1 then
          assert.is_true(part.n_tokens + part.twin.n_tokens <= how.max_tokens)
        end
      end
      assert.equal(11, n)
      assert.same(labels_seen { b }, labels_seen(parts))
      assert.same(labels_seen { b.twin }, labels_seen(twins))
    end
    assert.equal(11, #b:split { n = 50 })
    assert.equal(11, #b:split { max_tokens = 1 })
    assert.equal(1, #b:split { max_tokens = 100000 })
  end)

  it("makes tensors once and gives them back", function()
    local b = batch.pack(chat.encode_all(tok, rows(3)))
    local t = b:tensors()
    assert.equal(t, b:tensors())
    assert.equal(b.n_tokens, #b.ids)
    for _, field in ipairs { "ids", "positions", "offsets", "rows", "labels", "label_offsets" } do
      assert.same(b[field], t[field]:tolist())
    end
    do
      local scoped <close> = b
      assert.equal(b, scoped)
    end
    assert.is_nil(rawget(b, "made"))
    b:close()
  end)

  it("makes its tensors again after the scope that held them", function()
    local core = require "dopl.core"
    local b <close> = batch.pack(chat.encode_all(tok, rows(2)))
    do
      local _ <close> = core.scope()
      assert.same(b.ids, b:tensors().ids:tolist())
    end
    assert.same(b.ids, b:tensors().ids:tolist())
  end)

  it("refuses empty batches, missing refusal pairs and senseless splits", function()
    assert.error_matches(function() batch.pack {} end, "at least one sample")
    local samples = chat.encode_all(tok, rows(2))
    assert.error_matches(function() batch.pack(samples, { twins = {} }) end,
      "2 samples and 0 in 'twins'")
    local b = batch.pack(samples)
    for _, how in ipairs { {}, { n = 0 }, { n = 1.5 }, { max_tokens = -1 },
                           { n = 1, max_tokens = 5 } } do
      assert.error_matches(function() b:split(how) end, "max_tokens or n")
    end
    assert.error_matches(function() b:split() end, "max_tokens or n")
    assert.error_matches(function() b:split(3) end, "max_tokens or n")
    assert.error_matches(function() batch.pack { samples[1], 1 } end,
      "samples must be made by data.samples; number 2 is not")
    assert.error_matches(function() batch.pack(samples, { tags = "x" }) end, "'tags' %(did you mean")
  end)
end)
