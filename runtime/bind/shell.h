// shell.h - what only the executable has: limits, stopping, the recipes' globals, the prompt.
#ifndef DOPL_BIND_SHELL_H
#define DOPL_BIND_SHELL_H

#include "bind.h"

typedef struct {
    const char *root;   // directory that holds dopl/init.lua
    const char *recipe; // NULL: none; modules beside it can be required
    bool trusted;       // the standard libraries as Lua ships them
} dopl_shell;

// --- lua_limits.c ---

bool dopl_take_stack(void); // the stack that Lua may need; false: said that it is not there
void dopl_limit_memory(lua_State *L); // ends the process where Lua cannot go on without memory

// --- lua_stop.c ---

// From here on SIGINT and SIGTERM stop the Lua code of `L` with an error that no Lua code can
// catch. A second SIGINT within a second ends the process at once.
void dopl_stop_install(lua_State *L);
void dopl_stop_bind(lua_State *L);  // dopl.core.stop: how a training ends a step before it stops
int dopl_stop_signal(void);         // the signal that asked for a stop; 0: none
void dopl_stop_clear(lua_State *L); // the stop was obeyed; the next one is a new one

// Versions that cannot swallow a stop. set_coroutine puts resume, wrap and close into the table on
// top of the stack.
void dopl_set_coroutine(lua_State *L);
int dopl_lua_pcall(lua_State *L);
int dopl_lua_xpcall(lua_State *L);
void dopl_check_stop(lua_State *L); // raises where a stop was asked for

// --- lua_sandbox.c ---

// Fills the globals of a fresh state. Raises on failure: call it protected.
void dopl_open_globals(lua_State *L, const dopl_shell *shell);

// --- lua_prompt.c ---

// Reads, runs and prints until the end of input. The exit status.
int dopl_prompt(lua_State *L);

// --- main.c ---

// Calls with a traceback; on failure reports the error, pops it and returns the exit status, else
// 0.
int dopl_call(lua_State *L, int n_args, int n_results);
int dopl_report(lua_State *L); // prints the error on top of the stack; the exit status

#endif
