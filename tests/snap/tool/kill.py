#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# SIGKILL at any moment of a save: what is left is the old snapshot or the new
# one, or refused, and in nobody's way.
#

import os
import random
import subprocess
import sys
import time
import unittest

from snaptest import TIMEOUT, env
from snaptest.faults.crash import (NEW, OLD, REFUSED, SAVES, CrashTest,
                                   Failure, Run, Save, files)
from snaptest.faults.storage import Storage

SEED = 4712
RANDOM_KILLS = 25
# Other operations change nothing: a kill next to them is one next to these.
CHANGES = ('write', 'flush', 'meta')


class KilledSave(CrashTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tried, cls.found = 0, set()

    @classmethod
    def tearDownClass(cls):
        print(f'# {cls.tried} kills: the image is the old snapshot or the new '
              'one, or with -n refused, and the next save is none the wiser',
              file=sys.stderr)
        super().tearDownClass()

    def check(self, save: Save, run: Run):
        """What a kill has left"""
        verdicts = {name: self.judge(content)
                    for name, content in files(run.work).items()}
        image = verdicts.get('image')
        if image is None and save.before:
            raise Failure(f'no image, but {verdicts}')
        if image and image not in save.allowed(False):
            raise Failure(f'the image is {image}')
        self.found.add(image)
        self.save_again(save, run)

    def save_again(self, save: Save, run: Run):
        """Nothing is in its way, and nothing is left after it."""
        again = self.finish_run(run, 'save', *save.args,
                                stdin=self.streams[OLD],
                                exchange=save.exchange).result
        if (again.returncode, again.stderr) != (0, b''):
            raise Failure(f'the next save fails: {again.stderr}')
        if os.listdir(run.work) != ['image']:
            raise Failure(f'the next save leaves {os.listdir(run.work)}')
        if self.judge(files(run.work)['image']) != OLD:
            raise Failure('the next save is lost')

    def killed_at(self, save: Save, where: str):
        """Kill at an operation; returns whether there was one."""
        run = self.run_save(save, where + ' 0')
        if run.result.returncode == 0:
            return False
        if run.result.returncode != -9 or not run.disturbed():
            raise Failure(f'{where}: {run.result}')
        self.check_named(save, run, f'{where}, {run.disturbed()}')
        return True

    def check_named(self, save: Save, run: Run, where: str):
        try:
            self.check(save, run)
        except Failure as error:
            raise Failure(f'{save}, killed {where}: {error}') from None

    def killed_after(self, save: Save, seconds: float):
        """Kill some time after the start"""
        run = self.begin_run(self.prepared(save))
        environ = Storage(run.work, self.storage_library).environ(
            exchange=save.exchange)
        with subprocess.Popen(
                [env('QEMU_SNAP'), 'save', *save.args, '--aio=threads',
                 run.image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environ) as process:
            timer = time.monotonic() + seconds
            process.stdin.write(self.streams[NEW][:-1])
            process.stdin.flush()
            time.sleep(max(0, timer - time.monotonic()))
            process.kill()
            process.communicate(timeout=TIMEOUT)
        self.check_named(save, run, f'after {seconds} s')

    def test_image_is_whole_or_refused_if_killed_at_any_operation(self):
        """Before and after each operation that changes something"""
        for save in SAVES:
            cases = [
                (save, f'{cls} {n} kill-{when}')
                for cls, number in self.count(save, CHANGES).items()
                for n in range(1, number + 1)
                for when in ('before', 'after')]
            with self.subTest(save):
                killed = self.in_parallel(lambda case: self.killed_at(*case),
                                          cases)
                # Requests may be merged differently from run to run
                self.assertGreater(sum(killed), len(cases) * 0.9)
                type(self).tried += sum(killed)
        self.assertLessEqual({None, OLD, NEW, REFUSED}, self.found)

    def test_image_is_whole_or_refused_if_killed_at_any_moment(self):
        """At any time, while the save waits for its last byte at the latest"""
        rng = random.Random(SEED)
        for save in SAVES:
            start = time.monotonic()
            self.run_save(save)
            usual = time.monotonic() - start
            times = [rng.uniform(0, usual) for _ in range(RANDOM_KILLS)]
            with self.subTest(save):
                self.in_parallel(
                    lambda seconds, save=save: self.killed_after(save,
                                                                 seconds),
                    times)
                type(self).tried += len(times)


if __name__ == '__main__':
    unittest.main(verbosity=2)
