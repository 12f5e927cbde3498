// pool.c - one arena of memory, best fit, with a bound on what is resident.
//
// A training step takes and gives back the same memory over and over, and asking the system for it
// each time costs up to a quarter of the step in page faults. But batches have other numbers of
// tokens, so no two steps ask for the same sizes: a block is cut from the smallest free chunk that
// holds it, and joins its free neighbours when it comes back.
//
// Resident is what was written to since the system gave it; the map `touched` follows that. Where
// it would grow over the most that was ever in use and a sixteenth, as much of the free memory goes
// back first. So fragmentation costs page faults once it exceeds that share, and never memory.
//
// The address space is taken at once and costs nothing until it is touched, unless it is limited
// (ulimit -v): then it grows by segments. Small blocks, which are many and short, come from malloc
// and are kept in lists by size class.
#include "pool.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
// Headers and what is free are closed to everyone but this file.
#define CLOSE(at, bytes) __asan_poison_memory_region(at, bytes)
#define OPEN(at, bytes) __asan_unpoison_memory_region(at, bytes)
#define OURS __attribute__((no_sanitize_address))
#else
#define CLOSE(at, bytes) ((void)(at), (void)(bytes))
#define OPEN(at, bytes) ((void)(at), (void)(bytes))
#define OURS
#endif

enum {
    ALIGN = 64,
    STEPS = 8, // size classes an octave
    N_CLASS = STEPS * 44,
    SMALL = 32 << 10,     // blocks up to it are malloc's
    SMALL_KEPT = 4 << 20, // bytes of them
    PIECE = 4 << 10,      // what is cut off a chunk is no less
    PAGES = 64 << 10,     // a byte of `touched`
    SEGMENT = 4 << 20,    // the least that is asked of the system where addresses are limited
    SHARE = 16,
    SLACK = 8 << 20, // resident above the peak: a sixteenth of it, and this
};

typedef struct segment {
    struct segment *next;
    char *start;
    size_t bytes;
    unsigned char *touched;
    size_t n_touched; // no page from it on was
} segment;

// In front of every block. Those of a segment lie end to end.
typedef struct chunk {
    size_t asked;
    size_t size;         // with this header
    size_t before;       // size of the chunk in front of it; 0: it is the first
    segment *owner;      // NULL: malloc's
    struct chunk *next;  // in its list of free ones
    struct chunk **link; // what points to it there
    int size_class;      // of a small one
    bool used;
} chunk;

_Static_assert(sizeof(chunk) <= ALIGN, "the header must fit in front of an aligned block");

struct dopl_pool {
    chunk *small[N_CLASS]; // free
    chunk *large[N_CLASS]; // free, by the class of their size
    segment *segments;
    size_t small_kept;
    size_t used, peak; // bytes of large chunks in use, and the most there ever were
    size_t resident;   // bytes of large chunks, whole PAGES
    size_t reserved;   // bytes of segments
};

// ---- sizes

// The class of `bytes` and the capacity of that class: STEPS linear steps in each power of two.
static int size_class(size_t bytes, size_t *capacity) {
    size_t units = (bytes + ALIGN - 1) / ALIGN;
    if (units < STEPS) units = units ? units : 1;
    if (units <= STEPS) {
        *capacity = units * ALIGN;
        return (int)units - 1;
    }
    int octave = 63 - __builtin_clzll(units - 1) - 3; // 2^(octave+3) <= units-1
    size_t step = (size_t)1 << octave;
    size_t n = (units + step - 1) / step; // STEPS+1 .. 2*STEPS
    *capacity = n * step * ALIGN;
    return octave * STEPS + (int)n - 1;
}

// The list of a free chunk: all in higher lists are larger.
static int list_of(size_t size) {
    size_t capacity;
    return size_class(size, &capacity);
}

static chunk *header(const void *data) {
    return (chunk *)((char *)data - ALIGN);
}

// ---- chunks of a segment

OURS static void link_free(dopl_pool *pool, chunk *c) {
    chunk **first = &pool->large[list_of(c->size)];
    c->used = false;
    c->next = *first;
    c->link = first;
    if (c->next) c->next->link = &c->next;
    *first = c;
}

OURS static void unlink_free(chunk *c) {
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
}

OURS static chunk *behind(const chunk *c) {
    char *at = (char *)c + c->size;
    return at < c->owner->start + c->owner->bytes ? (chunk *)at : NULL;
}

OURS static void set_size(chunk *c, size_t size) {
    c->size = size;
    chunk *next = behind(c);
    if (next) next->before = size;
}

// The smallest free chunk that holds `size`, of equals the one at the lowest address.
OURS static chunk *best_fit(const dopl_pool *pool, size_t size) {
    for (int k = list_of(size); k < N_CLASS; k++) {
        chunk *best = NULL;
        for (chunk *c = pool->large[k]; c; c = c->next)
            if (c->size >= size &&
                (!best || c->size < best->size || (c->size == best->size && c < best)))
                best = c;
        if (best) return best;
    }
    return NULL;
}

// Cuts what is above `size` off a chunk that is in no list, if it is worth a chunk of its own.
OURS static void cut(dopl_pool *pool, chunk *c, size_t size) {
    if (c->size < size + PIECE) return;
    chunk *rest = (chunk *)((char *)c + size);
    OPEN(rest, sizeof *rest);
    *rest = (chunk){ .size = c->size - size, .before = size, .owner = c->owner };
    c->size = size;
    set_size(rest, rest->size);
    link_free(pool, rest);
    CLOSE(rest, ALIGN);
}

// ---- what is resident

// The first and the last but one of the PAGES that lie in a range; those that it shares with others
// too where `shared`.
static void pages_of(const segment *s, const char *at, size_t bytes, bool shared, size_t *first,
                     size_t *end) {
    size_t from = (size_t)(at - s->start), to = from + bytes;
    *first = (shared ? from : from + PAGES - 1) / PAGES;
    *end = (shared ? to + PAGES - 1 : to) / PAGES;
}

OURS static void touch(dopl_pool *pool, const chunk *c) {
    segment *s = c->owner;
    size_t first, end;
    pages_of(s, (const char *)c, c->size, true, &first, &end);
    for (size_t i = first; i < end; i++) {
        pool->resident += s->touched[i] ? 0 : PAGES;
        s->touched[i] = 1;
    }
    if (end > s->n_touched) s->n_touched = end;
}

// Gives pages of a free chunk back, from its end on, until no more than `most` are resident.
OURS static void give_pages(dopl_pool *pool, const chunk *c, size_t most) {
    segment *s = c->owner;
    size_t first, end;
    pages_of(s, (const char *)c + ALIGN, c->size - ALIGN, false, &first, &end);
    if (end > s->n_touched) end = s->n_touched;
    while (end > first && pool->resident > most) {
        size_t to = end;
        while (to > first && !s->touched[to - 1]) to--;
        size_t from = to;
        while (from > first && s->touched[from - 1] && pool->resident > most) {
            s->touched[--from] = 0;
            pool->resident -= PAGES;
        }
        if (from < to) madvise(s->start + from * PAGES, (to - from) * PAGES, MADV_DONTNEED);
        end = from;
    }
}

// The largest go first: they are fewest, and what fits nothing is asked for least.
OURS static void bound_resident(dopl_pool *pool, size_t most) {
    for (int k = N_CLASS - 1; k >= 0 && pool->resident > most; k--)
        for (const chunk *c = pool->large[k]; c && pool->resident > most; c = c->next)
            give_pages(pool, c, most);
}

// ---- segments

static void *map(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

// Addresses for all that this machine could hold; 0: they are limited.
static size_t all_addresses(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return 0;
    return 2 * (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

// One more segment with room for `size`; false: the system has none.
OURS static bool grow(dopl_pool *pool, size_t size) {
    size_t share = pool->reserved / 4;
    size_t wish[] = { pool->segments ? 0 : all_addresses(), share > SEGMENT ? share : SEGMENT, 0 };
    segment *s = calloc(1, sizeof *s);
    if (!s) return false;
    for (size_t i = 0; !s->start && i < sizeof wish / sizeof *wish; i++) {
        s->bytes = ((wish[i] > size ? wish[i] : size) + PAGES - 1) / PAGES * PAGES;
        s->start = map(s->bytes);
    }
    s->touched = s->start ? calloc(s->bytes / PAGES, 1) : NULL;
    if (!s->touched) {
        if (s->start) munmap(s->start, s->bytes);
        free(s);
        return false;
    }
    s->next = pool->segments;
    pool->segments = s;
    pool->reserved += s->bytes;
    chunk *c = (chunk *)s->start;
    *c = (chunk){ .size = s->bytes, .owner = s };
    link_free(pool, c);
    return true;
}

OURS static bool is_unused(const segment *s) {
    const chunk *c = (const chunk *)s->start;
    return !c->used && c->size == s->bytes;
}

OURS static void drop_segment(dopl_pool *pool, segment **link) {
    segment *s = *link;
    unlink_free((chunk *)s->start);
    for (size_t i = 0; i < s->n_touched; i++) pool->resident -= s->touched[i] ? PAGES : 0;
    pool->reserved -= s->bytes;
    *link = s->next;
    OPEN(s->start, s->n_touched * PAGES);
    munmap(s->start, s->bytes);
    free(s->touched);
    free(s);
}

// ---- large blocks

OURS static void *take_large(dopl_pool *pool, size_t bytes) {
    size_t size = ALIGN + (bytes + ALIGN - 1) / ALIGN * ALIGN;
    chunk *c = best_fit(pool, size);
    if (!c && !grow(pool, size)) return NULL;
    if (!c) c = best_fit(pool, size);
    unlink_free(c);
    cut(pool, c, size);
    c->used = true;
    c->asked = bytes;
    pool->used += c->size;
    if (pool->used > pool->peak) pool->peak = pool->used;
    touch(pool, c);
    bound_resident(pool, pool->peak + pool->peak / SHARE + SLACK);
    OPEN((char *)c + ALIGN, bytes);
    return (char *)c + ALIGN;
}

OURS static void give_large(dopl_pool *pool, chunk *c) {
    chunk *next = behind(c), *before = c->before ? (chunk *)((char *)c - c->before) : NULL;
    CLOSE(c, c->size);
    pool->used -= c->size;
    if (next && !next->used) {
        unlink_free(next);
        set_size(c, c->size + next->size);
    }
    if (before && !before->used) {
        unlink_free(before);
        set_size(before, before->size + c->size);
        c = before;
    }
    link_free(pool, c);
}

// ---- small blocks

OURS static void *take_small(dopl_pool *pool, size_t bytes) {
    size_t capacity;
    int k = size_class(bytes, &capacity);
    chunk *c = pool->small[k];
    if (c) {
        pool->small[k] = c->next;
        pool->small_kept -= capacity;
    } else {
        c = aligned_alloc(ALIGN, ALIGN + capacity);
        if (!c) return NULL;
        *c = (chunk){ .size = ALIGN + capacity, .size_class = k };
    }
    c->asked = bytes;
    CLOSE(c, c->size);
    OPEN((char *)c + ALIGN, bytes);
    return (char *)c + ALIGN;
}

OURS static void give_small(dopl_pool *pool, chunk *c) {
    size_t capacity = c->size - ALIGN;
    if (pool->small_kept + capacity > SMALL_KEPT) {
        OPEN(c, c->size);
        free(c);
        return;
    }
    CLOSE(c, c->size);
    pool->small_kept += capacity;
    c->next = pool->small[c->size_class];
    pool->small[c->size_class] = c;
}

OURS static void trim_small(dopl_pool *pool) {
    for (int k = 0; k < N_CLASS; k++)
        while (pool->small[k]) {
            chunk *c = pool->small[k];
            pool->small[k] = c->next;
            OPEN(c, c->size);
            free(c);
        }
    pool->small_kept = 0;
}

// ---- the pool

dopl_pool *dopl_pool_new(void) {
    return calloc(1, sizeof(dopl_pool));
}

void dopl_pool_free(dopl_pool *pool) {
    dopl_pool_trim(pool);
    free(pool);
}

void *dopl_pool_take(dopl_pool *pool, size_t bytes) {
    return bytes <= SMALL ? take_small(pool, bytes) : take_large(pool, bytes);
}

OURS void dopl_pool_give(dopl_pool *pool, void *data) {
    chunk *c = header(data);
    if (c->owner)
        give_large(pool, c);
    else
        give_small(pool, c);
}

OURS bool dopl_pool_resize(void *data, size_t bytes) {
    chunk *c = header(data);
    if (bytes > c->size - ALIGN || bytes <= c->size / 4) return false;
    c->asked = bytes;
    CLOSE(data, c->size - ALIGN);
    OPEN(data, bytes);
    return true;
}

OURS size_t dopl_pool_bytes(const void *data) {
    return header(data)->asked;
}

OURS void dopl_pool_trim(dopl_pool *pool) {
    trim_small(pool);
    for (segment **link = &pool->segments; *link;) {
        if (is_unused(*link))
            drop_segment(pool, link);
        else
            link = &(*link)->next;
    }
    bound_resident(pool, 0);
    pool->peak = pool->used;
}

size_t dopl_pool_cached(const dopl_pool *pool) {
    return pool->small_kept + pool->resident - pool->used;
}
