// program.c - making a program and checking it before anything runs.
#include "program.h"

#include <string.h>

const dopl_prim dopl_prim_table[DOPL_N_PRIM] = {
#define PRIM(id, n_in, n_k, expression)                                                            \
    [DOPL_PRIM_##id] = { .name = #id, .text = #expression, .n_tile = n_in, .n_scalar = n_k },
#include "optim.def"
    [DOPL_PRIM_load8] = { .name = "load8", .text = "decode(a)", .n_tile = 1 },
    [DOPL_PRIM_store8] = { .name = "store8", .text = "encode(a)", .n_tile = 1 },
    [DOPL_PRIM_load16] = { .name = "load16", .text = "widen(a)", .n_tile = 1 },
    [DOPL_PRIM_store16] = { .name = "store16", .text = "round_nearest(a)", .n_tile = 1 },
    [DOPL_PRIM_stochastic16] = { .name = "stochastic16",
                                 .text = "round_stochastic(a)",
                                 .n_tile = 1 },
};

int dopl_prim_find(const char *name) {
    for (int i = 0; i < DOPL_N_PRIM; i++)
        if (strcmp(dopl_prim_table[i].name, name) == 0) return i;
    return -1;
}

dopl_status dopl_program_new(dopl_rt *rt, dopl_program **out, int n_instr) {
    size_t bytes = sizeof **out + sizeof(dopl_instr) * (size_t)n_instr;
    DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)out, bytes));
    (*out)->n_instr = n_instr;
    return DOPL_OK;
}

// Operand kinds by what reads and writes them.
typedef enum { TILES, CODES, HALVES } layout;

static layout layout_of(dopl_operand_kind kind) {
    return kind == DOPL_OPERAND_F32 ? TILES : kind == DOPL_OPERAND_BF16 ? HALVES : CODES;
}

static layout reads(dopl_prim_id op) {
    return op == DOPL_PRIM_load8 ? CODES : op == DOPL_PRIM_load16 ? HALVES : TILES;
}

static layout writes(dopl_prim_id op) {
    if (op == DOPL_PRIM_store8) return CODES;
    return op == DOPL_PRIM_store16 || op == DOPL_PRIM_stochastic16 ? HALVES : TILES;
}

// An f32 operand lies in memory and is ready at once; an 8-bit one only load8 may read, a bf16 one
// only load16.
static dopl_status check_read(dopl_rt *rt, dopl_program *p, int i, int place, const bool *ready) {
    int operand = place - p->n_reg;
    layout by = reads(p->instr[i].op);
    if (operand >= p->n_operand)
        return dopl_fail(rt, DOPL_EARG, "optimizer program: instruction %d reads place %d of %d",
                         i + 1, place, p->n_reg + p->n_operand);
    bool fits = operand < 0 ? by == TILES && ready[place] : by == layout_of(p->kind[operand]);
    if (!fits)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer program: instruction %d (%s) cannot read place %d", i + 1,
                         dopl_prim_table[p->instr[i].op].name, place);
    if (operand >= 0) p->touched[operand] = true;
    return DOPL_OK;
}

static dopl_status check_write(dopl_rt *rt, dopl_program *p, int i, bool *ready) {
    const dopl_instr *in = &p->instr[i];
    int operand = in->y - p->n_reg;
    layout by = writes(in->op);
    bool fits =
        operand < 0 ? by == TILES : operand < p->n_operand && by == layout_of(p->kind[operand]);
    if (fits && p->has_grad && operand == 1) fits = false; // gradients are read only
    if (!fits)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer program: instruction %d (%s) cannot write place %d", i + 1,
                         dopl_prim_table[in->op].name, in->y);
    if (operand < 0)
        ready[in->y] = true;
    else
        p->touched[operand] = p->written[operand] = true;
    return DOPL_OK;
}

dopl_status dopl_program_check(dopl_rt *rt, dopl_program *p) {
    bool ready[DOPL_MAX_REG] = { false };
    if (p->n_reg > DOPL_MAX_REG || p->n_operand > DOPL_MAX_OPERAND)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer program: %d temporaries and %d operands, at most %d and %d: "
                         "a simpler rule, or fewer objectives",
                         p->n_reg, p->n_operand, DOPL_MAX_REG, DOPL_MAX_OPERAND);
    int least = p->has_grad ? 2 : 1;
    if (p->n_reg < 0 || p->n_scalar < 0 || p->n_operand < least)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer program: %d temporaries, %d scalars and %d operands, needs at "
                         "least 0, 0 and %d%s",
                         p->n_reg, p->n_scalar, p->n_operand, least,
                         p->has_grad ? " (the parameter and its gradient)" : "");
    if (p->has_grad && p->kind[1] != DOPL_OPERAND_F32)
        return dopl_fail(rt, DOPL_EARG,
                         "optimizer program: operand 2 is the gradient, which is f32");
    for (int i = 0; i < p->n_instr; i++) {
        const dopl_instr *in = &p->instr[i];
        if (in->op >= DOPL_N_PRIM)
            return dopl_fail(rt, DOPL_EARG, "optimizer program: no primitive %d", in->op);
        const dopl_prim *prim = &dopl_prim_table[in->op];
        for (int j = 0; j < prim->n_tile; j++) DOPL_TRY(check_read(rt, p, i, in->in[j], ready));
        for (int j = prim->n_tile; j < DOPL_MAX_INPUT; j++) // run_tile looks all of them up
            if (in->in[j] != 0)
                return dopl_fail(rt, DOPL_EARG,
                                 "optimizer program: instruction %d (%s) takes %d tiles, and the "
                                 "next is place %d, needs 0",
                                 i + 1, prim->name, prim->n_tile, in->in[j]);
        for (int j = 0; j < prim->n_scalar; j++)
            if (in->k[j] >= p->n_scalar)
                return dopl_fail(rt, DOPL_EARG, "optimizer program: scalar %d of %d", in->k[j],
                                 p->n_scalar);
        DOPL_TRY(check_write(rt, p, i, ready));
    }
    return DOPL_OK;
}
