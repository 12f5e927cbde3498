// escape.h - text as it may be written to a terminal or a log.
//
// Names, rows and what a model generates can hold escape sequences that move the cursor, rename the
// window or fill the clipboard. Whatever dopl writes for a person to read passes through here: a
// control character, a byte that is not UTF-8 and a character that turns the direction of writing
// are shown as Lua would spell them ("\x1b", "\u{202e}").
#ifndef DOPL_IO_ESCAPE_H
#define DOPL_IO_ESCAPE_H

#include <stdbool.h>
#include <stddef.h>

enum {
    DOPL_ESCAPE_KEEP_LINES = 1,   // line feeds and tabs stand as they are
    DOPL_ESCAPE_KEEP_COLOURS = 2, // so do the sequences that set colours, ESC [ digits and ; m
};

typedef struct dopl_escape {
    const char *text; // set these three; the first two move on
    size_t n;
    unsigned keep;   // DOPL_ESCAPE_KEEP_*
    char escape[16]; // what the last piece points into where it is no part of the text
} dopl_escape;

// The next piece of what is shown, until the next call; false after the last.
bool dopl_escape_next(dopl_escape *v, const char **piece, size_t *n);

#endif
