--- run/plan.lua - what a recipe will need, before it is paid for: `./dopl --plan recipe.lua`.
--
-- The recipe itself runs, with stand-ins: `train.fit` takes a few real steps (the first of each
-- objective on the batch with the most tokens, for the peak; the others as they come, for the time)
-- and returns; `metrics.evaluate` asks the first rows of a set, once; what would be written is not.
-- So memory is measured, with all that the recipe itself keeps, and time is extrapolated.
-- @module dopl.run.plan

local check = require "dopl.util.check"
local core = require "dopl.core"
local json = require "dopl.util.json"
local loss = require "dopl.train.loss"
local reference = require "dopl.train.reference"
local report = require "dopl.report"
local schedule = require "dopl.train.schedule"

local plan = {}

local SERVED <const> = 2     -- measured steps of each objective
local MOST_STEPS <const> = 40 -- measured, where an objective is rarely served
local SEARCHED <const> = 200 -- batches among which the largest is looked for
local ROWS <const> = 64      -- evaluated rows: one batch of generation
local MICRO_TOKENS <const> = 4096 -- of train.fit

local print_now = print -- the recipe's own printing is silenced
local state -- { fits = {}, peak =, host =, evaluated = { [key] = { seconds, result } }, seconds = }

-- Memory where numbers live: the device's, or the runtime's on the CPU.
local function memory()
  local device = core.device()
  return core.memory(device ~= "cpu" and device or nil)
end

-- ---- batches

local function tokens_of(batch) return batch.n_tokens + (batch.twin and batch.twin.n_tokens or 0) end

-- Where the loader stands before its batch with the largest micro-batch, that one's tokens, and the
-- mean tokens of a batch.
local function survey(loader, micro_tokens)
  local start, at, most, sum = loader:state(), nil, -1, 0
  local n = math.min(SEARCHED, loader:steps_per_epoch())
  for _ = 1, n do
    local before = loader:state()
    local batch <close> = loader:next()
    sum = sum + tokens_of(batch)
    for _, part in ipairs(batch:split { max_tokens = micro_tokens }) do
      if tokens_of(part) > most then at, most = before, tokens_of(part) end
    end
  end
  loader:restore(start)
  return { at = at, largest = most, mean = sum / n }
end

-- A loader whose first batch is the largest.
local function largest_first(loader, at)
  local calls, self = 0, {}
  function self.next()
    calls = calls + 1
    if calls > 1 then return loader:next() end
    local now = loader:state()
    loader:restore(at)
    local batch = loader:next()
    loader:restore(now)
    return batch
  end
  function self.state() return { loader = loader:state(), calls = calls } end
  function self.restore(_, s)
    loader:restore(s.loader)
    calls = s.calls
  end
  return setmetatable(self, { __index = loader })
end

-- ---- one training

-- How many steps to measure.
local function steps_to_measure(s, names, steps)
  if s.kind == "joint" then return math.min(steps, SERVED + 1) end
  if s.by_running then return math.min(steps, 3 * SERVED) end
  local left, served = {}, s.objectives or names
  for _, name in ipairs(served) do left[name] = SERVED end
  local n = 0
  for t = 0, math.min(steps, MOST_STEPS) - 1 do
    local name, waiting = s:at(t), false
    left[name] = left[name] and left[name] - 1
    n = t + 1
    for _, each in ipairs(served) do waiting = waiting or left[each] > 0 end
    if not waiting then break end
  end
  return n
end

-- Steps of each objective in the whole training; all of each where the schedule is joint. What only
-- running can tell is taken to be shared alike.
local function counts_of(s, names, steps)
  local counts = {}
  for _, name in ipairs(names) do counts[name] = s:count(name, steps) or steps / #names end
  return counts
end

-- The same without the steps that a fork's parent took.
local function counts_left(s, names, steps, done)
  local counts, before = counts_of(s, names, steps), counts_of(s, names, done)
  for _, name in ipairs(names) do counts[name] = counts[name] - before[name] end
  return counts
end

local function bytes_of(parameters)
  local sum = 0
  for _, p in ipairs(parameters) do sum = sum + p.tensor:bytes() end
  return sum
end

-- Bytes of each state by its name, masters of bf16 parameters and scratch of matrix steps among
-- them, and what 8-bit storage would take off.
local function states_of(optimizer)
  local scratch = optimizer:state_bytes().scratch
  local bytes, total, saved = { scratch = scratch }, scratch, 0
  for _, p in ipairs(optimizer.params) do
    for _, key in ipairs(check.keys(p.state)) do
      local s = p.state[key]
      local n = s.value:bytes() + (s.scales and s.scales:bytes() or 0)
      bytes[key], total = (bytes[key] or 0) + n, total + n
      if s.part ~= "master" and p.quantized and not s.scales then
        saved = saved + n - p.n - p.n // 64
      end
    end
  end
  return bytes, total, saved
end

-- What the reference will hold beyond what the measured steps made it hold.
local function reference_to_come(o, list, counts)
  local total = 0
  for _, objective in ipairs(list) do
    if objective.loss.needs.reference == "hidden" then
      local data, labels = objective.data, 0
      for _, sample in ipairs(data.samples) do labels = labels + sample.n_labels end
      local share = math.min(1, counts[objective.name] / data:steps_per_epoch())
      total = total + share * labels * o.model.config.hidden_size * 4
    end
  end
  return total > 0 and math.max(0, total + o.model:head():bytes() - o.reference:bytes()) or 0
end

local function note_peak(extra)
  state.peak = math.max(state.peak, memory().peak + (extra or 0))
  state.host = math.max(state.host, core.memory().peak)
  core.reset_peak()
end

-- What the process will have in memory: besides what the runtime counts, all that was measured here,
-- of Lua, of libraries, and free memory between blocks.
local function resident_peak()
  local beyond = math.max(0, core.memory().resident_peak - state.host)
  return (core.device() == "cpu" and state.peak or state.host) + beyond
end

local function chunk_bytes()
  local bytes = core.vocab_chunk(1)
  core.vocab_chunk(bytes)
  return bytes
end

-- The options of the measured steps: no evaluation, no files; the data in another order.
local function measured_options(given, s, names, steps, surveys)
  local o = {}
  for key, value in pairs(given) do o[key] = value end -- a copy: the order changes nothing
  for _, key in ipairs { "evaluate", "every", "stop", "keep_best", "checkpoint", "from", "run" } do
    o[key] = nil
  end
  o.steps, o.progress, o.objectives = steps_to_measure(s, names, steps), false, {}
  -- the schedule was asked to wait for evaluations; here it stays in its first phase
  if s.needs_result then o.evaluate, o.every = function() return {} end, steps + 1 end
  for i, objective in ipairs(given.objectives) do
    local copy = {}
    for key, value in pairs(objective) do copy[key] = value end
    copy.data = largest_first(objective.data, surveys[i].at)
    o.objectives[i] = copy
    if objective.loss.needs.reference and not o.reference then
      o.reference = reference.new(o.model)
    end
  end
  return o
end

-- Seconds of a step by objective: the mean of all but the first, which warms up.
local function stopwatch(o)
  local clock, first, times = core.clock(), {}, {}
  o.on_step = function(live)
    local name, now = live.objective or "joint", core.clock()
    local seconds = now - clock
    if first[name] then
      times[name] = times[name] or { 0, 0 }
      times[name][1], times[name][2] = times[name][1] + seconds, times[name][2] + 1
    end
    first[name] = first[name] or seconds
    clock = core.clock()
  end
  return function(name)
    local sum = times[name]
    return sum and sum[1] / sum[2] or first[name]
  end
end

local function extrapolate(fit, s, list, counts, surveys, seconds_of)
  fit.tokens, fit.seconds = 0, 0
  for i, objective in ipairs(list) do
    fit.tokens = fit.tokens + counts[objective.name] * surveys[i].mean
    if s.kind ~= "joint" then
      fit.seconds = fit.seconds + counts[objective.name] * (seconds_of(objective.name) or 0)
    end
  end
  if s.kind == "joint" then fit.seconds = fit.steps * (seconds_of "joint" or 0) end
end

local function measure(real_fit, given)
  if type(given) ~= "table" or type(given.objectives) ~= "table" or #given.objectives == 0
    or given.steps == nil or given.model == nil then
    return real_fit(given) -- which says what is wrong
  end
  local list, micro, surveys = given.objectives, given.micro_tokens or MICRO_TOKENS, {}
  local sizes = schedule.sizes(list)
  local s = schedule.from(given.schedule or schedule.joint())
  local steps = s:length(given.steps, sizes, "train.fit: steps")
  s = s:resolve(sizes)
  local done = given.from and math.min(given.from.step, steps) or 0
  local counts = counts_left(s, sizes.names, steps, done)
  for i, objective in ipairs(list) do surveys[i] = survey(objective.data, micro) end
  local o = measured_options(given, s, sizes.names, steps, surveys)
  local seconds_of = stopwatch(o)

  collectgarbage()
  note_peak()
  local before = memory().live
  local best = given.keep_best and o.model.parameters:snapshot()
  local result = real_fit(o)
  local fit = { label = given.label or "train", steps = steps - done, micro = micro, largest = 0,
    config = o.model.config } -- not the model: the recipe may let go of it
  local together = 0
  for _, each in ipairs(surveys) do
    fit.largest, together = math.max(fit.largest, each.largest), together + each.largest
  end
  if s.kind == "joint" and loss.shares_passes(o.model) then
    fit.largest = math.max(fit.largest, math.min(together, micro))
  end
  local more = reference_to_come(o, list, counts)
  fit.peak = memory().peak + more
  fit.gradients = core.memory((core.device())).at_peak.gradients -- backward makes them one by one
  note_peak(more)
  fit.parameters = bytes_of(o.model.parameters)
  fit.states, fit.state_bytes, fit.quantizable = states_of(result.optimizer)
  fit.scheme = result.optimizer.scheme.kind
  fit.held = before - fit.parameters
  fit.reference = more
  fit.best = best and fit.parameters or 0
  fit.microscope = given.microscope and 4 * o.model.parameters:trained():numel()
    * (3 + #list + (fit.scheme == "base_delta" and 1 or 0)) or 0
  local rest = fit.peak - before - more - fit.gradients - fit.state_bytes - fit.best - fit.microscope
  fit.logits = math.max(0, math.min(rest, chunk_bytes(),
    fit.largest * o.model:head():shape(1) * 4))
  fit.activations = math.max(0, rest - fit.logits)
  extrapolate(fit, s, list, counts, surveys, seconds_of)
  state.fits[#state.fits + 1] = fit
  state.seconds = state.seconds + fit.seconds
  local evaluated
  if given.evaluate then
    local clock = core.clock()
    evaluated = given.evaluate(o.model, steps)
    local times = given.every and steps // given.every or 0
    state.seconds = state.seconds + times * (core.clock() - clock)
  end
  return { steps = steps, losses = result.losses, stopped = false, tokens = fit.tokens,
    result = evaluated, best_step = given.keep_best and steps or nil, optimizer = result.optimizer,
    seconds = fit.seconds }
end

-- ---- evaluation

-- Asks the first rows of a set, once for a model's size.
local function evaluate_once(real, model, tok, set, options)
  local rows = type(set) == "table" and set.rows
  if not rows or #rows == 0 then return real(model, tok, set, options) end
  local key = ("%s/%s/%d/%d"):format(set.name, set.kind, #rows, bytes_of(model.parameters))
  collectgarbage() -- as the real one does
  local known = state.evaluated[key]
  if not known then
    local few, clock = {}, core.clock()
    for field, value in pairs(set) do few[field] = value end
    few.rows = table.move(rows, 1, math.min(#rows, ROWS), 1, {})
    note_peak()
    local before = memory().live
    local result = real(model, tok, few, options)
    known = { result = result, bytes = memory().peak - before,
      seconds = (core.clock() - clock) * #rows / #few.rows }
    state.evaluated[key] = known
    state.evaluation = math.max(state.evaluation, known.bytes)
  end
  state.peak = math.max(state.peak, memory().live + known.bytes)
  state.seconds, state.evaluations = state.seconds + known.seconds, state.evaluations + 1
  return known.result
end

-- ---- the command

local function nothing() end
local function no_path() return "" end

-- Nothing is written: not the run's folder, not the cache. What was never written has no lines.
local function write_nothing()
  local handle = { write = nothing, line = nothing, sync = nothing, close = nothing }
  local files = core.files
  files.write, files.remove = nothing, nothing
  files.mkdir = function() return true end
  files.append = function() return handle end
  files.lock = function() return setmetatable({}, { __close = nothing }) end
  core.safetensors.save = nothing
  local lines = json.lines
  json.lines = function(path) return files.exists(path) and lines(path) or nothing end
end

--- Puts the stand-ins in place. There is no way back: the process plans and ends.
function plan.start()
  local train, metrics = require "dopl.train", require "dopl.metrics"
  state = { fits = {}, peak = 0, host = 0, evaluated = {}, seconds = 0.0, evaluations = 0,
    evaluation = 0 }
  local real_fit, real_evaluate = train.fit, metrics.evaluate
  train.fit = function(options) return measure(real_fit, options) end
  metrics.evaluate = function(...) return evaluate_once(real_evaluate, ...) end
  report.write, report.table = no_path, nothing
  rawset(_G, "print", nothing)
  write_nothing()
  core.reset_peak()
end

local function mebibytes(n) return n / 2 ^ 20 end

local function duration(seconds)
  if seconds < 100 then return ("%.0f s"):format(seconds) end
  if seconds < 6000 then return ("%.0f min"):format(seconds / 60) end
  return ("%.1f h"):format(seconds / 3600)
end

local function fit_rows(fits)
  local rows = {}
  for i, f in ipairs(fits) do
    rows[i] = { label = f.label, steps = f.steps, tokens = math.floor(f.tokens + 0.5),
      time = duration(f.seconds), states = mebibytes(f.state_bytes),
      activations = mebibytes(f.activations), peak = mebibytes(f.peak) }
  end
  return rows
end

-- The memory of one training, by kind.
local function kind_rows(f)
  local rows = {}
  local function add(label, bytes)
    if bytes > 0 then
      rows[#rows + 1] = { label = label, MiB = mebibytes(bytes), share = 100 * bytes / f.peak }
    end
  end
  add("parameters", f.parameters)
  add("gradients, at the peak", f.gradients)
  for _, key in ipairs(check.keys(f.states)) do add("state " .. key, f.states[key]) end
  add("activations, at the peak", f.activations)
  add("chunk of logits", f.logits)
  add("reference, beyond the measured steps", f.reference)
  add("best weights", f.best)
  add("microscope", f.microscope)
  add("held by the recipe: copies, caches", f.held)
  add("peak", f.peak)
  return rows
end

-- What would make a training smaller, with how much.
local function advice(f)
  local list = {}
  local function add(bytes, text)
    if bytes >= 0.03 * f.peak then
      list[#list + 1] = ("  %-64s about %.1f MiB less"):format(text, mebibytes(bytes))
    end
  end
  local config = f.config
  add(f.activations / 2, ("micro_tokens = %d (the largest micro-batch has %d)"):format(
    math.max(1, f.largest // 2), f.largest))
  if config.checkpoint_layers == false and (config.n_layers or 1) > 2 then
    add(f.activations * (1 - 2 / config.n_layers),
      "checkpoint_layers = true in the model's config, for one more forward")
  end
  add(f.quantizable, "8-bit states: quantize in the scheme")
  add(f.states.master or 0, "weights = \"stochastic\" in the scheme, instead of an f32 master")
  if config.dtype == "f32" then
    add(f.parameters / 2, "dtype = \"bf16\" of the model, weights = \"stochastic\" in the scheme")
  end
  add(f.logits / 2, ("dopl.vocab_chunk(%d)"):format(f.logits // 2))
  add(f.microscope, "no microscope")
  add(f.best, "no keep_best")
  return list
end

local function largest(fits)
  local best = fits[1]
  for _, f in ipairs(fits) do
    if f.peak > best.peak then best = f end
  end
  return best
end

local function mib(key) return { key = key, label = key .. ", MiB", digits = 1 } end

--- What the plan came to.
-- @treturn table { fits =, peak = bytes, resident_peak = bytes of the process, seconds =, tokens =,
-- evaluations = how many, evaluation = bytes of the largest }
function plan.result()
  note_peak()
  local tokens = 0
  for _, f in ipairs(state.fits) do tokens = tokens + f.tokens end
  return { fits = state.fits, peak = state.peak, seconds = state.seconds, tokens = tokens,
    evaluations = state.evaluations, evaluation = state.evaluation,
    resident_peak = resident_peak() }
end

--- Prints the plan.
-- @tparam[opt] boolean failed whether the recipe ended early: what was measured is shown even so
function plan.finish(failed)
  local r = plan.result()
  if #r.fits == 0 then
    if not failed then
      print_now(("nothing is trained; peak memory %.1f MiB, resident %.1f MiB"):format(
        mebibytes(r.peak), mebibytes(r.resident_peak)))
    end
    return
  end
  if failed then print_now "up to where the recipe failed:\n" end
  print_now(report.text(fit_rows(r.fits), { head = "training",
    columns = { "steps", "tokens", "time", mib "states", mib "activations", mib "peak" } }))
  local f = largest(r.fits)
  print_now(report.text(kind_rows(f), { head = ("memory of '%s'"):format(f.label),
    columns = { { key = "MiB", digits = 1 }, { key = "share", label = "%", digits = 0 } } }))
  print_now(("the whole recipe: peak memory %.1f MiB, %.0f tokens, %d evaluations of a set, about %s")
    :format(mebibytes(r.peak), r.tokens, r.evaluations, duration(r.seconds)))
  print_now(("resident at most: %.1f MiB%s, with what Lua and libraries take"):format(
    mebibytes(r.resident_peak), core.device() == "cpu" and "" or " of the host"))
  if r.evaluation > 0 then
    print_now(("an evaluation adds %.1f MiB to what is there, most of it keys and values of generation")
      :format(mebibytes(r.evaluation)))
  end
  local list = advice(f)
  if #list > 0 then
    print_now(("\nwhat would make '%s' smaller:\n%s"):format(f.label, table.concat(list, "\n")))
  end
end

return plan
