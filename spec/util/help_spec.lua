-- help_spec.lua - every public name has help, made of the comments of the library's own files.
local docs = require "dopl.util.docs"
local dopl = require "dopl"
local fields = require "dopl.util.fields"
local help = require "dopl.util.help"

-- Public names of functions and callable values, module by module; a module inside another counts too.
local function walk(prefix, module, found)
  for key, value in pairs(module) do
    local meta = type(value) == "table" and getmetatable(value)
    local callable = type(value) == "function" or type(meta) == "table" and meta.__call
    if type(key) == "string" and callable then
      found[#found + 1] = prefix .. "." .. key
    elseif type(key) == "string" and type(value) == "table" and package.loaded["dopl." .. prefix .. "."
      .. key] == value then
      walk(prefix .. "." .. key, value, found)
    end
  end
  return found
end

describe("dopl.help", function()
  it("knows every public function of every module", function()
    local found = {}
    for name, module in pairs(dopl.modules) do walk(name, require(module.path), found) end
    table.sort(found)
    assert.is_true(#found > 100)
    local missing = {}
    for _, name in ipairs(found) do
      local item = docs.find(name)
      if not item or item.summary == "" or not help.text(name) then missing[#missing + 1] = name end
    end
    assert.equal("", table.concat(missing, "\n"))
  end)

  it("knows every module, operator and function of dopl itself", function()
    for name in pairs(dopl.modules) do assert.truthy(help.text(name), name) end
    for _, row in ipairs(dopl.core.op_rows) do
      assert.truthy(help.text("dopl." .. row.name):find(row.doc:match "^%S+", 1, true), row.name)
    end
    for _, name in ipairs(docs.below "dopl") do
      assert.truthy(dopl[name], name)
      assert.truthy(help.text(name), name)
    end
  end)

  it("describes the options of a function", function()
    for name, described in pairs(fields.known) do
      if not name:find ":" then
        local text = help.text(name)
        assert.truthy(text, name)
        for _, field in ipairs(described.names) do
          assert.truthy(text:find("\n  " .. field .. " ", 1, true), name .. ": " .. field)
        end
      end
    end
  end)

  it("suggests the nearest name", function()
    for given, meant in pairs { ["train.fiit"] = "train.fit", fit = "train.fit", sofmax = "softmax",
      ["data.autors"] = "data.authors" } do
      local text, near = help.text(given)
      assert.is_nil(text)
      assert.equal(meant, near)
    end
  end)
end)

describe("docs.read", function()
  it("reads summary, parameters, results and examples", function()
    local file = docs.read [[
--- x.lua - a module.
-- @module dopl.x

local x = {}

--- Adds numbers. It is
-- quick.
-- @tparam[opt=1] integer a the first,
-- on two lines
-- @param b
-- @treturn integer the sum
-- @usage x.add(1, 2)
function x.add(a, b) return a + b end

--- A class's method.
function Class:go() end

return x
]]
    assert.equal("dopl.x", file.module)
    assert.equal("x", file.returns)
    local add = file.items[1]
    assert.equal("x.add", add.name)
    assert.equal("a, b", add.args)
    assert.equal("Adds numbers. It is\nquick.", add.summary)
    assert.same({ name = "a", type = "integer", text = "the first, on two lines", optional = true,
      default = "1" }, add.params[1])
    assert.equal("b", add.params[2].name)
    assert.same({ type = "integer", text = "the sum" }, add.returns[1])
    assert.equal("x.add(1, 2)", add.usage)
    assert.equal("Class:go", file.items[2].name)
  end)

  it("reads the names that a module gives to another's functions", function()
    local file = docs.read [[
local chat = require "dopl.data.chat"
return {
  chat = chat, samples = chat.encode_all,
  linear = require("dopl.nn.linear").new,
}
]]
    assert.equal("", file.returns)
    assert.same({ { "", "samples", "chat", "encode_all" }, { "", "chat", "chat" },
      { "", "linear", "dopl.nn.linear", "new" } }, file.aliases)
  end)
end)
