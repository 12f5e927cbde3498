// split.c - PCRE2 with its JIT, and a limit on how long one match may search.
//
// Where JIT memory is refused (a hardened kernel), PCRE2 interprets the pattern: slower, same
// pieces.
#include "split.h"
#include "utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

enum { MATCH_LIMIT = 10 * 1000 * 1000, PATTERN_MAX = 4096, JIT_STACK_MAX = 1 << 20 };

struct dopl_split {
    pcre2_general_context *memory;
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    size_t n;
    char pattern[PATTERN_MAX + 1];
};

static const struct {
    const char *name, *pattern;
} named[] = {
    { "llama3", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
    { "gpt2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|"
              "\\s+" },
};

const char *dopl_split_named(const char *name) {
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcmp(named[i].name, name) == 0) return named[i].pattern;
    return NULL;
}

static void *pcre2_take(PCRE2_SIZE bytes, void *rt) {
    void *block;
    return dopl_rt_alloc(rt, &block, bytes) == DOPL_OK ? block : NULL;
}

static void pcre2_give(void *block, void *rt) {
    dopl_rt_free(rt, block);
}

static dopl_status compile(dopl_rt *rt, dopl_split *s) {
    int code;
    PCRE2_SIZE place;
    s->memory = pcre2_general_context_create(pcre2_take, pcre2_give, rt);
    if (!s->memory) return DOPL_ENOMEM;
    pcre2_compile_context *how = pcre2_compile_context_create(s->memory);
    if (!how) return DOPL_ENOMEM;
    s->code = pcre2_compile((PCRE2_SPTR)s->pattern, s->n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &place, how);
    pcre2_compile_context_free(how);
    if (!s->code) {
        char why[160];
        if (code == PCRE2_ERROR_HEAP_FAILED) return DOPL_ENOMEM;
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return dopl_fail(rt, DOPL_EARG, "tokenizer pattern: %s (at byte %zu of %zu)", why,
                         (size_t)place, s->n);
    }
    bool jit = pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE) == 0;
    s->match = pcre2_match_data_create_from_pattern(s->code, s->memory);
    s->limits = pcre2_match_context_create(s->memory);
    if (!s->match || !s->limits) return DOPL_ENOMEM;
    pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    if (jit) s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, s->memory);
    if (s->stack) pcre2_jit_stack_assign(s->limits, NULL, s->stack);
    return DOPL_OK;
}

dopl_status dopl_split_new(dopl_rt *rt, dopl_split **out, const char *pattern, size_t n) {
    dopl_split *s;
    *out = NULL;
    if (n == 0 || n > PATTERN_MAX)
        return dopl_fail(rt, DOPL_EARG, "tokenizer pattern: %zu bytes, needs 1 to %d", n,
                         PATTERN_MAX);
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&s, sizeof *s));
    memcpy(s->pattern, pattern, n);
    s->n = n;
    dopl_status status = compile(rt, s);
    if (status == DOPL_OK)
        *out = s;
    else
        dopl_split_free(rt, s);
    return status;
}

void dopl_split_free(dopl_rt *rt, dopl_split *s) {
    if (!s) return;
    pcre2_jit_stack_free(s->stack);
    pcre2_match_context_free(s->limits);
    pcre2_match_data_free(s->match);
    pcre2_code_free(s->code);
    pcre2_general_context_free(s->memory);
    dopl_rt_free(rt, s);
}

const char *dopl_split_pattern(const dopl_split *split, size_t *n) {
    *n = split->n;
    return split->pattern;
}

static size_t invalid_bytes(const char *s, size_t n) {
    size_t i = 1;
    uint32_t code;
    while (i < n && !dopl_utf8_decode(s + i, n - i, &code)) i++;
    return i;
}

static dopl_status piece_to(dopl_split_cursor *c, size_t end, const char **piece, size_t *n) {
    *piece = c->text + c->at;
    *n = end - c->at;
    c->at = end;
    return DOPL_OK;
}

dopl_status dopl_split_next(dopl_rt *rt, dopl_split *s, dopl_split_cursor *c, const char **piece,
                            size_t *n) {
    *n = 0;
    if (c->at == c->length) return DOPL_OK;
    if (c->at == c->run_end) {
        size_t rest = c->length - c->at, valid = dopl_utf8_valid(c->text + c->at, rest);
        c->run = c->at;
        c->valid = valid > 0;
        c->run_end = c->at + (valid ? valid : invalid_bytes(c->text + c->at, rest));
    }
    if (!c->valid) return piece_to(c, c->run_end, piece, n);
    if (c->match_end) {
        size_t end = c->match_end;
        c->match_end = 0;
        return piece_to(c, end, piece, n);
    }
    int rc = pcre2_match(s->code, (PCRE2_SPTR)(c->text + c->run), c->run_end - c->run,
                         c->at - c->run, PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, s->match, s->limits);
    if (rc == PCRE2_ERROR_NOMATCH) return piece_to(c, c->run_end, piece, n);
    if (rc == PCRE2_ERROR_NOMEMORY) return DOPL_ENOMEM;
    if (rc < 0) {
        char why[160];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return dopl_fail(rt, DOPL_EARG, "tokenizer pattern: gave up at byte %zu of the text: %s",
                         c->at, why);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
    // PCRE2 refuses \K in a lookaround but not in a group that a lookaround calls: such a match may
    // end before it starts, or start before the text that is left.
    if (range[0] < c->at - c->run || range[1] <= range[0])
        return dopl_fail(
            rt, DOPL_EARG,
            "tokenizer pattern: \\K in a lookaround made a match from byte %zu to byte "
            "%zu of the text, of which byte %zu is next; leave \\K out of lookarounds",
            c->run + (size_t)range[0], c->run + (size_t)range[1], c->at);
    size_t start = c->run + range[0], end = c->run + range[1];
    if (start <= c->at) return piece_to(c, end, piece, n);
    c->match_end = end;
    return piece_to(c, start, piece, n);
}
