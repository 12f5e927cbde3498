-- The prompt, typed at through a terminal.
local shell = require "cli.shell"

describe("the prompt", function()
  it("reads, runs, prints, completes, remembers, and survives errors and Ctrl-C", function()
    if not os.execute "command -v expect >/dev/null" then return pending "expect is not here" end
    local state = os.tmpname()
    os.remove(state)
    local _, out, err = shell.sh(("expect spec/cli/fixtures/prompt.exp %s %s"):format(
      shell.dopl, state))
    os.execute("rm -rf " .. state)
    assert.equal("ok\n", out .. err)
  end)

  it("reads lines from a pipe with -i, after the recipe", function()
    local recipe = os.tmpname()
    shell.write(recipe, "shared = 20")
    local typed = "shared + 1\\nerror {}\\n2 +\\n2\\n"
    local status, out, err = shell.sh(("printf '%s' | %s -i %s"):format(typed, shell.dopl, recipe))
    os.remove(recipe)
    assert.equal(0, status)
    assert.equal("21\n4\n", out)
    assert.equal("dopl: (error object is a table)\n", err)
  end)

  it("says what help and quit are called here", function()
    local _, _, err = shell.sh(("printf 'help\\nquit\\n' | %s -i"):format(shell.dopl))
    assert.truthy(err:find("undefined global 'help' (did you mean 'dopl.help()'?)", 1, true), err)
    assert.truthy(err:find("undefined global 'quit' (did you mean 'os.exit()'?)", 1, true), err)
  end)

  it("keeps a recipe's sandbox after the recipe", function()
    local recipe = os.tmpname()
    shell.write(recipe, "x = 1")
    local _, _, err = shell.sh(("echo 'io.open(1)' | %s -i %s"):format(shell.dopl, recipe))
    os.remove(recipe)
    assert.truthy(err:find "undefined global 'io'", err)
  end)
end)

describe("inspect", function()
  local inspect = require "dopl.util.inspect"

  it("shows values so that a person can tell them apart", function()
    assert.equal("nil", inspect.text(nil))
    assert.equal("text", inspect.text "text")
    assert.equal('{ 1, 2.5, "3", [10] = {}, x = true }',
      inspect.text { 1, 2.5, "3", x = true, [10] = {} })
    assert.equal('{ ["two words"] = "a\\nb" }', inspect.text { ["two words"] = "a\nb" })
  end)

  it("ends on cycles, depth and length", function()
    local loop = {}
    loop.inner = { loop = loop }
    assert.equal("{ inner = { loop = <itself, 2 up> } }", inspect.text(loop))
    local deep = {}
    for _ = 1, 100 do deep = { deep } end
    assert.truthy(#inspect.text(deep) < 100)
    local long = {}
    for i = 1, 1000 do long[i] = i end
    assert.truthy(inspect.text(long):find "... 960 more", 1, true)
  end)

  it("is what print shows of tensors", function()
    local core = require "dopl.core"
    local t = core.tensor { { 1, 2 }, { 3, 4.5 } }
    local head = "tensor f32 [2, 2]" .. (core.device() == "cpu" and "" or " on " .. core.device())
    assert.equal(head .. " { {1, 2}, {3, 4.5} }", tostring(t))
    assert.equal(tostring(t), inspect.text(t))
    assert.equal("{ " .. head .. ", 1 }", inspect.text { t, 1 })
    assert.equal("tensor i32 [3] {1, 2, 3}", tostring(core.i32 { 1, 2, 3 }))
    local size = core.tape_size()
    assert.truthy(tostring(t:requires_grad(true) * 2):find("{2, 4}", 1, true))
    assert.equal(size + 1, core.tape_size()) -- the product's own
    t:close()
    assert.equal("tensor (released)", tostring(t))
  end)

  it("is short for huge tensors of any shape", function()
    local core = require "dopl.core"
    for _, shape in ipairs { { 2000000 }, { 1500, 1500 }, { 50, 60, 70 }, { 20, 30, 40, 50 },
      { 1, 1, 1, 1000 }, { 500, 1, 1, 1 }, { 7, 8 } } do
      local text = tostring(core.zeros(shape))
      assert.truthy(#text < 1000, text)
      assert.truthy(text:find("mean 0, min 0, max 0", 1, true), text)
      local _, shown = text:gsub("0", "")
      assert.truthy(shown >= 4, text)
    end
  end)

  it("is left out where the library cannot be reached", function()
    local status, out = shell.recipe [[
      local t = dopl.zeros(2)
      function require() error "closed" end
      print(t)]]
    assert.equal(0, status)
    assert.equal("tensor f32 [2]\n", out)
  end)

  it("is what print shows of models and their parameters", function()
    local models = require "dopl.models"
    local model = models.new { architecture = "llama", vocab_size = 64, hidden_size = 16,
      n_layers = 2, heads = 4, kv_heads = 2, intermediate_size = 24 }
    local text = tostring(model)
    assert.equal("llama: 2 layers of width 16, 4 heads over 2 of keys and values, vocabulary 64, "
      .. "4,944 parameters in f32", text)
    assert.equal(text, inspect.text(model))
    local list = tostring(model.parameters)
    assert.truthy(list:find "^14 parameters, 4,944 elements\n  embedding +embedding f32 %[64, 16%]",
      list)
    assert.truthy(list:find("... 2 more", 1, true), list)
    assert.truthy(tostring(models.new { architecture = "gpt2", vocab_size = 64, hidden_size = 16 })
      :find("^gpt2: 4 layers of width 16, 4 heads, vocabulary 64, "))
  end)

  it("summarises large tensors and counts NaNs", function()
    local dopl = require "dopl"
    local t = dopl.full(0 / 0, 30, 30)
    local text = inspect.text(t)
    assert.truthy(text:find("tensor f32 [30, 30]  900 NaN", 1, true), text)
    assert.equal("tensor f32 [2, 0] {}", inspect.text(dopl.zeros(2, 0)))
    assert.equal("tensor f32 [] 2.5", inspect.text(dopl.full(2.5)))
  end)
end)
