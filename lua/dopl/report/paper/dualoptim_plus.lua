--- report/paper/dualoptim_plus.lua - figures of DualOptim+ (Zhong, Li, Guo, Liu), for `dopl.paper`.
--
-- In percent, as printed. A label is the one that the recipe gives its row.
-- @module dopl.report.paper.dualoptim_plus

local columns = { "UFE", "TFE", "MU", "OVR" }
local tables = {}

tables.table1 = {
  title = "DualOptim+, Table 1",
  setting = "Phi 1.5, IDK+GD, mean of 5 forget sets",
  columns = columns,
  by_split = {
    forget01 = {
      ["Joint"] = { UFE = 78.11, TFE = 45.45, MU = 18.61, OVR = 40.19 },
      ["Alternate"] = { UFE = 73.35, TFE = 62.49, MU = 48.14, OVR = 58.03 },
      ["DO"] = { UFE = 74.75, TFE = 63.51, MU = 46.46, OVR = 57.80 },
      ["DO 8-bit"] = { UFE = 75.58, TFE = 61.23, MU = 46.73, OVR = 57.57 },
      ["DO+"] = { UFE = 75.51, TFE = 67.85, MU = 47.69, OVR = 59.69 },
      ["DO+ 8-bit"] = { UFE = 73.69, TFE = 68.36, MU = 47.53, OVR = 59.28 },
    },
    forget05 = {
      ["Joint"] = { UFE = 72.55, TFE = 58.32, MU = 36.26, OVR = 50.85 },
      ["Alternate"] = { UFE = 67.73, TFE = 64.30, MU = 47.81, OVR = 56.91 },
      ["DO"] = { UFE = 68.49, TFE = 64.34, MU = 49.50, OVR = 57.96 },
      ["DO 8-bit"] = { UFE = 68.34, TFE = 64.33, MU = 48.41, OVR = 57.37 },
      ["DO+"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
      ["DO+ 8-bit"] = { UFE = 67.56, TFE = 65.94, MU = 50.36, OVR = 58.55 },
    },
    forget10 = {
      ["Joint"] = { UFE = 71.65, TFE = 64.39, MU = 33.92, OVR = 50.97 },
      ["Alternate"] = { UFE = 65.82, TFE = 64.46, MU = 49.54, OVR = 57.34 },
      ["DO"] = { UFE = 65.87, TFE = 66.84, MU = 50.25, OVR = 58.30 },
      ["DO 8-bit"] = { UFE = 65.81, TFE = 65.60, MU = 50.38, OVR = 58.05 },
      ["DO+"] = { UFE = 65.42, TFE = 66.50, MU = 51.32, OVR = 58.64 },
      ["DO+ 8-bit"] = { UFE = 65.26, TFE = 65.59, MU = 51.30, OVR = 58.36 },
    },
  },
}

tables.table1_me = {
  title = "DualOptim+, Table 1",
  setting = "Phi 1.5, ME+GD, mean of 5 forget sets",
  columns = columns,
  by_split = {
    forget01 = {
      ["Joint"] = { UFE = 95.41, MU = 11.45, OVR = 53.43 },
      ["Alternate"] = { UFE = 91.46, MU = 45.78, OVR = 68.62 },
      ["DO"] = { UFE = 92.79, MU = 45.26, OVR = 69.03 },
      ["DO 8-bit"] = { UFE = 92.83, MU = 45.75, OVR = 69.29 },
      ["DO+"] = { UFE = 93.92, MU = 46.19, OVR = 70.06 },
      ["DO+ 8-bit"] = { UFE = 92.48, MU = 46.16, OVR = 69.32 },
    },
    forget05 = {
      ["Joint"] = { UFE = 91.32, MU = 33.87, OVR = 62.60 },
      ["Alternate"] = { UFE = 92.30, MU = 49.73, OVR = 71.02 },
      ["DO"] = { UFE = 91.97, MU = 51.73, OVR = 71.86 },
      ["DO 8-bit"] = { UFE = 93.12, MU = 50.99, OVR = 72.06 },
      ["DO+"] = { UFE = 93.07, MU = 50.87, OVR = 71.97 },
      ["DO+ 8-bit"] = { UFE = 93.13, MU = 50.55, OVR = 71.84 },
    },
    forget10 = {
      ["Joint"] = { UFE = 91.10, MU = 36.88, OVR = 63.99 },
      ["Alternate"] = { UFE = 91.96, MU = 48.48, OVR = 70.22 },
      ["DO"] = { UFE = 92.39, MU = 49.23, OVR = 70.81 },
      ["DO 8-bit"] = { UFE = 92.32, MU = 48.04, OVR = 70.19 },
      ["DO+"] = { UFE = 92.46, MU = 50.32, OVR = 71.39 },
      ["DO+ 8-bit"] = { UFE = 92.78, MU = 49.96, OVR = 71.37 },
    },
  },
}

tables.table4 = {
  title = "DualOptim+, Table 4",
  setting = "Llama 2; code, science, arithmetic: accuracy",
  columns = { "Py150", "ScienceQA", "NumGLUE", "AVG" },
  rows = {
    ["Joint"] = { Py150 = 61.09, ScienceQA = 92.40, NumGLUE = 41.67, AVG = 65.05 },
    ["Alternate"] = { Py150 = 60.74, ScienceQA = 92.05, NumGLUE = 42.86, AVG = 65.22 },
    ["DO 8-bit"] = { Py150 = 60.36, ScienceQA = 92.25, NumGLUE = 40.48, AVG = 64.36 },
    ["DO+ 8-bit"] = { Py150 = 60.87, ScienceQA = 91.75, NumGLUE = 48.81, AVG = 67.14 },
  },
}

tables.table5 = {
  title = "DualOptim+, Table 5",
  setting = "Phi 1.5, IDK+GD, forget05: when the base state is updated",
  columns = columns,
  rows = {
    ["before_delta"] = { UFE = 67.54, TFE = 66.55, MU = 50.82, OVR = 58.93 },
    ["after_delta"] = { UFE = 68.24, TFE = 64.38, MU = 49.97, OVR = 58.14 },
    ["after_theta"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
  },
}

tables.table6 = {
  title = "DualOptim+, Table 6",
  setting = "Phi 1.5, IDK+GD, forget05: what feeds the base state",
  columns = columns,
  rows = {
    ["g"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
    ["g-delta"] = { UFE = 67.78, TFE = 66.74, MU = 50.89, OVR = 59.08 },
  },
}

tables.table7 = {
  title = "DualOptim+, Table 7",
  setting = "Phi 1.5, IDK+GD, forget05: decays of delta, base",
  columns = columns,
  rows = {
    ["fast, fast"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
    ["fast, slow"] = { UFE = 67.14, TFE = 67.00, MU = 50.69, OVR = 58.88 },
    ["slow, fast"] = { UFE = 67.88, TFE = 67.53, MU = 51.32, OVR = 59.51 },
    ["slow, slow"] = { UFE = 64.90, TFE = 64.27, MU = 50.60, OVR = 57.59 },
  },
}

tables.table8 = {
  title = "DualOptim+, Table 8",
  setting = "Phi 1.5, IDK+GD, forget05: which states are 8-bit",
  columns = columns,
  rows = {
    ["none"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
    ["base"] = { UFE = 67.84, TFE = 66.90, MU = 50.66, OVR = 59.02 },
    ["delta"] = { UFE = 67.55, TFE = 66.19, MU = 50.31, OVR = 58.59 },
    ["base+delta"] = { UFE = 67.56, TFE = 65.94, MU = 50.36, OVR = 58.55 },
  },
}

tables.table9 = {
  title = "DualOptim+, Table 9",
  setting = "Phi 1.5, IDK+GD, forget05: retain steps for one forget step",
  columns = { "OVR" },
  rows = {
    ["Alternate, 1:1"] = { OVR = 55.82 },
    ["Alternate, 1:2"] = { OVR = 56.10 },
    ["Alternate, 1:4"] = { OVR = 56.18 },
    ["Alternate, 1:5"] = { OVR = 56.28 },
    ["Alternate, 1:9"] = { OVR = 55.79 },
    ["Alternate, 1:14"] = { OVR = 55.06 },
    ["DO, 1:1"] = { OVR = 56.54 },
    ["DO, 1:2"] = { OVR = 59.46 },
    ["DO, 1:4"] = { OVR = 57.96 },
    ["DO, 1:5"] = { OVR = 59.18 },
    ["DO, 1:9"] = { OVR = 58.28 },
    ["DO, 1:14"] = { OVR = 56.96 },
    ["DO+, 1:1"] = { OVR = 59.13 },
    ["DO+, 1:2"] = { OVR = 60.05 },
    ["DO+, 1:4"] = { OVR = 60.19 },
    ["DO+, 1:5"] = { OVR = 61.30 },
    ["DO+, 1:9"] = { OVR = 60.85 },
    ["DO+, 1:14"] = { OVR = 58.16 },
  },
}

tables.table10 = {
  title = "DualOptim+, Table 10",
  setting = "Phi 1.5, IDK+GD, forget05: Joint; learning rates over the default 1e-5",
  columns = columns,
  rows = {
    ["weight 0.1"] = { UFE = 72.89, TFE = 54.46, MU = 42.82, OVR = 53.25 },
    ["weight 0.2"] = { UFE = 73.41, TFE = 54.53, MU = 41.78, OVR = 52.88 },
    ["weight 0.4"] = { UFE = 73.59, TFE = 61.51, MU = 37.98, OVR = 52.77 },
    ["weight 0.6"] = { UFE = 74.59, TFE = 62.98, MU = 38.44, OVR = 53.61 },
    ["weight 0.8"] = { UFE = 74.08, TFE = 65.89, MU = 37.50, OVR = 53.74 },
    ["weight 1"] = { UFE = 74.78, TFE = 66.45, MU = 36.90, OVR = 53.76 },
    ["lr x 0.5"] = { UFE = 72.72, TFE = 61.62, MU = 34.79, OVR = 50.98 },
    ["lr x 1"] = { UFE = 74.78, TFE = 66.45, MU = 36.90, OVR = 53.76 },
    ["lr x 2"] = { UFE = 75.61, TFE = 69.37, MU = 34.94, OVR = 53.72 },
    ["lr x 4"] = { UFE = 80.21, TFE = 67.94, MU = 32.95, OVR = 53.51 },
    ["lr x 6"] = { UFE = 81.14, TFE = 66.55, MU = 28.10, OVR = 50.97 },
  },
}

tables.table11 = {
  title = "DualOptim+, Table 11",
  setting = "Phi 1.5, AdamW, 300 steps on two H20 GPUs: GB of each, seconds",
  columns = { "GB", "seconds" },
  rows = {
    ["Joint"] = { GB = 33.26, seconds = 870 },
    ["Alternate"] = { GB = 33.26, seconds = 443 },
    ["DO"] = { GB = 36.15, seconds = 439 },
    ["DO 8-bit"] = { GB = 33.57, seconds = 464 },
    ["DO+"] = { GB = 39.04, seconds = 475 },
    ["DO+ 8-bit"] = { GB = 33.68, seconds = 468 },
  },
}

tables.table12_dpo = {
  title = "DualOptim+, Table 12",
  setting = "Phi 1.5, DPO+GD, mean of 5 forget sets",
  columns = columns,
  by_split = {
    forget01 = {
      ["Joint"] = { UFE = 79.43, TFE = 23.74, MU = 32.08, OVR = 41.83 },
      ["Alternate"] = { UFE = 78.56, TFE = 35.11, MU = 48.23, OVR = 52.53 },
      ["DO"] = { UFE = 81.58, TFE = 55.36, MU = 46.32, OVR = 57.39 },
      ["DO 8-bit"] = { UFE = 83.77, TFE = 57.56, MU = 47.73, OVR = 59.20 },
      ["DO+"] = { UFE = 82.92, TFE = 61.90, MU = 48.05, OVR = 60.23 },
      ["DO+ 8-bit"] = { UFE = 83.46, TFE = 57.44, MU = 47.61, OVR = 59.03 },
    },
    forget05 = {
      ["Joint"] = { UFE = 77.25, TFE = 39.32, MU = 33.54, OVR = 45.91 },
      ["Alternate"] = { UFE = 74.34, TFE = 47.26, MU = 49.68, OVR = 55.24 },
      ["DO"] = { UFE = 74.86, TFE = 47.10, MU = 50.94, OVR = 55.96 },
      ["DO 8-bit"] = { UFE = 75.20, TFE = 41.12, MU = 51.12, OVR = 54.64 },
      ["DO+"] = { UFE = 76.04, TFE = 55.56, MU = 51.33, OVR = 58.57 },
      ["DO+ 8-bit"] = { UFE = 75.96, TFE = 50.13, MU = 51.40, OVR = 57.23 },
    },
    forget10 = {
      ["Joint"] = { UFE = 77.67, TFE = 45.46, MU = 31.48, OVR = 46.52 },
      ["Alternate"] = { UFE = 74.49, TFE = 57.51, MU = 49.87, OVR = 57.94 },
      ["DO"] = { UFE = 72.97, TFE = 52.61, MU = 50.28, OVR = 56.53 },
      ["DO 8-bit"] = { UFE = 72.76, TFE = 40.95, MU = 50.02, OVR = 53.44 },
      ["DO+"] = { UFE = 74.67, TFE = 56.46, MU = 50.78, OVR = 58.18 },
      ["DO+ 8-bit"] = { UFE = 73.14, TFE = 46.21, MU = 50.24, OVR = 54.96 },
    },
  },
}

tables.table12_npo = {
  title = "DualOptim+, Table 12",
  setting = "Phi 1.5, NPO+GD, mean of 5 forget sets",
  columns = columns,
  by_split = {
    forget01 = {
      ["Joint"] = { UFE = 78.87, MU = 29.89, OVR = 54.38 },
      ["Alternate"] = { UFE = 74.62, MU = 48.32, OVR = 61.47 },
      ["DO"] = { UFE = 74.88, MU = 48.47, OVR = 61.68 },
      ["DO 8-bit"] = { UFE = 75.51, MU = 48.77, OVR = 62.14 },
      ["DO+"] = { UFE = 75.80, MU = 48.72, OVR = 62.26 },
      ["DO+ 8-bit"] = { UFE = 76.10, MU = 48.79, OVR = 62.45 },
    },
    forget05 = {
      ["Joint"] = { UFE = 74.68, MU = 31.71, OVR = 53.20 },
      ["Alternate"] = { UFE = 70.46, MU = 50.17, OVR = 60.32 },
      ["DO"] = { UFE = 70.60, MU = 49.89, OVR = 60.25 },
      ["DO 8-bit"] = { UFE = 70.17, MU = 50.27, OVR = 60.23 },
      ["DO+"] = { UFE = 71.63, MU = 51.52, OVR = 61.58 },
      ["DO+ 8-bit"] = { UFE = 70.75, MU = 50.63, OVR = 60.69 },
    },
    forget10 = {
      ["Joint"] = { UFE = 73.73, MU = 27.78, OVR = 50.76 },
      ["Alternate"] = { UFE = 67.81, MU = 49.15, OVR = 58.48 },
      ["DO"] = { UFE = 67.33, MU = 48.73, OVR = 58.03 },
      ["DO 8-bit"] = { UFE = 66.88, MU = 50.07, OVR = 58.48 },
      ["DO+"] = { UFE = 69.12, MU = 49.71, OVR = 59.42 },
      ["DO+ 8-bit"] = { UFE = 67.11, MU = 51.25, OVR = 59.18 },
    },
  },
}

tables.table14 = {
  title = "DualOptim+, Table 14",
  setting = "Phi 1.5, IDK+GD, forget05: schemes from federated learning",
  columns = columns,
  rows = {
    ["scaffold"] = { UFE = 67.24, TFE = 66.89, MU = 50.44, OVR = 58.76 },
    ["fedcm"] = { UFE = 70.35, TFE = 65.32, MU = 49.34, OVR = 58.59 },
    ["local_adam"] = { UFE = 70.43, TFE = 65.90, MU = 49.68, OVR = 58.93 },
    ["DO+"] = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
  },
}

return tables
