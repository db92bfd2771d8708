#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Loads by postcopy into RAM of huge pages.
#

import mmap
import os
import signal
import subprocess
import unittest

from snaptest.units import MIB, PAGE
from snaptest.vm.case import PostcopyTest
from snaptest.vm.machine import NEWEST, Q35
from snaptest.vm.ram import Ram

RESERVE = '/proc/sys/vm/nr_hugepages'
HUGE = 2 * MIB
SIZE = 64 * MIB

# Offsets of a host page of zeroes, and of two with one page of data each
ZERO = 24 * MIB
SPARSE = 32 * MIB, 40 * MIB

OPTION = '--host-page-size=pc.ram=2M'
# So slow that a load takes seconds
SLOW = ['-r', '16M']


class HugeRam(Ram):
    """A file on hugetlbfs, which can be read, but not written to."""

    def poison(self):
        with open(self.path, 'r+b') as f, \
                mmap.mmap(f.fileno(), self.size) as m:
            m[:] = b'\xa5' * self.size


class HugePages(PostcopyTest):
    """The destination takes a host page in one piece, or not at all."""

    @classmethod
    def setUpClass(cls):
        """Reserve as many pages as one destination has."""
        with open(RESERVE, encoding='ascii') as f:
            before = int(f.read())
        cls.addClassCleanup(cls.reserve, before)
        cls.reserve(before + SIZE // HUGE)

    @staticmethod
    def reserve(pages):
        with open(RESERVE, 'w', encoding='ascii') as f:
            f.write(str(pages))
        with open(RESERVE, encoding='ascii') as f:
            if int(f.read()) != pages:
                raise MemoryError(f'there are no {pages} huge pages')

    def setUp(self):
        super().setUp()
        self.mount = self.path('huge')
        os.mkdir(self.mount)
        subprocess.run(['mount', '-t', 'hugetlbfs', '-o', 'pagesize=2M',
                        'none', self.mount], check=True)
        self.addCleanup(subprocess.run, ['umount', self.mount], check=True)

    def huge(self, src, **kwargs):
        """Like destination(), in huge pages; one at a time."""
        ram = HugeRam(os.path.join(self.mount, 'ram'), SIZE)
        return self.destination(src, ram=ram, **kwargs)

    def sparse(self, **kwargs):
        """A snapshot with host pages that are zero, and nearly so."""
        src = self.source(mib=SIZE // MIB, **kwargs)
        for offset in ZERO, *SPARSE:
            src.ram.write(offset, bytes(HUGE))
        src.ram.write(SPARSE[0], b'first page')
        src.ram.write(SPARSE[1] + HUGE - PAGE, b'last page')
        return self.snapshot_of(src)

    def test_stopped_guest_has_same_ram(self):
        src = self.sparse()
        for percent in (0, 50, 100):
            with self.subTest(percent):
                dst = self.huge(src)
                stats = self.load_postcopy(dst, self.image, OPTION,
                                           percent=percent)
                self.assert_all_sent(stats)
                self.assert_same_ram(src, dst)
                if percent == 0:
                    # A host page that is zero is worth no memory.
                    self.assertLess(dst.pages_placed(), SIZE // PAGE)
                dst.kill()

    def run_on(self, *options, machine=Q35, version=NEWEST,
               **kwargs):
        src = self.sparse(machine=machine, version=version, run=True)

        def start(*rate):
            dst = self.huge(src, version=version, run=True)
            return dst, self.postcopy(dst, self.image, OPTION, *rate, *options,
                                      **kwargs)
        dst, load, _ = self.unfinished(
            start, lambda dst: self.assert_runs(dst, src.loop), 16)
        self.assert_all_sent(self.complete(load))
        self.assert_ran_on(dst, src)

    def test_running_guest_gets_all_its_ram(self):
        self.run_on()

    def test_running_guest_gets_all_its_ram_over_unix(self):
        self.run_on(over='unix')

    def test_running_guest_gets_all_its_ram_after_precopy(self):
        self.run_on(percent=50)

    def test_running_guest_gets_all_its_ram_with_preempt(self):
        self.run_on('--preempt', over='unix', caps=['postcopy-preempt'])

    def test_7_2_guest_gets_all_its_ram(self):
        self.run_on(machine='pc-q35-7.2', version='7.2')

    def test_10_0_guest_gets_all_its_ram(self):
        self.run_on(machine='pc-q35-10.0', version='10.0')

    def recover(self, *options, **kwargs):
        """Killed in the middle, which may be that of a host page."""
        src = self.sparse(run=True)
        dst = self.huge(src, run=True)
        load = self.postcopy(dst, self.image, OPTION, *SLOW, *options,
                             **kwargs)
        self.assert_runs(dst, src.loop)
        load.kill()
        dst.wait_paused()
        load.finish(-signal.SIGKILL)
        over = kwargs.get('over', 'exec')
        stats = self.complete(self.resume(dst, self.image, OPTION, *options,
                                          over=over))
        self.assertLess(stats['stored-pages'], self.stored)
        self.assert_ran_on(dst, src)

    def test_broken_load_can_be_resumed(self):
        self.recover()

    def test_broken_load_can_be_resumed_with_preempt(self):
        self.recover('--preempt', over='unix', caps=['postcopy-preempt'])

    def refused(self, *options, words='--host-page-size', huge=True):
        """The tool says what to do, or what is wrong with what it was told."""
        src = self.snapshot()
        dst = self.huge(src) if huge else self.destination(src)
        load = self.postcopy(dst, self.image, *options, over='unix')
        err = load.finish(1)
        self.assertRegex(err, "^qemu-snap: Could not load '.*': .*\n$")
        self.assertIn(self.image, err)
        self.assertIn(words, err)
        self.assertIn(words, load.report()['error'])

    def test_error_names_the_option_that_is_missing(self):
        self.refused()

    def test_wrong_size_is_refused(self):
        self.refused('--host-page-size=pc.ram=4M')

    def test_host_page_larger_than_its_block_is_refused(self):
        self.refused('--host-page-size=pc.ram=1G', words='pc.ram')

    def test_option_for_unknown_block_is_refused(self):
        self.refused('--host-page-size=nosuch=2M', words='nosuch')

    def test_option_for_ordinary_pages_is_refused(self):
        self.refused(OPTION, huge=False)


if __name__ == '__main__':
    unittest.main(verbosity=2)
