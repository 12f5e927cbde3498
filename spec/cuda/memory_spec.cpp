// memory_spec.cpp - what the emulated device's memory ends the program for, and what is in it.
//
// Each mistake is made by a child, whose last words are read.
#include <cuda_runtime.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

enum { N = 100, BYTES = N * sizeof(float), BLOCKS = 300, STEP = 97 };

static float *block(void) {
    void *data;
    if (cudaMalloc(&data, BYTES) != cudaSuccess) abort();
    return static_cast<float *>(data);
}

// Memory of the host's at an address that is taken for one: others are too like pairs of indices.
static float *host_block(void) {
    char *data = static_cast<char *>(malloc((size_t)4 << 20));
    if (!data) abort();
    if (static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data)) < 1 << 20) data += 1 << 20;
    return reinterpret_cast<float *>(data);
}

static void copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    if (cudaMemcpy(to, from, bytes, kind) != cudaSuccess) abort();
}

// Runs `mistake` in a child that must die by `by` and say `words`.
static void check(void (*mistake)(void), int by, const char *words) {
    char said[8192] = "";
    int end[2], status;
    assert_int_equal(pipe(end), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(end[1], STDERR_FILENO);
        signal(SIGSEGV, SIG_DFL); // cmocka's
        signal(SIGABRT, SIG_DFL);
        mistake();
        _exit(0);
    }
    close(end[1]);
    size_t used = 0;
    for (ssize_t n; used < sizeof said - 1; used += (size_t)n)
        if ((n = read(end[0], said + used, sizeof said - 1 - used)) <= 0) break;
    close(end[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!strstr(said, words)) fail_msg("'%s' is not in '%s'", words, said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), by);
}

static void read_by_the_host(void) {
    volatile float *data = block();
    (void)data[1];
}

static void written_by_the_host(void) {
    float *data = block();
    float x[N] = { 0 };
    copy(data, x, BYTES, cudaMemcpyHostToDevice);
    memset(data, 0, BYTES);
}

struct places {
    int n;
    const float *from;
};

__global__ static void fill(float *to, places p) { // with 0, or with p.from[0]
    for (int i = 0; i < p.n; i++) to[i] = p.from ? p.from[0] : 0.0f;
}

static void run(float *to, places p) {
    if (emulator::launch("fill", fill, dim3(1), dim3(1), 0, nullptr, to, p) != cudaSuccess) abort();
    if (cudaDeviceSynchronize() != cudaSuccess) abort();
}

static void written_past_its_end(void) {
    float *data = block();
    run(data, { N + 1, nullptr });
    (void)cudaFree(data);
}

static void written_after_it_was_given_back(void) {
    float *data = block();
    (void)cudaFree(data);
    run(data, { N, nullptr });
    (void)block();
}

static void written_by_a_kernel_where_there_is_nothing(void) {
    run(block() + ((size_t)1 << 30), { N, nullptr });
}

static void an_argument_that_is_the_host_s(void) {
    run(host_block(), { N, nullptr });
}

static void a_part_of_one_that_is_the_host_s(void) {
    run(block(), { N, host_block() });
}

static void copied_to_after_it_was_given_back(void) {
    float *data = block(), x[N] = { 0 };
    (void)cudaFree(data);
    copy(data, x, BYTES, cudaMemcpyHostToDevice);
}

static void filled_past_its_end(void) {
    if (cudaMemsetAsync(block() + 1, 0, BYTES, nullptr) == cudaSuccess) cudaDeviceSynchronize();
}

static void copied_from_the_host_as_if_on_the_device(void) {
    float x[N] = { 0 };
    copy(block(), x, BYTES, cudaMemcpyDeviceToDevice);
}

static void copied_to_the_device_as_if_the_host(void) {
    float *data = block();
    copy(data, block(), BYTES, cudaMemcpyDeviceToHost);
}

static void a_table_of_addresses_of_the_host(void) {
    float *data = block();
    void *table[] = { data, data, host_block() };
    copy(data, table, sizeof table, cudaMemcpyHostToDevice);
}

static void a_fault_elsewhere(void) {
    (void)block();
    void *page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static_cast<volatile char *>(page)[8] = 0;
}

static void handled(int) {
    _exit(3);
}

static void mistakes_end_the_program(void **) {
#ifdef __SANITIZE_ADDRESS__
    skip(); // which finds such things by itself
#endif
    const char *host = "host code reached for memory of the device at 0x";
    check(read_by_the_host, SIGSEGV, host);
    check(written_by_the_host, SIGSEGV, host);
    check(written_past_its_end, SIGABRT, "something was written past the end of a block of 400 ");
    check(written_after_it_was_given_back, SIGABRT, " was written while it belonged to no block");
    check(written_by_a_kernel_where_there_is_nothing, SIGSEGV,
          "a kernel reached far outside of all blocks, to 0x");
    check(an_argument_that_is_the_host_s, SIGABRT, "fill: an address of the host's given to the ");
    check(a_part_of_one_that_is_the_host_s, SIGABRT, "fill: an address of the host's given to the");
    check(copied_to_after_it_was_given_back, SIGABRT, "a copy: an address in no block given as ");
    check(filled_past_its_end, SIGABRT, "a filling: 400 bytes at ");
    check(copied_from_the_host_as_if_on_the_device, SIGABRT,
          "a copy: an address of the host's given as memory of the device");
    check(copied_to_the_device_as_if_the_host, SIGABRT,
          "a copy: memory of the device given as the host's");
    check(a_table_of_addresses_of_the_host, SIGABRT,
          "a copy: an address of the host's given to the device");
    check(a_fault_elsewhere, SIGSEGV, "");
}

static void a_handler_that_was_there_handles_the_rest(void **) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, handled);
        a_fault_elsewhere();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);
}

// Blocks of all sizes, given back in another order than taken; each keeps what was put into it.
static void blocks_are_apart(void **) {
    static void *taken[BLOCKS];
    static unsigned char back[BLOCKS * STEP], put[BLOCKS * STEP];
    for (int round = 0; round < 4; round++) {
        for (int i = round % 2; i < BLOCKS; i += 1 + round % 2) {
            size_t bytes = (size_t)((i * 7919 + round) % BLOCKS) * STEP + 1;
            void *data;
            if (taken[i]) continue;
            assert_int_equal(cudaMalloc(&data, bytes), cudaSuccess);
            assert_int_equal(reinterpret_cast<uintptr_t>(data) % 256, 0);
            copy(back, data, bytes, cudaMemcpyDeviceToHost);
            for (size_t b = 0; b < bytes; b++) assert_int_equal(back[b], 0xff);
            memset(put, i % 256, bytes);
            copy(data, put, bytes, cudaMemcpyHostToDevice);
            taken[i] = data;
        }
        for (int k = 0; k < BLOCKS; k++) {
            int i = k * 77 % BLOCKS; // every one once
            if (!taken[i] || (round < 3 && i % 3 == round)) continue;
            copy(back, taken[i], 1, cudaMemcpyDeviceToHost);
            assert_int_equal(back[0], i % 256);
            assert_int_equal(cudaFree(taken[i]), cudaSuccess);
            assert_int_equal(cudaFree(taken[i]), cudaErrorInvalidValue);
            taken[i] = nullptr;
        }
    }
    size_t unused, total;
    assert_int_equal(cudaMemGetInfo(&unused, &total), cudaSuccess);
    assert_int_equal(unused, total);
}

__global__ static void find(unsigned *found) {
    __shared__ unsigned variable;
    DOPL_DYNAMIC_SHARED(unsigned, dynamic);
    found[2 * blockIdx.x] = variable;
    found[2 * blockIdx.x + 1] = *dynamic;
    variable = *dynamic = 0;
}

static void shared_memory_is_of_a_block(void **) {
    unsigned *data = reinterpret_cast<unsigned *>(block()), found[N];
    assert_int_equal(emulator::launch("find", find, dim3(N / 2), dim3(1), 4, nullptr, data),
                     cudaSuccess);
    copy(found, data, BYTES, cudaMemcpyDeviceToHost);
    for (int i = 0; i < N; i++) assert_int_equal(found[i], 0xffffffffu);
    assert_int_equal(cudaFree(data), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_end_the_program),
        cmocka_unit_test(a_handler_that_was_there_handles_the_rest),
        cmocka_unit_test(blocks_are_apart),
        cmocka_unit_test(shared_memory_is_of_a_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
