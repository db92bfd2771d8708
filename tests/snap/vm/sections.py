#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Streams with more than RAM and plain devices in them.
#

import json
import os
import struct
import subprocess
import sys
import unittest

from snaptest import TIMEOUT, env
from snaptest.units import MIB
from snaptest.vm.case import SnapTest
from snaptest.vm.machine import NEWEST, Q35, S390, VIRT
from snaptest.vm.qtest import QTest, VirtioMem
from snaptest.vm.ram import Ram


class VirtioMemory(SnapTest):
    """virtio-mem: memory that a stream speaks of, but does not send."""

    SIZE = 64 * MIB
    BLOCK = 2 * MIB
    PLUGGED = (0, 2, 3, 7, 31)

    def args(self, backend):
        return ['-m', f'64M,slots=1,maxmem={64 + self.SIZE // MIB}M',
                '-object', f'memory-backend-file,id=vmem,size={self.SIZE},'
                           f'mem-path={backend.path},share=on,reserve=off',
                '-device', 'virtio-mem-pci,memdev=vmem,addr=5,'
                           'disable-legacy=on,'
                           f'block-size={self.BLOCK},requested-size='
                           f'{len(self.PLUGGED) * self.BLOCK}']

    def round_trip(self, plugged, *caps):
        ours, theirs = self.ram(self.SIZE), self.ram(self.SIZE)
        src = self.source(Q35, *self.args(ours),
                          *QTest.args(self.path('qtest')), run=True)
        if plugged:
            with QTest(self.path('qtest')) as qtest:
                driver = VirtioMem(src, qtest, slot=5)
                self.assertEqual(driver.block_size, self.BLOCK)
                for block in plugged:
                    driver.plug(block)
                    start = block * self.BLOCK
                    ours.fill(start, start + self.BLOCK, seed=block)
        src.cmd('stop')
        truth = src.ram.copy()
        self.save(src, self.path('image'), caps=caps)
        dst = self.destination(src, *self.args(theirs))
        self.load(self.path('image'), dst)
        self.assertIsNone(truth.difference(dst.ram))
        self.assertIsNone(ours.difference(theirs))
        device = dst.cmd('query-memory-devices')[0]['data']
        self.assertEqual(device['size'], len(plugged) * self.BLOCK)
        # Even reading an unplugged page would populate the file.
        self.assertLessEqual(os.stat(theirs.path).st_blocks * 512,
                             len(plugged) * self.BLOCK)

    def test_precopy_keeps_unplugged_memory_empty(self):
        self.round_trip(())

    def test_background_save_keeps_unplugged_memory_empty(self):
        self.round_trip((), 'background-snapshot')

    def test_precopy_brings_back_plugged_memory(self):
        self.round_trip(self.PLUGGED)

    def test_background_save_brings_back_plugged_memory(self):
        self.round_trip(self.PLUGGED, 'background-snapshot')

    def test_return_path_save_brings_back_plugged_memory(self):
        self.round_trip(self.PLUGGED, 'return-path')


class DirtyBitmaps(SnapTest):
    """Dirty bitmaps, which have sections of their own among those of RAM."""

    def disk(self):
        return ['-blockdev', 'driver=file,node-name=file,filename='
                             + self.path('disk'),
                '-blockdev', 'driver=raw,node-name=disk,file=file']

    @staticmethod
    def digest(vm, name):
        return vm.cmd('x-debug-block-dirty-bitmap-sha256', node='disk',
                      name=name)['sha256']

    def round_trip(self, *caps):
        self.img('create', '-f', 'raw', self.path('disk'), '64M')
        src = self.source(Q35, *self.disk(), run=True)
        for name, start in (('first', 1), ('second', 5)):
            src.cmd('block-dirty-bitmap-add', node='disk', name=name,
                    persistent=False)
            src.cmd('human-monitor-command', {'command-line':
                    f'qemu-io disk "write {start}M 192k"'})
        before = [self.digest(src, n) for n in ('first', 'second')]
        self.assertNotEqual(*before)
        self.save(src, self.path('image'), caps=['dirty-bitmaps', *caps])
        src.kill()
        dst = self.destination(src, *self.disk())
        dst.capabilities('dirty-bitmaps')
        self.load(self.path('image'), dst)
        self.assertEqual(
            [self.digest(dst, n) for n in ('first', 'second')], before)
        self.assert_same_ram(src, dst)

    def test_bitmaps_come_back_from_live_save(self):
        self.round_trip()

    def test_bitmaps_come_back_from_return_path_save(self):
        self.round_trip('return-path')


class QemusDecoder(SnapTest):
    """QEMU's own decoder finds in a load's stream what the source sent."""

    def analyze(self, stream, name):
        """State, description and RAM, by analyze-migration.py."""
        script = os.path.join(env('QEMU_TREE'), 'scripts',
                              'analyze-migration.py')
        directory = self.path(name)
        os.mkdir(directory)
        out = subprocess.run([sys.executable, '-W', 'ignore', script,
                              '-f', stream, '-x'], cwd=directory,
                             capture_output=True, text=True, check=False)
        self.assertEqual(out.returncode, 0, out.stderr[-2000:])
        parts = {}
        for found, _, files in os.walk(directory):
            for file in files:
                path = os.path.join(found, file)
                parts[os.path.relpath(path, directory)] = path
        return parts

    def compare(self, machine, *caps, version=NEWEST, args=()):
        src = self.source(machine, *args, version=version)
        ours, theirs = self.path('saved'), self.path('loaded')
        self.save_stream(src, ours, *caps)
        src.kill()
        with open(ours, 'rb') as f:
            saved = subprocess.run(self.command('save', self.path('image')),
                                   stdin=f, capture_output=True, check=False)
        self.assertEqual((saved.returncode, saved.stdout), (0, b''), saved)
        self.assert_completed('save')
        self.load_stream(self.path('image'), theirs)

        a, b = self.analyze(ours, 'a'), self.analyze(theirs, 'b')
        self.assertEqual(a.keys(), b.keys())
        self.assertIn(src.ram_id, a)
        self.assertGreater(Ram.existing(a[src.ram_id]).nonzero_pages(), 1000)
        for name, path in a.items():
            with self.subTest(name):
                if name.endswith('.json'):
                    with open(path, encoding='utf-8') as f, \
                            open(b[name], encoding='utf-8') as g:
                        self.assertEqual(json.load(f), json.load(g))
                else:
                    self.assertIsNone(Ram.existing(path).difference(
                        Ram.existing(b[name])))

    def test_decoder_finds_the_same_in_q35_stream(self):
        self.compare(Q35, args=[
            '-device', 'virtio-balloon-pci', '-device', 'qemu-xhci',
            '-device', 'VGA', '-device', 'e1000e'])

    def test_decoder_finds_the_same_in_background_stream(self):
        self.compare(Q35, 'background-snapshot')

    def test_decoder_finds_the_same_in_7_2_stream(self):
        self.compare('pc-i440fx-7.2', version='7.2')

    def test_decoder_finds_the_same_in_10_0_stream(self):
        self.compare('pc-q35-10.0', version='10.0')

    def test_decoder_finds_the_same_in_aarch64_stream(self):
        self.compare(VIRT)

    def test_decoder_finds_the_same_in_s390x_stream(self):
        self.compare(S390)


class RefusedSections(SnapTest):
    """What cannot be saved is refused by name, and leaves nothing behind."""

    def assert_nothing_left(self, directory):
        self.assertEqual(os.listdir(directory), [])

    def test_htab_of_pseries_is_refused_by_name(self):
        """ppc64 pseries has an iterable section of its own."""
        def start(section, name, version, payload):
            return struct.pack('>BIB', 1, section, len(name)) + name \
                + struct.pack('>II', 0, version) + payload \
                + struct.pack('>BI', 0x7e, section)
        machine = b'pseries-10.0'
        ram = struct.pack('>QB', 1 * MIB | 4, 13) + b'ppc_spapr.ram' \
            + struct.pack('>QQ', 1 * MIB, 0x10)
        stream = b'QEVM\0\0\0\3\7' + struct.pack('>I', len(machine)) \
            + machine + start(2, b'ram', 4, ram) \
            + start(3, b'spapr/htab', 1, struct.pack('>I', 18))
        directory = self.directory(self.dir)
        out = subprocess.run(
            self.command('save', os.path.join(directory, 'image')),
            input=stream, capture_output=True, check=False, timeout=TIMEOUT)
        self.assertNotEqual(out.returncode, 0)
        self.assertIn(b'spapr/htab', out.stderr)
        self.assertEqual(out.stderr.count(b'\n'), 1, out.stderr)
        self.assertEqual(self.report()['status'], 'failed')
        self.assertIn('spapr/htab', self.report()['error'])
        self.assert_nothing_left(directory)

    def test_xbzrle_is_refused_by_name(self):
        src = self.source(run=True, pages=4096, delay=0)
        # It must not converge: only what is sent again is compressed.
        src.cmd('migrate-set-parameters', {'xbzrle-cache-size': 32 * MIB,
                                           'downtime-limit': 1})
        directory = self.directory(self.dir)
        src.migrate(self.exec_uri(self.command(
            'save', os.path.join(directory, 'image'))), 'xbzrle',
            bandwidth=20 * MIB)
        src.wait_migration('failed')
        self.assertEqual(self.report()['status'], 'failed')
        self.assertIn('xbzrle', self.report()['error'].lower())
        self.assertEqual(src.status(), 'running')
        self.assert_nothing_left(directory)


if __name__ == '__main__':
    unittest.main(verbosity=2)
