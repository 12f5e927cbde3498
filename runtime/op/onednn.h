// onednn.h - what differs between oneDNN 2.6 and 3, under one set of names.
//
// Version 3 made memory descriptors opaque, dropped operation descriptors (a primitive descriptor
// is made in one call) and gave the sum post-operation a zero point and a type. What both versions
// have in common is called by its own name.
#ifndef DOPL_OP_ONEDNN_H
#define DOPL_OP_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>

// Type, shape and strides of a matrix. Zero until it is described; the caller releases it.
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t onednn_layout; // a pointer
#else
typedef struct {
    dnnl_memory_desc_t desc;
} onednn_layout;
#endif

static inline dnnl_status_t onednn_describe(onednn_layout *out, int64_t rows, int64_t cols,
                                            int64_t row_stride, int64_t col_stride) {
    dnnl_dims_t dim = { rows, cols }, stride = { row_stride, col_stride };
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_memory_desc_create_with_strides(out, 2, dim, dnnl_f32, stride);
#else
    return dnnl_memory_desc_init_by_strides(&out->desc, 2, dim, dnnl_f32, stride);
#endif
}

static inline void onednn_layout_release(onednn_layout *layout) {
#if DNNL_VERSION_MAJOR >= 3
    if (*layout) dnnl_memory_desc_destroy(*layout);
    *layout = NULL;
#else
    (void)layout; // owns nothing
#endif
}

static inline dnnl_status_t onednn_memory(dnnl_memory_t *out, const onednn_layout *layout,
                                          dnnl_engine_t engine, void *data) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_memory_create(out, *layout, engine, data);
#else
    return dnnl_memory_create(out, &layout->desc, engine, data);
#endif
}

// The description of C = A B: `layout` has A, B and C.
static inline dnnl_status_t onednn_matmul(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                                          const onednn_layout layout[3],
                                          const_dnnl_primitive_attr_t attr) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(out, engine, layout[0], layout[1], NULL, layout[2],
                                             attr);
#else
    dnnl_matmul_desc_t product;
    dnnl_status_t s =
        dnnl_matmul_desc_init(&product, &layout[0].desc, &layout[1].desc, NULL, &layout[2].desc);
    return s ? s : dnnl_primitive_desc_create(out, &product, attr, engine, NULL);
#endif
}

// What is computed is added to `beta` times what was there.
static inline dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops, float beta) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_sum(ops, beta, 0, dnnl_data_type_undef);
#else
    return dnnl_post_ops_append_sum(ops, beta);
#endif
}

#endif
