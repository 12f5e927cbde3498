--- run/init.lua - A run is a folder: all that is needed to see what happened and to do it again.
--
--     recipe.lua      the recipe's text as it ran
--     params.json     its parameters, defaults filled in
--     run.json        versions, seed, threads, command, when it began and how it ended; one that
--                     says "running" where no process has the folder was interrupted (killed, or
--                     the disk was full); `parents`: what its trainings were forked from;
--                     `memory`: bytes at most, `peak` of the runtime and `resident_peak` in all
--     metrics.jsonl   one object a line, in the order of `run:log`; a crash loses nothing logged
--     checkpoints/    where trainings stand (dopl.train.checkpoint)
--     results/        what pieces of work came to (`run:once`)
--     report.html     and whatever else is written with `run:write`
--
-- The same recipe, parameters and seed give the same metrics.jsonl apart from `run.time_fields`.
--
-- A run that was ended early is gone on with by executing the recipe again (`--resume RUN`). What
-- it had finished is then taken from the folder, each piece together with the rows it had logged;
-- rows that are logged anew must be those that are there, and from the first that is not, the file
-- is cut back. `run.rows` counts the rows up to where the recipe is.
-- @module dopl.run
local check = require("dopl.util.check")
local core = require("dopl.core")
local fork = require("dopl.train.fork")
local json = require("dopl.util.json")
local older_run = require("dopl.run.older")
local params = require("dopl.run.params")
local sealed = require("dopl.util.sealed")

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

-- What the run's numbers depend on; of a device, what it is.
local function versions_here()
  local versions = {}
  for name, version in pairs(core.versions) do versions[name] = version end -- a copy
  local device, about = core.device()
  if device ~= "cpu" then versions[device] = about end
  return versions
end

-- What the command line says, where the caller does not.
local function from_command_line(options)
  local given = core.options or {}
  if options.out == nil and given.out ~= "runs" then options.out = given.out end
  options.versions = options.versions or versions_here()
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

-- The claim of a run on its folder; it ends with the process.
local function claim(path, what)
  local lock, holder, is_own = core.files.lock(path)
  if not lock then
    collectgarbage() -- one that was opened here and lost without an end
    lock, holder, is_own = core.files.lock(path)
  end
  if lock then return lock end
  if is_own then
    error(("%s %s: this run is open already; run:finish() ends it"):format(what, path), 3)
  end
  error(("%s %s: this run is under way%s; wait for it, or end it first"):format(what, path,
    math.type(holder) == "integer" and (" in process %d"):format(holder) or ""), 3)
end

local function now()
  return os.date("!%Y-%m-%dT%H:%M:%SZ")
end

local resumed_path -- --resume goes on with one run

-- Goes on with the run in a folder.
local function resume(options, path)
  if resumed_path then
    error("--resume: this recipe opens several runs, and only one can be gone on with", 3)
  end
  local about, wrong = json.read(path .. "/run.json")
  if type(about) ~= "table" or not about.name then
    error(("--resume %s: its run.json is damaged%s"):format(path, wrong and ": " .. wrong or ""), 3)
  end
  local lock = claim(path, "--resume")
  resumed_path = path
  local text = core.files.read(path .. "/recipe.lua")
  if options.recipe and text and options.recipe.text ~= text then
    error(("--resume %s: the recipe has changed since (the run's is %s/recipe.lua)"):format(path,
      path), 3)
  end
  for _, key in ipairs(check.keys(options.versions or {})) do
    local was = about.versions and about.versions[key]
    if was ~= options.versions[key] then
      core.note(("--resume %s: it began with %s %s, this is %s; numbers may differ"):format(path,
        key, tostring(was), tostring(options.versions[key])))
    end
  end
  local self = setmetatable({ path = path, name = about.name, rows = 0, names = {}, resumed = true,
    clock = core.clock() - (about.seconds or 0), about = about, old = {}, lock = lock }, Run)
  local metrics = core.files.read(path .. "/metrics.jsonl") or ""
  for line in metrics:gmatch("([^\n]*)\n") do self.old[#self.old + 1] = line end
  local whole = metrics:match("^.*\n") or ""
  if whole ~= metrics then self:write("metrics.jsonl", whole) end -- without the half line
  about.status, about.message = "running", nil
  about.resumed = json.array(about.resumed or {})
  about.resumed[#about.resumed + 1] = now()
  self:write("run.json", json.encode(about, { indent = 2 }) .. "\n")
  return self
end

-- What is forked from, and folders whose older run is to be written over, by resolved path.
local parents, replacing = {}, {}

local function refuse_parent(path, level)
  error(("out: %s is what this run goes on from, and would be written over; name another folder")
    :format(path), level + 1)
end

-- Writes down how the run begins. Where it takes an older run's folder, that run is left as it is
-- until there is something to write: by then a recipe has said what it goes on from.
local function begin(self)
  local text = self.to_begin
  if not text then return end
  self.to_begin, replacing[core.files.resolve(self.path)] = nil, nil
  older_run.remove(self.path)
  self:write("params.json", text.params)
  if text.recipe then self:write("recipe.lua", text.recipe) end
  self:write("metrics.jsonl", "")
  self.metrics = core.files.append(self.path .. "/metrics.jsonl")
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n") -- --resume needs no more
end

local OPEN <const> = check.fields("run.open", {
  out = { type = "string", shown = "runs/<name>-<date>-<time>", "exactly this folder; the results of "
    .. "another recipe, or with other parameters, are not overwritten" },
  name = { type = "string", shown = "the recipe's file name", "what the run is called" },
  recipe = { type = "table", shown = "the recipe", "{ path =, text = }" },
  params = { type = "table", shown = "those of dopl.params", "resolved parameters" },
  seed = { type = "integer", shown = "--seed", "seed of all random numbers" },
  versions = { type = "table", shown = "of dopl, Lua and oneDNN", "versions of what computes" },
  threads = { type = "integer", shown = "--threads", "threads that compute" },
  device = { type = "string", shown = "--device", "the device" },
  command = { type = "list", shown = "the command line", "the command line, an array of strings" },
})

--- Opens a run folder and writes down how the run begins. What the command line says (--out, the
-- recipe, --seed, --threads, --device) need not be repeated. With --resume RUN it goes on with that
-- run.
-- @tparam[opt] table options
-- @treturn Run to be closed: `local r <close> = run.open { ... }`
function run.open(options)
  options = check.options(OPEN, options)
  from_command_line(options)
  local old = core.options and core.options.resume or ""
  if old ~= "" then return resume(options, old) end
  local name = recipe_name(options)
  local resolved = options.params or params.resolved() or {}
  local path, older = options.out, false
  if path then older = older_run.is_in(path) else path = new_folder(name) end
  local real = core.files.resolve(path)
  if parents[real] or older and older_run.is_named(real, resolved) then refuse_parent(path, 2) end
  local self = setmetatable({ path = path, name = name, rows = 0, clock = core.clock(), names = {},
    resumed = false, lock = claim(path, "--out") }, Run)
  self.to_begin = { recipe = options.recipe and options.recipe.text,
    params = json.encode(resolved, { indent = 2 }) .. "\n" }
  local other = older and older_run.difference(path, self.to_begin)
  if other then
    local _ <close> = self.lock
    error(("out: %s holds what another run came to (%s), and would be written over; name another "
      .. "folder, or remove this one first"):format(path, other), 2)
  end
  self.about = {
    name = name, status = "running", started = now(), seed = options.seed,
    versions = options.versions, threads = options.threads, device = options.device,
    command = options.command and json.array(options.command),
    recipe = options.recipe and options.recipe.path,
  }
  if older then replacing[real] = true else begin(self) end
  return self
end

--- Where a training of another run stood, for `from` of train.fit and bench:compare: it goes on from
-- there under another schedule or optimizer. See dopl.train.fork.
-- @tparam table options run = the parent's folder; label of its training, where it has several; step
-- (default: the newest checkpoint); states = "all": every state must fit, "fitting": those that do not
-- begin at zero or are dropped, "none": all begin at zero; data = "continue" or "anew"
-- @treturn Fork
function run.fork(options)
  local from = type(options) == "table" and type(options.run) == "string"
    and core.files.resolve(options.run)
  if from and replacing[from] then refuse_parent(options.run, 2) end
  local found = fork.open(options, plain)
  parents[from] = true
  return found
end

--- Writes down that a training of this run began where one of another stood.
-- @tparam table parent training, run, checkpoint, step, hash
function Run:descends(parent)
  begin(self)
  local list = json.array(self.about.parents or {})
  for _, known in ipairs(list) do -- of a run that is gone on with
    if known.training == parent.training and known.hash == parent.hash then return end
  end
  list[#list + 1] = parent
  self.about.parents = list
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n")
end

-- ---- metrics

-- Leaves what the run had logged before it was resumed: from here on rows are appended.
local function leave_old(self)
  if not self.old then return end
  local kept = table.concat(self.old, "\n", 1, self.rows) .. (self.rows > 0 and "\n" or "")
  self.old = nil
  self:write("metrics.jsonl", kept)
  self.metrics = core.files.append(self.path .. "/metrics.jsonl")
end

local function timeless(text)
  return json.encode(run.without_times(json.decode(text)))
end

-- Whether the row is the next of those that are there.
local function is_old(self, text)
  local line = self.old and self.old[self.rows + 1]
  if not line then return false end
  local ok, was = pcall(timeless, line)
  return ok and was == timeless(text)
end

--- Appends a row to metrics.jsonl; on the disk's side when the call returns.
-- @tparam table row numbers, strings, booleans and tables of them; a NaN is written as null
function Run:log(row)
  check.type("run:log", row, "table")
  local text = json.encode(row, { nan = "null" })
  begin(self)
  if not is_old(self, text) then
    leave_old(self)
    self.metrics:line(text)
  end
  self.rows = self.rows + 1
end

--- Makes sure that what was logged is on the disk.
function Run:sync()
  if self.metrics then self.metrics:sync() end
end

--- Whether a resumed run has the rows up to number `to`, so that work which logged them can be
-- taken as done.
function Run:has(to)
  return self.old ~= nil and to >= self.rows and to <= #self.old
end

--- Goes on behind row number `to`.
function Run:skip(to)
  self.rows = to
end

-- ---- work that is done once

-- A name for a file, the same in each execution of the recipe.
local function name_for(self, kind, label)
  local name, n = plain(check.type("run: label", label, "string", 5)), 1
  if name == "" then name = "unnamed" end
  local stem = name
  while self.names[kind .. "/" .. name] do
    n = n + 1
    name = ("%s.%d"):format(stem, n)
  end
  self.names[kind .. "/" .. name] = true
  return ("%s/%s"):format(kind, name)
end

--- A folder of the run for something with a label; the second of the same label gets another.
-- @tparam string kind "checkpoints"
-- @tparam string label
function Run:folder(kind, label)
  begin(self)
  return self.path .. "/" .. name_for(self, kind, label)
end

--- Does a piece of work and writes down what it returns, or, in a resumed run which had finished it,
-- takes that.
-- @tparam string label
-- @tparam function work returns a table of plain values; may log rows and write files
-- @treturn table
function Run:once(label, work)
  begin(self)
  local path = self.path .. "/" .. name_for(self, "results", label) .. ".json"
  local from = self.rows
  if self.old and core.files.exists(path) then
    local done, reason = sealed.load(path)
    if done and done.label == label and done.from == from and self:has(done.to) then
      self:skip(done.to)
      return done.value
    elseif not done then
      core.note(("result refused: %s; it is worked out again"):format(reason))
    end
  end
  local value = work()
  self:sync()
  core.files.mkdir(self.path .. "/results")
  sealed.save(path, { label = label, from = from, to = self.rows, value = value })
  return value
end

-- ---- files

--- Writes a file of the run, whole or not at all.
-- @tparam string name may lie in a folder of the run: "samples/joint.jsonl"
-- @tparam string text
-- @treturn string its path
function Run:write(name, text)
  check.type("run:write: name", name, "string")
  check.type("run:write: text", text, "string")
  for part in (name .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then
      error(("run:write: '%s': a name inside the run's folder is needed"):format(name), 2)
    end
  end
  begin(self)
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

-- The command that goes on with the run.
local function resume_command(self)
  local words, given, i = { "dopl" }, rawget(_G, "arg") or {}, -1
  while given[i] do
    if given[i] == "--trust" then words[2] = "--trust" end
    i = i - 1
  end
  for _, word in ipairs { self.about.recipe, "--resume", self.path } do
    if word:find "[^%w_/.,:=+-]" then word = "'" .. word:gsub("'", "'\\''") .. "'" end
    words[#words + 1] = word
  end
  return table.concat(words, " ")
end

-- The most memory there was, of the run's processes where it was resumed.
local function peaks(before)
  local memory, most = core.memory(), {}
  for _, key in ipairs { "peak", "resident_peak" } do
    most[key] = math.max(memory[key], before and before[key] or 0)
  end
  return most
end

-- How the run ended is written down even where its last rows cannot be.
local function close(self, status, message)
  if self.about.status ~= "running" then return end
  local _ <close> = self.lock
  if self.to_begin and status ~= "finished" then -- the older run stays
    self.about.status, replacing[core.files.resolve(self.path)] = status, nil
    return
  end
  begin(self)
  if status == "finished" then leave_old(self) end -- else what is there is gone on with
  self.about.status = status
  self.about.message = message
  self.about.seconds = self:seconds()
  self.about.rows = self.rows
  self.about.memory = peaks(self.about.memory)
  local kept, reason = pcall(self.sync, self)
  if self.metrics then self.metrics:close() end
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n")
  if not kept then error(reason, 0) end
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
  if message ~= nil and core.stop and core.stop.asked() then
    if self.about.recipe and not self.to_begin then core.note("to go on: " .. resume_command(self)) end
    pcall(close, self, "stopped")
  elseif message ~= nil then
    pcall(self.fail, self, message)
  else
    self:finish()
  end
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
-- @treturn table { about =, params =, metrics = { row, ... } }; without the last row where the run
-- was killed while it was written; about.status is "interrupted" where it says that the run goes on
-- and no process has the folder
function run.load(path)
  check.type("run.load: folder", path, "string")
  local function fields_of(name)
    local value, reason = json.read(path .. "/" .. name)
    if type(value) == "table" then return value end
    error(reason or ("%s/%s is damaged: it holds no fields"):format(path, name), 3)
  end
  local out = { about = fields_of "run.json", params = fields_of "params.json", metrics = {} }
  if out.about.status == "running" and not core.files.locked(path) then
    out.about.status = "interrupted"
  end
  local file = path .. "/metrics.jsonl"
  local text, reason = core.files.read(file)
  if not text then error(reason, 2) end
  local whole = text:match "^.*\n" or ""
  local n = 0
  for line in whole:gmatch "([^\n]*)\n" do
    n = n + 1
    local where = ("%s:%d"):format(file, n)
    local ok, row = pcall(json.decode, line ~= "" and line or "null", where)
    if not ok then -- by the file's line and column, of no line of Lua
      local text_at = row:find(where .. ":1:", 1, true)
      error(text_at and where .. row:sub(text_at + #where + 2) or row, 2)
    end
    if line ~= "" then out.metrics[#out.metrics + 1] = row end
  end
  return out
end

return run
