-- spec/tools/prose_spec.lua - tools/prose finds each kind of fault, and only these.
local shell = require "cli.shell"

-- Runs the check on one file and returns its finds, without the path, and the exit status.
local function check(name, text, todo)
  local dir = os.tmpname()
  os.remove(dir)
  os.execute("mkdir -p " .. dir)
  local path, list = dir .. "/" .. name, dir .. "/todo"
  for file, content in pairs { [path] = text, [list] = todo and todo:gsub("DIR", dir) or "" } do
    local h <close> = assert(io.open(file, "w"))
    h:write(content)
  end
  local status, out, err = shell.sh(("DOPL_PROSE_TODO=%s %s --trust tools/prose.lua %s")
    :format(list, shell.dopl, path))
  os.execute("rm -r " .. dir)
  assert.equal("", err)
  return (out:gsub(path:gsub("%p", "%%%0") .. ":", "")), status
end

describe("tools/prose", function()
  it("finds a word in a paragraph, a list, a table and a heading, and says what to write", function()
    local out, status = check("page.md", table.concat({
      "# Stochastic dither", "", "One", "runs a", "training.", "", "- no ceiling",
      "- anew", "", "| a | what there is |", "", "    a training, anew: code" }, "\n"))
    assert.equal(1, status)
    assert.equal(table.concat({
      "1: dither: stochastic rounding", "4: a training: training run",
      "7: ceiling: roofline, limit", "8: anew: again, from scratch",
      "10: what there is: name the thing", "" }, "\n"), out)
  end)

  it("finds them in comments and messages of Lua, C and Python", function()
    for name, text in pairs {
      ["a.lua"] = 'local x = 1\n-- A run that is gone\n-- on with.\n'
        .. 'error("it went well, "\n  .. "amid all")',
      ["a.c"] = "int x = '\"';\n// A run that is gone\n// on with.\n"
        .. 'fail(rt, "a file "\n  "amid all");',
      ["a.py"] = "x = None\n# A run that is gone\n# on with.\n"
        .. "raise E('a file '\n  'stands amid all')",
    } do
      local out, status = check(name, text)
      assert.equal(1, status, name)
      assert.truthy(out:find("2: gone on with: resumed, continued\n", 1, true), name .. "\n" .. out)
      assert.truthy(out:find("5: amid: among, in\n", 1, true), name .. "\n" .. out)
    end
  end)

  it("accepts the same words in names and in code", function()
    for name, text in pairs {
      ["a.lua"] = '-- batch.twin, "anew", `microscope`, { twin = true }\nf { data = "anew", twin = 1 }',
      ["a.c"] = "int ceiling = twin(1); /* the twin_count */",
      ["a.md"] = "Use `data = \"anew\"` in a training run. A training step is one training run's.",
    } do
      local out, status = check(name, text)
      assert.equal("", out)
      assert.equal(0, status)
    end
  end)

  it("finds long sentences, headings that are sentences, and broken links", function()
    local long = "It says " .. ("word "):rep(39) .. "and ends."
    assert.equal("2: sentence of 43 words: at most 40: make it several\n",
      (check("a.md", "Short.\n" .. long)))
    assert.equal("1: sentence of 43 words: at most 40: make it several\n",
      (check("a.md", long .. " Short.")))
    assert.equal("", (check("a.md", ("One sentence. "):rep(40))))
    for _, heading in ipairs { "What it does", "How to run it", "It is fast." } do
      assert.equal(("1: heading '%s': name a topic or a task\n"):format(heading),
        (check("a.md", "## " .. heading)))
    end
    assert.equal("1: link to b.md: there is no such file\n", (check("a.md", "See [b](b.md).")))
    assert.equal("1: link to #two: the page has no such heading\n",
      (check("a.md", "See [one](#one-x), [two](#two).\n# One (`x`)")))
  end)

  it("finds a path of one machine in any line", function()
    local out = check("a.sh", "cd /home/" .. "someone/dopl\ncd ../home/x")
    assert.equal("1: /home/" .. "someone/dopl: a path of one machine: leave it out\n", out)
  end)

  it("leaves out what its list names: a file, a folder, a text in a file", function()
    for todo, finds in pairs { ["DIR/a.md"] = 0, ["DIR/"] = 0, ["DIR/a.md: How to run"] = 1,
      ["DIR/b.md"] = 2 } do
      local out, status = check("a.md", "# How to run\n\nanew", todo)
      assert.equal(finds, select(2, out:gsub("\n", "")), todo)
      assert.equal(finds > 0 and 1 or 0, status, todo)
    end
  end)
end)
