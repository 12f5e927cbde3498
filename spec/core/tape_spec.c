// tape_spec.c - operators and the tape under a stop, under failures and under a back end that
// refuses, driven without Lua.
#include "../../runtime/core/device.h"
#include "../../runtime/op/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

typedef struct {
    dopl_rt rt;
    dopl_tensor x;
} fixture;

static int open_fixture(void **state) {
    static fixture f;
    *state = &f;
    if (dopl_rt_init(&f.rt) != DOPL_OK) return -1;
    if (dopl_tensor_new(&f.rt, &f.x, DOPL_F32, 1, (int64_t[]){ 3 }) != DOPL_OK) return -1;
    if (dopl_tensor_fill(&f.rt, &f.x, 2.0) != DOPL_OK) return -1;
    return dopl_tensor_require_grad(&f.rt, &f.x) == DOPL_OK ? 0 : -1;
}

static int close_fixture(void **state) {
    fixture *f = *state;
    dopl_tensor_release(&f->rt, &f->x);
    int64_t tape = 2; // its header and its list of nodes
    if (f->rt.n_blocks != tape) return -1;
    dopl_rt_release(&f->rt);
    return 0;
}

static dopl_status apply(fixture *f, dopl_op_id id, const dopl_tensor *in, dopl_tensor *out) {
    dopl_op_call c = { .n_in = 1, .in = &in, .out = out };
    memset(out, 0, sizeof *out);
    return dopl_op_apply(&f->rt, id, &c);
}

// sum(x^2), its way recorded
static void forward(fixture *f, dopl_tensor *square, dopl_tensor *loss) {
    assert_int_equal(apply(f, DOPL_OP_square, &f->x, square), DOPL_OK);
    assert_int_equal(apply(f, DOPL_OP_sum, square, loss), DOPL_OK);
    assert_float_equal(*dopl_f32(loss), 12.0f, 0.0f);
}

static void backward_gives_the_gradient(void **state) {
    fixture *f = *state;
    dopl_tensor square, loss;
    forward(f, &square, &loss);
    assert_int_equal(dopl_tape_size(f->rt.tape), 2);
    assert_int_equal(dopl_tape_backward(&f->rt, &loss, NULL), DOPL_OK);
    assert_int_equal(dopl_tape_size(f->rt.tape), 0);
    for (int i = 0; i < 3; i++) assert_float_equal(dopl_f32(&f->x.var->grad)[i], 4.0f, 0.0f);
    assert_int_equal(dopl_tape_backward(&f->rt, &loss, NULL), DOPL_ESTATE);
    dopl_tensor_release(&f->rt, &square);
    dopl_tensor_release(&f->rt, &loss);
    dopl_tensor_release(&f->rt, &f->x.var->grad);
}

static void a_stop_ends_forward_and_backward(void **state) {
    fixture *f = *state;
    dopl_tensor square, loss, none;
    forward(f, &square, &loss);
    f->rt.stop = 1;
    assert_int_equal(apply(f, DOPL_OP_exp, &f->x, &none), DOPL_ESTOP);
    assert_null(none.storage);
    assert_int_equal(dopl_tape_backward(&f->rt, &loss, NULL), DOPL_ESTOP);
    f->rt.stop = 0;
    dopl_tensor_release(&f->rt, &square);
    dopl_tensor_release(&f->rt, &loss);
    dopl_tape_prune(&f->rt);
    assert_int_equal(dopl_tape_size(f->rt.tape), 0);
    assert_null(f->x.var->grad.storage);
    backward_gives_the_gradient(state); // and all is as before
}

// Whichever allocation fails, the call fails, its output is empty and nothing leaks.
static void a_failed_operator_leaves_nothing(void **state) {
    fixture *f = *state;
    int64_t blocks = f->rt.n_blocks;
    for (int n = 1;; n++) {
        dopl_tensor y;
        f->rt.fail_at = n;
        dopl_status status = apply(f, DOPL_OP_exp, &f->x, &y);
        bool failed = f->rt.fail_at == 0;
        f->rt.fail_at = 0;
        assert_int_equal(status, failed ? DOPL_ENOMEM : DOPL_OK);
        assert_int_equal(y.storage == NULL, failed);
        dopl_tensor_release(&f->rt, &y);
        dopl_tape_prune(&f->rt);
        assert_int_equal(f->rt.n_blocks, blocks);
        if (failed) continue;
        assert_true(n > 4); // storage, data, var, node
        return;
    }
}

static void the_tape_grows(void **state) {
    fixture *f = *state;
    enum { N = 1000 };
    static dopl_tensor y[N];
    const dopl_tensor *last = &f->x;
    for (int i = 0; i < N; i++) {
        dopl_op_call c = { .n_in = 1, .in = &last, .out = &y[i] };
        OP_ATTRS(scale, &c)->k = 1.0;
        assert_int_equal(dopl_op_apply(&f->rt, DOPL_OP_scale, &c), DOPL_OK);
        last = &y[i];
    }
    assert_int_equal(dopl_tape_size(f->rt.tape), N);
    dopl_tensor loss;
    assert_int_equal(apply(f, DOPL_OP_sum, last, &loss), DOPL_OK);
    assert_int_equal(dopl_tape_backward(&f->rt, &loss, NULL), DOPL_OK);
    assert_float_equal(dopl_f32(&f->x.var->grad)[2], 1.0f, 0.0f);
    dopl_tensor_release(&f->rt, &f->x.var->grad);
    dopl_tensor_release(&f->rt, &loss);
    for (int i = 0; i < N; i++) dopl_tensor_release(&f->rt, &y[i]);
}

// ---- a back end that has no kernel for one form of an operator, and none at all for the rest

static dopl_status no_erf(dopl_rt *rt, const dopl_op_call *c) {
    if (OP_ATTRS(gelu, c)->form != OP_gelu_form_erf) return DOPL_OK;
    return op_unsupported(rt, c, "form = %s", "erf");
}

static dopl_status no_memory(dopl_rt *rt, void **out, size_t bytes) {
    *out = NULL;
    return dopl_fail(rt, DOPL_ENOMEM, "%zu bytes", bytes);
}

static void a_back_end_refuses_attributes(void **state) {
    static dopl_status (*const supports[DOPL_OP_COUNT])(
        dopl_rt * rt, const dopl_op_call *c) = { [DOPL_OP_gelu] = no_erf };
    static const dopl_backend backend = { .name = "mine",
                                          .supports = supports,
                                          .alloc = no_memory };
    fixture *f = *state;
    f->rt.backend = &backend;
    dopl_storage storage = { .refs = 2, .device = DOPL_GPU };
    dopl_tensor x = { .storage = &storage, .device = DOPL_GPU, .n_dim = 1, .dim = { 3 } },
                y = { 0 };
    const dopl_tensor *in = &x;
    dopl_op_call c = { .n_in = 1, .in = &in, .out = &y };
    OP_ATTRS(gelu, &c)->form = OP_gelu_form_erf;
    assert_int_equal(dopl_op_apply(&f->rt, DOPL_OP_gelu, &c), DOPL_EDEVICE);
    assert_string_equal(f->rt.error, "gelu: device cuda does not support form = erf");
    assert_null(y.storage);
    OP_ATTRS(gelu, &c)->form = OP_gelu_form_tanh; // asked for memory: it got past the question
    assert_int_equal(dopl_op_apply(&f->rt, DOPL_OP_gelu, &c), DOPL_ENOMEM);
    assert_int_equal(dopl_op_apply(&f->rt, DOPL_OP_exp, &c), DOPL_ENOMEM);
    f->rt.backend = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backward_gives_the_gradient),
        cmocka_unit_test(a_stop_ends_forward_and_backward),
        cmocka_unit_test(a_failed_operator_leaves_nothing),
        cmocka_unit_test(the_tape_grows),
        cmocka_unit_test(a_back_end_refuses_attributes),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
