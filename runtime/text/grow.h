// grow.h - arrays that double: the one growth rule of the text code.
#ifndef DOPL_TEXT_GROW_H
#define DOPL_TEXT_GROW_H

#include "../core/rt.h"

// Makes room for `need` elements of `size` bytes in *data; *capacity counts elements. On failure
// the array stands as it was.
DOPL_CHECKED static inline dopl_status dopl_grow(dopl_rt *rt, void **data, size_t *capacity,
                                                 size_t need, size_t size) {
    if (need <= *capacity) return DOPL_OK;
    size_t wanted = *capacity * 2 > need ? *capacity * 2 : need;
    if (wanted < 16) wanted = 16;
    DOPL_TRY(dopl_rt_realloc(rt, data, wanted * size));
    *capacity = wanted;
    return DOPL_OK;
}

typedef struct dopl_ids {
    int32_t *data;
    size_t n, capacity;
} dopl_ids;

DOPL_CHECKED static inline dopl_status dopl_ids_append(dopl_rt *rt, dopl_ids *ids, int32_t id) {
    DOPL_TRY(dopl_grow(rt, (void **)&ids->data, &ids->capacity, ids->n + 1, sizeof *ids->data));
    ids->data[ids->n++] = id;
    return DOPL_OK;
}

static inline void dopl_ids_release(dopl_rt *rt, dopl_ids *ids) {
    dopl_rt_free(rt, ids->data);
    *ids = (dopl_ids){ 0 };
}

#endif
