// bpe.h - a byte-level byte-pair tokenizer: text to token ids and back, exactly, for any bytes.
//
// Ids count from 0, as the field writes them. A vocabulary is built by add_token and add_merge,
// then sealed; from there on it is read only, apart from the scratch memory that encoding keeps, so
// one tokenizer serves one thread.
#ifndef DOPL_TEXT_BPE_H
#define DOPL_TEXT_BPE_H

#include "../io/bytes.h"
#include "grow.h"
#include "table.h"
#include "split.h"

enum { DOPL_BPE_MAX_TOKENS = 1 << 24 };

enum {                         // what a token is, together
    DOPL_TOKEN_WORD = 1,       // of the vocabulary: a byte, or what a merge makes
    DOPL_TOKEN_ADDED = 2,      // found in a text before it is cut into pieces
    DOPL_TOKEN_SPECIAL = 4,    // added, and a mark of structure: data may not spell it
    DOPL_TOKEN_NORMALIZED = 8, // added, and looked for only in what the others leave over
};

typedef struct dopl_token {
    size_t offset;  // in dopl_bpe.bytes
    int32_t length; // bytes, > 0; 0: no token has this id
    uint32_t kind;  // DOPL_TOKEN_*
} dopl_token;

// Added tokens that are looked for together.
typedef struct dopl_added {
    dopl_ids ids;    // longest first once sealed
    bool first[256]; // bytes that open one of them
} dopl_added;

typedef struct dopl_merge {
    int32_t left, right, result;
} dopl_merge;

typedef struct dopl_bpe {
    dopl_split *split;
    dopl_bytes bytes;    // all tokens end to end
    dopl_token *token;   // [n_tokens], by id
    dopl_bytes_map find; // bytes -> id, words only
    dopl_merge *merge;   // [n_merges], first learned first
    dopl_pair_map rank;  // (left, right) -> place in merge
    dopl_added added[2]; // in the order they are looked for: all but the normalized ones, these
    size_t n_tokens, n_merges;
    size_t token_capacity, merge_capacity;
    bool whole_words; // a piece that is a word is that token, merges or not ("ignore_merges")
    int32_t bos, eos; // what goes before and after a whole text; -1: nothing. encode adds neither

    int32_t byte_id[256]; // -1: the vocabulary lacks the byte

    // Scratch of encode and decode; the results stand until the next call.
    dopl_ids ids;
    dopl_bytes text;
    struct dopl_bpe_part *part;   // the piece being merged, a linked list
    struct dopl_bpe_offer *offer; // heap of pairs that may merge
    size_t part_capacity, offer_capacity;
    struct dopl_bpe_memo *memo; // [memo slots], pieces met lately
} dopl_bpe;

// The character that stands for a byte in vocabulary files (GPT-2's table), all below U+0800.
uint32_t dopl_bpe_byte_char(unsigned char byte);
// The byte a character stands for; -1: none.
int dopl_bpe_char_byte(uint32_t code);

DOPL_CHECKED dopl_status dopl_bpe_init(dopl_rt *rt, dopl_bpe *bpe, const char *pattern, size_t n);
void dopl_bpe_release(dopl_rt *rt, dopl_bpe *bpe); // idempotent

// An id may be taken once; ids may come in any order. `kind` is one of DOPL_TOKEN_* or several.
DOPL_CHECKED dopl_status dopl_bpe_add_token(dopl_rt *rt, dopl_bpe *bpe, int32_t id,
                                            const char *data, size_t n, uint32_t kind);
// The added token `id` is a word, too.
DOPL_CHECKED dopl_status dopl_bpe_add_word(dopl_rt *rt, dopl_bpe *bpe, int32_t id);
DOPL_CHECKED dopl_status dopl_bpe_add_merge(dopl_rt *rt, dopl_bpe *bpe, int32_t left, int32_t right,
                                            int32_t result);
void dopl_bpe_seal(dopl_bpe *bpe);

// The id of a word given by its bytes; -1: none.
int32_t dopl_bpe_find(const dopl_bpe *bpe, const char *data, size_t n);
// The same of any token, an added one before a word of the same bytes.
int32_t dopl_bpe_id(const dopl_bpe *bpe, const char *data, size_t n);
// The bytes of a token; NULL where no token has the id.
const char *dopl_bpe_token(const dopl_bpe *bpe, int64_t id, size_t *n);

// Where the next token of `added` starts, at or after `from`, and its id; `length` and -1 where
// there is no more.
size_t dopl_bpe_next_added(const dopl_bpe *bpe, const dopl_added *added, const char *text,
                           size_t length, size_t from, int32_t *id);

// Into bpe->ids. With specials = false, special tokens in the text are encoded like other text.
DOPL_CHECKED dopl_status dopl_bpe_encode(dopl_rt *rt, dopl_bpe *bpe, const char *text,
                                         size_t length, bool specials);
// Into bpe->text. An id that no token has is no text: a model may have more rows than the tokenizer
// has ids, and generate one of those.
DOPL_CHECKED dopl_status dopl_bpe_decode(dopl_rt *rt, dopl_bpe *bpe, const int32_t *ids, size_t n);

#endif
