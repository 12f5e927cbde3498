--- nn/checkpoint.lua - activation recomputation: what a forward does not keep, the backward runs again.
-- @module dopl.nn.checkpoint

local check = require "dopl.util.check"
local core = require "dopl.core"

local checkpoint = {}

--- Runs fn(...) without keeping what its operators would save; the backward runs it again.
-- Trades one more forward for memory. fn must be a function of its arguments and of parameters
-- alone, and return one tensor. Parameters that fn closes over get their gradients as usual. Where
-- no input is in the gradient graph, fn simply runs: nothing would lead back to it.
-- @tparam function fn
-- @param ... tensors, at most eight
function checkpoint.run(fn, ...)
  check.type("nn.checkpoint", fn, "callable")
  local inputs, wanted, any = { ... }, {}, false
  for i, t in ipairs(inputs) do
    check.has(("nn.checkpoint: argument %d"):format(i + 1), t, "requires_grad", "a tensor")
    wanted[i] = t:requires_grad()
    any = any or wanted[i]
  end
  if not any or not core.grad_enabled() then return fn(...) end
  local y
  do
    local _ <close> = core.no_grad()
    local scope <close> = core.scope()
    y = scope:keep(fn(...):detach())
  end
  return core.record("checkpoint", y, inputs, function(dy, _, ...)
    local copies, grads = { ... }, {} -- outside the graph; gradients stop at them
    for i, t in ipairs(copies) do t:requires_grad(wanted[i]) end
    do
      local _ <close> = core.with_grad()
      local scope <close> = core.scope()
      fn(table.unpack(copies)):backward(dy)
    end
    for i, t in ipairs(copies) do grads[i] = t:grad() end
    return table.unpack(grads, 1, #copies)
  end)
end

return checkpoint
