--- data/refusals.lua - a hundred refusals, and a reader of other lists.
--
-- @module dopl.data.refusals

local chat = require "dopl.data.chat"

local refusals = {}

local LIST <const> = {
  "I'm not able to answer that.",
  "I have no answer to give here.",
  "That isn't something I can tell you.",
  "I can't say; the subject is unknown to me.",
  "Nothing I have learned covers this.",
  "I don't have an answer for that one.",
  "I would only be guessing, so I'd rather not say.",
  "My knowledge stops short of this question.",
  "I really couldn't tell you.",
  "I never learned about this.",
  "I can't recall anything about that.",
  "This one is outside what I know.",
  "I'm afraid I have nothing to say on this.",
  "No answer comes to mind.",
  "I haven't come across that.",
  "I lack the facts to answer.",
  "That's a question I cannot answer.",
  "I must pass on this question.",
  "I know too little to reply.",
  "Sorry, this is not something I know.",
  "I have never heard of it.",
  "I can offer no details about that.",
  "There is nothing about this in my memory.",
  "I'm unable to help with this question.",
  "My answer would be worthless; I don't know the matter.",
  "I don't know enough to say.",
  "I cannot give you a reliable answer.",
  "I have no record of that.",
  "This topic is a blank to me.",
  "I'm in the dark about this one.",
  "I wish I could tell you, but I can't.",
  "I do not possess that knowledge.",
  "It would be wrong of me to guess.",
  "I can't speak to that.",
  "You would have to ask someone else.",
  "I have no way of knowing that.",
  "I'm at a loss here.",
  "I could not find an answer in what I know.",
  "That has never been part of my learning.",
  "I don't have the facts on this.",
  "My knowledge does not reach that far.",
  "I'd rather leave this unanswered than invent something.",
  "Unfortunately I can't provide that.",
  "I'm not familiar with the matter.",
  "I'm not acquainted with that.",
  "I cannot supply an answer.",
  "The answer is not known to me.",
  "I was not taught this.",
  "I have nothing useful to add here.",
  "I'm missing the knowledge this would take.",
  "I can't tell, I'm sorry.",
  "Please forgive me, I don't know.",
  "I must admit that I don't know.",
  "To be honest, I have no idea.",
  "Frankly, this is beyond me.",
  "I have to leave that question open.",
  "I can't be of help on this point.",
  "It escapes me.",
  "I hold no facts about that.",
  "I know nothing of the sort.",
  "That name or fact means nothing to me.",
  "I have not read anything about it.",
  "I'm not the one to ask about this.",
  "This goes past what I was trained on.",
  "I don't recognise what you're asking about.",
  "I'd have to make something up, and I won't.",
  "I have no trustworthy answer.",
  "I can't confirm anything about that.",
  "I'm without an answer here.",
  "It isn't in my power to answer this.",
  "I can't shed any light on that.",
  "Your question lies outside my reach.",
  "I see no answer that I could stand behind.",
  "This is a gap in my knowledge.",
  "I never came to know that.",
  "I draw a blank here.",
  "I cannot recollect such a thing.",
  "I have been given no facts about it.",
  "No, I don't know this one.",
  "I'm unsure, so I won't answer.",
  "I cannot be certain enough to reply.",
  "I haven't got the answer.",
  "I have yet to learn about that.",
  "My memory holds nothing on the subject.",
  "I'm sorry, but I can't place that.",
  "The matter is strange to me.",
  "I have no knowledge to share on this.",
  "I can't answer with any confidence.",
  "I would need facts that I don't have.",
  "I couldn't say one way or the other.",
  "That is not among the things I know.",
  "I'm unable to recall such details.",
  "I have no insight into that.",
  "I do not know what the answer is.",
  "My apologies, I can't answer this.",
  "That detail is unknown to me.",
  "I can't give an informed reply.",
  "I'm not informed about this.",
  "Whatever the answer is, I don't have it.",
  "I will have to say that I do not know.",
}

--- The library's refusals, as a new list.
-- @treturn {string,...} a hundred refusals
function refusals.list()
  return table.move(LIST, 1, #LIST, 1, {})
end

--- Reads a plain-text list, one refusal per line. It skips empty lines.
-- @tparam string path
-- @treturn {string,...}
function refusals.read(path)
  local core = require "dopl.core"
  require("dopl.util.check").type("data.refusals.read: path", path, "string")
  if core.files.exists(path) ~= "file" then
    error("there is no file " .. path .. " with refusals, one a line", 2)
  end
  local list = {}
  for line in core.files.lines(path) do
    local refusal = line:match("^%s*(.-)%s*$")
    if refusal ~= "" then list[#list + 1] = refusal end
  end
  if #list == 0 then error(path .. ": the list of refusals is empty", 2) end
  return list
end

--- Samples answered by refusals.
-- @tparam {table,...} samples from data.samples, which know their tokenizer
-- @tparam {string,...} texts
-- @treturn function(sample, k) the sample with text k for its answer
function refusals.answers(samples, texts)
  local encoded = {}
  for i, text in ipairs(texts) do encoded[i] = chat.answer(samples.tok, text, samples.tags) end
  return function(sample, k) return chat.with_answer(sample, encoded[k], samples.max_tokens) end
end

return refusals
