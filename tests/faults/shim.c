/* Makes the n-th call of a process to the file system below a folder fail, or kills the process there.

   Loaded with LD_PRELOAD. `fault_at` sets which: calls that open, make, write, sync, rename, link or remove a file are
   counted together, in every thread. With `sticky`, those after the n-th fail too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READS = 1, MAKES = 2, WRITES = 4, REMOVES = 8 };

static char folder[4096] = "";
static size_t length;
static int at, number, kinds, sticky, calls;

void fault_at(const char *below, int call, int error, int of_kinds, int and_after) {
    strncpy(folder, below, sizeof folder - 1);
    length = strlen(folder);
    at = call, number = error, kinds = of_kinds, sticky = and_after;
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
}

int fault_calls(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }

static int below(const char *path) { return length && path && !strncmp(path, folder, length); }

static int below_fd(int descriptor) {
    char link[64], path[4096];
    if (!length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

/* 1 where a call is to fail; a number below 0 is a signal's. */
static int fails(int kind) {
    if (!(kinds & kind)) return 0;
    int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (call != at && !(sticky && at && call > at)) return 0;
    if (number < 0) {
        kill(getpid(), -number);
        for (;;) pause();
    }
    errno = number;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int descriptor, const void *bytes, size_t size) {
    REAL(write);
    if (below_fd(descriptor)) {
        if (number < 0 && size > 1 && fault_calls() + 1 == at) real(descriptor, bytes, size / 2);
        if (fails(WRITES)) return -1;
    }
    return real(descriptor, bytes, size);
}

int fsync(int descriptor) {
    REAL(fsync);
    return below_fd(descriptor) && fails(WRITES) ? -1 : real(descriptor);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && fails(WRITES) ? -1 : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(link);
    return below(to) && fails(WRITES) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return below(path) && fails(REMOVES) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return below(path) && fails(MAKES) ? -1 : real(path, mode);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return below(path) && fails(flags & O_CREAT ? MAKES : READS) ? -1 : real(path, flags, mode); \
    }

OPENS(open)
OPENS(open64)
