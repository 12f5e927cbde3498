--- train/checkpoint.lua - the state of a training run on disk, complete or not there.
--
-- A checkpoint is two files in the folder of the training run:
--
--     step-000050.safetensors   weight.<parameter>, state.<optimizer state>, best.<parameter>,
--                               diagnostics.<tensor>; 8-bit states as their codes and scales
--     step-000050.json          the rest: counters, positions in the data, losses, best score, and
--                               hash and length of the other file
--
-- Each file is written under another name, synced and renamed; the JSON comes last. A pair with a part
-- that is missing, truncated or changed is refused with the reason, and the previous pair is used. When
-- a training run has ended, `done` replaces its steps: it holds the final weights and the result of
-- train.fit. Checkpoints kept by `stay` remain, so that other runs can fork from them (dopl.run.fork).
--
-- (The function dopl.checkpoint, which trades time for memory, is dopl.nn's.)
-- @module dopl.train.checkpoint

local core = require "dopl.core"
local sealed = require "dopl.util.sealed"

local DONE <const> = "done"
local checkpoint = { done = DONE } -- the name of the checkpoint written at the end

--- Writes a checkpoint: see dopl.train.state for what it holds.
-- @tparam string folder made where it is missing
-- @tparam string name "step-000050"
-- @tparam table tensors by name
-- @tparam table about plain values
function checkpoint.save(folder, name, tensors, about)
  core.files.mkdir(folder)
  local path = ("%s/%s"):format(folder, name)
  core.safetensors.save(path .. ".safetensors", tensors)
  local hash, bytes = core.files.hash(path .. ".safetensors")
  if not hash then error(bytes, 0) end
  sealed.save(path .. ".json", { about = about, tensors = { hash = hash, bytes = bytes } })
end

-- Diagnostics were called "microscope" in checkpoints of older versions.
local function take_old_names(about, tensors)
  if about.microscope == nil then return end
  about.diagnostics, about.microscope = about.microscope, nil
  about.live.diagnostics, about.live.microscope = about.live.microscope, nil
  local old = {}
  for name in pairs(tensors) do old[#old + 1] = name:match "^microscope%..*$" end
  for _, name in ipairs(old) do
    tensors[name:gsub("^microscope", "diagnostics")], tensors[name] = tensors[name], nil
  end
end

--- Reads a checkpoint.
-- @treturn ?table { name, about, tensors, hash of the tensors' file }; nil where it is not whole
-- @treturn ?string why
function checkpoint.load(folder, name)
  local path = ("%s/%s"):format(folder, name)
  local file, reason = sealed.load(path .. ".json")
  if not file then return nil, reason end
  path = path .. ".safetensors"
  local hash, bytes = core.files.hash(path)
  if not hash then return nil, bytes end
  if bytes ~= file.tensors.bytes then
    return nil, ("%s has %d bytes, %d were written"):format(path, bytes, file.tensors.bytes)
  end
  if hash ~= file.tensors.hash then
    return nil, path .. " is damaged: its content is not what was written"
  end
  local tensors = core.safetensors.load(path)
  take_old_names(file.about, tensors)
  return { name = name, about = file.about, tensors = tensors, hash = hash }
end

--- Names of the checkpoints in a folder, newest first; whether they are whole is not looked at.
function checkpoint.names(folder)
  local steps, names = {}, {}
  for _, file in ipairs(core.files.list(folder) or {}) do
    local name = file:match "^(.+)%.json$"
    local step = name == DONE and math.huge or name and tonumber(name:match "^step%-(%d+)$")
    if step then
      names[#names + 1] = name
      steps[name] = step
    end
  end
  table.sort(names, function(a, b) return steps[a] > steps[b] end)
  return names
end

--- The newest checkpoint that is whole. What is refused is said.
-- @tparam string folder
-- @tparam[opt] function fits(about) false: not this one, the one before
-- @treturn ?table { name, about, tensors }
function checkpoint.latest(folder, fits)
  for _, name in ipairs(checkpoint.names(folder)) do
    local found, reason = checkpoint.load(folder, name)
    if found and (not fits or fits(found.about)) then return found end
    if not found then
      core.note(("checkpoint refused: %s; taking the one before it, if there is one")
        :format(reason))
    end
  end
end

--- Removes a checkpoint.
function checkpoint.remove(folder, name)
  for _, ending in ipairs { ".json", ".safetensors" } do -- a JSON alone would be refused aloud
    local path = ("%s/%s%s"):format(folder, name, ending)
    if core.files.exists(path) then core.files.remove(path) end
  end
end

-- Whether a file is a part of a checkpoint, or of one whose writing broke off.
local function is_ours(file)
  local name = file:match "^%.?([^.]+)%.json" or file:match "^%.?([^.]+)%.safetensors"
  return name == DONE or name ~= nil and name:find "^step%-%d+$" ~= nil
end

--- Removes all but the newest checkpoints, and what broken-off writing left. Other files stay.
-- @tparam string folder
-- @tparam integer keep how many stay
function checkpoint.prune(folder, keep)
  local kept = {}
  for i, name in ipairs(checkpoint.names(folder)) do
    if i <= keep then kept[name .. ".json"], kept[name .. ".safetensors"] = true, true end
  end
  for _, file in ipairs(core.files.list(folder) or {}) do -- of a pair the JSON first
    if is_ours(file) and not kept[file] then core.files.remove(folder .. "/" .. file) end
  end
end

return checkpoint
