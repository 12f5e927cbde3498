// table.h - the two hash tables of the text code: from a pair of ids, and from bytes.
//
// Both are open addressing with linear probing, at most half full, and never shrink. Neither is
// ever walked, so no order leaks out of them.
#ifndef DOPL_TEXT_TABLE_H
#define DOPL_TEXT_TABLE_H

#include "../core/rt.h"

// (left, right) -> value >= 0
typedef struct dopl_pair_map {
    uint64_t *key; // [capacity], UINT64_MAX: free
    int32_t *value;
    size_t n, capacity; // capacity is a power of two
} dopl_pair_map;

// -1 where the pair is absent.
int32_t dopl_pair_map_get(const dopl_pair_map *map, int32_t left, int32_t right);
// Replaces what was there.
DOPL_CHECKED dopl_status dopl_pair_map_put(dopl_rt *rt, dopl_pair_map *map, int32_t left,
                                           int32_t right, int32_t value);
void dopl_pair_map_release(dopl_rt *rt, dopl_pair_map *map);

// bytes -> value >= 0. The keys are the caller's and must outlive the table; should they move, the
// caller passes the new start to every call (keys are kept as offsets from it).
typedef struct dopl_bytes_slot {
    size_t offset;
    uint32_t length;
    int32_t value; // -1: free
    uint64_t hash;
} dopl_bytes_slot;

typedef struct dopl_bytes_map {
    dopl_bytes_slot *slot;
    size_t n, capacity;
} dopl_bytes_map;

uint64_t dopl_table_hash(const char *data, size_t n);
int32_t dopl_bytes_map_get(const dopl_bytes_map *map, const char *base, const char *data, size_t n);
// The caller has seen that the key is absent. The key's bytes lie at base + offset.
DOPL_CHECKED dopl_status dopl_bytes_map_add(dopl_rt *rt, dopl_bytes_map *map, const char *base,
                                            size_t offset, size_t n, int32_t value);
void dopl_bytes_map_release(dopl_rt *rt, dopl_bytes_map *map);

#endif
