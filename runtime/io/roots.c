// roots.c - where files may be written.
//
// A path is judged by where it really leads: links and ".." are resolved for as much of it as
// exists, and what does not exist yet may hold neither, since nobody could say where it would lead.
#include "roots.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool has_dots(const char *path) {
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return true;
        p += n;
        p += strspn(p, "/");
    }
    return false;
}

dopl_status dopl_path_resolve(dopl_rt *rt, char out[PATH_MAX], const char *path) {
    size_t n = strlen(path);
    if (n == 0) return dopl_fail(rt, DOPL_EARG, "path: empty");
    if (n >= PATH_MAX) return dopl_fail(rt, DOPL_EARG, "path: %zu bytes, at most %d", n, PATH_MAX);
    if (realpath(path, out)) return DOPL_OK;

    // Cut names off the end until what is left exists.
    char head[PATH_MAX];
    memcpy(head, path, n + 1);
    const char *tail = path + n;
    struct stat st;
    for (;;) {
        if (errno != ENOENT) return dopl_fail(rt, DOPL_EIO, "%s: %s", path, strerror(errno));
        if (lstat(head, &st) == 0) return dopl_fail(rt, DOPL_EIO, "%s: a link to nothing", path);
        size_t k = strlen(head);
        while (k > 0 && head[k - 1] == '/') k--;
        while (k > 0 && head[k - 1] != '/') k--;
        tail = path + k;
        if (k == 0) {
            strcpy(head, ".");
        } else {
            while (k > 1 && head[k - 1] == '/') k--;
            head[k] = 0;
        }
        if (realpath(head, out)) break;
        if (k == 0) return dopl_fail(rt, DOPL_EIO, "%s: %s", path, strerror(errno));
    }
    if (has_dots(tail))
        return dopl_fail(rt, DOPL_EARG, "%s: '.' or '..' after a folder that does not exist", path);
    size_t used = strlen(out), more = strlen(tail);
    while (more > 0 && tail[more - 1] == '/') more--;
    if (used + 1 + more >= PATH_MAX) return dopl_fail(rt, DOPL_EARG, "%s: too long", path);
    if (used > 1) out[used++] = '/';
    memcpy(out + used, tail, more);
    out[used + more] = 0;
    return DOPL_OK;
}

static bool inside(const char *root, const char *path) {
    size_t n = strlen(root);
    if (n == 1) return true; // "/"
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

dopl_status dopl_roots_check(dopl_rt *rt, char out[PATH_MAX], const char *verb, const char *path) {
    DOPL_TRY(dopl_path_resolve(rt, out, path));
    const dopl_roots *roots = rt->roots;
    if (!roots || !roots->sealed) return DOPL_OK;
    for (int i = 0; i < roots->n; i++)
        if (inside(roots->path[i], out)) return DOPL_OK;
    return dopl_fail(rt, DOPL_EIO,
                     "%s %s: a recipe may write only to its run folder and the cache "
                     "(--out DIR chooses the folder, --trust lifts the limit)",
                     verb, path);
}

dopl_status dopl_roots_allow(dopl_rt *rt, const char *path) {
    dopl_roots *roots = rt->roots;
    if (!roots) return dopl_fail(rt, DOPL_ESTATE, "files: no list of roots");
    if (roots->sealed)
        return dopl_fail(rt, DOPL_ESTATE, "allow %s: the list of writable folders is sealed", path);
    if (roots->n == DOPL_MAX_ROOTS)
        return dopl_fail(rt, DOPL_ESTATE, "allow %s: already %d folders", path, roots->n);
    char real[PATH_MAX];
    DOPL_TRY(dopl_path_resolve(rt, real, path));
    void *copy;
    DOPL_TRY(dopl_rt_alloc(rt, &copy, strlen(real) + 1));
    strcpy(copy, real);
    roots->path[roots->n++] = copy;
    return DOPL_OK;
}

dopl_status dopl_roots_seal(dopl_rt *rt) {
    if (!rt->roots) return dopl_fail(rt, DOPL_ESTATE, "files: no list of roots");
    rt->roots->sealed = true;
    return DOPL_OK;
}

void dopl_roots_release(dopl_rt *rt, dopl_roots *roots) {
    for (int i = 0; i < roots->n; i++) dopl_rt_free(rt, roots->path[i]);
    *roots = (dopl_roots){ 0 };
    if (rt->roots == roots) rt->roots = NULL;
}

bool dopl_cache_folder(char out[PATH_MAX]) {
    const char *own = getenv("DOPL_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (own && *own)
        n = snprintf(out, PATH_MAX, "%s", own);
    else if (xdg && *xdg == '/')
        n = snprintf(out, PATH_MAX, "%s/dopl", xdg);
    else if (home && *home)
        n = snprintf(out, PATH_MAX, "%s/.cache/dopl", home);
    return n > 0 && n < PATH_MAX;
}
