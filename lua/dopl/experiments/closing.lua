--- experiments/closing.lua - the sentences in which recipes say what their results show.
--
--     study.report(run, p, parts, { title = "...", shows = closing.cost(1.02, 8.8, 24) })
--
-- Each function is for the recipe of its name and takes the figures of its sentences. `study.report`
-- adds what no recipe on a small model can show.
-- @module dopl.experiments.closing

local closing = {}

-- Sentences with places for figures.
local texts = {
  big_momentum = "a comparison of a larger momentum with decoupled moments. Mean OVR of SGD from "
    .. "momentum 0.9 to 0.99: %s to %s. Of Adam to 0.999: %s to %s. Of DO: %s.",
  cost = "the cost of each method. DO+ takes %.2f times the time of Alternate. In 8 bits its state "
    .. "takes %.2f bytes per parameter instead of %.2f.",
  curves = "how steadily each method reaches its result. %s has the smallest fall of OVR from one "
    .. "point to the next: at most %.1f points.",
  decouple_moments = "which of Adam's moments need decoupling. Mean OVR with m and v decoupled %s, "
    .. "with only m %s, with only v %s, with neither %s.",
  joint_grid = "how far tuning takes the joint baseline. The best point of the grid, %s, has a mean "
    .. "OVR of %.1f. It was chosen on the forget sets reported here, which favours it. DO+, without a "
    .. "search here, has %.1f.",
  losses = "whether the methods keep their order under other losses. First: %s. Mean rank over the "
    .. "losses: %s.",
  methods = "the methods after the same search for each. %s has the highest mean OVR, %.1f. The "
    .. "sentences below list the differences beyond chance.",
  multitask = "whether DO+ helps if objectives differ without conflict. Mean accuracy of DO+ %s, of "
    .. "DO 8-bit %s, of Alternate %s, of Joint %s.",
  optimizer_pairs = "how much the rules for forgetting and retaining matter. Largest mean OVR: %s, "
    .. "%s. Adam to forget and SGD to retain: %s.",
  quantize = "the accuracy with 8-bit states, which take %.2f bytes per parameter instead of %.2f.",
  quickstart = "that each method forgets two authors, at the learning rate and eps that the same "
    .. "search found for it on other forget sets. What it does not show: which method is better. "
    .. "Another forget set changes the result more than another method. recipes/methods.lua compares "
    .. "the methods over five forget sets, recipes/learning_rates.lua over learning rates.",
  similarity = "how far a retain step repeats the forget step before it (cosine of updates: %s), and "
    .. "how often the two conflict. Over all methods, the cosine is negative in these shares of the "
    .. "comparisons: %s.",
  variance = "the spread over seeds. In %d of %d pairs of rule and forget set, the decoupled deviation "
    .. "is the smaller one. The theorem predicts all of them.",
}

for name, text in pairs(texts) do -- independent of each other: the order changes nothing
  closing[name] = function(...) return "What this shows: " .. text:format(...) end
end

return closing
