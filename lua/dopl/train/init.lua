--- train/init.lua - training: objectives, a schedule, an optimizer.
-- @module dopl.train
return { fit = require "dopl.train.fit" }
