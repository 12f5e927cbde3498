// tape.h - the record of operators that backward walks.
//
// An operator whose input carries a gradient appends one node. dopl_tape_backward walks the nodes
// from the last to the first, calls each node's backward with the gradient of its output, and frees
// the node at once, so that memory falls as the walk proceeds.
//
// A backward function asks where the gradient of input i goes:
//
//     if (!dopl_grad_wants(n, 0)) return DOPL_OK;
//     DOPL_TRY(dopl_grad_into(rt, n, 0, &dx, &beta));
//     dx = beta * dx + ...             // beta is 0 (dx holds garbage) or 1
//
// or, where that gradient is the output's own, hands it on without a copy: dopl_grad_share.
#ifndef DOPL_CORE_TAPE_H
#define DOPL_CORE_TAPE_H

#include "tensor.h"

enum { DOPL_MAX_IN = 8, DOPL_MAX_ATTR = 8, DOPL_MAX_SAVED = 3 };

typedef union {
    double f;
    int64_t i;
} dopl_attr;

typedef struct dopl_node dopl_node;
typedef dopl_status dopl_backward_fn(dopl_rt *rt, dopl_node *n);

struct dopl_node {
    const char *name;
    dopl_backward_fn *backward;
    int n_in;
    dopl_tensor in[DOPL_MAX_IN]; // shape and var always; data only where backward needs it
    dopl_tensor out;             // likewise
    dopl_tensor dout;            // gradient of out, during backward only
    dopl_tensor saved[DOPL_MAX_SAVED];
    dopl_attr attr[DOPL_MAX_ATTR];
    void *extra; // of an operator defined outside the core
    void (*release_extra)(dopl_rt *rt, void *extra);
};

DOPL_CHECKED dopl_status dopl_tape_new(dopl_rt *rt, dopl_tape **out);
void dopl_tape_free(dopl_rt *rt, dopl_tape *tape); // NULL-safe; drops every node
int64_t dopl_tape_size(const dopl_tape *tape);

// Appends a copy of `node`, taking over the references it holds, and marks out->var. On failure the
// references stay with the caller.
DOPL_CHECKED dopl_status dopl_tape_record(dopl_rt *rt, const dopl_node *node);
void dopl_node_release(dopl_rt *rt, dopl_node *node);

// `out`: a copy of t on a device and of a type (dopl_tensor_to), in the graph where t is.
DOPL_CHECKED dopl_status dopl_tape_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t,
                                      dopl_device device, dopl_dtype dtype);
// Adds a copy of part's rows to those of t, whose storage has the room; in the graph where one of
// them is. Type, device and the other dimensions are the same.
DOPL_CHECKED dopl_status dopl_tape_append(dopl_rt *rt, dopl_tensor *t, const dopl_tensor *part);

// Adds d(root . seed)/d(leaf) to every leaf's gradient. seed NULL: 1, and root must have one
// element.
DOPL_CHECKED dopl_status dopl_tape_backward(dopl_rt *rt, const dopl_tensor *root,
                                            const dopl_tensor *seed);
// Drops the nodes whose result nothing outside the tape can reach any more.
void dopl_tape_prune(dopl_rt *rt);

bool dopl_grad_wants(const dopl_node *n, int i);
DOPL_CHECKED dopl_status dopl_grad_into(dopl_rt *rt, dopl_node *n, int i, dopl_tensor **dx,
                                        float *beta);
DOPL_CHECKED dopl_status dopl_grad_share(dopl_rt *rt, dopl_node *n, int i, const dopl_tensor *g);

#endif
