-- loss_spec.lua - every loss against golden values and against its formula, whole and in pieces.
local array = require "op.array"
local batch = require "dopl.data.batch"
local causal_lm = require "dopl.task.causal_lm"
local core = require "dopl.core"
local golden = require "models.golden"
local loss = require "dopl.train.loss"
local reference = require "dopl.train.reference"

local g <const> = golden.read "losses"

-- golden name -> loss, batch, `twin`
local table_of_losses <const> = {
  gd = { loss.gd(), "retain" },
  ga = { loss.ga(), "forget" },
  idk = { loss.idk(), "refusal" },
  me = { loss.me(), "forget" },
  me_all = { loss.me(), "forget_all" },
  dpo = { loss.dpo(), "forget", "refusal" },
  npo = { loss.npo(), "forget" },
  simnpo = { loss.simnpo(), "forget" },
  simnpo_gamma_5 = { loss.simnpo { gamma = 5 }, "forget" },
  kl = { loss.kl(), "retain" },
  kl_all = { loss.kl(), "retain_all" },
  ap = { loss.ap(), "retain", "retain_refusal" },
}

-- What the reference model says of a batch.
local function reference_of(l, b)
  local kind = l.needs.reference
  if not kind then return nil end
  local r = reference.new(golden.model(g, g.reference_weights))
  r:add(b, kind)
  return r
end

local function gradients(model)
  local list = {}
  for i, p in ipairs(model.parameters) do
    local grad = p.tensor:grad()
    list[i] = grad and array.of(grad) or array.zeros(p.tensor:shape())
  end
  return list
end

for _, wanted in ipairs(g.losses) do
  local entry = table_of_losses[wanted.name]
  if entry then -- kl_every counts positions that no batch labels
    local l, name, twin = table.unpack(entry)
    describe("loss." .. wanted.name, function()
      it("is PyTorch's in double, gradients too", function()
        local model, b = golden.model(g), golden.batch(g, name, twin)
        local value = loss.of_batch(model, l, b, reference_of(l, b))
        assert.near(wanted.value, value:item(), 1e-5 * math.abs(wanted.value))
        value:backward()
        golden.check_gradients(model, wanted.gradients, 2e-5)
      end)

      it("is the same in any number of pieces", function()
        local model, b = golden.model(g), golden.batch(g, name, twin)
        local r = reference_of(l, b)
        local whole = loss.of_batch(model, l, b, r)
        whole:backward()
        local grads = gradients(model)
        for _, cut in ipairs { { n = 2 }, { n = 3 }, { max_tokens = 1 } } do
          model.parameters:zero_grad()
          local sum = 0
          for _, part in ipairs(b:split(cut)) do
            local v = loss.of_batch(model, l, part, r)
            sum = sum + v:item()
            v:backward()
          end
          assert.near(whole:item(), sum, 1e-6 * math.max(1, math.abs(sum)))
          for i, again in ipairs(gradients(model)) do
            local norm = math.sqrt(array.dot(grads[i], grads[i]))
            local worst = 0
            for k = 1, #again do worst = math.max(worst, math.abs(grads[i][k] - again[k])) end
            -- other lengths, another order of sums: on a GPU, whose exponentials are good to 2 ulp
            assert.is_true(worst <= 3e-6 * math.max(1, norm))
          end
        end
      end)
    end)
  end
end

describe("loss.me with eps", function()
  it("takes log(p + eps), gradients too, as operators one by one do", function()
    local op, eps = core.ops, 1e-3
    local b = golden.batch(g, "forget")
    local model = golden.model(g)
    local value = loss.of_batch(model, loss.me { eps = eps }, b)
    value:backward()
    local got = gradients(model)
    model.parameters:zero_grad()
    local t = b:tensors()
    local p = op.softmax(op.linear(op.embedding(model:hidden(t), t.rows), model:head()))
    local want = op.mean(op.log(p + eps)) * -1 - math.log(g.config.vocab_size)
    assert.near(want:item(), value:item(), 1e-5)
    want:backward()
    for i, grad in ipairs(gradients(model)) do
      local norm = math.sqrt(array.dot(grad, grad))
      for k = 1, #grad do assert.near(grad[k], got[i][k], 1e-5 * math.max(1, norm)) end
    end
    local exact = loss.of_batch(model, loss.me(), b):item()
    assert.is_true(value:item() < exact - 0.01)
    assert.near(exact, loss.of_batch(model, loss.me { eps = 1e-12 }, b):item(), 1e-5)
  end)

  it("is exact by default, and says its eps", function()
    assert.equal("loss.me", tostring(loss.me()))
    assert.equal("loss.me { eps = 1e-12 }", tostring(loss.me { eps = 1e-12 }))
    for _, eps in ipairs { -1e-12, 1e-40, 2 } do
      assert.error_matches(function() loss.me { eps = eps } end,
        "loss.me: eps = .*, needs 0, or 1e%-30 to 1")
    end
    assert.error_matches(function()
      loss.new { name = "x", value = print, needs = { eps = "small" } }
    end, "loss.new: needs.eps: the string 'small', needs number")
  end)
end)

describe("losses of several batches", function()
  it("are the same by one forward pass, gradients too", function()
    local model, list, calls = golden.model(g), {}, 0
    local hidden = model.hidden
    model.hidden = function(...)
      calls = calls + 1
      return hidden(...)
    end
    local r = reference.new(golden.model(g, g.reference_weights))
    local entries = { { loss.me { eps = 1e-3 }, "forget" } } -- another eps than that of the rest
    for i, name in ipairs { "me", "dpo", "kl", "simnpo" } do entries[i + 1] = table_of_losses[name] end
    for _, entry in ipairs(entries) do
      local l, batch_name, twin = table.unpack(entry)
      local b = golden.batch(g, batch_name, twin)
      if l.needs.reference then r:add(b, l.needs.reference) end
      list[#list + 1] = { loss = l, batch = b }
    end
    local shares_passes = causal_lm.shares_passes
    local function run(together)
      causal_lm.shares_passes = function() return together end
      local values, numbers = loss.of_batches(model, list, r), {}
      causal_lm.shares_passes = shares_passes
      model.parameters:zero_grad()
      for i, v in ipairs(values) do numbers[i] = v:item() end
      local sum = values[1]
      for i = 2, #values do sum = sum + values[i] end
      sum:backward()
      return numbers, gradients(model)
    end
    local want, want_grads = run(false)
    assert.equal(6, calls) -- dpo has refusal pairs
    local got, grads = run(true)
    assert.equal(7, calls)
    for i in ipairs(want) do assert.near(want[i], got[i], 1e-6 * math.max(1, math.abs(want[i]))) end
    for i, grad in ipairs(grads) do
      local norm = math.sqrt(array.dot(grad, grad))
      for k = 1, #grad do assert.near(want_grads[i][k], grad[k], 1e-6 * math.max(1, norm)) end
    end
  end)
end)

-- A loss's value on given scores.
local function value(l, s)
  s.whole = s.whole or { n_samples = s.nll and #s.nll or 0 }
  return l.value(s):item()
end

local function log_sigmoid(x) return -math.log(1 + math.exp(-x)) end

describe("a loss's formula", function()
  local nll, ref <const> = { 3, 8, 1 }, { 2.5, 9, 1 }
  local other, other_ref <const> = { 4, 2, 6 }, { 3, 3, 3 }

  local function scores()
    return {
      nll = core.tensor(nll), n = core.tensor { 2, 4, 1 }, whole = { n_samples = 3, n_labels = 7 },
      twin = { nll = core.tensor(other) },
      reference = { nll = core.tensor(ref), twin = { nll = core.tensor(other_ref) } },
    }
  end

  local function mean(f)
    local sum = 0
    for i = 1, 3 do sum = sum + f(i) end
    return sum / 3
  end

  it("is that of the token mean", function()
    assert.near(12 / 7, value(loss.gd(), scores()), 1e-6)
    assert.near(-12 / 7, value(loss.ga(), scores()), 1e-6)
    assert.near(12 / 7, value(loss.idk(), scores()), 1e-6)
  end)

  it("is that of the preference losses, whatever beta", function()
    for _, b in ipairs { 0.1, 0.7 } do
      assert.near(-2 / b * mean(function(i)
        return log_sigmoid(b * (nll[i] - other[i] - (ref[i] - other_ref[i])))
      end), value(loss.dpo { beta = b }, scores()), 1e-5)
      assert.near(-2 / b * mean(function(i) return log_sigmoid(b * (nll[i] - ref[i])) end),
        value(loss.npo { beta = b }, scores()), 1e-5)
      assert.near(-1 / b * mean(function(i) return log_sigmoid(b * (other[i] - nll[i])) end),
        value(loss.ap { beta = b }, scores()), 1e-5)
      assert.near(-2 / b * mean(function(i)
        return log_sigmoid(b * (nll[i] / ({ 2, 4, 1 })[i] - 0.5))
      end), value(loss.simnpo { beta = b, gamma = 0.5 }, scores()), 1e-5)
    end
  end)

  it("is that of maximum entropy, 0 for a uniform model", function()
    local V = 50
    local s = { mean_logp = core.full(-math.log(V), 7), vocab_size = V, whole = { n_labels = 7 } }
    assert.near(0, value(loss.me(), s), 1e-6)
    s.mean_logp = core.full(-math.log(V) - 2, 7)
    assert.near(2, value(loss.me(), s), 1e-6)
  end)

  it("is 2 log 2 / beta for npo and dpo at the starting model", function()
    local s = scores()
    s.reference = { nll = s.nll, twin = s.twin }
    assert.near(20 * math.log(2), value(loss.npo(), s), 1e-5)
    assert.near(20 * math.log(2), value(loss.dpo(), s), 1e-5)
  end)
end)

describe("loss.new", function()
  it("makes a loss of one's own", function()
    local squared = loss.new { name = "squared", value = function(s)
      return core.ops.sum(core.ops.square(s.nll)) * (1 / s.whole.n_samples)
    end }
    local model, b = golden.model(g), golden.batch(g, "retain")
    local v, s = loss.of_batch(model, squared, b)
    local want = 0
    for _, l in ipairs(s.nll:tolist()) do want = want + l * l / 3 end
    assert.near(want, v:item(), 1e-4 * want)
    v:backward()
    assert.equal("loss.squared", tostring(squared))
    assert.equal("loss.npo { beta = 0.1 }", tostring(loss.npo()))
  end)

  it("refuses what is no loss, and options that are not there", function()
    assert.error_matches(function() loss.new { name = "x" } end, "value")
    assert.error_matches(function() loss.new { name = "x", value = 3 } end, "function")
    assert.error_matches(function() loss.new { name = "x", value = print, needs = { twins = true } }
    end, "twins.*twin")
    assert.error_matches(function() loss.npo { bta = 1 } end, "loss.npo.*bta.*beta")
    assert.error_matches(function() loss.npo { beta = "1" } end, "loss.npo: beta: the string '1'")
    assert.error_matches(function() loss.npo { beta = 0 } end,
      "loss.npo: beta = 0, needs a finite number above 0")
    assert.error_matches(function() loss.simnpo { gamma = 0 / 0 } end, "gamma = %-?nan, needs")
    assert.error_matches(function() loss.gd { beta = 1 } end, "loss.gd: takes no options")
    assert.error_matches(function()
      loss.new { name = "x", value = print, needs = { scores = "nll" } }
    end, "needs.scores: the string 'nll', needs table")
    assert.error_matches(function()
      loss.new { name = "x", value = print, needs = { answers = "refusal" } }
    end, "did you mean 'refusals'")
  end)

  it("names a misspelt field, and one that the loss must declare", function()
    local model, b = golden.model(g), batch.pack { { ids = { 3, 0 }, labels_from = 2, key = "one" } }
    local function says(pattern, f)
      assert.error_matches(function()
        loss.of_batch(model, loss.new { name = "x", value = f }, b)
      end, pattern)
    end
    says("loss: no field s.nlll %(did you mean 'nll'%?%)", function(s) return s.nlll:sum() end)
    says("no field s.zzzzzzzzzz %(there is entropy, hidden, logp", function(s) return s.zzzzzzzzzz end)
    says('s.reference is there with needs = { reference = "nll" }',
      function(s) return s.reference.nll end)
    says('s.kl is there with needs = { reference = "hidden" }', function(s) return s.kl() end)
    says("s.twin is there with needs = { twin = true }", function(s) return s.twin.nll end)
  end)

  it("says what it misses", function()
    local model, b = golden.model(g), golden.batch(g, "forget")
    for pattern, needs in pairs {
      ["loss.x needs 'nlll'; the task 'causal_lm' gives nll, n, logp, .*, and of the starting model "
        .. "hidden, nll"] = { scores = { "nll", "nlll" } },
      ["loss.x needs 'logits' of the starting model; the task"] = { reference = "logits" },
    } do
      assert.error_matches(function()
        loss.of_batch(model, loss.new { name = "x", value = print, needs = needs }, b)
      end, pattern)
    end
    assert.error_matches(function() loss.of_batch(model, loss.dpo(), b) end,
      "loss.dpo: the batch has no refusal pairs")
    assert.error_matches(function() loss.of_batch(model, loss.npo(), b) end,
      "loss.npo: needs a reference")
    assert.error_matches(function()
      loss.of_batch(model, loss.npo(), b, reference.new(model))
    end, "a sample that was not prepared .* reference:add%(batch, \"nll\"%)")
    assert.error_matches(function() causal_lm.scores_of(model, {}) end,
      "causal_lm: batch: a table, needs")
    assert.error_matches(function() loss.of_batch(model, loss.gd, b) end,
      "a function, needs a loss like loss.gd()")
    assert.error_matches(function() loss.of_batch(nil, loss.gd(), b) end,
      "model: nil, needs one of models.new")
  end)
end)

describe("a batch of one label", function()
  it("has a loss", function()
    local model = golden.model(g)
    local b = batch.pack { { ids = { 3, 0 }, labels_from = 2, key = "one" } }
    local v, s = loss.of_batch(model, loss.gd(), b)
    assert.equal(s.nll:item(), v:item())
    assert.equal(1.0, s.n:item())
  end)
end)
