#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# check --repair: what a load can do without is mended, and the load is the
# same as before; an image with any other damage stays as it is.
#

import json
import os
import random
import shutil
import sys
import time
import unittest
from collections import Counter

from snaptest import TIMEOUT
from snaptest.image.anatomy import HEADER_USED, PARTS, checksum
from snaptest.image.bitflips import (BARE, CORRUPT, IMPOSSIBLE, LEAKS, SOUND,
                                     Flip, Outcome, Specimen, Specimens,
                                     Worker, Workers, as_many_as_can_be)
from snaptest.peers.decode import Stream
from snaptest.peers.destination import RUNNING, PostcopyTest
from snaptest.peers.streams import StreamBuilder

HINTS = ('arrival list', 'working set', 'device description')
UNREADABLE = b'Could not read'
PAGE_SIZE, CHUNK_ENTRIES = 1024, 8191
TOTAL = Counter()
REPAIRED = 'damages of hints and refcounts repaired: the load stays the same'
LEFT = 'damages elsewhere: --repair changes no byte'
KILLED = 'repairs killed: damaged as before, or sound'


def tearDownModule():
    for what, number in sorted(TOTAL.items()):
        print(f'# {number} {what}', file=sys.stderr)


class Mender(Worker):
    """Damage an image, have it repaired, and see what it has become."""

    def begin_work(self, specimen: Specimen):
        super().begin_work(specimen)
        with open(self.image, 'rb') as f:
            self.good = f.read()

    def whole(self) -> bytes:
        return os.pread(self.file.fileno(), os.stat(self.image).st_size, 0)

    def restore(self):
        if self.whole() != self.good:
            os.truncate(self.image, len(self.good))
            os.pwrite(self.file.fileno(), self.good, 0)

    def examine(self, flip) -> Outcome:
        """Some bits at once, which are like one in their effect"""
        bits = flip if isinstance(flip, tuple) else (flip,)
        outcome = Outcome(bits[0])
        for bit in bits:
            self.flip(bit)
        try:
            outcome.check = self.check(outcome)
            outcome.load = self.judge_load(outcome)
            self.repair(outcome)
        except Exception as e:          # pylint: disable=broad-except
            outcome.problem = f'{type(e).__name__}: {e}'
        self.restore()
        return outcome

    def repair(self, outcome: Outcome):
        before = self.whole(), os.stat(self.image).st_mtime_ns
        result = self.tool('check', '--repair', '--output=json', *self.target)
        after = self.whole(), os.stat(self.image).st_mtime_ns
        report = json.loads(result.stdout or '{}')
        outcome.repaired = report.get('parts-repaired', 0) + \
            report.get('leaks-fixed', 0)
        if not outcome.repaired:
            self.assertTrue(before == after, 'the file is not as it was')
            self.assertIn(result.returncode, self.statuses(outcome))
            if result.returncode in (IMPOSSIBLE, CORRUPT):
                self.one_line(result.stderr)
            return
        self.assertTrue(before != after, 'nothing was changed')
        self.assertEqual((result.returncode, report['leaks'],
                          report['corruptions'], report['check-errors'],
                          report['parts-corrupt'], report['pages-corrupt']),
                         (0,) * 6, result)
        self.is_sound(outcome)

    def statuses(self, outcome: Outcome):
        """What is in vain does not get further than to the attempt."""
        if UNREADABLE in outcome.errors[0]:
            return outcome.check, IMPOSSIBLE
        return (outcome.check,)

    def is_sound(self, outcome: Outcome):
        """The image is as good as new, but for what was removed."""
        self.assertEqual(self.check(outcome), SOUND)
        result = self.tool('load', *self.target)
        self.assertEqual((result.returncode, result.stderr), (0, b''))
        wanted = self.bare if outcome.load == BARE else self.specimen.loaded
        self.assertTrue(result.stdout == wanted, 'another load')
        if self.specimen.name != 'raw':
            self.img('check', self.image)


class Repair(PostcopyTest):

    def setUp(self):
        super().setUp()
        self.specimens = Specimens(self)

    def some(self, extents, number: int, rng: random.Random) -> list[Flip]:
        weights = [length for _, length in extents]
        return [Flip(start + rng.randrange(length), rng.randrange(8))
                for start, length in rng.choices(extents, weights, k=number)]

    def examine(self, specimen: Specimen, todo):
        """@todo: what is flipped, and whether it is to be repaired"""
        todo = as_many_as_can_be(todo)
        with Workers(specimen, Mender) as workers:
            outcomes = workers.map([bits for bits, _ in todo])
        wrong = [f'{flip}: {outcome}' for (flip, good), outcome in
                 zip(todo, outcomes) if outcome.problem or
                 not self.right(good, outcome)]
        self.assertFalse(wrong, '\n'.join([str(len(wrong)), *wrong[:20]]))

    def right(self, good: bool | None, outcome: Outcome) -> bool:
        """Whether it was repaired where it could be; None: where it leaks"""
        if good is None:
            good = outcome.check == LEAKS
        if UNREADABLE in outcome.errors[0]:
            good = False
        if good:
            TOTAL[REPAIRED] += 1
        elif outcome.check != SOUND:
            TOTAL[LEFT] += 1
        return bool(outcome.repaired) == good

    def bits(self, specimen: Specimen, rng: random.Random, each: int):
        """Some of all parts"""
        anatomy = specimen.anatomy
        for part in ('header', 'page', *PARTS):
            for flip in self.some(anatomy.extents(part), each, rng):
                yield flip, self.is_hint(anatomy, flip)
        for flip in self.some([(0, anatomy.size)], each, rng):
            yield flip, self.is_hint(anatomy, flip) or None

    def is_hint(self, anatomy, flip: Flip) -> bool:
        what, carries = anatomy.what(flip.position, flip.bit)
        return what in HINTS and carries

    def test_raw_image_is_repaired_if_it_can_be(self):
        specimen = self.specimens.raw()
        rng = random.Random(1)
        header = [(Flip(at, rng.randrange(8)), False)
                  for at in HEADER_USED[::3]]
        self.examine(specimen, [*header, *self.bits(specimen, rng, 25)])

    def container(self, specimen: Specimen, rng: random.Random):
        metadata = rng.sample(specimen.anatomy.metadata(), 300)
        self.examine(specimen, [
            *((Flip(at, rng.randrange(8)), None) for at in metadata),
            *self.bits(specimen, rng, 15)])

    def test_qcow2_image_is_repaired_if_it_can_be(self):
        self.container(self.specimens.qcow2(), random.Random(2))

    def test_image_with_subclusters_is_repaired_if_it_can_be(self):
        self.container(self.specimens.subclusters(), random.Random(3))

    def test_compressed_image_is_repaired_if_it_can_be(self):
        self.container(self.specimens.compressed(), random.Random(4))

    def test_several_damages_are_repaired_all_or_none(self):
        """All that can be repaired at once; nothing, beside other damage"""
        specimen = self.specimens.qcow2()
        rng = random.Random(5)
        anatomy = specimen.anatomy
        # Clusters of the qcow2 header and of refcounts, used twice
        start = next(iter(anatomy.refcount_blocks))
        shared = [Flip(start + 2 * i + 1, 1) for i in range(3)]
        hints = [self.some(anatomy.extents(part), 1, rng)[0]
                 for part in HINTS]
        todo = [(tuple(hints), True), (tuple(shared), True),
                ((*hints, *shared), True)]
        for part in ('page', 'header', *PARTS):
            for flip in [] if part in HINTS else self.some(
                    anatomy.extents(part), 4, rng):
                todo += [((*hints, flip), False), ((*shared, flip), False)]
        lost = Flip(anatomy.field('L1 offset'), 7)      # its flag "copied"
        todo += [((*hints, lost), False), ((*shared, lost), False)]
        self.examine(specimen, todo)

    def test_each_repair_is_reported_in_a_line(self):
        specimen = self.specimens.raw()
        with open(specimen.path, 'r+b') as f:
            for part in HINTS:
                start, _ = specimen.anatomy.extents(part)[0]
                f.seek(start)
                f.write(b'\xff')
        self.refused('check', *specimen.options, specimen.path)
        out = self.succeeds('check', '--repair', *specimen.options,
                            specimen.path).decode()
        for part in HINTS:
            self.assertEqual(out.count(f'The {part} '), 1, out)
        again = self.succeeds('check', '--repair', *specimen.options,
                              specimen.path).decode()
        self.assertEqual(again.count('\n'), 1, again)

    def test_arrivals_before_damaged_chunk_stay(self):
        builder = StreamBuilder([('ram', 20000 * PAGE_SIZE)], page_bits=10)
        for i in reversed(range(20000)):
            builder.zero('ram', i * PAGE_SIZE)
        builder.device('cpu', b'state')
        self.save(builder.build())
        loaded = self.load()
        self.img('convert', '-O', 'raw', self.image, self.path('raw'))
        start = self.info()['parts']['arrival list']['offset']
        for chunk in range(3):
            image = self.copy('raw', 'damaged')
            with open(image, 'r+b') as f:
                f.seek(start + 65536 * chunk + 8 * chunk)
                f.write(b'\xff')
            self.refused('check', '-f', 'raw', image, causes=['arrival list'])
            self.succeeds('check', '-f', 'raw', '--repair', '-q', image)
            info = self.info(image, '-f', 'raw')
            self.assertEqual(info['arrivals'], chunk * CHUNK_ENTRIES)
            self.assertTrue(info['arrivals-truncated'])
            self.succeeds('check', '-f', 'raw', image)
            self.assertEqual(self.load(image, '-f', 'raw'), loaded)

    def test_image_with_unknown_feature_is_not_repaired(self):
        """Who changes a header has to know all that is in it."""
        specimen = self.specimens.raw()
        with open(specimen.path, 'r+b') as f:
            header = bytearray(f.read(512))
            header[31] |= 2
            header[504:] = checksum(bytes(header[:504]))
            f.seek(0)
            f.write(header)
        options = ['--repair', *specimen.options, specimen.path]
        self.succeeds('check', *options)
        start, _ = specimen.anatomy.extents('working set')[0]
        with open(specimen.path, 'r+b') as f:
            f.seek(start)
            f.write(b'\xff')
        self.refused('check', *options, causes=[specimen.path, 'feature'])

    def test_image_in_use_is_checked_but_not_repaired(self):
        specimen = self.specimens.qcow2()
        good = self.copy('qcow2', 'good')
        start, _ = specimen.anatomy.extents('working set')[0]
        with open(specimen.path, 'r+b') as f:
            f.seek(start)
            f.write(b'\xff')
        self.snapshot = Stream(specimen.loaded)
        for self.image, damaged in ((specimen.path, True), (good, False)):
            peer = self.connect('--push=none')
            peer.until(RUNNING)
            if damaged:
                self.refused('check', '--repair', self.image,
                             causes=[self.image, 'lock'])
            else:
                self.succeeds('check', '--repair', '-q', self.image)
            for key in peer.missing():
                peer.request(*key)
            self.completes(peer)

    def test_killed_repair_leaves_image_damaged_or_mended(self):
        specimen = self.specimens.qcow2()
        start, _ = specimen.anatomy.extents('working set')[0]
        with open(specimen.path, 'r+b') as f:
            f.seek(start)
            f.write(b'\xff')
        arguments = ['check', '--repair', '-q', self.image]

        def duration() -> float:
            shutil.copyfile(specimen.path, self.image)
            begin = time.monotonic()
            self.assertEqual(self.start(*arguments).wait(TIMEOUT), 0)
            return time.monotonic() - begin
        whole = min(duration() for _ in range(5))
        rng = random.Random(7)
        for i in range(25):
            shutil.copyfile(specimen.path, self.image)
            process = self.start(*arguments)
            time.sleep(rng.random() * whole)
            process.kill()
            process.wait()
            with self.subTest(i):
                self.assertIn(self.tool('check', self.image).returncode,
                              (SOUND, CORRUPT))
                self.assertEqual(self.load(), specimen.loaded)
            TOTAL[KILLED] += 1


if __name__ == '__main__':
    unittest.main(verbosity=2)
