// files.h - whole-file reading, writing that is all or nothing, appending line by line.
//
// Every message names the path and the system's reason. What may be written where: roots.h.
#ifndef DOPL_IO_FILES_H
#define DOPL_IO_FILES_H

#include "bytes.h"
#include "roots.h"

#include <sys/types.h>

// Reads a regular file or a pipe to its end. `out` is empty at first and after a failure.
DOPL_CHECKED dopl_status dopl_file_read(dopl_rt *rt, dopl_bytes *out, const char *path);

// The content hash of a regular file, as of one part (hash.h), and its length; reads it in pieces.
DOPL_CHECKED dopl_status dopl_file_hash(dopl_rt *rt, char hex[33], int64_t *n, const char *path);

// A file being written. Readers see the old file until dopl_writer_commit, then the new one, whole
// and on the disk. Released without a commit it leaves no trace. Something that is there but is no
// regular file (a pipe, a device) cannot be replaced and is written to as it is.
typedef struct {
    bool open;
    bool direct; // no file beside: `temp` is empty
    int fd;
    char path[PATH_MAX]; // resolved
    char temp[PATH_MAX];
} dopl_writer;

DOPL_CHECKED dopl_status dopl_writer_open(dopl_rt *rt, dopl_writer *w, const char *path);
DOPL_CHECKED dopl_status dopl_writer_put(dopl_rt *rt, dopl_writer *w, const void *data, size_t n);
DOPL_CHECKED dopl_status dopl_writer_commit(dopl_rt *rt, dopl_writer *w);
void dopl_writer_release(dopl_writer *w); // idempotent

DOPL_CHECKED dopl_status dopl_file_write(dopl_rt *rt, const char *path, const void *data, size_t n);

// A log: each line reaches the system in one write before the call returns, so a crash loses
// nothing already reported. A line that could not be written whole is cut off again.
typedef struct {
    bool open;
    int fd;
    char path[PATH_MAX];
} dopl_appender;

DOPL_CHECKED dopl_status dopl_appender_open(dopl_rt *rt, dopl_appender *a, const char *path);
DOPL_CHECKED dopl_status dopl_appender_put(dopl_rt *rt, dopl_appender *a, const void *data,
                                           size_t n);
DOPL_CHECKED dopl_status dopl_appender_sync(dopl_rt *rt, dopl_appender *a);
DOPL_CHECKED dopl_status dopl_appender_close(dopl_rt *rt, dopl_appender *a); // idempotent

// A claim on a folder, against other processes and other claims of this one. It is the system's:
// there is no file for it, and it ends with the process, however that ends. Where a file system has
// no locks, everybody gets one.
typedef struct {
    bool open;
    int fd;
} dopl_lock;

// *holder: 0 where the lock was taken; else the process that has it, or -1 where that cannot be
// told.
DOPL_CHECKED dopl_status dopl_lock_take(dopl_rt *rt, dopl_lock *l, const char *path, long *holder);
void dopl_lock_release(dopl_lock *l); // idempotent
// Whether somebody holds a folder: *holder as above.
DOPL_CHECKED dopl_status dopl_lock_holder(dopl_rt *rt, const char *path, long *holder);

typedef enum { DOPL_NOTHING, DOPL_FILE, DOPL_DIRECTORY, DOPL_OTHER } dopl_file_kind;
dopl_file_kind dopl_file_kind_of(const char *path);
// Makes a folder and its parents. *made (may be NULL) tells whether the last one is new.
DOPL_CHECKED dopl_status dopl_mkdir(dopl_rt *rt, const char *path, bool *made);
DOPL_CHECKED dopl_status dopl_remove(dopl_rt *rt, const char *path); // a file or an empty folder
// The names in a folder, each ended by a NUL, in byte order, without "." and "..".
DOPL_CHECKED dopl_status dopl_list(dopl_rt *rt, dopl_bytes *out, int64_t *n_names,
                                   const char *path);

// A failure with errno's text: "verb path: reason".
DOPL_CHECKED dopl_status dopl_fail_errno(dopl_rt *rt, const char *verb, const char *path);

#endif
