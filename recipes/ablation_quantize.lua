-- Table 8 of DualOptim+: which states can be kept in 8 bits?
--
-- None, the base, the deltas, or both, with the bytes of state of each. The paper loses up to one point
-- of OVR. Small tensors and embeddings stay f32, so a small model saves less than a large one.
-- --quantize_min 0 and --quantize_embeddings quantize them too. About three minutes on two cores.

local dopl = require "dopl"
local closing = require "dopl.experiments.closing"
local study = require "dopl.experiments.study"

local p = dopl.params(study.params {
  quantize_min = { 4096, "smaller tensors stay f32" },
  quantize_embeddings = { false, "embeddings in 8 bits too" },
})
local run <close> = dopl.run.open {}

local variants = {}
for i, parts in ipairs { {}, { "base" }, { "delta" }, { "base", "delta" } } do
  variants[i] = {
    label = #parts == 0 and "none" or table.concat(parts, "+"),
    optimizer = optim.adamw(p.adamw):with(scheme.base_delta { quantize = parts,
      quantize_min = p.quantize_min, quantize_embeddings = p.quantize_embeddings }),
  }
end
local compared = study.run(p, run, variants)

study.report(run, p, {
  compared:part { title = "States in 8 bits", paper = "table8", columns = {
    { key = "bytes_per_parameter", label = "bytes/parameter", digits = 2, better = "lower" },
  } },
}, {
  title = "Which states are kept in 8 bits (Table 8)",
  shows = closing.quantize(compared.rows[4].bytes_per_parameter,
    compared.rows[1].bytes_per_parameter),
})
