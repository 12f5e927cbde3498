-- json_spec.lua - strict going in, canonical coming out.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local json = require "dopl.util.json"
local message = folder.message

describe("json.decode", function()
  it("keeps types", function()
    local v = json.decode [[ {"i": 3, "f": 3.0, "e": 1e2, "t": true, "n": null,
      "s": "\u00e9\ud83d\ude00\u0000x", "a": [1, [], {}], "min": -9223372036854775808} ]]
    assert.equal("integer", math.type(v.i))
    assert.equal("float", math.type(v.f))
    assert.equal("float", math.type(v.e))
    assert.equal(json.null, v.n)
    assert.equal("é😀\0x", v.s)
    assert.equal(math.mininteger, v.min)
    assert.same({ 1, {}, {} }, v.a)
    assert.equal("[1, [], {}]", json.encode(v.a))
  end)

  it("keeps a number that fits no type as its digits", function()
    local v = json.decode [[ {"id": 12345678901234567890, "below": -9223372036854775809,
      "huge": 1e999 , "small": [-1.5E+400,1e-999], "text": "1e999, 99999999999999999999",
      "long": 0.00000000000000000000000000001, "q": "\"", "r": 18446744073709551616} ]]
    assert.same({ id = "12345678901234567890", below = "-9223372036854775809", huge = "1e999",
      small = { "-1.5E+400", 0.0 }, text = "1e999, 99999999999999999999", long = 1e-29, q = '"',
      r = "18446744073709551616" }, v)
    assert.equal("99999999999999999999", json.decode "99999999999999999999")
  end)

  it("keeps every number that fits", function()
    for text, value in pairs {
      ["9223372036854775807"] = math.maxinteger, ["-9223372036854775808"] = math.mininteger,
      ["1.7976931348623157e308"] = 1.7976931348623157e308, ["-0"] = 0,
      ["0.0000000000000000001e327"] = 1e308, ["1797693134862315708e290"] = 1.797693134862315708e308,
      ["0e99999999999999999999"] = 0.0, ["0.000e400"] = 0.0, ["1e-99999999999999999999"] = 0.0,
    } do
      assert.equal(value, json.decode(text), text)
      assert.equal(math.type(value), math.type(json.decode(text)), text)
    end
    for _, text in ipairs { "1.7976931348623159e308", "179769313486231590e291", "10e308",
      "0.001e312", "1e99999999999999999999", "9223372036854775808", "-0.1e310" } do
      assert.equal(text, json.decode(text))
    end
  end)

  it("takes a value of any kind", function()
    assert.equal("x", json.decode '"x"')
    assert.equal(false, json.decode " false\n")
  end)

  it("says what is wrong and where", function()
    local cases = {
      ['{"a": 1, "a": 2}'] = "f:1:%d+: duplicate object key",
      ["[1,]"] = "f:1:4: unexpected token",
      ["{'a': 1}"] = "f:1:2: ",
      [""] = "f:1:1: unexpected token near end of file",
      ["[1] 2"] = "f:1:5: end of file expected",
      ["[1\n, nul]"] = "f:2:%d+: invalid token near 'nul'",
      ['"\xff"'] = "f:1:1: unable to decode byte 0xff",
      ['"\xc0\x80"'] = "unable to decode byte 0xc0",
      ['"\\ud800"'] = "invalid Unicode",
      ['"a\nb"'] = "unexpected newline",
      ["\xef\xbb\xbf{}"] = "f:1:1: a byte order mark; save the file as UTF%-8 without it",
      ['{99999999999999999999: 1}'] = "f:1:21: too big integer",
      ['{1e999 : 1}'] = "real number overflow",
      ["-01e999"] = "f:1:",
      ["[099999999999999999999]"] = "f:1:",
      ["99999999999999999999x"] = "too big integer",
      ["[1e999, 99999999999999999999, 1 2]"] = "f:1:33: ']' expected near '2'",
      ["[1e999,\n-1e999, nul]"] = "f:2:%d+: invalid token near 'nul'",
      ['[1e999, "\xff"]'] = "f:1:9: unable to decode byte 0xff",
      ["01"] = "f:1:",
      ["NaN"] = "invalid token",
      ["[1, 2"] = "near end of file",
      ["// x\n1"] = "f:1:",
      [("["):rep(100000)] = "f:1:201: nested more than 200 deep",
      [('{"a":'):rep(201)] = "nested more than 200 deep",
      [("["):rep(200) .. ("]"):rep(199)] = "near end of file",
    }
    for text, pattern in pairs(cases) do assert.match(pattern, message(json.decode, text, "f")) end
  end)

  it("is not deceived about depth by strings", function()
    assert.equal(("["):rep(300) .. '"', json.decode('"' .. ("["):rep(300) .. '\\""'))
    assert.equal("table", type(json.decode(("["):rep(200) .. ("]"):rep(200))))
  end)

  it("survives every truncation and every flipped byte", function()
    local text = [[{"a": [1, 2.5, "x\n\u00e9"], "b": {"c": null, "d": [true, false]}}]]
    for i = 0, #text - 1 do assert.is_false((pcall(json.decode, text:sub(1, i)))) end
    for i = 1, #text do
      for _, byte in ipairs { "\0", "\xff", "[", '"', "9" } do
        pcall(json.decode, text:sub(1, i - 1) .. byte .. text:sub(i + 1))
      end
    end
  end)
end)

describe("json.encode", function()
  it("sorts keys and marks empty arrays", function()
    assert.equal('{"B": 1, "a": {}, "aa": [], "b": [1, 2]}',
      json.encode { b = { 1, 2 }, aa = json.array(), a = {}, B = 1 })
    assert.equal('{\n  "a": [\n    1\n  ]\n}', json.encode({ a = { 1 } }, { indent = 2 }))
  end)

  it("prints the shortest digits that read back as the same number", function()
    local cases = { { 0.1, "0.1" }, { 1e300, "1e+300" }, { 3.0, "3.0" }, { -0.0, "-0.0" },
      { 0.1 + 0.2, "0.30000000000000004" }, { 5e-324, "4.94065645841247e-324" },
      { 2.0 ^ 53, "9007199254740992.0" } }
    for _, case in ipairs(cases) do
      assert.equal(case[2], json.encode(case[1]))
      assert.equal(case[1], json.decode(case[2]))
    end
    assert.equal("3", json.encode(3))
    assert.equal("-9223372036854775808", json.encode(math.mininteger))
    local rng = require("dopl.util.rng").new(1, "json")
    for _ = 1, 2000 do
      local x = string.unpack("<d", string.pack("<j", rng:bits()))
      if x == x and math.abs(x) < math.huge then assert.equal(x, json.decode(json.encode(x))) end
    end
  end)

  it("escapes, and replaces what is no UTF-8", function()
    assert.equal([["\"\\\n\t\r\b\f\u0001\u007f/é"]], json.encode("\"\\\n\t\r\b\f\1\127/é"))
    for bad, good in pairs { ["a\xffb"] = "a�b", ["\xc3"] = "�", ["\xed\xa0\x80"] = "���",
      ["\xf0\x9f\x98"] = "���", ["\xc0\xaf"] = "��" } do
      assert.equal('"' .. good .. '"', json.encode(bad))
    end
  end)

  it("refuses what JSON cannot hold", function()
    local inside = {}
    inside.inside = inside
    assert.match("json: NaN, a finite number", message(json.encode, { 0 / 0 }))
    assert.match("json: infinity", message(json.encode, math.huge))
    assert.equal("[null]", json.encode({ 0 / 0 }, { nan = "null" }))
    assert.match("array with holes", message(json.encode, { 1, nil, 3 }))
    assert.match("both string and number keys", message(json.encode, { 1, a = 2 }))
    assert.match("a function cannot be written", message(json.encode, { print }))
    assert.match("a table inside itself", message(json.encode, inside))
    assert.match("a boolean as a key", message(json.encode, { [true] = 1 }))
    assert.match("'error' or 'null'", message(json.encode, 1, { nan = "skip" }))
    assert.match("indent = 99", message(json.encode, 1, { indent = 99 }))
  end)
end)

describe("json.array", function()
  it("marks a table and shows nobody the mark", function()
    local list = json.array {}
    assert.is_true(json.is_array(list))
    assert.is_true(json.is_array(json.decode "[]"))
    assert.is_false(json.is_array {})
    assert.is_false(json.is_array(7))
    assert.is_false(getmetatable(list))
    assert.error_matches(function() setmetatable(list, {}) end, "protected metatable")
    assert.equal(list, json.array(list))
  end)

  it("takes no metatable away", function()
    assert.error_matches(function() json.array(setmetatable({}, {})) end,
      "json.array: the table has a metatable of its own")
  end)
end)

describe("a finalizer that changes a table while it is written", function()
  it("finds a copy or is noticed", function()
    local target, n, armed = {}, 0, true
    local function change() -- other keys, and ten times as many or as few
      n = n + 1
      for key in pairs(target) do target[key] = nil end
      for i = 1, n % 2 == 0 and 3000 or 300 do target[("%d of %d"):format(i, n)] = i end
    end
    local function arm()
      setmetatable({}, { __gc = function()
        if not armed then return end
        change()
        arm()
      end })
    end
    change()
    arm()
    local before = collectgarbage("incremental", 1, 1000) -- collects at most allocations
    while n < 8 do
      local ok, text = pcall(json.encode, target)
      assert.is_true(ok or text:find "changed while it was written" ~= nil
        or text:find "'next'" ~= nil, text)
    end
    collectgarbage("incremental", 200, 100)
    collectgarbage(before)
    armed = false
    local _, keys = json.encode(target):gsub(": ", "")
    assert.equal(n % 2 == 0 and 3000 or 300, keys)
  end)
end)

describe("json files", function()
  local dir
  before_each(function() dir = folder.new() end)
  after_each(function() folder.remove(dir) end)

  it("round trip", function()
    json.save(dir .. "/v.json", { a = { 1, 2.5 } })
    assert.same({ a = { 1, 2.5 } }, json.load(dir .. "/v.json"))
    json.save_lines(dir .. "/v.jsonl", { { a = 1 }, { b = 0 / 0 } })
    assert.equal('{"a": 1}\n{"b": null}\n', core.files.read(dir .. "/v.jsonl"))
  end)

  it("name file and line of a broken line", function()
    local path = dir .. "/rows.jsonl"
    core.files.write(path, '{"a": 1}\r\n\n  \n{"b": [1]}\n{"c": }\n')
    local seen = {}
    local text = message(function()
      for row, line in json.lines(path) do seen[#seen + 1] = { line, json.encode(row) } end
    end)
    assert.same({ { 1, '{"a": 1}' }, { 4, '{"b": [1]}' } }, seen)
    assert.is_truthy(text:find(path .. ":5:7: unexpected token near '}'", 1, true), text)
    assert.match("No such file", message(json.lines, dir .. "/none"))
    assert.match("No such file", message(json.load, dir .. "/none"))
    core.files.write(path, "{")
    assert.is_truthy(message(json.load, path):find(path .. ":1:1: ", 1, true))
  end)
end)
