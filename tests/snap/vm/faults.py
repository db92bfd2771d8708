#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Storage that fails at some step of a save: the source knows.
#

import errno
import os
import random
import unittest

from snaptest.vm.failure import MODES, DisturbedTest


class FaultTest(DisturbedTest):
    """Each case is a save in which one step fails, or all from it on."""

    MIB = 64
    # How many writes of RAM are let fail, beside all other steps
    WRITES = 6

    @staticmethod
    def needed(steps: list) -> list:
        """
        What a snapshot needs is all but the last write, and what follows it:
        that one is of the description, and a loss only for those who read it.
        Nor can all file systems allocate ahead.
        """
        last = max(n for name, n in steps if name == 'pwrite64')
        return [step for step in steps[:steps.index(('pwrite64', last))]
                if step[0] != 'fallocate64']

    def chosen(self, steps: list, seed: int) -> list:
        """Writes from all over the save, and all other steps"""
        rng = random.Random(seed)
        needed = self.needed(steps)
        writes = [step for step in needed if step[0] == 'pwrite64']
        size = len(writes) // self.WRITES
        some = [rng.choice(writes[n * size:(n + 1) * size])
                for n in range(self.WRITES)]
        return [step for step in needed if step[0] != 'pwrite64'] + some

    def fault(self, mode: str, step: str, n: int, error: int, *options: str):
        """A save fails, and says so to all who can hear it."""
        run = self.begin(mode, *options, prefix=self.stages.prefix(
            step, n, error, error == errno.ENOSPC and step == 'pwrite64'))
        status = self.src.wait_migration('completed', 'failed')['status']
        if run.status() == 0:
            # Saves of a running guest are not all alike.
            self.assertFalse((step, n) in self.needed(self.stages.log()))
            self.old, self.old_mark = self.whole(undescribed=True), self.mark
            self.assert_goes_on_after(mode, status)
            return
        self.assertEqual(run.status(), 1)
        report = run.report()
        self.assertEqual(report['status'], 'failed')
        self.assertIn(os.strerror(error), report['error'])
        # Two thirds of RAM do not fit into buffers and a socket.
        if MODES[mode].asks or step == 'pwrite64' and n < self.writes // 3:
            self.assertEqual(status, 'failed')
        self.assert_goes_on_after(mode, status)
        self.told += status == 'failed'
        where = 'an existing image' if options else 'a new file'
        knows = 'source' if MODES[mode].asks else 'exit status'
        self.tried(f'faults of the storage in saves ({mode}) of real guests '
                   f'to {where}: the {knows} tells')

    def assert_after_fault(self):
        """What a save that failed has left"""
        raise NotImplementedError

    def each(self, mode: str, *options: str):
        # The first save to an image allocates what others overwrite.
        self.steps(mode, *options)
        steps = self.steps(mode, *options)
        self.writes = sum(name == 'pwrite64' for name, _ in steps)
        self.told = 0
        for i, step in enumerate(self.chosen(steps, len(mode))):
            error = (errno.EIO, errno.ENOSPC)[i % 2]
            with self.subTest(f'{mode}, {errno.errorcode[error]} at {step}'):
                self.fault(mode, *step, error, *options)
                self.assert_after_fault()
        self.assertGreater(self.told, 0)
        # And when all is well again
        self.steps(mode, *options)
        self.assert_loads_whole()


class FaultInNewFile(FaultTest):
    """FILE stays what it was, and nothing is beside it."""

    def assert_after_fault(self):
        self.assertEqual(self.whole(), self.old)
        self.assert_only('image')

    def test_fault_in_background_save_leaves_only_old_file(self):
        self.each('background')

    def test_fault_in_live_save_leaves_only_old_file(self):
        self.each('live')

    def test_fault_in_return_path_save_leaves_only_old_file(self):
        self.each('return-path')

    def test_fault_in_unix_save_leaves_only_old_file(self):
        self.each('unix')

    def test_fault_in_unix_return_path_save_leaves_only_old_file(self):
        self.each('unix-return-path')


class FaultInExistingImage(FaultTest):
    """The image is no snapshot after any failure."""

    def setUp(self):
        super().setUp()
        self.img('create', '-f', 'qcow2', self.image, '256M')

    def assert_after_fault(self):
        out = self.tool('info', '--output=json', self.image)
        if out.returncode == 0:
            # Nothing was written: what was there before is still there.
            self.assertEqual(self.whole(), self.old)
        else:
            self.assertIn(self.image, out.stderr)

    def test_fault_in_background_save_leaves_no_false_snapshot(self):
        self.each('background', '-n')

    def test_fault_in_live_save_leaves_no_false_snapshot(self):
        self.each('live', '-n')

    def test_fault_in_return_path_save_leaves_no_false_snapshot(self):
        self.each('return-path', '-n')

    def test_fault_in_unix_save_leaves_no_false_snapshot(self):
        self.each('unix', '-n')

    def test_fault_in_unix_return_path_save_leaves_no_false_snapshot(self):
        self.each('unix-return-path', '-n')


if __name__ == '__main__':
    unittest.main(verbosity=2)
