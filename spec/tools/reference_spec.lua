-- reference_spec.lua - the reference and the files for editors, made of the library as it is.
local docs = require "dopl.util.docs"
local dopl = require "dopl"
local fields = require "dopl.util.fields"
local folder = require "spec.io.folder"
local shell = require "spec.cli.shell"

describe("tools/reference.lua", function()
  local dir
  setup(function()
    dir = folder.new()
    local status, _, err = shell.sh(("%s --trust tools/reference.lua %s"):format(
      shell.quote(shell.dopl), shell.quote(dir)))
    assert.equal(0, status, err)
  end)
  teardown(function() folder.remove(dir) end)

  it("declares every function of every module, in files that are Lua", function()
    for name, module in pairs(docs.index().modules) do
      local text = shell.read(("%s/meta/%s.lua"):format(dir, module.path))
      assert(load(text, name))
      for _, below in ipairs(docs.below(name)) do
        local own = below:match "[%w_]+$"
        if not below:find ":" then
          assert.truthy(text:find("." .. own .. "(", 1, true)
            or text:find("@field " .. own, 1, true), below)
        end
      end
    end
    assert(load(shell.read(dir .. "/meta/classes.lua")))
  end)

  it("declares options with their types", function()
    local text = shell.read(dir .. "/meta/dopl.text.lua")
    assert.truthy(text:find("---@class dopl.text.train.options\n", 1, true))
    assert.truthy(text:find("---@field vocab_size integer tokens wanted", 1, true))
    assert.truthy(text:find("---@field special? string[] strings", 1, true))
    assert.truthy(text:find("---@param options dopl.text.train.options\n", 1, true))
    for name, described in pairs(fields.known) do
      assert.is_true(#described.names > 0, name)
    end
  end)

  it("declares operators, also as methods of a tensor", function()
    local text, classes = shell.read(dir .. "/meta/dopl.lua"), shell.read(dir .. "/meta/classes.lua")
    for _, row in ipairs(dopl.core.op_rows) do
      assert.truthy(text:find(("function dopl.%s("):format(row.name), 1, true), row.name)
      assert.truthy(classes:find(("---@field %s fun("):format(row.name), 1, true), row.name)
    end
  end)

  it("has a page for each module", function()
    local index = shell.read(dir .. "/reference/index.md")
    for name in pairs(docs.index().modules) do
      assert.truthy(index:find(("(%s.md)"):format(name), 1, true), name)
      assert.truthy(shell.read(("%s/reference/%s.md"):format(dir, name)):find("# " .. name, 1, true))
    end
  end)
end)
