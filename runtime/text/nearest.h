// nearest.h - the name that a misspelt word stands for.
#ifndef DOPL_TEXT_NEAREST_H
#define DOPL_TEXT_NEAREST_H

// The index of the name closest to `word`, or -1 if none is close enough to be meant. Case is
// ignored; of equally close names the first wins.
int dopl_nearest(const char *word, const char *const *names, int n);

#endif
