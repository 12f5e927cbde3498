--- run/profile.lua - time by operator.
--
--     do
--       local p <close> = dopl.profile()
--       train.fit { ... }
--       print(p)
--     end
--
-- `./dopl --profile recipe.lua` profiles a whole recipe. A row has the time of one operator, forward or
-- backward, or of an optimizer's pass, without the operators that it calls. The rest is "elsewhere":
-- Lua, files, text, waiting. On the CPU, times are the clock's. On a device they are the device's own,
-- from events around each kernel, product and copy. These are launched separately while a profile is
-- open, which slows the host but not the device. Only one profile can be open at a time.
-- @module dopl.run.profile

local check = require "dopl.util.check"
local core = require "dopl.core"
local report = require "dopl.report"

local profile = {}
local Profile = { __name = "dopl.profile" }
Profile.__index = Profile

local LEAST <const> = 0.001 -- share below which rows of a printed table are added up

--- Opens a profile; `dopl.profile()` does the same.
-- @treturn Profile to be closed: `local p <close> = dopl.profile()`
function profile.open()
  return setmetatable({ raw = core.profile() }, Profile)
end

-- Rows of the core and seconds since opening, or those from when it was closed.
local function read(self)
  if self.raw then return self.raw:read() end
  return self.found, self.seconds
end

--- Ends the profile and keeps its rows. A second call does nothing.
function Profile:close()
  local raw = self.raw
  if not raw then return end
  local read_well, found, seconds = pcall(raw.read, raw)
  self.raw = nil
  raw:close()
  self.found, self.seconds = read_well and found or {}, read_well and seconds or 0.0
  if not read_well then error(found, 0) end
end

-- The first error is raised, rather than another that it caused.
function Profile:__close(message)
  local closed, reason = pcall(self.close, self)
  if not closed and message == nil then error(reason, 0) end
end

-- The most seconds first; equal ones by name.
local function by_seconds(a, b)
  if a.seconds ~= b.seconds then return a.seconds > b.seconds end
  if a.name ~= b.name then return a.name < b.name end
  return a.part < b.part
end

-- Rows for operators, and the time that shares refer to. This is the elapsed time, except if device and
-- host computed at the same time, or the emulator invents times.
local function operators(self)
  local found, seconds = read(self)
  local rows, sum = {}, 0.0
  for _, row in ipairs(found) do
    if row.part ~= "launch" then
      rows[#rows + 1] = { name = row.name, part = row.part, device = row.device, calls = row.calls,
        seconds = row.seconds }
      sum = sum + row.seconds
    end
  end
  return rows, math.max(seconds, sum), sum, found
end

-- Without any time, shares are 0.
local function share(seconds, whole) return whole > 0 and seconds / whole or 0.0 end

--- The time of each operator. While the profile is open, the time so far; this waits for the device.
-- @treturn {{name=string,part=string,device=string,calls=int,seconds=number,share=number},...} part
-- is "forward", "backward" or "pass"; the most seconds first, then "elsewhere", which has neither
-- part, device nor calls. Shares add up to 1.
function Profile:rows()
  local rows, whole, sum = operators(self)
  table.sort(rows, by_seconds)
  rows[#rows + 1] = { name = "elsewhere", seconds = whole - sum }
  for _, row in ipairs(rows) do row.share = share(row.seconds, whole) end
  return rows
end

--- The time of each kernel, product and copy on a device, by the operator that launched it. Empty on
-- the CPU. These times are part of the operators' times.
-- @treturn {{name=string,operator=string,part=string,launches=int,seconds=number,share=number},...}
-- the most seconds first; without operator and part where none launched it
function Profile:launches()
  local _, whole, _, found = operators(self)
  local rows = {}
  for _, row in ipairs(found) do
    if row.part == "launch" then
      local by = found[row.within]
      rows[#rows + 1] = { name = row.name:match "^%((.*)%)$" or row.name,
        operator = by and by.name, part = by and by.part or "", launches = row.calls,
        seconds = row.seconds, share = share(row.seconds, whole) }
    end
  end
  table.sort(rows, by_seconds)
  for _, row in ipairs(rows) do row.part = row.operator and row.part or nil end
  return rows
end

-- ---- as text

local PERCENT <const> = { key = "share", label = "%", scale = 100, digits = 1 }

-- Rows of a table, with all small ones added up in one row.
local function shorten(rows, count)
  local kept, few, n = {}, { seconds = 0.0, share = 0.0, [count] = 0 }, 0
  for _, row in ipairs(rows) do
    if row.share >= LEAST or row.name == "elsewhere" then
      kept[#kept + 1] = row
    else
      n = n + 1
      for _, key in ipairs { "seconds", "share", count } do few[key] = few[key] + row[key] end
    end
  end
  if n < 2 then return rows end
  few.name = ("%d below %g%%"):format(n, 100 * LEAST)
  local at = rows[#rows].name == "elsewhere" and #kept or #kept + 1
  table.insert(kept, at, few)
  return kept
end

-- `first`: the columns before the times, one of them `count`.
local function lay_out(rows, head, first, count, each)
  local longest = 0.0
  for _, row in ipairs(rows) do
    row.label, row.each = row.name, row[count] and 1e6 * row.seconds / row[count] or nil
    longest = math.max(longest, row.seconds)
  end
  local unit = longest < 100 and { key = "seconds", label = "ms", scale = 1e3, digits = 2 }
    or { key = "seconds", label = "s", digits = 1 }
  local columns = table.move(first, 1, #first, 1, {})
  table.move({ unit, PERCENT, { key = "each", label = each, digits = 1 } }, 1, 3, #columns + 1, columns)
  return (report.text(rows, { head = head, columns = columns }):gsub("\n$", ""))
end

--- The rows as a table.
-- @treturn string
function Profile:text()
  local rows = shorten(self:rows(), "calls")
  for _, row in ipairs(rows) do row.part = row.part or "" end
  return lay_out(rows, "operator", { "part", "calls" }, "calls", "µs a call")
end

--- The launches as a table.
-- @treturn string
function Profile:launches_text()
  local rows = shorten(self:launches(), "launches")
  for _, row in ipairs(rows) do
    row.by = row.operator and ("%s, %s"):format(row.operator, row.part) or ""
  end
  return lay_out(rows, "kernel or product", { { key = "by", label = "operator" }, "launches" },
    "launches", "µs each")
end

Profile.__tostring = Profile.text

-- ---- --profile

local whole_recipe

--- For the command line: opens a profile.
function profile.start()
  whole_recipe = profile.open()
end

--- For the command line: closes it and writes its table to standard error, and for a device that of
-- the launches.
function profile.finish()
  local p = check.type("profile.finish", whole_recipe, "table")
  whole_recipe = nil
  p:close()
  local rows = p:rows()
  if #rows == 1 then
    core.note(("profile: no operator ran in %.1f s"):format(p.seconds))
    return
  end
  core.note(("\nprofile of %.1f s\n%s"):format(p.seconds, p:text()))
  if #p:launches() > 0 then core.note("\n" .. p:launches_text()) end
end

return setmetatable(profile, { __call = profile.open })
