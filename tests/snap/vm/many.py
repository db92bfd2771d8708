#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Many loads by postcopy of one image: at the same time, and one by another's
# working set.
#

import os
import signal
import subprocess
import unittest

from snaptest import TIMEOUT
from snaptest.tool import REFUSAL
from snaptest.units import MIB
from snaptest.vm.case import PostcopyTest
from snaptest.vm.machine import NEWEST, PC, VM
from snaptest.vm.ram import Ram
from snaptest.vm.run import Load
from snaptest.waiting import wait_until


class SeveralLoads(PostcopyTest):
    """Several machines revert to one image, each at its own pace."""

    def test_guests_of_one_image_each_get_all_their_ram(self):
        src = self.snapshot(run=True, mib=32)
        loads = []

        def start(*rate):
            first = self.postcopy(self.destination(src, run=True), self.image,
                                  *rate, over='unix')
            loads[:] = [first] + [
                self.postcopy(self.destination(src, run=True), self.image,
                              '-r', f'{4 << n}M',
                              over='exec' if n % 2 else 'unix')
                for n in range(1, 4)]
            return first.vm, first

        def during(_):
            for load in loads:
                self.assert_runs(load.vm, src.loop)
        self.unfinished(start, during, 4)
        vms = [load.vm for load in loads]
        for load in loads:
            self.assert_all_sent(self.complete(load))
        for vm in vms:
            self.assert_ran_on(vm, src)

    def test_load_goes_on_with_file_it_has_opened(self):
        src = self.snapshot(run=True, mib=32)
        other = self.source(run=True, mib=32, pages=1024)

        def start(*rate):
            dst = self.destination(src, run=True)
            return dst, self.postcopy(dst, self.image, *rate)
        dst, load, _ = self.unfinished(
            start, lambda dst: self.assert_runs(dst, src.loop), 3)
        load.kill(signal.SIGSTOP)
        stored = self.stored
        self.snapshot_of(other)
        self.assertFalse(load.ended())
        load.kill(signal.SIGCONT)
        stats = self.complete(load)
        self.assertEqual(stats['stored-pages'], stored)
        self.assert_ran_on(dst, src)


class WorkingSet(PostcopyTest):
    """What one load was asked for, the next one sends before it is asked."""

    PAGES = 2048

    def setUp(self):
        super().setUp()
        self.sidecar = self.image + '.working-set'
        self.src = self.hot()

    def hot(self):
        return self.snapshot(run=True, mib=32, pages=self.PAGES, delay=0)

    def load(self, *options):
        """Load into a running guest, which uses all of its working set."""
        dst = self.destination(self.src, run=True)
        load = self.postcopy(dst, self.image, *options)
        stats = self.complete(load)
        self.assert_all_sent(stats)
        self.assert_ran_on(dst, self.src)
        dst.kill()
        self.warnings = load.read('.err')
        return stats

    def record(self, *options):
        """Load and record; how often the guest had to ask."""
        # The guest of a busy machine takes longer to use them.
        for seconds in (2, 10, 50):
            stats = self.load(f'--record={seconds}', *options)
            if stats['requests'] > self.PAGES / 2:
                break
        self.assertGreater(stats['requests'], self.PAGES / 2)
        return stats['requests']

    def assert_of_use(self, stats, asked):
        print(f'asked for {asked} pages, then for {stats["requests"]}')
        self.assertGreater(stats['working-set-pages'], self.PAGES / 2)
        self.assertLess(stats['requests'], asked / 5)
        self.assertEqual(self.warnings, '')

    def assert_ignored(self, stats, file=None):
        """No working set was used, with a warning that names @file."""
        self.assertEqual(stats['working-set-pages'], 0)
        if file:
            self.assertIn('warning', self.warnings)
            self.assertIn(file, self.warnings)
        else:
            self.assertEqual(self.warnings, '')

    def test_recorded_working_set_spares_requests(self):
        asked = self.record()
        inode = os.stat(self.sidecar).st_ino
        self.assert_of_use(self.load(), asked)
        self.assert_of_use(self.load('--push=working-set,linear'), asked)
        self.assert_ignored(self.load('--push=arrivals,around,linear'))
        # A record takes the place of the one before.
        self.record()
        self.assertNotEqual(os.stat(self.sidecar).st_ino, inode)
        self.assert_of_use(self.load(), asked)

    def test_working_set_option_names_the_file(self):
        path = self.path('else')
        asked = self.record('--working-set', path)
        self.assertFalse(os.path.exists(self.sidecar))
        self.assert_ignored(self.load())
        self.assert_of_use(self.load('--working-set', path), asked)

    def test_working_set_of_another_snapshot_is_ignored(self):
        self.record()
        foreign = Ram.existing(self.sidecar).digest()
        self.src = self.hot()
        self.assert_ignored(self.load(), self.sidecar)
        self.assertEqual(Ram.existing(self.sidecar).digest(), foreign)
        before = Ram.existing(self.image).digest()
        self.assert_not_embedded(self.sidecar)
        self.assertEqual(Ram.existing(self.image).digest(), before)

    def test_damaged_working_set_is_ignored(self):
        self.record()
        size = os.path.getsize(self.sidecar)
        with open(self.sidecar, 'r+b') as f:
            f.seek(size // 2)
            byte = f.read(1)[0]
            f.seek(size // 2)
            f.write(bytes([byte ^ 1]))
        self.assert_ignored(self.load(), self.sidecar)
        self.assert_not_embedded(self.sidecar)
        os.truncate(self.sidecar, size // 2)
        self.assert_ignored(self.load(), self.sidecar)
        self.assert_not_embedded(self.sidecar)

    def assert_not_embedded(self, cause):
        out = self.tool('embed', self.image)
        self.assertEqual(out.returncode, 1)
        self.assertIn(cause, out.stderr)
        self.assertEqual(out.stderr.count('\n'), 1, out.stderr)

    def test_embedded_working_set_serves_if_there_is_no_other(self):
        self.assert_not_embedded(self.sidecar)
        asked = self.record()
        self.assertEqual(self.info(self.image)['working-set'], 0)
        out = self.tool('embed', self.image)
        self.assertEqual((out.returncode, out.stderr), (0, ''))
        self.assertGreater(self.info(self.image)['working-set'],
                           self.PAGES / 2)
        self.assertIn('working set', self.tool('info', self.image).stdout)
        self.assertEqual(self.tool('check', self.image).returncode, 0)
        os.unlink(self.sidecar)
        self.assert_of_use(self.load(), asked)
        copy = self.path('copy')
        self.img_convert('-c', '-O', 'qcow2', self.image, copy)
        self.image = copy
        self.assert_of_use(self.load(), asked)

    def test_embed_refuses_image_that_is_being_loaded(self):
        """An image that is being loaded is not written to."""
        self.record()
        before = Ram.existing(self.image).digest()
        vms = [self.destination(self.src, run=True) for _ in range(2)]
        loads = [self.postcopy(vm, self.image, '--push=none') for vm in vms]
        for vm, load in zip(vms, loads):
            self.assert_runs(vm, self.src.loop)
            self.assert_not_embedded('lock')
            self.assertEqual(Ram.existing(self.image).digest(), before)
            vm.kill()
            load.finish(1)
        out = self.tool('embed', self.image)
        self.assertEqual((out.returncode, out.stderr), (0, ''))


class Misuse(PostcopyTest):
    """What cannot be done is explained."""

    def no_capability(self, over):
        src = self.snapshot(mib=32)
        dst = self.destination(src)
        load = Load(self, dst, dst.incoming, over, self.image, '--postcopy')
        err = load.finish(1)
        self.assertRegex(err, "^qemu-snap: Could not load '.*': .*\n$")
        self.assertIn('postcopy-ram', err)
        self.assertIn('postcopy-ram', load.report()['error'])
        wait_until(lambda: dst.exitcode() is not None, TIMEOUT)

    def test_missing_capability_is_named_over_exec(self):
        self.no_capability('exec')

    def test_missing_capability_is_named_over_unix(self):
        self.no_capability('unix')

    def refused(self, dst: VM, over: str, *options: str) -> str:
        """What the tool says of a destination that takes no snapshot"""
        load = Load(self, dst, dst.incoming, over, self.image, *options)
        err = load.finish(1)
        self.assertRegex(err, "^qemu-snap: Could not load '.*': .*\n$")
        self.assertIn('its own log', err)
        self.assertIn(load.report()['error'], err)
        wait_until(lambda: dst.exitcode() is not None, 20)
        return err

    def test_lazy_load_into_other_ram_is_explained(self):
        for version, over in ((NEWEST, 'exec'), (NEWEST, 'unix'),
                              ('7.2', 'exec'), ('7.2', 'unix')):
            src = self.snapshot('pc-q35-7.2', version=version, mib=32)
            for mib in (16, 64):
                with self.subTest((version, over, mib)):
                    dst = self.destination(src, version=version,
                                           ram=self.ram(mib * MIB))
                    dst.capabilities('postcopy-ram')
                    err = self.refused(dst, over, '--postcopy')
                    self.assertIn("refuses the snapshot's RAM", err)
                    self.assertNotIn('userfaultfd', err)

    def test_load_into_another_machine_is_explained(self):
        src = self.snapshot(mib=32)
        src.machine = PC
        for over in ('exec', 'unix'):
            with self.subTest(over):
                dst = self.destination(src)
                dst.capabilities('postcopy-ram')
                err = self.refused(dst, over, '--postcopy')
                self.assertIn('machine type', err)
                err = self.refused(self.destination(src), over)
                self.assertIn('has refused the snapshot', err)

    def test_eager_load_into_other_ram_is_a_refusal(self):
        src = self.snapshot(mib=32)
        for over in ('exec', 'unix', 'fd'):
            with self.subTest(over):
                dst = self.destination(src, ram=self.ram(64 * MIB))
                err = self.refused(dst, over)
                self.assertIn('has refused the snapshot', err)

    def test_multifd_load_into_other_ram_is_a_refusal(self):
        src = self.snapshot(mib=32)
        dst = self.destination(src, ram=self.ram(64 * MIB))
        dst.capabilities('multifd')
        err = self.refused(dst, 'unix', '--multifd-channels=2')
        self.assertIn('has refused the snapshot', err)

    def test_wrong_command_line_ends_the_destination(self):
        """It would wait for a stream indefinitely."""
        src = self.snapshot(mib=32)
        for options in (['--postcopy', '50'], ['--frob'], ['-s', '1G'],
                        ['--object', 'secret,id=x']):
            with self.subTest(options):
                dst = self.destination(src)
                dst.incoming(self.exec_uri(self.command('load', self.image,
                                                        *options)))
                wait_until(lambda dst=dst: dst.exitcode() is not None, 20)
                self.assertIn('qemu-snap: ', dst.log())

    def test_wrong_percent_is_refused(self):
        self.snapshot(mib=32)
        for percent in ('101', '-1', 'x', '', '50%', '1e1', '4294967296'):
            with self.subTest(percent):
                out = self.tool(f'--postcopy={percent}', 'load', self.image,
                                stdin=subprocess.DEVNULL)
                self.assertEqual(out.returncode, 1)
                self.assertIn(f"'{percent}'", out.stderr)
                self.assertEqual(out.stderr.count('\n'), 1, out.stderr)
                # A byte that no stream begins with, if any
                self.assertIn(out.stdout, ('', REFUSAL.decode()))

    def test_options_that_make_no_sense_are_refused(self):
        self.snapshot(mib=32)
        for options in (['--preempt'],
                        ['--preempt', '--postcopy'],
                        ['--postcopy', '--push=none,linear'],
                        ['--postcopy', '--push=nosuch'],
                        ['--postcopy', '--host-page-size=3M']):
            with self.subTest(options):
                out = self.tool(*options, 'load', self.image,
                                stdin=subprocess.DEVNULL)
                self.assertEqual(out.returncode, 1)
                self.assertRegex(out.stderr, '^qemu-snap: ')
                self.assertIn(out.stdout, ('', REFUSAL.decode()))


if __name__ == '__main__':
    unittest.main(verbosity=2)
