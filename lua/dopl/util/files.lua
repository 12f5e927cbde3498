--- util/files.lua - a mode of core.files in which nothing is written.
-- @module dopl.util.files

local core = require "dopl.core"

local files = {}

local discarding = false

local function nothing() end

--- From now on the process discards what it would write, and making folders and locks always succeeds.
-- All writing goes through core.files and core.safetensors, that of recipes too.
function files.discard()
  discarding = true
  local handle = { write = nothing, line = nothing, sync = nothing, close = nothing }
  core.files.write, core.files.remove, core.safetensors.save = nothing, nothing, nothing
  core.files.mkdir = function() return true end
  core.files.append = function() return handle end
  core.files.lock = function() return setmetatable({}, { __close = nothing }) end
end

--- Whether that mode is on. A file that was "written" is then missing.
function files.discarding() return discarding end

return files
