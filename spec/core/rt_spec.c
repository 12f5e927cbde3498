// rt_spec.c - the allocator and error text, below what Lua can see.
#include "../../runtime/core/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

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

// A freed block serves the next request of its class, and a class wastes at most an eighth.
static void freed_blocks_come_back(void **state) {
    dopl_rt *rt = *state;
    size_t sizes[] = { 1, 64, 65, 512, 513, 1024, 1025, 100000, 1048577, 7654321 };
    dopl_rt_trim(rt);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p = must_alloc(rt, sizes[i]);
        dopl_rt_free(rt, p);
        size_t cached = rt->bytes_cached;
        assert_true(cached >= sizes[i] && cached <= sizes[i] + sizes[i] / 8 + 64);
        assert_ptr_equal(must_alloc(rt, sizes[i]), p);
        assert_int_equal(rt->bytes_cached, 0);
        dopl_rt_free(rt, p);
        dopl_rt_trim(rt);
        assert_int_equal(rt->bytes_cached, 0);
    }
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
        cmocka_unit_test(aligned_and_as_large_as_asked), cmocka_unit_test(freed_blocks_come_back),
        cmocka_unit_test(counts_what_is_alive),          cmocka_unit_test(realloc_keeps_what_fits),
        cmocka_unit_test(refuses_with_a_reason),         cmocka_unit_test(poison_is_nan),
        cmocka_unit_test(error_text_is_cut_not_overrun), cmocka_unit_test(shapes_are_checked),
    };
    return cmocka_run_group_tests(tests, open_rt, close_rt);
}
