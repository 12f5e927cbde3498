// bpe_train.h - learns a byte-pair vocabulary from texts.
#ifndef DOPL_TEXT_BPE_TRAIN_H
#define DOPL_TEXT_BPE_TRAIN_H

#include "bpe.h"

typedef struct dopl_bpe_text {
    const char *data;
    size_t n;
} dopl_bpe_text;

typedef struct dopl_bpe_training {
    const dopl_bpe_text *text, *special;
    size_t n_texts, n_specials;
    size_t vocab_size; // tokens wanted, special ones and the 256 bytes included
    int64_t min_count; // a pair met less often is not merged, though the vocabulary stay smaller
} dopl_bpe_training;

// Fills *bpe, which was set up by dopl_bpe_init and holds no token, and seals it. Ids: the special
// tokens, the 256 bytes in the order of their characters, then the merges as they are learned; the
// commonest pair first, of equally common ones that with the smaller ids. The same texts give the
// same vocabulary. On failure the caller releases *bpe.
DOPL_CHECKED dopl_status dopl_bpe_train(dopl_rt *rt, dopl_bpe *bpe, const dopl_bpe_training *how);

#endif
