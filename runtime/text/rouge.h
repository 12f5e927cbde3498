// rouge.h - ROUGE-L as Google's rouge_score computes it, with stemming.
#ifndef DOPL_TEXT_ROUGE_H
#define DOPL_TEXT_ROUGE_H

#include "../core/rt.h"

typedef struct dopl_rouge {
    double recall, precision, f; // 0 where either text has no word
} dopl_rouge;

// Words are runs of a-z and 0-9 after lower-casing; those over three letters are stemmed. Recall is
// the longest common subsequence over the reference's length.
DOPL_CHECKED dopl_status dopl_rouge_l(dopl_rt *rt, dopl_rouge *out, const char *reference,
                                      size_t n_reference, const char *candidate,
                                      size_t n_candidate);

#endif
