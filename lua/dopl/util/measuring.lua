--- util/measuring.lua - the mode in which a recipe is measured for a plan, and what was measured.
--
-- `./dopl --plan` starts it (dopl.run.plan). While it is on, train.fit takes a few real steps instead
-- of all (dopl.train.measure), metrics.evaluate asks the first rows of a set (dopl.metrics.measure),
-- and reports are not written. Each reports to the recorder what it used.
-- @module dopl.util.measuring

local core = require "dopl.core"

local measuring = {}
local Recorder = {}
Recorder.__index = Recorder

local current -- the recorder, while the mode is on

--- Turns the mode on, for the rest of the process.
-- @treturn Recorder
function measuring.start()
  current = setmetatable({ fits = {}, peak = 0, host = 0, evaluated = {}, seconds = 0.0,
    evaluations = 0, evaluation = 0 }, Recorder)
  core.reset_peak()
  return current
end

--- The recorder, or nil where nothing is measured.
function measuring.recorder() return current end

--- Memory where numbers live: the device's, or the runtime's on the CPU.
function measuring.memory()
  local device = core.device()
  return core.memory(device ~= "cpu" and device or nil)
end

--- Takes the peak of memory since the last time.
-- @tparam[opt=0] integer extra bytes that the whole recipe would have beside it
function Recorder:note_peak(extra)
  self.peak = math.max(self.peak, measuring.memory().peak + (extra or 0))
  self.host = math.max(self.host, core.memory().peak)
  core.reset_peak()
end

--- What the process will have in memory: besides what the runtime counts, all that was measured here,
-- of Lua, of libraries, and free memory between blocks.
function Recorder:resident_peak()
  local beyond = math.max(0, core.memory().resident_peak - self.host)
  return (core.device() == "cpu" and self.peak or self.host) + beyond
end

--- Adds a training run. Its seconds are those of the whole.
function Recorder:add_fit(fit)
  self.fits[#self.fits + 1] = fit
  self.seconds = self.seconds + fit.seconds
end

--- Adds seconds of the whole recipe.
function Recorder:add_seconds(seconds) self.seconds = self.seconds + seconds end

--- Adds an evaluation of a set.
-- @tparam table known bytes it takes beside what is there, and seconds
function Recorder:add_evaluation(known)
  self.peak = math.max(self.peak, measuring.memory().live + known.bytes)
  self.seconds, self.evaluations = self.seconds + known.seconds, self.evaluations + 1
  self.evaluation = math.max(self.evaluation, known.bytes)
end

return measuring
