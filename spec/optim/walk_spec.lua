-- Every rule under every scheme in every storage: runs, matches plain Lua arithmetic, and goes on
-- from a file, written on the way, to the same bits.
local core = require "dopl.core"
local json = require "dopl.util.json"
local combinations = require "spec.optim.combinations"
local drive = require "spec.optim.drive"
local reference = require "spec.optim.reference"

local STEPS <const>, SAVED <const> = 6, 4 -- the file is written within a period

-- Everything a checkpoint has to hold, as tensors.
local function tensors_of(session)
  local out = { theta = session.w }
  for _, s in ipairs(session.o:states()) do out["state." .. s.name] = s.tensor end
  return out
end

local function assert_same_bits(label, one, two)
  for name, tensor in pairs(one) do
    local a, b = tensor:tolist(), two[name]:tolist()
    local function compare(x, y)
      if type(x) ~= "table" then return assert(x == y, ("%s: %s differs"):format(label, name)) end
      for i = 1, #x do compare(x[i], y[i]) end
    end
    assert(tensor:dtype() == two[name]:dtype())
    compare(a, b)
  end
end

-- The storages of one rule and scheme: their sessions stop together, so that one file holds all.
local function sessions(rule, case)
  local list = {}
  for _, storage in ipairs(combinations.storages) do
    for _, weights in ipairs(combinations.weights) do
      local c = combinations.store(case, storage, weights)
      c.steps = STEPS
      list[#list + 1] = { label = ("%s states, %s weights"):format(storage, weights), case = c,
        session = drive.start(rule, c) }
    end
  end
  return list
end

describe("a walk over every storage:", function()
  local path
  setup(function() path = os.tmpname() end)
  teardown(function() os.remove(path) end)

  local function save(list)
    local tensors, counters = {}, {}
    for i, item in ipairs(list) do
      for name, tensor in pairs(tensors_of(item.session)) do
        tensors[("%d %s"):format(i, name)] = tensor
      end
      counters[i] = item.session.o:counters()
    end
    core.safetensors.save(path, tensors)
    return json.encode(counters)
  end

  local function resume(rule, item, i, tensors, counters)
    local session, states = drive.start(rule, item.case), {}
    session.w:copy(tensors[("%d theta"):format(i)])
    for _, s in ipairs(session.o:states()) do
      states[s.name] = tensors[("%d state.%s"):format(i, s.name)]
    end
    session.o:restore(states, counters)
    drive.advance(session, SAVED + 1, STEPS)
    assert_same_bits(item.label, tensors_of(item.session), tensors_of(session))
  end

  for _, rule in ipairs(combinations.rules) do
    combinations.each(rule, function(label, case)
      it(("%s under %s"):format(rule.name, label), function()
        local list = sessions(rule.rule, case)
        for _, item in ipairs(list) do drive.advance(item.session, 1, SAVED) end
        local counters = json.decode(save(list))
        local tensors = core.safetensors.load(path)
        for i, item in ipairs(list) do
          drive.advance(item.session, SAVED + 1, STEPS)
          drive.compare(item.label, drive.collect(item.session),
            reference.run(rule.rule, item.case))
          resume(rule.rule, item, i, tensors, counters[i])
        end
      end)
    end)
  end
end)
