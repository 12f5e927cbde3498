// bpe.c - the vocabulary, and encoding by the earliest-learned pair.
//
// A piece starts as its bytes. Of all neighbours that some merge joins, the one learned first is
// joined (the leftmost of several), until none is left. The parts form a linked list, and the pairs
// that may merge wait in a heap ordered by (rank, place); an entry whose parts have changed since
// is dropped when it comes up. That is n log n for a piece of n bytes, however long. Text repeats
// its words, so short pieces go through a memo first: a table of fixed size, one piece to a slot,
// the latest comer staying.
#include "bpe.h"
#include "utf8.h"

#include <string.h>

enum { MEMO_SLOTS = 1 << 14, MEMO_BYTES = 30, MEMO_IDS = 8 };

struct dopl_bpe_part {
    int32_t id, next, prev; // next, prev: places in the piece; -1: none. id -1: joined to its left
};

struct dopl_bpe_offer {
    int32_t rank, at;    // of the merge; place of the left part
    int32_t left, right; // the ids it joins
};

struct dopl_bpe_memo {
    uint8_t n_bytes, n_ids; // n_bytes 0: free
    char bytes[MEMO_BYTES];
    int32_t ids[MEMO_IDS];
};

_Static_assert(sizeof(struct dopl_bpe_memo) == 64, "one memo slot to a cache line");

// GPT-2's table: printable Latin-1 stands for itself; the 68 bytes left over, 0-32, 127-160 and
// 173, take the characters from U+0100 on, in order.
uint32_t dopl_bpe_byte_char(unsigned char byte) {
    if (byte <= 32) return 256u + byte;
    if (byte >= 127 && byte <= 160) return 289u + byte - 127u;
    return byte == 173 ? 323 : byte;
}

int dopl_bpe_char_byte(uint32_t code) {
    if (code < 256) return dopl_bpe_byte_char((unsigned char)code) == code ? (int)code : -1;
    if (code < 289) return (int)code - 256;
    if (code < 323) return (int)code - 289 + 127;
    return code == 323 ? 173 : -1;
}

dopl_status dopl_bpe_init(dopl_rt *rt, dopl_bpe *bpe, const char *pattern, size_t n) {
    memset(bpe, 0, sizeof *bpe);
    bpe->bos = bpe->eos = -1;
    return dopl_split_new(rt, &bpe->split, pattern, n);
}

void dopl_bpe_release(dopl_rt *rt, dopl_bpe *bpe) {
    dopl_split_free(rt, bpe->split);
    dopl_bytes_release(rt, &bpe->bytes);
    dopl_bytes_release(rt, &bpe->text);
    dopl_ids_release(rt, &bpe->ids);
    dopl_bytes_map_release(rt, &bpe->find);
    dopl_pair_map_release(rt, &bpe->rank);
    dopl_rt_free(rt, bpe->token);
    dopl_rt_free(rt, bpe->merge);
    for (int k = 0; k < 2; k++) dopl_ids_release(rt, &bpe->added[k].ids);
    dopl_rt_free(rt, bpe->part);
    dopl_rt_free(rt, bpe->offer);
    dopl_rt_free(rt, bpe->memo);
    memset(bpe, 0, sizeof *bpe);
}

dopl_status dopl_bpe_add_token(dopl_rt *rt, dopl_bpe *bpe, int32_t id, const char *data, size_t n,
                               uint32_t kind) {
    if (id < 0 || id >= DOPL_BPE_MAX_TOKENS)
        return dopl_fail(rt, DOPL_EARG, "tokenizer: id %d, needs 0 to %d", id,
                         DOPL_BPE_MAX_TOKENS - 1);
    if (n == 0 || n > INT32_MAX)
        return dopl_fail(rt, DOPL_EARG, "tokenizer: token %d has %zu bytes, needs at least 1", id,
                         n);
    if ((size_t)id < bpe->n_tokens && bpe->token[id].length)
        return dopl_fail(rt, DOPL_EARG, "tokenizer: two tokens have the id %d", id);
    DOPL_TRY(dopl_grow(rt, (void **)&bpe->token, &bpe->token_capacity, (size_t)id + 1,
                       sizeof *bpe->token));
    size_t offset = bpe->bytes.n;
    DOPL_TRY(dopl_bytes_put(rt, &bpe->bytes, data, n));
    if (kind & DOPL_TOKEN_ADDED) {
        dopl_added *added = &bpe->added[kind & DOPL_TOKEN_NORMALIZED ? 1 : 0];
        DOPL_TRY(dopl_ids_append(rt, &added->ids, id));
    }
    while (bpe->n_tokens <= (size_t)id) bpe->token[bpe->n_tokens++] = (dopl_token){ 0 };
    bpe->token[id] = (dopl_token){ .offset = offset, .length = (int32_t)n, .kind = kind };
    return kind & DOPL_TOKEN_WORD ? dopl_bpe_add_word(rt, bpe, id) : DOPL_OK;
}

dopl_status dopl_bpe_add_word(dopl_rt *rt, dopl_bpe *bpe, int32_t id) {
    dopl_token *t = &bpe->token[id];
    size_t n = (size_t)t->length;
    t->kind |= DOPL_TOKEN_WORD;
    if (dopl_bpe_find(bpe, bpe->bytes.data + t->offset, n) >= 0) return DOPL_OK;
    return dopl_bytes_map_add(rt, &bpe->find, bpe->bytes.data, t->offset, n, id);
}

dopl_status dopl_bpe_add_merge(dopl_rt *rt, dopl_bpe *bpe, int32_t left, int32_t right,
                               int32_t result) {
    if (dopl_pair_map_get(&bpe->rank, left, right) >= 0)
        return dopl_fail(rt, DOPL_EARG, "tokenizer: the pair (%d, %d) is merged twice", left,
                         right);
    DOPL_TRY(dopl_grow(rt, (void **)&bpe->merge, &bpe->merge_capacity, bpe->n_merges + 1,
                       sizeof *bpe->merge));
    DOPL_TRY(dopl_pair_map_put(rt, &bpe->rank, left, right, (int32_t)bpe->n_merges));
    bpe->merge[bpe->n_merges++] = (dopl_merge){ left, right, result };
    return DOPL_OK;
}

static void seal_added(dopl_bpe *bpe, dopl_added *added) {
    int32_t *ids = added->ids.data;
    for (size_t i = 0; i < added->ids.n; i++) { // by insertion: a few hundred, once, and stable
        int32_t id = ids[i];
        size_t j = i;
        for (; j > 0 && bpe->token[ids[j - 1]].length < bpe->token[id].length; j--)
            ids[j] = ids[j - 1];
        ids[j] = id;
        added->first[(unsigned char)bpe->bytes.data[bpe->token[id].offset]] = true;
    }
}

void dopl_bpe_seal(dopl_bpe *bpe) {
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        bpe->byte_id[byte] = dopl_bpe_find(bpe, &c, 1);
    }
    for (int k = 0; k < 2; k++) seal_added(bpe, &bpe->added[k]);
}

int32_t dopl_bpe_find(const dopl_bpe *bpe, const char *data, size_t n) {
    return n ? dopl_bytes_map_get(&bpe->find, bpe->bytes.data, data, n) : -1;
}

const char *dopl_bpe_token(const dopl_bpe *bpe, int64_t id, size_t *n) {
    if (id < 0 || id >= (int64_t)bpe->n_tokens || !bpe->token[id].length) return NULL;
    *n = (size_t)bpe->token[id].length;
    return bpe->bytes.data + bpe->token[id].offset;
}

// Whether a token's bytes stand at the start of the text.
static bool starts_with(const dopl_bpe *bpe, int32_t id, const char *text, size_t length) {
    const dopl_token *t = &bpe->token[id];
    return (size_t)t->length <= length &&
           memcmp(text, bpe->bytes.data + t->offset, (size_t)t->length) == 0;
}

int32_t dopl_bpe_id(const dopl_bpe *bpe, const char *data, size_t n) {
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < bpe->added[k].ids.n; i++) {
            int32_t id = bpe->added[k].ids.data[i];
            if ((size_t)bpe->token[id].length == n && starts_with(bpe, id, data, n)) return id;
        }
    return dopl_bpe_find(bpe, data, n);
}

size_t dopl_bpe_next_added(const dopl_bpe *bpe, const dopl_added *added, const char *text,
                           size_t length, size_t from, int32_t *id) {
    for (size_t at = added->ids.n ? from : length; at < length; at++) {
        if (!added->first[(unsigned char)text[at]]) continue;
        for (size_t i = 0; i < added->ids.n; i++) {
            *id = added->ids.data[i];
            if (starts_with(bpe, *id, text + at, length - at)) return at;
        }
    }
    *id = -1;
    return length;
}

static bool before(const struct dopl_bpe_offer *a, const struct dopl_bpe_offer *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

// Puts the pair that starts at `at` into the heap, where a merge joins it. There is room: a piece
// of n bytes makes at most n - 1 pairs at the start and two by each of its n - 1 merges.
static size_t offer_push(dopl_bpe *bpe, size_t n, int32_t at) {
    const struct dopl_bpe_part *left = &bpe->part[at];
    if (left->next < 0) return n;
    int32_t right = bpe->part[left->next].id;
    int32_t rank = dopl_pair_map_get(&bpe->rank, left->id, right);
    if (rank < 0) return n;
    struct dopl_bpe_offer fresh = { .rank = rank, .at = at, .left = left->id, .right = right };
    struct dopl_bpe_offer *heap = bpe->offer;
    size_t i = n;
    for (; i > 0 && before(&fresh, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = fresh;
    return n + 1;
}

static struct dopl_bpe_offer offer_pop(struct dopl_bpe_offer *heap, size_t n) {
    struct dopl_bpe_offer top = heap[0], last = heap[--n];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && before(&heap[child + 1], &heap[child]);
        if (!before(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

// Lays out the bytes of a piece as parts, and the room their merging needs.
static dopl_status lay_out(dopl_rt *rt, dopl_bpe *bpe, const char *piece, size_t n) {
    if (n > INT32_MAX / 4)
        return dopl_fail(rt, DOPL_EARG, "encode: a piece of %zu bytes, needs at most %d", n,
                         INT32_MAX / 4);
    DOPL_TRY(
        dopl_grow(rt, (void **)&bpe->part, &bpe->part_capacity, n, sizeof(struct dopl_bpe_part)));
    DOPL_TRY(dopl_grow(rt, (void **)&bpe->offer, &bpe->offer_capacity, 3 * n,
                       sizeof(struct dopl_bpe_offer)));
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)piece[i];
        if (bpe->byte_id[byte] < 0)
            return dopl_fail(rt, DOPL_EARG, "encode: the vocabulary has no token for the byte %#x",
                             byte);
        bpe->part[i] = (struct dopl_bpe_part){ .id = bpe->byte_id[byte],
                                               .next = i + 1 < n ? (int32_t)i + 1 : -1,
                                               .prev = (int32_t)i - 1 };
    }
    return DOPL_OK;
}

static dopl_status merge_piece(dopl_rt *rt, dopl_bpe *bpe, const char *piece, size_t n) {
    DOPL_TRY(lay_out(rt, bpe, piece, n));
    struct dopl_bpe_part *part = bpe->part;
    size_t n_offers = 0;
    for (size_t i = 0; i + 1 < n; i++) n_offers = offer_push(bpe, n_offers, (int32_t)i);
    while (n_offers) {
        struct dopl_bpe_offer o = offer_pop(bpe->offer, n_offers--);
        struct dopl_bpe_part *left = &part[o.at];
        if (left->id != o.left || left->next < 0 || part[left->next].id != o.right) continue;
        struct dopl_bpe_part *right = &part[left->next];
        left->id = bpe->merge[o.rank].result;
        left->next = right->next;
        right->id = -1;
        if (right->next >= 0) part[right->next].prev = o.at;
        if (left->prev >= 0) n_offers = offer_push(bpe, n_offers, left->prev);
        n_offers = offer_push(bpe, n_offers, o.at);
    }
    for (int32_t i = 0; i >= 0; i = part[i].next)
        DOPL_TRY(dopl_ids_append(rt, &bpe->ids, part[i].id));
    return DOPL_OK;
}

static dopl_status encode_piece(dopl_rt *rt, dopl_bpe *bpe, const char *piece, size_t n) {
    struct dopl_bpe_memo *memo = NULL;
    if (n <= MEMO_BYTES) {
        memo = &bpe->memo[dopl_table_hash(piece, n) & (MEMO_SLOTS - 1)];
        if (memo->n_bytes == n && memcmp(memo->bytes, piece, n) == 0) {
            for (int i = 0; i < memo->n_ids; i++)
                DOPL_TRY(dopl_ids_append(rt, &bpe->ids, memo->ids[i]));
            return DOPL_OK;
        }
    }
    size_t first = bpe->ids.n;
    int32_t whole = bpe->whole_words ? dopl_bpe_find(bpe, piece, n) : -1;
    if (whole >= 0 && !(bpe->token[whole].kind & DOPL_TOKEN_SPECIAL))
        DOPL_TRY(dopl_ids_append(rt, &bpe->ids, whole));
    else
        DOPL_TRY(merge_piece(rt, bpe, piece, n));
    size_t n_ids = bpe->ids.n - first;
    if (memo && n_ids <= MEMO_IDS) {
        memo->n_bytes = (uint8_t)n;
        memo->n_ids = (uint8_t)n_ids;
        memcpy(memo->bytes, piece, n);
        memcpy(memo->ids, bpe->ids.data + first, n_ids * sizeof *memo->ids);
    }
    return DOPL_OK;
}

static dopl_status encode_pieces(dopl_rt *rt, dopl_bpe *bpe, const char *text, size_t length) {
    dopl_split_cursor cursor = { .text = text, .length = length };
    const char *piece;
    size_t n;
    for (;;) {
        DOPL_TRY(dopl_split_next(rt, bpe->split, &cursor, &piece, &n));
        if (!n) return DOPL_OK;
        DOPL_TRY(encode_piece(rt, bpe, piece, n));
    }
}

// Cuts a text at the added tokens of bpe->added[k], and what lies between them at those of the
// next. A special token that is to be text hides what it holds from the tokens beside it, not from
// the next.
static dopl_status encode_between(dopl_rt *rt, dopl_bpe *bpe, int k, const char *text,
                                  size_t length, bool specials) {
    if (k == 2) return encode_pieces(rt, bpe, text, length);
    for (size_t at = 0, from = 0;;) {
        int32_t id;
        size_t end = dopl_bpe_next_added(bpe, &bpe->added[k], text, length, from, &id);
        if (id < 0) return encode_between(rt, bpe, k + 1, text + at, length - at, specials);
        from = end + (size_t)bpe->token[id].length;
        if (!specials && (bpe->token[id].kind & DOPL_TOKEN_SPECIAL)) continue;
        DOPL_TRY(encode_between(rt, bpe, k + 1, text + at, end - at, specials));
        DOPL_TRY(dopl_ids_append(rt, &bpe->ids, id));
        at = from;
    }
}

dopl_status dopl_bpe_encode(dopl_rt *rt, dopl_bpe *bpe, const char *text, size_t length,
                            bool specials) {
    bpe->ids.n = 0;
    if (!bpe->memo)
        DOPL_TRY(dopl_rt_alloc_zero(rt, (void **)&bpe->memo, MEMO_SLOTS * sizeof *bpe->memo));
    return encode_between(rt, bpe, 0, text, length, specials);
}

dopl_status dopl_bpe_decode(dopl_rt *rt, dopl_bpe *bpe, const int32_t *ids, size_t n) {
    bpe->text.n = 0;
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *bytes = dopl_bpe_token(bpe, ids[i], &length);
        if (bytes) DOPL_TRY(dopl_bytes_put(rt, &bpe->text, bytes, length));
    }
    return DOPL_OK;
}
