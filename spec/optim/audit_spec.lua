-- What every compiled pass does to memory: no tensor is read or written more than once.
--
-- The interpreter runs a whole program on one tile of 256 elements before it takes the next, and the
-- tiles of all operands lie in L1 together. So an operand crosses the memory bus once each way,
-- however often instructions name its place, if
--   - what is packed (bf16, 8 bits) is unpacked by at most one instruction and packed by at most
--     one, in that order;
--   - what is f32 is written by at most one instruction, and nothing that wants the old value
--     reads it afterwards. To tell, the program is run on numbers next to the expressions it was
--     compiled from: a read of what was overwritten gives another result;
--   - only outputs are written, the gradient never is, and what a pass does not need it does not
--     touch (nor ask the cache for: runtime/optim/pass.c).
-- A pass goes over a tensor once; that a step has two for a rule with a transform, one more at a
-- period's end under the federated schemes, and a pass over gradients where they are clipped, stands
-- in docs/architecture.md.
local core = require "dopl.core"
local compile = require "dopl.optim.compile"
local expr = require "dopl.optim.expr"
local rng = require "dopl.util.rng"
local combinations = require "spec.optim.combinations"
local drive = require "spec.optim.drive"

local TILES <const> = 5 -- as in compile.lua: where scalars begin in an instruction

-- A primitive as a function of { a, ..., e } and { k0, ... }, from the text in optim.def.
local primitives = {}
for name, p in pairs(core.optim.primitives) do
  local text = p.text:gsub("(%w+)f%(", "%1("):gsub("^(.-) %? (.-) : (.-)$", "(%1) and (%2) or (%3)")
  if name == "sign" then text = "a > 0 and 1.0 or a < 0 and -1.0 or 0.0" end
  local code = "local sqrt, fabs, pow, exp, log, tanh = ...\n"
    .. "local function same(x) return x end\n"
    .. "local decode, encode, widen, round_nearest, round_stochastic = same, same, same, same, same\n"
    .. "return function(t, k) local a, b, c, d, e = t[1], t[2], t[3], t[4], t[5]\n"
    .. "local k0, k1, k2, k3, k4, k5 = k[1], k[2], k[3], k[4], k[5], k[6]\nreturn " .. text .. " end"
  local f = expr.fold
  primitives[name] = assert(load(code))(math.sqrt, math.abs, f.pow, math.exp, math.log, f.tanh)
end

local packs = { q8 = "store8", u8 = "store8" }
local unpacks = { q8 = "load8", u8 = "load8", bf16 = "load16" }

local function inputs_of(row)
  return core.optim.primitives[row[1]].tiles
end

-- First and last reads, and writes, of each operand.
local function traffic_of(program)
  local out = {}
  for i, name in ipairs(program.names) do
    out[name] = { kind = program.operands[i], loads = 0, stores = 0, touched = false }
  end
  for at, row in ipairs(program.instr) do
    for j = 1, inputs_of(row) do
      local name = program.names[row[2 + j] - program.n_reg + 1]
      local o = row[2 + j] >= program.n_reg and out[name]
      if o then
        o.touched = true
        assert((o.kind == "f32") == not unpacks[o.kind])
        if o.kind ~= "f32" then
          assert(row[1] == unpacks[o.kind], name .. " is read by " .. row[1])
          assert(not o.stored, name .. " is read after it was written")
          o.loads = o.loads + 1
        end
      end
    end
    local name = row[2] >= program.n_reg and program.names[row[2] - program.n_reg + 1]
    if name then
      local o = out[name]
      if packs[o.kind] then assert(row[1] == packs[o.kind]) end
      o.stores, o.touched, o.stored = o.stores + 1, true, at
    end
  end
  return out
end

-- The tensors' numbers after the program ran on one element.
local function interpret(program, numbers, scalars)
  local place = {}
  for i, name in ipairs(program.names) do place[program.n_reg + i - 1] = numbers[name] end
  for _, row in ipairs(program.instr) do
    local t, k = {}, {}
    for j = 1, inputs_of(row) do t[j] = place[row[2 + j]] end
    for j = 1, core.optim.primitives[row[1]].scalars do
      k[j] = scalars[row[2 + TILES + j] + 1]
    end
    place[row[2]] = primitives[row[1]](t, k)
  end
  local out = {}
  for i, name in ipairs(program.names) do out[name] = place[program.n_reg + i - 1] end
  return out
end

local function evaluate(x, inputs, env)
  if x.op == "const" then return x.value end
  if x.op == "scalar" then return env[x.name] end
  if x.op == "input" then return inputs[x.name] end
  local a, b = x.args[1], x.args[2]
  return expr.fold[x.op](evaluate(a, inputs, env), b and evaluate(b, inputs, env))
end

local function numbers_for(program, seed)
  local stream, numbers = rng.new(seed, "audit"), {}
  for _, name in ipairs(program.names) do numbers[name] = stream:normal() end
  local env = setmetatable({ step = 5, objective_step = 2 }, { __index = function(_, name)
    return name:find "^count" and 2 or 0.05 + 0.9 * (rng.hash(name) >> 11) * 2 ^ -53
  end })
  return numbers, env
end

local function audit(cx, program, weights)
  local outputs = {}
  for _, out in ipairs(cx.outputs) do outputs[out.name] = out.value end
  if weights == "master" then outputs.master = outputs.theta end
  for name, o in pairs(traffic_of(program)) do
    assert(o.loads <= 1, name .. " is read more than once")
    assert(o.stores == (outputs[name] and 1 or 0), ("%s is written %d times"):format(name, o.stores))
  end
  for seed = 1, 3 do
    local numbers, env = numbers_for(program, seed)
    local got = interpret(program, numbers, compile.evaluate(program.scalars, env))
    local inputs = setmetatable({ theta = weights == "master" and numbers.master or nil },
      { __index = numbers })
    for name, value in pairs(outputs) do
      local want = evaluate(value, inputs, env)
      assert(math.abs(got[name] - want) <= 1e-9 * (1 + math.abs(want)),
        ("%s becomes %.17g, not %.17g"):format(name, got[name], want))
    end
  end
end

-- The passes of an optimizer: pairs of a trace and its programs.
local function passes_of(o)
  local list, seen = {}, {}
  local function add(cx)
    if not cx or seen[cx] then return end
    seen[cx] = true
    list[#list + 1] = cx
    add(cx.update)
  end
  local layouts = { o.shared_plan or false, o.ending or false }
  for _, layout in pairs(o.plans) do layouts[#layouts + 1] = layout end
  for _, layout in ipairs(layouts) do
    for _, cx in ipairs(layout and layout.traced or {}) do add(cx) end
  end
  return list
end

describe("memory traffic of", function()
  for _, rule in ipairs(combinations.rules) do
    it(rule.name .. " under every scheme and storage", function()
      local programs = 0
      combinations.each(rule, function(label, given)
        for _, storage in ipairs(combinations.storages) do
          for _, weights in ipairs(combinations.weights) do
            for _, frequency in ipairs { { 1, 2 }, { 2, 1, 1 } } do
              local case = combinations.store(given, storage, weights)
              case.frequency = frequency
              for _, cx in ipairs(passes_of(drive.start(rule.rule, case).o)) do
                for _, compiled in pairs(cx.compiled) do
                  local ok, message = pcall(audit, cx, compiled.listing, case.weights)
                  assert(ok, ("%s, %s states, %s weights: %s\n%s"):format(label, storage, weights,
                    message, compile.listing(compiled.listing)))
                  programs = programs + 1
                end
              end
            end
          end
        end
      end)
      assert.is_true(programs >= 24 * 12)
    end)
  end

  it("a program that reads what it has overwritten is caught", function()
    local o = drive.start(combinations.rules[4].rule,
      { scheme = "base_delta", hyper = combinations.rules[4].hyper, frequency = { 1, 1 },
        elements = 272, timing = "after_theta", source = "g" }).o
    local cx = passes_of(o)[1]
    local program = cx.compiled.packed.listing
    audit(cx, program)
    local instr = program.instr
    for i = 1, #instr - 1 do -- each pair of neighbours, the other way round
      program.instr = table.move(instr, 1, #instr, 1, {})
      program.instr[i], program.instr[i + 1] = instr[i + 1], instr[i]
      local reads = {}
      for j = 1, inputs_of(instr[i + 1]) do reads[instr[i + 1][2 + j]] = true end
      if reads[instr[i][2]] then assert.is_false((pcall(audit, cx, program))) end
    end
    program.instr = instr
  end)
end)
