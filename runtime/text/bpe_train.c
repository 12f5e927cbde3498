// bpe_train.c - byte-pair training by incremental pair counts.
//
// The texts are cut into pieces and equal pieces counted once, with their frequency as weight. All
// distinct pieces lie end to end in one array of symbols; joining two symbols makes the left one
// the new token and the right one dead, and `next`/`prev` step over the dead. Every pair keeps its
// weighted count and a chain of the places where it has been seen; counts are exact, chains only
// ever grow, so a place is checked before it is used. A heap hands out the commonest pair; an entry
// whose count has changed since is put back with the present one. A merge costs the number of
// places it touches, so long pieces cost no more than short ones.
#include "bpe_train.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

typedef struct symbol {
    int32_t id;         // -1: joined to its left
    int32_t next, prev; // places; -1: the piece ends
    int32_t word;       // the piece it belongs to
} symbol;

typedef struct pair {
    int64_t count;
    int32_t left, right;
    int32_t first, last; // links of the chain of places; -1: none
    bool grown;          // its count rose in this merge: it needs a heap entry
} pair;

typedef struct chain {
    int32_t place, next;
} chain;

typedef struct entry {
    int64_t count;
    int32_t left, right, pair;
} entry;

typedef struct word {
    size_t offset, n; // in trainer.keys
    int64_t count;
} word;

typedef struct trainer {
    dopl_bpe *bpe;
    word *words;
    symbol *symbols;
    pair *pairs;
    chain *links;
    entry *heap;
    int32_t *places; // of the pair being merged
    dopl_bytes keys; // the distinct pieces' bytes, keys of word_of
    dopl_ids grown;  // pairs whose count rose in this merge
    dopl_bytes_map word_of;
    dopl_pair_map pair_of;
    size_t n_words, n_symbols, n_pairs, n_links, n_heap;
    size_t word_capacity, symbol_capacity, pair_capacity, link_capacity, heap_capacity;
    size_t place_capacity;
} trainer;

static void trainer_release(dopl_rt *rt, trainer *t) {
    dopl_rt_free(rt, t->words);
    dopl_rt_free(rt, t->symbols);
    dopl_rt_free(rt, t->pairs);
    dopl_rt_free(rt, t->links);
    dopl_rt_free(rt, t->heap);
    dopl_rt_free(rt, t->places);
    dopl_bytes_release(rt, &t->keys);
    dopl_ids_release(rt, &t->grown);
    dopl_bytes_map_release(rt, &t->word_of);
    dopl_pair_map_release(rt, &t->pair_of);
}

static dopl_status count_piece(dopl_rt *rt, trainer *t, const char *piece, size_t n) {
    int32_t at = dopl_bytes_map_get(&t->word_of, t->keys.data, piece, n);
    if (at >= 0) {
        t->words[at].count++;
        return DOPL_OK;
    }
    DOPL_TRY(dopl_grow(rt, (void **)&t->words, &t->word_capacity, t->n_words + 1, sizeof(word)));
    size_t offset = t->keys.n;
    DOPL_TRY(dopl_bytes_put(rt, &t->keys, piece, n));
    if (t->keys.n > INT32_MAX / 4)
        return dopl_fail(rt, DOPL_EARG, "train: over %d bytes of distinct words", INT32_MAX / 4);
    DOPL_TRY(dopl_bytes_map_add(rt, &t->word_of, t->keys.data, offset, n, (int32_t)t->n_words));
    t->words[t->n_words++] = (word){ .offset = offset, .n = n, .count = 1 };
    return DOPL_OK;
}

static dopl_status count_words(dopl_rt *rt, trainer *t, const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        int32_t id;
        size_t end = dopl_bpe_next_added(t->bpe, &t->bpe->added[0], text, length, at, &id);
        dopl_split_cursor cursor = { .text = text + at, .length = end - at };
        const char *piece;
        size_t n;
        for (;;) {
            DOPL_TRY(dopl_split_next(rt, t->bpe->split, &cursor, &piece, &n));
            if (!n) break;
            DOPL_TRY(count_piece(rt, t, piece, n));
        }
        at = end + (id < 0 ? 0 : (size_t)t->bpe->token[id].length);
    }
    return DOPL_OK;
}

static bool before(const entry *a, const entry *b) {
    if (a->count != b->count) return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static dopl_status heap_push(dopl_rt *rt, trainer *t, int32_t at) {
    const pair *p = &t->pairs[at];
    entry fresh = { .count = p->count, .left = p->left, .right = p->right, .pair = at };
    DOPL_TRY(dopl_grow(rt, (void **)&t->heap, &t->heap_capacity, t->n_heap + 1, sizeof(entry)));
    size_t i = t->n_heap++;
    for (; i > 0 && before(&fresh, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = fresh;
    return DOPL_OK;
}

static entry heap_pop(trainer *t) {
    entry top = t->heap[0], last = t->heap[--t->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < t->n_heap; i = child) {
        child += child + 1 < t->n_heap && before(&t->heap[child + 1], &t->heap[child]);
        if (!before(&t->heap[child], &last)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = last;
    return top;
}

static void pair_lose(trainer *t, int32_t left, int32_t right, int64_t count) {
    t->pairs[dopl_pair_map_get(&t->pair_of, left, right)].count -= count;
}

// The pair that starts at `place` is there now.
static dopl_status pair_gain(dopl_rt *rt, trainer *t, int32_t place) {
    const symbol *left = &t->symbols[place], *right = &t->symbols[left->next];
    int32_t at = dopl_pair_map_get(&t->pair_of, left->id, right->id);
    if (at < 0) {
        at = (int32_t)t->n_pairs;
        DOPL_TRY(
            dopl_grow(rt, (void **)&t->pairs, &t->pair_capacity, t->n_pairs + 1, sizeof(pair)));
        DOPL_TRY(dopl_pair_map_put(rt, &t->pair_of, left->id, right->id, at));
        t->pairs[t->n_pairs++] =
            (pair){ .left = left->id, .right = right->id, .first = -1, .last = -1 };
    }
    DOPL_TRY(dopl_grow(rt, (void **)&t->links, &t->link_capacity, t->n_links + 1, sizeof(chain)));
    int32_t fresh = (int32_t)t->n_links++;
    t->links[fresh] = (chain){ .place = place, .next = -1 };
    pair *p = &t->pairs[at];
    if (p->first < 0)
        p->first = fresh;
    else
        t->links[p->last].next = fresh;
    p->last = fresh;
    p->count += t->words[left->word].count;
    if (!p->grown) DOPL_TRY(dopl_ids_append(rt, &t->grown, at));
    p->grown = true;
    return DOPL_OK;
}

// Heap entries for the pairs that have grown since the last call.
static dopl_status push_grown(dopl_rt *rt, trainer *t) {
    for (size_t i = 0; i < t->grown.n; i++) {
        int32_t at = t->grown.data[i];
        t->pairs[at].grown = false;
        if (t->pairs[at].count > 0) DOPL_TRY(heap_push(rt, t, at));
    }
    t->grown.n = 0;
    return DOPL_OK;
}

static dopl_status lay_out(dopl_rt *rt, trainer *t) {
    DOPL_TRY(dopl_grow(rt, (void **)&t->symbols, &t->symbol_capacity, t->keys.n, sizeof(symbol)));
    for (size_t w = 0; w < t->n_words; w++) {
        const word *one = &t->words[w];
        for (size_t i = 0; i < one->n; i++) {
            int32_t at = (int32_t)t->n_symbols++;
            t->symbols[at] =
                (symbol){ .id = dopl_bpe_find(t->bpe, t->keys.data + one->offset + i, 1),
                          .next = i + 1 < one->n ? at + 1 : -1,
                          .prev = i ? at - 1 : -1,
                          .word = (int32_t)w };
        }
    }
    for (size_t at = 0; at < t->n_symbols; at++)
        if (t->symbols[at].next >= 0) DOPL_TRY(pair_gain(rt, t, (int32_t)at));
    return push_grown(rt, t);
}

static int by_place(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

// The places where the pair has been seen, ascending: a run such as "aaa" is joined from its left.
static dopl_status gather_places(dopl_rt *rt, trainer *t, const pair *p, size_t *n) {
    bool sorted = true;
    *n = 0;
    for (int32_t i = p->first; i >= 0; i = t->links[i].next) {
        DOPL_TRY(dopl_grow(rt, (void **)&t->places, &t->place_capacity, *n + 1, sizeof(int32_t)));
        t->places[*n] = t->links[i].place;
        sorted = sorted && (*n == 0 || t->places[*n - 1] < t->places[*n]);
        ++*n;
    }
    if (!sorted) qsort(t->places, *n, sizeof *t->places, by_place);
    return DOPL_OK;
}

static dopl_status merge_at(dopl_rt *rt, trainer *t, int32_t place, int32_t fresh) {
    symbol *left = &t->symbols[place], *right = &t->symbols[left->next];
    int64_t count = t->words[left->word].count;
    if (left->prev >= 0) pair_lose(t, t->symbols[left->prev].id, left->id, count);
    if (right->next >= 0) pair_lose(t, right->id, t->symbols[right->next].id, count);
    left->id = fresh;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) t->symbols[left->next].prev = place;
    if (left->prev >= 0) DOPL_TRY(pair_gain(rt, t, left->prev));
    if (left->next >= 0) DOPL_TRY(pair_gain(rt, t, place));
    return DOPL_OK;
}

// The id of the two tokens joined: a new one, unless other tokens have been joined to the same
// bytes.
static dopl_status join_tokens(dopl_rt *rt, dopl_bpe *bpe, dopl_bytes *both, int32_t left,
                               int32_t right, int32_t *id) {
    const dopl_token *l = &bpe->token[left], *r = &bpe->token[right];
    both->n = 0;
    DOPL_TRY(dopl_bytes_put(rt, both, bpe->bytes.data + l->offset, (size_t)l->length));
    DOPL_TRY(dopl_bytes_put(rt, both, bpe->bytes.data + r->offset, (size_t)r->length));
    *id = dopl_bpe_find(bpe, both->data, both->n);
    if (*id >= 0) return DOPL_OK;
    *id = (int32_t)bpe->n_tokens;
    return dopl_bpe_add_token(rt, bpe, *id, both->data, both->n, DOPL_TOKEN_WORD);
}

static dopl_status learn(dopl_rt *rt, trainer *t, const dopl_bpe_training *how) {
    dopl_bpe *bpe = t->bpe;
    while (bpe->n_tokens < how->vocab_size && t->n_heap) {
        if (rt->stop)
            return dopl_fail(rt, DOPL_ESTOP, "train: stopped at %zu tokens", bpe->n_tokens);
        entry top = heap_pop(t);
        pair p = t->pairs[top.pair];
        if (p.count != top.count) {
            if (p.count > 0) DOPL_TRY(heap_push(rt, t, top.pair));
            continue;
        }
        if (p.count < how->min_count) break;
        int32_t fresh;
        size_t n;
        DOPL_TRY(join_tokens(rt, bpe, &bpe->text, p.left, p.right, &fresh));
        if (dopl_pair_map_get(&bpe->rank, p.left, p.right) <
            0) // else a token learned since made it
            DOPL_TRY(dopl_bpe_add_merge(rt, bpe, p.left, p.right, fresh)); // appear once more
        DOPL_TRY(gather_places(rt, t, &p, &n));
        for (size_t i = 0; i < n; i++) {
            const symbol *s = &t->symbols[t->places[i]];
            if (s->id != p.left || s->next < 0 || t->symbols[s->next].id != p.right) continue;
            DOPL_TRY(merge_at(rt, t, t->places[i], fresh));
        }
        t->pairs[top.pair].count = 0;
        DOPL_TRY(push_grown(rt, t));
    }
    return DOPL_OK;
}

static dopl_status add_alphabet(dopl_rt *rt, dopl_bpe *bpe, const dopl_bpe_training *how) {
    for (size_t i = 0; i < how->n_specials; i++) {
        const dopl_bpe_text *s = &how->special[i];
        if (s->n < 2 || memchr(s->data, 0, s->n) || dopl_utf8_valid(s->data, s->n) != s->n)
            return dopl_fail(rt, DOPL_EARG,
                             "train: special token %zu, needs at least two bytes of UTF-8 without "
                             "a zero byte",
                             i + 1);
        if (dopl_bpe_find(bpe, s->data, s->n) >= 0)
            return dopl_fail(rt, DOPL_EARG, "train: special token \"%.100s\" is given twice",
                             s->data);
        DOPL_TRY(dopl_bpe_add_token(rt, bpe, (int32_t)i, s->data, s->n,
                                    DOPL_TOKEN_WORD | DOPL_TOKEN_ADDED | DOPL_TOKEN_SPECIAL));
    }
    for (uint32_t code = 0; code < 512; code++) {
        int byte = dopl_bpe_char_byte(code);
        char c = (char)byte;
        if (byte >= 0)
            DOPL_TRY(dopl_bpe_add_token(rt, bpe, (int32_t)bpe->n_tokens, &c, 1, DOPL_TOKEN_WORD));
    }
    dopl_bpe_seal(bpe);
    return DOPL_OK;
}

dopl_status dopl_bpe_train(dopl_rt *rt, dopl_bpe *bpe, const dopl_bpe_training *how) {
    if (how->vocab_size < 256 + how->n_specials || how->vocab_size > DOPL_BPE_MAX_TOKENS)
        return dopl_fail(rt, DOPL_EARG,
                         "train: vocab_size %zu, needs 256 bytes + %zu special tokens = %zu to %d",
                         how->vocab_size, how->n_specials, 256 + how->n_specials,
                         DOPL_BPE_MAX_TOKENS);
    trainer t = { .bpe = bpe };
    dopl_status status = add_alphabet(rt, bpe, how);
    for (size_t i = 0; status == DOPL_OK && i < how->n_texts; i++)
        status = count_words(rt, &t, how->text[i].data, how->text[i].n);
    if (status == DOPL_OK) status = lay_out(rt, &t);
    if (status == DOPL_OK) status = learn(rt, &t, how);
    trainer_release(rt, &t);
    return status;
}
