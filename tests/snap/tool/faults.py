#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves that are disturbed: the FILE that is there outlives all of it.
#

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
import unittest

from snaptest import TIMEOUT, env
from snaptest.faults.preload import build_library
from snaptest.peers.streams import CONTINUE, PART, RAM_ID, ZERO, name8
from snaptest.sanitizers import is_sanitized
from snaptest.tool import ToolTest, memory_limit, pattern, sample, small
from snaptest.units import MIB, PAGE

NOBODY = 65534

# A save flushes four times: so every part of it takes its time.
SLOW_FLUSH = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

int fdatasync(int fd)
{
    int (*flush)(int) = dlsym(RTLD_NEXT, "fdatasync");

    usleep(300000);
    return flush(fd);
}
'''


class SaveTest(ToolTest):
    """With an old snapshot, and the stream of a new one"""

    def setUp(self):
        super().setUp()
        self.old = sample([('old', 65536)]).build()
        self.new = sample([('new', 2 * MIB)]).build()
        self.save(self.old)

    def begin(self, *options: str, image: str | None = None,
              **kwargs) -> subprocess.Popen:
        """A save that has got half of the stream, and waits"""
        process = self.start('save', *options, image or self.image, **kwargs)
        process.stdin.write(self.new[:len(self.new) // 2])
        process.stdin.flush()
        self.wait_for(lambda: self.is_open(process), 'open image')
        return process

    def is_open(self, process) -> bool:
        """Whether the process has some file in the directory"""
        fds = f'/proc/{process.pid}/fd'
        for fd in os.listdir(fds):
            # What is listed may be closed by now
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f'{fds}/{fd}').startswith(self.dir):
                    return True
        return False

    def end(self, process, data: bytes = b'', status: int = 0) -> str:
        out, err = process.communicate(data, TIMEOUT)
        self.assertEqual((process.returncode, out), (status, b''), err)
        self.assertEqual(err.count(b'\n'), 1 if status else 0, err)
        return err.decode()

    def assert_old(self):
        self.assert_same_stream(self.old, self.load())

    def assert_new(self):
        self.assert_same_stream(self.new, self.load())


class Interrupted(SaveTest):

    def interrupted(self, process, number: int = signal.SIGTERM) -> str:
        """A signal ends it, and its stdin has nothing to do with that."""
        process.send_signal(number)
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(process.stdout.read(), b'')
        error = process.stderr.read().decode()
        self.assertEqual(error.count('\n'), 1, error)
        return error

    def handles(self, process, number: int) -> bool:
        """Whether the process reads the signal from a descriptor."""
        fds = f'/proc/{process.pid}/fdinfo'
        for fd in os.listdir(fds):
            # What is listed may be closed by now
            with contextlib.suppress(FileNotFoundError), \
                    open(f'{fds}/{fd}', encoding='ascii') as f:
                mask = re.search(r'^sigmask:\s*(\w+)$', f.read(), re.MULTILINE)
                if mask and int(mask[1], 16) & 1 << number - 1:
                    return True
        return False

    def interrupt(self, number: int, image: str):
        before = self.tree()
        error = self.interrupted(self.begin(image=image), number)
        self.assertIn(image, error)
        self.assertEqual(self.tree(), before)

    def test_signal_during_save_keeps_old_file(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for name in ('image', 'fresh'):
                with self.subTest((number, name)):
                    self.interrupt(number, self.path(name))

    def test_signal_before_first_byte_changes_nothing(self):
        before = self.tree()
        process = self.start('save', self.image)
        self.wait_for(lambda: self.handles(process, signal.SIGTERM),
                      'handling of signals')
        self.interrupted(process)
        self.assertEqual(self.tree(), before)

    def test_signal_together_with_eof_yields_one_outcome(self):
        """A signal that comes too late does not swallow the outcome."""
        before = self.tree()
        for i in range(100):
            report = self.path(f'report{i}')
            process = self.begin('--report', report)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=TIMEOUT)
            self.assertEqual((process.returncode, out, err.count(b'\n'),
                              os.path.exists(report)), (1, b'', 1, True))
            os.unlink(report)
        self.assertEqual(self.tree(), before)

    def test_interrupted_save_leaves_existing_target_no_snapshot(self):
        self.img('create', '-f', 'qcow2', self.path('disk'), '1G')
        self.interrupted(self.begin('-n', image=self.path('disk')))
        self.refused('info', self.path('disk'), causes=['disk'])

    def test_exit_status_is_true_whenever_signal_comes(self):
        disk = self.path('disk')
        with open(disk, 'wb') as f:
            f.truncate(256 * MIB)
        environ = dict(os.environ, LD_PRELOAD=build_library(
            self.dir, 'slow-flush', SLOW_FLUSH))
        statuses = set()
        for tenths in range(1, 18):
            process = self.start('save', '-n', '-O', 'raw', disk, env=environ)
            process.stdin.write(self.new)
            process.stdin.close()
            time.sleep(tenths / 10)
            process.send_signal(signal.SIGTERM)
            status = process.wait(TIMEOUT)
            info = self.tool('info', '-f', 'raw', disk)
            self.assertEqual(info.returncode, status, tenths)
            statuses.add(status)
        self.assertIn(1, statuses)
        self.save(self.new, disk, '-n', '-O', 'raw')
        self.succeeds('info', '-f', 'raw', disk)

    def test_signal_ends_save_while_data_pours_in(self):
        process = self.start('save', self.image)
        start = self.new.index(struct.pack('>BI', PART, RAM_ID)) + 5
        record = struct.pack('>QB', ZERO | CONTINUE, 0)

        def pour():
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(self.new[:start] +
                                    struct.pack('>Q', ZERO) + name8('new') +
                                    b'\0')
                while True:
                    process.stdin.write(record * 4096)

        source = threading.Thread(target=pour)
        source.start()
        self.wait_for(lambda: self.is_open(process), 'open image')
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 1)
        source.join()
        self.assert_old()

    def test_sigkill_leaves_nothing_in_the_way(self):
        """What SIGKILL leaves is no snapshot, and in nobody's way."""
        before = self.tree()
        process = self.begin()
        process.kill()
        process.wait()
        after = self.tree()
        left = [path for path in after if path not in before]
        self.assertEqual({path: after[path] for path in before}, before)
        for path in left:
            for verb in ('load', 'info', 'check'):
                self.refused(verb, path, causes=[path])
        self.assert_old()
        self.save(self.new)
        self.assert_new()
        self.assertEqual(os.listdir(self.dir), ['image'])

    def test_load_whose_reader_does_not_read_can_be_ended(self):
        self.save(self.new)
        process = self.start('load', self.image)
        process.stdout.read(1)
        process.terminate()
        process.stdin.close()
        self.assertNotEqual(process.wait(TIMEOUT), 0)
        self.assertEqual(process.stderr.read().count(b'\n'), 1)

    def test_wrong_description_brings_old_file_back(self):
        """
        The new image is in place before the description is read; what is
        wrong with that brings the old one back.
        """
        before = self.tree()
        self.new = sample([('new', 65536)]).build()
        at = self.new.index(b'\0\6\0\0') + 8
        self.assertEqual(self.new[at - 2:at], b'{"')
        for rest in (None, b'', self.new[at:-1], self.new[at:] + b'x'):
            process = self.start('save', self.image)
            process.stdin.write(self.new[:at])
            process.stdin.flush()
            self.wait_for(lambda: self.tree()[self.image] !=
                          before[self.image], 'commit')
            if rest is None:
                self.interrupted(process)
                self.assertEqual(self.tree(), before)
                continue
            self.end(process, rest, status=1)
            self.assertEqual(self.tree(), before)
            process = self.start('save', self.path('fresh'))
            process.stdin.write(self.new[:at])
            process.stdin.flush()
            self.wait_for(lambda: os.path.exists(self.path('fresh')), 'commit')
            self.end(process, rest, status=1)
            self.assertEqual(self.tree(), before)

    def test_signal_after_last_byte_is_too_late(self):
        """
        A source that has written its last byte is done.  A signal to the
        tool, which waits for nothing but the end of the file, is too late.
        """
        before = self.tree()
        process = self.start('save', self.image)
        process.stdin.write(self.new)
        process.stdin.flush()
        self.wait_for(lambda: self.tree()[self.image] != before[self.image],
                      'commit')
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        self.end(process)
        self.assert_new()
        self.assertEqual(os.listdir(self.dir), ['image'])

    def test_committed_image_survives_a_kill(self):
        at = self.new.index(b'\0\6\0\0') + 8
        process = self.start('save', self.path('fresh'))
        process.stdin.write(self.new[:at])
        process.stdin.flush()
        self.wait_for(lambda: os.path.exists(self.path('fresh')), 'commit')
        process.kill()
        process.wait()
        self.assertEqual(self.tool('info', self.path('fresh')).returncode, 0)
        loaded = self.tool('load', self.path('fresh')).stdout
        self.assertEqual(loaded[-1:], b'\0')        # without description
        self.save(self.new, self.path('fresh'))
        self.assertEqual(sorted(os.listdir(self.dir)), ['fresh', 'image'])


class Concurrent(SaveTest):

    def test_second_save_is_refused_and_first_succeeds(self):
        first = self.begin()
        second = self.tool('save', self.image, stdin=self.old)
        self.assertEqual((second.returncode, second.stdout), (1, b''))
        self.assertIn(b'Another save', second.stderr)
        self.assertIn(self.image.encode(), second.stderr)
        self.assertEqual(second.stderr.count(b'\n'), 1)
        self.assert_old()
        self.end(first, self.new[len(self.new) // 2:])
        self.assert_new()
        self.assertEqual(os.listdir(self.dir), ['image'])

    def test_second_save_by_another_name_is_refused(self):
        os.symlink('image', self.path('link'))
        first = self.begin()
        second = self.tool('save', self.path('link'), stdin=self.old)
        self.assertEqual(second.returncode, 1)
        self.assertIn(b'Another save', second.stderr)
        self.end(first, self.new[len(self.new) // 2:])
        self.assert_new()

    def test_second_save_to_existing_image_is_refused(self):
        self.img('create', '-f', 'qcow2', self.path('disk'), '1G')
        first = self.begin('-n', image=self.path('disk'))
        second = self.tool('save', '-n', self.path('disk'), stdin=self.old)
        self.assertEqual(second.returncode, 1)
        self.assertIn(b'lock', second.stderr)
        self.end(first, self.new[len(self.new) // 2:])
        self.assert_same_stream(self.new, self.load(self.path('disk')))

    def test_load_goes_on_with_file_it_has_opened(self):
        builder = sample([('ram', 8 * MIB)])
        self.save(builder.build())
        process = self.start('load', self.image)
        first = os.read(process.stdout.fileno(), PAGE)
        self.save(self.new)
        rest, err = process.communicate(timeout=TIMEOUT)
        self.assertEqual((process.returncode, err), (0, b''))
        self.assert_same_stream(builder.build(), first + rest)
        self.assert_new()


class DiskFull(SaveTest):

    def limited(self, limit: int, *args: str, stdin: bytes):
        """Python ignores SIGXFSZ, and so does the tool: write(2) fails."""
        return self.tool(
            *args, stdin=stdin, restore_signals=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                  (limit, limit)))

    def test_file_limit_anywhere_keeps_old_file(self):
        self.save(self.new, self.path('whole'))
        size = os.stat(self.path('whole')).st_size
        before = self.tree()
        failures = 0
        for limit in range(0, size, 64 * 1024):
            for name in ('image', 'fresh'):
                result = self.limited(limit, 'save', self.path(name),
                                      stdin=self.new)
                error = result.stderr.decode()
                self.assertEqual((result.returncode, result.stdout),
                                 (1, b''), (limit, error))
                self.assertEqual(error.count('\n'), 1, error)
                self.assertIn(self.path(name), error)
                self.assertIn('too large', error)
                self.assertEqual(self.tree(), before)
                failures += 1
        self.assertGreater(failures, 20)

    def test_existing_target_that_fills_up_is_no_snapshot(self):
        target = self.path('disk')
        self.img('create', '-f', 'qcow2', target, '1G')
        self.save(self.old, target, '-n')
        size = os.stat(target).st_size
        result = self.limited(size, 'save', '-n', target, stdin=self.new)
        self.assertEqual((result.returncode, result.stderr.count(b'\n')),
                         (1, 1), result.stderr)
        self.refused('load', target, causes=[target])

    def inject(self, event: str, number: int = errno.EIO) -> str:
        return ('driver=qcow2,file.driver=blkdebug,file.image.driver=file,'
                f'file.image.filename={self.path("disk")},'
                f'file.inject-error.0.errno={number},'
                f'file.inject-error.0.event={event}')

    def test_storage_error_fails_save_with_its_cause(self):
        """Errors of the storage below; a failed flush is one, too."""
        self.img('create', '-f', 'qcow2', self.path('disk'), '1G')
        for event in ('write_aio', 'flush_to_disk', 'cluster_alloc',
                      'l2_update', 'refblock_alloc'):
            for number in (errno.EIO, errno.ENOSPC):
                result = self.tool('save', '-n', '--image-opts',
                                   self.inject(event, number), stdin=self.new)
                self.assertEqual((result.returncode, result.stdout),
                                 (1, b''), (event, result.stderr))
                self.assertIn(os.strerror(number).encode(), result.stderr)
                self.assertEqual(result.stderr.count(b'\n'), 1, result.stderr)
                self.refused('info', self.path('disk'))

    def test_read_error_fails_load_and_check(self):
        self.img('create', '-f', 'qcow2', self.path('disk'), '1G')
        self.save(self.new, self.path('disk'), '-n')
        opts = self.inject('read_aio')
        for verb in ('load', 'check'):
            self.refused(verb, '--image-opts', opts, stdout=None,
                         causes=['input/output error'])

    def test_load_to_full_device_fails(self):
        with open('/dev/full', 'wb') as full:
            result = subprocess.run([env('QEMU_SNAP'), 'load', self.image],
                                    stdout=full, stderr=subprocess.PIPE,
                                    check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b'No space left', result.stderr)

    def test_output_to_full_device_fails_info_and_check(self):
        """Exit status 0 would say that somebody could read it."""
        for verb in ('info', 'check'):
            with self.subTest(verb), open('/dev/full', 'wb') as full:
                result = subprocess.run([env('QEMU_SNAP'), verb, self.image],
                                        stdout=full, stderr=subprocess.PIPE,
                                        check=False)
                self.assertNotEqual(result.returncode, 0)

    def test_load_fails_if_reader_goes_or_never_was(self):
        self.save(self.new)
        process = self.start('load', self.image)
        process.stdout.read(1)
        process.stdout.close()
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(process.stderr.read().count(b'\n'), 1)
        self.refused('load', self.image, causes=[self.image],
                     preexec_fn=lambda: os.close(1))


class Refused(ToolTest):
    """A destination that fails closes the channel, and says no more."""

    def assert_says_refused(self, process: subprocess.Popen, name: str,
                            reason: str):
        self.assertEqual(process.wait(20), 1)
        error = process.stderr.read().decode()
        self.assertEqual(error, f"qemu-snap: Could not load '{self.image}': "
                         f'The destination has closed {name}: it has refused '
                         'the snapshot, or has ended, and its own log says '
                         f'why ({reason})\n')

    def test_destination_that_closes_a_pipe_has_refused(self):
        self.save(sample([('pc.ram', 8 * MIB)]).build())
        for verify in ([], ['--no-verify']):
            process = self.start('load', *verify, self.image)
            process.stdout.read(1)
            process.stdout.close()
            self.assert_says_refused(process, 'stdout', 'Unable to write to '
                                     'file: Broken pipe')

    def test_destination_that_closes_a_socket_has_refused(self):
        self.save(sample([('pc.ram', 8 * MIB)]).build())
        for size in (1, 1 << 17):
            with self.subTest(size), socket.socket(socket.AF_UNIX) as listener:
                path = self.path(f'sock{size}')
                listener.bind(path)
                listener.listen()
                process = self.start(f'--uri=unix:{path}', 'load', self.image)
                connection, _ = listener.accept()
                connection.recv(size)
                connection.close()
                self.assertEqual(process.wait(20), 1)
                error = process.stderr.read().decode()
                self.assertIn(f'The destination has closed unix:{path}: it '
                              'has refused the snapshot', error)

    def test_error_of_another_kind_is_no_refusal(self):
        self.save(sample([('pc.ram', 8 * MIB)]).build())
        with open('/dev/full', 'wb') as full:
            process = subprocess.run([env('QEMU_SNAP'), 'load', self.image],
                                     stdout=full, stderr=subprocess.PIPE,
                                     check=False)
        self.assertIn(b'No space left', process.stderr)
        self.assertNotIn(b'destination', process.stderr)


@unittest.skipIf(is_sanitized(), 'sanitizers reserve terabytes')
class LittleMemory(SaveTest):
    """A limit of the address space: QEMU's code aborts if it has no stack."""

    LEAST = 320 * MIB

    def setUp(self):
        super().setUp()
        self.new = sample([('new', 64 * MIB)]).build()

    def test_too_little_is_refused(self):
        for size in (96 * MIB, 200000 << 10, self.LEAST - 1):
            for verb in ('save', 'load', 'info', 'check'):
                with self.subTest((size, verb)):
                    self.refused(verb, self.image, stdin=self.new,
                                 causes=['ulimit -v', f'{size >> 10} KiB'],
                                 **memory_limit(size))

    def test_little_is_enough(self):
        for size in (self.LEAST, 600 * MIB, 1024 * MIB, 3 << 30):
            for options in ([], ['-t', 'writeback', '--aio=threads']):
                with self.subTest((size, options)):
                    limit = memory_limit(size)
                    image = self.path('little')
                    saved = self.tool('save', image, *options, stdin=self.new,
                                      **limit)
                    self.assertEqual((saved.returncode, saved.stderr),
                                     (0, b''))
                    loaded = self.tool('load', image, *options, **limit)
                    self.assertEqual((loaded.returncode, loaded.stderr),
                                     (0, b''))
                    self.assert_same_stream(self.new, loaded.stdout)


class ReplacedFile(SaveTest):

    def test_mode_of_old_file_is_kept(self):
        for mode in (0o600, 0o640, 0o664, 0o400):
            os.chmod(self.image, mode)
            self.save(self.new)
            self.assertEqual(stat.S_IMODE(os.stat(self.image).st_mode), mode)

    def test_new_file_is_private(self):
        """It is the memory of a guest."""
        self.assertEqual(os.stat(self.image).st_mode & 0o077, 0)

    @unittest.skipIf(os.geteuid(), 'only root gives files away')
    def test_owner_of_old_file_is_kept(self):
        os.chown(self.image, 1234, 2345)
        os.chmod(self.image, 0o660)
        self.save(self.new)
        st = os.stat(self.image)
        self.assertEqual((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)),
                         (1234, 2345, 0o660))

    def test_other_hard_link_keeps_old_snapshot(self):
        os.link(self.image, self.path('other'))
        self.save(self.new)
        self.assert_same_stream(self.old, self.load(self.path('other')))
        self.assert_new()

    def test_file_that_symlinks_lead_to_is_replaced(self):
        os.mkdir(self.path('dir'))
        os.rename(self.image, self.path('dir/real'))
        os.symlink('dir/real', self.path('relative'))
        os.symlink(self.path('relative'), self.image)
        self.save(self.new)
        self.assertTrue(os.path.islink(self.image))
        self.assertTrue(os.path.islink(self.path('relative')))
        self.assert_same_stream(self.new, self.load(self.path('dir/real')))
        self.assertEqual(os.listdir(self.path('dir')), ['real'])

    def test_relative_name_is_saved_to(self):
        result = self.tool('save', 'image', stdin=self.new, cwd=self.dir)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_new()

    def test_strange_names_are_taken_literally(self):
        for name in ('with blank', 'a,b=c', "it's", '%s%n', '.hidden', 'ü',
                     '-dash', 'x' * 240):
            with self.subTest(name):
                self.save(self.new, self.path(name))
                self.assert_same_stream(self.new, self.load(self.path(name)))

    def test_file_prefix_allows_a_colon(self):
        """As everywhere in QEMU, file: tells a name from a protocol."""
        self.save(self.new, 'file:' + self.path('a:b'))
        self.assert_same_stream(self.new, self.load('file:' +
                                                    self.path('a:b')))

    def test_what_is_no_regular_file_is_refused(self):
        os.mkdir(self.path('dir'))
        os.mkfifo(self.path('fifo'))
        os.symlink('nowhere', self.path('dangling'))
        for name in ('dir', 'fifo', 'dangling', 'missing/file', 'image/x',
                     'image/', 'x' * 256):
            with self.subTest(name):
                self.refused('save', self.path(name), stdin=self.new,
                             causes=[self.path(name)])
        self.refused('save', '', stdin=self.new)
        self.refused('save', '/dev/null', stdin=self.new,
                     causes=['/dev/null'])

    def test_something_else_at_the_temporary_name_is_refused(self):
        self.begin().kill()
        temporary, = set(os.listdir(self.dir)) - {'image'}
        os.unlink(self.path(temporary))
        os.mkdir(self.path(temporary))
        self.refused('save', self.image, stdin=self.new,
                     causes=[temporary])
        os.rmdir(self.path(temporary))
        os.symlink('image', self.path(temporary))
        self.refused('save', self.image, stdin=self.new,
                     causes=[temporary])


class Unprivileged(SaveTest):
    """As a user who may not do all that root may"""

    def setUp(self):
        super().setUp()
        self.user = {}
        if os.geteuid() == 0:
            self.user = {'user': NOBODY, 'group': NOBODY, 'extra_groups': []}
        self.program = self.path('qemu-snap')
        shutil.copy(env('QEMU_SNAP'), self.program)

    def tool(self, *args, **kwargs):
        """Where that user can reach it; the build may be in /root."""
        return super().tool(*args, **self.user, executable=self.program,
                            **kwargs)

    def succeeds(self, *args, stdin: bytes = b'') -> bytes:
        result = super().tool(*args, stdin=stdin)
        self.assertEqual((result.returncode, result.stderr), (0, b''))
        return result.stdout

    def test_unreadable_image_is_refused(self):
        os.chmod(self.image, 0)
        for verb in ('load', 'info', 'check'):
            self.refused(verb, self.image, causes=[self.image,
                                                   'permission denied'])

    def test_unreachable_file_is_refused(self):
        os.mkdir(self.path('dir'), 0)
        for verb in ('save', 'load', 'info', 'check'):
            self.refused(verb, self.path('dir/file'), stdin=self.new,
                         causes=[self.path('dir/file'), 'permission denied'])

    def test_read_only_directory_refuses_save(self):
        """Even where the file itself could be written."""
        os.chmod(self.image, 0o666)
        os.chmod(self.dir, 0o555)
        self.refused('save', self.image, stdin=self.new,
                     causes=[self.image, 'permission denied'])
        self.refused('save', self.path('fresh'), stdin=self.new,
                     causes=['fresh', 'permission denied'])

    def test_file_of_another_owner_can_be_replaced(self):
        """In a directory that both may write to."""
        os.chmod(self.dir, 0o777)
        os.chmod(self.image, 0o644)
        result = self.tool('save', self.image, stdin=self.new)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_new()
        self.assertEqual(stat.S_IMODE(os.stat(self.image).st_mode), 0o644)

    def test_sticky_directory_protects_files_of_others(self):
        """One may create files there, but not replace those of others."""
        os.chmod(self.dir, 0o1777)
        if os.geteuid() == 0:
            os.chown(self.dir, 1, 1)
            self.refused('save', self.image, stdin=self.new,
                         causes=[self.image])
        else:
            self.save(self.new)

    def test_read_only_existing_image_is_refused(self):
        os.chmod(self.image, 0o444)
        self.refused('save', '-n', self.image, stdin=self.new,
                     causes=[self.image, 'permission denied'])


class Reports(SaveTest):

    def reported(self, *args: str, status: int = 0, stdin: bytes = b''):
        path = self.path('report')
        result = self.tool(*args, '--report', path, stdin=stdin)
        self.assertEqual(result.returncode, status, result.stderr)
        with open(path, encoding='utf-8') as f:
            report = json.load(f)
        os.unlink(path)
        self.assertEqual(report['status'], 'failed' if status else 'completed')
        self.assertEqual('error' in report, status != 0)
        if status:
            self.assertIn(report['error'].encode(), result.stderr)
        self.assertGreaterEqual(report['milliseconds'], 0)
        return report

    def test_report_of_success_counts_what_was_done(self):
        builder = sample([('ram', MIB)])
        data = builder.build()
        for verb, stdin in (('save', data), ('load', b'')):
            report = self.reported(verb, self.image, stdin=stdin)
            self.assertEqual(report['verb'], verb)
            self.assertEqual(report['image'], self.image)
            self.assertEqual(report['ram-bytes'], MIB)
            self.assertEqual(report['stored-pages'], 154)
            self.assertEqual(report['zero-pages'], 51)
            self.assertEqual(report['device-bytes'], len(builder.devices))

    def test_report_of_failure_has_the_error(self):
        self.reported('save', self.image, stdin=b'', status=1)
        self.reported('save', self.image, stdin=self.new[:-1], status=1)
        self.reported('save', '-s', '4k', self.image, stdin=self.new, status=1)
        self.reported('load', self.path('missing'), status=1)
        self.reported('load', '-t', 'x', self.image, status=1)
        self.reported('load', '--uri=x', self.image, status=1)

    def test_report_of_interrupted_save_says_failed(self):
        process = self.begin('--report', self.path('report'))
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 1)
        with open(self.path('report'), encoding='utf-8') as f:
            self.assertEqual(json.load(f)['status'], 'failed')

    def test_report_that_cannot_be_written_is_a_failure(self):
        for verb in ('save', 'load'):
            result = self.tool(verb, self.image, '--report',
                               self.path('no/such/place'), stdin=small())
            self.assertEqual(result.returncode, 1)
            self.assertEqual(result.stderr.count(b'\n'), 1, result.stderr)
            self.assertIn(b'no/such/place', result.stderr)

    def test_report_replaces_all_that_was_there(self):
        with open(self.path('report'), 'wb') as f:
            f.write(pattern(1, 100000))
        self.reported('load', self.image)


if __name__ == '__main__':
    unittest.main(verbosity=2)
