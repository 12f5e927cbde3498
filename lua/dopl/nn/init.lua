--- nn/init.lua - layers, the parameters of a model, and what both are built from.
--
-- A layer owns its parameters, has a `trainable` flag and a place for an adapter (nn.layer). Layers add
-- their parameters to the model's list as they are made (nn.parameters).
--
--     local p = nn.parameters(1)
--     local up = nn.linear(p, "up", { inputs = 16, outputs = 64, std = 0.02 })
--     local y = up(x)
--
-- @module dopl.nn

local attention = require "dopl.nn.attention"
local checkpoint = require "dopl.nn.checkpoint"
local embedding = require "dopl.nn.embedding"
local linear = require "dopl.nn.linear"
local mlp = require "dopl.nn.mlp"
local norm = require "dopl.nn.norm"
local operator = require "dopl.nn.operator"
local parameters = require "dopl.nn.parameters"
local weights = require "dopl.nn.weights"

return {
  kinds = parameters.kinds,
  dtypes = parameters.dtypes,
  parameters = parameters.new,
  linear = linear.new,
  norm = norm.new,
  embedding = embedding.new,
  attention = attention.new,
  mlp = mlp.new,
  operator = operator.new,
  checkpoint = checkpoint.run,
  export = weights.export,
  import = weights.import,
  stored = weights.stored,
}
