// memory.h - the emulated device's memory (memory.cpp).
#ifndef DOPL_EMULATOR_MEMORY_H
#define DOPL_EMULATOR_MEMORY_H

#include <stddef.h>

namespace emulator {

void *take(size_t bytes); // a block full of NaN; nullptr: no room
bool give(void *block);   // false: no block begins there
bool is_block(const void *data);
void *block_around(const void *data, size_t *bytes); // nullptr: no block has it
size_t bytes_taken();
// Whether memory is as large as asked, and work done at the ends of it only: memory.cpp.
bool is_sparse();

// While one exists, memory of the device can be reached.
struct reach {
    reach();
    ~reach();
    reach(const reach &) = delete;
    reach &operator=(const reach &) = delete;
};

// Each ends the program if that is not so. `who` wanted the bytes.
void must_be_device(const char *who, const void *data, size_t bytes); // within one block
void must_be_host(const char *who, const void *data, size_t bytes);
void must_hold_no_host_address(const char *who, const void *data, size_t bytes);

} // namespace emulator

#endif
