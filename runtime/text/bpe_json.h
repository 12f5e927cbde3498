// bpe_json.h - a tokenizer as Hugging Face's tokenizer.json, written and read.
//
// Read: byte-level BPE with the added tokens matched as they stand. A file that asks for more (a
// normalizer, a prefix space, tokens that swallow blanks) is refused by name rather than misread.
#ifndef DOPL_TEXT_BPE_JSON_H
#define DOPL_TEXT_BPE_JSON_H

#include "bpe.h"

// Appends the file's bytes to *out. The same tokenizer gives the same bytes.
DOPL_CHECKED dopl_status dopl_bpe_to_json(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe);
// Fills and seals *bpe, which is zeroed storage. `source` says in messages what was read. On
// failure the caller releases *bpe.
DOPL_CHECKED dopl_status dopl_bpe_from_json(dopl_rt *rt, dopl_bpe *bpe, const char *source,
                                            const char *json, size_t n);

#endif
