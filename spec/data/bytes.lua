-- bytes.lua - a tokenizer for specs: a token is a byte, 256 ends a sample, no other is special.
local tok <const> = { eos = 256 }

function tok.encode(_, text) return { text:byte(1, -1) } end
function tok.id() end

return tok
