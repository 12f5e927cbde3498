-- safetensors_spec.lua - tensors come back as they were, and nothing is believed that a file says.
local core = require "dopl.core"
local folder = require "spec.io.folder"
local message, safetensors = folder.message, core.safetensors

describe("dopl.core.safetensors", function()
  local dir, path
  before_each(function()
    dir = folder.new()
    path = dir .. "/t.safetensors"
  end)
  after_each(function() folder.remove(dir) end)

  -- A file with this header and so many bytes of data.
  local function file(header, data)
    core.files.write(path, string.pack("<s8", header) .. (data or ""))
  end

  it("round trips names, types, shapes, elements and metadata", function()
    local a <close> = core.tensor { { 1, -2.5 }, { 0, 1e30 } }
    local b <close> = core.i32 { 7, -7 }
    local c <close> = core.zeros { 0, 3 }
    local scalar <close> = core.tensor(4)
    safetensors.save(path, { ["m.w é"] = a, ids = b, empty = c, s = scalar },
      { format = "pt", note = "x" })
    local t, metadata = safetensors.load(path)
    assert.same({ { 1, -2.5 }, { 0, core.tensor(1e30):item() } }, t["m.w é"]:tolist())
    assert.same({ 7, -7 }, t.ids:tolist())
    assert.equal("i32", t.ids:dtype())
    assert.equal(0, t.empty:numel())
    assert.equal(4, t.s:item())
    assert.same({ format = "pt", note = "x" }, metadata)
    local names = {}
    for i, e in ipairs(safetensors.list(path)) do names[i] = e.name .. " " .. e.dtype end
    assert.same({ "empty F32", "ids I32", "m.w é F32", "s F32" }, names)
    local some = safetensors.load(path, function(name) return name == "ids" end)
    assert.is_nil(some.s)
    assert.same({ 7, -7 }, some.ids:tolist())
  end)

  it("writes the same bytes for the same tensors, aligned and sorted", function()
    local a, b = core.tensor { 1, 2 }, core.tensor { 3 }
    safetensors.save(path, { b = b, a = a }, { y = "2", x = "1" })
    local text = core.files.read(path)
    safetensors.save(path, { a = a, b = b }, { x = "1", y = "2" })
    assert.equal(text, core.files.read(path))
    local header, at = string.unpack("<s8", text)
    assert.equal(1, at % 8)
    assert.match('^{"__metadata__":{"x":"1","y":"2"},"a":{.*"data_offsets":%[0,8%]},"b":', header)
    assert.equal(string.pack("<fff", 1, 2, 3), text:sub(at))
  end)

  it("writes and reads nothing at all", function()
    safetensors.save(path, {})
    local t, metadata = safetensors.load(path)
    assert.same({}, t)
    assert.same({}, metadata)
  end)

  it("widens half precision exactly", function()
    file('{"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]}}',
      string.pack("<I2I2I2I2I2I2", 0x3c00, 0xc000, 0x0001, 0x7c00, 0x8000, 0x7bff))
    local t = safetensors.load(path)
    assert.same({ 1, -2, 2 ^ -24, math.huge, -0.0, 65504 }, t.h:tolist())
  end)

  it("refuses a file cut off anywhere", function()
    safetensors.save(path, { a = core.tensor { 1, 2, 3 }, b = core.i32 { 4 } })
    local text = core.files.read(path)
    for i = 0, #text - 1 do
      core.files.write(path, text:sub(1, i))
      assert.is_truthy(message(safetensors.load, path):find(path, 1, true))
    end
    core.files.write(path, text:sub(1, -2))
    assert.match("tensor 'b': its elements end after the file does %(is the file whole%?%)",
      message(safetensors.load, path))
    core.files.write(path, text:sub(1, 40))
    assert.match("the header says %d+ bytes, the file has 32", message(safetensors.load, path))
  end)

  it("says what is wrong with a header", function()
    local function entry(fields) return '{"a":{' .. fields .. "}}" end
    local cases = {
      { "[]", "the header is no object" },
      { "{", ":1:1: " },
      { '{"a":1}', "tensor 'a': no object" },
      { entry '"dtype":"F32","shape":[1]', "needs exactly dtype, shape and data_offsets" },
      { entry '"dtype":"F32","shape":[-1],"data_offsets":[0,4]', "an impossible shape" },
      { entry '"dtype":"F32","shape":[1.5],"data_offsets":[0,4]', "an impossible shape" },
      { entry '"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,4]',
        "an impossible shape" },
      { entry '"dtype":"F32","shape":[2],"data_offsets":[0,4]', "do not span dtype and shape" },
      { entry '"dtype":"F32","shape":[1],"data_offsets":[4,0]', "data_offsets are no range" },
      { entry '"dtype":"F32","shape":[1],"data_offsets":[-4,0]', "data_offsets are no range" },
      { entry '"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775807]',
        "its elements end after the file does" },
      { entry '"dtype":"F32","shape":[1],"data_offsets":[4,8]', "unused bytes", 8 },
      { entry '"dtype":"F32","shape":[1],"data_offsets":[0,4]', "4 bytes after the last", 8 },
      { entry '"dtype":"I64","shape":[1],"data_offsets":[0,4]', "do not span dtype and shape" },
      { entry '"dtype":"F4","shape":[1],"data_offsets":[0,8]', "its elements end after the file" },
      { '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],'
        .. '"data_offsets":[2,4]}}', "overlaps another tensor" },
      { '{"a":{},"a":{}}', "duplicate object key" },
      { '{"__metadata__":{"a":1}}', "__metadata__ needs strings" },
      { '{"a":' .. ("["):rep(5000), "nested more than 200 deep" },
    }
    for _, case in ipairs(cases) do
      file(case[1], ("x"):rep(case[3] or 4))
      local text = message(safetensors.load, path)
      assert.is_truthy(text:find(path, 1, true), text)
      assert.is_truthy(text:find(case[2], 1, true), text)
    end
    core.files.write(path, string.pack("<I8", 1 << 60) .. "x")
    assert.match("a header of %d+ bytes, at most 100000000", message(safetensors.load, path))
  end)

  it("reads what can be read beside tensors of other types", function()
    local function tensor(name, dtype, shape, from, to)
      return ('"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'):format(name, dtype, shape,
        from, to)
    end
    file("{" .. table.concat({ tensor("a", "F32", "2", 0, 8), tensor("bool", "BOOL", "3", 8, 11),
      tensor("f8", "F8_E4M3", "2", 11, 13), tensor("i64", "I64", "1", 13, 21),
      tensor("new", "F4", "4", 21, 23), tensor("deep", "F32", "1,1,1,1,1", 23, 27) }, ",") .. "}",
      string.pack("<ff", 1, -2) .. ("\1"):rep(19))
    local t, _, unread = safetensors.load(path)
    assert.same({ 1, -2 }, t.a:tolist())
    assert.equal("a", next(t))
    assert.is_nil(next(t, "a"))
    assert.is_nil(t.other)
    for name, why in pairs { bool = "BOOL is not supported", f8 = "F8_E4M3 is not supported",
      i64 = "I64 is not supported", new = "F4 is not supported",
      deep = "5 dimensions, at most 4" } do
      why = ("%s: tensor '%s': %s"):format(path, name, why)
      assert.equal(why, unread[name])
      assert.is_truthy(message(function() return t[name] end):find(why, 1, true))
      local wanted = message(safetensors.load, path, function(n) return n == name end)
      assert.is_truthy(wanted:find(why, 1, true), wanted)
    end
    local origin, same = safetensors.origin(t)
    assert.equal(path, origin)
    assert.equal(unread, same)
    assert.is_nil(safetensors.origin {})
    assert.same({ 1, -2 }, safetensors.load(path, function(n) return n == "a" end).a:tolist())
    assert.equal(6, #safetensors.list(path))
  end)

  it("refuses what it cannot save, and leaves nothing behind", function()
    local t = core.tensor { 1 }
    assert.match("No space left", message(safetensors.save, "/dev/full", { a = t }))
    assert.match("No such file", message(safetensors.save, dir .. "/no/x", { a = t }))
    assert.match("'a' is a number, a tensor is needed", message(safetensors.save, path, { a = 1 }))
    assert.match("a number as a tensor's name", message(safetensors.save, path, { t }))
    assert.match("a number as a metadata value", message(safetensors.save, path, {}, { a = 1 }))
    assert.match("__metadata__", message(safetensors.save, path, { ["__metadata__"] = t }))
    assert.match("No such file", message(safetensors.load, path))
    assert.match("not a file", message(safetensors.load, dir))
    assert.equal("", folder.names(dir))
  end)
end)
