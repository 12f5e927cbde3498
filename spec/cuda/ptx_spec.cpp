// ptx_spec.cpp - what running PTX (ptx/) ends the program for: a check that finds nothing is to
// have found something once.
//
// Each mistake is a kernel of 64 threads, run by a child whose last words are read. Needs
// DOPL_EMULATOR_PTX, of any text, and DOPL_EMULATOR_RACES=1.
#include "ptx/ptx.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

// %r1: the thread; %r4: its element of s in shared memory; %rd1: 63 elements on the device.
static const char BEGIN[] = R"(.visible .entry k(
	.param .u64 k_param_0
)
.maxntid 64
{
	.reg .pred %p<3>;
	.reg .b32 %r<9>;
	.reg .b64 %rd<5>;
	.shared .align 8 .b8 s[256];
	ld.param.u64 %rd1, [k_param_0];
	mov.u32 %r1, %tid.x;
	shl.b32 %r2, %r1, 2;
	mov.u32 %r3, s;
	add.s32 %r4, %r3, %r2;
	sub.s32 %r5, 63, %r1;
	shl.b32 %r5, %r5, 2;
	add.s32 %r5, %r3, %r5;
	setp.ne.u32 %p1, %r1, 0;
)";

static void run(const char *body, unsigned threads, unsigned blocks) {
    const void *k = emulator::ptx::add(std::string(BEGIN) + body + "\n\tret;\n\n}\n", "k");
    void *data;
    if (!k || cudaMalloc(&data, 63 * sizeof(int)) != cudaSuccess) abort();
    std::string argument(reinterpret_cast<const char *>(&data), sizeof data);
    if (emulator::launch("k", k, dim3(blocks), dim3(threads), 0, nullptr, [] {}, { argument }) !=
            cudaSuccess ||
        cudaDeviceSynchronize() != cudaSuccess)
        abort();
}

// words: those of an end; nullptr: the kernel ends as it should, and nothing is said.
static void check(const char *words, const char *body, unsigned threads = 64, unsigned blocks = 1) {
    char said[4096] = "";
    int end[2], status;
    assert_int_equal(pipe(end), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(end[1], STDERR_FILENO);
        for (int each : { SIGABRT, SIGSEGV }) signal(each, SIG_DFL);
        run(body, threads, blocks);
        _exit(0);
    }
    close(end[1]);
    size_t n = 0;
    for (ssize_t k; (k = read(end[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)k;
    close(end[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (words ? !strstr(said, words) : n > 0) fail_msg("%s\nsaid: %s", body, said);
    assert_true(words ? WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT : status == 0);
}

static void what_is_right_runs(void **) {
    check(nullptr, "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r6, [%r5];"
                   "@!%p1 st.global.u32 [%rd1+248], %r6;");
    check(nullptr, "st.shared.u32 [%r4], %r1;", 40); // a warp of eight
}

static void addresses(void **) {
    check("outside of shared memory", "ld.shared.u32 %r6, [%r4+4];");
    check("outside of shared memory", "ld.shared.u32 %r6, [%r4+-4];");
    check("an address off its size", "ld.shared.u32 %r6, [%r4+2];");
    check("outside of parameters", "ld.param.u64 %rd2, [k_param_0+8];");
    check("past the end of a block", "@!%p1 st.global.v2.u32 [%rd1+248], {%r1, %r2};");
    check("an address in no block", "@!%p1 st.global.u32 [%rd1+252], %r1;");
    check("an address in no block", "@!%p1 st.global.u32 [%rd1+-4], %r1;");
    check("an address in no block", "mov.u64 %rd2, 0; ld.global.u32 %r6, [%rd2+-4];");
}

static void races(void **) {
    check("two write", "st.shared.u32 [s], %r1;");
    check("two write", "st.global.u32 [%rd1], %r1;");
    check("written while it is read", "st.shared.u32 [%r4], %r1; ld.shared.u32 %r6, [%r5];");
    check("read while it is written", "xor.b32 %r6, %r2, 4; add.s32 %r6, %r6, %r3;"
                                      "st.shared.u32 [%r4], %r1; ld.shared.u32 %r7, [%r6];");
    check(nullptr, "@!%p1 st.global.u32 [%rd1], %r1;");
    check("two write", "@!%p1 st.global.u32 [%rd1], %r1;", 64, 2);
    check(nullptr, "xor.b32 %r6, %r2, 4; add.s32 %r6, %r6, %r3; st.shared.u32 [%r4], %r1;"
                   "bar.warp.sync -1; ld.shared.u32 %r7, [%r6];");
}

static void lanes(void **) {
    check("waits for lanes that have ended", "@!%p1 ret; shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1;");
    check("a lane that its mask does not name", "shfl.sync.bfly.b32 %r6, %r1, 1, 31, 1;");
    check("more threads than .maxntid", "", 96);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_right_runs),
        cmocka_unit_test(addresses),
        cmocka_unit_test(races),
        cmocka_unit_test(lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
