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
// or, where that gradient is the output's own, hands it on without a copy: dopl_grad_share; or adds
// a copy of what another tensor holds: dopl_grad_add.
#ifndef DOPL_CORE_TAPE_H
#define DOPL_CORE_TAPE_H

#include "tensor.h"

enum { DOPL_MAX_IN = 8, DOPL_MAX_SAVED = 3, DOPL_ATTR_BYTES = 64 };

// The attributes of an operator's call, bytes to the core: op/op.h has a struct for each operator.
typedef union {
    double number; // with the other, for alignment
    int64_t integer;
    unsigned char bytes[DOPL_ATTR_BYTES];
} dopl_attrs;

typedef struct dopl_node dopl_node;
typedef dopl_status dopl_backward_fn(dopl_rt *rt, dopl_node *n);

struct dopl_node {
    const char *name;
    dopl_backward_fn *backward;
    int n_in;
    dopl_tensor *in;  // [n_in]: shape and var always; data only where backward needs it
    dopl_tensor out;  // likewise
    dopl_tensor dout; // gradient of out, during backward only
    dopl_tensor saved[DOPL_MAX_SAVED];
    dopl_attrs attrs;
    void *extra; // of an operator defined outside the core
    void (*release_extra)(dopl_rt *rt, void *extra);
};

DOPL_CHECKED dopl_status dopl_tape_new(dopl_rt *rt, dopl_tape **out);
void dopl_tape_free(dopl_rt *rt, dopl_tape *tape); // NULL-safe; drops every node
int64_t dopl_tape_size(const dopl_tape *tape);

// An empty node with room for its inputs.
DOPL_CHECKED dopl_status dopl_node_new(dopl_rt *rt, dopl_node **out, int n_in);
void dopl_node_free(dopl_rt *rt, dopl_node *n); // drops every reference it holds
// Appends a node, which is the tape's from then on, and marks out.var. On failure it stays with the
// caller.
DOPL_CHECKED dopl_status dopl_tape_record(dopl_rt *rt, dopl_node *n);

// `out`: a copy of t on a device and of a type (dopl_tensor_to), in the graph where t is.
DOPL_CHECKED dopl_status dopl_tape_to(dopl_rt *rt, dopl_tensor *out, const dopl_tensor *t,
                                      dopl_device device, dopl_dtype dtype);

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
// Adds a copy of `g`, on whatever device it is.
DOPL_CHECKED dopl_status dopl_grad_add(dopl_rt *rt, dopl_node *n, int i, const dopl_tensor *g);

#endif
