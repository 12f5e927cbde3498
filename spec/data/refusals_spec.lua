-- refusals_spec.lua - the library's refusals, and lists of others.
local chat = require "dopl.data.chat"
local core = require "dopl.core"
local refusals = require "dopl.data.refusals"

describe("data.refusals", function()
  it("lists a hundred different sentences, fresh each time", function()
    local list, seen = refusals.list(), {}
    assert.equal(100, #list)
    for _, text in ipairs(list) do
      assert.is_nil(seen[text])
      seen[text] = true
      assert.truthy(text:find("^%u") and text:find("%.$"))
    end
    list[1] = nil
    assert.equal(100, #refusals.list())
  end)

  it("are samples' answers as well as any", function()
    local tok = { eos = 0 }
    function tok.encode(_, text) return { text:byte(1, -1) } end
    function tok.id() end
    local ids = chat.answer(tok, "No.", "plain")
    assert.same({ 78, 111, 46, 0 }, ids)
  end)

  it("are read from a file, one a line", function()
    local path = os.tmpname()
    core.files.write(path, "I can't.\r\n\n  No idea. \n")
    assert.same({ "I can't.", "No idea." }, refusals.read(path))
    core.files.write(path, "\n \n")
    assert.error_matches(function() refusals.read(path) end, "is empty")
    core.files.remove(path)
    assert.error_matches(function() refusals.read(path) end, "there is no file")
  end)
end)
