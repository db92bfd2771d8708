/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Storage that is watched, and that fails where it is told to
 *
 * A library for LD_PRELOAD, see storage.py.  It notes what a program does to
 * the files below a directory, the beginning and the end of each operation,
 * and disturbs one of them.  The environment says how:
 *
 * STORAGE_DIR      the directory, without symbolic links
 * STORAGE_LOG      where to note it, as struct Record; may be missing
 * STORAGE_RULE     "CLASS N ACTION VALUE": what happens to the N-th operation
 *                  of a class; may be missing
 * STORAGE_NO_SYNC  flushes are noted, but not done, to save time
 * STORAGE_NO_FLAGS renameat2() knows no flags, as over NFS
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The same names, in the same order, are in storage.py. */
enum Class { WRITE, FLUSH, READ, META, LOOK, ANY, NB_CLASSES };

enum Kind {
    K_WRITE, K_FLUSH, K_READ, K_OPEN, K_TRUNCATE, K_FALLOCATE, K_LINK,
    K_RENAME, K_UNLINK, K_MODE, K_CLOSE, K_LOOK,
};

enum Action { NONE, ERROR, SHORT, DELAY, KILL_BEFORE, KILL_AFTER };

static const char *const class_names[NB_CLASSES] = {
    "write", "flush", "read", "meta", "look", "any"
};

static const char *const action_names[] = {
    "none", "error", "short", "delay", "kill-before", "kill-after"
};

/* In the log; two paths and the data follow. */
typedef struct Record {
    uint32_t number;        /* of the operation, from 1 on */
    uint8_t end;            /* 0: begins, 1: has ended */
    uint8_t kind;
    uint8_t class;
    uint8_t disturbed;
    uint64_t inode;
    int64_t offset;
    int64_t length;
    int64_t result;
    int32_t error;
    uint32_t flags;
    uint32_t path_length[2];
    uint64_t data_length;
} Record;

typedef struct Call {
    Record record;
    enum Action action;
    long value;
} Call;

static struct {
    char dir[PATH_MAX];
    int log;
    bool no_sync;
    bool no_flags;
    enum Class class;
    unsigned long number;
    enum Action action;
    long value;
    unsigned long count[NB_CLASSES];
} storage = { .log = -1 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ({                                                        \
    static __typeof__(&name) real_;                                          \
    if (!real_) {                                                            \
        real_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                  \
    }                                                                        \
    real_; })

static int find(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        if (!strcmp(name, names[i])) {
            return i;
        }
    }
    fprintf(stderr, "STORAGE_RULE: %s?\n", name);
    abort();
}

static void init(void)
{
    const char *dir = getenv("STORAGE_DIR");
    const char *log = getenv("STORAGE_LOG");
    const char *rule = getenv("STORAGE_RULE");
    char class[16], action[16];

    if (dir) {
        snprintf(storage.dir, sizeof(storage.dir), "%s", dir);
    }
    if (log) {
        storage.log = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND |
                                 O_CLOEXEC, 0600);
    }
    storage.no_sync = getenv("STORAGE_NO_SYNC");
    storage.no_flags = getenv("STORAGE_NO_FLAGS");
    if (rule && sscanf(rule, "%15s %lu %15s %ld", class, &storage.number,
                       action, &storage.value) == 4) {
        storage.class = find(class, class_names, NB_CLASSES);
        storage.action = find(action, action_names,
                              sizeof(action_names) / sizeof(*action_names));
    }
}

/* --- which files --- */

static bool below(const char *path)
{
    size_t n = strlen(storage.dir);

    return n && !strncmp(path, storage.dir, n) && (!path[n] || path[n] == '/');
}

static bool name_is_ours(const char *path)
{
    char whole[2 * PATH_MAX];

    pthread_once(&once, init);
    if (!path || path[0] == '/') {
        return path && below(path);
    }
    if (!storage.dir[0] || !getcwd(whole, PATH_MAX)) {
        return false;
    }
    strcat(whole, "/");
    strncat(whole, path, PATH_MAX - 1);
    return below(whole);
}

static bool fd_is_ours(int fd)
{
    int saved_errno = errno;
    char link[32], path[PATH_MAX];
    ssize_t n;

    pthread_once(&once, init);
    if (!storage.dir[0] || fd < 0) {
        return false;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = REAL(readlink)(link, path, sizeof(path) - 1);
    errno = saved_errno;
    if (n < 0) {
        return false;
    }
    path[n] = '\0';
    return below(path);
}

static uint64_t inode_of(int fd)
{
    struct stat st;

    return fd >= 0 && REAL(fstat)(fd, &st) == 0 ? st.st_ino : 0;
}

static uint64_t inode_at(const char *path)
{
    struct stat st;

    return REAL(lstat)(path, &st) == 0 ? st.st_ino : 0;
}

/* --- the log --- */

static void write_all(const void *data, size_t length)
{
    while (length) {
        ssize_t n = REAL(write)(storage.log, data, length);

        if (n <= 0) {
            abort();
        }
        data = (const char *)data + n;
        length -= n;
    }
}

/* Called with the lock held */
static void note(const Record *record, const char *path, const char *other,
                 const struct iovec *iov, int nb_iov)
{
    uint64_t left = record->data_length;

    if (storage.log < 0) {
        return;
    }
    write_all(record, sizeof(*record));
    write_all(path, record->path_length[0]);
    write_all(other, record->path_length[1]);
    for (int i = 0; left && i < nb_iov; i++) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;

        write_all(iov[i].iov_base, n);
        left -= n;
    }
}

static enum Class class_of(enum Kind kind)
{
    switch (kind) {
    case K_WRITE:
        return WRITE;
    case K_FLUSH:
        return FLUSH;
    case K_READ:
        return READ;
    case K_LOOK:
        return LOOK;
    default:
        return META;
    }
}

static void count(Call *call)
{
    enum Class class = call->record.class;

    call->record.number = ++storage.count[ANY];
    storage.count[class]++;
    if ((storage.class == class || storage.class == ANY) &&
        storage.number == storage.count[storage.class]) {
        call->action = storage.action;
        call->value = storage.value;
        call->record.disturbed = call->action != NONE;
    }
}

static void begin_data(Call *call, enum Kind kind, const char *path,
                       const char *other, const struct iovec *iov, int nb_iov)
{
    int saved_errno = errno;

    call->record.kind = kind;
    call->record.class = class_of(kind);
    call->record.path_length[0] = path ? strlen(path) : 0;
    call->record.path_length[1] = other ? strlen(other) : 0;
    pthread_mutex_lock(&lock);
    count(call);
    note(&call->record, path, other, iov, nb_iov);
    pthread_mutex_unlock(&lock);
    if (call->action == KILL_BEFORE) {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (call->action == DELAY) {
        usleep(call->value);
    }
    errno = saved_errno;
}

static void begin(Call *call, enum Kind kind, const char *path,
                  const char *other)
{
    begin_data(call, kind, path, other, NULL, 0);
}

static long end(Call *call, long result)
{
    int saved_errno = errno;

    if (call->action == KILL_AFTER) {
        kill(getpid(), SIGKILL);
        pause();
    }
    call->record.end = 1;
    call->record.result = result;
    call->record.error = result < 0 ? saved_errno : 0;
    call->record.path_length[0] = call->record.path_length[1] = 0;
    call->record.data_length = 0;
    pthread_mutex_lock(&lock);
    note(&call->record, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = saved_errno;
    return result;
}

static bool fails(const Call *call)
{
    if (call->action == ERROR) {
        errno = call->value;
    }
    return call->action == ERROR;
}

#define DO(call, operation) end(&(call), fails(&(call)) ? -1 : (operation))

/* --- reads and writes --- */

/* Direct I/O is cut at blocks, as storage does it. */
static size_t allowed(const Call *call, int fd, size_t length)
{
    size_t unit = REAL(fcntl)(fd, F_GETFL) & O_DIRECT ? 4096 : 1;

    if (call->action != SHORT || length < 2 * unit) {
        return length;
    }
    return length / 2 / unit * unit;
}

static size_t iov_bytes(const struct iovec *iov, int n)
{
    size_t length = 0;

    for (int i = 0; i < n; i++) {
        length += iov[i].iov_len;
    }
    return length;
}

/* Returns: how many entries of @iov are needed for @length bytes */
static int cut_iov(struct iovec *iov, int n, size_t length)
{
    int i;

    for (i = 0; i < n && length; i++) {
        if (iov[i].iov_len > length) {
            iov[i].iov_len = length;
        }
        length -= iov[i].iov_len;
    }
    return i;
}

static void begin_transfer(Call *call, enum Kind kind, int fd,
                           const struct iovec *iov, int n, int64_t offset)
{
    if (offset < 0) {
        offset = REAL(lseek)(fd, 0, SEEK_CUR);
    }
    call->record.inode = inode_of(fd);
    call->record.offset = offset;
    call->record.length = iov_bytes(iov, n);
    call->record.data_length = kind == K_WRITE ? call->record.length : 0;
    begin_data(call, kind, NULL, NULL, iov, n);
}

static ssize_t linear(enum Kind kind, int fd, void *buf, size_t length,
                      off_t offset, bool at)
{
    struct iovec iov = { .iov_base = buf, .iov_len = length };
    bool ours = fd_is_ours(fd);
    Call call = { };
    ssize_t ret;

    if (ours) {
        begin_transfer(&call, kind, fd, &iov, 1, at ? offset : -1);
        length = allowed(&call, fd, length);
        if (fails(&call)) {
            return end(&call, -1);
        }
    }
    if (at) {
        ret = kind == K_WRITE ? REAL(pwrite)(fd, buf, length, offset) :
                                REAL(pread)(fd, buf, length, offset);
    } else {
        ret = kind == K_WRITE ? REAL(write)(fd, buf, length) :
                                REAL(read)(fd, buf, length);
    }
    return ours ? end(&call, ret) : ret;
}

static ssize_t vector(enum Kind kind, int fd, const struct iovec *iov, int n,
                      off_t offset, int flags)
{
    struct iovec copy[IOV_MAX];
    Call call = { };
    ssize_t ret;

    if (!fd_is_ours(fd)) {
        return kind == K_WRITE ? REAL(pwritev2)(fd, iov, n, offset, flags) :
                                 REAL(preadv2)(fd, iov, n, offset, flags);
    }
    begin_transfer(&call, kind, fd, iov, n, offset);
    if (fails(&call)) {
        return end(&call, -1);
    }
    memcpy(copy, iov, n * sizeof(*iov));
    n = cut_iov(copy, n, allowed(&call, fd, call.record.length));
    ret = kind == K_WRITE ? REAL(pwritev2)(fd, copy, n, offset, flags) :
                            REAL(preadv2)(fd, copy, n, offset, flags);
    return end(&call, ret);
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t offset)
{
    return linear(K_WRITE, fd, (void *)buf, n, offset, true);
}

ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
    return linear(K_WRITE, fd, (void *)buf, n, offset, true);
}

ssize_t write(int fd, const void *buf, size_t n)
{
    return linear(K_WRITE, fd, (void *)buf, n, 0, false);
}

ssize_t pread(int fd, void *buf, size_t n, off_t offset)
{
    return linear(K_READ, fd, buf, n, offset, true);
}

ssize_t pread64(int fd, void *buf, size_t n, off64_t offset)
{
    return linear(K_READ, fd, buf, n, offset, true);
}

ssize_t read(int fd, void *buf, size_t n)
{
    return linear(K_READ, fd, buf, n, 0, false);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    return vector(K_WRITE, fd, iov, n, offset, 0);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    return vector(K_WRITE, fd, iov, n, offset, 0);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
    return vector(K_WRITE, fd, iov, n, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset,
                    int flags)
{
    return vector(K_WRITE, fd, iov, n, offset, flags);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    return vector(K_WRITE, fd, iov, n, -1, 0);
}

ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
    return vector(K_READ, fd, iov, n, offset, 0);
}

ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    return vector(K_READ, fd, iov, n, offset, 0);
}

ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset,
                int flags)
{
    return vector(K_READ, fd, iov, n, offset, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t offset,
                   int flags)
{
    return vector(K_READ, fd, iov, n, offset, flags);
}

ssize_t readv(int fd, const struct iovec *iov, int n)
{
    return vector(K_READ, fd, iov, n, -1, 0);
}

/* Whoever copies within the kernel has to do without, so that all is seen. */
ssize_t copy_file_range(int in, off64_t *in_offset, int out,
                        off64_t *out_offset, size_t n, unsigned int flags)
{
    if (fd_is_ours(in) || fd_is_ours(out)) {
        errno = ENOSYS;
        return -1;
    }
    return REAL(copy_file_range)(in, in_offset, out, out_offset, n, flags);
}

/* --- flushes --- */

static int flush(int fd, bool data_only)
{
    Call call = { };
    bool ours = fd_is_ours(fd);
    int ret = 0;

    if (ours) {
        call.record.inode = inode_of(fd);
        begin(&call, K_FLUSH, NULL, NULL);
        if (fails(&call)) {
            return end(&call, -1);
        }
    }
    if (!ours || !storage.no_sync) {
        ret = data_only ? REAL(fdatasync)(fd) : REAL(fsync)(fd);
    }
    return ours ? end(&call, ret) : ret;
}

int fdatasync(int fd)
{
    return flush(fd, true);
}

int fsync(int fd)
{
    return flush(fd, false);
}

/* --- names, lengths, attributes --- */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    Call call = { };
    int fd = -1;

    if (!name_is_ours(path)) {
        return REAL(openat)(dir, path, flags, mode);
    }
    call.record.flags = flags;
    begin(&call, K_OPEN, path, NULL);
    if (!fails(&call)) {
        fd = REAL(openat)(dir, path, flags, mode);
    }
    call.record.inode = inode_of(fd);
    return end(&call, fd);
}

static mode_t mode_argument(int flags, va_list args)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

#define OPEN(name)                                                           \
int name(const char *path, int flags, ...)                                   \
{                                                                            \
    va_list args;                                                            \
    mode_t mode;                                                             \
                                                                             \
    va_start(args, flags);                                                   \
    mode = mode_argument(flags, args);                                       \
    va_end(args);                                                            \
    return open_at(AT_FDCWD, path, flags, mode);                             \
}

#define OPENAT(name)                                                         \
int name(int dir, const char *path, int flags, ...)                          \
{                                                                            \
    va_list args;                                                            \
    mode_t mode;                                                             \
                                                                             \
    va_start(args, flags);                                                   \
    mode = mode_argument(flags, args);                                       \
    va_end(args);                                                            \
    return open_at(dir, path, flags, mode);                                  \
}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What is closed is closed, even if that says otherwise. */
int close(int fd)
{
    Call call = { };
    int ret;

    if (!fd_is_ours(fd)) {
        return REAL(close)(fd);
    }
    call.record.inode = inode_of(fd);
    begin(&call, K_CLOSE, NULL, NULL);
    ret = REAL(close)(fd);
    return end(&call, fails(&call) ? -1 : ret);
}

static int truncate_fd(int fd, off_t length)
{
    Call call = { };

    if (!fd_is_ours(fd)) {
        return REAL(ftruncate)(fd, length);
    }
    call.record.inode = inode_of(fd);
    call.record.length = length;
    begin(&call, K_TRUNCATE, NULL, NULL);
    return DO(call, REAL(ftruncate)(fd, length));
}

int ftruncate(int fd, off_t length)
{
    return truncate_fd(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
    return truncate_fd(fd, length);
}

static int allocate(int fd, int mode, off_t offset, off_t length)
{
    Call call = { };

    if (!fd_is_ours(fd)) {
        return REAL(fallocate)(fd, mode, offset, length);
    }
    call.record.inode = inode_of(fd);
    call.record.offset = offset;
    call.record.length = length;
    call.record.flags = mode;
    begin(&call, K_FALLOCATE, NULL, NULL);
    return DO(call, REAL(fallocate)(fd, mode, offset, length));
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    return allocate(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    return allocate(fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return allocate(fd, 0, offset, length) < 0 ? errno : 0;
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    return allocate(fd, 0, offset, length) < 0 ? errno : 0;
}

int linkat(int from_dir, const char *from, int to_dir, const char *to,
           int flags)
{
    Call call = { };

    if (!name_is_ours(to)) {
        return REAL(linkat)(from_dir, from, to_dir, to, flags);
    }
    call.record.inode = inode_at(from);
    begin(&call, K_LINK, from, to);
    return DO(call, REAL(linkat)(from_dir, from, to_dir, to, flags));
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to,
              unsigned int flags)
{
    Call call = { };

    if (!name_is_ours(from) && !name_is_ours(to)) {
        return REAL(renameat2)(from_dir, from, to_dir, to, flags);
    }
    call.record.flags = flags;
    begin(&call, K_RENAME, from, to);
    if (flags && storage.no_flags && !fails(&call)) {
        errno = EINVAL;
        return end(&call, -1);
    }
    return DO(call, REAL(renameat2)(from_dir, from, to_dir, to, flags));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return renameat2(from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int dir, const char *path, int flags)
{
    Call call = { };

    if (!name_is_ours(path)) {
        return REAL(unlinkat)(dir, path, flags);
    }
    begin(&call, K_UNLINK, path, NULL);
    return DO(call, REAL(unlinkat)(dir, path, flags));
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

/* Where the C library has no renameat2(2) */
long syscall(long number, ...)
{
    long arg[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++) {
        arg[i] = va_arg(args, long);
    }
    va_end(args);
    if (number == SYS_renameat2) {
        return renameat2(arg[0], (const char *)arg[1], arg[2],
                         (const char *)arg[3], arg[4]);
    }
    return REAL(syscall)(number, arg[0], arg[1], arg[2], arg[3], arg[4],
                         arg[5]);
}

/* An operation on a descriptor, of which no more than its kind is noted. */
#define ON_FD(kind, type, name, params, ...)                                 \
type name params                                                             \
{                                                                            \
    Call call = { };                                                         \
                                                                             \
    if (!fd_is_ours(fd)) {                                                   \
        return REAL(name)(__VA_ARGS__);                                      \
    }                                                                        \
    call.record.inode = inode_of(fd);                                        \
    begin(&call, kind, #name, NULL);                                         \
    return DO(call, REAL(name)(__VA_ARGS__));                                \
}

/* ... and one on a name */
#define ON_NAME(kind, type, name, params, ...)                               \
type name params                                                             \
{                                                                            \
    Call call = { };                                                         \
                                                                             \
    if (!name_is_ours(path)) {                                               \
        return REAL(name)(__VA_ARGS__);                                      \
    }                                                                        \
    begin(&call, kind, #name, path);                                         \
    return DO(call, REAL(name)(__VA_ARGS__));                                \
}

ON_FD(K_MODE, int, fchmod, (int fd, mode_t mode), fd, mode)
ON_FD(K_MODE, int, fchown, (int fd, uid_t user, gid_t group), fd, user, group)
ON_FD(K_MODE, int, fsetxattr, (int fd, const char *name, const void *value,
                               size_t size, int flags),
      fd, name, value, size, flags)
ON_FD(K_MODE, int, fremovexattr, (int fd, const char *name), fd, name)
ON_NAME(K_LOOK, ssize_t, lgetxattr, (const char *path, const char *name,
                                     void *value, size_t size),
        path, name, value, size)

ON_FD(K_LOOK, int, fstat, (int fd, struct stat *st), fd, st)
ON_FD(K_LOOK, int, fstat64, (int fd, struct stat64 *st), fd, st)
ON_FD(K_LOOK, int, fstatfs, (int fd, struct statfs *st), fd, st)
ON_FD(K_LOOK, int, fstatfs64, (int fd, struct statfs64 *st), fd, st)
ON_FD(K_LOOK, off_t, lseek, (int fd, off_t offset, int whence),
      fd, offset, whence)
ON_FD(K_LOOK, off64_t, lseek64, (int fd, off64_t offset, int whence),
      fd, offset, whence)
ON_NAME(K_LOOK, int, stat, (const char *path, struct stat *st), path, st)
ON_NAME(K_LOOK, int, stat64, (const char *path, struct stat64 *st), path, st)
ON_NAME(K_LOOK, int, lstat, (const char *path, struct stat *st), path, st)
ON_NAME(K_LOOK, int, lstat64, (const char *path, struct stat64 *st), path, st)

static bool is_lock(int command)
{
    return command == F_OFD_SETLK || command == F_OFD_GETLK ||
           command == F_SETLK || command == F_GETLK;
}

static int control(int fd, int command, void *arg)
{
    Call call = { };

    if (!is_lock(command) || !fd_is_ours(fd)) {
        return REAL(fcntl)(fd, command, arg);
    }
    call.record.inode = inode_of(fd);
    begin(&call, K_LOOK, "fcntl", NULL);
    return DO(call, REAL(fcntl)(fd, command, arg));
}

#define FCNTL(name)                                                          \
int name(int fd, int command, ...)                                           \
{                                                                            \
    va_list args;                                                            \
    void *arg;                                                               \
                                                                             \
    va_start(args, command);                                                 \
    arg = va_arg(args, void *);                                              \
    va_end(args);                                                            \
    return control(fd, command, arg);                                        \
}

FCNTL(fcntl)
FCNTL(fcntl64)

int ioctl(int fd, unsigned long request, ...)
{
    Call call = { };
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    if (!fd_is_ours(fd)) {
        return REAL(ioctl)(fd, request, arg);
    }
    call.record.inode = inode_of(fd);
    begin(&call, K_LOOK, "ioctl", NULL);
    return DO(call, REAL(ioctl)(fd, request, arg));
}
