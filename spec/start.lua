-- start.lua - runs busted's command line inside the built dopl, and keeps hold of busted's insides,
-- which spec/helper.lua needs to let go of finished spec files.
local new_core = require "busted.core"

package.loaded["busted.core"] = function(...)
  local core = new_core(...)
  package.loaded["spec.busted"] = core
  return core
end

require "busted.runner" { standalone = false }
