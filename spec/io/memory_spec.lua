-- memory_spec.lua - whichever allocation fails, files are closed, memory is back, and the next call
-- works.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"

describe("running out of memory", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function()
    core.fail_alloc(0)
    folder.remove(dir)
  end)

  local function blocks()
    collectgarbage()
    collectgarbage()
    return core.blocks()
  end

  -- Fails allocation 1, 2, 3, ... of `f` until it needs no more. Returns how often it failed.
  local function sweep(f)
    local before = blocks()
    for n = 1, 1000 do
      core.fail_alloc(n)
      local ok, text = pcall(f)
      core.fail_alloc(0)
      assert.equal(before, blocks())
      if ok then return n - 1 end
      assert.match("out of memory", text)
    end
    error "it never succeeded"
  end

  it("is survived by files", function()
    core.files.write(dir .. "/f", ("line\n"):rep(1000))
    assert.is_true(sweep(function() assert(core.files.read(dir .. "/f")) end) > 0)
    assert.is_true(sweep(function() for _ in core.files.lines(dir .. "/f") do end end) > 0)
    assert.is_true(sweep(function() assert(core.files.list(dir)) end) > 0)
  end)

  it("is survived by JSON", function()
    local value = {}
    for i = 1, 200 do value[i] = { name = "n" .. i, x = i / 3 } end
    assert.is_true(sweep(function() json.encode(value) end) > 2)
    json.save_lines(dir .. "/rows", value)
    assert.is_true(sweep(function() for _ in json.lines(dir .. "/rows") do end end) > 0)
  end)

  it("is survived by safetensors, without a trace on the disk", function()
    local t = core.tensor { { 1, 2 }, { 3, 4 } }
    local path = dir .. "/t"
    assert.is_true(sweep(function()
      core.safetensors.save(path, { a = t, b = t, c = t }, { note = ("x"):rep(1000) })
    end) > 1)
    assert.equal("t", folder.names(dir))
    assert.is_true(sweep(function() core.safetensors.load(path) end) > 4)
  end)
end)
