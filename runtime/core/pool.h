// pool.h - the memory behind dopl_rt_alloc: blocks that are given back serve what is asked next.
#ifndef DOPL_CORE_POOL_H
#define DOPL_CORE_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct dopl_pool dopl_pool;

dopl_pool *dopl_pool_new(void); // NULL: no memory
void dopl_pool_free(dopl_pool *pool);

// 64-byte aligned, contents undefined; NULL: the system has no more.
void *dopl_pool_take(dopl_pool *pool, size_t bytes);
void dopl_pool_give(dopl_pool *pool, void *data);
// Whether the block could be made that long where it is, which keeps its contents.
bool dopl_pool_resize(void *data, size_t bytes);
size_t dopl_pool_bytes(const void *data); // as asked

void dopl_pool_trim(dopl_pool *pool);           // everything that is free goes back to the system
size_t dopl_pool_cached(const dopl_pool *pool); // free bytes that are resident

#endif
