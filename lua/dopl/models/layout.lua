--- models/layout.lua - a decoder's weights as files hold them, from the names that its family gives.
--
-- A family's `weights` holds the names in Hugging Face's files, each without .weight or .bias:
--
--     prefix                         that files of the body alone leave out: "model."
--     embedding, positions, norm, head
--     block                          the beginning of those in a block: "model.layers.%d."
--     attention_norm, qkv, out, mlp_norm, up, down   a list where one matrix here is several there
--     transposed                     whether linear layers are [in, out] there
--     own_names                      whether dopl's own files have the parameters' names instead
--     buffers                        patterns of names that are no weights
--
-- @module dopl.models.layout

local layout = {}

local function list_of(names, prefix)
  local out = {}
  for i, name in ipairs(type(names) == "table" and names or { names }) do out[i] = prefix .. name end
  return out
end

--- The layers that have weights, in the order of their parameters.
-- @param model
-- @treturn {table,...} { layer, names of its parts in files }
function layout.modules(model)
  local w, list = model.family.weights, {}
  local function add(layer, names, prefix)
    if layer then list[#list + 1] = { layer = layer, names = list_of(names, prefix or "") } end
  end
  add(model.embedding, w.embedding)
  add(model.positions, w.positions)
  for i, block in ipairs(model.blocks) do
    local prefix = w.block:format(i - 1)
    add(block.attention_norm, w.attention_norm, prefix)
    add(block.attention.qkv, w.qkv, prefix)
    add(block.attention.out, w.out, prefix)
    add(block.mlp_norm, w.mlp_norm, prefix)
    add(block.mlp.up, w.up, prefix)
    add(block.mlp.down, w.down, prefix)
  end
  add(model.norm, w.norm)
  add(model.lm_head, w.head)
  return list
end

-- Calls fn(tensor, layer, suffix in files, own name, names in files) for each weight and bias.
local function each_tensor(model, fn)
  for _, m in ipairs(layout.modules(model)) do
    fn(m.layer.weight, m.layer, ".weight", m.layer.name, m.names)
    if m.layer.bias then fn(m.layer.bias, m.layer, ".bias", m.layer.name .. ".bias", m.names) end
  end
end

--- The layout for nn.export and nn.import.
function layout.rows(model)
  local rows, own_names = {}, model.family.weights.own_names
  each_tensor(model, function(tensor, layer, suffix, own, names)
    local row = { tensor }
    for i, name in ipairs(own_names and {} or names) do
      row[i + 1] = { name .. suffix, layer.parts and layer.parts[i].rows or tensor:shape(1) }
    end
    if own_names then row[2] = { own, tensor:shape(1) } end
    rows[#rows + 1] = row
  end)
  return rows
end

-- Other names of weights: without the prefix and, where ours are not theirs, theirs.
local function aliases_of(model)
  local w, aliases = model.family.weights, {}
  each_tensor(model, function(_, layer, suffix, own, names)
    for _, name in ipairs(names) do
      local full = name .. suffix
      local short = full:sub(1, #w.prefix) == w.prefix and full:sub(#w.prefix + 1)
      local alias = { own = w.own_names and own or full,
        transposed = w.transposed and layer.parts ~= nil and suffix == ".weight" }
      if short then aliases[short] = alias end
      if w.own_names then aliases[full] = alias end
    end
  end)
  return aliases
end

--- The options of nn.import for a model.
function layout.options(model)
  local w, head = model.family.weights, model.family.weights.head .. ".weight"
  local may_tie = model.config.tie_embeddings ~= nil
  local embedding = w.own_names and model.embedding.name or w.embedding .. ".weight"
  return {
    aliases = aliases_of(model),
    buffers = w.buffers,
    copies = model.body.tied and { [head] = embedding } or {},
    untied = may_tie and "; tie_embeddings = false keeps both" or "",
    hints = may_tie and { [head] = "; with tie_embeddings = true the embedding is the head" } or {},
  }
end

return layout
