-- shell.lua - runs programs for the specs of the command line.
local shell = {}

shell.dopl = os.getenv "DOPL" or "build/dopl"
shell.build = os.getenv "DOPL_BUILD" or "build"

function shell.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

function shell.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

function shell.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

-- Runs a command line; returns its exit status, standard output and standard error.
function shell.sh(command)
  local out, err = os.tmpname(), os.tmpname()
  local _, kind, status = os.execute(("( %s ) >%s 2>%s"):format(command, out, err))
  local text_out, text_err = shell.read(out), shell.read(err)
  os.remove(out)
  os.remove(err)
  return kind == "signal" and 128 + status or status, text_out, text_err
end

-- Runs dopl with arguments.
function shell.run(...)
  local words = { shell.quote(shell.dopl) }
  for _, word in ipairs { ... } do words[#words + 1] = shell.quote(word) end
  return shell.sh(table.concat(words, " ") .. " </dev/null")
end

-- Runs Lua text as a recipe in a temporary file, with arguments.
function shell.recipe(text, ...)
  local path = os.tmpname()
  shell.write(path, text)
  local status, out, err = shell.run(path, ...)
  os.remove(path)
  return status, out, err
end

return shell
