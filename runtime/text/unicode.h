// unicode.h - text in one form, so that what a reader takes for equal is equal byte by byte.
#ifndef DOPL_TEXT_UNICODE_H
#define DOPL_TEXT_UNICODE_H

#include "../io/bytes.h"

// Appends the text in NFC with its case folded (Unicode's full case folding: "ß" becomes "ss").
// Bytes that are not UTF-8 stay as they are.
DOPL_CHECKED dopl_status dopl_text_fold(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n);

#endif
