-- busted.lua - runs busted's command line inside the built dopl.
require "busted.runner" { standalone = false }
