-- Little memory: what runs out of it ends in one line, wherever it happens to run out.
local shell = require "cli.shell"

-- Products of changing shapes, their gradients and attention, whose results are kept for ever.
local hungry = [[
local kept = {}
for i = 1, math.huge do
  local n = 30 + 90 * i % 700
  local x, w = dopl.zeros { n, 192 }, dopl.zeros { 64 + i % 3 * 700, 192 }:requires_grad(true)
  kept[#kept + 1] = dopl.linear(x, w)
  dopl.sum(kept[#kept]):backward()
  kept[#kept + 1] = dopl.matmul(x, dopl.zeros { 192, n })
  kept[#kept + 1] = dopl.attention(x, dopl.i32 { 0, n // 2, n }, 2, 1)
  kept[#kept + 1] = dopl.zeros { 1 << 21 }
end
]]

describe("a limit of memory", function()
  if os.getenv "DOPL_SPEC" == "sanitized" then return end -- they reserve terabytes of addresses
  local recipe = os.tmpname()
  setup(function() shell.write(recipe, hungry) end)
  teardown(function() os.remove(recipe) end)

  for _, threads in ipairs { 1, 2, 8 } do
    it("ends in one line on " .. threads .. " threads", function()
      for _, mib in ipairs { 80, 100, 120, 140, 160, 180, 200, 250, 300, 400, 600 } do
        local status, out, err = shell.sh(("ulimit -c 0; ulimit -v %d; exec %s --threads %d %s")
          :format(mib * 1024, shell.quote(shell.dopl), threads, recipe))
        local what = ("%d MiB: status %d, %s%s"):format(mib, status, out, err)
        assert.equal(1, status, what)
        assert.equal("", out, what)
        assert.truthy(err:match "^dopl: [^\n]*memory[^\n]*\n", what)
        assert.falsy(err:find("libgomp", 1, true), what)
      end
    end)
  end
end)
