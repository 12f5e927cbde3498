--- data/show.lua - prints a batch: its text, what is masked, where labels start.
--
-- @module dopl.data.show

local batch = require "dopl.data.batch"
local check = require "dopl.util.check"
local core = require "dopl.core"

local show = {}

local PLAIN <const> = { prompt = "", label = "", dim = "", off = "" }
local COLOUR <const> = { prompt = "\27[36m", label = "\27[1;32m", dim = "\27[2m", off = "\27[0m" }

local function text_of(tok, ids, first, last)
  if first > last then return "" end
  if not tok then return table.concat(ids, " ", first, last) end
  return core.visible(tok:decode(table.move(ids, first, last, 1, {})))
end

local function sample_lines(lines, b, s, tok, c, name)
  local sample = b.samples[s]
  local from = sample.labels_from
  lines[#lines + 1] = ("%s%s  %d tokens, %d labels%s  key %s%s"):format(c.dim, name, #sample.ids,
    sample.n_labels, sample.truncated and ", truncated" or "", sample.key:sub(1, 8), c.off)
  lines[#lines + 1] = ("  masked  %s%s%s"):format(c.prompt,
    text_of(tok, sample.ids, 1, from - 1), c.off)
  lines[#lines + 1] = ("  labels  %s%s%s"):format(c.label,
    text_of(tok, sample.ids, from, #sample.ids), c.off)
end

local SHOW <const> = check.fields("data.show", {
  colour = { default = false, "ANSI colours, for a terminal" },
  limit = { min = 1, default = 8, "how many samples to show" },
  tok = { has = "decode", shown = "the batch's; without one ids are shown", "one of dopl.text" },
})

--- A batch as text.
-- @tparam Batch|Chosen b
-- @tparam[opt] table opts as for `data.show`
-- @treturn string
function show.text(b, opts)
  check.has("data.show", b, "samples", "a batch, as batch.pack and a loader's next give it")
  opts = check.options(SHOW, opts)
  if not b.n_tokens then b = batch.of(b) end -- chosen, not yet packed
  local c, tok = opts.colour and COLOUR or PLAIN, opts.tok or b.tok
  local limit = math.min(opts.limit, b.n_samples)
  local part = b.whole.n_samples ~= b.n_samples
    and (" (of %d in the whole batch)"):format(b.whole.n_samples) or ""
  local lines = { ("%s batch%s: %d samples%s, %d tokens, %d labels, no padding"):format(
    b.tag or "untagged", b.step and (" " .. b.step) or "", b.n_samples, part, b.n_tokens,
    b.n_labels) }
  for s = 1, limit do
    sample_lines(lines, b, s, tok, c, ("[%d]"):format(s))
    if b.twin then sample_lines(lines, b.twin, s, tok, c, "    refused") end
  end
  if limit < b.n_samples then
    lines[#lines + 1] = ("... and %d more"):format(b.n_samples - limit)
  end
  return table.concat(lines, "\n")
end

--- Prints a batch: `dopl.show(batch)`.
-- @tparam Batch b
-- @tparam[opt] table opts
function show.print(b, opts)
  core.print_coloured(show.text(b, opts))
end

return show
