// split.h - cuts text into the pieces that a byte-pair tokenizer encodes one by one.
//
// A pattern (PCRE2, Unicode classes) finds the pieces; what lies between two matches is a piece
// too, so the pieces of a text, end to end, are the text. Bytes that are not UTF-8 form pieces of
// their own between runs that are, and the pattern sees each valid run as a text by itself.
#ifndef DOPL_TEXT_SPLIT_H
#define DOPL_TEXT_SPLIT_H

#include "../core/rt.h"

typedef struct dopl_split dopl_split;

typedef struct dopl_split_cursor {
    const char *text; // set these two ...
    size_t length;
    size_t at, run, run_end; // ... and leave the rest zero
    size_t match_end;        // of a match found behind a gap; 0: none waits
    bool valid;              // the run is UTF-8
} dopl_split_cursor;

// The pattern known as "llama3" or "gpt2"; NULL for any other name.
const char *dopl_split_named(const char *name);

DOPL_CHECKED dopl_status dopl_split_new(dopl_rt *rt, dopl_split **out, const char *pattern,
                                        size_t n);
void dopl_split_free(dopl_rt *rt, dopl_split *split); // NULL-safe
const char *dopl_split_pattern(const dopl_split *split, size_t *n);

// The next piece, a part of cursor->text; *n = 0 after the last.
DOPL_CHECKED dopl_status dopl_split_next(dopl_rt *rt, dopl_split *split, dopl_split_cursor *cursor,
                                         const char **piece, size_t *n);

#endif
