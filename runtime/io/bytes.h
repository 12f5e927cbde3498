// bytes.h - a growing run of bytes. An all-zero struct is empty and safe to release.
#ifndef DOPL_IO_BYTES_H
#define DOPL_IO_BYTES_H

#include "../core/rt.h"

typedef struct dopl_bytes {
    char *data; // always followed by a NUL that `n` does not count; NULL while nothing was put
    size_t n;
    size_t capacity;
} dopl_bytes;

DOPL_CHECKED dopl_status dopl_bytes_reserve(dopl_rt *rt, dopl_bytes *b, size_t n_more);
DOPL_CHECKED dopl_status dopl_bytes_put(dopl_rt *rt, dopl_bytes *b, const void *data, size_t n);
DOPL_CHECKED dopl_status dopl_bytes_puts(dopl_rt *rt, dopl_bytes *b, const char *text);
DOPL_CHECKED dopl_status dopl_bytes_format(dopl_rt *rt, dopl_bytes *b, const char *format, ...)
    __attribute__((format(printf, 3, 4)));           // up to 255 bytes at a time
void dopl_bytes_release(dopl_rt *rt, dopl_bytes *b); // idempotent

#endif
