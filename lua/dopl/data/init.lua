--- data/init.lua - rows of questions and answers, and the batches packed from them.
--
-- Every dataset is a table of row lists: forget, retain, forget_perturbed,
-- retain_perturbed, real_authors, world_facts. A row has question and answer, and in the perturbed
-- lists paraphrased_answer, paraphrased_question and perturbed_answer.
--
-- @module dopl.data

local authors = require "dopl.data.authors"
local batch = require "dopl.data.batch"
local chat = require "dopl.data.chat"
local loader = require "dopl.data.loader"
local refusals = require "dopl.data.refusals"
local show = require "dopl.data.show"
local tofu = require "dopl.data.tofu"
local unanswerable = require "dopl.data.unanswerable"

return {
  authors = authors, --   generator of fictitious authors
  tofu = tofu, --         reader of TOFU folders
  refusals = refusals, -- a hundred refusals
  unanswerable = unanswerable, -- questions that nobody can answer
  chat = chat, --         tags, rows as samples
  batch = batch, --       packed batches
  loader = loader.new, -- batches in a seeded order
  samples = chat.encode_all,
  show = show.print,
}
