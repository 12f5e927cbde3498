-- terminal_spec.lua - what reaches a terminal or a log: text, and no control characters.
local core = require "dopl.core"
local report = require "dopl.report"
local shell = require "cli.shell"

describe("core.visible", function()
  it("spells out what a terminal would obey", function()
    for given, shown in pairs {
      [""] = "", ["plain é 日本 👍🏽"] = "plain é 日本 👍🏽", ["a\0b"] = "a\\x00b",
      ["\27[31mred\7\8\127"] = "\\x1b[31mred\\x07\\x08\\x7f",
      ["line1\nline2\t\r"] = "line1\\nline2\\t\\r",
      ["\u{80}\u{9b}31m\u{9f}\u{a0}"] = "\\u{80}\\u{9b}31m\\u{9f}\u{a0}",
      ["\u{202e}abc\u{2066}\u{200e}"] = "\\u{202e}abc\\u{2066}\u{200e}",
      ["\x9b31m \xff \xc3"] = "\\x9b31m \\xff \\xc3", ["\xe2\x82"] = "\\xe2\\x82",
    } do
      assert.equal(shown, core.visible(given))
    end
  end)

  it("keeps lines and tabs on request", function()
    assert.equal("a\n\tb\\r\n\\x1b", core.visible("a\n\tb\r\n\27", { lines = true }))
  end)

  it("leaves no control character of any byte or of any two", function()
    for first = 0, 255 do
      for second = 0, 255 do
        local text = core.visible(string.char(first, second))
        if text:find "[%c\127]" or not utf8.len(text) then error(("%q"):format(text)) end
      end
    end
  end)
end)

describe("a recipe", function()
  local text = '"\\27]52;c;aGk=\\7 a\\0b \\u{202e}c"'
  local seen = "\\x1b]52;c;aGk=\\x07 a\\x00b \\u{202e}c"

  it("prints text, with and without --trust", function()
    for _, options in ipairs { {}, { "--trust" } } do
      options[#options + 1] = "-e"
      options[#options + 1] = ("print(%s, 1, nil, setmetatable({}, { __tostring = function() "
        .. "return '\\27x' end }))"):format(text)
      local status, out = shell.run(table.unpack(options))
      assert.equal(0, status)
      assert.equal(seen .. "\t1\tnil\t\\x1bx\n", out)
    end
  end)

  it("fails with text", function()
    local status, _, err = shell.run("-e", "error('\\27]52;c;aGk=\\7\\nnext', 0)")
    assert.equal(1, status)
    assert.equal("dopl: \\x1b]52;c;aGk=\\x07\nnext\n", (err:gsub("stack traceback.*", "")), err)
  end)

  it("leaves notes of text", function()
    local _, _, err = shell.run("-e", ("dopl.core.note(%s)"):format(text))
    assert.equal(seen .. "\n", err)
  end)

  it("reports a damaged file in text", function()
    local path = os.tmpname()
    shell.write(path, "\31\139\8\0\27[2J\n")
    local status, _, err = shell.run("-e", ("require('dopl.util.json').load %q"):format(path))
    os.remove(path)
    assert.equal(1, status)
    assert.is_nil(err:gsub("[\n\t]", ""):find "[%c\127-\255]", err)
  end)

  it("colours a batch and nothing else", function()
    local status, out = shell.run("-e",
      [[dopl.core.print_coloured "\27[1;32ma\27[0m\27[2J\27[m\27[1;"]])
    assert.equal(0, status)
    assert.equal("\27[1;32ma\27[0m\\x1b[2J\27[m\\x1b[1;\n", out)
  end)
end)

describe("the command line", function()
  it("quotes options and names as text", function()
    local _, _, err = shell.run("--fo\27[31m")
    assert.truthy(err:find("dopl: unknown option '--fo\\x1b[31m'", 1, true), err)
    _, _, err = shell.run("no\27[31m.lua")
    assert.truthy(err:find("no\\x1b[31m.lua", 1, true), err)
  end)
end)

describe("a table", function()
  it("has a line a row, whatever labels and cells hold", function()
    local text = report.text({
      { label = "\27[31mred\7", x = 1, y = "\27[2J" }, { label = "line1\nline2", x = 2, y = "b" },
    }, { columns = { "x", { key = "y", label = "y\n" } }, head = "a\tb" })
    local lines = {}
    for line in text:gmatch "[^\n]+" do
      assert.is_nil(line:find "%c", line)
      lines[#lines + 1] = line
    end
    assert.equal(4, #lines, text)
    assert.truthy(lines[3]:find("\\x1b[31mred\\x07", 1, true), text)
    assert.truthy(lines[4]:find("line1\\nline2", 1, true), text)
  end)
end)
