--- Figures of the papers that recipes print beside ours.
-- Only what a recipe shows is here. A table maps a row's label, as the recipe writes it, to its
-- figures; one with several splits maps the split to such rows. Figures are in percent, as printed.
-- To add a table, add an entry to `tables`: title, setting, columns, rows.
-- @module dopl.paper
local check = require("dopl.check")

local paper = {}

local columns = { "UFE", "TFE", "MU", "OVR" }

paper.tables = {}

paper.tables.table1 = {
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

paper.tables.table5 = {
  title = "DualOptim+, Table 5",
  setting = "Phi 1.5, IDK+GD, forget05: when the base state is updated",
  columns = columns,
  rows = {
    before_delta = { UFE = 67.54, TFE = 66.55, MU = 50.82, OVR = 58.93 },
    after_delta = { UFE = 68.24, TFE = 64.38, MU = 49.97, OVR = 58.14 },
    after_theta = { UFE = 67.63, TFE = 67.60, MU = 51.52, OVR = 59.57 },
  },
}

--- A table of a paper.
-- @tparam string name "table5"
-- @tparam ?string split for a table that has several: "forget05"
-- @treturn table { title =, setting =, columns = { name, ... }, rows = { label = { name = x } } }
function paper.table(name, split)
  local names = check.keys(paper.tables)
  local found = paper.tables[check.choice("paper table", name, names)]
  local rows, title = found.rows, found.title
  if found.by_split then
    split = check.choice("split of " .. found.title, split, check.keys(found.by_split))
    rows, title = found.by_split[split], ("%s, %s"):format(found.title, split)
  end
  return { title = title, setting = found.setting, columns = found.columns, rows = rows }
end

return paper
