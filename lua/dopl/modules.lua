--- modules.lua - the modules that recipes reach by a short name.
--
-- `dopl.loss` opens the module that `loss` stands for here. Names with `global` need no `dopl.` in
-- recipes and at the prompt.
-- @module dopl.modules

return {
  check = { path = "dopl.util.check", doc = "checks of what users give" },
  compare = { path = "dopl.run.compare", doc = "runs side by side" },
  data = { path = "dopl.data", global = true, doc = "rows, batches, the fictitious authors, TOFU" },
  diagnostics = { path = "dopl.train.diagnostics",
    doc = "the optimizer watched at work: do the objectives pull together or apart?" },
  dist = { path = "dopl.train.dist", doc = "processes that train one model: one, for now" },
  generate = { path = "dopl.task.generate", doc = "greedy and sampled continuation of prompts" },
  inspect = { path = "dopl.util.inspect", doc = "values as text" },
  loss = { path = "dopl.train.loss", global = true, doc = "unlearning losses" },
  metrics = { path = "dopl.metrics", global = true, doc = "what unlearning is judged by" },
  models = { path = "dopl.models", global = true, doc = "architectures" },
  nn = { path = "dopl.nn", global = true, doc = "layers and parameters" },
  optim = { path = "dopl.optim", global = true, doc = "optimizer rules" },
  params = { path = "dopl.run.params", doc = "parameters of a recipe" },
  plan = { path = "dopl.run.plan", doc = "what a recipe will need, before it runs" },
  profile = { path = "dopl.run.profile", doc = "local p <close> = dopl.profile(): time by operator; "
    .. "print(p), p:rows(), p:launches() on a device" },
  reference = { path = "dopl.train.reference",
    doc = "scores of the frozen starting model, computed once" },
  report = { path = "dopl.report", global = true, doc = "tables, curves, the HTML report" },
  rng = { path = "dopl.util.rng", doc = "random numbers that depend only on seed, name and position" },
  run = { path = "dopl.run", doc = "the folder of a run" },
  schedule = { path = "dopl.train.schedule", global = true,
    doc = "which objective comes next; learning rates" },
  scheme = { path = "dopl.optim.scheme", global = true, doc = "how objectives share optimizer states" },
  task = { path = "dopl.task", doc = "what training needs to know of a modality" },
  text = { path = "dopl.text", doc = "tokenizers, stemming, ROUGE" },
  train = { path = "dopl.train", global = true, doc = "the training loop" },
}
