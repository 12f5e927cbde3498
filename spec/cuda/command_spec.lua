-- command_spec.lua - a device from the command line, from a stock Lua, and when there is none.
local core = require "dopl.core"
local json = require "dopl.util.json"
local shell = require "spec.cli.shell"

local plugin = os.getenv "DOPL_CUDA_PLUGIN"

local RECIPE <const> = [[
local dopl = require "dopl"
local train = require "dopl.train"
local loader = require "dopl.data.loader"
local chat = require "dopl.data.chat"
local p = dopl.params { steps = 4 }
local run <close> = dopl.run.open { params = p }
local tok = { eos = 256 }
function tok.encode(_, text) return { text:byte(1, -1) } end
function tok.id() end
local rows = {}
for i = 1, 6 do rows[i] = { question = i .. "?", answer = ("a"):rep(i) } end
local model = dopl.models.new({ architecture = "llama", vocab_size = 257, hidden_size = 16,
  n_layers = 1, heads = 2, kv_heads = 1, intermediate_size = 24 }, 1)
local result = train.fit { model = model, steps = p.steps, progress = false, warmup = 0,
  optimizer = dopl.optim.adamw { lr = 1e-2 }, run = run, label = "it", checkpoint = { every = 2 },
  objectives = { { name = "retain", loss = dopl.loss.gd(),
    data = loader.new { samples = chat.encode_all(tok, rows), batch_size = 3, seed = 1,
      stream = "r" } } } }
local head = model:head()
print(dopl.device(), head:device(), head:dot(head))
]]

local function folder()
  local path = os.tmpname()
  os.remove(path)
  return path
end

local function remove(path) shell.sh("rm -r " .. shell.quote(path)) end

describe("--device cuda", function()
  it("runs a recipe, and its run says where", function()
    local out = folder()
    local sums = {}
    for i, device in ipairs { "cpu", "cuda" } do
      local status, text, err = shell.recipe(RECIPE, "--device", device, "--out", out)
      assert.equal(0, status, err)
      local used, there, sum = text:match "^(%w+)\t[^\n]-\t?(%w+)\t([%d.]+)\n$"
      assert.same({ device, device }, { used, there }, text)
      sums[i] = tonumber(sum)
      local about = json.load(out .. "/run.json")
      assert.equal(device == "cuda" and select(2, core.device()) or nil, about.versions.cuda)
    end
    remove(out)
    assert.near(sums[1], sums[2], 1e-4 * sums[1])
  end)

  it("resumes a run that began on the CPU", function()
    local out = folder()
    local path = os.tmpname()
    shell.write(path, RECIPE)
    local status, text, err = shell.run("--device", "cpu", path, "--out", out)
    assert.equal(0, status, err)
    local sum = tonumber(text:match "([%d.]+)\n$")
    status, text, err = shell.run(path, "--resume", out, "--device", "cuda")
    os.remove(path)
    remove(out)
    assert.equal(0, status, err)
    assert.truthy(text:find "^cuda\t", text)
    assert.near(sum, tonumber(text:match "([%d.]+)\n$"), 1e-4 * sum)
  end)

  it("works from a stock lua5.4, whose module is loaded by itself", function()
    local status, out, err = shell.sh(([[
      LUA_PATH='lua/?.lua;lua/?/init.lua' LUA_CPATH='%s/lib/?.so' lua5.4 -e '
        local dopl = require "dopl"
        dopl.device "cuda"
        local x = dopl.tensor { 1, 2, 3 } + 1
        print(x:device(), x:at(3), dopl.sum(x):item())
      ']]):format(shell.build))
    assert.equal(0, status, err)
    assert.equal("cuda\t4.0\t9.0\n", out)
  end)

  it("says what is missing", function()
    local function outcome(file)
      return select(3, shell.sh(("DOPL_DEVICE= DOPL_CUDA_PLUGIN=%s %s --device cuda -e 'print(1)'")
        :format(shell.quote(file), shell.quote(shell.dopl))))
    end
    assert.truthy(outcome "/nowhere.so":find "device cuda: /nowhere.so: cannot open", 1, true)
    assert.truthy(outcome(shell.build .. "/lib/dopl/core.so"):find "device cuda: ")
    local _, out = shell.sh(("DOPL_CUDA_PLUGIN=/nowhere.so DOPL_DEVICE=auto %s -e %s"):format(
      shell.quote(shell.dopl), shell.quote "print((dopl.device()))"))
    assert.equal("cpu\n", out)
    assert.truthy(select(3, shell.run("--device", "cuda:99", "-e", "")):find "cuda:99: there ")
    assert.is_string(plugin)
  end)
end)
