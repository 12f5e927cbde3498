-- Lua 5.4, and the names that recipes and the prompt have without a require.
std = "lua54"
max_line_length = 100
cache = false
exclude_files = { "build", "build-*", "runs" }
files["recipes"] = {
  read_globals = { "dopl", "nn", "models", "loss", "optim", "scheme", "schedule", "data", "metrics",
    "train", "report" },
}
files["spec"] = { std = "+busted" }
