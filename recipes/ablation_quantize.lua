-- Table 8 of DualOptim+: which states can be kept in 8 bits?
--
-- None, the base, the deltas, or both; beside the results, the bytes of state of each. The paper loses
-- up to one point of OVR. Small tensors and embeddings stay f32 (--quantize_min 0 and
-- --quantize_embeddings quantize them too), so a small model saves less than a large one.
-- About three minutes on two cores.

local dopl = require "dopl"
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
  shows = ("What this shows: what 8-bit states cost in accuracy, and that they take %.2f bytes a "
    .. "parameter in place of %.2f."):format(compared.rows[4].bytes_per_parameter,
      compared.rows[1].bytes_per_parameter),
})
