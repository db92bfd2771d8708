#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# FILEs that somebody else has in use: no save takes them away, and what begins
# during a save cannot spoil it.
#

import fcntl
import os
import struct
import subprocess
import sys
import unittest
from collections import Counter

from snaptest import TIMEOUT, env
from snaptest.tool import ToolTest, sample
from snaptest.units import MIB

# Bytes that the block layer locks: who uses a permission, who keeps it for
# himself (block/file-posix.c)
READS, WRITES, ALONE = 100, 101, 201

WRITTEN = 'open for writing in another process'
IN_USE = 'in use in another process'
LOCKED = 'locked by another process'
LOCK = 'lock'

TOTAL = Counter()


def tearDownModule():
    for what, number in sorted(TOTAL.items()):
        print(f'# {number} {what}', file=sys.stderr)


class LockTest(ToolTest):
    """With streams of two snapshots, and others who use a file"""

    def setUp(self):
        super().setUp()
        self.old = sample([('old', MIB)]).build()
        self.new = sample([('new', 2 * MIB)]).build()

    # Others

    def is_locked(self, path: str, byte: int) -> bool:
        """Whether another process has a lock of this byte."""
        fd = os.open(path, os.O_RDONLY)
        try:
            flock = struct.pack('@hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, byte,
                                1, 0)
            flock = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, flock)
            return struct.unpack_from('@h', flock)[0] != fcntl.F_UNLCK
        finally:
            os.close(fd)

    def run_other(self, path: str, byte: int, *command: str):
        """Another program, as soon as it has locked a byte of @path"""
        # pylint: disable=consider-using-with
        process = subprocess.Popen(command, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(self.stop, process)
        self.wait_for(lambda: self.is_locked(path, byte), 'lock')
        return process

    def use(self, image: str, fmt: str = 'qcow2', locks: str | None = None,
            byte: int = WRITES, options=()):
        """Have an image open, as a virtual machine has its disk."""
        return self.run_other(locks or image, byte, env('QEMU_IO'), *options,
                              '-f', fmt, image)

    def finish_use(self, process):
        """Its image takes what is written, and has what was."""
        out, err = process.communicate(
            b'write -P 0x99 64k 64k\nread -P 0x99 64k 64k\n'
            b'read -P 0x77 0 64k\n', TIMEOUT)
        self.assertEqual((process.returncode, err), (0, b''))
        self.assertNotIn(b'ailed', out)

    def disk(self, name: str, fmt: str = 'qcow2') -> str:
        path = self.path(name)
        self.img('create', '-f', fmt, path, '256M')
        self.io(path, 'write -P 0x77 0 64k', fmt)
        return path

    # Saves

    def not_saved(self, image: str, cause: str, *options: str,
                  busy: bool = False):
        """
        A save is refused before its source is read, and says why; @busy:
        another one is writing there.
        """
        read, write = os.pipe()
        try:
            before = self.tree()
            process = subprocess.run(
                [env('QEMU_SNAP'), *options, 'save', image], stdin=read,
                capture_output=True, timeout=TIMEOUT, check=False)
        finally:
            os.close(read)
            os.close(write)
        error = process.stderr.decode()
        self.assertEqual((process.returncode, process.stdout), (1, b''), error)
        self.assertEqual(error.count('\n'), 1, error)
        self.assertIn(cause, error)
        self.assertIn(image, error)
        if not busy:
            self.assertEqual(self.tree(), before)
        TOTAL['saves to a FILE in use: refused before the source is read'] += 1

    def begin(self, *options: str, image: str | None = None):
        """A save that has got half of the stream, and waits"""
        image = image or self.image
        process = self.start('save', *options, image)
        process.stdin.write(self.new[:len(self.new) // 2])
        process.stdin.flush()
        if '-n' in options:
            self.wait_for(lambda: self.is_locked(image, WRITES), 'lock')
        else:
            where, name = os.path.split(os.path.realpath(image))
            self.wait_for(lambda: self.created(f'{where}/.{name}.saving'),
                          'new image')
        return process

    def created(self, path: str) -> bool:
        return os.path.exists(path) and os.stat(path).st_size > 0

    def end(self, process, *causes: str):
        """It gets the rest, and succeeds if there is nothing against that."""
        out, err = process.communicate(self.new[len(self.new) // 2:], TIMEOUT)
        self.assertEqual((process.returncode, out), (int(bool(causes)), b''),
                         err)
        self.assertEqual(err.count(b'\n'), int(bool(causes)), err)
        for cause in causes:
            self.assertIn(cause, err.decode())

    def assert_saved(self, data: bytes, image: str | None = None,
                     *options: str):
        self.assert_same_stream(data, self.load(image, *options))
        self.succeeds('check', image or self.image, *options)


class Disks(LockTest):
    """FILE is the disk of a virtual machine, or of somebody else"""

    def test_disk_is_not_replaced(self):
        for fmt in ('qcow2', 'raw'):
            with self.subTest(fmt):
                vm = self.use(self.disk(fmt, fmt), fmt)
                self.not_saved(self.path(fmt), WRITTEN)
                self.not_saved(self.path(fmt), LOCK, '-n', '-O', fmt)
                self.finish_use(vm)

    def test_encrypted_disk_is_not_replaced(self):
        """Which cannot even be opened"""
        secret = ['--object', 'secret,id=s,data=abc']
        self.img('create', '-f', 'luks', *secret, '-o',
                 'key-secret=s,iter-time=10', self.image, '256M')
        self.run_other(self.image, WRITES, env('QEMU_IO'), *secret,
                       '--image-opts', 'driver=luks,key-secret=s,'
                       f'file.driver=file,file.filename={self.image}')
        self.not_saved(self.image, WRITTEN)

    def test_disk_is_not_replaced_by_another_name(self):
        vm = self.use(self.disk('disk'))
        os.link(self.path('disk'), self.path('hard'))
        os.symlink('disk', self.path('soft'))
        os.mkdir(self.path('dir'))
        os.symlink(self.dir, self.path('dir/up'))
        for name in ('hard', 'soft', 'dir/up/disk', 'dir/../disk'):
            with self.subTest(name):
                self.not_saved(self.path(name), WRITTEN)
        self.finish_use(vm)

    def test_disk_is_not_replaced_through_a_bind_mount(self):
        os.mkdir(self.path('there'))
        script = ('mount --bind "$1" "$1/there" && '
                  'exec "$2" save "$1/there/disk"')
        command = ['unshare', '-m', 'sh', '-c', script, 'sh', self.dir]
        if subprocess.run([*command, 'true'], capture_output=True,
                          check=False).returncode:
            self.skipTest('mounting needs root')
        vm = self.use(self.disk('disk'))
        before = self.tree()
        result = subprocess.run([*command, env('QEMU_SNAP')], input=self.new,
                                capture_output=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(WRITTEN, result.stderr.decode())
        self.assertEqual(self.tree(), before)
        self.finish_use(vm)

    def test_backing_file_in_use_is_not_replaced(self):
        base, overlay = self.disk('base'), self.path('overlay')
        self.img('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', overlay)
        vm = self.use(overlay, locks=base, byte=ALONE)
        self.not_saved(base, IN_USE)
        self.finish_use(vm)
        self.save(self.new, base)       # nobody needs it any more

    def test_exported_disk_is_not_replaced(self):
        disk = self.disk('disk', 'raw')
        server = self.run_other(disk, WRITES, env('QEMU_NBD'), '-f', 'raw',
                                '-k', self.path('sock'), disk)
        self.not_saved(disk, WRITTEN)
        server.terminate()
        server.wait(TIMEOUT)
        disk = self.disk('disk.qcow2')
        self.run_other(
            disk, WRITES, env('QEMU_STORAGE_DAEMON'),
            '--nbd-server', f'addr.type=unix,addr.path={self.path("other")}',
            '--blockdev', f'file,node-name=file,filename={disk}',
            '--blockdev', 'qcow2,node-name=disk,file=file',
            '--export', 'nbd,id=export,node-name=disk,name=,writable=on')
        self.not_saved(disk, WRITTEN)

    def test_locked_file_is_not_replaced(self):
        """By a program that has nothing to do with images"""
        with open(self.image, 'wb') as f:
            f.write(b'accounts')
        script = ('import fcntl, sys; file = open(sys.argv[1], "r+b"); '
                  'fcntl.lockf(file, *map(int, sys.argv[2:])); input()')
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            for length, start in ((0, 0), (1, 7), (10, 1 << 30)):
                with self.subTest((kind, length, start)):
                    other = self.run_other(self.image, start, sys.executable,
                                           '-c', script, self.image, str(kind),
                                           str(length), str(start))
                    self.not_saved(self.image, LOCKED)
                    other.communicate(b'\n', TIMEOUT)
        self.save(self.new)

    def test_disk_that_appears_before_the_commit_is_not_replaced(self):
        for old in (False, True):
            with self.subTest(old):
                if old:
                    self.save(self.old)
                process = self.begin()
                disk = self.disk('disk')
                vm = self.use(disk)
                os.rename(disk, self.image)
                self.end(process, self.image, WRITTEN)
                self.assertEqual(os.listdir(self.dir), ['image'])
                self.finish_use(vm)
                os.unlink(self.image)

    def test_vm_does_not_start_with_a_file_that_is_being_replaced(self):
        for fmt in ('qcow2', 'raw'):
            with self.subTest(fmt):
                disk = self.disk('disk', fmt)
                process = self.begin(image=disk)
                result = subprocess.run([env('QEMU_IO'), '-f', fmt, '-c',
                                         'write 0 64k', disk], check=False,
                                        capture_output=True, text=True)
                self.assertIn('Failed to get "write" lock', result.stderr)
                self.not_saved(disk, LOCK, '-n', '-O', fmt, busy=True)
                self.end(process)
                self.assert_saved(self.new, disk)
                os.unlink(disk)


class Snapshots(LockTest):
    """FILE is a snapshot, and others save to it, change or read it"""

    def test_existing_and_replacing_exclude_each_other(self):
        for fmt in ('qcow2', 'raw'):
            with self.subTest(fmt):
                disk = self.disk('disk', fmt)
                process = self.begin('-n', '-O', fmt, image=disk)
                self.not_saved(disk, WRITTEN, busy=True)
                self.end(process)
                self.assert_saved(self.new, disk)

                process = self.begin(image=disk)
                self.not_saved(disk, LOCK, '-n', '-O', fmt, busy=True)
                self.end(process)
                self.assert_saved(self.new, disk)
                os.unlink(disk)

    def test_second_save_into_raw_is_refused(self):
        disk = self.disk('disk', 'raw')
        os.link(disk, self.path('hard'))
        first = self.begin('-n', '-O', 'raw', image=disk)
        for name in ('disk', 'hard'):
            self.not_saved(self.path(name), LOCK, '-n', '-O', 'raw', busy=True)
        self.end(first)
        self.assert_saved(self.new, disk)

    def test_second_save_to_a_block_device_is_refused(self):
        disk = self.disk('disk', 'raw')
        loop = subprocess.run(['losetup', '-f', '--show', disk], text=True,
                              capture_output=True, check=False)
        if loop.returncode:
            self.skipTest(f'no loop device: {loop.stderr.strip()}')
        device = loop.stdout.strip()
        self.addCleanup(subprocess.run, ['losetup', '-d', device], check=True)
        first = self.begin('-n', '-O', 'raw', image=device)
        second = self.tool('save', '-n', '-O', 'raw', device, stdin=self.old)
        self.assertEqual(second.returncode, 1)
        self.assertIn(b'lock', second.stderr)
        self.end(first)
        self.assert_saved(self.new, device)

    def test_nobody_changes_what_is_being_replaced(self):
        self.save(self.old)
        records = self.path('records')
        with open(records, 'wb') as f:
            f.write(b'0' * 48)
        process = self.begin()
        for command in (['embed', f'--working-set={records}'],
                        ['check', '--repair']):
            result = self.tool(*command, self.image)
            if command[0] == 'check':
                # Nothing is to be repaired, so it only reads
                self.assertEqual(result.returncode, 0, result.stderr)
            else:
                self.assertEqual(result.returncode, 1)
                self.assertIn(b'lock', result.stderr)
        self.end(process)
        self.assert_saved(self.new)

    def test_only_one_changes_a_raw_image(self):
        """embed beside others that write to it"""
        self.save(self.old, self.image, '-O', 'raw')
        self.use(self.image, 'raw')
        self.refused('embed', '--working-set=/dev/null', '-f', 'raw',
                     self.image, causes=[LOCK])
        self.not_saved(self.image, LOCK, '-n', '-O', 'raw')
        self.assert_same_stream(self.old, self.load(self.image, '-f', 'raw'))

    def test_readers_see_the_old_snapshot_during_a_save(self):
        for options in ([], ['-O', 'raw']):
            self.save(self.old, self.image, *options)
            process = self.begin(*options)
            self.assert_saved(self.old)
            self.info()
            self.assert_saved(self.old, self.image, '-U')
            self.end(process)
            self.assert_saved(self.new)

    def test_save_during_a_load_is_allowed(self):
        secret = ['--object', 'secret,id=s0,data=abc']
        encrypted = [*secret, '-o', 'encrypt.format=luks,encrypt.key-secret='
                                    's0,encrypt.iter-time=10']
        opts = (f'driver=qcow2,file.driver=file,file.filename={self.image},'
                'encrypt.format=luks,encrypt.key-secret=s0')
        big = sample([('ram', 8 * MIB)]).build()
        for create, load in (([], [self.image]),
                             (['-O', 'raw'], [self.image]),
                             (encrypted, [*secret, '--image-opts', opts])):
            with self.subTest(create):
                self.save(big, self.image, *create)
                process = self.start('load', *load)
                first = os.read(process.stdout.fileno(), 4096)
                self.save(self.new, self.image, *create)
                rest, err = process.communicate(timeout=TIMEOUT)
                self.assertEqual((process.returncode, err), (0, b''))
                self.assert_same_stream(big, first + rest)
                self.succeeds('check', *load)

    def test_what_the_old_file_refers_to_is_not_opened(self):
        """To open a FIFO would take forever."""
        other = self.path('other')
        for options in (['-o', f'data_file={other}'],
                        ['-b', other, '-F', 'raw']):
            self.img('create', '-f', 'raw', other, '1G')
            self.img('create', '-f', 'qcow2', *options, self.image, '1G')
            os.unlink(other)
            os.mkfifo(other)
            self.save(self.new)
            self.assert_saved(self.new)
            os.unlink(other)

    def test_other_readers_of_a_snapshot_do_not_stop_saves(self):
        """Such as qemu-img convert"""
        self.save(self.old)
        reader = self.use(self.image, byte=ALONE, options=['-r'])
        self.save(self.new)
        self.assertIsNone(reader.poll())
        self.assert_saved(self.new)

    def test_saved_file_is_free_at_once(self):
        """A report says that it is over: the next save may begin."""
        report = self.path('report')
        for options in ([], ['-O', 'raw']):
            process = self.begin('--report', report, *options)
            process.stdin.write(self.new[len(self.new) // 2:])
            process.stdin.close()
            self.wait_for(lambda: os.path.exists(report), 'report')
            self.assertFalse(self.is_locked(self.image, WRITES))
            self.assertFalse(self.is_locked(self.image, ALONE))
            self.assertEqual(process.wait(TIMEOUT), 0)
            os.unlink(report)


class Unlocked(LockTest):
    """Storage whose driver takes no lock: at most one save succeeds"""

    ANOTHER = 'Another save has begun to write to this image'

    def setUp(self):
        super().setUp()
        self.disk('image', 'raw')
        self.target = ('driver=raw,file.driver=file,file.locking=off,'
                       f'file.filename={self.image}')

    def begin_unlocked(self):
        """A save that has written the claim"""
        before = self.uuid()
        process = self.start('save', '-n', '--image-opts', '-O', 'raw',
                             self.target)
        process.stdin.write(self.new[:len(self.new) // 2])
        process.stdin.flush()
        self.wait_for(lambda: self.uuid() != before, 'claim')
        return process

    def uuid(self) -> bytes:
        """In the header, or where it will be"""
        with open(self.image, 'rb') as f:
            return f.read(48)[32:]

    def save_unlocked(self):
        self.save(self.new, self.target, '-n', '--image-opts', '-O', 'raw')

    def test_claim_is_no_snapshot(self):
        process = self.begin_unlocked()
        with open(self.image, 'rb') as f:
            claim = f.read(4096)
        self.assertEqual(claim[:32], bytes(32))
        self.assertNotEqual(claim[32:48], bytes(16))
        self.assertEqual(claim[48:], bytes(4096 - 48))
        for verb in ('info', 'load', 'check'):
            self.refused(verb, '-f', 'raw', self.image,
                         causes=['not a snapshot'])
        self.end(process)
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(48)[32:], claim[32:48])
        self.assert_saved(self.new, self.image, '-f', 'raw')

    def test_first_save_fails_after_the_second_has_succeeded(self):
        first = self.begin_unlocked()
        self.save_unlocked()
        uuid = self.uuid()
        self.end(first, self.ANOTHER)
        self.assertEqual(self.uuid(), uuid)
        self.assert_saved(self.new, self.image, '-f', 'raw')

    def test_first_save_fails_while_the_second_is_in_progress(self):
        first = self.begin_unlocked()
        second = self.begin_unlocked()
        uuid = self.uuid()
        self.end(first, self.ANOTHER)
        self.assertEqual(self.uuid(), uuid)
        self.end(second)
        self.assert_saved(self.new, self.image, '-f', 'raw')

    def test_second_save_succeeds_first_and_only_it(self):
        processes = [self.begin_unlocked() for _ in range(4)]
        self.end(processes.pop())
        uuid = self.uuid()
        for process in processes:
            self.end(process, self.ANOTHER)
        self.assertEqual(self.uuid(), uuid)
        self.assert_saved(self.new, self.image, '-f', 'raw')

    def test_interrupted_save_leaves_the_other_alone(self):
        first = self.begin_unlocked()
        self.save_unlocked()
        first.terminate()
        self.assertEqual(first.wait(TIMEOUT), 1)
        self.assert_saved(self.new, self.image, '-f', 'raw')

    def test_cut_save_leaves_the_other_alone(self):
        first = self.begin_unlocked()
        self.save_unlocked()
        first.stdin.close()
        self.assertEqual(first.wait(TIMEOUT), 1)
        self.assert_saved(self.new, self.image, '-f', 'raw')


if __name__ == '__main__':
    unittest.main(verbosity=2)
