// lua_limits.c - what the interpreter needs of its process: stack for all the recursion that Lua
// allows, and an end where Lua's own memory runs out.
#include "shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

// ---- stack

// Lua allows 200 calls of C inside each other, and begins anew in each coroutine.close inside
// another (lua_stop.c counts those). A call of string.gsub takes 2.3 KB.
enum { STACK = 8 << 20 };

bool dopl_take_stack(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= STACK) return true;
    rlim_t given = limit.rlim_cur;
    limit.rlim_cur = STACK; // the kernel asks for it whenever the stack grows
    if (limit.rlim_max >= STACK && setrlimit(RLIMIT_STACK, &limit) == 0) return true;
    fprintf(stderr,
            "dopl: the stack is limited to %llu KiB, needs %d KiB (ulimit -s %d before it)\n",
            (unsigned long long)given / 1024, STACK / 1024, STACK / 1024);
    return false;
}

// ---- memory
//
// Where an allocation fails, Lua collects garbage in the middle of what it does and tries again.
// Lua 5.4.4 is not ready for that while an assignment through __newindex makes the table grow that
// it assigns to: where only a weak table refers to it, it is collected, and written to all the
// same. So a table's part that cannot grow ends the process. Other failures are Lua's to raise: of
// an object, and of a buffer that is too large to be a part of any table there is.

static size_t held; // bytes that Lua has

static void end_for_memory(size_t bytes) {
    fflush(stdout);
    fprintf(stderr, "dopl: out of memory: Lua has %zu MiB and needs %.1f MiB more\n", held >> 20,
            (double)bytes / (1 << 20));
    _exit(1);
}

static void *allocate(void *unused, void *block, size_t old, size_t bytes) {
    (void)unused;
    bool object = !block && old; // `old` says of which type
    if (!block) old = 0;
    if (!bytes) {
        free(block);
        held -= old;
        return NULL;
    }
    void *fresh = realloc(block, bytes);
    // a part of a table doubles; from its hash to its array, or back, that is four times at most
    bool part_of_table = !object && bytes / 4 <= held;
    if (!fresh && part_of_table) end_for_memory(bytes - old);
    if (fresh) held += bytes - old;
    return fresh;
}

void dopl_limit_memory(lua_State *L) {
    held = (size_t)lua_gc(L, LUA_GCCOUNT) << 10;
    lua_setallocf(L, allocate, NULL);
}
