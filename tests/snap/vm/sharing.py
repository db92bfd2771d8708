#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# One FILE, and several that use it at the same time.
#

import os
import unittest

from snaptest.units import MIB
from snaptest.vm.failure import DisturbedTest
from snaptest.vm.machine import NEWEST, Q35
from snaptest.vm.run import Run


class SharingTest(DisturbedTest):

    # How to load: capabilities of the destination, options
    WAYS = {'precopy': ([], []), 'postcopy': (['postcopy-ram'],
                                              ['--postcopy'])}

    def begin_load(self, way: str, *options: str, prefix=()):
        caps, postcopy = self.WAYS[way]
        dst = self.destination(self.src)
        dst.capabilities('events', *caps)
        return dst, Run(self, dst, dst.incoming, 'exec', 'load', self.image,
                        '--aio=threads', *postcopy, *options, prefix=prefix)

    def hold_load(self, way: str, *options: str, n: int = 25):
        """A load in the middle of the image"""
        dst, load = self.begin_load(way, *options,
                                    prefix=self.stages.prefix('pread64', n))
        self.assertTrue(self.stages.held(load.ended))
        self.assertFalse(load.ended())
        return dst, load

    def finish_load(self, dst, load, mark: int):
        """The load ends with the RAM that has @mark."""
        load.finish()
        dst.wait_migration()
        self.write_mark(mark)
        self.assertIsNone(self.src.loop.torn(dst.ram))
        self.assertIsNone(self.src.ram.difference(dst.ram, self.src.loop.end))
        self.tried('loads by real guests beside saves, other loads, info or '
                   'check: whole')
        dst.kill()

    def refused(self, run, *words: str):
        """A save is refused; its source says so, and its guest runs on."""
        err = run.finish(1)
        for word in (self.image, *words):
            self.assertIn(word, err)
        self.assertEqual(run.report()['status'], 'failed')
        self.src.wait_migration('failed')
        self.assert_runs_on()
        self.tried('saves of real guests to what is in use: refused')


    def refused_unheard(self, *options: str, word: str):
        """A save that would listen does not even begin to."""
        sock = self.path('sock')
        err = self.finish(self.start(self.command(
            'save', self.image, f'--uri=unix:{sock}', *options)), 1)
        for part in (self.image, word):
            self.assertIn(part, err)
        self.assertFalse(os.path.lexists(sock))
        self.assertEqual(self.report()['status'], 'failed')


class TwoSaves(SharingTest):
    """Two virtual machines, and one FILE"""

    def setUp(self):
        super().setUp()
        self.first = self.src
        self.second = self.source(run=True, mib=self.MIB, pages=512)

    def two(self, mode: str, other: str, cause: str, *options: str):
        """The second save is refused, and the first one does not notice."""
        self.src = self.first
        run = self.hold(mode, 'pwrite64', 9, *options)
        self.assertFalse(run.ended())
        mark = self.mark
        self.src = self.second
        self.refused(self.begin(other, *options), cause)
        self.src = self.first
        self.stages.release()
        run.finish()
        self.assertEqual(self.outcome(mode, run), ('completed', True))
        self.old_mark = mark
        self.assert_only('image')
        self.assert_loads_whole()

    def test_second_save_is_refused(self):
        pairs = (('background', 'background'), ('background', 'live'),
                 ('return-path', 'return-path'), ('unix', 'background'))
        for pair in pairs:
            with self.subTest(pair):
                self.two(*pair, 'Another save')

    def test_second_save_to_existing_image_is_refused(self):
        self.img('create', '-f', 'qcow2', self.image, '256M')
        pairs = (('background', 'background'), ('live', 'return-path'))
        for pair in pairs:
            with self.subTest(pair):
                self.two(*pair, 'lock', '-n')

    def test_old_file_can_be_loaded_until_new_one_is_in_place(self):
        for step in (('pwrite64', 9), ('fdatasync', 3), ('renameat2', 1)):
            with self.subTest(step):
                run = self.hold('background', *step)
                mark = self.mark
                self.assertFalse(run.ended())
                self.assertEqual(self.whole(), self.old)
                dst, load = self.begin_load('precopy')
                self.finish_load(dst, load, self.old_mark)
                self.write_mark(mark)
                self.stages.release()
                run.finish()
                self.assertEqual(self.outcome('background', run),
                                 ('completed', True))


class ImageBeingLoaded(SharingTest):
    """What goes on while an image is loaded"""

    def test_load_goes_on_with_file_it_has_opened(self):
        for way in self.WAYS:
            with self.subTest(way):
                mark = self.old_mark
                dst, load = self.hold_load(way)
                self.next_save()
                self.assertNotEqual(self.old_mark, mark)
                self.assertFalse(load.ended())
                self.stages.release()
                self.finish_load(dst, load, mark)
                self.assert_loads_whole()

    def test_existing_image_is_not_written_to_during_load(self):
        self.img('create', '-f', 'qcow2', self.image, '256M')
        run = self.begin('background', '-n')
        run.finish()
        self.old, self.old_mark = self.whole(), self.mark
        modes = ('background', 'live', 'return-path')
        for way in self.WAYS:
            mark = self.old_mark
            dst, load = self.hold_load(way)
            for mode in modes:
                with self.subTest((way, mode)):
                    self.refused(self.begin(mode, '-n'), 'lock')
                    self.assertEqual(self.whole(), self.old)
            self.refused_unheard('-n', word='lock')
            self.assertFalse(load.ended())
            self.stages.release()
            self.finish_load(dst, load, mark)
        run = self.begin('background', '-n')
        run.finish()
        self.assertNotEqual(self.whole(), self.old)

    def test_image_can_be_checked_during_several_loads(self):
        """Several loads, and those who look at the image meanwhile"""
        ways = ('precopy', 'postcopy', 'precopy', 'postcopy')
        prefix = self.stages.prefix('pread64', 25)
        pairs = [self.begin_load(way, prefix=prefix) for way in ways]
        loads = [load for _, load in pairs]
        self.assertTrue(self.stages.held(
            lambda: any(load.ended() for load in loads), len(loads)))
        for _ in range(3):
            self.assertEqual(self.whole(), self.old)
        # And while they go on
        self.stages.release()
        looks = 0
        while looks < 3 or not all(load.ended() for load in loads):
            self.assertEqual(self.whole(), self.old)
            looks += 1
        for dst, load in pairs:
            self.finish_load(dst, load, self.old_mark)


class LockedDisks(SharingTest):
    """
    A destination whose disks another QEMU has locked does not run, and its
    migration is completed: QEMU tells the tool nothing of it.
    """

    def test_guest_runs_once_its_disks_are_free(self):
        disk = self.path('disk')
        self.img('create', '-f', 'qcow2', disk, '1M')
        options = ['-blockdev', 'driver=qcow2,node-name=disk,file.driver=file,'
                   f'file.filename={disk}', '-device', 'ide-hd,drive=disk']
        for version, machine in ((NEWEST, Q35), ('10.0', 'pc-q35-10.0'),
                                 ('7.2', 'pc-q35-7.2')):
            with self.subTest(version):
                src = self.source(machine, *options, version=version, run=True)
                self.save(src, self.path('locked'),
                          caps=['background-snapshot'])
                dst = self.destination(src, *options, version=version)
                self.load(self.path('locked'), dst)
                self.assertEqual(dst.status(), 'paused')
                reply = dst.qmp('cont')
                self.assertIn('lock', reply['error']['desc'])
                src.kill()
                self.assert_goes_on(dst, src.loop)
                dst.kill()


class OwnedFiles(SharingTest):
    """FILE belongs to another virtual machine."""

    WRITTEN = 'open for writing in another process'
    IN_USE = 'in use in another process'

    def disk(self, name: str, fmt: str = 'qcow2', base: str | None = None):
        path = os.path.join(self.home, name)
        self.img('create', '-f', fmt,
                 *(['-b', base, '-F', base.rsplit('.', 1)[1]] if base else []),
                 path, '64M')
        return path

    def owner(self, path: str, fmt: str, readonly: str = 'off'):
        """A machine that has this disk"""
        return self.vm(
            'pc-q35-10.0', self.ram(16 * MIB), '-S', '-drive',
            f'file={path},format={fmt},if=none,id=disk,readonly={readonly}',
            '-device', 'virtio-blk-pci,drive=disk')

    def test_disk_of_a_vm_is_not_replaced(self):
        modes = ('background', 'live', 'return-path')
        for fmt in ('qcow2', 'raw'):
            self.image = self.disk(f'disk.{fmt}', fmt)
            for readonly in ('off', 'on'):
                cause = self.IN_USE if readonly == 'on' else self.WRITTEN
                vm = self.owner(self.image, fmt, readonly)
                for mode in modes:
                    with self.subTest((fmt, readonly, mode)):
                        self.refused(self.begin(mode), cause)
                self.refused_unheard(word=cause)
                vm.kill()

    def test_backing_file_of_a_vm_is_not_replaced(self):
        for fmt in ('qcow2', 'raw'):
            with self.subTest(fmt):
                self.image = self.disk(f'base.{fmt}', fmt)
                vm = self.owner(self.disk('overlay', base=self.image), 'qcow2')
                self.refused(self.begin('background'), self.IN_USE)
                vm.kill()

    def test_disk_is_not_replaced_at_the_commit(self):
        """It has come there while the save was in progress."""
        for mode in ('background', 'live', 'return-path'):
            with self.subTest(mode):
                run = self.hold(mode, 'pwrite64', 9)
                disk = self.disk('disk')
                vm = self.owner(disk, 'qcow2')
                os.rename(disk, self.image)
                self.stages.release()
                self.refused(run, self.WRITTEN)
                self.assert_only('image')
                self.assertEqual(vm.cmd('query-block')[0]['inserted']['image']
                                 ['format'], 'qcow2')
                vm.kill()
                self.next_save()


if __name__ == '__main__':
    unittest.main(verbosity=2)
