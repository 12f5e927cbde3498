// json.h - JSON as the project reads and writes it.
//
// Reading is strict: UTF-8, no duplicate keys, nothing after the value, at most DOPL_JSON_DEPTH
// deep. Integers and reals stay apart; a number that fits neither 64 bits nor a double is kept as a
// string of its digits. Writing is canonical: what goes out depends only on the
// value.
#ifndef DOPL_IO_JSON_H
#define DOPL_IO_JSON_H

#include "bytes.h"

#include <jansson.h>

enum { DOPL_JSON_DEPTH = 200 };

// Parses one value. Messages read "name:line:column: reason"; `name` is a path or what the text is,
// `first_line` the number of its first line. *out is the caller's to json_decref.
DOPL_CHECKED dopl_status dopl_json_parse(dopl_rt *rt, json_t **out, const char *text, size_t n,
                                         const char *name, int first_line);

// A quoted string. Bytes that are no UTF-8, which JSON cannot hold, become U+FFFD each.
DOPL_CHECKED dopl_status dopl_json_put_string(dopl_rt *rt, dopl_bytes *out, const char *text,
                                              size_t n);
// 15, 16 or 17 digits, the fewest that read back as the same double; a point or exponent is always
// there.
// EARG where `value` is no finite number.
DOPL_CHECKED dopl_status dopl_json_put_real(dopl_rt *rt, dopl_bytes *out, double value);
DOPL_CHECKED dopl_status dopl_json_put_integer(dopl_rt *rt, dopl_bytes *out, int64_t value);

#endif
