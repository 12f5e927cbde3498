// porter.h - Porter's stemmer as NLTK runs it by default (with its extensions to the paper).
#ifndef DOPL_TEXT_PORTER_H
#define DOPL_TEXT_PORTER_H

#include <stddef.h>

// The stem of the lower-case word word[0..n), written over it; the buffer has room for n + 1 bytes.
// Returns the stem's length, at most n + 1. Bytes that are no letter a-z count as consonants.
size_t dopl_porter_stem(char *word, size_t n);

#endif
