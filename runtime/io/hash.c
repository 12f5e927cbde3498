// hash.c - a content hash.
#include "hash.h"

#include <stdio.h>

void dopl_hash_init(dopl_hash *h) {
    XXH3_128bits_reset(&h->state);
}

void dopl_hash_more(dopl_hash *h, const void *data, size_t n) {
    if (n) XXH3_128bits_update(&h->state, data, n);
}

void dopl_hash_end(dopl_hash *h, uint64_t n) {
    unsigned char length[8]; // little endian on every machine
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)(n >> (8 * i));
    XXH3_128bits_update(&h->state, length, sizeof length);
}

void dopl_hash_put(dopl_hash *h, const void *data, size_t n) {
    dopl_hash_more(h, data, n);
    dopl_hash_end(h, n);
}

void dopl_hash_hex(const dopl_hash *h, char out[33]) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(&h->state));
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", c.digest[i]);
}
