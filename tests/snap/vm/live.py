#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves of a running guest by precopy, loaded byte for byte.
#

import shlex
import unittest

from snaptest import TIMEOUT
from snaptest.peers.decode import Stream
from snaptest.units import MIB, PAGE
from snaptest.vm.case import Machines, SnapTest
from snaptest.vm.machine import NEWEST, Q35


class LiveSave(Machines, SnapTest):
    """Pages come again, become zero and come back: the last one counts."""

    def save_recorded(self, src):
        """
        QEMU 7.2 under TCG may stop with a page that it has not sent again
        (exec:cat shows it): let the source have what it has sent.
        """
        stream = self.path('stream')
        src.migrate(self.exec_uri(self.command('save', self.path('image')),
                                  f'tee {shlex.quote(stream)} | '))
        info = src.wait_migration(timeout=TIMEOUT)
        self.assert_completed('save')
        with open(stream, 'rb') as f:
            pages = Stream(f.read()).pages
        with open(src.ram.path, 'r+b') as f:
            for (block, offset), content in pages.items():
                if block == src.ram_id:
                    f.seek(offset)
                    f.write(content or bytes(PAGE))
        return info

    def round_trip(self, machine, version=NEWEST, to=NEWEST, caps=()):
        src = self.source(machine, version=version, run=True, pages=1024)
        recorded = version == '7.2'
        info = (self.save_recorded(src) if recorded else
                self.save(src, self.path('image'), caps=caps))
        self.assertEqual(src.status(), 'postmigrate')
        ram = info['ram']
        self.assertGreater(ram['normal'] + ram['duplicate'],
                           src.ram.size // PAGE, 'no page was sent twice')
        dst = self.destination(src, version=to)
        self.load(self.path('image'), dst)
        if not recorded:
            self.assertIsNone(src.loop.torn(dst.ram))
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_guest_saved_with_return_path_comes_back(self):
        self.round_trip(Q35, caps=['return-path'])

    def test_return_path_without_description_ends_by_silence(self):
        self.round_trip(f'{Q35},suppress-vmdesc=on', caps=['return-path'])

    def test_guest_runs_without_S_as_its_source_did(self):
        src = self.source(run=True)
        self.save(src, self.path('image'))
        dst = self.destination(src, run=True)
        self.load(self.path('image'), dst)
        self.assertEqual(dst.status(), 'running')
        dst.wait_until(lambda: src.loop.gen(dst.ram) > src.loop.gen())

    def test_ram_zeroed_during_save_comes_back_zero(self):
        src = self.source(run=True, mib=96)
        src.migrate(self.exec_uri(self.command('save', self.path('image'))),
                    bandwidth=40 * MIB)
        src.wait_snapshot_taken()
        # The working set is moved over RAM that has been filled, or will be.
        first = src.loop.end
        src.loop.move(first, (src.ram.size - first) // PAGE, delay=0)
        gen = src.loop.gen()
        src.wait_until(lambda: src.loop.gen() > gen + 5)
        src.loop.move(first, 64)
        src.cmd('migrate-set-parameters', {'max-bandwidth': 16 << 30})
        src.wait_migration()
        self.assert_completed('save')
        dst = self.destination(src)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)


if __name__ == '__main__':
    unittest.main(verbosity=2)
