// unicode.c - utf8proc's tables over memory of the runtime.
#include "unicode.h"
#include "utf8.h"

#include <utf8proc.h>

// Of valid UTF-8.
static dopl_status fold(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n) {
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD;
    utf8proc_ssize_t length = (utf8proc_ssize_t)n;
    utf8proc_int32_t *codes;
    utf8proc_ssize_t count = utf8proc_decompose(bytes, length, NULL, 0, how);
    if (count < 0) return dopl_bytes_put(rt, out, text, n); // longer than utf8proc can count
    // one code point more than there are: utf8proc_reencode ends its bytes with a NUL
    DOPL_TRY(dopl_rt_alloc(rt, (void **)&codes, ((size_t)count + 1) * sizeof *codes));
    count = utf8proc_decompose(bytes, length, codes, count, how);
    if (count > 0) count = utf8proc_reencode(codes, count, how);
    dopl_status status = count > 0 ? dopl_bytes_put(rt, out, codes, (size_t)count) : DOPL_OK;
    dopl_rt_free(rt, codes);
    return status;
}

dopl_status dopl_text_fold(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t valid = dopl_utf8_valid(text + i, n - i);
        DOPL_TRY(valid ? fold(rt, out, text + i, valid) : dopl_bytes_put(rt, out, text + i, 1));
        i += valid ? valid : 1;
    }
    return DOPL_OK;
}
