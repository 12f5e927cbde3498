--- run/plan.lua - what a recipe will need, before it runs: `./dopl --plan recipe.lua`.
--
-- The recipe itself runs while it is measured (dopl.util.measuring): training runs take a few real
-- steps,
-- evaluations ask the first rows of a set, and what would be written is discarded. So memory is
-- measured, with all that the recipe itself keeps, and time is extrapolated.
-- @module dopl.run.plan

local check = require "dopl.util.check"
local core = require "dopl.core"
local files = require "dopl.util.files"
local measuring = require "dopl.util.measuring"
local report = require "dopl.report"

local plan = {}

local print_now = print -- the recipe's own printing is silenced

--- Starts measuring. There is no way back: the process plans and ends.
function plan.start()
  files.discard()
  rawset(_G, "print", function() end) -- of the recipe and of what it calls
  measuring.start()
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
  add("diagnostics", f.diagnostics)
  add("held by the recipe: copies, caches", f.held)
  add("peak", f.peak)
  return rows
end

-- What would make a training run smaller, with how much.
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
  add(f.diagnostics, "no diagnostics")
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

--- What was measured.
-- @treturn table { fits =, peak = bytes, resident_peak = bytes of the process, seconds =, tokens =,
-- evaluations = how many, evaluation = bytes of the largest }
function plan.result()
  local r = measuring.recorder()
  r:note_peak()
  local tokens = 0
  for _, f in ipairs(r.fits) do tokens = tokens + f.tokens end
  return { fits = r.fits, peak = r.peak, seconds = r.seconds, tokens = tokens,
    evaluations = r.evaluations, evaluation = r.evaluation, resident_peak = r:resident_peak() }
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
