--- train/loss.lua - unlearning losses, each a few lines over the scores of a forward pass.
--
-- A loss is a table made by `loss.new`:
--
--     loss.new {
--       name  = "npo",
--       needs = { scores = { "nll" }, reference = "nll" },
--       value = function(s) return ... end,      -- a scalar tensor
--     }
--
-- `s`, the scores of a micro-batch, holds what the task gives (for text: dopl.task.causal_lm), and
--
--     s.whole          counts of the effective batch: n_samples, n_labels
--     s.twin           the same for the refusal pairs, where the loss needs `twin = true`
--     s.reference, s.kl   what the starting model says, where it needs `reference`
--
-- `needs.scores` names the scores that the loss reads. A task that lacks one refuses the loss before
-- the first step.
--
-- A mean divides by the counts of the whole effective batch, so the sum over micro-batches is the
-- loss of the batch, however it was cut. Formulas are those of DualOptim+ (Zhong et al.) and of the
-- works it takes them from; l is summed over labels, r marks the starting model.
-- @module dopl.train.loss

local core = require "dopl.core"
local check = require "dopl.util.check"
local causal_lm = require "dopl.task.causal_lm"

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
-- @tparam table definition name; value = function(scores) -> scalar tensor; needs = { scores = names
-- of what it reads, answers = "refusals" (the answers of the batch are refusals), twin = true (each
-- sample comes with its refusal pair), reference = what it asks of the starting model (causal_lm has
-- "nll" and "hidden"), eps = 1e-12 (added to the probabilities of mean_logp) }; text = its options, for
-- printing
-- @treturn Loss
function loss.new(definition)
  local o = check.options("loss.new", definition, {
    name = check.required, value = check.required, needs = {}, text = "",
  })
  check.type("loss.new: name", o.name, "string")
  check.type("loss.new: value", o.value, "function")
  o.needs = check.options("loss.new: needs", o.needs, {
    scores = {}, answers = check.optional, twin = check.optional, reference = check.optional, eps = 0,
  })
  for _, score in ipairs(check.list("loss.new: needs.scores", o.needs.scores)) do
    check.type("loss.new: needs.scores", score, "string")
  end
  if o.needs.answers then
    check.choice("loss.new: needs.answers", o.needs.answers, { "refusals" })
  end
  if o.needs.reference then
    check.type("loss.new: needs.reference", o.needs.reference, "string")
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

local NLL <const> = { scores = { "nll" } }

-- The mean over the samples of the whole batch of -(k/beta) log sigmoid(beta x).
local function preference(s, x, k, beta)
  return op.sum(op.log_sigmoid(x * beta)) * (-k / beta / s.whole.n_samples)
end

local function token_mean(s) return op.sum(s.nll) * (1 / s.whole.n_labels) end

--- Gradient descent on the answers: sum of l over sum of n.
function loss.gd(...)
  no_options("gd", ...)
  return loss.new { name = "gd", needs = NLL, value = token_mean }
end

--- Gradient ascent: -gd (Jang et al. 2023).
function loss.ga(...)
  no_options("ga", ...)
  return loss.new { name = "ga", needs = NLL, value = function(s) return token_mean(s) * -1 end }
end

--- gd on refusals instead of the answers (Maini et al. 2024).
function loss.idk(...)
  no_options("idk", ...)
  return loss.new { name = "idk", value = token_mean,
    needs = { scores = { "nll" }, answers = "refusals" } }
end

--- Maximum entropy: the mean over labelled positions of KL(uniform, p) = -log V - mean_v log p_v
-- (Yuan et al. 2025). Their code takes log(p_v + 1e-12), which `eps = 1e-12` does; exact without.
-- It also counts pad positions; there are none here.
-- @tparam[opt] table options eps = 0
function loss.me(options)
  local o = with_options("me", options, { eps = 0 })
  check_eps("loss.me: eps", o.eps, 4)
  return loss.new { name = "me", text = o.eps > 0 and text_of(o) or "",
    needs = { scores = { "mean_logp", "vocab_size" }, eps = o.eps },
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
  return loss.new { name = "dpo", text = text,
    needs = { scores = { "nll" }, twin = true, reference = "nll" },
    value = function(s)
      local margin = s.nll - s.twin.nll - (s.reference.nll - s.reference.twin.nll)
      return preference(s, margin, 2, o.beta)
    end }
end

--- Negative preference optimisation (Zhang et al. 2024): -(2/b) mean log sigmoid(b (l - l_r)).
-- @tparam[opt] table options beta = 0.1
function loss.npo(options)
  local o, text = with_options("npo", options, { beta = 0.1 })
  return loss.new { name = "npo", text = text, needs = { scores = { "nll" }, reference = "nll" },
    value = function(s) return preference(s, s.nll - s.reference.nll, 2, o.beta) end }
end

--- NPO without a reference, by length (Fan et al. 2024): -(2/b) mean log sigmoid(b (l/n - gamma)).
-- @tparam[opt] table options beta = 2.5, gamma = 0
function loss.simnpo(options)
  local o, text = with_options("simnpo", options, { beta = 2.5, gamma = 0 })
  return loss.new { name = "simnpo", text = text, needs = { scores = { "nll", "n" } },
    value = function(s) return preference(s, s.nll / s.n - o.gamma, 2, o.beta) end }
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
  return loss.new { name = "ap", text = text, needs = { scores = { "nll" }, twin = true },
    value = function(s) return preference(s, s.twin.nll - s.nll, 1, o.beta) end }
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

-- The batches that a list of losses reads, and what each loss needs: a batch, and its `twin` behind it.
local function batches_of(list, task)
  local batches, needs = {}, {}
  for _, item in ipairs(list) do
    if not loss.is_loss(item.loss) then
      error(("loss.of_batches: a %s, needs a loss like loss.gd()"):format(type(item.loss)), 4)
    end
    task:check_loss("loss.of_batches: ", item.loss, 4)
    batches[#batches + 1], needs[#needs + 1] = item.batch, item.loss.needs
    if item.loss.needs.twin then
      batches[#batches + 1] = item.batch.twin
        or error(("loss.%s: the batch has no refusal pairs (data.loader: refuse = 'twin')")
          :format(item.loss.name), 4)
      needs[#needs + 1] = item.loss.needs
    end
  end
  return batches, needs
end

--- Losses on micro-batches, with all that each loss needs.
-- @param model
-- @tparam table list of { loss =, batch = }
-- @param[opt] reference from dopl.reference
-- @tparam[opt] Task task default: dopl.task.causal_lm
-- @treturn table scalars in the gradient graph, one for each of the list
-- @treturn table the scores they came from
function loss.of_batches(model, list, reference, task)
  task = task or causal_lm
  task.check_model("loss.of_batches: ", model, 3)
  local batches, needs = batches_of(list, task)
  local told, at = task.score(model, batches, needs), 0
  local values, scores = {}, {}
  for i, item in ipairs(list) do
    local l, batch = item.loss, item.batch
    local s = setmetatable(told[at + 1], Scores)
    at = at + 1
    if l.needs.twin then
      s.twin, at = setmetatable(told[at + 1], Scores), at + 1
    end
    if l.needs.reference then
      if not reference then error(("loss.%s: needs a reference"):format(l.name), 2) end
      task.references[l.needs.reference].attach(s, model, batch, reference)
    end
    values[i], scores[i] = value_of(l, s), s
  end
  return values, scores
end

--- A loss on a micro-batch, with all that the loss needs.
-- @param model
-- @tparam Loss l
-- @param batch
-- @param[opt] reference from dopl.reference
-- @tparam[opt] Task task default: dopl.task.causal_lm
-- @treturn tensor a scalar in the gradient graph
-- @treturn table the scores it came from
function loss.of_batch(model, l, batch, reference, task)
  local values, scores = loss.of_batches(model, { { loss = l, batch = batch } }, reference, task)
  return values[1], scores[1]
end

return loss
