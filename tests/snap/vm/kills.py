#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Kills of the tool and of the source: FILE is old or new, and whole.
#

import collections
import contextlib
import os
import random
import signal
import statistics
import time
import unittest

from snaptest.vm.failure import MODES, DisturbedTest


class KillTest(DisturbedTest):
    """FILE is looked at after each kill."""

    def setUp(self):
        super().setUp()
        self.seen = collections.Counter()   # in this test

    def duration(self, mode: str) -> float:
        """How long it takes from the migration's start to the tool's end."""
        times = []
        for _ in range(3):
            start = time.monotonic()
            run = self.begin(mode)
            run.finish()
            times.append(time.monotonic() - start)
            self.src.wait_migration()
            self.old, self.old_mark = self.whole(), self.mark
        return statistics.median(times)

    def delays(self, mode: str, count: int, seed: int) -> list[float]:
        """Spread over all of a save, and a bit more"""
        rng = random.Random(seed)
        duration = self.duration(mode)
        return [1.1 * duration * (n + rng.random()) / count
                for n in range(count)]


class KilledTool(KillTest):
    """kill -9 of the tool: what it leaves is in nobody's way."""

    # How many kills until a save is left alone, and until FILE is loaded
    SAVES, LOADS = 3, 8

    def kill(self, mode: str, run):
        """The source knows what happened; the next save does not mind."""
        if not run.ended():
            with contextlib.suppress(ProcessLookupError):
                run.kill()
        self.stages.release()
        status, new = self.outcome(mode, run, undescribed=True)
        self.assertIn(run.status(), (-signal.SIGKILL, 0))
        if run.status() == 0:
            self.assertEqual((status, new), ('completed', True))
        self.assertLessEqual(set(os.listdir(self.home)) - {'image'},
                             self.LEFTOVERS)
        self.tried(f'kills of the tool ({mode}) under real sources: FILE is '
                   'old or new, and whole', run.status() != 0)
        self.seen['failed'] += status == 'failed'
        self.seen['new'] += new
        self.seen['saves'] += 1
        if self.seen['saves'] % self.LOADS == self.LOADS // 2:
            self.assert_loads_whole()
            self.tried('loads of what kills have left')
        if self.seen['saves'] % self.SAVES == 0:
            self.next_save()

    def at_random(self, mode: str, count: int):
        for delay in self.delays(mode, count, count):
            with self.subTest(f'{mode}, after {delay:.3f} s'):
                run = self.begin(mode)
                time.sleep(delay)
                self.kill(mode, run)
        self.next_save()
        # Any machine is slow enough for the first ones.
        self.assertGreater(self.seen['failed'], 0)

    def test_save_killed_at_once_leaves_file_whole(self):
        """Before there is anything to read"""
        for mode in ('background', 'live', 'return-path'):
            for _ in range(2):
                with self.subTest(mode):
                    self.kill(mode, self.begin(mode))
            with self.subTest(f'{mode}, with a wrong option'):
                run = self.begin(mode, '--no-such-option')
                self.assertEqual(self.outcome(mode, run), ('failed', False))
                run.finish(1)
        self.next_save()

    def test_background_save_killed_at_random_leaves_file_whole(self):
        self.at_random('background', 20)

    def test_live_save_killed_at_random_leaves_file_whole(self):
        self.at_random('live', 5)

    def test_return_path_save_killed_at_random_leaves_file_whole(self):
        self.at_random('return-path', 5)

    def test_unix_save_killed_at_random_leaves_file_whole(self):
        self.at_random('unix', 5)

    def at_stages(self, mode: str, nb_writes: int, last: int = 2):
        """
        At each step that is no write, at some writes of RAM and at the @last
        ones, none of which is of RAM
        """
        steps = self.steps(mode)
        rng = random.Random(nb_writes)
        writes = [step for step in steps if step[0] == 'pwrite64']
        chosen = rng.sample(writes[:-4], nb_writes) + writes[-last:]
        for step in steps:
            if step[0] == 'pwrite64' and step not in chosen:
                continue
            with self.subTest(f'{mode}, before {step}'):
                if mode == 'unix':
                    self.remove_leftovers()
                self.kill(mode, self.hold(mode, *step))
        self.next_save()
        # All of RAM may be in the tool's buffers, and the rest in a socket.
        self.assertGreater(self.seen['failed'],
                           nb_writes if MODES[mode].asks else 0)
        self.assertGreater(self.seen['new'], 0)

    def remove_leftovers(self):
        """The next save would do it, as its first step, before it listens."""
        for name in self.LEFTOVERS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.home, name))

    def test_background_save_killed_at_a_step_leaves_file_whole(self):
        self.at_stages('background', 8, 4)

    def test_live_save_killed_at_a_step_leaves_file_whole(self):
        self.at_stages('live', 2)

    def test_return_path_save_killed_at_a_step_leaves_file_whole(self):
        self.at_stages('return-path', 2)

    def test_unix_save_killed_at_a_step_leaves_file_whole(self):
        self.at_stages('unix', 2)


class KilledSource(KillTest):
    """kill -9 of the source: the tool knows better than to go on."""

    def kill(self, run):
        """The tool's exit status tells what is in FILE, the only one."""
        os.kill(self.src.get_pid(), signal.SIGKILL)
        self.stages.release()
        status = run.status()
        self.assertIn(status, (0, 1))
        uuid = self.whole()
        self.assertEqual(uuid != self.old, status == 0)
        self.assertEqual(run.report()['status'],
                         'failed' if status else 'completed')
        self.assert_only('image')
        if status == 0:
            self.old, self.old_mark = uuid, self.mark
        self.tried('kills of the source: FILE is what the tool says')
        self.seen['failed'] += status != 0

    def another(self):
        """A source in the place of the one that was killed, with its RAM"""
        self.src.kill()
        os.unlink(self.src.ram.path)
        self.src = self.source(run=True, mib=self.MIB)

    def test_exit_status_tells_if_source_is_killed_at_random(self):
        for mode, count in (('background', 6), ('return-path', 2),
                            ('unix', 2)):
            for delay in self.delays(mode, count, count):
                with self.subTest(f'{mode}, after {delay:.3f} s'):
                    run = self.begin(mode)
                    time.sleep(delay)
                    self.kill(run)
                self.another()
        self.assertGreater(self.seen['failed'], 0)
        self.assert_loads_whole()

    def test_exit_status_tells_if_source_is_killed_at_a_step(self):
        for mode in MODES:
            for step in (('pwrite64', 12), ('fdatasync', 1),
                         ('renameat2', 1), ('fsync', 2)):
                with self.subTest(f'{mode}, before {step}'):
                    run = self.hold(mode, *step)
                    self.assertFalse(run.ended())
                    self.kill(run)
                self.another()
        self.assertGreater(self.seen['failed'], 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
