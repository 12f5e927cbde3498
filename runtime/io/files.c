// files.c - whole-file reading, writing that is all or nothing, appending line by line.
//
// A file is written beside its final name, synced, and renamed into place; then the folder is
// synced, so that after a power cut either version is there whole.
#include "files.h"

#include "hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

dopl_status dopl_fail_errno(dopl_rt *rt, const char *verb, const char *path) {
    return dopl_fail(rt, DOPL_EIO, "%s %s: %s", verb, path, strerror(errno));
}

// A stop ends the wait for a pipe's other end.
static int open_retry(const dopl_rt *rt, const char *path, int flags, mode_t mode) {
    int fd;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR && !rt->stop);
    return fd;
}

// write(2) until all is taken. Returns false with errno set; *written tells how far it came.
static bool write_all(int fd, const char *data, size_t n, size_t *written) {
    *written = 0;
    while (*written < n) {
        ssize_t k = write(fd, data + *written, n - *written);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return false;
        *written += (size_t)k;
    }
    return true;
}

// Devices and pipes cannot be synced and say EINVAL (or EROFS): that is no failure.
static bool sync_fd(int fd) {
    int k;
    do k = fsync(fd);
    while (k < 0 && errno == EINTR);
    return k == 0 || errno == EINVAL || errno == EROFS;
}

static dopl_status read_fd(dopl_rt *rt, dopl_bytes *out, int fd, const char *path, size_t guess) {
    for (size_t step = guess + 1;; step = 1 << 16) {
        DOPL_TRY(dopl_bytes_reserve(rt, out, step));
        ssize_t k = read(fd, out->data + out->n, out->capacity - out->n - 1);
        if (k < 0 && errno == EINTR && !rt->stop) continue;
        if (k < 0) return dopl_fail_errno(rt, "read", path);
        if (k == 0) break;
        out->n += (size_t)k;
    }
    out->data[out->n] = 0;
    return DOPL_OK;
}

dopl_status dopl_file_read(dopl_rt *rt, dopl_bytes *out, const char *path) {
    int fd = open_retry(rt, path, O_RDONLY, 0);
    if (fd < 0) return dopl_fail_errno(rt, "read", path);
    struct stat st;
    dopl_status s;
    if (fstat(fd, &st) < 0)
        s = dopl_fail_errno(rt, "read", path);
    else if (S_ISDIR(st.st_mode))
        s = dopl_fail(rt, DOPL_EIO, "read %s: a folder, a file is needed", path);
    else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        s = dopl_fail(rt, DOPL_EIO, "read %s: a device, a file or a pipe is needed", path);
    else
        s = read_fd(rt, out, fd, path, S_ISREG(st.st_mode) ? (size_t)st.st_size : 0);
    close(fd);
    if (s) dopl_bytes_release(rt, out);
    return s;
}

dopl_status dopl_file_hash(dopl_rt *rt, char hex[33], int64_t *n, const char *path) {
    int fd = open_retry(rt, path, O_RDONLY, 0);
    if (fd < 0) return dopl_fail_errno(rt, "read", path);
    struct stat st;
    dopl_status s = DOPL_OK;
    if (fstat(fd, &st) < 0)
        s = dopl_fail_errno(rt, "read", path);
    else if (!S_ISREG(st.st_mode))
        s = dopl_fail(rt, DOPL_EIO, "read %s: a file is needed", path);
    void *piece = NULL;
    const size_t size = (size_t)1 << 20;
    if (!s) s = dopl_rt_alloc(rt, &piece, size);
    dopl_hash h;
    dopl_hash_init(&h);
    *n = 0;
    for (ssize_t got = 1; !s && got != 0;) {
        got = read(fd, piece, size);
        if (got < 0 && errno != EINTR) s = dopl_fail_errno(rt, "read", path);
        if (got <= 0) continue;
        dopl_hash_more(&h, piece, (size_t)got);
        *n += got;
    }
    if (!s) {
        dopl_hash_end(&h, (uint64_t)*n);
        dopl_hash_hex(&h, hex);
    }
    dopl_rt_free(rt, piece);
    close(fd);
    return s;
}

// ".name.PID.tmp" beside `path`.
static dopl_status temp_name(dopl_rt *rt, char out[PATH_MAX], const char *path) {
    const char *slash = strrchr(path, '/');
    int n = snprintf(out, PATH_MAX, "%.*s/.%s.%ld.tmp", (int)(slash - path), path, slash + 1,
                     (long)getpid());
    if (n >= PATH_MAX) return dopl_fail(rt, DOPL_EARG, "write %s: path too long", path);
    return DOPL_OK;
}

dopl_status dopl_writer_open(dopl_rt *rt, dopl_writer *w, const char *path) {
    w->open = false;
    DOPL_TRY(dopl_roots_check(rt, w->path, "write", path));
    dopl_file_kind kind = dopl_file_kind_of(w->path);
    if (kind == DOPL_DIRECTORY)
        return dopl_fail(rt, DOPL_EIO, "write %s: a folder of this name exists", path);
    w->direct = kind == DOPL_OTHER;
    w->temp[0] = 0;
    if (w->direct) {
        w->fd = open_retry(rt, w->path, O_WRONLY | O_NOFOLLOW, 0);
    } else {
        DOPL_TRY(temp_name(rt, w->temp, w->path));
        unlink(w->temp); // of a process that died and had our number
        w->fd = open_retry(rt, w->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
    }
    if (w->fd < 0) return dopl_fail_errno(rt, "write", path);
    w->open = true;
    return DOPL_OK;
}

dopl_status dopl_writer_put(dopl_rt *rt, dopl_writer *w, const void *data, size_t n) {
    size_t written;
    if (!write_all(w->fd, data, n, &written)) return dopl_fail_errno(rt, "write", w->path);
    return DOPL_OK;
}

static bool sync_folder(const dopl_rt *rt, const char *path) {
    char folder[PATH_MAX];
    size_t n = (size_t)(strrchr(path, '/') - path);
    memcpy(folder, path, n);
    strcpy(folder + n, n ? "" : "/");
    int fd = open_retry(rt, folder, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return errno == EACCES; // writable but not readable: nothing to be done
    bool ok = sync_fd(fd);
    close(fd);
    return ok;
}

dopl_status dopl_writer_commit(dopl_rt *rt, dopl_writer *w) {
    dopl_status s = DOPL_OK;
    struct stat st;
    if (!w->direct && stat(w->path, &st) == 0 && fchmod(w->fd, st.st_mode & 0777) < 0)
        s = dopl_fail_errno(rt, "write", w->path);
    if (!s && !sync_fd(w->fd)) s = dopl_fail_errno(rt, "write", w->path);
    int closed = close(w->fd);
    w->open = false;
    if (!s && closed < 0 && errno != EINTR) s = dopl_fail_errno(rt, "write", w->path);
    if (!s && !w->direct && rename(w->temp, w->path) < 0) s = dopl_fail_errno(rt, "write", w->path);
    if (s) {
        if (!w->direct) unlink(w->temp);
        return s;
    }
    if (!w->direct && !sync_folder(rt, w->path)) return dopl_fail_errno(rt, "write", w->path);
    return DOPL_OK;
}

void dopl_writer_release(dopl_writer *w) {
    if (!w->open) return;
    close(w->fd);
    if (!w->direct) unlink(w->temp);
    w->open = false;
}

dopl_status dopl_file_write(dopl_rt *rt, const char *path, const void *data, size_t n) {
    dopl_writer w;
    DOPL_TRY(dopl_writer_open(rt, &w, path));
    dopl_status s = dopl_writer_put(rt, &w, data, n);
    if (!s) s = dopl_writer_commit(rt, &w);
    dopl_writer_release(&w);
    return s;
}

dopl_status dopl_appender_open(dopl_rt *rt, dopl_appender *a, const char *path) {
    a->open = false;
    DOPL_TRY(dopl_roots_check(rt, a->path, "append to", path));
    a->fd = open_retry(rt, a->path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0666);
    if (a->fd < 0) return dopl_fail_errno(rt, "append to", path);
    a->open = true;
    return DOPL_OK;
}

dopl_status dopl_appender_put(dopl_rt *rt, dopl_appender *a, const void *data, size_t n) {
    if (!a->open) return dopl_fail(rt, DOPL_ESTATE, "append to %s: closed", a->path);
    size_t written;
    if (write_all(a->fd, data, n, &written)) return DOPL_OK;
    dopl_status s = dopl_fail_errno(rt, "append to", a->path);
    struct stat st; // half a line would make the whole log unreadable
    if (written && fstat(a->fd, &st) == 0 && S_ISREG(st.st_mode))
        (void)!ftruncate(a->fd, st.st_size - (off_t)written);
    return s;
}

dopl_status dopl_appender_sync(dopl_rt *rt, dopl_appender *a) {
    if (!a->open) return dopl_fail(rt, DOPL_ESTATE, "append to %s: closed", a->path);
    return sync_fd(a->fd) ? DOPL_OK : dopl_fail_errno(rt, "append to", a->path);
}

dopl_status dopl_appender_close(dopl_rt *rt, dopl_appender *a) {
    if (!a->open) return DOPL_OK;
    a->open = false;
    if (close(a->fd) < 0 && errno != EINTR) return dopl_fail_errno(rt, "append to", a->path);
    return DOPL_OK;
}

// The process that holds a lock on the folder, as the system lists them; -1: it does not say.
static long process_with_lock(int fd) {
    struct stat st;
    FILE *list = fopen("/proc/locks", "re");
    long holder = -1;
    if (!list || fstat(fd, &st) < 0) goto out;
    char line[256]; // "1: FLOCK  ADVISORY  WRITE 4242 fe:01:1234 0 EOF"
    while (holder < 0 && fgets(line, sizeof line, list)) {
        long pid;
        unsigned long long inode;
        if (sscanf(line, "%*d: FLOCK %*s WRITE %ld %*x:%*x:%llu", &pid, &inode) == 2 && pid > 0 &&
            inode == (unsigned long long)st.st_ino)
            holder = pid;
    }
out:
    if (list) fclose(list);
    return holder;
}

static dopl_status lock_folder(dopl_rt *rt, dopl_lock *l, const char *path, int kind,
                               long *holder) {
    enum { TRIES = 5, PAUSE = 10 * 1000 * 1000 }; // who only looks, holds it for a moment
    l->open = false;
    *holder = 0;
    l->fd = open_retry(rt, path, O_RDONLY | O_DIRECTORY, 0);
    if (l->fd < 0) return dopl_fail_errno(rt, "lock", path);
    for (int i = 0; i < TRIES; i++) {
        if (flock(l->fd, kind | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
            l->open = true;
            return DOPL_OK;
        }
        nanosleep(&(struct timespec){ .tv_nsec = PAUSE }, NULL);
    }
    *holder = process_with_lock(l->fd);
    close(l->fd);
    return DOPL_OK;
}

dopl_status dopl_lock_take(dopl_rt *rt, dopl_lock *l, const char *path, long *holder) {
    char real[PATH_MAX];
    l->open = false;
    DOPL_TRY(dopl_roots_check(rt, real, "lock", path));
    return lock_folder(rt, l, real, LOCK_EX, holder);
}

void dopl_lock_release(dopl_lock *l) {
    if (l->open) close(l->fd);
    l->open = false;
}

dopl_status dopl_lock_holder(dopl_rt *rt, const char *path, long *holder) {
    dopl_lock l;
    DOPL_TRY(lock_folder(rt, &l, path, LOCK_SH, holder));
    dopl_lock_release(&l);
    return DOPL_OK;
}

dopl_file_kind dopl_file_kind_of(const char *path) {
    struct stat st;
    if (stat(path, &st) < 0) return DOPL_NOTHING;
    if (S_ISREG(st.st_mode)) return DOPL_FILE;
    return S_ISDIR(st.st_mode) ? DOPL_DIRECTORY : DOPL_OTHER;
}

dopl_status dopl_mkdir(dopl_rt *rt, const char *path, bool *made) {
    char real[PATH_MAX];
    if (made) *made = false;
    DOPL_TRY(dopl_roots_check(rt, real, "mkdir", path));
    for (char *p = real + 1;; p++) { // every prefix in turn
        if (*p != '/' && *p) continue;
        char end = *p;
        *p = 0;
        bool is_new = mkdir(real, 0777) == 0;
        int reason = errno;
        if (!is_new && dopl_file_kind_of(real) != DOPL_DIRECTORY) {
            errno = reason == EEXIST ? ENOTDIR : reason;
            return dopl_fail_errno(rt, "mkdir", path);
        }
        *p = end;
        if (!end) {
            if (made) *made = is_new;
            return DOPL_OK;
        }
    }
}

dopl_status dopl_remove(dopl_rt *rt, const char *path) {
    char real[PATH_MAX];
    DOPL_TRY(dopl_roots_check(rt, real, "remove", path));
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) // its target is not what was named
        return dopl_fail(rt, DOPL_EIO, "remove %s: a link, a file or empty folder is needed", path);
    if (remove(real) < 0) return dopl_fail_errno(rt, "remove", path);
    return DOPL_OK;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Reads the names as the system gives them, ended by NULs.
static dopl_status read_names(dopl_rt *rt, dopl_bytes *out, int64_t *n, DIR *dir,
                              const char *path) {
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (!e && errno) return dopl_fail_errno(rt, "list", path);
        if (!e) return DOPL_OK;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        DOPL_TRY(dopl_bytes_put(rt, out, e->d_name, strlen(e->d_name) + 1));
        ++*n;
    }
}

static dopl_status sort_names(dopl_rt *rt, dopl_bytes *out, const dopl_bytes *names, int64_t n) {
    if (n == 0) return DOPL_OK;
    void *block;
    DOPL_TRY(dopl_rt_alloc(rt, &block, (size_t)n * sizeof(char *)));
    const char **index = block;
    const char *p = names->data;
    for (int64_t i = 0; i < n; i++, p += strlen(p) + 1) index[i] = p;
    qsort(index, (size_t)n, sizeof *index, by_bytes);
    dopl_status s = dopl_bytes_reserve(rt, out, names->n);
    for (int64_t i = 0; i < n && !s; i++)
        s = dopl_bytes_put(rt, out, index[i], strlen(index[i]) + 1);
    dopl_rt_free(rt, block);
    return s;
}

dopl_status dopl_list(dopl_rt *rt, dopl_bytes *out, int64_t *n_names, const char *path) {
    *n_names = 0;
    DIR *dir = opendir(path);
    if (!dir) return dopl_fail_errno(rt, "list", path);
    dopl_bytes names = { 0 };
    dopl_status s = read_names(rt, &names, n_names, dir, path);
    closedir(dir);
    if (!s) s = sort_names(rt, out, &names, *n_names);
    dopl_bytes_release(rt, &names);
    if (s) dopl_bytes_release(rt, out);
    return s;
}
