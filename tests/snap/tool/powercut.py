#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Power cuts at any moment of a save: what storage may hold then is the old
# snapshot or the new one, or refused.
#

import os
import random
import sys
import tempfile
import unittest

from snaptest.faults.crash import (NEW, OLD, REFUSED, CrashTest, Failure, Run,
                                   Save, files, guest)
from snaptest.faults.powercut import Disk, relevant, replay
from snaptest.peers.decode import Stream
from snaptest.peers.destination import PostcopyTest
from snaptest.units import PAGE

SEED = 4711
# What is there, of all that nothing is known of, besides none and all
SHARES = (0.5, 0.8)
DRAWS, LAST_DRAWS = 2, 16


def with_return_path() -> bytes:
    """The new snapshot, from a source that waits for an answer"""
    builder = guest(2)
    builder.open_return_path()
    return builder.build()


class PowerCut(CrashTest):

    promise: str
    draws = DRAWS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tried = 0

    @classmethod
    def tearDownClass(cls):
        print(f'# {cls.tried} states of storage after power cuts: '
              f'{cls.promise}', file=sys.stderr)
        super().tearDownClass()

    def assert_complete(self, run: Run):
        """All went well, and nothing happened that is not in the log."""
        self.assertEqual((run.result.returncode, run.result.stderr), (0, b''))
        disk = run.disk()
        for _ in replay(run.records(), disk):
            pass
        replayed, found = disk.whole(), files(run.work)
        self.assertEqual(sorted(replayed), sorted(found))
        for name, content in found.items():
            self.assertEqual(replayed[name].digest(), content.digest(), name)

    # What may be left of it

    def states(self, records: list, disk: Disk):
        """States that differ, and whether the tool has exited before them"""
        rng = random.Random(SEED)
        seen = set()
        last = len(relevant(records))
        for i, now in enumerate(replay(records, disk)):
            draws = LAST_DRAWS if i == last else self.draws
            for share in (0, 1, *(SHARES * draws)[:draws]):
                state = now.cut(rng, share)
                key = (i == last, tuple(sorted(
                    (name, content.digest())
                    for name, content in state.items())))
                if key not in seen:
                    seen.add(key)
                    yield state, i == last

    def check(self, save, state: dict, exited: bool) -> list:
        """The verdicts on all files; a Failure if one is not allowed"""
        verdicts = {name: self.judge(content)
                    for name, content in state.items()}
        image = verdicts.get('image')
        if image is None and (exited or save.before):
            raise Failure(f'no image, but {verdicts}; exited: {exited}')
        if image and image not in save.allowed(exited):
            raise Failure(f'the image is {image}; exited: {exited}')
        return list(verdicts.values())

    def cut(self, save, run: Run, flushes=lambda n: True):
        """Try all states; returns their number, and all verdicts."""
        cases = list(self.states(run.records(), run.disk(flushes)))
        found = self.in_parallel(lambda case: self.check(save, *case), cases)
        return len(cases), {verdict for verdicts in found
                            for verdict in verdicts}

    def survives(self, save: Save, *wanted: str):
        """All states are good, and each of @wanted is among them."""
        with self.subTest((save.before, save.args)):
            run = self.run_save(save)
            self.assert_complete(run)
            number, verdicts = self.cut(save, run)
            for verdict in wanted:
                self.assertIn(verdict, verdicts)
            type(self).tried += number

    def fails_without(self, save: Save, *missing):
        """The flushes of these numbers are needed: this test sees it."""
        run = self.run_save(save)
        for numbers in missing:
            with self.subTest(numbers), self.assertRaises(Failure):
                self.cut(save, run, lambda n: n not in numbers)


class SaveToFile(PowerCut):
    """A save to FILE"""

    promise = 'FILE is the old snapshot or the new one, and whole'

    def test_new_file_survives_power_cut(self):
        self.survives(Save(), NEW, REFUSED)

    def test_replaced_file_survives_power_cut(self):
        self.survives(Save(before=OLD), OLD, NEW, REFUSED)

    def test_replaced_file_survives_power_cut_without_exchange(self):
        self.survives(Save(before=OLD, exchange=False), OLD, NEW, REFUSED)

    def test_new_file_survives_power_cut_without_exchange(self):
        self.survives(Save(exchange=False), NEW, REFUSED)

    def test_raw_file_survives_power_cut(self):
        self.survives(Save(('-O', 'raw'), OLD), OLD, NEW, REFUSED)

    def test_file_survives_power_cut_in_each_cache_mode(self):
        for cache in ('none', 'writeback', 'writethrough', 'directsync'):
            self.survives(Save((f'--cache={cache}',), OLD), OLD, NEW)

    def test_file_survives_power_cut_with_creation_options(self):
        for options in ('cluster_size=128k,extended_l2=on',
                        'cluster_size=4k', 'lazy_refcounts=on',
                        'preallocation=metadata'):
            self.survives(Save(('-o', options), OLD), OLD, NEW)

    def test_file_survives_power_cut_with_return_path(self):
        self.survives(Save(before=OLD, stream=with_return_path()), OLD, NEW)

    def test_missing_flush_of_file_would_be_noticed(self):
        """What becomes of it if a flush does nothing: 5 is the directory's."""
        self.fails_without(Save(before=OLD), {5}, {2, 3, 4},
                           {1, 2, 3, 4, 5})
        self.fails_without(Save(), {5}, {2, 3, 4})


class SaveToExistingImage(PowerCut):
    """A save to an image that exists"""

    promise = ('with -n, the image is the old snapshot or the new one, or '
               'refused')
    draws = 12

    def check(self, save: Save, state: dict, exited: bool) -> list:
        """Nor is a container ever worse than one that takes too much room."""
        content = state['image']
        if 'raw' not in save.args:
            with tempfile.NamedTemporaryFile(dir=self.dir) as file:
                content.store(file.name)
                result = self.img('check', '-f', 'qcow2', file.name,
                                  check=False)
            if result.returncode not in (0, 3):
                raise Failure(f'qemu-img check: {result.stdout}')
        return super().check(save, state, exited)

    def test_power_cut_makes_no_false_snapshot_of_empty_image(self):
        for fmt in ('qcow2', 'raw'):
            self.survives(Save(('-n', '-O', fmt), fmt), REFUSED, NEW)

    def test_power_cut_makes_no_false_snapshot_of_old_one(self):
        for fmt in ('qcow2', 'raw'):
            self.survives(Save(('-n', '-O', fmt), 'old ' + fmt),
                          OLD, REFUSED, NEW)

    def test_power_cut_makes_no_false_snapshot_in_each_cache_mode(self):
        for cache in ('writeback', 'writethrough'):
            self.survives(Save(('-n', '--cache', cache), 'old qcow2'),
                          OLD, REFUSED, NEW)

    def test_power_cut_makes_no_false_snapshot_with_return_path(self):
        self.survives(Save(('-n',), 'old qcow2', stream=with_return_path()),
                      OLD, REFUSED, NEW)

    def test_missing_flush_of_image_would_be_noticed(self):
        """1 is of the invalidation, 3 of all but the header, 5 at the end"""
        for fmt in ('qcow2', 'raw'):
            self.fails_without(Save(('-n', '-O', fmt), 'old ' + fmt),
                               {1}, {3}, {5}, {1, 2, 3, 4, 5})


class EmbedWorkingSet(PowerCut, PostcopyTest):
    """A working set is put into a snapshot, which it is no danger to."""

    promise = 'the snapshot is whole, and has the old working set or the new'
    draws = 12

    FIRST, SECOND = [1, 2, 6], [0, 1, 2, 7, 16]

    def record_working_set(self, pages: list) -> str:
        """A file with what a load has asked for"""
        path = os.path.join(self.directory(), 'set')
        self.recorded([('ram', page * PAGE) for page in pages],
                      '--working-set', path)
        return path

    def check(self, save, state: dict, exited: bool) -> list:
        verdict = self.judge(state['image'])
        if verdict not in (save[1:] if exited else save):
            raise Failure(f'the image is {verdict}; exited: {exited}')
        return [verdict]

    def embed(self, fmt: str, working_set: str) -> Run:
        run = self.begin_run(*os.path.split(self.image))
        return self.finish_run(run, 'embed', '-f', fmt, '--working-set',
                               working_set)

    def embeds(self, fmt: str, working_set: str, before: str, after: str):
        run = self.embed(fmt, working_set)
        self.assert_complete(run)
        number, verdicts = self.cut((before, after), run)
        self.assertEqual(verdicts, {before, after})
        type(self).tried += number

    def with_snapshot(self, fmt: str) -> str:
        """A snapshot without working set, and a working set for it"""
        self.snapshot = Stream(self.streams[NEW])
        self.image = os.path.join(self.prepared(Save(before=fmt)), 'image')
        self.save(self.streams[NEW], self.image, '-n', '-O', fmt)
        return self.record_working_set(self.FIRST)

    def test_power_cut_leaves_old_or_new_working_set(self):
        for fmt in ('qcow2', 'raw'):
            with self.subTest(fmt):
                first = self.with_snapshot(fmt)
                self.embeds(fmt, first, NEW, 'new+3')
                second = self.record_working_set(self.SECOND)
                self.embeds(fmt, second, 'new+3', 'new+5')
                self.embeds(fmt, first, 'new+5', 'new+3')

    def test_missing_flush_of_embed_would_be_noticed(self):
        """Neither the last flush nor those before it may be left out."""
        run = self.embed('qcow2', self.with_snapshot('qcow2'))
        flushes = sum(record.end and record.kind == 'flush'
                      for record in run.records())
        for real in ({flushes}, set(range(flushes))):
            with self.assertRaises(Failure):
                self.cut((NEW, 'new+3'), run, real.__contains__)


if __name__ == '__main__':
    unittest.main(verbosity=2)
