// main.c - the command line: dopl [options] [recipe.lua [--param value ...]]
//
// Follows lua(1) where it can. Exit status: 0, 1 for a recipe's error, 2 for wrong usage, 128 + n
// for a stop by signal n. An error value that is a table with an integer field `exit` ends the
// process with that status and, as its message, the field `message`: how dopl.params says --help
// and "no such parameter" from inside a sandbox that has no os.exit.
#include "bind/shell.h"
#include "core/device.h"
#include "io/roots.h"
#include "text/nearest.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lualib.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BEFORE, ANYWHERE };
typedef enum { ACTION, FLAG, DEVICE, INTEGER, FOLDER } option_type;

typedef struct {
    const char *name, *letter, *value, *default_text, *text;
    option_type type;
    int place;
} option_row;

typedef enum {
#define OPTION(id, long, letter, value, type, place, default, text) OPTION_##id,
#include "options.def"
    N_OPTION
} option_id;

static const option_row rows[N_OPTION] = {
#define OPTION(id, long, letter_, value_, type_, place_, default, text_)                           \
    [OPTION_##id] = { .name = long,                                                                \
                      .letter = letter_,                                                           \
                      .value = value_,                                                             \
                      .default_text = default,                                                     \
                      .text = text_,                                                               \
                      .type = type_,                                                               \
                      .place = place_ },
#include "options.def"
};

typedef struct {
    option_id kind; // of type ACTION
    char *text;
} action;

typedef struct {
    int argc;
    char **argv;
    int recipe; // index in argv; argc: none
    action *actions;
    int n_actions;
    const char *device;
    const char *out;
    const char *resume; // "": begin a run
    long long seed;
    int threads; // 0: all cores
    bool flag[N_OPTION];
    bool prompt;
} options;

// ---- messages

static void say(const char *message, size_t n) {
    fputs("dopl: ", stderr);
    dopl_put_text(stderr, message, n);
    fputc('\n', stderr);
}

// A message about the command line, cut to what a person would read.
__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say(text, strlen(text));
}

// ---- options

static void print_usage(void) {
    enum { COLUMN = 16 }; // of an option with its value
    puts("usage: dopl [options] [recipe.lua [--param value ...]]\n"
         "       dopl [options] compare RUN...\n");
    for (int i = 0; i < N_OPTION; i++) {
        const option_row *row = &rows[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", row->letter,
                 *row->letter && *row->name ? ", " : "", row->name, row->value ? " " : "",
                 row->value ? row->value : "");
        printf("  %-*s%s", COLUMN, left, row->text);
        if (row->default_text) printf(" (default: %s)", row->default_text);
        putchar('\n');
    }
    printf("  %-*s%s", COLUMN, "-", "run standard input; --  ends the options\n\n");
    puts("compare prints runs side by side and writes the same as a page.\n"
         "Without a recipe: the prompt, or standard input where that is no terminal.");
    const char *before = "";
    for (int i = 0; i < N_OPTION; i++) {
        if (rows[i].place != ANYWHERE) continue;
        printf("%s%s", before, rows[i].name);
        before = ", ";
    }
    puts(" may also follow the recipe.");
}

static bool unknown_option(const char *given) {
    const char *names[N_OPTION];
    int n = 0;
    for (int i = 0; i < N_OPTION; i++)
        if (*rows[i].name) names[n++] = rows[i].name;
    char name[64], hint[64] = "";
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given, "="), given);
    int nearest = name[1] == '-' ? dopl_nearest(name, names, n) : -1;
    if (nearest >= 0) snprintf(hint, sizeof hint, " (did you mean '%s'?)", names[nearest]);
    complain("unknown option '%s'%s\ndopl --help lists the options", name, hint);
    return false;
}

static bool read_integer(const char *name, const char *text, long long min, long long max,
                         long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (*text && !isspace((unsigned char)*text) && !*end && !errno && *out >= min && *out <= max)
        return true;
    complain("%s: '%s' given, an integer from %lld to %lld needed", name, text, min, max);
    return false;
}

static bool set_option(options *o, option_id id, char *value) {
    const char *name = rows[id].name;
    long long n;
    if (rows[id].type == ACTION) {
        o->actions[o->n_actions++] = (action){ id, value };
    } else if (id == OPTION_device) {
        o->device = value;
        if (dopl_device_named(value)) return true;
        complain("--device: '%s' given, cpu, cuda, cuda:N or auto needed", value);
        return false;
    } else if (id == OPTION_threads) {
        if (!read_integer(name, value, 1, 1024, &n)) return false;
        o->threads = (int)n;
    } else if (id == OPTION_seed) {
        return read_integer(name, value, 0, LLONG_MAX, &o->seed);
    } else if (!*value) {
        complain("%s: the name of a folder is needed", name);
        return false;
    } else if (id == OPTION_resume) {
        o->resume = value;
    } else {
        o->out = value;
    }
    return true;
}

// The value in `arg` if it is this option: what follows "--name=" or "-x"; "" if the value is the
// next argument, or if there is none. NULL: another option.
static char *value_in(const option_row *row, char *arg) {
    size_t n = strlen(row->name);
    if (n && strncmp(arg, row->name, n) == 0 && (!arg[n] || (row->value && arg[n] == '=')))
        return arg + n;
    n = strlen(row->letter);
    if (n && strncmp(arg, row->letter, n) == 0 && (!arg[n] || row->value)) return arg + n;
    return NULL;
}

// *i is moved past a value that is an argument of its own.
static bool read_option(options *o, int *i) {
    char *arg = o->argv[*i];
    for (int id = 0; id < N_OPTION; id++) {
        char *value = value_in(&rows[id], arg);
        if (!value) continue;
        if (!rows[id].value) return o->flag[id] = true;
        bool is_long = arg[1] == '-';
        if (*value) return set_option(o, (option_id)id, is_long ? value + 1 : value);
        if (*i + 1 < o->argc) return set_option(o, (option_id)id, o->argv[++*i]);
        complain("%s needs a value", arg);
        return false;
    }
    return unknown_option(arg);
}

static bool read_options(options *o) {
    int i = 1;
    for (; i < o->argc; i++) {
        char *arg = o->argv[i];
        if (arg[0] != '-' || !strcmp(arg, "-")) break;
        if (!strcmp(arg, "--")) {
            i++;
            break;
        }
        if (!read_option(o, &i)) return false;
    }
    o->recipe = i;
    return true;
}

// ---- running

// Message handler: adds the Lua traceback, less the frames that are always there.
static int traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (!message) {
        if (lua_type(L, 1) == LUA_TTABLE || !luaL_callmeta(L, 1, "__tostring")) {
            if (lua_type(L, 1) == LUA_TTABLE) return 1;
            lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
        }
        message = lua_tostring(L, -1);
    }
    if (dopl_check_rt(L)->stop) return 1;
    luaL_traceback(L, L, dopl_blame_recipe(L, message), 1);
    static const char *const always[] = { "\n\t[C]: in function 'error'", "\n\t[C]: in ?", NULL };
    for (int i = 0; always[i]; i++) luaL_gsub(L, lua_tostring(L, -1), always[i], "");
    return 1;
}

int dopl_report(lua_State *L) {
    int status = 1;
    fflush(stdout);
    if (dopl_check_rt(L)->stop && dopl_stop_signal()) {
        complain("stopped");
        return 128 + dopl_stop_signal();
    }
    if (lua_type(L, -1) == LUA_TTABLE) {
        lua_pushliteral(L, "exit");
        if (lua_rawget(L, -2) == LUA_TNUMBER) status = (int)lua_tointeger(L, -1);
        lua_pushliteral(L, "message");
        lua_rawget(L, -3);
    }
    size_t n;
    const char *message = lua_tolstring(L, -1, &n);
    if (message)
        say(message, n);
    else if (status == 1)
        complain("(error object is a table)");
    return status;
}

int dopl_call(lua_State *L, int n_args, int n_results) {
    int base = lua_gettop(L) - n_args;
    lua_pushcfunction(L, traceback);
    lua_insert(L, base);
    int status = lua_pcall(L, n_args, n_results, base);
    lua_remove(L, base);
    return status == LUA_OK ? 0 : dopl_report(L);
}

static int run_chunk(lua_State *L, int loaded, int n_results) {
    if (loaded != LUA_OK) return dopl_report(L);
    return dopl_call(L, 0, n_results);
}

static int run_action(lua_State *L, const action *a) {
    if (a->kind == OPTION_statement)
        return run_chunk(L, luaL_loadbufferx(L, a->text, strlen(a->text), "=(command line)", "t"),
                         0);
    char *name = a->text, *equals = strchr(a->text, '=');
    char *module = equals ? equals + 1 : name;
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = dopl_call(L, 1, 1);
    if (status) return status;
    lua_pushlstring(L, name, equals ? (size_t)(equals - name) : strlen(name));
    lua_insert(L, -2);
    lua_pushglobaltable(L);
    lua_insert(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    return 0;
}

// `dopl compare RUN...`, unless a file has that name.
static bool is_compare(const options *o) {
    return o->recipe < o->argc && !strcmp(o->argv[o->recipe], "compare") &&
           access("compare", F_OK) != 0;
}

// Adds to the message on top where the recipe would be, if its name were written out.
static void suggest_recipe(lua_State *L, const char *name) {
    static const char *const forms[] = { "%s.lua", "recipes/%s.lua", "recipes/%s" };
    char path[PATH_MAX];
    for (int i = 0; i < 3; i++) {
        int n = snprintf(path, sizeof path, forms[i], name);
        if (n >= PATH_MAX || access(path, R_OK) != 0) continue;
        lua_pushfstring(L, "%s (did you mean %s?)", lua_tostring(L, -1), path);
        lua_remove(L, -2);
        return;
    }
}

static int load_recipe(lua_State *L, const options *o) {
    const char *name = o->argv[o->recipe];
    if (is_compare(o)) return luaL_loadstring(L, "require('dopl.run.compare').main(...)");
    bool from_stdin = !strcmp(name, "-") && strcmp(o->argv[o->recipe - 1], "--") != 0;
    int status = luaL_loadfilex(L, from_stdin ? NULL : name, "t");
    if (status == LUA_ERRFILE && access(name, F_OK) != 0) suggest_recipe(L, name);
    return status;
}

static int run_recipe(lua_State *L, const options *o) {
    static const char begin[] = "require('dopl.run.plan').start()",
                      end[] = "require('dopl.run.plan').finish()",
                      failed[] = "require('dopl.run.plan').finish(true)";
    int status = o->flag[OPTION_plan] ? run_chunk(L, luaL_loadstring(L, begin), 0) : 0;
    if (status) return status;
    if (load_recipe(L, o) != LUA_OK) return dopl_report(L);
    int n = o->argc - o->recipe - 1;
    if (!lua_checkstack(L, n + 8)) {
        complain("too many arguments");
        return 2;
    }
    for (int i = 1; i <= n; i++) lua_pushstring(L, o->argv[o->recipe + i]);
    status = dopl_call(L, n, 0);
    int planned =
        o->flag[OPTION_plan] ? run_chunk(L, luaL_loadstring(L, status ? failed : end), 0) : 0;
    return status ? status : planned;
}

#define PROFILE "require('dopl.run.profile')."

// After an error or a stop too. Returns the status, or its own failure where that is none.
static int tell_profile(lua_State *L, int status) {
    dopl_stop_clear(L);
    int told = run_chunk(L, luaL_loadstring(L, PROFILE "finish()"), 0);
    return status ? status : told;
}

// ---- the state

static bool find_root(char *root, size_t size) { // the directory that holds dopl/init.lua
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash = n > 0 ? (exe[n] = '\0', strrchr(exe, '/')) : NULL;
    if (slash) *slash = '\0';
    static const char *const beside[] = { "/../lua", "/../share/lua/5.4", NULL };
    char try[PATH_MAX + 64];
    for (int i = 0; slash && beside[i]; i++) {
        snprintf(try, sizeof try, "%s%s/dopl/init.lua", exe, beside[i]);
        if (access(try, R_OK) != 0) continue;
        snprintf(try, sizeof try, "%s%s", exe, beside[i]);
        return realpath(try, exe) && (size_t)snprintf(root, size, "%s", exe) < size;
    }
    snprintf(root, size, "%s", DOPL_SOURCE_LUA); // a build folder elsewhere
    snprintf(try, sizeof try, "%s/dopl/init.lua", root);
    return access(try, R_OK) == 0;
}

static void set_arg(lua_State *L, const options *o) { // arg[0] is the recipe, as in lua(1)
    int script = o->recipe < o->argc ? o->recipe : 0;
    lua_createtable(L, o->argc - script, script + 1);
    for (int i = 0; i < o->argc; i++) {
        lua_pushstring(L, o->argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_pushglobaltable(L);
    lua_insert(L, -2);
    lua_setfield(L, -2, "arg");
    lua_pop(L, 1);
}

static void set_core_options(lua_State *L, const options *o) { // dopl.core.options
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "dopl.core");
    lua_createtable(L, 0, 6);
    lua_pushstring(L, o->resume);
    lua_setfield(L, -2, "resume");
    lua_pushstring(L, o->device);
    lua_setfield(L, -2, "device");
    lua_pushstring(L, o->out);
    lua_setfield(L, -2, "out");
    lua_pushinteger(L, o->seed);
    lua_setfield(L, -2, "seed");
    lua_pushinteger(L, dopl_check_rt(L)->n_threads);
    lua_setfield(L, -2, "threads");
    if (o->recipe < o->argc) { // what the run folder keeps, and what --help quotes
        lua_pushstring(L, o->argv[o->recipe]);
        lua_setfield(L, -2, "recipe");
    }
    lua_setfield(L, -2, "options");
    lua_pop(L, 2);
}

// Where a recipe that is not trusted may write: the folder for runs and the run to go on with,
// named before or after the recipe, and the cache.
static dopl_status allow_writes(dopl_rt *rt, const options *o) {
    DOPL_TRY(dopl_roots_allow(rt, o->out));
    if (*o->resume) DOPL_TRY(dopl_roots_allow(rt, o->resume));
    for (int i = o->recipe + 1; i < o->argc; i++) {
        const char *folder = NULL;
        for (int id = 0; id < N_OPTION && !folder; id++) {
            if (rows[id].type != FOLDER) continue;
            const char *value = value_in(&rows[id], o->argv[i]);
            if (value && *value)
                folder = value + 1;
            else if (value && i + 1 < o->argc)
                folder = o->argv[++i];
        }
        if (folder && *folder) DOPL_TRY(dopl_roots_allow(rt, folder));
    }
    char cache[PATH_MAX];
    if (dopl_cache_folder(cache)) DOPL_TRY(dopl_roots_allow(rt, cache));
    return dopl_roots_seal(rt);
}

static int open_state(lua_State *L) { // the options, as a light userdata
    const options *o = lua_touserdata(L, 1);
    static char root[PATH_MAX];
    if (!find_root(root, sizeof root))
        return luaL_error(L, "the library lua/dopl is neither beside the executable nor in %s",
                          root);
    bool has_recipe = o->recipe < o->argc && strcmp(o->argv[o->recipe], "-") && !is_compare(o);
    dopl_shell shell = { .root = root,
                         .recipe = has_recipe ? o->argv[o->recipe] : NULL,
                         .trusted = o->flag[OPTION_trust] || (o->prompt && o->recipe >= o->argc) };
    dopl_open_globals(L, &shell);
    if (o->threads) dopl_rt_set_threads(dopl_check_rt(L), o->threads);
    if (dopl_device_choose(dopl_check_rt(L), o->device) != DOPL_OK)
        return luaL_error(L, "%s", dopl_check_rt(L)->error);
    if (!shell.trusted) {
        dopl_status s = allow_writes(dopl_check_rt(L), o);
        if (s != DOPL_OK) return dopl_raise(L, dopl_check_rt(L));
    }
    set_core_options(L, o);
    dopl_stop_bind(L);
    set_arg(L, o);
    return 0;
}

static int run(lua_State *L, options *o) {
    lua_pushcfunction(L, open_state);
    lua_pushlightuserdata(L, o);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        size_t n;
        const char *message = luaL_tolstring(L, -1, &n);
        say(message, n);
        return 1;
    }
    dopl_stop_install(L);
    int status =
        o->flag[OPTION_profile] ? run_chunk(L, luaL_loadstring(L, PROFILE "start()"), 0) : 0;
    if (status) return status;
    for (int i = 0; i < o->n_actions && !status; i++) status = run_action(L, &o->actions[i]);
    bool has_recipe = !status && o->recipe < o->argc;
    if (has_recipe) status = run_recipe(L, o);
    if (o->flag[OPTION_profile]) status = tell_profile(L, status);
    if (has_recipe && o->flag[OPTION_interactive]) {
        dopl_stop_clear(L);
    } else if (has_recipe || status) {
        return status;
    } else if (!o->prompt && !o->n_actions && !o->flag[OPTION_version]) {
        return run_chunk(L, luaL_loadfilex(L, NULL, "t"), 0);
    }
    return o->prompt ? dopl_prompt(L) : 0;
}

// libgomp's threads spin for milliseconds between parallel regions before they sleep. Where another
// process wants the cores, that made a training step ten times slower; some ten microseconds of
// spinning lose nothing where none does. libgomp reads its settings as it is loaded, so this
// program starts itself again. A user's own setting stands.
static void spin_less(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "2000", 0) == 0) execv("/proc/self/exe", argv);
}

// What a caller left closed would be taken by the first file that is opened, and printed into.
static void open_standard_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
}

int main(int argc, char **argv) {
    open_standard_streams();
    if (!dopl_take_stack()) return 1;
    spin_less(argv);
    signal(SIGXFSZ, SIG_IGN); // a file that must not grow is an error with its name, not a death
    const char *device = getenv("DOPL_DEVICE");
    options o = { .argc = argc,
                  .argv = argv,
                  .device = device && *device ? device : "cpu",
                  .out = "runs",
                  .resume = "",
                  .seed = 1 };
    o.actions = calloc((size_t)argc + 1, sizeof *o.actions);
    lua_State *L = NULL;
    int status = 2;
    if (!o.actions || !read_options(&o)) goto out;
    status = 0;
    if (o.flag[OPTION_help]) {
        print_usage();
        goto out;
    }
    const bool *flag = o.flag;
    if ((flag[OPTION_plan] || flag[OPTION_profile] || *o.resume) && o.recipe >= argc &&
        !o.n_actions) {
        option_id id = flag[OPTION_plan]      ? OPTION_plan
                       : flag[OPTION_profile] ? OPTION_profile
                                              : OPTION_resume;
        complain("%s: which recipe? It comes after the options (- for stdin)", rows[id].name);
        status = 2;
        goto out;
    }
    if (flag[OPTION_version]) puts("dopl " DOPL_VERSION ", " LUA_RELEASE);
    o.prompt = flag[OPTION_interactive] ||
               (o.recipe >= argc && !o.n_actions && !flag[OPTION_version] && isatty(STDIN_FILENO));
    L = luaL_newstate();
    if (L) {
        lua_warning(L, "@off", 0);
        dopl_limit_memory(L);
        status = run(L, &o);
    } else {
        complain("out of memory");
        status = 1;
    }
out:
    if (L) lua_close(L);
    free(o.actions);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
        complain("standard output could not be written whole; is the disk full?");
        status = 1;
    }
    return status;
}
