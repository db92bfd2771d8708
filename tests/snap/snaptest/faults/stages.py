# SPDX-License-Identifier: GPL-2.0-or-later
#
# A command that is held, or fails, at a known stage of its work
#
"""
Let the tool stop where it is about to do something for the n-th time:

    stages = Stages(directory, home)
    ... start stages.prefix('fdatasync', 2) + command ...
    if stages.held(ended):      # until it is there, or ended() is true
        ...                     # kill something
    stages.release()

With an errno, that step fails instead, or that one and all further ones.  What
was done is in stages.log(), step by step.  It takes --aio=threads, or the
kernel does the work.
"""

import fcntl
import os

from snaptest import TIMEOUT
from snaptest.faults.preload import build_library
from snaptest.waiting import wait_until


READS = ('preadv64', 'pread64')

SHIM = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int inside(const char *path)
{
    const char *home = getenv("STAGES_HOME");

    return strncmp(path, home, strlen(home)) == 0;
}

static int inside_fd(int fd)
{
    char link[64], path[4096] = "";

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof(path) - 1) > 0 && inside(path);
}

static void note(const char *name, int n)
{
    int fd = open(getenv("STAGES_LOG"), O_WRONLY | O_APPEND);
    char line[64];
    int length = snprintf(line, sizeof(line), "%s %d\n", name, n);

    if (write(fd, line, length) < 0) {
        abort();
    }
    close(fd);
}

/* Somebody has locked the file, and unlocks it. */
static void hold(void)
{
    int fd = open(getenv("STAGES_LOG"), O_RDONLY);

    flock(fd, LOCK_SH);
    close(fd);
}

static int step(const char *name, int n)
{
    int at = atoi(getenv("STAGES_AT"));
    int number = atoi(getenv("STAGES_ERRNO"));
    int always = atoi(getenv("STAGES_ALWAYS"));

    note(name, n);
    if (strcmp(name, getenv("STAGES_STEP")) || n < at || (n > at && !always)) {
        return 0;
    }
    if (!number) {
        hold();
        return 0;
    }
    errno = number;
    return -1;
}

#define REPLACE(type, name, counts, params, ...)                        \
    type name params                                                    \
    {                                                                   \
        static atomic_int nth;                                          \
        type (*real) params = dlsym(RTLD_NEXT, #name);                  \
                                                                        \
        return counts && step(#name, ++nth) < 0 ?                       \
               -1 : real(__VA_ARGS__);                                  \
    }

REPLACE(ssize_t, pwritev64, inside_fd(fd),
        (int fd, const struct iovec *iov, int n, off64_t at), fd, iov, n, at)
REPLACE(ssize_t, pwrite64, inside_fd(fd),
        (int fd, const void *buf, size_t size, off64_t at), fd, buf, size, at)
REPLACE(ssize_t, preadv64, inside_fd(fd),
        (int fd, const struct iovec *iov, int n, off64_t at), fd, iov, n, at)
REPLACE(ssize_t, pread64, inside_fd(fd),
        (int fd, void *buf, size_t size, off64_t at), fd, buf, size, at)
REPLACE(int, fdatasync, inside_fd(fd), (int fd), fd)
REPLACE(int, fsync, inside_fd(fd), (int fd), fd)
REPLACE(int, ftruncate64, inside_fd(fd), (int fd, off64_t size), fd, size)
REPLACE(int, fallocate64, inside_fd(fd),
        (int fd, int mode, off64_t at, off64_t size), fd, mode, at, size)
REPLACE(int, renameat2, inside(to),
        (int fd, const char *from, int to_fd, const char *to,
         unsigned int flags), fd, from, to_fd, to, flags)
REPLACE(int, rename, inside(to), (const char *from, const char *to), from, to)
REPLACE(int, link, inside(to), (const char *from, const char *to), from, to)
REPLACE(int, unlink, inside(path), (const char *path), path)
'''


class Stages:
    """
    @directory: where the library may be built
    @home: the absolute path of what is watched, and all below
    """

    def __init__(self, directory: str, home: str):
        self.home = os.path.realpath(home)
        self.shim = build_library(directory, 'stages', SHIM)
        self.path = os.path.join(directory, 'stages.log')
        self.step, self.lock = ('', 0), None

    def prefix(self, name: str = '', n: int = 0, error: int = 0,
               always: bool = False) -> list[str]:
        """What to put before a command, which need not come to that step."""
        self.release()
        self.step = name, n
        with open(self.path, 'wb') as f:
            self.lock = os.dup(f.fileno())
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        variables = {
            'STAGES_HOME': self.home, 'STAGES_LOG': self.path,
            'STAGES_STEP': name, 'STAGES_AT': n, 'STAGES_ERRNO': error,
            'STAGES_ALWAYS': int(always), 'LD_PRELOAD': self.shim}
        return ['env', *(f'{k}={v}' for k, v in variables.items())]

    def held(self, ended, number: int = 1) -> bool:
        """
        Wait until @number commands are held, or @ended(), and return whether
        they are.
        """
        def there():
            return self.log(reads=True).count(self.step) >= number
        wait_until(lambda: there() or ended(), TIMEOUT)
        return there()

    def release(self):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def log(self, reads: bool = False) -> list[tuple[str, int]]:
        """The steps so far: which one, and how often it has come by then"""
        with open(self.path, encoding='ascii') as f:
            return [(name, int(n)) for name, n in map(str.split, f)
                    if reads or name not in READS]
