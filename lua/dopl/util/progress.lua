--- util/progress.lua - the line that shows how far long work is.
--
-- On a terminal one line is written over; elsewhere a line comes out every tenth of the way, so that
-- a log file stays readable.
-- @module dopl.util.progress

local core = require "dopl.core"

local progress = {}
local Line = {}
Line.__index = Line

local function duration(seconds)
  if seconds < 100 then return ("%.0fs"):format(seconds) end
  if seconds < 6000 then return ("%dm%02ds"):format(seconds // 60, math.floor(seconds % 60)) end
  return ("%dh%02dm"):format(seconds // 3600, math.floor(seconds % 3600 // 60))
end

--- Starts a progress line.
-- @tparam string label
-- @tparam integer steps in all
-- @tparam boolean on false: print nothing
-- @treturn Line to be closed, which clears it: `local line <close> = progress.new(...)`
function progress.new(label, steps, on)
  return setmetatable({ label = label, steps = steps, on = on, began = core.clock(), tokens = 0,
    terminal = core.terminal(), shown = 0, tenth = 0 }, Line)
end

local function text_of(self, step, detail)
  local elapsed = core.clock() - self.began
  local left = elapsed / step * (self.steps - step)
  local parts = { ("%s %d/%d"):format(self.label, step, self.steps), detail }
  if self.tokens > 0 and elapsed > 0 then
    parts[#parts + 1] = ("%.0f tokens/s"):format(self.tokens / elapsed)
  end
  parts[#parts + 1] = duration(left) .. " left"
  return table.concat(parts, "  ")
end

local function show(self, step, detail)
  if self.terminal then
    local now = core.clock()
    if now - self.shown < 0.1 and step < self.steps then return end
    self.shown = now
    local _, width = core.terminal()
    local text = core.visible(text_of(self, step, detail)):sub(1, (width or 80) - 1)
    while not utf8.len(text) do text = text:sub(1, -2) end -- no half of a character at the end
    core.status(text)
    return
  end
  local tenth = step * 10 // math.max(1, self.steps)
  -- quick work needs no log
  if tenth == self.tenth or core.clock() - self.began < 5 then return end
  self.tenth = tenth
  core.note(text_of(self, step, detail))
end

--- After a training step.
-- @tparam integer step
-- @tparam table losses by objective
-- @tparam {string,...} names of the objectives, in order
-- @tparam integer tokens of this step
function Line:step(step, losses, names, tokens)
  self.tokens = self.tokens + tokens
  if not self.on then return end
  local parts = {}
  for _, name in ipairs(names) do
    if losses[name] then parts[#parts + 1] = ("%s %.4f"):format(name, losses[name]) end
  end
  show(self, step, table.concat(parts, "  "))
end

--- After a piece of other work.
-- @tparam integer step
-- @tparam[opt=""] string detail
function Line:at(step, detail)
  if self.on then show(self, step, detail or "") end
end

function Line:close()
  if self.on and self.terminal then core.status("") end
end

Line.__close = Line.close

return progress
