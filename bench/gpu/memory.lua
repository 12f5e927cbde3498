--- memory.lua - peak memory by kind of one forget and one retain step; an estimate for 8 billion
-- parameters.

local core = require "dopl.core"
local optim = require "dopl.optim"
local scheme = require "dopl.optim.scheme"
local pack = require("dopl.data.batch").pack
local samples = require "samples"
local work = require "gpu.work"

local KINDS <const> = { "parameters", "gradients", "states", "activations", "scratch", "other" }
local GIB <const> = 1 << 30
local LARGE <const> = 8.03e9 -- parameters, of the model that one H200 is to train whole
local ROOM <const> = 25      -- GiB to be left beside them

local METHODS <const> = {
  { "AdamW", "shared", "f32" }, { "DO", "decoupled", "f32" }, { "DO+", "base_delta", "f32" },
  { "AdamW 8-bit", "shared", "8bit" }, { "DO 8-bit", "decoupled", "8bit" },
  { "DO+ 8-bit", "base_delta", "8bit" },
}

return function(p, size)
  local model = work.model(p, size)
  local batch = pack(samples(p.seed, size.vocab, size.samples[2]))
  local t = batch:tensors()
  print(("  GiB, %d tokens, %.2f billion parameters in bf16, weights %s"):format(batch.n_tokens,
    model.parameters:numel() / 1e9, p.weights))
  print(("  %-14s %10s"):format("", "peak") .. (" %11s"):rep(#KINDS):format(table.unpack(KINDS)))
  for _, method in ipairs(METHODS) do
    collectgarbage()
    local _ <close> = core.scope()
    local o = optim.adamw { lr = 1e-5, weight_decay = 0.01 }
      :with(scheme[method[2]] { storage = method[3], weights = p.weights, quantize_embeddings = true })
      :attach(model.parameters, { objectives = { "forget", "retain" } })
    core.reset_peak()
    for _, objective in ipairs { "forget", "retain" } do
      work.loss(model, t):backward()
      o:step { objective = objective }
      model.parameters:zero_grad()
    end
    local m, cells = core.memory "cuda", {}
    for i, kind in ipairs(KINDS) do cells[i] = ("%11.3f"):format(m.at_peak[kind] / GIB) end
    print(("  %-14s %10.3f %s"):format(method[1], m.peak / GIB, table.concat(cells, " ")))
    if method[1] == "DO+ 8-bit" then
      local each = o:state_bytes().total / model.parameters:numel() + 2 + 4 -- weights and gradients
      work.row("8 billion parameters, DO+ 8-bit", ("%.1f bytes each, %.1f GiB"):format(each,
        each * LARGE / GIB))
      work.row("left of an H200's 139 GiB", ("%.1f GiB"):format(139 - each * LARGE / GIB),
        139 - each * LARGE / GIB, ROOM)
    end
  end
  batch:close()
end
