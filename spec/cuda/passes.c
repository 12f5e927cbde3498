// passes.c - compiles optimizer passes with NVRTC, as runtime/cuda/jit.c does, and says what ptxas
// reports. Needs no device. Fails where a pass does not compile or keeps anything in local memory.
//
//   spec_cuda_passes FILE     sources, each behind a line "//// name" (passes.lua prints them)
//
// Every pass for sm_90, every eighth for sm_80 as well, by two processes in turn.
#include <nvrtc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 2, OLDER_EVERY = 8, MAX_PASSES = 4096 };
static const char mark[] = "//// ";

typedef struct {
    char *name, *source;
} pass;

// What a worker sends for one compilation: smaller than a pipe writes at once.
typedef struct {
    int pass, arch, registers;
    bool good;
    double seconds; // of processor time
} outcome;

static void die(const char *what) {
    fprintf(stderr, "passes: %s\n", what);
    exit(1);
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) die("cannot read the sources");
    size_t n = (size_t)ftell(f);
    char *text = malloc(n + 1);
    rewind(f);
    if (!text || fread(text, 1, n, f) != n) die("cannot read the sources");
    fclose(f);
    text[n] = '\0';
    return text;
}

// Cuts `text` at its marks; returns how many passes there are.
static int split(char *text, pass *out) {
    int n = 0;
    if (strncmp(text, mark, strlen(mark)) != 0) die("no sources");
    for (char *at = text; at;) {
        if (n == MAX_PASSES) die("too many sources");
        char *end = strchr(at, '\n'), *next = strstr(end, "\n//// ");
        *end = '\0';
        if (next) *next++ = '\0';
        out[n++] = (pass){ at + strlen(mark), end + 1 };
        at = next;
    }
    return n;
}

// ---- one compilation

// The sum of the numbers before each `words` in the log.
static long sum_before(const char *log, const char *words) {
    long sum = 0;
    for (const char *at = log; (at = strstr(at, words)); at++) {
        const char *digit = at;
        while (digit > log && digit[-1] >= '0' && digit[-1] <= '9') digit--;
        sum += strtol(digit, NULL, 10);
    }
    return sum;
}

static double processor_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static outcome compile(const pass *p, int index, int arch) {
    outcome out = { .pass = index, .arch = arch };
    char target[40];
    snprintf(target, sizeof target, "--gpu-architecture=sm_%d", arch);
    const char *const options[] = { target,
                                    "--std=c++17",
                                    "--device-as-default-execution-space",
                                    "--prec-div=false",
                                    "--prec-sqrt=false",
                                    "--ptxas-options=-v" };
    double start = processor_time();
    nvrtcProgram program;
    if (nvrtcCreateProgram(&program, p->source, "dopl_pass.cu", 0, NULL, NULL) != NVRTC_SUCCESS)
        die("nvrtcCreateProgram failed");
    nvrtcResult error = nvrtcCompileProgram(program, sizeof options / sizeof *options, options);
    out.seconds = processor_time() - start;
    size_t n = 0;
    nvrtcGetProgramLogSize(program, &n);
    char *log = calloc(n + 1, 1);
    if (!log) die("no memory");
    nvrtcGetProgramLog(program, log);
    const char *used = strstr(log, "Used ");
    out.registers = used ? atoi(used + strlen("Used ")) : 0;
    long local = sum_before(log, " bytes stack frame") + sum_before(log, " bytes spill");
    out.good = error == NVRTC_SUCCESS && out.registers > 0 && local == 0;
    if (!out.good)
        fprintf(stderr, "%s, sm_%d: %s\n%s\n", p->name, arch, nvrtcGetErrorString(error), log);
    free(log);
    nvrtcDestroyProgram(&program);
    return out;
}

static void work(const pass *passes, int n, int worker, int to) {
    for (int i = worker; i < n; i += WORKERS) {
        for (int arch = 90; arch >= 80; arch -= 10) {
            if (arch == 80 && i / WORKERS % OLDER_EVERY) continue;
            outcome made = compile(&passes[i], i, arch);
            if (write(to, &made, sizeof made) != sizeof made) _exit(1);
        }
    }
    _exit(0);
}

// ---- all of them

static int by_seconds(const void *a, const void *b) {
    double x = ((const outcome *)a)->seconds, y = ((const outcome *)b)->seconds;
    return (x > y) - (x < y);
}

static bool report(const pass *passes, outcome *made, int n) {
    int n_bad = 0, n_older = 0;
    const outcome *most = made;
    qsort(made, (size_t)n, sizeof *made, by_seconds);
    for (int i = 0; i < n; i++) {
        n_bad += !made[i].good;
        n_older += made[i].arch != 90;
        if (made[i].registers > most->registers) most = &made[i];
    }
    printf("%d passes for sm_90, %d of them for sm_80: %d with errors or spills; at most %d "
           "registers (%s); to compile one %.2f s (median), %.2f s at most, of processor time\n",
           n - n_older, n_older, n_bad, most->registers, passes[most->pass].name,
           made[n / 2].seconds, made[n - 1].seconds);
    return n_bad == 0;
}

int main(int argc, char **argv) {
    static pass passes[MAX_PASSES];
    static outcome made[2 * MAX_PASSES];
    if (argc != 2) die("usage: spec_cuda_passes FILE");
    int n = split(read_file(argv[1]), passes), channel[2], n_made = 0;
    if (pipe(channel)) die("no pipe");
    for (int w = 0; w < WORKERS; w++) {
        pid_t child = fork();
        if (child < 0) die("no process");
        if (child == 0) {
            close(channel[0]);
            work(passes, n, w, channel[1]);
        }
    }
    close(channel[1]);
    while (read(channel[0], &made[n_made], sizeof *made) == sizeof *made) n_made++;
    bool whole = true;
    for (int w = 0, status; w < WORKERS; w++) whole = wait(&status) > 0 && status == 0 && whole;
    if (!whole) die("a worker ended early");
    return report(passes, made, n_made) ? 0 : 1;
}
