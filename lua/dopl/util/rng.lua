--- util/rng.lua - seeded random streams that give the same numbers on every machine.
--
-- A stream is a pure function of (seed, name, counter): draw number n is the splitmix64 finaliser
-- of key + n * golden ratio. Nothing is shared between streams, so adding a draw to one never moves
-- another, and a saved state is a key and a counter.
--
-- Normal deviates use a logarithm made of additions, products and quotients alone: libm's differs
-- in the last bit between machines, IEEE arithmetic does not.
--
-- @module dopl.util.rng

local rng = {}
local Stream = {}
Stream.__index = Stream

local GOLDEN <const> = 0x9E3779B97F4A7C15
local FNV_OFFSET <const> = 0xCBF29CE484222325
local FNV_PRIME <const> = 0x100000001B3

-- Steele, Lea & Flood 2014, variant 13 of Stafford's mixers.
local function mix(z)
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return z ~ (z >> 31)
end

local function hash(text, start)
  local h = start or FNV_OFFSET
  for i = 1, #text do h = (h ~ text:byte(i)) * FNV_PRIME end
  return h
end

local function stream(key, counter)
  return setmetatable({ key = key, counter = counter }, Stream)
end

local function check_name(name, where, level)
  if type(name) ~= "string" then
    error(where .. ": the stream's name must be a string, given " .. type(name), level + 1)
  end
end

--- A stream of random numbers.
-- @tparam integer seed the run's seed
-- @tparam[opt=""] string name what the stream is for; another name is an independent stream
-- @treturn Stream
function rng.new(seed, name)
  local whole = math.tointeger(seed)
  if type(seed) ~= "number" or not whole then
    error("rng.new: the seed must be an integer, given " .. tostring(seed), 2)
  end
  name = name or ""
  check_name(name, "rng.new", 2)
  return stream(mix(mix(whole + GOLDEN) ~ hash(name)), 0)
end

--- A stream that goes on where `stream:state()` was taken.
-- @tparam string state
-- @treturn Stream
function rng.restore(state)
  local key, counter
  if type(state) == "string" then key, counter = state:match("^rng1:(%x+):(%d+)$") end
  if not key or #key ~= 16 or not math.tointeger(counter) then
    error("rng.restore: not a state of a random stream: " .. tostring(state), 2)
  end
  return stream(tonumber(key, 16), math.tointeger(counter))
end

--- A 64-bit content hash of a string, the same on every machine (not cryptographic).
-- @tparam string text
-- @treturn integer
function rng.hash(text)
  if type(text) ~= "string" then error("rng.hash: a string is needed, given " .. type(text), 2) end
  return mix(hash(text))
end

--- Where the stream stands, as a short string that survives JSON.
function Stream:state()
  return ("rng1:%016x:%d"):format(self.key, self.counter)
end

--- An independent stream named after this one; a function of the key, never of the counter.
-- @tparam string name
function Stream:fork(name)
  check_name(name, "rng:fork", 2)
  return stream(mix(mix(self.key + GOLDEN) ~ hash(name)), 0)
end

--- 64 random bits.
function Stream:bits()
  local n = self.counter + 1
  self.counter = n
  return mix(self.key + n * GOLDEN)
end

--- A float in [0, 1), a multiple of 2^-53.
function Stream:uniform()
  return (self:bits() >> 11) * 0x1p-53
end

--- An integer in 1..n, without modulo bias.
function Stream:integer(n)
  local whole = math.tointeger(n)
  if type(n) ~= "number" or not whole or whole < 1 then
    error("rng:integer: needs an integer of at least 1, given " .. tostring(n), 2)
  end
  local limit = math.maxinteger - math.maxinteger % whole
  local r
  repeat r = self:bits() >> 1 until r < limit
  return r % whole + 1
end

-- Natural logarithm of 0 < x < 1: scale to [1/sqrt 2, sqrt 2), then 2 atanh((m - 1) / (m + 1)).
local LN2 <const> = 0x1.62e42fefa39efp-1
local function ln(x)
  local e = 0
  while x < 0x1.6a09e667f3bcdp-1 do
    x, e = x * 2, e - 1
  end
  local s = (x - 1) / (x + 1)
  local s2, sum = s * s, 0.0
  for k = 25, 1, -2 do sum = sum * s2 + 1 / k end -- |s| < 0.172: s^27 / 27 is below 2^-70
  return 2 * s * sum + e * LN2
end

--- A standard normal deviate (Marsaglia's polar method; the second of the pair is not kept, so the
-- state stays a counter).
function Stream:normal()
  while true do
    local u, v = 2 * self:uniform() - 1, 2 * self:uniform() - 1
    local q = u * u + v * v
    if q > 0 and q < 1 then return u * math.sqrt(-2 * ln(q) / q) end
  end
end

--- One element of an array.
function Stream:pick(array)
  if #array == 0 then error("rng:pick: the array is empty", 2) end
  return array[self:integer(#array)]
end

--- Shuffles an array in place (Fisher-Yates) and returns it.
function Stream:shuffle(array)
  for i = #array, 2, -1 do
    local j = self:integer(i)
    array[i], array[j] = array[j], array[i]
  end
  return array
end

return rng
