-- coverage_spec.lua - an operator without samples fails.
local core = require "dopl.core"

-- What a family file covers, without running it. Other specs of the folder cover no family.
local function covered_by(path)
  local seen
  local function require_(name)
    if name == "op.walker" then
      return { check = function(_, ops) seen = ops return ops end }
    end
    return require(name)
  end
  local env = setmetatable({ require = require_, describe = function() end }, { __index = _G })
  assert(load(assert(core.files.read(path)), "@" .. path, "t", env))()
  return seen or {}
end

describe("every operator of ops.def", function()
  it("has samples, a reference and, where shapes matter, shapes that are refused", function()
    local samples = {}
    for _, file in ipairs(core.files.list("spec/op")) do
      if file:find("_spec%.lua$") and file ~= "coverage_spec.lua" then
        for name, spec in pairs(covered_by("spec/op/" .. file)) do
          assert.is_nil(samples[name], name .. " is in two files")
          samples[name] = spec
        end
      end
    end
    local missing = {}
    for _, row in ipairs(core.op_rows) do
      local spec = samples[row.name]
      if not spec or #spec.samples == 0 or not spec.reference then
        missing[#missing + 1] = row.name .. " has no samples"
      elseif (#row.inputs + #row.attributes > 1 or row.inputs[1].kind == "list")
        and #(spec.wrong or {}) == 0 then
        missing[#missing + 1] = row.name .. " refuses nothing"
      end
      assert.truthy(row.doc ~= "", row.name .. " has no help")
      samples[row.name] = nil
    end
    assert.same({}, missing)
    assert.is_nil(next(samples), "samples of no operator")
  end)
end)
