#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a load by postcopy sends unasked.
#

import unittest

from snaptest.sanitizers import is_sanitized
from snaptest.units import MIB, PAGE
from snaptest.vm.case import PostcopyTest
from snaptest.vm.guests import console_ticks, linux_args
from snaptest.vm.machine import Q35
from snaptest.vm.run import PUSHED


class PushPolicies(PostcopyTest):
    """Each policy can be switched off, and the rate be limited."""

    def watch(self, src, *options):
        """What a load has sent that does not end by itself."""
        dst = self.destination(src, run=True)
        load = self.postcopy(dst, self.image, *options, over='unix')
        for _ in range(3):
            self.assert_runs(dst, src.loop)
            self.assertEqual(dst.migration()['status'], 'postcopy-active')
        placed = dst.pages_placed()
        dst.kill()
        load.finish(1)
        stats = load.report()['postcopy']
        self.assertEqual(stats['linear-pages'], 0)
        self.assertEqual(stats['arrival-pages'], 0)
        return stats, placed

    def test_guest_without_push_gets_only_what_it_asks_for(self):
        """Such a load does not end, but the guest lacks nothing."""
        src = self.snapshot(run=True)
        stats, placed = self.watch(src, '--push=none')
        self.assertEqual({stats[reason] for reason in PUSHED}, {0})
        # Its working set, the mailbox, and what devices have asked for
        self.assertGreaterEqual(stats['requests'], src.loop.pages + 1)
        self.assertLess(placed, src.loop.pages + 64)

    def test_push_around_saves_requests(self):
        """A guest goes through its pages, but need not ask for each."""
        src = self.snapshot(run=True, pages=2048)
        around, _ = self.watch(src, '--push=around')
        self.assertGreater(around['around-pages'], 1000)
        none, _ = self.watch(src, '--push=around', '--fault-around=0')
        self.assertEqual(none['around-pages'], 0)
        # A sanitized tool is slower, and the guest asks in the meantime.
        factor = 1 if is_sanitized() else 3
        self.assertGreater(none['requests'], factor * around['requests'])

    def test_policy_that_is_off_pushes_nothing(self):
        src = self.snapshot(run=True)
        for push, off in (('linear', 'arrival'), ('linear', 'around'),
                          ('arrivals,linear', 'around'),
                          ('around,linear', 'arrival')):
            with self.subTest(push, off=off):
                dst = self.destination(src, run=True)
                stats = self.load_postcopy(dst, self.image, f'--push={push}')
                self.assert_all_sent(stats)
                self.assertGreater(stats['linear-pages'], 0)
                self.assertEqual(stats[off + '-pages'], 0)
                dst.kill()

    def test_pushed_pages_keep_to_the_rate_limit(self):
        src = self.snapshot(mib=32)
        dst = self.destination(src)
        stats = self.load_postcopy(dst, self.image, '-r', '8M')
        pushed = sum(stats[reason] for reason in PUSHED) * PAGE
        self.assertGreater(stats['complete-us'] - stats['run-us'],
                           0.7e6 * pushed / (8 * MIB))


class LinuxGuest(PostcopyTest):
    """A real guest, whose RAM is anonymous, does not notice."""

    def setUp(self):
        super().setUp()
        self.args = linux_args(self.dir)
        src = self.vm(Q35, '256M', *self.args)
        src.wait_console(lambda lines: len(console_ticks(lines)) > 3)
        self.save(src, self.image, caps=['background-snapshot'])
        self.stored = self.report()['stored-pages']
        self.last = console_ticks(src.console())[-1]
        src.kill()

    def waiting(self, *options):
        return self.vm(Q35, '256M', *self.args, *options,
                       '-incoming', 'defer')

    def test_linux_goes_on_where_it_was_saved(self):
        def start(*rate):
            dst = self.waiting()
            return dst, self.postcopy(dst, self.image, *rate)
        dst, load, _ = self.unfinished(
            start, lambda dst: dst.wait_console(console_ticks), 30)
        self.assert_all_sent(self.complete(load))
        count = len(console_ticks(dst.console()))
        dst.wait_console(lambda lines: len(console_ticks(lines)) > count + 20)
        ticks = console_ticks(dst.console())
        self.assertEqual({t.nonce for t in ticks}, {self.last.nonce})
        self.assertEqual({t.state for t in ticks}, {'ok'})
        counts = [t.count for t in ticks]
        self.assertEqual(counts, list(range(counts[0],
                                            counts[0] + len(counts))))
        self.assertLessEqual(counts[0], self.last.count + 2)

    def test_arrivals_are_pushed_if_wanted(self):
        """Pages that the guest wrote to during the save come first."""
        self.assertGreater(self.info(self.image)['arrivals'], 50)
        for push, wanted in (('working-set,arrivals,around,linear', True),
                             ('arrivals,linear', True),
                             ('working-set,around,linear', False)):
            with self.subTest(push):
                dst = self.waiting('-S')
                stats = self.load_postcopy(dst, self.image, f'--push={push}')
                self.assert_all_sent(stats)
                self.assertEqual(stats['arrival-pages'] > 50, wanted)
                # Zero pages are sent to those who ask for them.
                self.assertEqual(stats['zero-pages'],
                                 stats['zero-requested-pages'])
                dst.kill()


if __name__ == '__main__':
    unittest.main(verbosity=2)
