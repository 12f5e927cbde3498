// lua_stop.c - how Ctrl-C, kill and a closed terminal end Lua code that would rather not.
//
// A signal sets rt->stop, which operators look at, and only then arms a hook: a permanent count
// hook would double the time of Lua code. The flag is sticky. Whatever could catch the hook's error
// looks at the flag and raises again, so these stand in for Lua's own:
//
//   pcall, xpcall      return only where no stop is pending. A message handler does not run in a
//                      stop: Lua switches hooks off inside a hook's error, so one that loops could
//                      never be ended.
//   coroutine.resume,  the same; a coroutine that died of a stop is not closed: its pending __close
//   wrap, close        methods would run with hooks off.
//   load               its parser catches errors of the reader function.
//
// A hook belongs to one coroutine, so the one that is running is tracked here. Code that ends in
// good order has GRACE instructions to do so, counted from each raise, before the hook fires again.
//
// A training can hold a stop back until its step is whole and saved (dopl.core.stop). The first
// signal is then only noted; a second one does not wait.
//
// coroutine.close counts its nesting: Lua 5.4.4 resets its count of C calls there, and a chain of
// 20,000 coroutines that close each other runs over the C stack.
#include "shell.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum { GRACE = 100000, MAX_CLOSE_DEPTH = 8 };

// What a signal handler can reach must be static.
static struct {
    lua_State *main;
    lua_State *volatile running; // the innermost coroutine
    dopl_rt *rt;
    pthread_t thread;
    volatile sig_atomic_t signal;
    struct timespec last; // of the last SIGINT
    int close_depth;
    volatile sig_atomic_t holds;   // open values of hold()
    volatile sig_atomic_t waiting; // the signal they hold back
} stop;

static int raise_stop(lua_State *L) {
    return luaL_error(L, "stopped");
}

static void on_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    if (!stop.rt || !stop.rt->stop) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    lua_sethook(L, on_hook, LUA_MASKCOUNT, GRACE);
    raise_stop(L);
}

static void arm(lua_State *L) {
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static void begin_stop(int signal) {
    stop.signal = signal;
    stop.rt->stop = 1;
    arm(stop.main);
    if (stop.running != stop.main) arm(stop.running);
}

static void on_signal(int signal) {
    if (!pthread_equal(pthread_self(), stop.thread)) { // the hook may only be set from Lua's thread
        pthread_kill(stop.thread, signal);
        return;
    }
    if (stop.holds && !stop.waiting && !stop.rt->stop) {
        static const char text[] = "\ndopl: stopping after this step; once more: at once\n";
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
        stop.waiting = signal;
        return;
    }
    if (signal == SIGINT) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        double since = (double)(now.tv_sec - stop.last.tv_sec) +
                       1e-9 * (double)(now.tv_nsec - stop.last.tv_nsec);
        if (stop.rt->stop && stop.signal == SIGINT && since < 1.0) _exit(128 + SIGINT);
        stop.last = now;
    }
    begin_stop(signal);
}

void dopl_stop_install(lua_State *L) {
    stop.main = stop.running = L;
    stop.rt = dopl_check_rt(L);
    stop.thread = pthread_self();
    // A stack of its own: oneDNN's matrix products point the stack register into their buffers,
    // where a signal's frame would overwrite what lies before them.
    static char stack[1 << 16];
    stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&own, NULL);
    struct sigaction action = { .sa_handler = on_signal,
                                .sa_flags = SA_ONSTACK }; // no SA_RESTART: reads are interrupted
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction hangup;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) // not under nohup
        sigaction(SIGHUP, &action, NULL);
}

int dopl_stop_signal(void) {
    return stop.signal;
}

void dopl_stop_clear(lua_State *L) {
    lua_sethook(L, NULL, 0, 0);
    stop.running = stop.main;
    stop.signal = 0;
    stop.close_depth = 0;
    stop.waiting = 0;
    if (stop.rt) stop.rt->stop = 0;
}

void dopl_check_stop(lua_State *L) {
    if (stop.rt && stop.rt->stop) raise_stop(L);
}

// ---- holding a stop back

#define HOLD "dopl.stop.hold"

// hold() -> a value with :close(), and <close>; while it is open, the first signal only makes
// asked() true
static int stop_hold(lua_State *L) {
    bool *open = lua_newuserdatauv(L, sizeof *open, 0);
    *open = false;
    luaL_setmetatable(L, HOLD);
    *open = true;
    stop.holds++;
    return 1;
}

static int hold_close(lua_State *L) { // __close, __gc; may run twice
    bool *open = luaL_checkudata(L, 1, HOLD);
    if (!*open) return 0;
    *open = false;
    if (--stop.holds == 0 && stop.waiting) { // a signal from here on finds nothing that holds it
        int signal = stop.waiting;
        stop.waiting = 0;
        begin_stop(signal);
    }
    return 0;
}

// asked() -> whether a signal came, held back or not
static int stop_asked(lua_State *L) {
    lua_pushboolean(L, stop.waiting || (stop.rt && stop.rt->stop));
    return 1;
}

void dopl_stop_bind(lua_State *L) {
    static const luaL_Reg functions[] = { { "hold", stop_hold },
                                          { "asked", stop_asked },
                                          { NULL, NULL } };
    static const luaL_Reg methods[] = { { "close", hold_close }, { NULL, NULL } };
    dopl_new_type(L, HOLD, hold_close, hold_close, methods);
    lua_pop(L, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "dopl.core");
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "stop");
    lua_pop(L, 2);
}

// ---- pcall, xpcall

static int finish_pcall(lua_State *L, int status, lua_KContext extra) {
    if (status != LUA_OK && status != LUA_YIELD) {
        dopl_check_stop(L);
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)extra;
}

int dopl_lua_pcall(lua_State *L) {
    luaL_checkany(L, 1);
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish_pcall);
    return finish_pcall(L, status, 0);
}

static int guarded_handler(lua_State *L) { // upvalue 1: the recipe's handler
    if (stop.rt && stop.rt->stop) return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

int dopl_lua_xpcall(lua_State *L) {
    int n = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, guarded_handler, 1);
    lua_replace(L, 2);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2); // function, handler, true, function, arguments
    int status = lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish_pcall);
    return finish_pcall(L, status, 2);
}

// ---- coroutines

static lua_State *check_coroutine(lua_State *L) {
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

// Runs `co` with n arguments from the top of L; returns the number of results on top of L, or -1
// and the error there.
static int resume(lua_State *L, lua_State *co, int n) {
    if (!lua_checkstack(co, n)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, n);
    lua_State *outer = stop.running;
    stop.running = co;
    int n_results;
    int status = lua_resume(co, L, n, &n_results);
    stop.running = outer;
    if (status == LUA_OK || status == LUA_YIELD) {
        dopl_check_stop(L);
        if (lua_checkstack(L, n_results + 1)) {
            lua_xmove(co, L, n_results);
            return n_results;
        }
        lua_pop(co, n_results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    dopl_check_stop(L);
    lua_xmove(co, L, 1);
    return -1;
}

static int co_resume(lua_State *L) {
    lua_State *co = check_coroutine(L);
    int n = resume(L, co, lua_gettop(L) - 1);
    lua_pushboolean(L, n >= 0);
    if (n < 0) n = 1;
    lua_insert(L, -(n + 1));
    return n + 1;
}

// Closes a suspended or dead coroutine; its error, if any, is on top of `co`.
static int close_coroutine(lua_State *L, lua_State *co) {
    dopl_check_stop(L);
    if (stop.close_depth >= MAX_CLOSE_DEPTH)
        return luaL_error(L, "coroutine.close: more than %d closes inside each other",
                          MAX_CLOSE_DEPTH);
    lua_State *outer = stop.running;
    stop.running = co;
    stop.close_depth++;
    int status = lua_resetthread(co); // protected: errors of __close come back as its status
    stop.close_depth--;
    stop.running = outer;
    dopl_check_stop(L);
    return status;
}

static int co_wrapped(lua_State *L) { // upvalue 1: the coroutine
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume(L, co, lua_gettop(L));
    if (n >= 0) return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) { // it died: close what it left pending
        if (close_coroutine(L, co) != LUA_OK) lua_xmove(co, L, 1);
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, co_wrapped, 1);
    return 1;
}

static int co_close(lua_State *L) {
    lua_State *co = check_coroutine(L);
    int status = lua_status(co);
    lua_Debug ar;
    bool fresh = status == LUA_OK && !lua_getstack(co, 0, &ar); // not started, or ended
    if (co == L || (status == LUA_OK && !fresh))
        return luaL_error(L, "cannot close a %s coroutine", co == L ? "running" : "normal");
    status = close_coroutine(L, co);
    lua_pushboolean(L, status == LUA_OK);
    if (status == LUA_OK) return 1;
    lua_xmove(co, L, 1);
    return 2;
}

void dopl_set_coroutine(lua_State *L) {
    static const luaL_Reg own[] = {
        { "close", co_close }, { "resume", co_resume }, { "wrap", co_wrap }, { NULL, NULL }
    };
    luaL_setfuncs(L, own, 0);
}
