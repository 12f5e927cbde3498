// porter.c - M. F. Porter, "An algorithm for suffix stripping", Program 14 (3), 1980.
//
// ROUGE scores of the field are computed with NLTK's PorterStemmer, whose default mode departs from
// the paper: words of one or two letters stay, a list of irregular forms, "ies" and "ied" keep an e
// in words of four letters, y becomes i only after a consonant that is not the first letter, "bli",
// "alli", "fulli" and "logi" in step 2, and a stem such as "us" counts as short. In every step the
// first suffix that fits decides, whether its condition then holds or not.
//
// A word is [C](VC)^m[V]; m, its measure, is what most conditions ask for.
#include "porter.h"

#include <stdbool.h>
#include <string.h>

typedef struct stem {
    char *s;
    size_t n;
} stem;

typedef bool (*condition)(const char *s, size_t n); // of the word without the suffix

typedef struct rule {
    const char *suffix, *replacement;
    condition holds; // NULL: always
} rule;

static bool consonant(const char *s, size_t i) {
    switch (s[i]) {
    case 'a':
    case 'e':
    case 'i':
    case 'o':
    case 'u':
        return false;
    case 'y':
        break;
    default:
        return true;
    }
    bool odd = false; // a y is a consonant at the start and after a vowel: count the y's before it
    for (; i > 0 && s[i - 1] == 'y'; i--) odd = !odd;
    bool first = i == 0 || !consonant(s, i - 1);
    return first != odd;
}

static size_t measure(const char *s, size_t n) {
    size_t m = 0;
    bool vowel = false;
    for (size_t i = 0; i < n; i++) {
        bool c = consonant(s, i);
        m += vowel && c;
        vowel = !c;
    }
    return m;
}

static bool m_above_0(const char *s, size_t n) {
    return measure(s, n) > 0;
}

static bool m_above_1(const char *s, size_t n) {
    return measure(s, n) > 1;
}

static bool has_vowel(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!consonant(s, i)) return true;
    return false;
}

// Ends in consonant, vowel, consonant other than w, x, y; or is one vowel and one consonant.
static bool is_short_end(const char *s, size_t n) {
    if (n == 2) return !consonant(s, 0) && consonant(s, 1);
    return n >= 3 && consonant(s, n - 3) && !consonant(s, n - 2) && consonant(s, n - 1) &&
           !strchr("wxy", s[n - 1]);
}

static bool m_is_1_and_short(const char *s, size_t n) {
    return measure(s, n) == 1 && is_short_end(s, n);
}

static bool after_consonant(const char *s, size_t n) {
    return n > 1 && consonant(s, n - 1);
}

static bool m_above_1_and_s_or_t(const char *s, size_t n) {
    return measure(s, n) > 1 && (s[n - 1] == 's' || s[n - 1] == 't');
}

// "logi" keeps its l in the measure.
static bool m_above_0_with_l(const char *s, size_t n) {
    return measure(s, n + 1) > 0;
}

static bool ends(const stem *w, const char *suffix) {
    size_t n = strlen(suffix);
    return w->n >= n && memcmp(w->s + w->n - n, suffix, n) == 0;
}

static void put(stem *w, const char *suffix, const char *replacement) {
    size_t n = strlen(replacement);
    w->n -= strlen(suffix);
    memcpy(w->s + w->n, replacement, n);
    w->n += n;
}

static void apply(stem *w, const rule *rules, size_t n_rules) {
    for (const rule *r = rules; r < rules + n_rules; r++) {
        if (!ends(w, r->suffix)) continue;
        if (!r->holds || r->holds(w->s, w->n - strlen(r->suffix)))
            put(w, r->suffix, r->replacement);
        return;
    }
}

#define APPLY(w, rules) apply(w, rules, sizeof(rules) / sizeof *(rules))

static void step_1a(stem *w) {
    static const rule rules[] = {
        { "sses", "ss", NULL }, { "ies", "i", NULL }, { "ss", "ss", NULL }, { "s", "", NULL }
    };
    if (w->n == 4 && ends(w, "ies"))
        put(w, "ies", "ie");
    else
        APPLY(w, rules);
}

static void step_1b(stem *w) {
    static const rule repairs[] = { { "at", "ate", NULL },
                                    { "bl", "ble", NULL },
                                    { "iz", "ize", NULL } };
    if (ends(w, "ied")) {
        put(w, "ied", w->n == 4 ? "ie" : "i");
        return;
    }
    if (ends(w, "eed")) {
        if (m_above_0(w->s, w->n - 3)) put(w, "eed", "ee");
        return;
    }
    const char *suffix = ends(w, "ed") ? "ed" : "ing";
    if (!ends(w, suffix) || !has_vowel(w->s, w->n - strlen(suffix))) return;
    put(w, suffix, "");
    size_t n = w->n;
    if (ends(w, "at") || ends(w, "bl") || ends(w, "iz")) {
        APPLY(w, repairs);
    } else if (n >= 2 && w->s[n - 1] == w->s[n - 2] && consonant(w->s, n - 1)) {
        if (!strchr("lsz", w->s[n - 1])) w->n--;
    } else if (m_is_1_and_short(w->s, n)) {
        put(w, "", "e");
    }
}

static void step_1c(stem *w) {
    static const rule rules[] = { { "y", "i", after_consonant } };
    APPLY(w, rules);
}

static void step_2(stem *w) {
    static const rule rules[] = {
        { "ational", "ate", m_above_0 }, { "tional", "tion", m_above_0 },
        { "enci", "ence", m_above_0 },   { "anci", "ance", m_above_0 },
        { "izer", "ize", m_above_0 },    { "bli", "ble", m_above_0 },
        { "alli", "al", m_above_0 },     { "entli", "ent", m_above_0 },
        { "eli", "e", m_above_0 },       { "ousli", "ous", m_above_0 },
        { "ization", "ize", m_above_0 }, { "ation", "ate", m_above_0 },
        { "ator", "ate", m_above_0 },    { "alism", "al", m_above_0 },
        { "iveness", "ive", m_above_0 }, { "fulness", "ful", m_above_0 },
        { "ousness", "ous", m_above_0 }, { "aliti", "al", m_above_0 },
        { "iviti", "ive", m_above_0 },   { "biliti", "ble", m_above_0 },
        { "fulli", "ful", m_above_0 },   { "logi", "log", m_above_0_with_l },
    };
    if (ends(w, "alli") && m_above_0(w->s, w->n - 4)) put(w, "alli", "al"); // and once more
    APPLY(w, rules);
}

static void step_3(stem *w) {
    static const rule rules[] = {
        { "icate", "ic", m_above_0 }, { "ative", "", m_above_0 },  { "alize", "al", m_above_0 },
        { "iciti", "ic", m_above_0 }, { "ical", "ic", m_above_0 }, { "ful", "", m_above_0 },
        { "ness", "", m_above_0 },
    };
    APPLY(w, rules);
}

static void step_4(stem *w) {
    static const rule rules[] = {
        { "al", "", m_above_1 },   { "ance", "", m_above_1 }, { "ence", "", m_above_1 },
        { "er", "", m_above_1 },   { "ic", "", m_above_1 },   { "able", "", m_above_1 },
        { "ible", "", m_above_1 }, { "ant", "", m_above_1 },  { "ement", "", m_above_1 },
        { "ment", "", m_above_1 }, { "ent", "", m_above_1 },  { "ion", "", m_above_1_and_s_or_t },
        { "ou", "", m_above_1 },   { "ism", "", m_above_1 },  { "ate", "", m_above_1 },
        { "iti", "", m_above_1 },  { "ous", "", m_above_1 },  { "ive", "", m_above_1 },
        { "ize", "", m_above_1 },
    };
    APPLY(w, rules);
}

static void step_5(stem *w) {
    if (ends(w, "e")) {
        size_t m = measure(w->s, w->n - 1);
        if (m > 1 || (m == 1 && !is_short_end(w->s, w->n - 1))) w->n--;
    }
    if (ends(w, "ll") && measure(w->s, w->n - 1) > 1) w->n--;
}

static bool irregular(stem *w) {
    static const char *const forms[][2] = {
        { "sky", "sky" },         { "skies", "sky" },        { "dying", "die" },
        { "lying", "lie" },       { "tying", "tie" },        { "news", "news" },
        { "innings", "inning" },  { "inning", "inning" },    { "outings", "outing" },
        { "outing", "outing" },   { "cannings", "canning" }, { "canning", "canning" },
        { "howe", "howe" },       { "proceed", "proceed" },  { "exceed", "exceed" },
        { "succeed", "succeed" },
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (w->n != strlen(forms[i][0]) || !ends(w, forms[i][0])) continue;
        put(w, forms[i][0], forms[i][1]);
        return true;
    }
    return false;
}

size_t dopl_porter_stem(char *word, size_t n) {
    stem w = { word, n };
    if (n <= 2 || irregular(&w)) return w.n;
    step_1a(&w);
    step_1b(&w);
    step_1c(&w);
    step_2(&w);
    step_3(&w);
    step_4(&w);
    step_5(&w);
    return w.n;
}
