#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the tool chooses if the user does not: cache and AIO modes, and when to
# flush.
#

import json
import os
import re
import subprocess
import unittest

from snaptest import TIMEOUT, env
from snaptest.faults.preload import build_library
from snaptest.tool import ToolTest, sample
from snaptest.units import MIB

# A file system without direct I/O, and a log of what reaches one.
SHIM = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int shim_open(const char *symbol, const char *path, int flags, int mode)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, symbol);

    if ((flags & O_DIRECT) && getenv("SHIM_NO_DIRECT")) {
        errno = EINVAL;
        return -1;
    }
    return real(path, flags, mode);
}

#define OPEN(name)                                          \
int name(const char *path, int flags, ...)                  \
{                                                           \
    va_list ap;                                             \
    int mode;                                               \
                                                            \
    va_start(ap, flags);                                    \
    mode = va_arg(ap, int);                                 \
    va_end(ap);                                             \
    return shim_open(#name, path, flags, mode);             \
}
OPEN(open)
OPEN(open64)

/* Flushes of files that have a name */
int fdatasync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    char *log = getenv("SHIM_LOG");
    struct stat st;

    if (log && fstat(fd, &st) == 0 && st.st_nlink) {
        FILE *f = fopen(log, "a");

        fputs("flush\n", f);
        fclose(f);
    }
    return real(fd);
}
'''


class CacheModes(ToolTest):

    def setUp(self):
        super().setUp()
        self.shim = build_library(self.dir, 'shim', SHIM)
        self.data = sample([('pc.ram', 8 * MIB)]).build()

    def traced(self, *args: str, stdin: bytes = b'', **environ: str):
        """Run it; the modes that it opened the image with."""
        result = subprocess.run(
            [env('QEMU_SNAP'), '-T', 'snap_open', *args], input=stdin,
            capture_output=True, timeout=TIMEOUT, check=False,
            env=dict(os.environ, LD_PRELOAD=self.shim, **environ))
        error = result.stderr.decode()
        self.assertEqual(result.returncode, 0, error)
        return re.findall(r'snap_open cache (\S+) aio (\S*)', error)

    def drop_cache(self):
        fd = os.open(self.image, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def test_save_uses_direct_io_by_default(self):
        self.assertEqual(self.traced('save', self.image, stdin=self.data),
                         [('none', '')])
        self.assert_same_stream(self.data, self.load())

    def test_default_falls_back_without_direct_io(self):
        no_direct = {'SHIM_NO_DIRECT': '1'}
        self.assertEqual(self.traced('save', self.image, stdin=self.data,
                                     **no_direct), [('writeback', '')])
        self.assert_same_stream(self.data, self.load())
        self.drop_cache()
        modes = self.traced('check', self.image, **no_direct)
        self.assertEqual(modes[-1][0], 'writeback')

    def test_mode_that_was_asked_for_is_not_replaced(self):
        result = self.tool('save', '--cache=none', self.image, stdin=self.data,
                           env=dict(os.environ, LD_PRELOAD=self.shim,
                                    SHIM_NO_DIRECT='1'))
        self.assertEqual(result.returncode, 1)
        self.assertFalse(os.path.exists(self.image))

    def test_check_reads_directly_what_is_not_cached(self):
        self.save(self.data)
        self.drop_cache()
        self.assertEqual(self.traced('check', self.image)[-1][0], 'none')
        with open(self.image, 'rb') as f:
            f.read()
        self.assertEqual(self.traced('check', self.image)[-1],
                         ('writeback', ''))

    def test_mode_that_is_given_is_used(self):
        for cache in ('none', 'writeback', 'writethrough', 'directsync',
                      'unsafe'):
            modes = self.traced('save', f'--cache={cache}', self.image,
                                stdin=self.data)
            self.assertEqual(modes, [(cache, '')])
            self.assert_same_stream(self.data, self.load())

    def test_new_file_is_as_long_as_its_content(self):
        for mib in (1, 8, 200):
            data = sample([('pc.ram', mib * MIB)]).build()
            self.save(data)
            check = json.loads(self.img('check', '--output=json',
                                        self.image).stdout)
            st = os.stat(self.image)
            self.assertEqual(st.st_size, check['image-end-offset'])
            self.assertLess(st.st_blocks * 512, st.st_size + MIB)

    def flushes(self, *options: str) -> int:
        """How often a save of 2 GiB, nearly all of it never sent, does so."""
        log = self.path('log')
        builder = sample([('pc.ram', MIB)])
        builder.blocks[0] = ('pc.ram', 2048 * MIB, 0)
        for offset in range(0, 2048 * MIB, 64 * MIB):
            builder.page('pc.ram', offset, b'\xaa' * 4096)
        self.traced('save', self.image, *options, stdin=builder.build(),
                    SHIM_LOG=log)
        with open(log, encoding='ascii') as f:
            count = len(f.readlines())
        os.unlink(log)
        self.succeeds('check', self.image)
        return count

    def test_save_flushes_three_times(self):
        """Of RAM, of everything, of the header: no others make anyone wait."""
        self.assertEqual(self.flushes(), 3)
        self.assertEqual(self.flushes('--cache=writeback'), 3)
        # Creation options may need it
        self.assertGreaterEqual(self.flushes('-o', 'cluster_size=64k'), 3)


if __name__ == '__main__':
    unittest.main(verbosity=2)
