-- Does the base state converge to the value of Theorem 3.2 of DualOptim+? Constant gradients m G to
-- forget and n G to retain, one moment. Expected: the simulation with the real optimizer and the closed
-- form agree to 1e-5. (~1 s)
local dopl = require "dopl"
local optim, scheme = dopl.optim, dopl.scheme

local p = dopl.params {
  decay = { 0.9, "decay of base and deltas" },
  m = { 1.0, "gradient of a forget step, times G" },
  n = { -0.5, "gradient of a retain step, times G" },
  periods = { 200, "periods to simulate", least = 1 },
}
local G = 1.0

-- The moment is the direction: an optimizer of one line.
local momentum = optim.rule {
  name = "momentum",
  hyper = { lr = 0, beta = 0.9 },
  moments = { x = { decay = "beta", correct = false } },
  direction = function(mom) return mom.x end,
}

local function simulate(forget, retain)
  local w = dopl.core.zeros(1)
  w:requires_grad(true)
  local o = momentum { beta = p.decay }:with(scheme.base_delta {})
    :attach({ { name = "w", tensor = w } }, { objectives = { "forget", "retain" } })
  local gradient = { forget = dopl.core.tensor { p.m * G }, retain = dopl.core.tensor { p.n * G } }
  for _ = 1, p.periods do
    for step = 1, forget + retain do
      local objective = step <= forget and "forget" or "retain"
      w:set_grad(gradient[objective])
      o:step { objective = objective }
    end
  end
  return o:state("w", "x.base"):at(1), o:state("w", "x.own.forget"):at(1),
    o:state("w", "x.own.retain"):at(1)
end

local function closed_form(f, r)
  local b, m, n = p.decay, p.m, p.n
  local D = 1 - b ^ (f + r)
  return b ^ r * (1 - b ^ f) * m * G / D + (1 - b ^ r) * n * G / D,
    f * b ^ (f - 1) * (1 - b) * (1 - b ^ r) * (m - n) * G / ((1 - b ^ f) * D),
    r * b ^ (r - 1) * (1 - b) * (1 - b ^ f) * (n - m) * G / ((1 - b ^ r) * D)
end

print "F_f, F_r  state      simulated      theorem      apart"
local worst = 0.0
for _, frequency in ipairs { { 1, 1 }, { 1, 5 }, { 2, 3 }, { 1, 10 }, { 5, 1 } } do
  local f, r = table.unpack(frequency)
  local simulated, theorem = { simulate(f, r) }, { closed_form(f, r) }
  for i, name in ipairs { "base", "forget", "retain" } do
    local apart = math.abs(simulated[i] - theorem[i])
    if apart > worst or apart ~= apart then worst = apart end
    print(("%d, %-6d %-7s %12.8f %12.8f %10.1e"):format(f, r, name, simulated[i], theorem[i], apart))
  end
end
assert(worst <= 1e-5, "theorem: the simulation differs from the closed form") -- so does a NaN
print(("largest difference %.1e: the theorem holds"):format(worst))
