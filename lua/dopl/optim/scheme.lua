--- optim/scheme.lua - state schemes: which copies of a rule's moments exist, and who reads them.
--
--     scheme.joint {}          one set; a step takes the gradient of the sum of all losses
--     scheme.shared {}         one set, whichever objective the step has ("Alternate")
--     scheme.decoupled {}      one set per objective ("DualOptim"); only = { "m" } splits just m;
--                              rules = { retain = optim.sgd { ... } } gives objectives their own
--     scheme.base_delta {}     one base, and one delta per objective ("DualOptim+")
--     scheme.scaffold {}, scheme.fedcm {}, scheme.local_adam {}    federated ones, adapted
--
-- Every scheme takes
--
--     storage              "f32" (default), "bf16" or "8bit": what states are stored as; schemes with
--                          a base take { base = , delta = } too
--     quantize             a short form: true is storage = "8bit", { "base" } is { base = "8bit" }
--     quantize_min         4096: in 8 bits, smaller tensors stay f32; embeddings and heads do unless
--     quantize_embeddings  is true
--     weights              of bf16 parameters: "master" (default), "stochastic" or "nearest"
--     lr                   a number, or one per objective
-- @module dopl.optim.scheme
local check = require "dopl.util.check"
local expr = require "dopl.optim.expr"

local scheme = {}

local config = {}
config.__index = config
config.__name = "dopl.scheme"

local function show(value)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  end
  local meta = getmetatable(value)
  if meta and meta.__tostring then return tostring(value) end
  local items = {}
  for _, v in ipairs(value) do items[#items + 1] = show(v) end
  for _, k in ipairs(check.keys(value)) do
    items[#items + 1] = ("%s = %s"):format(k, show(value[k]))
  end
  return #items == 0 and "{}" or "{ " .. table.concat(items, ", ") .. " }"
end

--- A value as Lua source would write it, for messages.
scheme.show = show

function config:__tostring()
  return ("scheme.%s %s"):format(self.kind, show(self.given))
end

local function copy(t)
  local out = {}
  for key, value in pairs(t) do out[key] = value end -- the order changes nothing
  return setmetatable(out, getmetatable(t))
end

--- Whether a value is a scheme.
function scheme.is_scheme(x)
  return getmetatable(x) == config
end

scheme.storages = { "f32", "bf16", "8bit" }
scheme.weights = { "master", "stochastic", "nearest" }

local common = {
  storage = { type = "string|table", shown = "\"f32\"", "type of the states: f32, bf16 or 8bit; "
    .. "schemes with a base also take { base = , delta = }" },
  quantize = { type = "boolean|string|list", default = false,
    "short for storage: true is \"8bit\", { \"base\" } is { base = \"8bit\" }" },
  quantize_min = { type = "number", min = 0, default = 4096,
    "in 8 bits, tensors with fewer elements stay f32" },
  quantize_embeddings = { default = false, "whether embeddings and heads are stored in 8 bits, too" },
  weights = { choice = scheme.weights, default = "master", "how bf16 parameters are rounded" },
  lr = { type = "number|table", shown = "the rule's", "learning rate, or one by objective" },
}

local function fail(kind, level, text, ...)
  error(("scheme.%s: "):format(kind) .. text:format(...), level + 1)
end

-- `quantize` as a `storage`.
local function of_quantize(kind, given, parts, level)
  if type(given) == "boolean" then return given and "8bit" or "f32" end
  if type(given) == "string" then given = { given } end
  if type(given) ~= "table" then
    fail(kind, level + 1, "quantize is %s, need true, false or a list of parts", tostring(given))
  end
  local by_part = {}
  local what = ("scheme.%s: quantize"):format(kind)
  for _, part in ipairs(check.list(what, given, level + 2)) do
    check.choice(what, part, parts, level + 2)
    by_part[part] = "8bit"
  end
  return by_part
end

-- The storage of each part.
local function stored_parts(self, kind, parts, level)
  local given = self.storage
  if given == nil then
    given = of_quantize(kind, self.quantize, parts, level + 1)
  elseif self.quantize ~= false then
    fail(kind, level + 1, "storage and quantize are both given: one of them says it")
  end
  local what, stored = ("scheme.%s: storage"):format(kind), {}
  if type(given) ~= "table" then
    check.choice(what, given, scheme.storages, level + 2)
    for _, part in ipairs(parts) do stored[part] = given end
    return stored
  end
  local named = next(given) ~= nil
    and check.named(what, given, parts[1] .. " = \"8bit\"", level + 2) or {}
  for _, part in ipairs(named) do
    check.choice(what, part, parts, level + 2)
    check.choice(("%s of '%s'"):format(what, part), given[part], scheme.storages, level + 2)
  end
  for _, part in ipairs(parts) do stored[part] = given[part] or "f32" end
  return stored
end

local LARGEST <const> = 0x1.fffffffffffffp+1023 -- finite number

local function check_lr(kind, lr, level)
  if lr == nil then return end
  local what = ("scheme.%s: lr"):format(kind)
  if type(lr) ~= "table" then
    check.range(what, lr, 0, LARGEST, level + 2)
    return
  end
  for _, name in ipairs(check.named(what, lr, "objective = lr", level + 2)) do
    check.range(("%s of '%s'"):format(what, name), lr[name], 0, LARGEST, level + 2)
  end
end

-- A constructor. definition: fields (its own options), has_base, moment, period_end, check,
-- one_objective.
local function define(kind, definition)
  local described = {}
  for k, v in pairs(common) do described[k] = v end
  for k, v in pairs(definition.fields or {}) do described[k] = v end
  local options = check.fields("scheme." .. kind, described)
  scheme[kind] = function(given)
    local self = check.options(options, given)
    self.kind, self.given = kind, given or {}
    self.moment, self.period_end = definition.moment, definition.period_end
    self.one_objective = definition.one_objective
    local parts = definition.has_base and { "base", "delta" } or { "own" }
    self.stored = stored_parts(self, kind, parts, 2)
    self.stored.own = self.stored.own or self.stored.delta
    check_lr(kind, self.lr, 2)
    if definition.check then definition.check(self, 2) end
    return setmetatable(self, config)
  end
end

-- ---- one set of moments, or one per objective

-- Pushes a moment kept in `part`, corrected after `steps` pushes.
local function plain(cx, moment, s, part, steps)
  local x, beta = cx:state(moment, part), cx:decay(moment)
  local y = cx:push(moment, x, s, beta)
  cx:store(moment, part, y)
  return cx.rule.lagged and x or cx:unbias(moment, y, beta, steps)
end

local function one_set(cx, moment, s)
  return plain(cx, moment, s, "shared", cx.t)
end

--- One set of states. A step takes the gradient of the sum of all losses.
-- @function scheme.joint
-- @tparam table options
-- @treturn scheme
define("joint", { moment = one_set, one_objective = true })

--- One set of states, whichever objective the step has ("Alternate").
-- @function scheme.shared
-- @tparam table options
-- @treturn scheme
define("shared", { moment = one_set })

--- One set of states per objective ("DualOptim").
-- @function scheme.decoupled
-- @tparam table options
-- @treturn scheme
-- @usage optim.adamw { lr = 1e-4 }:with(scheme.decoupled { storage = "8bit" })
define("decoupled", {
  fields = {
    only = { type = "list", "the moments that are split; the others are shared" },
    rules = { type = "table", "rules of some objectives' own: { retain = optim.sgd { ... } }" },
  },
  check = function(self, level)
    if self.rules ~= nil then
      local names = check.named("scheme.decoupled: rules", self.rules,
        "objective = optim.sgd { lr = 1e-3 }", level + 2)
      local rules = {}
      for _, name in ipairs(names) do
        local given = self.rules[name]
        if type(given) ~= "table" or not given.attach then
          fail("decoupled", level + 1, "the rule of '%s' is a %s, need one like "
            .. "optim.sgd { lr = 1e-3 }", name, type(given))
        end
        if given.chosen then
          fail("decoupled", level + 1, "the rule of '%s' has its own scheme, which would not "
            .. "count: leave :with(...) out", name)
        end
        rules[name] = copy(given)
        rules[name].scheme = nil -- that of the whole: so it prints as it was written
      end
      self.rules, self.given = rules, copy(self.given)
      self.given.rules = rules
      if self.only then fail("decoupled", level + 1, "rules and only exclude each other") end
    end
    if self.only == nil then return end
    if #self.only == 0 then
      fail("decoupled", level + 1, "only = {} splits nothing: that is scheme.shared {}")
    end
    self.split = {}
    for _, name in ipairs(self.only) do self.split[name] = true end
  end,
  moment = function(cx, moment, s)
    local split = cx.options.split
    if split and not split[moment.name] then return one_set(cx, moment, s) end
    return plain(cx, moment, s, "own", cx.t_k)
  end,
})

-- ---- base and deltas

-- A delta D averages s - B, so evaluating B^ + D^ as it is written subtracts B^ from s and adds it
-- back. In f32 nothing of s is left where it is far smaller than B^: at an objective's first step the
-- sum is exactly s, and would come out as 0. The direction's moment is therefore collected by its
-- terms. With w, the share of s in D^, and T = w s + (what D^ keeps of the old delta),
--
--     D^ = T - w B^        B^ + D^ = T + (1 - w) B^
--
-- where the coefficients are evaluated in double. At a first step w is 1, and (1 - w) B^ is exactly 0.
-- The delta's state is pushed as it is written: B and D then decay by the same rounded factor, and the
-- difference of two factors does not add up in their sum.

-- What a corrected moment keeps of its corrected value in a push, and the share of what is pushed.
local function shares(moment, beta, steps)
  if moment.kind == "sum" then return beta, 1 end
  if not moment.correct then return beta, 1 - beta end
  local share = (1 - beta) / (1 - beta ^ steps)
  return 1 - share, share
end

-- Pushes s - reference to the delta of the step's objective. Returns D^, w and T.
local function push_delta(cx, moment, s, reference)
  local delta, beta = cx:state(moment, "own"), cx:decay(moment)
  local new_delta = cx:push(moment, delta, s - reference, beta)
  cx:store(moment, "own", new_delta)
  local _, w = shares(moment, beta, cx.t_k)
  return cx:unbias(moment, new_delta, beta, cx.t_k), w,
    w * s + cx:unbias(moment, beta * delta, beta, cx.t_k)
end

-- The sum of base and delta, bounded from below by `floor` times the base. This bound is ours, not the
-- paper's. The delta of a second moment can be negative, so the sum can pass through zero, and a step
-- divided by its root can be arbitrarily large.
local function floored(cx, moment, value, base)
  if cx.scheme.floor == 0 or not moment.nonnegative then return value end
  return expr.functions.max(expr.functions.abs(value), cx.scheme.floor * base)
end

local FLOOR <const> = { type = "number", min = 0, max = 1, default = 0.0,
  "lower bound of a second moment, as a share of the base's" }

-- One step. `timing` is where in it the base is updated; see docs/optimizers.md.
local function base_delta(cx, moment, s)
  local timing, exact, feeds_delta = cx.options.timing, cx.scheme.exact, cx.options.source == "g-delta"
  local base, beta = cx:state(moment, "base"), cx:decay(moment, "base")
  local before = base + cx:state(moment, "own")
  local reference = cx:unbias(moment, base, beta, cx.t - 1) -- as the previous step left it
  local function push_base(fed)
    local new_base = cx:push(moment, base, fed, beta)
    cx:store(moment, "base", new_base)
    return cx:unbias(moment, new_base, beta, cx.t)
  end
  if timing == "before_delta" then reference = push_base(s) end
  local d, w, t = push_delta(cx, moment, s, reference)
  local seen = reference -- the base that the direction sees
  if timing ~= "before_delta" then
    local fed = not feeds_delta and s or exact and s - t + w * reference or s - d
    local new_base = push_base(fed)
    if timing == "after_delta" then seen = new_base end
  end
  local value = seen + d
  if exact then
    -- a new base is keep B^ + share fed; where it is fed s - D^, that takes a share of D^ back
    local keep, share, left = 1, 0, 1
    if timing == "after_delta" then
      keep, share = shares(moment, beta, cx.t)
      if feeds_delta then left = 1 - share end
    end
    value = left * t + share * s + (keep - left * w) * reference
  end
  if cx.rule.lagged then return before end
  return floored(cx, moment, value, seen)
end

--- One base and one delta per objective ("DualOptim+").
-- @function scheme.base_delta
-- @tparam table options
-- @treturn scheme
-- @usage optim.adamw { lr = 1e-4 }:with(scheme.base_delta { quantize = { "base", "delta" } })
define("base_delta", {
  fields = {
    timing = { choice = { "before_delta", "after_delta", "after_theta" }, default = "after_theta",
      "when a step updates the base" },
    source = { choice = { "g", "g-delta" }, default = "g", "what the base averages" },
    base_betas = { type = "table", shown = "the rule's", "decay of the base's moments, in order" },
    floor = FLOOR,
    exact = { default = true, "whether base + delta is summed without cancellation" },
  },
  has_base = true,
  check = function(self, level)
    if self.source == "g-delta" and self.timing == "before_delta" then
      fail("base_delta", level + 1, "source 'g-delta' needs the delta before the base: timing "
        .. "'after_delta' or 'after_theta'")
    end
  end,
  moment = base_delta,
})

-- ---- federated schemes

-- B + mean of the corrected deltas, when a period ends.
local function absorb_deltas(cx, moment)
  local base, beta, sum = cx:state(moment, "base"), cx:decay(moment), nil
  for _, objective in ipairs(cx.options.objectives) do
    local x = cx:state(moment, "own", objective)
    local d = cx:unbias(moment, x, beta, cx.graph:scalar("count:" .. objective))
    sum = sum and sum + d or d
  end
  cx:store(moment, "base", base + sum / #cx.options.objectives)
end

--- SCAFFOLD, adapted: objectives take the place of clients. Deltas of s - B are summed with B by their
-- terms, as base_delta does.
-- @function scheme.scaffold
-- @tparam table options
-- @treturn scheme
define("scaffold", {
  fields = { floor = FLOOR },
  moment = function(cx, moment, s)
    local base, delta = cx:state(moment, "base"), cx:state(moment, "own")
    local _, w, t = push_delta(cx, moment, s, base)
    if cx.rule.lagged then return base + delta end
    return floored(cx, moment, t + (1 - w) * base, expr.functions.abs(base)) -- B can be negative too
  end,
  period_end = absorb_deltas, has_base = true,
})

--- FedCM, adapted: objectives take the place of clients.
-- @function scheme.fedcm
-- @tparam table options
-- @treturn scheme
define("fedcm", {
  moment = function(cx, moment, s)
    local base = cx:state(moment, "base")
    return base + plain(cx, moment, s, "own", cx.t_k)
  end,
  period_end = absorb_deltas, has_base = true,
})

--- Local Adam, adapted: every objective has its own states, which are averaged after a period.
-- @function scheme.local_adam
-- @tparam table options
-- @treturn scheme
define("local_adam", {
  moment = function(cx, moment, s) return plain(cx, moment, s, "own", cx.t_k) end,
  period_end = function(cx, moment)
    local sum
    for _, objective in ipairs(cx.options.objectives) do
      local x = cx:state(moment, "own", objective)
      sum = sum and sum + x or x
    end
    for _, objective in ipairs(cx.options.objectives) do
      cx:store(moment, "own", sum / #cx.options.objectives, objective)
    end
  end,
})

return scheme
