--- task/causal_lm.lua - causal language modelling: batches of token sequences, and their scores.
--
-- A sample is a prompt and an answer (data.samples). It costs its input tokens. The scores of a batch
-- are tensors in the gradient graph:
--
--     nll [B]          summed negative log-likelihood of each sample's labels
--     n [B]            number of its labels (no gradient)
--     logp, mean_logp, entropy [n]   by labelled position (mean_logp: the mean over the vocabulary of
--                      log p, or of log(p + eps) if the loss needs eps)
--     hidden, rows     final hidden states, and which of them are followed by a label
--     vocab_size       V
--
-- Of the starting model a loss may need "nll" (s.reference.nll, and s.reference.twin.nll) or "hidden"
-- (s.kl(): KL(starting model, model) by labelled position).
-- @module dopl.task.causal_lm

local batch = require "dopl.data.batch"
local check = require "dopl.util.check"
local core = require "dopl.core"
local overlap = require "dopl.data.overlap"
local task = require "dopl.task"

local op = core.ops
local causal_lm -- the task

-- ---- scores

-- The scores of a batch: those from label `first` (0-based) on of what the vocabulary operator
-- gave, `v`. `index`: its rows of hidden and its label_offsets, as tensors.
local function scores_of(model, b, hidden, v, first, index)
  local function statistic(i)
    local all = op.select(v, i)
    return b.n_labels == all:numel() and all or op.slice(all, first, b.n_labels)
  end
  local n, logp = {}, statistic(0)
  for i = 1, b.n_samples do n[i] = b.label_offsets[i + 1] - b.label_offsets[i] end
  return {
    hidden = hidden,
    rows = index.rows,
    logp = logp,
    mean_logp = statistic(2),
    entropy = statistic(3),
    nll = op.scale(op.segment_sum(logp, index.label_offsets), -1),
    n = core.tensor(n),
    vocab_size = model:head():shape(1),
    whole = b.whole,
  }
end

local function check_ids(model, b)
  batch.check_id("a sample", b.largest, model:head():shape(1), 5)
end

-- The scores of one batch. `eps` is added to the probabilities of mean_logp.
local function score(model, b, eps)
  check.has("causal_lm: batch", b, "tensors", "a batch, as data.batch.pack gives it", 4)
  check_ids(model, b)
  local t = b:tensors()
  local hidden = model:hidden(t)
  local v = op.vocab(hidden, model:head(), t.rows, t.labels, eps or 0)
  return scores_of(model, b, hidden, v, 0, t)
end

-- The scores of several batches, by one forward pass over all of them.
local function score_together(model, batches, eps)
  for _, b in ipairs(batches) do check_ids(model, b) end
  local all, alike = batch.join(batches), true
  for i = 2, #batches do alike = alike and (eps[i] or 0) == (eps[1] or 0) end
  local t, head = all:tensors(), model:head()
  local hidden = model:hidden(t)
  -- one product for all labels, unless eps differs
  local v = alike and op.vocab(hidden, head, t.rows, t.labels, eps[1] or 0)
  local list, first = {}, 0
  for i, b in ipairs(batches) do
    local rows = core.i32(table.move(all.rows, first + 1, first + b.n_labels, 1, {}))
    list[i] = scores_of(model, b, hidden,
      v or op.vocab(hidden, head, rows, core.i32(b.labels), eps[i] or 0), v and first or 0,
      { rows = rows, label_offsets = core.i32(b.label_offsets) })
    first = first + b.n_labels
  end
  return list
end

-- Batches share forward passes on a device, where products of few rows leave most of the machine idle.
-- On the CPU they stay apart, so that a sum does not depend on what else is served.
local function shares_passes(model) return model:head():device() ~= "cpu" end

local function score_each(model, batches, needs)
  local eps = {}
  for i in ipairs(batches) do eps[i] = needs and needs[i].eps or 0 end
  if #batches > 1 and causal_lm.shares_passes(model) then
    return score_together(model, batches, eps)
  end
  local list = {}
  for i, b in ipairs(batches) do list[i] = score(model, b, eps[i]) end
  return list
end

-- ---- the starting model

local references = {
  nll = {
    twins = true,
    ask = function(model, b) return score(model, b).nll:tolist() end,
    join = function(values) return core.tensor(values) end,
    attach = function(s, _, b, reference)
      s.reference = { nll = reference:values("nll", b) }
      if b.twin then s.reference.twin = { nll = reference:values("nll", b.twin) } end
    end,
  },
  hidden = {
    keep = function(model) return model:head():clone() end,
    ask = function(model, b)
      local t, list = b:tensors(), {}
      check_ids(model, b)
      local rows = op.embedding(model:hidden(t), t.rows)
      for i = 1, b.n_samples do
        local first = b.label_offsets[i]
        list[i] = op.slice(rows, first, b.label_offsets[i + 1] - first):clone()
      end
      return list
    end,
    join = function(values) return core.ops.concat(values) end,
    attach = function(s, model, b, reference)
      s.kl = function()
        return op.vocab_kl(s.hidden, model:head(), s.rows, reference:values("hidden", b),
          reference:kept "hidden")
      end
    end,
    bytes = function(model, samples)
      return batch.count(samples).n_labels * model.config.hidden_size * 4
    end,
  },
}

-- ---- what does not fit

local function check_model(where, model, level)
  check.has(where .. "model", model, "hidden", "one of models.new", level + 2)
end

-- Samples longer than a model's learned positions: one may come up after hours.
local function check_lengths(where, samples, model, level)
  local positions = model.config and model.config.max_positions
  for i, sample in ipairs(positions and samples or {}) do
    if #sample.ids - 1 > positions then -- the last token is no input
      error(("%ssample %d has %d tokens, the model has positions for %d; data.samples cuts at "
        .. "max_tokens"):format(where, i, #sample.ids, positions), level + 1)
    end
  end
end

local function check_data(where, objective, model, level)
  local loss, data = objective.loss, objective.data
  if loss.needs.answers == "refusals" and data.refuse ~= "replace" then
    error(("%sloss.%s needs data whose answers are refusals (data.loader: refusals = list)"):format(
      where, loss.name), level + 1)
  elseif loss.needs.twin and data.refuse ~= "twin" then
    error(("%sloss.%s needs data with refusal pairs (data.loader: refusals = list, refuse = "
      .. "\"twin\")"):format(where, loss.name), level + 1)
  end
  for i, sample in ipairs(data.samples or {}) do
    if not batch.is_sample(sample) then
      error(("%ssamples must be made by data.samples; number %d is not"):format(where, i), level + 1)
    end
  end
  check_lengths(where, data.samples, model, level + 1)
end

-- Rows that one objective forgets and another retains: own data may hold some by mistake.
local function note_overlap(objectives, note)
  for i, objective in ipairs(objectives) do
    for j = 1, i - 1 do
      local first = objectives[j]
      if first.data.samples and objective.data.samples then
        overlap.tell({ name = first.name, samples = first.data.samples },
          { name = objective.name, samples = objective.data.samples }, note)
      end
    end
  end
end

-- Logits exist a chunk at a time.
local function chunk_of_logits(model, tokens)
  local chunk = core.vocab_chunk(1)
  core.vocab_chunk(chunk)
  return math.min(chunk, tokens * model:head():shape(1) * 4)
end

causal_lm = task.new {
  name = "causal_lm", unit = "tokens",
  scores = { "nll", "n", "logp", "mean_logp", "entropy", "hidden", "rows", "vocab_size" },
  cost = batch.cost, count = batch.count, pack = batch.of, score = score_each,
  shares_passes = shares_passes, references = references,
  check_model = check_model, check_data = check_data, note = note_overlap,
  scratch = chunk_of_logits,
}

--- The scores of a packed batch, from one forward pass.
-- @param model
-- @param b from dopl.data.batch
-- @tparam[opt=0] number eps added to the probabilities of mean_logp
-- @treturn table scores
function causal_lm.scores_of(model, b, eps)
  check_model("causal_lm.scores_of: ", model, 3)
  return score(model, b, eps)
end

return causal_lm
