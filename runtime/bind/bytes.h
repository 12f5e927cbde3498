// bytes.h - a collectable home for bytes that the core hands to a binding.
#ifndef DOPL_BIND_BYTES_H
#define DOPL_BIND_BYTES_H

#include "../io/bytes.h"
#include "bind.h"

// Pushes an empty box; whatever it holds is freed with it at the latest.
dopl_bytes *dopl_push_bytes(lua_State *L);
// Turns the bytes of the box at `index` into a Lua string on top and empties the box.
void dopl_push_text(lua_State *L, int index);
// A string argument that can be a path: no NUL inside.
const char *dopl_check_path(lua_State *L, int arg);

#endif
