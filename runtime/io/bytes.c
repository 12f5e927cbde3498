// bytes.c - a growing run of bytes.
#include "bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

dopl_status dopl_bytes_reserve(dopl_rt *rt, dopl_bytes *b, size_t n_more) {
    size_t need = b->n + n_more + 1;
    if (need <= b->capacity) return DOPL_OK;
    size_t capacity = b->capacity ? b->capacity + b->capacity / 2 : 256;
    if (capacity < need) capacity = need;
    void *data = b->data;
    DOPL_TRY(dopl_rt_realloc(rt, &data, capacity));
    b->data = data;
    b->capacity = capacity;
    b->data[b->n] = 0;
    return DOPL_OK;
}

dopl_status dopl_bytes_put(dopl_rt *rt, dopl_bytes *b, const void *data, size_t n) {
    DOPL_TRY(dopl_bytes_reserve(rt, b, n));
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
    b->data[b->n] = 0;
    return DOPL_OK;
}

dopl_status dopl_bytes_puts(dopl_rt *rt, dopl_bytes *b, const char *text) {
    return dopl_bytes_put(rt, b, text, strlen(text));
}

dopl_status dopl_bytes_format(dopl_rt *rt, dopl_bytes *b, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        return dopl_fail(rt, DOPL_EARG, "format: more than %zu bytes", sizeof text - 1);
    return dopl_bytes_put(rt, b, text, (size_t)n);
}

void dopl_bytes_release(dopl_rt *rt, dopl_bytes *b) {
    dopl_rt_free(rt, b->data);
    *b = (dopl_bytes){ 0 };
}
