#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# One bit of an image file is another, anywhere: a load delivers the snapshot,
# or fails in time, and check knows.
#

import os
import random
import resource
import sys
import unittest
from collections import Counter

from snaptest.image.anatomy import HEADER_USED, PARTS
from snaptest.image.bitflips import (BARE, CORRUPT, FAILED, IMPOSSIBLE, LEAKS,
                                     SAME, SOUND, Flip, Outcome, Specimen,
                                     Specimens, Workers, as_many_as_can_be)
from snaptest.peers.decode import Stream
from snaptest.peers.destination import PostcopyTest
from snaptest.sanitizers import is_sanitized
from snaptest.tool import ToolTest
from snaptest.units import PAGE

MEMORY = 4 << 30
TOTAL = Counter()
# Damage here can be like any other.
CONTAINER = ('qcow2 header', 'qcow2 header extensions', 'L1 table', 'L2 table',
             'refcount table', 'refcounts')


def setUpModule():
    """No image makes the tool take all memory."""
    if is_sanitized():
        return              # which need more addresses than there is memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))


def tearDownModule():
    passed, refused = TOTAL['sound'], TOTAL['found']
    for number, what in (
            (passed + refused, 'bit flips in image files: never wrong memory, '
             'a crash, or more than one error message'),
            (refused, 'of them found by check: all those that matter'),
            (passed, 'of them in bits that carry nothing, without effect'),
            (TOTAL['postcopy'], 'of them loaded by postcopy, too'),
            (TOTAL['resume'], 'of them in the recovery of a load')):
        print(f'# {number} {what}', file=sys.stderr)


def all_bits(positions):
    return [(position, bit) for position in positions for bit in range(8)]


def some(extents, number: int, rng: random.Random):
    """Random bits in any of @extents"""
    weights = [length for _, length in extents]
    return [(start + rng.randrange(length), rng.randrange(8))
            for start, length in rng.choices(extents, weights, k=number)]


class BitFlips(ToolTest):

    def setUp(self):
        super().setUp()
        self.specimens = Specimens(self)

    def content(self, anatomy, rng: random.Random, each: int):
        """Some bits of each part, of RAM, and of the file as a whole"""
        found = []
        for part in ('header', *PARTS):
            found += some(anatomy.extents(part), each, rng)
        found += some(anatomy.extents('page'), 4 * each, rng)
        return found + some([(0, anatomy.size)], 8 * each, rng)

    def flip(self, specimen: Specimen, bits):
        """Each bit once; some of them with more than check and load"""
        bits = sorted(set(bits))
        random.Random(specimen.name).shuffle(bits)
        bits = as_many_as_can_be(bits)
        kinds = {0: 'postcopy', 5: 'info', 13: 'resume', 33: 'resume'}
        todo = [Flip(*bit, kinds.get(i % 40, kinds.get(i % 10, '')))
                for i, bit in enumerate(bits)]
        with Workers(specimen) as workers:
            outcomes = workers.map(todo)
            self.assertTrue(workers.unchanged())
        self.judge(specimen, outcomes)

    def judge(self, specimen: Specimen, outcomes):
        counts, wrong = Counter(), []
        for outcome in outcomes:
            flip = outcome.flip
            what, carries = specimen.anatomy.what(flip.position, flip.bit)
            problem = outcome.problem or self.problem(outcome, what, carries)
            if problem:
                wrong.append(f'{specimen.name}: {what}, {flip}: {problem}; '
                             f'{outcome}')
            counts[what, carries, outcome.check, outcome.load] += 1
            TOTAL['found' if outcome.check else 'sound'] += 1
            TOTAL[flip.more] += 1
        self.show(specimen, counts)
        self.assertFalse(wrong, '\n'.join([f'{len(wrong)} problems',
                                           *wrong[:20]]))

    def problem(self, outcome: Outcome, what: str, carries: bool):
        """What is wrong with a check, given a load"""
        check, load = outcome.check, outcome.load
        if check == SOUND and carries:
            return 'check did not find it'
        if check == SOUND and load != SAME:
            return 'check found nothing, but not all of it was loaded'
        if check == LEAKS and load != SAME:
            return 'more than leaks'
        if check == IMPOSSIBLE and load != FAILED and \
                what not in CONTAINER:
            return 'it can be loaded, but not be checked'
        if what == 'refcounts' and carries and check not in (CORRUPT, LEAKS):
            return 'a wrong refcount was not found'
        if load == BARE and what not in ('device description', *CONTAINER):
            return 'the description is lost by other damage'
        return None

    def show(self, specimen: Specimen, counts: Counter):
        print(f'\n{specimen.name}, {sum(counts.values())} flips:',
              file=sys.stderr)
        for (what, carries, check, load), n in sorted(counts.items()):
            print(f'  {what}{"" if carries else " (carries nothing)"}: '
                  f'check {check}, load {load}: {n}', file=sys.stderr)

    def test_flips_that_matter_in_raw_image_are_found(self):
        specimen = self.specimens.raw()
        rng = random.Random(1)
        self.flip(specimen, all_bits(HEADER_USED) +
                  self.content(specimen.anatomy, rng, 60))

    def test_flips_that_matter_in_qcow2_image_are_found(self):
        specimen = self.specimens.qcow2()
        rng = random.Random(2)
        self.flip(specimen, all_bits(specimen.anatomy.metadata()) +
                  self.content(specimen.anatomy, rng, 30))

    def flip_like_qcow2(self, specimen: Specimen, rng: random.Random):
        """All bits but those of the header, which is that of qcow2()"""
        bits = all_bits(specimen.anatomy.metadata())
        header = [(position, bit) for position, bit in bits if
                  specimen.anatomy.what(position, bit)[0] == 'qcow2 header']
        self.flip(specimen, [
            *(set(bits) - set(header)), *rng.sample(header, 100),
            *self.content(specimen.anatomy, rng, 30)])

    def test_flips_that_matter_in_subclusters_are_found(self):
        self.flip_like_qcow2(self.specimens.subclusters(), random.Random(3))

    def test_flips_that_matter_in_compressed_image_are_found(self):
        self.flip_like_qcow2(self.specimens.compressed(), random.Random(4))

    def test_flips_that_matter_in_luks_image_are_found(self):
        specimen = self.specimens.luks()
        if not specimen:
            print('No LUKS in this build', file=sys.stderr)
            return
        rng = random.Random(5)
        anatomy = specimen.anatomy
        bits = rng.sample(all_bits(anatomy.metadata()), 200)
        start, length = anatomy.crypto
        bits += some([(start, 592)], 100, rng) + some([(start, length)], 40,
                                                      rng)
        bits += self.content(anatomy, rng, 5)
        self.flip(specimen, [bit for bit in bits
                             if not anatomy.takes_for_ever(bit[0])])


class NoVerify(PostcopyTest):
    """Damage of pages, and of pages only, goes to who asks for it."""

    def setUp(self):
        super().setUp()
        self.specimen = Specimens(self).raw()
        self.image = self.specimen.path
        self.disk = self.specimen.anatomy.disk
        self.good = Stream(self.specimen.loaded)

    def patch(self, place: int, data: bytes) -> bytes:
        with open(self.image, 'r+b') as f:
            old = os.pread(f.fileno(), len(data), place)
            os.pwrite(f.fileno(), data, place)
        return old

    def damaged(self, key, data: bytes, *options: str):
        """Load when a page is @data; by postcopy as well"""
        self.refused('load', '-f', 'raw', self.image, stdout=None,
                     causes=[self.image, key[0], f'{key[1]:#x}'])
        out = self.load(self.image, '-f', 'raw', '--no-verify', *options)
        page = data if any(data) else b''
        snapshot = Stream(out)
        self.assertEqual(snapshot.pages, {**self.good.pages, key: page})
        for part in ('header', 'setup', 'blocks', 'devices', 'vmdesc'):
            self.assertEqual(getattr(snapshot, part), getattr(self.good, part))
        self.snapshot = snapshot
        # One with an entry that says "data" comes, whatever it is.
        peer = self.connect('-f', 'raw', '--no-verify', optional=[key])
        self.completes(peer)
        self.assertEqual(self.tool('check', '-f', 'raw',
                                   self.image).returncode, CORRUPT)

    def test_no_verify_loads_damaged_pages_as_they_are(self):
        rng = random.Random(6)
        for key, place in rng.sample(sorted(self.disk.pages.items()), 20):
            data = bytearray(self.good.pages[key])
            data[rng.randrange(PAGE)] ^= 1 << rng.randrange(8)
            with self.subTest(key):
                old = self.patch(place, bytes(data))
                self.damaged(key, bytes(data))
                self.patch(place, old)

    def test_no_verify_loads_a_lost_page_as_zeroes(self):
        key, place = sorted(self.disk.pages.items())[5]
        self.patch(place, bytes(PAGE))
        self.damaged(key, bytes(PAGE))

    def test_no_verify_still_verifies_other_parts(self):
        rng = random.Random(7)
        for part in ('header', 'page table', 'block table', 'configuration',
                     'setup sections', 'device state'):
            (start, length), = self.specimen.anatomy.extents(part)
            for _ in range(5):
                place = start + rng.randrange(length)
                old = self.patch(place, b'x')
                if old == b'x':
                    continue
                self.patch(place, bytes([old[0] ^ 1 << rng.randrange(8)]))
                self.refused('load', '--no-verify', '-f', 'raw', self.image,
                             stdout=None, causes=[self.image])
                self.patch(place, old)
        self.assertEqual(self.load(self.image, '-f', 'raw', '--no-verify'),
                         self.specimen.loaded)


if __name__ == '__main__':
    unittest.main(verbosity=2)
