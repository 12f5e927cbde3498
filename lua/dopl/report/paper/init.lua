--- report/paper/init.lua - figures of the papers that recipes print beside ours.
-- Only what a recipe shows is here. A table maps a row's label, as the recipe writes it, to its
-- figures; one with several splits maps the split to such rows. Figures are in percent, as printed.
-- To add a table, add an entry to the file of its paper: title, setting, columns, rows. Tables of
-- DualOptim+ go by their number ("table5"), those of DualOptim have its name before it
-- ("dualoptim_table6").
-- @module dopl.report.paper
local check = require("dopl.util.check")
local dualoptim = require("dopl.report.paper.dualoptim")

local paper = { tables = {} }

for name, found in pairs(require("dopl.report.paper.dualoptim_plus")) do paper.tables[name] = found end
for name, found in pairs(dualoptim) do paper.tables["dualoptim_" .. name] = found end

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
