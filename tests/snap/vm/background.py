#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Background snapshots: the guest runs on, its snapshot does not.
#

import json
import time
import unittest

from snaptest.units import PAGE
from snaptest.vm.case import Machines, SnapTest
from snaptest.vm.machine import NEWEST, Probe


class StoppedGuest(Machines, SnapTest):
    """Of a stopped guest, byte for byte.  (7.2 lets it run afterwards.)"""

    def round_trip(self, machine, version=NEWEST, to=NEWEST):
        src = self.source(machine, version=version)
        truth = src.ram.copy()
        self.save(src, self.path('image'), caps=['background-snapshot'])
        dst = self.destination(src, version=to)
        self.load(self.path('image'), dst)
        self.assertIsNone(truth.difference(dst.ram))
        self.assert_goes_on(dst, src.loop)


class RunningGuest(Machines, SnapTest):
    """Of a running guest: RAM and devices are those of one instant."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST):
        src = self.source(machine, version=version, run=True)
        loop = src.loop
        before = loop.gen()
        src.migrate(self.exec_uri(self.command('save', self.path('image'))),
                    'background-snapshot')
        src.wait_snapshot_taken()
        after = loop.gen()
        src.wait_migration()
        self.assert_completed('save')
        self.assertEqual(src.status(), 'running')
        src.wait_until(lambda: loop.gen() > after)

        dst = self.destination(src, version=to)
        self.load(self.path('image'), dst)
        self.assertIsNone(loop.torn(dst.ram))
        self.assertLessEqual(before, loop.gen(dst.ram))
        self.assertLessEqual(loop.gen(dst.ram), after)
        self.assertIsNone(src.ram.difference(dst.ram, loop.end))
        self.assert_goes_on(dst, loop)

    def test_image_is_complete_when_source_says_completed(self):
        src = self.source(run=True)
        image = self.path('image')
        src.migrate(self.exec_uri(self.command('save', image)),
                    'background-snapshot')
        src.wait_migration()
        out = self.tool('info', '-U', '--output=json', image)
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assert_completed('save')
        info = json.loads(out.stdout)
        self.assertIs(info['complete'], True)
        self.assertEqual(info['machine'], src.machine)
        self.assertEqual(info['page-size'], PAGE)
        self.assertEqual({b['name']: b['size'] for b in info['ram-blocks']}
                         [src.ram_id], src.ram.size)
        self.assertIn('cpu', [d['name'] for d in info['devices']])
        out = self.tool('check', image)
        self.assertEqual(out.returncode, 0, out.stderr)

    def test_monitor_answers_while_guest_is_saved(self):
        src = self.source(run=True, mib=256)
        start = time.monotonic()
        with Probe(src) as probe:
            self.save(src, self.path('image'), caps=['background-snapshot'])
        passed = time.monotonic() - start
        print(f'longest of {probe.count} QMP commands: '
              f'{probe.longest * 1000:.0f} ms of {passed * 1000:.0f}')
        self.assertGreater(probe.count, 10)
        self.assertLess(probe.longest, passed / 2)

    def test_each_snapshot_is_of_its_own_moment(self):
        src = self.source(run=True)
        for n in range(3):
            self.save(src, self.path(f'image{n}'),
                      caps=['background-snapshot'])
        gens = []
        for n in range(3):
            dst = self.destination(src)
            self.load(self.path(f'image{n}'), dst)
            self.assertIsNone(src.loop.torn(dst.ram))
            gens.append(src.loop.gen(dst.ram))
            dst.kill()
        self.assertEqual(gens, sorted(set(gens)))


if __name__ == '__main__':
    unittest.main(verbosity=2)
