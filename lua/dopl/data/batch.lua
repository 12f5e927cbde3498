--- data/batch.lua - samples packed end to end, and the order in which they come.
--
-- Nothing is padded. A sample's last token (its eos) is a label but never an input, since nothing
-- follows it; it is left out of the packed ids, so a sample of n tokens takes n - 1 rows:
--
--     ids           [n_tokens]      input tokens, 0-based vocabulary ids
--     positions     [n_tokens]      position in the own sequence, from 0
--     offsets       [n_samples + 1] first token of each sample, from 0; last = n_tokens
--     rows          [n_labels]      0-based rows of hidden states whose next token is a label
--     labels        [n_labels]      that next token
--     label_offsets [n_samples + 1] first label of each sample, from 0; last = n_labels
--     sample_of_row [n_labels]      0-based sample of each label
--
-- A batch knows its objective (`tag`) and the whole it is a part of: `batch.whole` holds n_samples,
-- n_labels and n_tokens of the effective batch, so that a loss divided by them gives the same
-- gradient however the batch was split. `twin` is the batch of the same prompts answered by
-- refusals, sample for sample, where the loader was asked for twins.
--
-- @module dopl.data.batch

local check = require "dopl.util.check"

local batch = {}
local Batch = {}
Batch.__index = Batch

local FIELDS <const> = {
  "ids", "positions", "offsets", "rows", "labels", "label_offsets", "sample_of_row",
}

--- Refuses a token id that a model has no row for, and names the tokenizer it comes from.
-- @tparam string where what holds the id, for the message
-- @tparam integer id the largest
-- @tparam integer vocab_size rows of the model's embedding
-- @tparam[opt=2] integer level where an error points, as for `error`
function batch.check_id(where, id, vocab_size, level)
  if id < vocab_size then return end
  error(("%s holds the token id %d, and the model has ids up to %d: the tokenizer is larger than the "
    .. "model's vocabulary; make the model with vocab_size = tok:size()"):format(where, id,
    vocab_size - 1), (level or 2) + 1)
end

local function pack(samples)
  local b = { samples = samples, keys = {}, offsets = { 0 }, label_offsets = { 0 } }
  local ids, positions, rows, labels, owner = {}, {}, {}, {}, {}
  local n, k, largest = 0, 0, 0
  for s, sample in ipairs(samples) do
    local tokens, labels_from = sample.ids, sample.labels_from
    for i = 1, #tokens - 1 do
      n = n + 1
      ids[n], positions[n] = tokens[i], i - 1
      if tokens[i] > largest then largest = tokens[i] end
      if i + 1 >= labels_from then
        k = k + 1
        rows[k], labels[k], owner[k] = n - 1, tokens[i + 1], s - 1
      end
    end
    largest = math.max(largest, tokens[#tokens])
    b.offsets[s + 1], b.label_offsets[s + 1], b.keys[s] = n, k, sample.key
  end
  b.ids, b.positions, b.rows, b.labels, b.sample_of_row = ids, positions, rows, labels, owner
  b.n_samples, b.n_tokens, b.n_labels, b.largest = #samples, n, k, largest
  return setmetatable(b, Batch)
end

local function counts(b)
  return { n_samples = b.n_samples, n_tokens = b.n_tokens, n_labels = b.n_labels }
end

--- Packs samples into one batch.
-- @tparam {table,...} samples from `chat.encode`
-- @tparam[opt] table opts tag = objective; twins = {table,...} the same prompts answered by
-- refusals; tok = tokenizer, for `show`
-- @treturn Batch
function batch.pack(samples, opts)
  opts = check.options("batch.pack", opts, { tag = check.optional, twins = check.optional,
    tok = check.optional })
  if type(samples) ~= "table" or #samples == 0 then
    error("batch.pack: needs at least one sample", 2)
  end
  for i, sample in ipairs(samples) do
    if type(sample) ~= "table" or not sample.ids or not sample.labels_from then
      error(("batch.pack: samples must be made by data.samples: number %d is none"):format(i), 2)
    end
  end
  local b = pack(samples)
  b.tag, b.tok, b.whole = opts.tag, opts.tok or samples.tok, counts(b)
  if opts.twins then
    if #opts.twins ~= #samples then
      error(("batch.pack: %d samples and %d twins; each sample needs one"):format(#samples,
        #opts.twins), 2)
    end
    b.twin = pack(opts.twins)
    b.twin.tag, b.twin.tok, b.twin.whole = b.tag, b.tok, counts(b.twin)
  end
  return b
end

--- Batches end to end in one, for a forward pass over all of them; their twins stay apart.
-- @tparam {Batch,...} batches
-- @treturn Batch
function batch.join(batches)
  local samples = {}
  for _, b in ipairs(batches) do table.move(b.samples, 1, b.n_samples, #samples + 1, samples) end
  return pack(samples)
end

-- Tokens that samples first..last cost in one forward pass, twins included.
local function cost_of(b, s)
  local n = b.offsets[s + 1] - b.offsets[s]
  if b.twin then n = n + b.twin.offsets[s + 1] - b.twin.offsets[s] end
  return n
end

-- Ends of runs of samples, none over max tokens unless it is a single sample.
local function cut_by_tokens(b, max)
  local ends, used = {}, 0
  for s = 1, b.n_samples do
    local cost = cost_of(b, s)
    if used > 0 and used + cost > max then
      ends[#ends + 1], used = s - 1, 0
    end
    used = used + cost
  end
  ends[#ends + 1] = b.n_samples
  return ends
end

-- Ends of n runs of equal numbers of samples (differing by one at most).
local function cut_by_number(b, n)
  local ends = {}
  n = math.min(n, b.n_samples)
  for i = 1, n do ends[i] = b.n_samples * i // n end
  return ends
end

local function part(b, first, last)
  local p = pack(table.move(b.samples, first, last, 1, {}))
  p.tag, p.tok, p.whole = b.tag, b.tok, b.whole
  p.step, p.epoch = b.step, b.epoch
  if b.twin then p.twin = part(b.twin, first, last) end
  return p
end

--- Micro-batches that together hold the same samples in the same order.
-- @tparam table opts max_tokens = input tokens of one micro-batch, twins counted (a longer single
-- sample stands alone), or n = number of micro-batches (fewer where there are fewer samples)
-- @treturn {Batch,...} each with the whole's counts in `whole`; the batch itself where it needs no cut
function Batch:split(opts)
  opts = type(opts) == "table" and opts or {}
  local max, n = opts.max_tokens, opts.n
  local size = max or n
  if not math.tointeger(size) or size < 1 or (max and n) then
    error("batch:split: give max_tokens or n, an integer of at least 1", 2)
  end
  local ends = max and cut_by_tokens(self, max) or cut_by_number(self, n)
  if #ends == 1 then return { self } end
  local parts, first = {}, 1
  for i, last in ipairs(ends) do
    parts[i] = part(self, first, last)
    first = last + 1
  end
  return parts
end

-- Tensors belong to the scope that was open when they were made, and end with it.
local function alive(made)
  return made and pcall(made.ids.numel, made.ids)
end

--- The arrays as i32 tensors, kept until `close`; made again where a scope has freed them.
-- @treturn table field name -> tensor
function Batch:tensors()
  if not alive(self.made) then
    local core = require "dopl.core"
    local made = {}
    for _, field in ipairs(FIELDS) do made[field] = core.i32(self[field]) end
    self.made = made
  end
  return self.made
end

--- Frees the tensors, the twin's too; `local b <close> = loader:next()` does it at the scope's end.
function Batch:close()
  local made = self.made
  self.made = nil
  if made then
    for _, field in ipairs(FIELDS) do made[field]:close() end
  end
  if self.twin then self.twin:close() end
end

Batch.__close = Batch.close

return batch
