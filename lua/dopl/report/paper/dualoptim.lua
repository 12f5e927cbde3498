--- report/paper/dualoptim.lua - figures of DualOptim (Zhong, Luo, Liu), for `dopl.paper`.
--
-- Gap is the mean distance of four rates to those of the retrained model, Std the mean of their
-- deviations over five runs: percent, smaller is better. A label is the one that the recipe gives
-- its row.
-- @module dopl.report.paper.dualoptim

local tables = {}

tables.table6 = {
  title = "DualOptim, Table 6",
  setting = "SFRon, CIFAR-10, ResNet-18, 10% forgotten: optimizer pairs",
  columns = { "Gap", "Std" },
  rows = {
    ["Single SGD"] = { Gap = 0.51, Std = 2.33 },
    ["Single Adam"] = { Gap = 1.35, Std = 1.29 },
    ["SGD (F) + SGD (R)"] = { Gap = 0.80, Std = 2.05 },
    ["SGD (F) + Adam (R)"] = { Gap = 1.73, Std = 2.62 },
    ["Adam (F) + Adam (R)"] = { Gap = 0.55, Std = 0.63 },
    ["Adam (F) + SGD (R)"] = { Gap = 0.44, Std = 0.66 },
    ["SGD (F) + Lion (R)"] = { Gap = 3.80, Std = 1.36 },
    ["Lion (F) + Lion (R)"] = { Gap = 1.82, Std = 0.81 },
    ["Lion (F) + SGD (R)"] = { Gap = 0.93, Std = 0.80 },
    ["SGD (F) + Muon (R)"] = { Gap = 2.37, Std = 0.32 },
    ["Muon (F) + Muon (R)"] = { Gap = 1.94, Std = 0.31 },
    ["Muon (F) + SGD (R)"] = { Gap = 1.01, Std = 0.57 },
  },
}

tables.table17 = {
  title = "DualOptim, Table 17",
  setting = "SFRon, CIFAR-10, ResNet-18, 10% forgotten: which moments are decoupled",
  columns = { "Gap", "Std" },
  rows = {
    ["none"] = { Gap = 1.35, Std = 1.29 },
    ["m"] = { Gap = 1.56, Std = 1.33 },
    ["v"] = { Gap = 1.53, Std = 1.45 },
    ["m and v"] = { Gap = 0.55, Std = 0.63 },
  },
}

tables.table20 = {
  title = "DualOptim, Table 20",
  setting = "SFRon, CIFAR-10, ResNet-18, 10% forgotten: a larger momentum or two",
  columns = { "Gap", "Std" },
  rows = {
    ["SGD 0.9"] = { Gap = 0.51, Std = 2.33 },
    ["SGD 0.95"] = { Gap = 0.67, Std = 1.32 },
    ["SGD 0.99"] = { Gap = 1.12, Std = 0.53 },
    ["Adam 0.9"] = { Gap = 1.35, Std = 1.29 },
    ["Adam 0.99"] = { Gap = 1.52, Std = 1.32 },
    ["Adam 0.999"] = { Gap = 1.22, Std = 1.46 },
    ["DO"] = { Gap = 0.44, Std = 0.66 },
  },
}

return tables
