// bpe_json.c - tokenizer.json: a writer by hand, so that the bytes are ours to fix, and a reader on
// jansson, so that nesting, encoding and duplicate keys are checked by a strict parser.
#include "bpe_json.h"
#include "../io/json.h"
#include "utf8.h"

#include <stdio.h>
#include <string.h>

// ---- writing ----

static dopl_status put_quoted(dopl_rt *rt, dopl_bytes *out, const char *text, size_t n) {
    DOPL_TRY(dopl_bytes_puts(rt, out, "\""));
    for (size_t i = 0; i < n; i++) {
        char escaped[8];
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", c);
        else if (c < 0x20)
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
        else
            snprintf(escaped, sizeof escaped, "%c", c);
        DOPL_TRY(dopl_bytes_puts(rt, out, escaped));
    }
    return dopl_bytes_puts(rt, out, "\"");
}

// Appends the characters that stand for a token's bytes.
static dopl_status mapped(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe, int32_t id) {
    const dopl_token *t = &bpe->token[id];
    for (int32_t i = 0; i < t->length; i++) {
        char c[2];
        size_t n = dopl_utf8_encode(
            c, dopl_bpe_byte_char((unsigned char)bpe->bytes.data[t->offset + (size_t)i]));
        DOPL_TRY(dopl_bytes_put(rt, out, c, n));
    }
    return DOPL_OK;
}

static bool is(const dopl_bpe *bpe, int32_t id, uint32_t kind) {
    return (bpe->token[id].kind & kind) == kind;
}

static dopl_status put_content(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe, int32_t id) {
    const dopl_token *t = &bpe->token[id];
    return put_quoted(rt, out, bpe->bytes.data + t->offset, (size_t)t->length);
}

static dopl_status put_added(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe) {
    bool first = true;
    DOPL_TRY(dopl_bytes_puts(rt, out, "  \"added_tokens\": ["));
    for (int32_t id = 0; id < (int32_t)bpe->n_tokens; id++) {
        if (!is(bpe, id, DOPL_TOKEN_ADDED)) continue;
        DOPL_TRY(
            dopl_bytes_format(rt, out, "%s\n    {\"id\": %d, \"content\": ", first ? "" : ",", id));
        DOPL_TRY(put_content(rt, out, bpe, id));
        DOPL_TRY(
            dopl_bytes_format(rt, out,
                              ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                              "\"normalized\": %s, \"special\": %s}",
                              is(bpe, id, DOPL_TOKEN_NORMALIZED) ? "true" : "false",
                              is(bpe, id, DOPL_TOKEN_SPECIAL) ? "true" : "false"));
        first = false;
    }
    return dopl_bytes_puts(rt, out, "\n  ],\n");
}

// One side of a template: bos, a sequence, eos.
static dopl_status put_template(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe, char sequence) {
    int type = sequence - 'A';
    const int32_t around[2] = { bpe->bos, bpe->eos };
    for (int k = 0; k < 2; k++) {
        if (k == 1)
            DOPL_TRY(dopl_bytes_format(rt, out, "{\"Sequence\": {\"id\": \"%c\", \"type_id\": %d}}",
                                       sequence, type));
        if (around[k] < 0) continue;
        DOPL_TRY(dopl_bytes_puts(
            rt, out, k ? ", {\"SpecialToken\": {\"id\": " : "{\"SpecialToken\": {\"id\": "));
        DOPL_TRY(put_content(rt, out, bpe, around[k]));
        DOPL_TRY(dopl_bytes_format(rt, out, ", \"type_id\": %d}}%s", type, k ? "" : ", "));
    }
    return DOPL_OK;
}

static dopl_status put_post_processor(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe) {
    const int32_t around[2] = { bpe->bos, bpe->eos };
    bool first = true;
    if (bpe->bos < 0 && bpe->eos < 0)
        return dopl_bytes_puts(rt, out, ",\n  \"post_processor\": null");
    DOPL_TRY(dopl_bytes_puts(rt, out,
                             ",\n  \"post_processor\": {\"type\": \"TemplateProcessing\",\n    "
                             "\"single\": ["));
    DOPL_TRY(put_template(rt, out, bpe, 'A'));
    DOPL_TRY(dopl_bytes_puts(rt, out, "],\n    \"pair\": ["));
    DOPL_TRY(put_template(rt, out, bpe, 'A'));
    DOPL_TRY(dopl_bytes_puts(rt, out, ", "));
    DOPL_TRY(put_template(rt, out, bpe, 'B'));
    DOPL_TRY(dopl_bytes_puts(rt, out, "],\n    \"special_tokens\": {"));
    for (int k = 0; k < 2; k++) {
        if (around[k] < 0 || (k && bpe->eos == bpe->bos)) continue;
        DOPL_TRY(dopl_bytes_puts(rt, out, first ? "" : ", "));
        first = false;
        DOPL_TRY(put_content(rt, out, bpe, around[k]));
        DOPL_TRY(dopl_bytes_puts(rt, out, ": {\"id\": "));
        DOPL_TRY(put_content(rt, out, bpe, around[k]));
        DOPL_TRY(dopl_bytes_format(rt, out, ", \"ids\": [%d], \"tokens\": [", around[k]));
        DOPL_TRY(put_content(rt, out, bpe, around[k]));
        DOPL_TRY(dopl_bytes_puts(rt, out, "]}"));
    }
    return dopl_bytes_puts(rt, out, "}}");
}

static dopl_status put_pre_tokenizer(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe) {
    size_t n;
    const char *pattern = dopl_split_pattern(bpe->split, &n);
    const char *level = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                        "\"trim_offsets\": true, \"use_regex\": ";
    DOPL_TRY(dopl_bytes_puts(rt, out, "  \"normalizer\": null,\n  \"pre_tokenizer\": "));
    if (strcmp(pattern, dopl_split_named("gpt2")) == 0) { // the one ByteLevel has built in
        DOPL_TRY(dopl_bytes_puts(rt, out, level));
        DOPL_TRY(dopl_bytes_puts(rt, out, "true}"));
    } else {
        DOPL_TRY(dopl_bytes_puts(rt, out,
                                 "{\"type\": \"Sequence\", \"pretokenizers\": [\n    {\"type\": "
                                 "\"Split\", \"pattern\": {\"Regex\": "));
        DOPL_TRY(put_quoted(rt, out, pattern, n));
        DOPL_TRY(
            dopl_bytes_puts(rt, out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n    "));
        DOPL_TRY(dopl_bytes_puts(rt, out, level));
        DOPL_TRY(dopl_bytes_puts(rt, out, "false}\n  ]}"));
    }
    DOPL_TRY(put_post_processor(rt, out, bpe));
    return dopl_bytes_puts(
        rt, out,
        ",\n  \"decoder\": {\"type\": \"ByteLevel\", "
        "\"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n");
}

static dopl_status put_vocab(dopl_rt *rt, dopl_bytes *out, dopl_bytes *name, const dopl_bpe *bpe) {
    bool first = true;
    for (int32_t id = 0; id < (int32_t)bpe->n_tokens; id++) {
        const dopl_token *t = &bpe->token[id];
        char number[32];
        if (!is(bpe, id, DOPL_TOKEN_WORD)) continue;
        DOPL_TRY(dopl_bytes_puts(rt, out, first ? "\n      " : ",\n      "));
        first = false;
        name->n = 0;
        if (is(bpe, id, DOPL_TOKEN_ADDED)) // stands in the vocabulary as it is written
            DOPL_TRY(dopl_bytes_put(rt, name, bpe->bytes.data + t->offset, (size_t)t->length));
        else
            DOPL_TRY(mapped(rt, name, bpe, id));
        DOPL_TRY(put_quoted(rt, out, name->data, name->n));
        snprintf(number, sizeof number, ": %d", id);
        DOPL_TRY(dopl_bytes_puts(rt, out, number));
    }
    return DOPL_OK;
}

static dopl_status put_model(dopl_rt *rt, dopl_bytes *out, dopl_bytes *name, const dopl_bpe *bpe) {
    DOPL_TRY(dopl_bytes_puts(rt, out,
                             "  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, "
                             "\"unk_token\": null, \"continuing_subword_prefix\": null,\n    "
                             "\"end_of_word_suffix\": null, \"fuse_unk\": false, "
                             "\"byte_fallback\": false, \"ignore_merges\": "));
    DOPL_TRY(dopl_bytes_puts(
        rt, out, bpe->whole_words ? "true,\n    \"vocab\": {" : "false,\n    \"vocab\": {"));
    DOPL_TRY(put_vocab(rt, out, name, bpe));
    DOPL_TRY(dopl_bytes_puts(rt, out, "\n    },\n    \"merges\": ["));
    for (size_t i = 0; i < bpe->n_merges; i++) {
        DOPL_TRY(dopl_bytes_puts(rt, out, i ? ",\n      " : "\n      "));
        name->n = 0;
        DOPL_TRY(mapped(rt, name, bpe, bpe->merge[i].left));
        DOPL_TRY(dopl_bytes_puts(rt, name, " "));
        DOPL_TRY(mapped(rt, name, bpe, bpe->merge[i].right));
        DOPL_TRY(put_quoted(rt, out, name->data, name->n));
    }
    return dopl_bytes_puts(rt, out, "\n    ]\n  }\n}\n");
}

dopl_status dopl_bpe_to_json(dopl_rt *rt, dopl_bytes *out, const dopl_bpe *bpe) {
    dopl_bytes name = { 0 };
    DOPL_TRY(dopl_bytes_puts(rt, out,
                             "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  "
                             "\"padding\": null,\n"));
    DOPL_TRY(put_added(rt, out, bpe));
    DOPL_TRY(put_pre_tokenizer(rt, out, bpe));
    dopl_status status = put_model(rt, out, &name, bpe);
    dopl_bytes_release(rt, &name);
    return status;
}

// ---- reading ----

#define BAD(...) dopl_fail(rt, DOPL_EFORMAT, __VA_ARGS__)

static const char *type_of(const json_t *j) {
    const char *type = json_string_value(json_object_get(j, "type"));
    return type ? type : "";
}

static bool is_set(const json_t *j, const char *field) {
    const json_t *value = json_object_get(j, field);
    return value && !json_is_null(value) && !json_is_false(value) &&
           !(json_is_string(value) && json_string_length(value) == 0);
}

// The text of a JSON string; NULL if the value is not a string or contains a NUL byte.
static const char *plain_string(const json_t *value) {
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

// The bytes a vocabulary name stands for; a name with a character that stands for no byte is taken
// as it is written, as the ByteLevel decoder does.
static dopl_status name_bytes(dopl_rt *rt, dopl_bytes *out, const char *name, size_t n) {
    out->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t length = dopl_utf8_decode(name + i, n - i, &code);
        int byte = length ? dopl_bpe_char_byte(code) : -1;
        char c = (char)byte;
        if (byte < 0) {
            out->n = 0;
            return dopl_bytes_put(rt, out, name, n);
        }
        DOPL_TRY(dopl_bytes_put(rt, out, &c, 1));
        i += length;
    }
    return DOPL_OK;
}

static dopl_status read_id(dopl_rt *rt, const json_t *value, const char *what, int32_t *id) {
    *id = 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= DOPL_BPE_MAX_TOKENS)
        return BAD("%.200s: needs an id from 0 to %d", what, DOPL_BPE_MAX_TOKENS - 1);
    *id = (int32_t)json_integer_value(value);
    return DOPL_OK;
}

static dopl_status read_added(dopl_rt *rt, dopl_bpe *bpe, const json_t *list) {
    size_t i;
    json_t *added;
    if (list && !json_is_null(list) && !json_is_array(list))
        return BAD("added_tokens: needs an array");
    json_array_foreach(list, i, added) {
        static const char *const unsupported[] = { "single_word", "lstrip", "rstrip" };
        const json_t *content = json_object_get(added, "content");
        char what[64];
        int32_t id;
        snprintf(what, sizeof what, "added_tokens[%zu].id", i);
        if (!json_is_string(content) || json_string_length(content) == 0)
            return BAD("added_tokens[%zu].content: needs a string", i);
        DOPL_TRY(read_id(rt, json_object_get(added, "id"), what, &id));
        for (size_t k = 0; k < sizeof unsupported / sizeof *unsupported; k++)
            if (is_set(added, unsupported[k]))
                return BAD("added_tokens[%zu].%s: set for \"%.100s\", which is not supported", i,
                           unsupported[k], json_string_value(content));
        uint32_t kind = DOPL_TOKEN_ADDED;
        if (json_is_true(json_object_get(added, "special"))) kind |= DOPL_TOKEN_SPECIAL;
        if (json_is_true(json_object_get(added, "normalized"))) kind |= DOPL_TOKEN_NORMALIZED;
        DOPL_TRY(dopl_bpe_add_token(rt, bpe, id, json_string_value(content),
                                    json_string_length(content), kind));
    }
    return DOPL_OK;
}

static dopl_status read_vocab(dopl_rt *rt, dopl_bpe *bpe, dopl_bytes *name, json_t *vocab) {
    const char *key;
    json_t *value;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return BAD("model.vocab: needs an object of tokens and their ids");
    json_object_foreach(vocab, key, value) {
        int32_t id;
        size_t n = strlen(key);
        DOPL_TRY(read_id(rt, value, key, &id));
        if (n == 0) return BAD("model.vocab: an empty token");
        const char *added = dopl_bpe_token(bpe, id, &n);
        if (added && is(bpe, id, DOPL_TOKEN_ADDED)) {
            if (n != strlen(key) || memcmp(added, key, n) != 0)
                return BAD("id %d is \"%.100s\" in the vocabulary, and added token \"%.*s\"", id,
                           key, (int)(n < 100 ? n : 100), added);
            DOPL_TRY(dopl_bpe_add_word(rt, bpe, id));
            continue;
        }
        if (added) return BAD("model.vocab: two tokens have the id %d", id);
        DOPL_TRY(name_bytes(rt, name, key, strlen(key)));
        DOPL_TRY(dopl_bpe_add_token(rt, bpe, id, name->data, name->n, DOPL_TOKEN_WORD));
    }
    return DOPL_OK;
}

// A word that is an added token has one id: files that `tokenizers` writes say so, and it would
// take the word's id from others.
static dopl_status check_added(dopl_rt *rt, const json_t *vocab, const json_t *list) {
    size_t i;
    json_t *added;
    json_array_foreach(list, i, added) {
        const char *content = plain_string(json_object_get(added, "content"));
        const json_t *word = content ? json_object_get(vocab, content) : NULL;
        json_int_t id = json_integer_value(json_object_get(added, "id"));
        if (word && json_integer_value(word) != id)
            return BAD("added_tokens[%zu]: \"%.100s\" has the id %d, and %d in the vocabulary", i,
                       content, (int)id, (int)json_integer_value(word));
    }
    return DOPL_OK;
}

// A merge is "left right", or since 2024 ["left", "right"].
static dopl_status read_merge(dopl_rt *rt, dopl_bpe *bpe, dopl_bytes *name, size_t i,
                              const json_t *merge) {
    const char *half[2] = { NULL, NULL };
    size_t n[2];
    int32_t id[2];
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t k = 0; k < 2; k++) {
            half[k] = plain_string(json_array_get(merge, k));
            n[k] = half[k] ? strlen(half[k]) : 0;
        }
    } else if (json_is_string(merge)) {
        const char *text = plain_string(merge), *blank = text ? strchr(text, ' ') : NULL;
        if (blank) {
            half[0] = text;
            n[0] = (size_t)(blank - text);
            half[1] = blank + 1;
            n[1] = strlen(half[1]);
        }
    }
    if (!half[0] || !half[1])
        return BAD("model.merges[%zu]: needs \"left right\" or [\"left\", \"right\"]", i);
    for (size_t k = 0; k < 2; k++) {
        DOPL_TRY(name_bytes(rt, name, half[k], n[k]));
        id[k] = dopl_bpe_find(bpe, name->data, name->n);
        if (id[k] < 0)
            return BAD("model.merges[%zu]: \"%.*s\" is not in the vocabulary", i,
                       (int)(n[k] < 100 ? n[k] : 100), half[k]);
    }
    name->n = 0;
    for (size_t k = 0; k < 2; k++) {
        const dopl_token *t = &bpe->token[id[k]];
        DOPL_TRY(dopl_bytes_put(rt, name, bpe->bytes.data + t->offset, (size_t)t->length));
    }
    int32_t result = dopl_bpe_find(bpe, name->data, name->n);
    if (result < 0)
        return BAD("model.merges[%zu]: \"%.*s\" and \"%.*s\" join to no token of the vocabulary", i,
                   (int)(n[0] < 100 ? n[0] : 100), half[0], (int)(n[1] < 100 ? n[1] : 100),
                   half[1]);
    if (dopl_pair_map_get(&bpe->rank, id[0], id[1]) >= 0)
        return BAD("model.merges[%zu]: merged once already", i);
    return dopl_bpe_add_merge(rt, bpe, id[0], id[1], result);
}

static dopl_status read_model(dopl_rt *rt, dopl_bpe *bpe, const json_t *model) {
    static const char *const unsupported[] = { "dropout", "continuing_subword_prefix",
                                               "end_of_word_suffix", "byte_fallback" };
    const json_t *merges = json_object_get(model, "merges");
    if (strcmp(type_of(model), "BPE") != 0)
        return BAD("model.type: \"%.100s\", needs \"BPE\"", type_of(model));
    for (size_t k = 0; k < sizeof unsupported / sizeof *unsupported; k++)
        if (is_set(model, unsupported[k]))
            return BAD("model.%s: is set, which is not supported", unsupported[k]);
    if (!json_is_array(merges)) return BAD("model.merges: needs an array");
    bpe->whole_words = json_is_true(json_object_get(model, "ignore_merges"));
    dopl_bytes name = { 0 };
    dopl_status status = read_vocab(rt, bpe, &name, json_object_get(model, "vocab"));
    for (size_t i = 0; status == DOPL_OK && i < json_array_size(merges); i++)
        status = read_merge(rt, bpe, &name, i, json_array_get(merges, i));
    dopl_bytes_release(rt, &name);
    return status;
}

static dopl_status check_byte_level(dopl_rt *rt, const json_t *level) {
    if (strcmp(type_of(level), "ByteLevel") != 0)
        return BAD("pre_tokenizer: \"%.100s\", needs ByteLevel, or Split followed by ByteLevel",
                   type_of(level));
    if (is_set(level, "add_prefix_space"))
        return BAD("pre_tokenizer.add_prefix_space: is set, which is not supported");
    return DOPL_OK;
}

// ByteLevel with its own pattern, or a sequence of a Split with a pattern and a ByteLevel without.
static dopl_status read_pattern(dopl_rt *rt, const json_t *pre, const char **pattern) {
    const json_t *list = json_object_get(pre, "pretokenizers");
    if (strcmp(type_of(pre), "Sequence") != 0) {
        DOPL_TRY(check_byte_level(rt, pre));
        if (json_is_false(json_object_get(pre, "use_regex")))
            return BAD("pre_tokenizer: ByteLevel without a pattern is not supported");
        *pattern = dopl_split_named("gpt2");
        return DOPL_OK;
    }
    const json_t *split = json_array_get(list, 0);
    if (json_array_size(list) != 2 || strcmp(type_of(split), "Split") != 0)
        return BAD("pre_tokenizer.pretokenizers: needs Split followed by ByteLevel");
    DOPL_TRY(check_byte_level(rt, json_array_get(list, 1)));
    if (!json_is_false(json_object_get(json_array_get(list, 1), "use_regex")))
        return BAD("pre_tokenizer.pretokenizers[1].use_regex: needs false after a Split");
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    *pattern = plain_string(json_object_get(json_object_get(split, "pattern"), "Regex"));
    if (!*pattern) return BAD("pre_tokenizer.pretokenizers[0].pattern.Regex: needs a string");
    if (!behavior || strcmp(behavior, "Isolated") != 0 || is_set(split, "invert"))
        return BAD("pre_tokenizer.pretokenizers[0]: needs behavior \"Isolated\", not inverted");
    return DOPL_OK;
}

static dopl_status set_around(dopl_rt *rt, const dopl_bpe *bpe, int32_t *where, int32_t id) {
    size_t n;
    if (!dopl_bpe_token(bpe, id, &n))
        return BAD("post_processor: no token has the id %d, which it puts around a text", id);
    if (*where >= 0 && *where != id)
        return BAD("post_processor: puts the tokens %d and %d on one side of a text, which is not "
                   "supported",
                   *where, id);
    *where = id;
    return DOPL_OK;
}

// The template's tokens before its sequence are bos, those behind it eos.
static dopl_status read_template(dopl_rt *rt, dopl_bpe *bpe, const json_t *post) {
    const json_t *single = json_object_get(post, "single"), *piece;
    const json_t *tokens = json_object_get(post, "special_tokens");
    bool sequence = false, bos = false, eos = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        piece = json_array_get(single, i);
        if (json_object_get(piece, "Sequence")) {
            if (sequence) return BAD("post_processor.single: names a sequence twice");
            sequence = true;
            continue;
        }
        const char *name =
            plain_string(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const json_t *ids = json_object_get(name ? json_object_get(tokens, name) : NULL, "ids");
        int32_t id;
        if (!name) return BAD("post_processor.single[%zu]: needs a SpecialToken or a Sequence", i);
        if (json_array_size(ids) != 1 || (sequence ? eos : bos))
            return BAD("post_processor: puts several tokens, or none, %s a text for \"%.100s\"; "
                       "one is supported",
                       sequence ? "behind" : "before", name);
        DOPL_TRY(read_id(rt, json_array_get(ids, 0), "post_processor.special_tokens", &id));
        DOPL_TRY(set_around(rt, bpe, sequence ? &bpe->eos : &bpe->bos, id));
        *(sequence ? &eos : &bos) = true;
    }
    return sequence ? DOPL_OK : BAD("post_processor.single: needs a sequence");
}

// What a file puts around a whole text: this, not the text's pieces, is where it names bos and eos.
static dopl_status read_post_processor(dopl_rt *rt, dopl_bpe *bpe, const json_t *post) {
    const char *type = type_of(post);
    if (!post || json_is_null(post) || strcmp(type, "ByteLevel") == 0) // moves offsets, no ids
        return DOPL_OK;
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(rt, bpe, post);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        int32_t id;
        DOPL_TRY(read_id(rt, json_array_get(json_object_get(post, "cls"), 1), "post_processor.cls",
                         &id));
        DOPL_TRY(set_around(rt, bpe, &bpe->bos, id));
        DOPL_TRY(read_id(rt, json_array_get(json_object_get(post, "sep"), 1), "post_processor.sep",
                         &id));
        return set_around(rt, bpe, &bpe->eos, id);
    }
    const json_t *list = json_object_get(post, "processors");
    if (strcmp(type, "Sequence") != 0 || !json_is_array(list))
        return BAD("post_processor: \"%.100s\" is not supported", type);
    for (size_t i = 0; i < json_array_size(list); i++)
        DOPL_TRY(read_post_processor(rt, bpe, json_array_get(list, i)));
    return DOPL_OK;
}

static dopl_status read_root(dopl_rt *rt, dopl_bpe *bpe, const json_t *root) {
    const char *pattern = NULL;
    if (!json_is_object(root)) return BAD("needs an object");
    if (is_set(root, "normalizer"))
        return BAD("normalizer: \"%.100s\" is not supported",
                   type_of(json_object_get(root, "normalizer")));
    DOPL_TRY(read_pattern(rt, json_object_get(root, "pre_tokenizer"), &pattern));
    DOPL_TRY(dopl_bpe_init(rt, bpe, pattern, strlen(pattern)));
    DOPL_TRY(read_added(rt, bpe, json_object_get(root, "added_tokens")));
    DOPL_TRY(read_model(rt, bpe, json_object_get(root, "model")));
    DOPL_TRY(check_added(rt, json_object_get(json_object_get(root, "model"), "vocab"),
                         json_object_get(root, "added_tokens")));
    DOPL_TRY(read_post_processor(rt, bpe, json_object_get(root, "post_processor")));
    dopl_bpe_seal(bpe);
    return DOPL_OK;
}

dopl_status dopl_bpe_from_json(dopl_rt *rt, dopl_bpe *bpe, const char *source, const char *json,
                               size_t n) {
    json_t *root;
    DOPL_TRY(dopl_json_parse(rt, &root, json, n, source, 1));
    dopl_status status = read_root(rt, bpe, root);
    json_decref(root);
    if (status == DOPL_OK) return DOPL_OK;
    char why[sizeof rt->error];
    memcpy(why, rt->error, sizeof why);
    return dopl_fail(rt, status, "%s: %s", source, why);
}
