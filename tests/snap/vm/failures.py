#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Failures: the source knows, its guest runs on, nothing is lost or left.
#

import os
import signal
import unittest

from snaptest import TIMEOUT
from snaptest.faults.preload import build_library
from snaptest.units import MIB, PAGE
from snaptest.vm.failure import FailureTest
from snaptest.vm.machine import Probe
from snaptest.vm.ram import Ram
from snaptest.waiting import is_listening, wait_until

RAM_START = 2 * MIB             # of the first block, in an image

# Makes flushes slow, once RAM has been written, and says when one begins.
SLOW_FLUSH = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int slow(const char *name, int fd)
{
    int (*flush)(int) = dlsym(RTLD_NEXT, name);
    struct stat st;

    if (fstat(fd, &st) == 0 &&
        (S_ISDIR(st.st_mode) || st.st_blocks > (8 << 20) / 512)) {
        FILE *log = fopen(getenv("SLOW_FLUSH_LOG"), "a");

        fprintf(log, "%d\n", getpid());
        fclose(log);
        sleep(DELAY);
    }
    return flush(fd);
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
'''
DELAY = 2


class FailingDisk(FailureTest):
    """What a failing disk does to a save into an existing image."""

    def setUp(self):
        super().setUp()
        self.img('create', '-f', 'qcow2', self.image, '256M')

    def blkdebug(self, driver, *rules):
        return ('-n', '--image-opts'), ','.join([
            f'driver={driver},file.driver=blkdebug,file.image.driver=file',
            f'file.image.filename={self.image}',
            *(f'file.{rule}' for rule in rules)])

    def nth_flush(self, n):
        """The n-th flush fails, if there is one."""
        def rule(kind, i, state, action):
            return (f'{kind}.{i}.event=flush_to_disk',
                    f'{kind}.{i}.state={state}', f'{kind}.{i}.{action}')
        return self.blkdebug(
            'qcow2', *rule('inject-error', 0, n, 'iotype=flush'),
            *(r for i in range(1, n)
              for r in rule('set-state', i - 1, i, f'new_state={i + 1}')))

    def each_flush(self, *caps):
        for n in range(1, 20):
            options, image = self.nth_flush(n)
            self.start_save(*options, image=image, caps=caps)
            status = self.src.wait_migration('completed', 'failed')['status']
            self.assertEqual(status, self.report()['status'],
                             f'flush {n}: {self.report()}')
            if status == 'completed':
                break
            self.assert_failed('Input/output error')
            self.assert_no_snapshot(self.image, f'flush {n}')
        else:
            self.fail('a save has no 20 flushes')
        # To invalidate, before the header, and after it
        self.assertGreater(n, 3)

    def test_each_failed_flush_fails_background_save(self):
        self.each_flush('background-snapshot')
        self.assert_runs_on()
        self.assert_loads(self.image)

    def test_each_failed_flush_fails_live_save(self):
        self.each_flush()
        self.assertEqual(self.src.status(), 'postmigrate')
        self.assert_loads(self.image)

    def test_each_failed_flush_fails_return_path_save(self):
        self.each_flush('return-path')
        self.assertEqual(self.src.status(), 'postmigrate')
        self.assert_loads(self.image)

    def write_error(self, errno, words, *caps):
        """A write fails, of the last page of RAM."""
        self.img('create', '-f', 'raw', self.image, '256M')
        ram = self.src.ram
        ram.write(ram.size - PAGE, b'last' * (PAGE // 4))
        sector = (RAM_START + ram.size - PAGE) // 512
        options, image = self.blkdebug(
            'raw', 'inject-error.0.event=none', 'inject-error.0.iotype=write',
            f'inject-error.0.sector={sector}', f'inject-error.0.errno={errno}',
            'inject-error.0.once=off')
        self.start_save(*options, image=image, caps=caps)
        self.assert_failed(words)
        self.assert_no_snapshot(self.image)

    def test_write_error_fails_background_save(self):
        self.write_error(5, 'Input/output error', 'background-snapshot')

    def test_write_error_fails_live_save(self):
        self.write_error(5, 'Input/output error')

    def test_write_error_fails_return_path_save(self):
        self.write_error(5, 'Input/output error', 'return-path')

    def test_full_disk_fails_background_save(self):
        self.write_error(28, 'No space left', 'background-snapshot')

    def test_exit_status_tells_of_failed_flush_over_unix(self):
        options, image = self.nth_flush(2)
        path = self.path('socket')
        tool = self.start(self.command('save', image, *options,
                                       f'--uri=unix:{path}'))
        self.src.wait_until(lambda: is_listening(path))
        self.src.migrate(f'unix:{path}', 'background-snapshot')
        err = self.finish(tool, 1)
        self.assertIn('Input/output error', err)
        self.assertEqual(self.report()['status'], 'failed')
        self.src.wait_migration('completed', 'failed')
        self.assert_runs_on()
        self.assert_no_snapshot(self.image)


class FailedSave(FailureTest):
    """What becomes of FILE: all of the new snapshot, or what was there."""

    # A file may grow to 20 MiB; the signal is left out, as on a full disk.
    TOO_LARGE = f"trap '' XFSZ; ulimit -f {20 * MIB // 512}; "

    def setUp(self):
        super().setUp()
        self.flushes = self.path('flushes')
        self.shim = build_library(self.dir, 'slow-flush', SLOW_FLUSH,
                                  f'-DDELAY={DELAY}')

    def slow_flush(self):
        """The prefix of a command whose flushes are slow."""
        if os.path.exists(self.flushes):
            os.unlink(self.flushes)
        return f'SLOW_FLUSH_LOG={self.flushes} LD_PRELOAD={self.shim} '

    def flushing(self):
        """Wait for a flush to begin, and return whose it is."""
        def first():
            try:
                with open(self.flushes, encoding='ascii') as f:
                    return f.readline()
            except FileNotFoundError:
                return ''
        return int(self.src.wait_until(first))

    def save_old(self):
        """Let FILE be a snapshot, of which this is the contents."""
        self.save(self.src, self.image, caps=['background-snapshot'])
        return Ram.existing(self.image).digest()

    def assert_only(self, *names):
        self.assertEqual(sorted(os.listdir(self.home)), sorted(names))

    def assert_old(self, old):
        self.assertEqual(Ram.existing(self.image).digest(), old)

    def test_background_save_too_large_leaves_nothing(self):
        self.start_save(prefix=self.TOO_LARGE)
        self.assert_failed('File too large')
        self.assert_only()

    def test_live_save_too_large_leaves_nothing(self):
        self.start_save(prefix=self.TOO_LARGE, caps=())
        self.assert_failed('File too large')
        self.assert_only()

    def test_save_too_large_leaves_only_old_file(self):
        old = self.save_old()
        self.start_save(prefix=self.TOO_LARGE)
        self.assert_failed('File too large')
        self.assert_only('image')
        self.assert_old(old)

    def test_kill_during_flush_keeps_old_file(self):
        """kill -9 when all but the last is written."""
        old = self.save_old()
        self.start_save('--aio=threads', prefix=self.slow_flush())
        os.kill(self.flushing(), signal.SIGKILL)
        self.src.wait_migration('failed')
        self.assert_runs_on()
        self.assert_old(old)
        # The next save neither trips over what was left nor leaves it.
        self.save(self.src, self.image, caps=['background-snapshot'])
        self.assert_loads(self.image)

    def test_sigterm_during_flush_leaves_only_old_file(self):
        old = self.save_old()
        self.start_save('--aio=threads', prefix=self.slow_flush())
        os.kill(self.flushing(), signal.SIGTERM)
        self.assert_failed()
        self.assert_only('image')
        self.assert_old(old)

    def test_cancelled_save_leaves_only_old_file(self):
        old = self.save_old()
        self.start_save('--aio=threads', prefix=self.slow_flush())
        self.flushing()
        self.src.cmd('migrate_cancel')
        self.src.wait_migration('cancelled')
        self.assertEqual(self.report()['status'], 'failed')
        self.assert_runs_on()
        self.assert_only('image')
        self.assert_old(old)

    def cancelled_with_return_path(self) -> str:
        """In the middle of RAM; what the tool says of it"""
        old = self.save_old()
        self.src.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'background-snapshot', 'state': False}])
        self.src.migrate(self.exec_uri(self.command('save', self.image)),
                         'return-path', bandwidth=4 * MIB)
        self.src.wait_until(lambda: self.src.pages_sent() > 500)
        self.src.cmd('migrate_cancel')
        self.src.wait_migration('cancelled')
        report = self.report()
        self.assertEqual(report['status'], 'failed')
        self.assert_runs_on()
        self.assert_only('image')
        self.assert_old(old)
        return report['error']

    def notices_cancellation(self):
        """QEMU waits for the tool, mostly, which notices."""
        try:
            with open(f'/proc/{self.src.get_pid()}/syscall', encoding='ascii'):
                pass
        except PermissionError:
            self.skipTest('what QEMU waits for may not be looked at')
        self.assertRegex(self.cancelled_with_return_path(),
                         'has given up|ends too early')

    def replace_source(self, machine, version):
        self.src.kill()
        self.src = self.source(machine, version=version, run=True,
                               mib=self.MIB)

    def test_cancelled_return_path_save_leaves_only_old_file(self):
        self.notices_cancellation()

    def test_cancelled_return_path_save_leaves_only_old_file_10_0(self):
        self.replace_source('pc-q35-10.0', '10.0')
        self.notices_cancellation()

    def test_cancelled_return_path_save_leaves_only_old_file_7_2(self):
        self.replace_source('pc-q35-7.2', '7.2')
        self.cancelled_with_return_path()

    def test_killed_source_leaves_only_old_file(self):
        old = self.save_old()
        self.start_save('--aio=threads', prefix=self.slow_flush())
        self.flushing()
        os.kill(self.src.get_pid(), signal.SIGKILL)
        self.assertEqual(self.report()['status'], 'failed')
        self.assert_only('image')
        self.assert_old(old)

    def slow(self, *caps):
        with Probe(self.src) as probe:
            self.start_save('--aio=threads', prefix=self.slow_flush(),
                            caps=caps)
            self.src.wait_migration()
            self.assert_completed('save')
        with open(self.flushes, encoding='ascii') as f:
            flushes = len(f.readlines())
        print(f'longest of {probe.count} QMP commands: {probe.longest:.2f} s, '
              f'with {flushes} flushes of {DELAY} s')
        self.assertGreater(flushes, 1)
        self.assertLess(probe.longest, 0.75 * DELAY)
        self.assert_loads(self.image)

    def test_monitor_answers_during_slow_flush(self):
        self.slow('background-snapshot')
        self.assert_runs_on()

    def test_monitor_answers_during_slow_flush_with_return_path(self):
        self.slow('return-path')


class FailedLoad(FailureTest):
    """A load that fails ends the emulator that waited for it."""

    def setUp(self):
        super().setUp()
        self.save(self.src, self.image, '-O', 'raw',
                  caps=['background-snapshot'])

    def assert_refused(self, image, *words):
        dst = self.destination(self.src)
        dst.incoming(self.exec_uri(self.command('load', image)))
        wait_until(lambda: dst.exitcode() is not None, TIMEOUT)
        self.assertNotEqual(dst.exitcode(), 0)
        self.assertEqual(self.report()['status'], 'failed')
        for word in (image, *words):
            self.assertIn(word, dst.log())

    def test_missing_image_fails_load(self):
        os.unlink(self.image)
        self.assert_refused(self.image, 'No such file')

    def test_corrupt_page_fails_load(self):
        """One bit of the last page that is not zero."""
        ram = self.src.ram
        offset = next(p for p in range(ram.size - PAGE, 0, -PAGE)
                      if any(ram.read(p, PAGE)))
        with open(self.image, 'r+b') as f:
            f.seek(RAM_START + offset + 8)
            byte = f.read(1)[0]
            f.seek(RAM_START + offset + 8)
            f.write(bytes([byte ^ 1]))
        self.assert_refused(self.image)

    def test_page_lost_to_zeroes_fails_load(self):
        with open(self.image, 'r+b') as f:
            f.seek(RAM_START + self.src.loop.end)
            f.write(bytes(PAGE))
        self.assert_refused(self.image)

    def test_truncated_image_fails_load(self):
        os.truncate(self.image, RAM_START + self.src.ram.size // 2)
        self.assert_refused(self.image)

    def test_image_without_header_fails_load(self):
        with open(self.image, 'r+b') as f:
            f.write(bytes(4096))
        self.assert_refused(self.image)


if __name__ == '__main__':
    unittest.main(verbosity=2)
