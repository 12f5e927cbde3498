--- A run is a folder: all that is needed to see what happened and to do it again.
--
--     recipe.lua      the recipe's text as it ran
--     params.json     its parameters, defaults filled in
--     run.json        versions, seed, threads, command, when it began and how it ended; one that
--                     says "running" and is not was killed
--     metrics.jsonl   one object a line, in the order of `run:log`; a crash loses nothing logged
--     report.html     and whatever else is written with `run:write`
--
-- The same recipe, parameters and seed give the same metrics.jsonl apart from `run.time_fields`.
-- @module dopl.run
local check = require("dopl.check")
local core = require("dopl.core")
local json = require("dopl.json")
local params = require("dopl.params")

local run = {}

--- Fields of a metrics row that measure time, and so differ between runs that are the same.
run.time_fields = {
  seconds = true, step_seconds = true, eval_seconds = true, time_left = true,
  tokens_per_second = true, samples_per_second = true, bytes_per_second = true,
}

local Run = { __name = "dopl.run" }
Run.__index = Run

-- Letters, digits and a few marks: what is safe in a name on any file system.
local function plain(name)
  return (name:gsub("[^%w_.+-]+", "-"):gsub("^[.-]+", ""):gsub("%-+$", ""))
end

local function recipe_name(options)
  local name = options.name
  if not name and options.recipe then
    name = options.recipe.path:match("([^/]+)$"):gsub("%.lua$", "")
  end
  name = plain(name or "run")
  return name ~= "" and name or "run"
end

-- What the command line says, where the caller does not.
local function from_command_line(options)
  local given = core.options or {}
  if options.out == nil and given.out ~= "runs" then options.out = given.out end
  options.versions = options.versions or core.versions
  for _, key in ipairs { "seed", "threads", "device" } do
    if options[key] == nil then options[key] = given[key] end
  end
  if options.command == nil and arg and arg[0] then
    options.command = table.move(arg, 0, #arg, 2, { "dopl" })
  end
  if options.recipe == nil and given.recipe then
    options.recipe = { path = given.recipe, text = core.files.read(given.recipe) }
  end
end

-- A folder nobody has: the name and the time, and a number where that is taken.
local function new_folder(name)
  local stem = ("runs/%s-%s"):format(name, os.date("%Y%m%d-%H%M%S"))
  local path, n = stem, 1
  while not core.files.mkdir(path) do
    n = n + 1
    path = ("%s-%d"):format(stem, n)
  end
  return path
end

-- The folder the user named. One that holds an older run is written over; others are not ours.
local function named_folder(path)
  if not core.files.mkdir(path) then
    local names = core.files.list(path) or {}
    if #names > 0 and not core.files.exists(path .. "/run.json") then
      error(("out: '%s' has files and is no run; name a new or an empty folder"):format(path), 3)
    end
  end
  return path
end

--- Opens a run folder and writes down how the run begins. What the command line says (--out, the
-- recipe, --seed, --threads, --device) need not be repeated.
-- @tparam table options
-- @tparam ?string options.out exactly this folder; without it runs/<name>-<date>-<time>
-- @tparam ?string options.name the recipe's file name where not given
-- @tparam ?table options.recipe { path =, text = }
-- @tparam ?table options.params resolved parameters; default: those of dopl.params
-- @tparam ?int options.seed
-- @tparam ?table options.versions default: dopl, Lua and oneDNN
-- @tparam ?int options.threads
-- @tparam ?string options.device
-- @tparam ?table options.command the command line, an array of strings
-- @treturn Run to be closed: `local r <close> = run.open { ... }`
function run.open(options)
  options = check.options("run", options, {
    out = check.optional, name = check.optional, recipe = check.optional, params = check.optional,
    seed = check.optional, versions = check.optional, threads = check.optional,
    device = check.optional, command = check.optional,
  })
  from_command_line(options)
  local name = recipe_name(options)
  local self = setmetatable({
    path = options.out and named_folder(options.out) or new_folder(name),
    name = name, rows = 0, clock = core.clock(),
  }, Run)
  self.about = {
    name = name, status = "running", started = os.date("!%Y-%m-%dT%H:%M:%SZ"), seed = options.seed,
    versions = options.versions, threads = options.threads, device = options.device,
    command = options.command and json.array(options.command),
    recipe = options.recipe and options.recipe.path,
  }
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n")
  local resolved = options.params or params.resolved() or {}
  self:write("params.json", json.encode(resolved, { indent = 2 }) .. "\n")
  if options.recipe and options.recipe.text then self:write("recipe.lua", options.recipe.text) end
  self:write("metrics.jsonl", "") -- of an older run in this folder
  self.metrics = core.files.append(self.path .. "/metrics.jsonl")
  return self
end

--- Appends a row to metrics.jsonl; on the disk's side when the call returns.
-- @tparam table row numbers, strings, booleans and tables of them; a NaN is written as null
function Run:log(row)
  check.type("run:log", row, "table")
  self.metrics:line(json.encode(row, { nan = "null" }))
  self.rows = self.rows + 1
end

--- Writes a file of the run, whole or not at all.
-- @tparam string name may lie in a folder of the run: "samples/joint.jsonl"
-- @tparam string text
-- @treturn string its path
function Run:write(name, text)
  for part in (name .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then
      error(("run:write: '%s': a name inside the run's folder is needed"):format(name), 2)
    end
  end
  local path = self.path .. "/" .. name
  local folder = path:match("^(.*)/")
  if folder ~= self.path then core.files.mkdir(folder) end
  core.files.write(path, text)
  return path
end

--- Writes rows as JSON Lines: the per-sample values behind a table.
-- @tparam string name
-- @tparam table rows
-- @treturn string its path
function Run:write_lines(name, rows)
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = json.encode(row, { nan = "null" }) .. "\n" end
  return self:write(name, table.concat(lines))
end

--- Seconds since the run was opened.
function Run:seconds()
  return core.clock() - self.clock
end

local function close(self, status, message)
  if self.about.status ~= "running" then return end
  self.about.status = status
  self.about.message = message
  self.about.seconds = self:seconds()
  self.about.rows = self.rows
  self.metrics:sync()
  self.metrics:close()
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n")
end

--- Writes down that the run ended well. A second call does nothing.
function Run:finish()
  close(self, "finished")
end

--- Writes down that the run failed, and why. After `finish` it does nothing.
-- @tparam string message
function Run:fail(message)
  close(self, "failed", tostring(message))
end

-- Leaving the scope of a run ends it; by an error it has failed. What goes wrong in writing that
-- down must not hide the error itself.
function Run:__close(message)
  if message ~= nil then pcall(self.fail, self, message) else self:finish() end
end

--- A row without its time fields: what two runs that are the same have in common.
-- @tparam table row
function run.without_times(row)
  local out = {}
  for _, key in ipairs(check.keys(row)) do
    if not run.time_fields[key] then out[key] = row[key] end
  end
  return out
end

--- Reads a run's folder back.
-- @tparam string path
-- @treturn table { about =, params =, metrics = { row, ... } }
function run.load(path)
  local out = {
    about = json.load(path .. "/run.json"), params = json.load(path .. "/params.json"),
    metrics = {},
  }
  for row in json.lines(path .. "/metrics.jsonl") do out.metrics[#out.metrics + 1] = row end
  return out
end

return run
