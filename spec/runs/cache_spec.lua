-- cache_spec.lua - entries are found again, never half there, and never worth failing for.
local folder = require "spec.io.folder"
local shell = require "spec.cli.shell"

describe("dopl.cache", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  -- Runs Lua text with the cache in `where`, by default the spec's folder.
  local function with_cache(text, where)
    local status, out, err = shell.sh(("DOPL_CACHE=%s %s --trust -e %s </dev/null"):format(
      shell.quote(where or dir .. "/cache"), shell.quote(shell.dopl), shell.quote([[
        local cache, core = require "dopl.run.cache", require "dopl.core"
        local n = 0
        local function make() n = n + 1; return { made = n } end
      ]] .. text)))
    assert.equal("", err)
    assert.equal(0, status)
    return out
  end

  it("makes an entry once, for all later runs", function()
    local text = [[
      local key = cache.key("a", 1, { b = true })
      print(cache.value("t", key, make).made, cache.value("t", key, make).made, n)
    ]]
    assert.equal("1\t1\t1\n", with_cache(text))
    assert.equal("1\t1\t0\n", with_cache(text))
  end)

  it("keys by content, order of parts and their kinds", function()
    local cache = require "dopl.run.cache"
    assert.equal(cache.key { a = 1, b = 2 }, cache.key { b = 2, a = 1 })
    local seen = {}
    for _, key in ipairs { cache.key(1, 2), cache.key(2, 1), cache.key(1.0, 2), cache.key("12"),
      cache.key(1, 2, nil), cache.key({ 1, 2 }), cache.key() } do
      assert.is_nil(seen[key])
      seen[key] = true
    end
  end)

  it("makes a broken entry again", function()
    assert.equal("1\t2\t2\n", with_cache [[
      local a = cache.value("t", "k", make).made
      core.files.write(cache.path("t", "k", "json"), '{"made": ')
      print(a, cache.value("t", "k", make).made, cache.value("t", "k", make).made)
    ]])
  end)

  it("keeps tensors with their metadata", function()
    assert.equal("2.0\t7\n2.0\t7\n1\n", with_cache [[
      for _ = 1, 2 do
        local t, metadata = cache.tensors("m", "k", function()
          make()
          return { w = core.tensor { 1, 2 } }, { steps = "7" }
        end)
        print(t.w:tolist()[2], metadata.steps)
      end
      print(n)
    ]])
  end)

  it("gives the value and the reason where the cache cannot be written", function()
    assert.match("^1\tnil\t/dev/null/cache/t: Not a directory", with_cache(
      [[ local v, _, reason = cache.value("t", "k", make) print(v.made, nil, reason) ]],
      "/dev/null/cache"))
  end)

  it("refuses names that could lead elsewhere, and passes on what making fails with", function()
    local out = with_cache [[
      for _, kind in ipairs { "..", "a/b", "", "a.b" } do
        print((select(2, pcall(cache.path, kind, "k", "json"))))
      end
      print((select(2, pcall(cache.value, "t", "k", function() error("boom", 0) end))))
    ]]
    assert.equal(4, select(2, out:gsub("letters, digits, _ and %- needed", "")))
    assert.match("boom\n$", out)
    assert.match("cache.value: make: nil, needs function",
      with_cache [[ print((select(2, pcall(cache.value, "t", "k")))) ]])
  end)

  it("lies where the environment says", function()
    local function folder_with(environment)
      local _, out = shell.sh(("env -u DOPL_CACHE -u XDG_CACHE_HOME HOME=/h %s %s --trust -e %s")
        :format(environment, shell.quote(shell.dopl), shell.quote "print(dopl.core.cache_folder())"))
      return out
    end
    for environment, path in pairs { [""] = "/h/.cache/dopl", ["DOPL_CACHE=/c"] = "/c",
      ["DOPL_CACHE="] = "/h/.cache/dopl", ["XDG_CACHE_HOME=/x"] = "/x/dopl",
      ["XDG_CACHE_HOME=x"] = "/h/.cache/dopl", ["XDG_CACHE_HOME=/x DOPL_CACHE=c"] = "c",
      ["HOME="] = "nil" } do
      assert.equal(path .. "\n", folder_with(environment), environment)
    end
  end)
end)
