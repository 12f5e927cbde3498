-- helper.lua - loaded by busted before any spec: after each spec file, every block of memory the C
-- core handed out must be back.
--
-- busted keeps the functions of files it is done with, and with them what they closed over, so they
-- are let go first. The count is taken when busted has put package.loaded back, which it does
-- between two files: whatever a library module kept goes with the module.
local busted = require "spec.busted"
local core = require "dopl.core"

local before  -- blocks at the start of the file that was last begun
local ended   -- that file's element, once it ended

local function nothing() end

local function forget(element)
  for _, child in ipairs(busted.context.children(element)) do
    forget(child)
    child.run = nothing
  end
  element.env = nil
end

local function count()
  collectgarbage()
  collectgarbage()
  core.scope():close() -- lets the tape drop what nothing can reach any more
  collectgarbage()
  return core.blocks()
end

local function check_last()
  local now, was, file = count(), before, ended
  before, ended = now, nil
  if file and now ~= was then
    busted.publish({ "error", "file" }, file, busted.context.parent(file),
      ("%d blocks of tensor memory leaked: %d before, %d after"):format(now - was, was, now),
      { short_src = file.name, currentline = 1, traceback = "" })
  end
end

busted.subscribe({ "file", "start" }, function()
  check_last()
  return nil, true
end)

busted.subscribe({ "file", "end" }, function(file)
  forget(file)
  ended = file
  return nil, true
end)

busted.subscribe({ "suite", "end" }, function()
  check_last()
  return nil, true
end, { priority = 1 })
