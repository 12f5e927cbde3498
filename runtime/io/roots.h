// roots.h - where files may be written.
//
// A shared recipe may read, but writes only under a list of roots: its output folder and the cache.
// The launcher allows each root and then seals the list; from that moment nothing can be added and
// every write, mkdir or remove elsewhere is refused. While unsealed (--trust, stock lua5.4) writing
// is unrestricted.
#ifndef DOPL_IO_ROOTS_H
#define DOPL_IO_ROOTS_H

#include "../core/rt.h"

#include <limits.h>

enum { DOPL_MAX_ROOTS = 16 };

typedef struct dopl_roots {
    bool sealed;
    int n;
    char *path[DOPL_MAX_ROOTS]; // absolute, no links, no trailing slash but for "/"
} dopl_roots;

// rt->roots points at the caller's struct, which is all-zero at first; NULL means unrestricted.
DOPL_CHECKED dopl_status dopl_roots_allow(dopl_rt *rt, const char *path); // ESTATE once sealed
DOPL_CHECKED dopl_status dopl_roots_seal(dopl_rt *rt);
void dopl_roots_release(dopl_rt *rt, dopl_roots *roots); // idempotent; also detaches it from rt

// The absolute path behind `path` with links and dots resolved; parts that do not exist yet stay as
// they are named.
DOPL_CHECKED dopl_status dopl_path_resolve(dopl_rt *rt, char out[PATH_MAX], const char *path);
// Resolves `path` and refuses one that lies outside every root. `verb` is for the message.
DOPL_CHECKED dopl_status dopl_roots_check(dopl_rt *rt, char out[PATH_MAX], const char *verb,
                                          const char *path);

// The folder of what is kept between runs: $DOPL_CACHE, else $XDG_CACHE_HOME/dopl, else
// $HOME/.cache/dopl. As the XDG specification has it, a relative $XDG_CACHE_HOME is ignored.
// False: none of the three names a folder, or its path is too long.
DOPL_CHECKED bool dopl_cache_folder(char out[PATH_MAX]);

#endif
