// program.h - a compiled optimizer pass: instructions over tiles, and the primitives that run them.
//
// A place is a number: 0 .. n_reg - 1 are temporary tiles, n_reg + s is operand s of a parameter
// (theta, its gradient, its states). An f32 operand is used where it lies, so reading and writing
// memory costs no instruction; an 8-bit operand is unpacked and packed by `load8` and `store8`, a
// bf16 one by `load16` and `store16` (to the nearest) or `stochastic16` (rounding.h).
// Scalars (learning rate, decays, bias corrections) are numbers of the step: see pass.h.
#ifndef DOPL_OPTIM_PROGRAM_H
#define DOPL_OPTIM_PROGRAM_H

#include "../core/rt.h"
#include "codec.h"
#include "rounding.h"

enum {
    DOPL_MAX_REG = 24,     // temporary tiles
    DOPL_MAX_OPERAND = 40, // operands of one parameter
    DOPL_MAX_INPUT = 5,    // tiles a primitive reads
    DOPL_MAX_SCALAR = 6    // and scalars
};

typedef enum {
#define PRIM(id, n_tile, n_scalar, expression) DOPL_PRIM_##id,
#include "optim.def"
    DOPL_PRIM_load8,        // y = the values of 8-bit operand a
    DOPL_PRIM_store8,       // 8-bit operand y = a
    DOPL_PRIM_load16,       // y = the values of bf16 operand a
    DOPL_PRIM_store16,      // bf16 operand y = a, rounded to the nearest
    DOPL_PRIM_stochastic16, // bf16 operand y = a, rounded stochastically
    DOPL_N_PRIM
} dopl_prim_id;

// in: the tiles it reads; n: elements, at most DOPL_TILE. While it computes it asks the cache for
// the n floats at `ahead`, whose address need not be valid.
typedef void dopl_prim_fn(float *y, float *const *in, const float *k, int n, const float *ahead);

typedef struct {
    const char *name, *text;
    int n_tile, n_scalar;
} dopl_prim;

// One instruction set's functions.
typedef struct {
    const char *name; // portable, avx2, avx512
    dopl_prim_fn *prim[DOPL_N_PRIM];
    dopl_scale_fn *scale;
    dopl_encode_fn *encode;
    dopl_decode_fn *decode;
    dopl_widen_fn *widen;
    dopl_round_nearest_fn *round_nearest;
    dopl_round_stochastic_fn *round_stochastic;
} dopl_isa;

typedef struct {
    uint8_t op;                  // dopl_prim_id
    uint8_t y;                   // place written
    uint8_t in[DOPL_MAX_INPUT];  // places read
    uint16_t k[DOPL_MAX_SCALAR]; // scalars, by number
} dopl_instr;

typedef enum {
    DOPL_OPERAND_F32,
    DOPL_OPERAND_Q8,
    DOPL_OPERAND_U8,
    DOPL_OPERAND_BF16
} dopl_operand_kind;

static inline int dopl_operand_bytes(dopl_operand_kind kind) { // of an element, without scales
    return kind == DOPL_OPERAND_F32 ? 4 : kind == DOPL_OPERAND_BF16 ? 2 : 1;
}

typedef struct {
    int n_instr, n_reg, n_operand, n_scalar;
    bool has_grad;                  // operand 1 is the gradient
    uint8_t kind[DOPL_MAX_OPERAND]; // dopl_operand_kind
    bool touched[DOPL_MAX_OPERAND]; // some instruction reads or writes it
    bool written[DOPL_MAX_OPERAND]; // some instruction writes it
    dopl_instr instr[];
} dopl_program;

extern const dopl_prim dopl_prim_table[DOPL_N_PRIM];
int dopl_prim_find(const char *name); // -1: no such primitive

// The fastest set this machine has, or the one named by the environment variable DOPL_ISA where it
// has that. Read at every call: specs switch between them.
const dopl_isa *dopl_isa_get(void);

// Room for n_instr instructions, all zero. The caller fills it, then has it checked.
DOPL_CHECKED dopl_status dopl_program_new(dopl_rt *rt, dopl_program **out, int n_instr);
// Places, scalars and primitives in range; temporaries written before they are read.
DOPL_CHECKED dopl_status dopl_program_check(dopl_rt *rt, dopl_program *program);

#endif
