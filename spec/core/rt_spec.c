// rt_spec.c - the allocator and error text, below what Lua can see.
#include "../../runtime/core/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static int open_rt(void **state) {
    static dopl_rt rt;
    *state = &rt;
    return dopl_rt_init(&rt) == DOPL_OK ? 0 : -1;
}

static int close_rt(void **state) {
    dopl_rt *rt = *state;
    dopl_rt_release(rt);
    dopl_rt_release(rt); // idempotent
    return 0;
}

static void *must_alloc(dopl_rt *rt, size_t bytes) {
    void *p;
    assert_int_equal(dopl_rt_alloc(rt, &p, bytes), DOPL_OK);
    return p;
}

static void aligned_and_as_large_as_asked(void **state) {
    dopl_rt *rt = *state;
    for (size_t bytes = 0; bytes < 5000; bytes += 37) {
        char *p = must_alloc(rt, bytes);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, bytes); // the sanitizer's build watches
        dopl_rt_free(rt, p);
    }
    for (size_t bytes = 64; bytes < (size_t)1 << 26; bytes *= 2)
        for (int off = -1; off <= 1; off++) {
            char *p = must_alloc(rt, bytes + (size_t)off);
            p[0] = p[bytes + (size_t)off - 1] = 1;
            dopl_rt_free(rt, p);
        }
}

// A freed block serves the next request of its size, and little more than it is kept.
static void freed_blocks_come_back(void **state) {
    dopl_rt *rt = *state;
    size_t sizes[] = { 1, 64, 65, 512, 513, 1024, 1025, 32768, 32769, 100000, 1048577, 7654321 };
    dopl_rt_trim(rt);
    size_t before = dopl_rt_cached(rt);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p = must_alloc(rt, sizes[i]);
        dopl_rt_free(rt, p);
        size_t cached = dopl_rt_cached(rt) - before;
        assert_true(cached >= sizes[i] && cached <= sizes[i] + sizes[i] / 8 + (2 << 16));
        assert_ptr_equal(must_alloc(rt, sizes[i]), p);
        dopl_rt_free(rt, p);
        dopl_rt_trim(rt);
        assert_int_equal(dopl_rt_cached(rt), before);
    }
}

// Bytes of this process that are in memory, as the system counts them.
static size_t resident(void) {
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %zu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t draw(uint64_t *seed, size_t n) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(*seed >> 33) % n;
}

// Blocks of every size, freed in any order: resident memory follows the peak of what was alive, and
// once all were that large, it is not asked for again.
static void keeps_no_more_than_the_peak(void **state) {
    dopl_rt *rt = *state;
    enum { SLOTS = 40, ROUNDS = 400 };
    void *held[SLOTS] = { 0 };
    uint64_t seed = 1;
    bool poisons = rt->poison;
    rt->poison = false;
    dopl_rt_trim(rt);
    dopl_rt_reset_peak(rt);
    size_t live = rt->bytes_live, start = resident(), most = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SLOTS; i++) {
            size_t slot = draw(&seed, SLOTS), bytes = (1 + draw(&seed, 1000)) << (i % 12);
            dopl_rt_free(rt, held[slot]);
            held[slot] = must_alloc(rt, bytes);
            memset(held[slot], 1, bytes);
            size_t now = resident() - start;
            most = now > most ? now : most;
        }
    size_t peak = rt->bytes_peak - live, bound = peak + peak / 16 + (12 << 20);
#ifndef __SANITIZE_ADDRESS__ // which keeps its own map
    assert_true(most <= bound);
#endif
    assert_true(dopl_rt_cached(rt) <= bound);
    for (int i = 0; i < SLOTS; i++) dopl_rt_free(rt, held[i]);
    rt->poison = poisons;
    dopl_rt_trim(rt);
}

// What a step takes and the next one takes again costs no page faults, whatever the order in which
// it came back; nor does a smaller step.
static void steps_find_what_the_last_one_had(void **state) {
    dopl_rt *rt = *state;
    enum { BLOCKS = 30, STEPS = 20 };
    void *held[BLOCKS];
    dopl_rt_trim(rt);
    size_t cached = 0;
    struct rusage before = { 0 }, after;
    for (int step = 0; step < STEPS; step++) {
        if (step == 2) {
            cached = dopl_rt_cached(rt);
            getrusage(RUSAGE_SELF, &before);
        }
        size_t tokens = step < 2 ? 1000 : 1000 - 37 * (size_t)(step % 9);
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t bytes = tokens * (i % 3 ? 768 : 3072);
            held[i] = must_alloc(rt, bytes);
            memset(held[i], 1, bytes);
        }
        for (size_t i = 0; i < BLOCKS; i++) dopl_rt_free(rt, held[(i * 7) % BLOCKS]);
    }
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(dopl_rt_cached(rt), cached);
#ifndef __SANITIZE_ADDRESS__
    assert_true(after.ru_minflt - before.ru_minflt < 100);
#endif
    dopl_rt_trim(rt);
}

// Under a limit on addresses, memory is what the limit leaves, to the last few MiB.
static void takes_what_a_limit_leaves(void **state) {
    (void)state;
#ifndef __SANITIZE_ADDRESS__ // it takes more addresses than any limit
    struct rlimit was, limit;
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu", &pages), 1);
    fclose(f);
    enum { ROOM = 200 << 20, BLOCK = 1 << 20, MOST = 400 };
    static dopl_rt rt;
    assert_int_equal(dopl_rt_init(&rt), DOPL_OK);
    assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
    limit = was;
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + ROOM;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    void *held[MOST];
    int n = 0;
    while (n < MOST && dopl_rt_alloc(&rt, &held[n], BLOCK) == DOPL_OK) n++;
    bool says_so = n < MOST && strstr(rt.error, "out of memory: 1048576 bytes asked") != NULL;
    for (int i = 0; i < n; i++) dopl_rt_free(&rt, held[i]);
    void *whole; // its segments are given up for one that is larger than any
    bool fits = dopl_rt_alloc(&rt, &whole, ROOM / 2) == DOPL_OK;
    setrlimit(RLIMIT_AS, &was);
    dopl_rt_free(&rt, whole);
    dopl_rt_release(&rt);
    assert_true(says_so && fits);
    assert_in_range(n, 170, 200);
#endif
}

static void counts_what_is_alive(void **state) {
    dopl_rt *rt = *state;
    int64_t blocks = rt->n_blocks;
    size_t live = rt->bytes_live;
    void *a = must_alloc(rt, 100), *b = must_alloc(rt, 1000);
    assert_int_equal(rt->n_blocks, blocks + 2);
    assert_int_equal(rt->bytes_live, live + 1100);
    dopl_rt_free(rt, a);
    dopl_rt_free(rt, NULL);
    assert_int_equal(rt->bytes_live, live + 1000);
    assert_true(rt->bytes_peak >= live + 1100);
    dopl_rt_reset_peak(rt);
    assert_int_equal(rt->bytes_peak, live + 1000);
    dopl_rt_free(rt, b);
    assert_int_equal(rt->n_blocks, blocks);
}

static void realloc_keeps_what_fits(void **state) {
    dopl_rt *rt = *state;
    size_t live = rt->bytes_live;
    void *p = NULL;
    assert_int_equal(dopl_rt_realloc(rt, &p, 10), DOPL_OK);
    memcpy(p, "123456789", 10);
    size_t sizes[] = { 60, 64, 65, 1000, 900, 100000, 10 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(dopl_rt_realloc(rt, &p, sizes[i]), DOPL_OK);
        assert_string_equal(p, "123456789");
        assert_int_equal(rt->bytes_live, live + sizes[i]);
    }
    rt->fail_at = 1;
    assert_int_equal(dopl_rt_realloc(rt, &p, 1 << 20), DOPL_ENOMEM);
    assert_string_equal(p, "123456789"); // and is still ours
    dopl_rt_free(rt, p);
    assert_int_equal(rt->bytes_live, live);
}

static void refuses_with_a_reason(void **state) {
    dopl_rt *rt = *state;
    int64_t blocks = rt->n_blocks;
    void *p = &p;
    assert_int_equal(dopl_rt_alloc(rt, &p, SIZE_MAX), DOPL_ENOMEM);
    assert_null(p);
    assert_non_null(strstr(rt->error, "out of memory: 18446744073709551615 bytes asked"));
    rt->bytes_limit = rt->bytes_live + 1000;
    assert_int_equal(dopl_rt_alloc(rt, &p, 1001), DOPL_ENOMEM);
    assert_non_null(strstr(rt->error, "1001 bytes asked"));
    p = must_alloc(rt, 1000);
    dopl_rt_free(rt, p);
    rt->bytes_limit = 0;
    rt->fail_at = 2;
    p = must_alloc(rt, 8);
    void *q;
    assert_int_equal(dopl_rt_alloc(rt, &q, 8), DOPL_ENOMEM);
    assert_non_null(strstr(rt->error, "(simulated)"));
    q = must_alloc(rt, 8); // one failure, not a state
    dopl_rt_free(rt, p);
    dopl_rt_free(rt, q);
    assert_int_equal(rt->n_blocks, blocks);
}

static void poison_is_nan(void **state) {
    dopl_rt *rt = *state;
    bool before = rt->poison;
    rt->poison = true;
    float *p = must_alloc(rt, 10 * sizeof *p);
    for (int i = 0; i < 10; i++) assert_true(isnan(p[i]));
    dopl_rt_free(rt, p);
    rt->poison = before;
}

static void error_text_is_cut_not_overrun(void **state) {
    dopl_rt *rt = *state;
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_int_equal(dopl_fail(rt, DOPL_EARG, "%s", text), DOPL_EARG);
    assert_int_equal(strlen(rt->error), sizeof rt->error - 1);
    assert_int_equal(dopl_fail(rt, DOPL_ESHAPE, "add: %s", "100%s"), DOPL_ESHAPE);
    assert_string_equal(rt->error, "add: 100%s");
}

static void shapes_are_checked(void **state) {
    dopl_rt *rt = *state;
    dopl_tensor t;
    int64_t huge[] = { INT64_C(1) << 40, INT64_C(1) << 40 }, negative[] = { 2, -1 };
    assert_int_equal(dopl_tensor_new(rt, &t, DOPL_F32, 2, huge), DOPL_ESHAPE);
    assert_int_equal(dopl_tensor_new(rt, &t, DOPL_F32, 2, negative), DOPL_ESHAPE);
    assert_int_equal(dopl_tensor_new(rt, &t, DOPL_F32, 5, huge), DOPL_ESHAPE);
    dopl_tensor_release(rt, &t); // left empty: nothing to do
    assert_int_equal(dopl_tensor_new(rt, &t, DOPL_F32, 2, (int64_t[]){ 2, 3 }), DOPL_OK);
    assert_string_equal(dopl_shape_str(&t).s, "[2, 3]");
    dopl_tensor other;
    dopl_tensor_share(&other, &t);
    dopl_tensor_release(rt, &t);
    dopl_tensor_release(rt, &t);
    dopl_f32(&other)[5] = 1.0f;
    dopl_tensor_release(rt, &other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligned_and_as_large_as_asked),
        cmocka_unit_test(freed_blocks_come_back),
        cmocka_unit_test(keeps_no_more_than_the_peak),
        cmocka_unit_test(steps_find_what_the_last_one_had),
        cmocka_unit_test(takes_what_a_limit_leaves),
        cmocka_unit_test(counts_what_is_alive),
        cmocka_unit_test(realloc_keeps_what_fits),
        cmocka_unit_test(refuses_with_a_reason),
        cmocka_unit_test(poison_is_nan),
        cmocka_unit_test(error_text_is_cut_not_overrun),
        cmocka_unit_test(shapes_are_checked),
    };
    return cmocka_run_group_tests(tests, open_rt, close_rt);
}
