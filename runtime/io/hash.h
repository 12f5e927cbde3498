// hash.h - a content hash: 128 bits of XXH3. It names cache entries; it is no defence against
// someone who wants two contents to collide.
#ifndef DOPL_IO_HASH_H
#define DOPL_IO_HASH_H

#include <stddef.h>
#include <stdint.h>
#define XXH_STATIC_LINKING_ONLY // the size of the state
#include <xxhash.h>

typedef struct {
    XXH3_state_t state;
} dopl_hash;

void dopl_hash_init(dopl_hash *h);
// One part. Its length goes in after it, so ("ab", "c") and ("a", "bc") differ.
void dopl_hash_put(dopl_hash *h, const void *data, size_t n);
// The same part in pieces: more, more, ..., end with the bytes of all pieces.
void dopl_hash_more(dopl_hash *h, const void *data, size_t n);
void dopl_hash_end(dopl_hash *h, uint64_t n);
void dopl_hash_hex(const dopl_hash *h, char out[33]);

#endif
