-- Collectives in a world of one: on the CPU, and over NCCL where a device is in use.
local dopl = require "dopl"
local core = require "dopl.core"

local engines = core.device() == "cuda" and { "local", "nccl" } or { "local" }

-- A world of one; nil where it needs NCCL, a package that a machine with a GPU need not have.
local function open(engine)
  local ok, world = pcall(dopl.dist.open, { engine = engine })
  if ok then return world end
  local absent = world:find "built without NCCL" or world:find "libnccl%S+ cannot open"
  if not absent then error(world, 0) end
end

describe("a world of one", function()
  for _, engine in ipairs(engines) do
    it("sums and broadcasts to what there was, over " .. engine, function()
      local world <close> = open(engine)
      if not world then return pending "no NCCL" end
      assert.equal(0, world:rank())
      assert.equal(1, world:size())
      local a, b = dopl.tensor { 1, 2, 3 }, dopl.tensor { { 4, 5 } }
      world:sum { a, b }
      world:broadcast({ a, b }, 0)
      assert.same({ 1, 2, 3 }, a:tolist())
      assert.same({ { 4, 5 } }, b:tolist())
    end)

    it("leaves a training run unchanged, over " .. engine, function()
      local function train(world)
        local w = dopl.full(0.5, 3)
        local optimizer = dopl.optim.sgd { lr = 0.1 }
          :attach({ { name = "w", tensor = w:requires_grad(true) } }, {})
        for _ = 1, 3 do
          local scope <close> = core.scope()
          w:set_grad(nil)
          local loss = (w * w):sum()
          loss:backward()
          if world then world:sum { w:grad() } end
          optimizer:step {}
        end
        return w:tolist()
      end
      local world <close> = open(engine)
      if not world then return pending "no NCCL" end
      assert.same(train(nil), train(world))
    end)
  end
end)

describe("dist.open", function()
  it("says what is wrong with a world", function()
    assert.error_matches(function() dopl.dist.open { engine = "mpi" } end, "'mpi'")
    assert.error_matches(function() dopl.dist.open { rank = 1 } end, "rank 1 in a world of 1")
    if core.device() == "cpu" then
      assert.error_matches(function() dopl.dist.open { engine = "nccl" } end, "device cuda")
    end
  end)

  it("refuses a world of several processes", function()
    for _, engine in ipairs { "local", "nccl" } do
      assert.error_matches(function()
        dopl.dist.open { engine = engine, size = 2, rendezvous = os.tmpname() }
      end, "dist: a world of 2 processes, needs size = 1: training in several processes does not work")
    end
    assert.error_matches(function() core.dist.open("local", 1, 2, "x") end, "needs size = 1")
  end)

  it("refuses what is no number, and a world that is closed", function()
    local world = dopl.dist.open()
    assert.error_matches(function() world:sum { dopl.i32 { 1 } } end, "tensor 1 is i32")
    assert.error_matches(function() world:broadcast({ dopl.tensor { 1 } }, 3) end, "from rank 3")
    world:close()
    world:close()
    assert.error_matches(function() world:sum {} end, "no world is open")
  end)
end)
