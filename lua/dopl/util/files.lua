--- util/files.lua - a mode of core.files in which nothing is written.
-- @module dopl.util.files

local core = require "dopl.core"

local files = {}

local discarding = false

local function nothing() end

--- From now on and in the whole process, what would be written is discarded, and locks and folders are
-- had for the asking. All writing goes through core.files and core.safetensors, a recipe's own too.
function files.discard()
  discarding = true
  local handle = { write = nothing, line = nothing, sync = nothing, close = nothing }
  core.files.write, core.files.remove, core.safetensors.save = nothing, nothing, nothing
  core.files.mkdir = function() return true end
  core.files.append = function() return handle end
  core.files.lock = function() return setmetatable({}, { __close = nothing }) end
end

--- Whether that mode is on: a file that a recipe has "written" may then be missing.
function files.discarding() return discarding end

return files
