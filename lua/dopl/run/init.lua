--- run/init.lua - the folder of a run, with all that is needed to read and repeat it.
--
--     recipe.lua      the recipe's text as it ran
--     params.json     its parameters, defaults filled in
--     run.json        versions, seed, threads, command, start time, final status; "running" without a
--                     process that uses the folder means interrupted (killed, or the disk was full);
--                     `parents`: the checkpoints it was forked from;
--                     `memory`: peak bytes, of the runtime (`peak`) and the process (`resident_peak`)
--     metrics.jsonl   one object per line, in the order of `run:log`; a crash loses nothing logged
--     checkpoints/    of its training runs (dopl.train.checkpoint)
--     results/        the results of finished pieces of work (`run:once`)
--     report.html     and all other files that `run:write` writes
--
-- The same recipe, parameters and seed give the same metrics.jsonl apart from `run.time_fields`.
--
-- To resume a run, dopl executes the recipe again (`--resume RUN`). It takes each finished piece of
-- work from the folder, with the rows it logged. A row that is logged again must equal the old row; at
-- the first difference the file is cut back. `run.rows` counts the rows up to the recipe's position.
-- @module dopl.run
local check = require("dopl.util.check")
local core = require("dopl.core")
local fork = require("dopl.train.fork")
local json = require("dopl.util.json")
local older_run = require("dopl.run.older")
local params = require("dopl.run.params")
local sealed = require("dopl.util.sealed")

local run = {}

--- Fields of a metrics row that measure time. They differ between runs that are otherwise the same.
run.time_fields = {
  seconds = true, step_seconds = true, eval_seconds = true, time_left = true,
  tokens_per_second = true, samples_per_second = true, bytes_per_second = true,
}

local Run = { __name = "dopl.run" }
Run.__index = Run

-- Only letters, digits and a few marks, which are safe in names on any file system.
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

-- The versions that the run's numbers depend on, and the device.
local function versions_here()
  local versions = {}
  for name, version in pairs(core.versions) do versions[name] = version end -- a copy
  local device, about = core.device()
  if device ~= "cpu" then versions[device] = about end
  return versions
end

-- Options from the command line, unless the caller gives them.
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

-- A new folder: the name and the time, and a number if that is taken.
local function new_folder(name)
  local stem = ("runs/%s-%s"):format(name, os.date("%Y%m%d-%H%M%S"))
  local path, n = stem, 1
  while not core.files.mkdir(path) do
    n = n + 1
    path = ("%s-%d"):format(stem, n)
  end
  return path
end

-- The lock of a run on its folder. It ends with the process.
local function claim(path, what)
  local lock, holder, is_own = core.files.lock(path)
  if not lock then
    collectgarbage() -- frees the lock of a run that this process lost without ending it
    lock, holder, is_own = core.files.lock(path)
  end
  if lock then return lock end
  if is_own then
    error(("%s %s: this run is already open; end it with run:finish()"):format(what, path), 3)
  end
  error(("%s %s: this run is active%s; wait for it, or end it first"):format(what, path,
    math.type(holder) == "integer" and (" in process %d"):format(holder) or ""), 3)
end

local function now()
  return os.date("!%Y-%m-%dT%H:%M:%SZ")
end

local resumed_path -- --resume resumes one run

-- Resumes the run in a folder.
local function resume(options, path)
  if resumed_path then
    error("--resume: this recipe opens two runs; dopl resumes recipes with one run", 3)
  end
  local about, wrong = json.read(path .. "/run.json")
  if type(about) ~= "table" or not about.name then
    error(("--resume %s: its run.json is damaged%s"):format(path, wrong and ": " .. wrong or ""), 3)
  end
  local lock = claim(path, "--resume")
  resumed_path = path
  local text = core.files.read(path .. "/recipe.lua")
  if options.recipe and text and options.recipe.text ~= text then
    error(("--resume %s: the recipe has changed; the run used %s/recipe.lua"):format(path,
      path), 3)
  end
  for _, key in ipairs(check.keys(options.versions or {})) do
    local was = about.versions and about.versions[key]
    if was ~= options.versions[key] then
      core.note(("--resume %s: the run began with %s %s, this is %s; numbers may differ"):format(path,
        key, tostring(was), tostring(options.versions[key])))
    end
  end
  local self = setmetatable({ path = path, name = about.name, rows = 0, names = {}, resumed = true,
    clock = core.clock() - (about.seconds or 0), about = about, old = {}, lock = lock }, Run)
  local metrics = core.files.read(path .. "/metrics.jsonl") or ""
  for line in metrics:gmatch("([^\n]*)\n") do self.old[#self.old + 1] = line end
  local whole = metrics:match("^.*\n") or ""
  if whole ~= metrics then self:write("metrics.jsonl", whole) end -- drop an incomplete line
  about.status, about.message = "running", nil
  about.resumed = json.array(about.resumed or {})
  about.resumed[#about.resumed + 1] = now()
  self:write("run.json", json.encode(about, { indent = 2 }) .. "\n")
  return self
end

-- Parents of forks, and folders whose older run will be overwritten, by resolved path.
local parents, replacing = {}, {}

local function refuse_parent(path, level)
  error(("out: %s is the run that this one is forked from, which would be overwritten; name "
    .. "another folder"):format(path), level + 1)
end

-- Writes the start of the run. If it takes an older run's folder, the older run stays until there is
-- something to write. By then the recipe has named the runs it forks from.
local function begin(self)
  local text = self.to_begin
  if not text then return end
  self.to_begin, replacing[core.files.resolve(self.path)] = nil, nil
  older_run.remove(self.path)
  self:write("params.json", text.params)
  if text.recipe then self:write("recipe.lua", text.recipe) end
  self:write("metrics.jsonl", "")
  self.metrics = core.files.append(self.path .. "/metrics.jsonl")
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n") -- --resume can now work
end

local OPEN <const> = check.fields("run.open", {
  out = { type = "string", shown = "runs/<name>-<date>-<time>", "exactly this folder; the results of "
    .. "another recipe or of other parameters are never overwritten" },
  name = { type = "string", shown = "the recipe's file name", "what the run is called" },
  recipe = { type = "table", shown = "the recipe", "{ path =, text = }" },
  params = { type = "table", shown = "those of dopl.params", "resolved parameters" },
  seed = { type = "integer", shown = "--seed", "seed of all random numbers" },
  versions = { type = "table", shown = "of dopl, Lua and oneDNN", "versions of what computes" },
  threads = { type = "integer", shown = "--threads", "threads that compute" },
  device = { type = "string", shown = "--device", "the device" },
  command = { type = "list", shown = "the command line", "the command line, an array of strings" },
})

--- Opens a run folder and writes the start of the run. The options of the command line (--out, the
-- recipe, --seed, --threads, --device) are the defaults. With --resume RUN it resumes that run.
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
    error(("out: %s holds the results of another run (%s); name another folder, or remove this "
      .. "one first"):format(path, other), 2)
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

--- A checkpoint of another run, for `from` of train.fit and bench:compare. The training run continues
-- from it, under another schedule or optimizer if wanted. See dopl.train.fork.
-- @tparam table options run = the parent's folder; label of its training run, if it has several; step
-- (default: the newest checkpoint); states = "all": every state must fit, "fitting": those that do not
-- start at zero or are dropped, "none": all start at zero; data = "continue" or "restart"
-- @treturn Fork
function run.fork(options)
  local from = type(options) == "table" and type(options.run) == "string"
    and core.files.resolve(options.run)
  if from and replacing[from] then refuse_parent(options.run, 2) end
  local found = fork.open(options, plain)
  parents[from] = true
  return found
end

--- Records that a training run began from a checkpoint of another run.
-- @tparam table parent training, run, checkpoint, step, hash
function Run:descends(parent)
  begin(self)
  local list = json.array(self.about.parents or {})
  for _, known in ipairs(list) do -- a resumed run has recorded it already
    if known.training == parent.training and known.hash == parent.hash then return end
  end
  list[#list + 1] = parent
  self.about.parents = list
  self:write("run.json", json.encode(self.about, { indent = 2 }) .. "\n")
end

-- ---- metrics

-- Drops the remaining rows from before the run was resumed. From here on, rows are appended.
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

-- Whether the row equals the next old row.
local function is_old(self, text)
  local line = self.old and self.old[self.rows + 1]
  if not line then return false end
  local ok, was = pcall(timeless, line)
  return ok and was == timeless(text)
end

--- Appends a row to metrics.jsonl. A crash after the call does not lose it.
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

--- Flushes the logged rows to the disk.
function Run:sync()
  if self.metrics then self.metrics:sync() end
end

--- Whether a resumed run has the rows up to number `to`, so that the work which logged them is done.
function Run:has(to)
  return self.old ~= nil and to >= self.rows and to <= #self.old
end

--- Continues after row number `to`.
function Run:skip(to)
  self.rows = to
end

-- ---- work done once

-- A file name that is the same in every execution of the recipe.
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

--- A folder of the run for a label. A second use of the label gets another folder.
-- @tparam string kind "checkpoints"
-- @tparam string label
function Run:folder(kind, label)
  begin(self)
  return self.path .. "/" .. name_for(self, kind, label)
end

--- Does a piece of work and saves its result. If a resumed run has the result, it returns that instead.
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
      core.note(("result not usable: %s; computing it again"):format(reason))
    end
  end
  local value = work()
  self:sync()
  core.files.mkdir(self.path .. "/results")
  sealed.save(path, { label = label, from = from, to = self.rows, value = value })
  return value
end

-- ---- files

--- Writes a file of the run completely or not at all.
-- @tparam string name may lie in a folder of the run: "samples/joint.jsonl"
-- @tparam string text
-- @treturn string its path
function Run:write(name, text)
  check.type("run:write: name", name, "string")
  check.type("run:write: text", text, "string")
  for part in (name .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then
      error(("run:write: '%s' given, a name inside the run's folder needed"):format(name), 2)
    end
  end
  begin(self)
  local path = self.path .. "/" .. name
  local folder = path:match("^(.*)/")
  if folder ~= self.path then core.files.mkdir(folder) end
  core.files.write(path, text)
  return path
end

--- Writes rows as JSON Lines, for example the per-sample values of a table.
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

-- The command that resumes the run.
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

-- The peak of memory, over all processes of a resumed run.
local function peaks(before)
  local memory, most = core.memory(), {}
  for _, key in ipairs { "peak", "resident_peak" } do
    most[key] = math.max(memory[key], before and before[key] or 0)
  end
  return most
end

-- Records how the run ended, even if its last rows cannot be written.
local function close(self, status, message)
  if self.about.status ~= "running" then return end
  local _ <close> = self.lock
  if self.to_begin and status ~= "finished" then -- the older run stays
    self.about.status, replacing[core.files.resolve(self.path)] = status, nil
    return
  end
  begin(self)
  if status == "finished" then leave_old(self) end -- otherwise the run can be resumed from its files
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

--- Records that the run ended successfully. A second call does nothing.
function Run:finish()
  close(self, "finished")
end

--- Records that the run failed, and why. After `finish` it does nothing.
-- @tparam string message
function Run:fail(message)
  close(self, "failed", tostring(message))
end

-- Leaving the scope of a run ends it, and an error makes it failed. An error while recording this must
-- not hide the first error.
function Run:__close(message)
  if message ~= nil and core.stop and core.stop.asked() then
    if self.about.recipe and not self.to_begin then core.note("to resume: " .. resume_command(self)) end
    pcall(close, self, "stopped")
  elseif message ~= nil then
    pcall(self.fail, self, message)
  else
    self:finish()
  end
end

--- A row without its time fields, which are all that differs between two equal runs.
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
-- @treturn table { about =, params =, metrics = { row, ... } }; without an incomplete
-- last row; about.status is "interrupted" if run.json says "running" and no process uses the folder
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
    if not ok then -- the message has the file's line and column, and no line of Lua
      local text_at = row:find(where .. ":1:", 1, true)
      error(text_at and where .. row:sub(text_at + #where + 2) or row, 2)
    end
    if line ~= "" then out.metrics[#out.metrics + 1] = row end
  end
  return out
end

return run
