#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Loads by postcopy: the guest runs first, its RAM follows.
#

import unittest

from snaptest.units import MIB, PAGE
from snaptest.vm.case import Machines, PostcopyTest
from snaptest.vm.machine import NEWEST, Q35, VIRT
from snaptest.vm.run import PUSHED

HUGE = 2 * MIB // PAGE


class StoppedGuest(Machines, PostcopyTest):
    """A destination with -S does not run, and has RAM byte for byte."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST):
        src = self.snapshot(machine, version=version, mib=32)
        dst = self.destination(src, version=to)
        stats = self.load_postcopy(dst, self.image)
        self.assert_all_sent(stats)
        self.assertEqual(dst.status(), 'paused')
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_pages_of_precopy_come_no_second_time(self):
        src = self.snapshot()
        for percent in (0, 1, 60, 100):
            with self.subTest(percent):
                dst = self.destination(src)
                stats = self.load_postcopy(dst, self.image, percent=percent)
                self.assertEqual(stats['percent'], percent)
                self.assert_all_sent(stats)
                # Precopy goes by pieces, and has zero pages besides.
                rest = sum(stats[reason] for reason in PUSHED)
                self.assertAlmostEqual(self.stored - rest,
                                       self.stored * percent // 100,
                                       delta=HUGE)
                self.assert_same_ram(src, dst)
                dst.kill()

    def test_guest_has_same_ram_over_unix_and_fd(self):
        src = self.snapshot(mib=32)
        for over in ('unix', 'fd'):
            with self.subTest(over):
                dst = self.destination(src)
                stats = self.load_postcopy(dst, self.image, over=over)
                self.assert_all_sent(stats)
                self.assert_same_ram(src, dst)
                dst.kill()


class RunningGuest(Machines, PostcopyTest):
    """A destination runs before its RAM is there, and is none the worse."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST, *options,
                   **kwargs):
        src = self.snapshot(machine, version=version, run=True, mib=32)

        def start(*rate):
            dst = self.destination(src, version=to, run=True)
            return dst, self.postcopy(dst, self.image, *rate, *options,
                                      **kwargs)
        dst, load, gen = self.unfinished(
            start, lambda dst: self.assert_runs(dst, src.loop), 8)
        # It goes on, and does not start anew.
        self.assertGreaterEqual(gen, src.loop.gen(src.ram))
        stats = self.complete(load)
        self.assert_all_sent(stats)
        self.assertGreater(stats['requested-pages'], 0)
        self.assertGreater(stats['latency-us']['count'], 0)
        self.assert_ran_on(dst, src)

    def test_guest_comes_back_over_unix(self):
        self.round_trip(Q35, over='unix')

    def test_guest_comes_back_over_fd(self):
        self.round_trip(Q35, over='fd')

    def test_guest_comes_back_after_half_by_precopy(self):
        self.round_trip(Q35, percent=50)

    def preempt(self, machine, version=NEWEST):
        """Urgent pages overtake the others on a channel of their own."""
        self.round_trip(machine, version, version, '--preempt', over='unix',
                        caps=['postcopy-preempt'])

    def test_guest_comes_back_with_preempt(self):
        self.preempt(Q35)

    def test_7_2_guest_comes_back_with_preempt(self):
        self.preempt('pc-q35-7.2', '7.2')

    def test_10_0_guest_comes_back_with_preempt(self):
        self.preempt('pc-q35-10.0', '10.0')

    def test_aarch64_guest_comes_back_with_preempt(self):
        self.preempt(VIRT)

    def test_guest_runs_though_it_was_saved_stopped(self):
        """QEMU lets it run: postcopy knows of no other run state."""
        src = self.snapshot(mib=32)
        dst = self.destination(src, run=True)
        self.load_postcopy(dst, self.image)
        self.assert_ran_on(dst, src)

    def test_loaded_guest_can_be_saved_in_the_background(self):
        """As soon as the capability of its load is off."""
        src = self.snapshot(mib=32, run=True)
        dst = self.destination(src, run=True)
        self.load_postcopy(dst, self.image)
        with self.assertRaisesRegex(Exception, 'postcopy-ram'):
            dst.capabilities('background-snapshot')
        dst.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'postcopy-ram', 'state': False},
            {'capability': 'background-snapshot', 'state': True}])
        self.save(dst, self.path('again'))
        self.assertTrue(self.info(self.path('again'))['live'])
        self.assert_runs(dst, src.loop)

    def test_snapshot_of_live_save_comes_back(self):
        """A snapshot of plain precopy has no arrivals of use."""
        src = self.source(run=True, mib=32, pages=1024)
        self.save(src, self.image)
        self.stored = self.report()['stored-pages']
        src.kill()
        dst = self.destination(src, run=True)
        stats = self.load_postcopy(dst, self.image)
        self.assert_all_sent(stats)
        self.assert_ran_on(dst, src)


class Containers(PostcopyTest):
    """Pages come in any order out of any image."""

    def verify(self, src, image, *options):
        for run in (False, True):
            dst = self.destination(src, run=run)
            stats = self.load_postcopy(dst, image, *options)
            self.assert_all_sent(stats)
            if run:
                self.assert_ran_on(dst, src)
            else:
                self.assert_same_ram(src, dst)
            dst.kill()

    def test_compressed_copy_loads(self):
        src = self.snapshot(mib=32)
        self.img_convert('-c', '-O', 'qcow2', self.image, self.path('copy'))
        self.verify(src, self.path('copy'))

    def test_raw_copy_loads(self):
        src = self.snapshot(mib=32)
        self.img_convert('-O', 'raw', self.image, self.path('copy'))
        self.verify(src, self.path('copy'), '-f', 'raw')

    def test_encrypted_copy_loads(self):
        src = self.snapshot(mib=32)
        secret = ['--object', 'secret,id=s0,data=abc']
        self.img_convert(
            *secret, '-O', 'qcow2', '-o',
            'encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10',
            self.image, self.path('copy'))
        self.verify(src, f'driver=qcow2,file.filename={self.path("copy")},'
                         'encrypt.key-secret=s0', '--image-opts', *secret)

    def test_overlay_loads(self):
        src = self.snapshot(mib=32)
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 self.path('overlay'))
        self.verify(src, self.path('overlay'), '--backing-chain')

    def test_image_loads_with_each_aio_mode(self):
        src = self.snapshot(mib=32)
        for options in (['--cache=none', '--aio=native'],
                        ['--cache=none', '--aio=io_uring'],
                        ['--cache=writeback', '--aio=threads']):
            with self.subTest(options):
                self.verify(src, self.image, *options)


if __name__ == '__main__':
    unittest.main(verbosity=2)
