-- folder.lua - a fresh folder for a spec, and the text of errors.
local shell = require "spec.cli.shell"

local folder = {}

-- A new, empty folder.
function folder.new()
  local path = os.tmpname()
  os.remove(path)
  shell.sh("mkdir " .. shell.quote(path))
  return path
end

function folder.remove(path)
  shell.sh("rm -rf " .. shell.quote(path))
end

-- Names in a folder, hidden ones too, in order.
function folder.names(path)
  local _, out = shell.sh("LC_ALL=C ls -A " .. shell.quote(path))
  return (out:gsub("\n", " "):gsub(" $", ""))
end

-- What all files below a path hold, as one text.
function folder.content(path)
  local _, out = shell.sh(("cd %s && find . -type f | LC_ALL=C sort | xargs sha256sum"):format(
    shell.quote(path)))
  return out
end

-- The message of a call that must fail.
function folder.message(f, ...)
  local ok, message = pcall(f, ...)
  assert(not ok, "the call succeeded")
  return tostring(message)
end

return folder
