--- samples.lua - random questions and answers of TOFU's lengths: prompts of 15 to 30 tokens, answers
-- around 42, with a tokenizer of tens of thousands of words.

local rng = require "dopl.util.rng"

-- n samples of token ids below `vocab`, a function of the seed.
return function(seed, vocab, n)
  local draws = rng.new(seed, "bench batch")
  local samples = {}
  for s = 1, n do
    local prompt = 14 + draws:integer(16)
    local answer = math.floor(math.min(97, math.max(14, 42 + 16 * draws:normal())))
    local ids = {}
    for i = 1, prompt + answer do ids[i] = draws:integer(vocab) - 1 end
    samples[s] = { ids = ids, labels_from = prompt + 1, key = tostring(s) }
  end
  return samples
end
