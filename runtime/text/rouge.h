// rouge.h - ROUGE-L as Google's rouge_score computes it, with stemming.
#ifndef DOPL_TEXT_ROUGE_H
#define DOPL_TEXT_ROUGE_H

#include "../core/rt.h"

// How the words of a pair of texts were found.
typedef enum dopl_rouge_words {
    DOPL_ROUGE_NONE,    // the reference has no word, so nothing is measured: all figures are 0
    DOPL_ROUGE_ASCII,   // runs of a-z and 0-9 after lower-casing, as rouge_score does
    DOPL_ROUGE_UNICODE, // runs of letters, marks and digits of any script
} dopl_rouge_words;

typedef struct dopl_rouge {
    double recall, precision, f; // 0 where either text has no word
    dopl_rouge_words words;
} dopl_rouge;

// Words over three letters of a-z and 0-9 are stemmed. Recall is the longest common subsequence
// over the reference's length.
//
// rouge_score knows a-z and 0-9 alone, so to it most of the world's languages have no words and
// recall is 0 whatever was generated. Where more letters and digits of the reference lie beyond
// ASCII than within, words are Unicode's instead; scripts that write no spaces between words count
// by the character.
DOPL_CHECKED dopl_status dopl_rouge_l(dopl_rt *rt, dopl_rouge *out, const char *reference,
                                      size_t n_reference, const char *candidate,
                                      size_t n_candidate);

#endif
