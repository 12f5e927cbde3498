--- data/batch.lua - samples of tokens packed end to end.
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
--
-- A batch knows its objective (`tag`) and the whole it is a part of: `batch.whole` holds n_samples,
-- n_labels and n_tokens of the effective batch, so that a loss divided by them gives the same
-- gradient however the batch was split. `twin` is the batch of the same prompts answered by
-- refusals, sample for sample, if the loader gives them.
--
-- @module dopl.data.batch

local check = require "dopl.util.check"
local chosen = require "dopl.data.chosen"

local batch = {}
local Batch = {}
Batch.__index = Batch

local FIELDS <const> = { "ids", "positions", "offsets", "rows", "labels", "label_offsets" }

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

local largest_of = setmetatable({}, { __mode = "k" }) -- by sample

local function largest_id(sample)
  local largest = largest_of[sample]
  if not largest then
    largest = 0
    for _, id in ipairs(sample.ids) do largest = math.max(largest, id) end
    largest_of[sample] = largest
  end
  return largest
end

local function pack(samples)
  local b = { samples = samples, keys = {}, offsets = { 0 }, label_offsets = { 0 } }
  local ids, positions, rows, labels = {}, {}, {}, {}
  local n, k, largest = 0, 0, 0
  for s, sample in ipairs(samples) do
    local tokens, first = sample.ids, math.max(2, sample.labels_from)
    local inputs, count = #tokens - 1, #tokens - first + 1
    for i = 1, inputs do ids[n + i], positions[n + i] = tokens[i], i - 1 end
    for i = 1, count do rows[k + i], labels[k + i] = n + first - 3 + i, tokens[first - 1 + i] end
    n, k, largest = n + inputs, k + count, math.max(largest, largest_id(sample))
    b.offsets[s + 1], b.label_offsets[s + 1], b.keys[s] = n, k, sample.key
  end
  b.ids, b.positions, b.rows, b.labels = ids, positions, rows, labels
  b.n_samples, b.n_tokens, b.n_labels, b.largest = #samples, n, k, largest
  return setmetatable(b, Batch)
end

--- Input tokens of a sample: what it costs in a forward pass.
function batch.cost(sample) return #sample.ids - 1 end

--- Counts of samples, known before they are packed.
-- @tparam {table,...} samples
-- @treturn table n_samples, n_tokens, n_labels
function batch.count(samples)
  local n_tokens, n_labels = 0, 0
  for _, sample in ipairs(samples) do
    local n = #sample.ids
    n_tokens = n_tokens + n - 1
    n_labels = n_labels + n - math.max(2, sample.labels_from) + 1
  end
  return { n_samples = #samples, n_tokens = n_tokens, n_labels = n_labels }
end

--- Whether a value is a sample of tokens, as data.samples makes them.
function batch.is_sample(value)
  return type(value) == "table" and value.ids ~= nil and value.labels_from ~= nil
end

--- Packs chosen samples into one batch.
-- @tparam Chosen part
-- @tparam[opt] table whole counts of the effective batch; default: those of the samples
-- @tparam[opt] table twin_whole the same of `twin`
-- @treturn Batch
function batch.of(part, whole, twin_whole)
  local b = pack(part.samples)
  b.tag, b.tok, b.step, b.epoch = part.tag, part.source.tok, part.step, part.epoch
  b.whole = whole or batch.count(part.samples)
  b.twin = part.twin and batch.of(part.twin, twin_whole)
  return b
end

--- Packs samples into one batch.
-- @tparam {table,...} samples from `chat.encode`
-- @tparam[opt] table opts tag = objective; `twins` = {table,...} the same prompts answered by
-- refusals; tok = tokenizer, for `show`
-- @treturn Batch
function batch.pack(samples, opts)
  opts = check.options("batch.pack", opts, { tag = check.optional, twins = check.optional,
    tok = check.optional })
  if type(samples) ~= "table" or #samples == 0 then
    error("batch.pack: needs at least one sample", 2)
  end
  for i, sample in ipairs(samples) do
    if not batch.is_sample(sample) then
      error(("batch.pack: samples must be made by data.samples; number %d is not"):format(i), 2)
    end
  end
  if opts.twins and #opts.twins ~= #samples then
    error(("batch.pack: %d samples and %d in 'twins'; each sample needs one"):format(#samples,
      #opts.twins), 2)
  end
  return batch.of(chosen.new(samples, { tag = opts.tag, twins = opts.twins,
    source = { tok = opts.tok or samples.tok } }))
end

-- Appends numbers, each moved by `by`.
local function append(out, list, first, by)
  local n = #out
  for i = first, #list do out[n + i - first + 1] = list[i] + by end
end

--- Batches end to end in one, for a forward pass over all of them; each `twin` stays apart.
-- @tparam {Batch,...} batches
-- @treturn Batch
function batch.join(batches)
  local all = setmetatable({ n_samples = 0, n_tokens = 0, n_labels = 0, offsets = { 0 },
    label_offsets = { 0 }, ids = {}, positions = {}, rows = {}, labels = {} }, Batch)
  for _, b in ipairs(batches) do
    for _, field in ipairs { "ids", "positions", "labels" } do append(all[field], b[field], 1, 0) end
    append(all.offsets, b.offsets, 2, all.n_tokens)
    append(all.label_offsets, b.label_offsets, 2, all.n_labels)
    append(all.rows, b.rows, 1, all.n_tokens)
    for _, n in ipairs { "n_samples", "n_tokens", "n_labels" } do all[n] = all[n] + b[n] end
  end
  return all
end

--- Micro-batches that together hold the same samples in the same order.
-- @tparam table opts max_tokens = input tokens of one micro-batch with its `twin` (a longer single
-- sample stands alone), or n = number of micro-batches (fewer where there are fewer samples)
-- @treturn {Batch,...} each with the whole's counts in `whole`; the batch itself where it needs no cut
function Batch:split(opts)
  opts = type(opts) == "table" and opts or {}
  local max, n = opts.max_tokens, opts.n
  local size = max or n
  if not math.tointeger(size) or size < 1 or (max and n) then
    error("batch:split: give max_tokens or n, an integer of at least 1", 2)
  end
  local all = chosen.new(self.samples, { tag = self.tag, source = { tok = self.tok },
    twins = self.twin and self.twin.samples })
  all.step, all.epoch = self.step, self.epoch
  local parts = all:split { n = n, max = max, cost = batch.cost }
  if #parts == 1 then return { self } end
  for i, part in ipairs(parts) do
    parts[i] = batch.of(part, self.whole, self.twin and self.twin.whole)
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

--- Frees the tensors, the twin's too; `local b <close> = batch.pack(samples)` does it at the scope's
-- end.
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
