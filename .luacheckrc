-- Lua 5.4, and the names that recipes and the prompt have without a require.
std = "lua54"
max_line_length = 104
ignore = { "211/scope" } -- luacheck does not see that a <close> variable is used by leaving
cache = false
exclude_files = { "build", "build-*", "runs" }
files["recipes"] = {
  read_globals = { "dopl", "nn", "models", "loss", "optim", "scheme", "schedule", "data", "metrics",
    "train", "report" },
}
files["bench"] = files["recipes"]
files["spec"] = { std = "+busted" }
