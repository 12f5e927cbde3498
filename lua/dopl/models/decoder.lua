--- models/decoder.lua - the body of every causal language model; a family's file says how to fill it.
--
-- An embedding, blocks of attention and MLP that each add to a residual stream, a last normalisation
-- and a head. A family (models/llama.lua, models/gpt2.lua) is a table:
--
--     name      of the architecture
--     defaults  the fields of its config
--     body      function(config) -> what the body is built of, as `BODY` below lists it
--     weights   the names of its weights in Hugging Face's files (models/layout.lua)
--     keys, types, same, values   its config.json (models/hugging_face.lua)
--
-- @module dopl.models.decoder

local check = require "dopl.util.check"
local core = require "dopl.core"
local hugging_face = require "dopl.models.hugging_face"
local layout = require "dopl.models.layout"
local nn = require "dopl.nn"
local grouped = require("dopl.nn.parameters").grouped

local op = core.ops
local decoder = {}
local Decoder = {}
Decoder.__index = Decoder

local BODY <const> = {
  norm = check.required,            -- "rms" or "layer"
  gated = check.required,           -- whether the MLP is
  mlp_size = check.required,        -- its width
  kv_heads = check.required,
  bias = false,                     -- of all linear layers in blocks
  rope_base = check.optional,       -- of rotary positions; nil: none
  learned_positions = check.optional, -- how many; nil: none
  tied = check.required,            -- whether the embedding is the head
  dropout = 0.0,                    -- on embeddings and residual branches, while dropout_seed is set
  recompute = false,                -- blocks in the backward instead of keeping their activations
}

local function last_name(path) return path:match "[^.]+$" end

-- The names of a linear layer's parts: the last components of its names in files.
local function part_names(paths)
  local names = {}
  for i, path in ipairs(type(paths) == "table" and paths or { paths }) do names[i] = last_name(path) end
  return names
end

local function new_block(p, c, body, names, i, head_dim)
  local prefix, size = ("layers.%d."):format(i), c.hidden_size
  local out_std = c.init_std / math.sqrt(2 * c.n_layers) -- of what adds to the residual stream
  local norm = { kind = body.norm, size = size, eps = c.norm_eps }
  local block = { attention_norm = nn.norm(p, prefix .. "attention_norm", norm) }
  block.attention = nn.attention(p, prefix, { size = size, heads = c.heads, kv_heads = body.kv_heads,
    head_dim = head_dim, rope_base = body.rope_base, bias = body.bias, std = c.init_std,
    out_std = out_std, parts = part_names(names.qkv), out_part = last_name(names.out) })
  block.mlp_norm = nn.norm(p, prefix .. "mlp_norm", norm)
  block.mlp = nn.mlp(p, prefix, { size = size, hidden = body.mlp_size, gated = body.gated,
    bias = body.bias, std = c.init_std, out_std = out_std, parts = part_names(names.up),
    out_part = last_name(names.down) })
  return block
end

-- A model with random weights, or without a seed with zeros for them.
local function new(family, config, seed)
  local c = check.options(family.name, config, family.defaults, 4)
  local body = check.options(family.name .. ": body", family.body(c), BODY)
  if c.hidden_size % c.heads ~= 0 or c.heads % body.kv_heads ~= 0 then
    error(("%s: hidden_size %d, heads %d, kv_heads %d: each must divide the one before"):format(
      family.name, c.hidden_size, c.heads, body.kv_heads), 3)
  end
  local p = nn.parameters(seed, c.dtype)
  local function table_of(name, rows)
    return nn.embedding(p, name, { rows = rows, size = c.hidden_size, std = c.init_std })
  end
  local self = setmetatable({ family = family, config = c, body = body, parameters = p, blocks = {},
    draws = 0 }, Decoder)
  self.embedding = table_of("embedding", c.vocab_size)
  self.positions = body.learned_positions and table_of("positions", body.learned_positions)
  for i = 1, c.n_layers do
    self.blocks[i] = new_block(p, c, body, family.weights, i, c.hidden_size // c.heads)
  end
  self.norm = nn.norm(p, "norm", { kind = body.norm, size = c.hidden_size, eps = c.norm_eps })
  self.lm_head = not body.tied and nn.linear(p, "head", { inputs = c.hidden_size,
    outputs = c.vocab_size, std = c.init_std, kind = "head" }) or nil
  return self
end

--- Makes an architecture of a family: `defaults`, and `new(config, seed)`.
-- @tparam table family
-- @treturn table the family
function decoder.family(family)
  function family.new(config, seed) return new(family, config, seed) end
  return family
end

-- ---- forward

local function drop(self, x)
  if self.body.dropout == 0 or not self.dropout_seed then return x end
  self.draws = self.draws + 1
  return op.dropout(x, self.body.dropout, self.dropout_seed, self.draws)
end

local function run_block(self, block, h, batch, cache)
  h = op.add(h, drop(self, block.attention(block.attention_norm(h), batch, cache)))
  return op.add(h, drop(self, block.mlp(block.mlp_norm(h))))
end

--- Final hidden states of packed tokens, normalised, ready for the head.
-- @tparam table batch i32 tensors ids, positions, offsets; with a cache also where [2, T] (slot and
-- position), and offsets nil in decoding
-- @tparam[opt] table cache from new_cache
-- @treturn tensor [T, C]
function Decoder:hidden(batch, cache)
  local h = self.embedding(batch.ids)
  if self.positions then h = op.add(h, self.positions(batch.positions)) end
  h = drop(self, h)
  for i, block in ipairs(self.blocks) do
    local scope <close> = core.scope() -- the tape keeps what backward needs, and nothing else does
    local first = self.draws
    local function run(x)
      local before = self.draws
      self.draws = first -- when the backward runs it again, dropout draws the same masks
      local y = run_block(self, block, x, batch, cache and cache[i])
      self.draws = math.max(before, self.draws)
      return y
    end
    h = scope:keep(self.body.recompute and nn.checkpoint(run, h) or run(h))
  end
  return self.norm(h)
end

--- The matrix of the vocabulary, [V, C].
function Decoder:head() return (self.lm_head or self.embedding).weight end

--- Room for keys and values: one [slots, length, 2 kv_heads D] tensor a layer.
function Decoder:new_cache(slots, length)
  local cache = {}
  for i, block in ipairs(self.blocks) do cache[i] = block.attention:new_cache(slots, length) end
  return cache
end

-- ---- what is trained

--- Freezes parameters: no gradient of them is computed, no optimizer state is kept, and the backward
-- ends at the lowest layer that is trained.
-- @tparam string|{string,...} patterns names, or their beginnings up to a dot: "embedding", "layers.1",
-- "layers.*.qkv"; `*` stands for any characters. One that describes no parameter is an error.
function Decoder:freeze(patterns) return self.parameters:freeze(patterns) end

--- Trains frozen parameters again.
-- @tparam string|{string,...} patterns as for `freeze`
function Decoder:unfreeze(patterns) return self.parameters:unfreeze(patterns) end

--- Trains these parameters and freezes all others.
-- @tparam string|{string,...} patterns as for `freeze`
function Decoder:train_only(patterns) return self.parameters:train_only(patterns) end

--- The linear layers of the blocks, each under its name in Hugging Face's files.
-- @treturn {table,...} { name = "model.layers.0.self_attn.q_proj", layer, part }: `part` is its name
-- in a layer that stores several as one matrix
function Decoder:linears()
  local list = {}
  for _, m in ipairs(layout.modules(self)) do
    for i, part in ipairs(m.layer ~= self.lm_head and m.layer.parts or {}) do
      list[#list + 1] = { name = m.names[i], layer = m.layer, part = part.name }
    end
  end
  return list
end

--- Puts an adapter on a linear layer. The adapter's parameters become the model's.
-- @tparam string name as `linears` gives it
-- @tparam[opt] function adapter function(x, y) of the layer's input and output, or a table that can be
-- called so, with `parameters` (nn.layer); nil takes it away
function Decoder:adapt(name, adapter)
  local names = {}
  for i, l in ipairs(self:linears()) do
    if l.name == name then return l.layer:adapt(adapter, l.part) end
    names[i] = l.name
  end
  check.choice("adapt: linear layer", name, names)
end

-- ---- files

--- The weights under the names of files, sharing memory with the model's.
function Decoder:export() return nn.export(layout.rows(self)) end

--- The gradients under those names; those of parameters that have none are left out.
function Decoder:export_grads() return nn.export(layout.rows(self), true) end

--- Overwrites the weights with those of a table of Hugging Face's names, with or without the family's
-- prefix, or of the names that export gives.
-- @tparam table weights tensors by name, or from nn.stored
function Decoder:import(weights)
  hugging_face.check_beside(weights, self.config)
  nn.import(layout.rows(self), weights, self.family.name, layout.options(self))
end

--- What `print` shows: architecture and sizes, in one line.
function Decoder:__tostring()
  local c, p, kv_heads = self.config, self.parameters, self.body.kv_heads
  local device, trained = p[1].tensor:device(), p:trained():numel()
  local heads = ("%d heads"):format(c.heads)
  if kv_heads ~= c.heads then heads = ("%s over %d of keys and values"):format(heads, kv_heads) end
  return ("%s: %d layers of width %d, %s, vocabulary %s, %s parameters in %s%s%s"):format(
    c.architecture, c.n_layers, c.hidden_size, heads, grouped(c.vocab_size), grouped(p:numel()),
    c.dtype, device == "cpu" and "" or " on " .. device,
    trained < p:numel() and (", %s trained"):format(grouped(trained)) or "")
end

return decoder
