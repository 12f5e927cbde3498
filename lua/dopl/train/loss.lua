--- train/loss.lua - unlearning losses, each a few lines over what one forward pass tells of a batch.
--
-- A loss is a table made by `loss.new`:
--
--     loss.new {
--       name  = "npo",
--       needs = { reference = "nll" },
--       value = function(s) return ... end,      -- a scalar tensor
--     }
--
-- `s`, the scores of a micro-batch, holds tensors in the gradient graph,
--
--     s.nll [B]        summed negative log-likelihood l of each sample's labels
--     s.n [B]          number of its labels (no gradient)
--     s.logp, s.mean_logp, s.entropy [n]   by labelled position (mean_logp: the mean over the
--                      vocabulary of log p, of log(p + eps) where the loss has `eps = 1e-12`)
--     s.vocab_size     V
--     s.whole          n_samples and n_labels of the effective batch
--     s.twin           the same for the refusal twins, where the loss needs `twin = true`
--     s.reference      nll [B] (and twin.nll) of the frozen starting model, where it needs "nll"
--     s.kl()           KL(reference, model) by labelled position [n], where it needs "hidden"
--
-- A mean divides by the counts of the whole effective batch, so the sum over micro-batches is the
-- loss of the batch, however it was cut. Formulas are those of DualOptim+ (Zhong et al.) and of the
-- works it takes them from; l is summed over labels, r marks the starting model.
-- @module dopl.train.loss

local core = require "dopl.core"
local check = require "dopl.util.check"
local join = require("dopl.data.batch").join
local check_id = require("dopl.data.batch").check_id

local op = core.ops
local loss = {}

local Loss = {}
Loss.__index = Loss
function Loss:__tostring() return ("loss.%s%s"):format(self.name, self.text or "") end

-- What the operator takes: below 1e-30, f32 has too few digits left for a sum of both.
local function check_eps(what, eps, level)
  check.type(what, eps, "number", level)
  if not (eps == 0 or (eps >= 1e-30 and eps <= 1)) then
    error(("%s = %s, needs 0, or 1e-30 to 1"):format(what, eps), level - 1)
  end
end

--- Makes a loss.
-- @tparam table definition name; value = function(scores) -> scalar tensor; needs = { answers =
-- "refusals" (the answers of the batch are refusals), twin = true (each sample comes with its
-- refusal twin), reference = "nll" or "hidden", eps = 1e-12 (added to the probabilities of
-- mean_logp) }; text = its options, for printing
-- @treturn Loss
function loss.new(definition)
  local o = check.options("loss.new", definition, {
    name = check.required, value = check.required, needs = {}, text = "",
  })
  check.type("loss.new: name", o.name, "string")
  check.type("loss.new: value", o.value, "function")
  o.needs = check.options("loss.new: needs", o.needs, {
    answers = check.optional, twin = check.optional, reference = check.optional, eps = 0,
  })
  if o.needs.answers then
    check.choice("loss.new: needs.answers", o.needs.answers, { "refusals" })
  end
  if o.needs.reference then
    check.choice("loss.new: needs.reference", o.needs.reference, { "nll", "hidden" })
  end
  check_eps("loss.new: needs.eps", o.needs.eps, 4)
  return setmetatable(o, Loss)
end

-- Options of a loss as text: " { beta = 0.1 }".
local function text_of(options)
  local parts = {}
  for _, key in ipairs(check.keys(options)) do
    parts[#parts + 1] = ("%s = %s"):format(key, tostring(options[key]))
  end
  return #parts > 0 and (" { %s }"):format(table.concat(parts, ", ")) or ""
end

-- The options of a loss, all of them finite numbers; a loss divides by its beta.
local function with_options(name, given, defaults)
  local o = check.options("loss." .. name, given, defaults, 4)
  for _, key in ipairs(check.keys(o)) do
    local what = ("loss.%s: %s"):format(name, key)
    local value = check.type(what, o[key], "number", 4)
    local positive = key == "beta"
    if value ~= value or math.abs(value) == math.huge or positive and value <= 0 then
      error(("%s = %s, needs a finite number%s"):format(what, value, positive and " above 0" or ""),
        3)
    end
  end
  return o, text_of(o)
end

local function no_options(name, ...)
  if ... ~= nil then error(("loss.%s: takes no options"):format(name), 3) end
end

--- Whether a value is a loss.
function loss.is_loss(value) return getmetatable(value) == Loss end

-- The mean over the samples of the whole batch of -(k/beta) log sigmoid(beta x).
local function preference(s, x, k, beta)
  return op.sum(op.log_sigmoid(x * beta)) * (-k / beta / s.whole.n_samples)
end

local function token_mean(s) return op.sum(s.nll) * (1 / s.whole.n_labels) end

--- Gradient descent on the answers: sum of l over sum of n.
function loss.gd(...)
  no_options("gd", ...)
  return loss.new { name = "gd", value = token_mean }
end

--- Gradient ascent: -gd (Jang et al. 2023).
function loss.ga(...)
  no_options("ga", ...)
  return loss.new { name = "ga", value = function(s) return token_mean(s) * -1 end }
end

--- gd on refusals in the place of the answers (Maini et al. 2024).
function loss.idk(...)
  no_options("idk", ...)
  return loss.new { name = "idk", needs = { answers = "refusals" }, value = token_mean }
end

--- Maximum entropy: the mean over labelled positions of KL(uniform, p) = -log V - mean_v log p_v
-- (Yuan et al. 2025). Their code takes log(p_v + 1e-12), which `eps = 1e-12` does; exact without.
-- It also counts pad positions; there are none here.
-- @tparam[opt] table options eps = 0
function loss.me(options)
  local o = with_options("me", options, { eps = 0 })
  check_eps("loss.me: eps", o.eps, 4)
  return loss.new { name = "me", needs = { eps = o.eps }, text = o.eps > 0 and text_of(o) or "",
    value = function(s)
      local count = s.mean_logp:numel()
      return (op.sum(s.mean_logp) * -1 - count * math.log(s.vocab_size)) * (1 / s.whole.n_labels)
    end }
end

--- Direct preference optimisation of the refusal over the answer (Rafailov et al. 2023):
-- -(2/b) mean log sigmoid(b ((l(x_f) - l(x_i)) - (l_r(x_f) - l_r(x_i)))).
-- @tparam[opt] table options beta = 0.1
function loss.dpo(options)
  local o, text = with_options("dpo", options, { beta = 0.1 })
  return loss.new { name = "dpo", text = text, needs = { twin = true, reference = "nll" },
    value = function(s)
      local margin = s.nll - s.twin.nll - (s.reference.nll - s.reference.twin.nll)
      return preference(s, margin, 2, o.beta)
    end }
end

--- Negative preference optimisation (Zhang et al. 2024): -(2/b) mean log sigmoid(b (l - l_r)).
-- @tparam[opt] table options beta = 0.1
function loss.npo(options)
  local o, text = with_options("npo", options, { beta = 0.1 })
  return loss.new { name = "npo", text = text, needs = { reference = "nll" }, value = function(s)
    return preference(s, s.nll - s.reference.nll, 2, o.beta)
  end }
end

--- NPO without a reference, by length (Fan et al. 2024): -(2/b) mean log sigmoid(b (l/n - gamma)).
-- @tparam[opt] table options beta = 2.5, gamma = 0
function loss.simnpo(options)
  local o, text = with_options("simnpo", options, { beta = 2.5, gamma = 0 })
  return loss.new { name = "simnpo", text = text, value = function(s)
    return preference(s, s.nll / s.n - o.gamma, 2, o.beta)
  end }
end

--- KL(starting model, model), summed over labelled positions and divided by their number. A batch
-- with mask = "all" labels every token.
function loss.kl(...)
  no_options("kl", ...)
  return loss.new { name = "kl", needs = { reference = "hidden" }, value = function(s)
    return op.sum(s.kl()) * (1 / s.whole.n_labels)
  end }
end

--- Answer preservation: the answer stays likelier than a refusal (Yuan et al. 2025):
-- -(1/b) mean log sigmoid(b (l(x_i) - l(x))).
-- @tparam[opt] table options beta = 0.1
function loss.ap(options)
  local o, text = with_options("ap", options, { beta = 0.1 })
  return loss.new { name = "ap", text = text, needs = { twin = true }, value = function(s)
    return preference(s, s.twin.nll - s.nll, 1, o.beta)
  end }
end

-- What of the scores is there only where the loss says that it needs it.
local NEEDED <const> = { twin = "twin = true", reference = "reference = \"nll\"",
  kl = "reference = \"hidden\"" }

-- A field that is not there is an error: a misspelt one would be nil.
local Scores = { __index = function(s, name)
  local needs = NEEDED[name]
  if needs then error(("loss: s.%s is there with needs = { %s }"):format(name, needs), 2) end
  local names = check.keys(s)
  local near = type(name) == "string" and check.nearest(name, names)
  error(("loss: no field s.%s%s"):format(tostring(name), near and (" (did you mean '%s'?)"):format(near)
    or (" (there is %s)"):format(table.concat(names, ", "))), 2)
end }

-- The scores of a batch: those from label `first` (0-based) on of what the vocabulary operator
-- gave, `v`. `index`: its rows of hidden and its label_offsets, as tensors.
local function scores_of(model, batch, hidden, v, first, index)
  local function statistic(i)
    local all = op.select(v, i)
    return batch.n_labels == all:numel() and all or op.slice(all, first, batch.n_labels)
  end
  local n, logp = {}, statistic(0)
  for i = 1, batch.n_samples do n[i] = batch.label_offsets[i + 1] - batch.label_offsets[i] end
  return setmetatable({
    hidden = hidden,
    rows = index.rows,
    logp = logp,
    mean_logp = statistic(2),
    entropy = statistic(3),
    nll = op.scale(op.segment_sum(logp, index.label_offsets), -1),
    n = core.tensor(n),
    vocab_size = model:head():shape(1),
    whole = batch.whole,
  }, Scores)
end

local function check_ids(model, batch)
  if batch.largest then check_id("a sample", batch.largest, model:head():shape(1), 5) end
end

--- What one forward pass tells of a packed batch: the fields of `s` above, without twin and
-- reference.
-- @param model
-- @param batch from dopl.data.batch
-- @tparam[opt=0] number eps added to the probabilities of mean_logp
-- @treturn table scores
function loss.score(model, batch, eps)
  check.has("loss.score: model", model, "hidden", "one of models.new")
  check.has("loss.score: batch", batch, "tensors", "a batch, as data.batch.pack gives it")
  check_ids(model, batch)
  local t = batch:tensors()
  local hidden = model:hidden(t)
  local v = op.vocab(hidden, model:head(), t.rows, t.labels, eps or 0)
  return scores_of(model, batch, hidden, v, 0, t)
end

--- The same of several batches, by one forward pass over all of them.
-- @param model
-- @tparam table batches
-- @tparam[opt] {number,...} eps of each batch, 0 where not given
-- @treturn table scores, one for each batch
function loss.score_all(model, batches, eps)
  eps = eps or {}
  if #batches == 1 then return { loss.score(model, batches[1], eps[1]) } end
  for _, batch in ipairs(batches) do check_ids(model, batch) end
  local all, alike = join(batches), true
  for i = 2, #batches do alike = alike and (eps[i] or 0) == (eps[1] or 0) end
  local t, head = all:tensors(), model:head()
  local hidden = model:hidden(t)
  -- one product for all labels, unless eps differs
  local v = alike and op.vocab(hidden, head, t.rows, t.labels, eps[1] or 0)
  local list, first = {}, 0
  for i, batch in ipairs(batches) do
    local rows = core.i32(table.move(all.rows, first + 1, first + batch.n_labels, 1, {}))
    list[i] = scores_of(model, batch, hidden,
      v or op.vocab(hidden, head, rows, core.i32(batch.labels), eps[i] or 0), v and first or 0,
      { rows = rows, label_offsets = core.i32(batch.label_offsets) })
    first = first + batch.n_labels
  end
  return list
end

--- Whether batches share forward passes: on a device, where products of few rows leave most of the
-- machine idle. On the CPU they stay apart, so that a sum does not depend on what else is served.
function loss.shares_passes(model)
  return model:head():device() ~= "cpu"
end

local function score_each(model, batches, eps)
  if loss.shares_passes(model) then return loss.score_all(model, batches, eps) end
  local list = {}
  for i, batch in ipairs(batches) do list[i] = loss.score(model, batch, eps[i]) end
  return list
end

local function add_reference(s, model, l, batch, reference)
  if not reference then error(("loss.%s: needs a reference"):format(l.name), 4) end
  if l.needs.reference == "hidden" then
    s.kl = function()
      return op.vocab_kl(s.hidden, model:head(), s.rows, reference:hidden(batch), reference.head)
    end
  else
    s.reference = { nll = reference:nll(batch) }
    if batch.twin then s.reference.twin = { nll = reference:nll(batch.twin) } end
  end
end

local function value_of(l, s)
  local value = l.value(s)
  if type(value) ~= "userdata" then
    error(("loss.%s: its value function returned a %s, needs a tensor with one element")
      :format(l.name, type(value)), 4)
  elseif value:numel() ~= 1 then
    error(("loss.%s: its value function returned a tensor of shape [%s], needs one element: sum it")
      :format(l.name, table.concat(value:shape(), ", ")), 4)
  end
  return value
end

--- Losses on micro-batches, with all that each loss needs.
-- @param model
-- @tparam table list of { loss =, batch = }
-- @param[opt] reference from dopl.reference
-- @treturn table scalars in the gradient graph, one for each of the list
-- @treturn table the scores they came from
function loss.of_batches(model, list, reference)
  check.has("loss.of_batches: model", model, "hidden", "one of models.new", 4)
  local batches, eps, values, scores = {}, {}, {}, {}
  for _, item in ipairs(list) do
    if not loss.is_loss(item.loss) then
      error(("loss.of_batches: a %s, needs a loss like loss.gd()"):format(type(item.loss)), 3)
    end
    check.has("loss.of_batches: batch", item.batch, "tensors", "a batch, as data.batch.pack gives it",
      4)
    batches[#batches + 1] = item.batch
    eps[#batches] = item.loss.needs.eps
    if item.loss.needs.twin then
      batches[#batches + 1] = item.batch.twin
        or error(("loss.%s: the batch has no refusal twins (data.loader: refuse = 'twin')")
          :format(item.loss.name), 3)
      eps[#batches] = item.loss.needs.eps
    end
  end
  local told, at = score_each(model, batches, eps), 0
  for i, item in ipairs(list) do
    local s, l = told[at + 1], item.loss
    at = at + 1
    if l.needs.twin then
      s.twin, at = told[at + 1], at + 1
    end
    if l.needs.reference then add_reference(s, model, l, item.batch, reference) end
    values[i], scores[i] = value_of(l, s), s
  end
  return values, scores
end

--- A loss on a micro-batch, with all that the loss needs.
-- @param model
-- @tparam Loss l
-- @param batch
-- @param[opt] reference from dopl.reference
-- @treturn tensor a scalar in the gradient graph
-- @treturn table the scores it came from
function loss.of_batch(model, l, batch, reference)
  local values, scores = loss.of_batches(model, { { loss = l, batch = batch } }, reference)
  return values[1], scores[1]
end

return loss
