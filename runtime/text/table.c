// table.c - open addressing over a multiplicative hash.
#include "table.h"

#include <string.h>

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u; // the constant of the rrxmrrxmsx mixers; any odd, bit-rich one would
                              // do
    x ^= x >> 32;
    return x;
}

static uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t pair_slot(const dopl_pair_map *map, uint64_t key) {
    size_t mask = map->capacity - 1, i = mix(key) & mask;
    while (map->key[i] != key && map->key[i] != UINT64_MAX) i = (i + 1) & mask;
    return i;
}

int32_t dopl_pair_map_get(const dopl_pair_map *map, int32_t left, int32_t right) {
    if (!map->n) return -1;
    uint64_t key = pair_key(left, right);
    size_t i = pair_slot(map, key);
    return map->key[i] == key ? map->value[i] : -1;
}

static dopl_status pair_map_grow(dopl_rt *rt, dopl_pair_map *map) {
    dopl_pair_map wide = { .n = map->n, .capacity = map->capacity ? map->capacity * 2 : 64 };
    DOPL_TRY(dopl_rt_alloc(rt, (void **)&wide.key, wide.capacity * sizeof *wide.key));
    dopl_status status =
        dopl_rt_alloc(rt, (void **)&wide.value, wide.capacity * sizeof *wide.value);
    if (status != DOPL_OK) {
        dopl_rt_free(rt, wide.key);
        return status;
    }
    memset(wide.key, 0xff, wide.capacity * sizeof *wide.key);
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->key[i] == UINT64_MAX) continue;
        size_t j = pair_slot(&wide, map->key[i]);
        wide.key[j] = map->key[i];
        wide.value[j] = map->value[i];
    }
    dopl_pair_map_release(rt, map);
    *map = wide;
    return DOPL_OK;
}

dopl_status dopl_pair_map_put(dopl_rt *rt, dopl_pair_map *map, int32_t left, int32_t right,
                              int32_t value) {
    if (2 * (map->n + 1) > map->capacity) DOPL_TRY(pair_map_grow(rt, map));
    uint64_t key = pair_key(left, right);
    size_t i = pair_slot(map, key);
    map->n += map->key[i] != key;
    map->key[i] = key;
    map->value[i] = value;
    return DOPL_OK;
}

void dopl_pair_map_release(dopl_rt *rt, dopl_pair_map *map) {
    dopl_rt_free(rt, map->key);
    dopl_rt_free(rt, map->value);
    *map = (dopl_pair_map){ 0 };
}

uint64_t dopl_table_hash(const char *data, size_t n) {
    uint64_t hash = n * 0x9e3779b97f4a7c15u, word;
    for (; n >= 8; data += 8, n -= 8) {
        memcpy(&word, data, 8);
        hash = mix(hash ^ word) + 0x9e3779b97f4a7c15u;
    }
    word = 0;
    memcpy(&word, data, n);
    return mix(mix(hash ^ word));
}

static size_t bytes_slot(const dopl_bytes_map *map, const char *base, const char *data, size_t n,
                         uint64_t hash) {
    size_t mask = map->capacity - 1, i = hash & mask;
    for (;; i = (i + 1) & mask) {
        const dopl_bytes_slot *s = &map->slot[i];
        if (s->value < 0) return i;
        if (s->hash == hash && s->length == n && memcmp(base + s->offset, data, n) == 0) return i;
    }
}

int32_t dopl_bytes_map_get(const dopl_bytes_map *map, const char *base, const char *data,
                           size_t n) {
    if (!map->n) return -1;
    return map->slot[bytes_slot(map, base, data, n, dopl_table_hash(data, n))].value;
}

static dopl_status bytes_map_grow(dopl_rt *rt, dopl_bytes_map *map) {
    dopl_bytes_map wide = { .n = map->n, .capacity = map->capacity ? map->capacity * 2 : 64 };
    DOPL_TRY(dopl_rt_alloc(rt, (void **)&wide.slot, wide.capacity * sizeof *wide.slot));
    for (size_t i = 0; i < wide.capacity; i++) wide.slot[i].value = -1;
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->slot[i].value < 0) continue;
        size_t mask = wide.capacity - 1, j = map->slot[i].hash & mask;
        while (wide.slot[j].value >= 0) j = (j + 1) & mask;
        wide.slot[j] = map->slot[i];
    }
    dopl_rt_free(rt, map->slot);
    *map = wide;
    return DOPL_OK;
}

dopl_status dopl_bytes_map_add(dopl_rt *rt, dopl_bytes_map *map, const char *base, size_t offset,
                               size_t n, int32_t value) {
    if (2 * (map->n + 1) > map->capacity) DOPL_TRY(bytes_map_grow(rt, map));
    uint64_t hash = dopl_table_hash(base + offset, n);
    map->slot[bytes_slot(map, base, base + offset, n, hash)] =
        (dopl_bytes_slot){ .offset = offset, .length = (uint32_t)n, .value = value, .hash = hash };
    map->n++;
    return DOPL_OK;
}

void dopl_bytes_map_release(dopl_rt *rt, dopl_bytes_map *map) {
    dopl_rt_free(rt, map->slot);
    *map = (dopl_bytes_map){ 0 };
}
