// lua_prompt.c - the prompt: lines in, values out.
//
// libedit decodes what is typed by the locale, Lua must never see one (a decimal comma would change
// how it reads numbers), so a UTF-8 locale is put on for this thread around libedit's calls alone.
// Ctrl-C while a line is typed interrupts the read below libedit, which drops the line.
#include "shell.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_LINES = 1000 };

typedef struct {
    lua_State *L;
    EditLine *el; // NULL: input is no terminal
    History *history;
    HistEvent event;
    locale_t locale;
    const char *text; // what libedit shows before the line
    char path[PATH_MAX];
    bool interrupted;
    bool told_locals;
} prompt;

// ---- lines

static char *show_text(EditLine *el) {
    prompt *p;
    el_get(el, EL_CLIENTDATA, &p);
    return (char *)p->text;
}

// Waits for input; false where a stop was asked for, before or while waiting. The signals are let
// in only inside ppoll, so that none can slip in between the look at the flag and the wait.
static bool wait_input(void) {
    sigset_t stops, open;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stops, &open);
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
    while (!dopl_stop_signal() && ppoll(&in, 1, NULL, &open) < 0 && errno == EINTR) continue;
    pthread_sigmask(SIG_SETMASK, &open, NULL);
    return !dopl_stop_signal();
}

static int read_char(EditLine *el, wchar_t *out) {
    prompt *p;
    el_get(el, EL_CLIENTDATA, &p);
    mbstate_t state = { 0 };
    for (;;) {
        char byte;
        p->interrupted = !wait_input();
        if (p->interrupted) return -1;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return (int)n;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-2) continue; // in the middle of a character
        if (used == (size_t)-1) *out = L'?';
        return 1;
    }
}

// Pushes the next line without its newline. False at the end of input or after a stop.
static bool push_line(prompt *p, const char *text) {
    lua_State *L = p->L;
    p->text = text;
    if (!p->el) {
        char *line = NULL;
        size_t size = 0;
        ssize_t n = getline(&line, &size, stdin);
        bool read = n >= 0 && lua_checkstack(L, 4);
        if (read)
            lua_pushlstring(L, line, n > 0 && line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
        free(line);
        return read;
    }
    locale_t before = uselocale(p->locale);
    int n = 0;
    el_set(p->el, EL_PREP_TERM, 1); // before the text shows: a Ctrl-D typed sooner would be lost
    const char *line = el_gets(p->el, &n);
    if (line && n > 1) {
        history(p->history, &p->event, H_ENTER, line);
        if (*p->path) history(p->history, &p->event, H_SAVE, p->path);
    }
    uselocale(before);
    if (!line || n <= 0) return false;
    lua_pushlstring(L, line, line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
    return true;
}

// ---- completion

static int raw_metatable(lua_State *L) { // __metatable hides nothing from the Tab key
    luaL_checkany(L, 1);
    if (!lua_getmetatable(L, 1)) lua_pushnil(L);
    return 1;
}

// dopl.complete(globals, line, raw_metatable) -> what to insert, what to list
static int ask_complete(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "dopl.util.complete");
    lua_call(L, 1, 1);
    lua_pushglobaltable(L);
    lua_pushvalue(L, 1);
    lua_pushcfunction(L, raw_metatable);
    lua_call(L, 3, 2);
    return 2;
}

static unsigned char complete(EditLine *el, int key) {
    (void)key;
    prompt *p;
    el_get(el, EL_CLIENTDATA, &p);
    lua_State *L = p->L;
    int top = lua_gettop(L);
    const LineInfo *line = el_line(el);
    unsigned char result = CC_ERROR;
    lua_pushcfunction(L, ask_complete);
    lua_pushlstring(L, line->buffer, (size_t)(line->cursor - line->buffer));
    if (lua_pcall(L, 1, 2, 0) == LUA_OK) {
        const char *insert = lua_tostring(L, -2), *list = lua_tostring(L, -1);
        if (insert && *insert) {
            result = el_insertstr(el, insert) == 0 ? CC_REFRESH : CC_ERROR;
        } else if (list && *list) {
            putchar('\n');
            dopl_put_text(stdout, list, strlen(list));
            putchar('\n');
            fflush(stdout);
            result = CC_REDISPLAY;
        }
    }
    lua_settop(L, top);
    return result;
}

// ---- reading a chunk

static bool incomplete(lua_State *L) { // whether the syntax error on top is only a missing rest
    size_t n;
    const char *message = lua_tolstring(L, -1, &n);
    return n >= 5 && strcmp(message + n - 5, "<eof>") == 0;
}

static int load(lua_State *L, const char *text) {
    return luaL_loadbufferx(L, text, strlen(text), "=stdin", "t");
}

// Leaves the line or lines and the chunk they make, or nil where a syntax error has been reported.
// False at the end of input. An expression is tried first, so that its value is shown.
static bool push_chunk(prompt *p) {
    lua_State *L = p->L;
    if (!push_line(p, "> ")) return false;
    for (;;) {
        const char *text = lua_tostring(L, -1);
        lua_pushfstring(L, "return %s", *text == '=' ? text + 1 : text);
        int status = load(L, lua_tostring(L, -1));
        lua_remove(L, -2);
        if (status == LUA_OK) return true;
        bool more = incomplete(L);
        lua_pop(L, 1);
        if (load(L, text) == LUA_OK) return true;
        if (!more && !incomplete(L)) break;
        lua_pop(L, 1);
        if (!push_line(p, ">> ")) return false;
        lua_pushliteral(L, "\n");
        lua_insert(L, -2);
        lua_concat(L, 3);
    }
    dopl_report(L);
    lua_pushnil(L);
    return true;
}

static void show_results(lua_State *L, int n) {
    if (n == 0) return;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "dopl.util.inspect");
    if (dopl_call(L, 1, 1) != 0) return;
    lua_getfield(L, -1, "print");
    lua_remove(L, -2);
    lua_insert(L, -(n + 1));
    dopl_call(L, n, 0);
}

static void tell_locals(prompt *p, const char *text) {
    if (p->told_locals || !p->el || strncmp(text, "local ", 6) != 0) return;
    p->told_locals = true;
    puts("(a local lives until the end of its line; leave out 'local' to keep a value)");
}

// ---- set-up

static void find_history(prompt *p) { // $XDG_STATE_HOME/dopl/history
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state && *state == '/')
        n = snprintf(p->path, sizeof p->path, "%s/dopl/history", state);
    else if (home && *home)
        n = snprintf(p->path, sizeof p->path, "%s/.local/state/dopl/history", home);
    if (n < 0 || (size_t)n >= sizeof p->path) {
        p->path[0] = '\0';
        return;
    }
    for (char *slash = p->path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(p->path, 0700);
        *slash = '/';
    }
}

static void open_editor(prompt *p) {
    p->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!p->locale) p->locale = newlocale(LC_CTYPE_MASK, "C", (locale_t)0);
    locale_t before = uselocale(p->locale);
    p->el = el_init("dopl", stdin, stdout, stderr);
    p->history = history_init();
    if (p->el && p->history) {
        history(p->history, &p->event, H_SETSIZE, HISTORY_LINES);
        history(p->history, &p->event, H_SETUNIQUE, 1);
        find_history(p);
        if (*p->path) history(p->history, &p->event, H_LOAD, p->path);
        el_set(p->el, EL_CLIENTDATA, p);
        el_set(p->el, EL_PROMPT, show_text);
        el_set(p->el, EL_EDITOR, "emacs");
        el_set(p->el, EL_HIST, history, p->history);
        el_set(p->el, EL_GETCFN, read_char);
        el_set(p->el, EL_ADDFN, "dopl-complete", "complete a name", complete);
        el_set(p->el, EL_BIND, "^I", "dopl-complete", NULL);
        el_set(p->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    }
    uselocale(before);
}

static void close_editor(prompt *p) {
    locale_t before = uselocale(p->locale);
    if (p->history) history_end(p->history);
    if (p->el) el_end(p->el);
    uselocale(before);
    freelocale(p->locale);
}

int dopl_prompt(lua_State *L) {
    prompt p = { .L = L };
    if (isatty(STDIN_FILENO)) {
        open_editor(&p);
        printf("dopl %s, %s. dopl.help() lists what there is; Ctrl-D ends.\n", DOPL_VERSION,
               LUA_RELEASE);
    }
    int top = lua_gettop(L), status = 0;
    for (;;) {
        lua_settop(L, top);
        p.interrupted = false;
        bool more = push_chunk(&p);
        if (more && !lua_isnil(L, -1)) {
            tell_locals(&p, lua_tostring(L, top + 1));
            int base = lua_gettop(L) - 1;
            if (dopl_call(L, 0, LUA_MULTRET) == 0) show_results(L, lua_gettop(L) - base);
            fflush(stdout);
        }
        int signal = dopl_stop_signal();
        if (signal == SIGTERM || signal == SIGHUP) {
            status = 128 + signal;
            break;
        }
        if (signal) {
            dopl_stop_clear(L);
            clearerr(stdout); // a write that the signal cut short is no full disk
            if (p.interrupted) putchar('\n');
            continue;
        }
        if (!more) break;
    }
    if (p.el) {
        putchar('\n');
        close_editor(&p);
    }
    return status;
}
