// nearest.c - the name that a misspelt word stands for.
//
// The distance counts edits: an insertion, a deletion, a substitution, or a swap of two neighbours
// (the optimal string alignment distance). One edit is always taken for a slip; longer words may
// have one more for every three bytes.
#include "nearest.h"

#include <ctype.h>
#include <string.h>

enum { LONGEST = 64 }; // bytes; longer words are no misspelling of anything

static int min(int a, int b) {
    return a < b ? a : b;
}

static int distance(const char *a, int n, const char *b, int m) {
    int rows[3][LONGEST + 1]; // prefixes of a by prefixes of b: the last two rows and the new one
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        int x = tolower((unsigned char)a[i - 1]);
        int x_before = i > 1 ? tolower((unsigned char)a[i - 2]) : 0;
        for (int j = 1; j <= m; j++) {
            int y = tolower((unsigned char)b[j - 1]);
            now[j] = min(min(last[j], now[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && x_before == y)
                now[j] = min(now[j], before[j - 2] + 1);
        }
        int *free = before;
        before = last, last = now, now = free;
    }
    return last[m];
}

int dopl_nearest(const char *word, const char *const *names, int n) {
    size_t length = strlen(word);
    int best = -1, best_distance = LONGEST;
    if (length > LONGEST) return -1;
    for (int i = 0; i < n; i++) {
        size_t other = strlen(names[i]);
        if (other > LONGEST) continue;
        int d = distance(word, (int)length, names[i], (int)other);
        if (d < best_distance) best = i, best_distance = d;
    }
    if (best < 0) return -1;
    return best_distance <= 1 + min((int)length, (int)strlen(names[best])) / 3 ? best : -1;
}
