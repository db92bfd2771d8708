#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A real Linux guest goes on from the moment of its snapshot.
#

import unittest

from snaptest.vm.case import SnapTest
from snaptest.vm.guests import console_ticks, linux_args
from snaptest.vm.machine import NEWEST, Q35


class LinuxGuest(SnapTest):
    """Anonymous RAM; the guest's own nonce, counter and data are the proof."""

    def boot(self, machine, version=NEWEST):
        vm = self.vm(machine, '256M', *linux_args(self.dir),
                     version=version)
        vm.wait_console(lambda lines: len(console_ticks(lines)) > 3)
        return vm

    def revert(self, src, version=NEWEST):
        """A new machine, loaded; the first lines that it prints."""
        src.kill()
        dst = self.vm(src.machine, '256M', *linux_args(self.dir),
                      '-incoming', 'defer', version=version)
        self.load(self.path('image'), dst)
        self.assertEqual(dst.status(), 'running')
        # The first line may be cut: its beginning was printed by the source.
        dst.wait_console(lambda lines: len(console_ticks(lines)) > 20)
        return console_ticks(dst.console())

    def assert_goes_on_from(self, before, after, ticks):
        """The counter goes on from between two ticks, one by one."""
        self.assertEqual({t.nonce for t in ticks}, {before.nonce})
        self.assertEqual({t.state for t in ticks}, {'ok'})
        counts = [t.count for t in ticks]
        self.assertEqual(counts, list(range(counts[0],
                                            counts[0] + len(counts))))
        self.assertLess(before.count, counts[0])
        self.assertLessEqual(counts[0], after.count + 2)

    def background(self, machine, version=NEWEST, to=NEWEST):
        src = self.boot(machine, version)
        before = console_ticks(src.console())[-1]
        src.migrate(self.exec_uri(self.command('save', self.path('image'))),
                    'background-snapshot')
        src.wait_snapshot_taken()
        after = console_ticks(src.console())[-1]
        src.wait_migration()
        self.assert_completed('save')
        src.wait_console(
            lambda lines: console_ticks(lines)[-1].count > after.count + 10)
        self.assert_goes_on_from(before, after, self.revert(src, to))

    def test_linux_goes_on_from_background_snapshot(self):
        self.background(Q35)

    def test_linux_of_7_2_goes_on_in_newest(self):
        self.background('pc-i440fx-7.2', '7.2')

    def test_linux_goes_on_from_live_save(self):
        src = self.boot(Q35)
        self.save(src, self.path('image'), caps=['return-path'])
        last = console_ticks(src.console())[-1]
        self.assert_goes_on_from(last, last, self.revert(src))


if __name__ == '__main__':
    unittest.main(verbosity=2)
