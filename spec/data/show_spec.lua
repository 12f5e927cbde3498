-- show_spec.lua - a batch as a person reads it.
local batch = require "dopl.data.batch"
local chat = require "dopl.data.chat"
local show = require "dopl.data.show"

local tok = { eos = 256 }
function tok.encode(_, text) return { text:byte(1, -1) } end
function tok.id() end
function tok.decode(_, ids)
  local out = {}
  for i, id in ipairs(ids) do out[i] = id < 256 and string.char(id) or "<eos>" end
  return table.concat(out)
end

describe("data.show", function()
  it("shows what is masked and what is a label", function()
    local rows, twins = {}, {}
    for i = 1, 3 do rows[i] = { question = ("Question %d?"):format(i), answer = "Answer." } end
    local samples = chat.encode_all(tok, rows)
    for i, sample in ipairs(samples) do
      twins[i] = chat.with_answer(sample, chat.answer(tok, "No."))
    end
    local b = batch.pack(samples, { tag = "forget", twins = twins })
    local text = show.text(b, { limit = 2 })
    assert.truthy(text:find("forget batch: 3 samples", 1, true))
    assert.truthy(text:find("masked  Question 1?\\n", 1, true))
    assert.truthy(text:find("labels  Answer.<eos>", 1, true))
    assert.truthy(text:find("refused", 1, true))
    assert.truthy(text:find("... and 1 more", 1, true))
    assert.is_nil(text:find("\27", 1, true))
    assert.truthy(show.text(b, { colour = true }):find("\27[1;32m", 1, true))
    b.tok = nil
    assert.truthy(show.text(b):find("81 117 101", 1, true))
  end)
end)
