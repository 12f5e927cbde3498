// concat.cu - runtime/op/concat.c, whose copies are the device's already.
#include "../common.cuh"

dopl_status op_concat_cuda(dopl_rt *rt, dopl_op_call *c) {
    return op_concat_cpu(rt, c);
}

dopl_status op_concat_cuda_backward(dopl_rt *rt, dopl_node *n) {
    return op_concat_backward(rt, n);
}
