--- task/generate.lua - greedy and sampled continuation of many prompts at once, with a key/value cache.
--
-- Prompts run packed through the model once (no padding); then each step runs one token of every
-- sequence that has not ended. A sequence that ends leaves the batch, so the work shrinks with it;
-- on a GPU, where a few rows cost nothing, it shrinks by eights, so that steps repeat meanwhile and
-- are launched as one (docs/cuda.md).
-- Prompts are taken longest first in groups of `batch_size`, which bounds the cache. A sampled token
-- is a function of seed, the prompt's place in the list and the token's place in its sequence.
-- @module dopl.task.generate

local core = require "dopl.core"
local check = require "dopl.util.check"
local batch = require "dopl.data.batch"

local op = core.ops
local generate = {}

local ROWS <const> = 8 -- the number of sequences in a step on a GPU is a multiple of it

local defaults = {
  max_tokens = 200,  -- prompt and continuation together
  eos = check.required,
  batch_size = 64,
  temperature = 0,   -- 0: greedy
  top_p = 1,
  seed = 1,
}

-- The next token of each sequence, one row of hidden states each, as an array.
local function choose(model, hidden, sequences, o)
  local logits = op.linear(hidden, model:head())
  if o.temperature == 0 then return op.argmax(logits):tolist() end
  local streams, counters = {}, {}
  for i, seq in ipairs(sequences) do streams[i], counters[i] = seq.index, #seq.ids + #seq.new end
  local draws = core.i32 { streams, counters }
  return op.sample(logits, draws, o.temperature, o.top_p, o.seed):tolist()
end

-- Runs the prompts of one group; returns the first new token of each.
local function prefill(model, cache, group, o)
  local scope <close> = core.scope()
  local ids, positions, offsets, last, slots = {}, {}, { 0 }, {}, {}
  for slot, seq in ipairs(group) do
    for i, id in ipairs(seq.ids) do
      ids[#ids + 1], positions[#positions + 1], slots[#slots + 1] = id, i - 1, slot - 1
    end
    offsets[slot + 1] = #ids
    last[slot] = #ids - 1
  end
  local hidden = model:hidden({
    ids = core.i32(ids), positions = core.i32(positions), offsets = core.i32(offsets),
    where = core.i32 { slots, positions },
  }, cache)
  return choose(model, op.embedding(hidden, core.i32(last)), group, o)
end

-- One token of every active sequence; returns the token after it.
local function step(model, cache, active, o)
  local scope <close> = core.scope()
  local ids, positions, slots = {}, {}, {}
  for i, seq in ipairs(active) do
    ids[i], positions[i], slots[i] = seq.last, #seq.ids + #seq.new - 1, seq.slot
  end
  local hidden = model:hidden({ ids = core.i32(ids), positions = core.i32(positions),
    where = core.i32 { slots, positions } }, cache)
  return choose(model, hidden, active, o)
end

-- Gives each sequence its next token; returns those that go on, and as many that have ended as make
-- the next step's rows a multiple of `rows`. Those say their last token again.
local function advance(active, tokens, rows, o)
  local going, ended = {}, {}
  for i, seq in ipairs(active) do
    local token = tokens[i]
    if not seq.ended and not o.ends[token] then
      seq.new[#seq.new + 1] = token
      seq.last = token
    end
    seq.ended = seq.ended or o.ends[token] or #seq.ids + #seq.new >= o.max_tokens
    local list = seq.ended and ended or going
    list[#list + 1] = seq
  end
  if #going == 0 then return going end
  return table.move(ended, 1, math.min(#ended, -#going % rows), #going + 1, going)
end

local function run_group(model, group, o)
  local longest = 0
  for slot, seq in ipairs(group) do
    seq.slot, seq.new, seq.last = slot - 1, {}, seq.ids[#seq.ids]
    longest = math.max(longest, #seq.ids)
  end
  local scope <close> = core.scope()
  local cache = model:new_cache(#group, math.max(o.max_tokens, longest + 1))
  local rows = cache[1]:device() == "cpu" and 1 or ROWS
  local active = advance(group, prefill(model, cache, group, o), rows, o)
  while #active > 0 do active = advance(active, step(model, cache, active, o), rows, o) end
end

-- Options are of their types; `ends` is the set of the ids in `eos`.
local function check_options(o)
  o.ends = {}
  for _, id in ipairs(type(o.eos) == "table" and check.list("generate: eos", o.eos, 4) or { o.eos }) do
    o.ends[check.type("generate: eos", id, "integer", 4)] = true
  end
  if not next(o.ends) then error("generate: eos: an empty list, needs at least one id", 3) end
  for _, name in ipairs { "max_tokens", "batch_size" } do
    local what = "generate: " .. name
    check.range(what, check.type(what, o[name], "integer", 4), 1, math.maxinteger, 4)
  end
end

--- The most tokens that a prompt and its continuation can have: a model with learned positions has no
-- more than those.
-- @param model
-- @tparam integer max_tokens
-- @treturn integer
function generate.limit(model, max_tokens)
  check.type("generate: max_tokens", max_tokens, "integer")
  local positions = model.config and model.config.max_positions -- learned ones: gpt2's
  return positions and math.min(max_tokens, positions) or max_tokens
end

--- Continues prompts. One that leaves no room within max_tokens gets no new token.
-- @param model
-- @tparam {{integer,...},...} prompts token ids
-- @tparam table options eos (id that ends a sequence, or a list of ids of which each does; it is not
-- part of the result), max_tokens = 200
-- (prompt included; at most the model's learned positions), batch_size = 64, temperature = 0 (greedy),
-- top_p = 1, seed = 1
-- @treturn {{integer,...},...} the new tokens of each prompt, in order
function generate.run(model, prompts, options)
  local o = check.options("generate", options, defaults)
  check_options(o)
  check.has("generate: model", model, "new_cache", "one of models.new")
  local positions = model.config and model.config.max_positions
  local vocab_size = model:head():shape(1)
  o.max_tokens = generate.limit(model, o.max_tokens)
  local order = {}
  for i, ids in ipairs(check.list("generate: prompts", prompts)) do
    check.type(("generate: prompt %d"):format(i), ids, "table")
    if #ids == 0 then error(("generate: prompt %d is empty"):format(i), 2) end
    if positions and #ids > positions then
      error(("generate: prompt %d has %d tokens, the model has positions for %d"):format(i, #ids,
        positions), 2)
    end
    local largest = 0
    for _, id in ipairs(ids) do
      largest = math.max(largest, check.type(("generate: prompt %d: id"):format(i), id, "integer"))
    end
    batch.check_id(("generate: prompt %d"):format(i), largest, vocab_size)
    order[i] = { ids = ids, index = i, new = {} }
  end
  table.sort(order, function(a, b)
    if #a.ids ~= #b.ids then return #a.ids > #b.ids end
    return a.index < b.index
  end)
  local _ <close> = core.no_grad()
  local results = {}
  for first = 1, #order, o.batch_size do
    local group = table.move(order, first, math.min(first + o.batch_size - 1, #order), 1, {})
    local open = {} -- prompts that leave no room are answered by nothing
    for _, seq in ipairs(group) do
      if #seq.ids < o.max_tokens then open[#open + 1] = seq end
    end
    if #open > 0 then run_group(model, open, o) end
    for _, seq in ipairs(group) do results[seq.index] = seq.new end
  end
  return results
end

return generate
