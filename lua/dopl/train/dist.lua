--- train/dist.lua - several processes that train one model: who they are, and sums over them.
--
--     local world <close> = dopl.dist.open { engine = "nccl", rank = 0, size = 1 }
--     train.fit { world = world, ... }      -- gradients are summed over the world before each step
--
-- The engine "local" runs anywhere; "nccl" is for GPUs, one process a GPU, which find each other
-- through `rendezvous`, a file that all of them see. For now a world has one process: a training run of
-- several would multiply its gradients by their number, and each would write the run's files.
-- @module dopl.train.dist
local core = require "dopl.core"
local check = require "dopl.util.check"

local dist = {}

--- Joins a world; every process of it does, with its own rank.
-- @tparam ?table options engine: "local" (default) or "nccl"; rank: 0 .. size - 1; size: 1, more are
--   refused; rendezvous: path of a file that does not exist yet, for a world of several
-- @treturn world `rank()`, `size()`, `sum{tensors}` and `broadcast({tensors}, root)` in place,
--   `close()`
function dist.open(options)
  local o = check.options("dist.open", options, {
    engine = "local", rank = 0, size = 1, rendezvous = check.optional,
  })
  check.choice("dist.open: engine", o.engine, { "local", "nccl" }, 3)
  check.type("dist.open: rank", o.rank, "integer")
  check.type("dist.open: size", o.size, "integer")
  return core.dist.open(o.engine, o.rank, o.size, o.rendezvous)
end

return dist
