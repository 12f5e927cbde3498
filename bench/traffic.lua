--- traffic.lua - the bytes that an optimizer pass moves, for benchmarks against the speed of memory.

local core = require "dopl.core"

local element = { f32 = 4, bf16 = 2, q8 = 1 + 4 / 256, u8 = 1 + 4 / 256 }

--- What a program does to the memory: bytes moved for an element; the kind of each tensor and
-- whether it is read, written or updated.
return function(listing)
  local bytes, kinds, how, read, written = 0, {}, {}, {}, {}
  for _, row in ipairs(listing.instr) do
    for j = 1, core.optim.primitives[row[1]].tiles do
      if not written[row[2 + j]] then read[row[2 + j]] = true end
    end
    written[row[2]] = true
  end
  for i, kind in ipairs(listing.operands) do
    local place = listing.n_reg + i - 1
    local r, w = read[place], written[place]
    if r or w then
      bytes = bytes + element[kind] * (r and w and 2 or 1)
      kinds[#kinds + 1] = kind == "u8" and "q8" or kind
      how[#how + 1] = r and w and "u" or r and "r" or "w"
    end
  end
  return bytes, kinds, table.concat(how)
end
