--- metrics/measure.lua - metrics.evaluate while a recipe is measured: the first rows of a set, once.
-- @module dopl.metrics.measure

local core = require "dopl.core"
local measuring = require "dopl.util.measuring"

local measure = {}

local ROWS <const> = 64 -- one batch of generation

local function bytes_of(parameters)
  local sum = 0
  for _, p in ipairs(parameters) do sum = sum + p.tensor:bytes() end
  return sum
end

-- Evaluates the first rows of a set.
local function evaluate_few(recorder, evaluate, model, tok, set, options)
  local few, clock = {}, core.clock()
  for field, value in pairs(set) do few[field] = value end -- a copy: the order changes nothing
  few.rows = table.move(set.rows, 1, math.min(#set.rows, ROWS), 1, {})
  recorder:note_peak()
  local before = measuring.memory().live
  local result = evaluate(model, tok, few, options)
  return { result = result, bytes = measuring.memory().peak - before,
    seconds = (core.clock() - clock) * #set.rows / #few.rows }
end

--- Stands for an evaluation.
-- @tparam Recorder recorder
-- @tparam function evaluate the real one
-- @treturn table what it returned for the first rows
function measure.evaluate(recorder, evaluate, model, tok, set, options)
  local rows = type(set) == "table" and set.rows
  if not rows or #rows == 0 then return evaluate(model, tok, set, options) end
  local key = ("%s/%s/%d/%d"):format(set.name, set.kind, #rows, bytes_of(model.parameters))
  collectgarbage() -- as the real one does
  local known = recorder.evaluated[key]
  if not known then
    known = evaluate_few(recorder, evaluate, model, tok, set, options)
    recorder.evaluated[key] = known
  end
  recorder:add_evaluation(known)
  return known.result
end

return measure
