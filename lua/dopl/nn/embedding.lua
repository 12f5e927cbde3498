--- nn/embedding.lua - rows of a table by index: tokens, learned positions.
-- @module dopl.nn.embedding

local check = require "dopl.util.check"
local core = require "dopl.core"
local layer = require "dopl.nn.layer"

local embedding = {}
local Embedding = layer.class()

--- Makes a table of vectors, `weight` [rows, size].
-- @tparam Parameters p the model's
-- @tparam string name
-- @tparam table options rows, size; std of the initial values
-- @treturn Embedding called with i32 indices [N], gives [N, size]
function embedding.new(p, name, options)
  local o = check.options("nn.embedding", options, { rows = check.required, size = check.required,
    std = check.required })
  local self = layer.new(Embedding, p, name)
  self.weight = p:normal(name, "embedding", o.std, o.rows, o.size)
  self.tensors = { self.weight }
  return self
end

function Embedding:forward(index) return core.ops.embedding(self.weight, index) end

return embedding
