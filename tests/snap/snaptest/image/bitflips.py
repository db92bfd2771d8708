# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images with one bit that is another, and what the tool makes of them
#
"""Damage copies of an image, and judge what becomes of them.

    specimen = Specimens(test).qcow2()
    with Workers(specimen) as workers:
        for outcome in workers.map(flips):
            ...

What may not be with any image is an AssertionError: wrong memory, a crash, a
wait without end, more than a line about the cause.
"""

import os
import queue
import random
import struct
import subprocess
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from snaptest.image.anatomy import Disk, Qcow2, Raw, checksum
from snaptest.peers.decode import Stream
from snaptest.peers.destination import (RUNNING, Destination, PostcopyTest,
                                        Stage)
from snaptest.peers.streams import StreamBuilder
from snaptest.sanitizers import is_sanitized
from snaptest.tool import REFUSAL, ToolTest, pattern, sample
from snaptest.units import PAGE

JOBS = 2
# With sanitizers, a process takes so much longer; it is not many cases that
# they need.
SANITIZED_SHARE = 20
SECRET = ['--object', 'secret,id=s0,data=abc']
LUKS = 'encrypt.format=luks,encrypt.key-secret=s0'
WORKING_SET = (40, 2, 17, 63, 5)

# Outcomes of a load; of a check, they are its exit status.
SAME, BARE, FAILED = 'same', 'same but the description', 'failed'
SOUND, IMPOSSIBLE, CORRUPT, LEAKS = range(4)


def snapshot() -> StreamBuilder:
    """Some of everything that a snapshot can have"""
    builder = sample([('pc.ram', 48 * PAGE), ('rom', 8 * PAGE),
                      ('vga.vram', 16 * PAGE, PAGE)])
    for i in range(24, 10, -1):
        builder.page('pc.ram', i * PAGE, pattern(-i))
    builder.early('early', pattern(2, 100))
    return builder


def working_set(uuid: bytes) -> bytes:
    data = struct.pack('>8sII16sQ', b'QSNAPWKS', 1, 0, uuid,
                       len(WORKING_SET))
    data += struct.pack(f'>{len(WORKING_SET)}Q', *WORKING_SET)
    return data + checksum(data)


@dataclass
class Specimen:
    """An image that is good, and what is right about it"""
    name: str
    path: str
    anatomy: Raw | Qcow2
    options: list = field(default_factory=list)
    loaded: bytes = b''

    def image(self, path: str) -> str:
        """How a copy at @path is named to the tool"""
        if '--image-opts' in self.options:
            return f'driver=qcow2,file.driver=file,file.filename={path},{LUKS}'
        return path


class Specimens:
    """Images of all sorts, in the directory of a test"""

    def __init__(self, test: ToolTest):
        self.test = test
        self.stream = snapshot().build()

    def path(self, name: str) -> str:
        return self.test.path(name)

    def save(self, name: str, *options: str) -> str:
        """A snapshot with a working set in it"""
        path, records = self.path(name), self.path('working-set')
        self.test.save(self.stream, path, *options)
        if '-O' in options:
            options = ['-f', options[options.index('-O') + 1]]
        else:
            options = []
        disk = self.disk(path)
        with open(records, 'wb') as f:
            f.write(working_set(disk.uuid))
        self.test.succeeds('embed', *options, f'--working-set={records}',
                           path)
        return path

    def disk(self, path: str) -> Disk:
        raw = self.path('disk')
        self.test.img('convert', '-O', 'raw', path, raw)
        return Disk(raw)

    def done(self, name: str, path: str, anatomy, *options: str) -> Specimen:
        specimen = Specimen(name, path, anatomy, list(options))
        specimen.loaded = self.test.load(specimen.image(path), *options)
        return specimen

    def raw(self) -> Specimen:
        path = self.save('raw', '-O', 'raw')
        disk = self.disk(path)
        os.truncate(path, disk.end)
        return self.done('raw', path, Raw(path, disk), '-f', 'raw')

    def qcow2(self) -> Specimen:
        path = self.save('qcow2')
        return self.done('qcow2', path, Qcow2(path, self.disk(path)))

    def subclusters(self) -> Specimen:
        path = self.save('subclusters', '-o',
                         'extended_l2=on,cluster_size=128k')
        return self.done('qcow2 with subclusters', path,
                         Qcow2(path, self.disk(path)))

    def converted(self, name: str, path: str, *options: str) -> Disk:
        """@path, a conversion of another image, which is returned"""
        source = self.save(name)
        self.test.img('convert', '-O', 'qcow2', *options, source, path)
        return self.disk(source)

    def compressed(self) -> Specimen:
        path = self.path('compressed')
        disk = self.converted('source', path, '-c')
        return self.done('qcow2, compressed', path, Qcow2(path, disk))

    def luks(self) -> Specimen | None:
        """Not with a build without cryptography"""
        path = self.path('luks')
        options = ['-o', f'{LUKS},encrypt.iter-time=10']
        if self.test.img('create', '-f', 'qcow2', *SECRET, *options, path,
                         '1M', check=False).returncode:
            return None
        disk = self.converted('source', path, *SECRET, *options)
        return self.done('qcow2 with LUKS', path, Qcow2(path, disk),
                         '--image-opts', *SECRET)


def as_many_as_can_be(cases: list) -> list:
    return cases[::SANITIZED_SHARE] if is_sanitized() else cases


@dataclass(frozen=True)
class Flip:
    """A bit of an image, and what else is tried with it but check, load"""
    position: int
    bit: int
    more: str = ''      # 'postcopy', 'resume', 'info'

    def __str__(self):
        return f'bit {self.bit} of byte {self.position:#x}'


@dataclass
class Outcome:
    """What the tool made of an image"""
    flip: Flip
    check: int = SOUND
    load: str = SAME
    problem: str = ''
    repaired: int = 0
    errors: list = field(default_factory=list)      # of check, load


class Worker(PostcopyTest):
    """A copy of an image that is damaged, tried, and repaired"""

    def begin_work(self, specimen: Specimen):
        # pylint: disable=consider-using-with
        tmp = tempfile.TemporaryDirectory(
            prefix='snap-', dir=os.environ.get('TMPDIR', '/var/tmp'))
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        self.image = self.path('image')
        self.specimen = specimen
        subprocess.run(['cp', '--sparse=always', specimen.path, self.image],
                       check=True)
        self.file = open(self.image, 'r+b', buffering=0)
        self.addCleanup(self.file.close)
        self.target = [*specimen.options, specimen.image(self.image)]
        self.snapshot = Stream(specimen.loaded)
        self.uuid = uuid.UUID(bytes=specimen.anatomy.disk.uuid)
        self.bare = specimen.loaded[:self.bare_length()]

    def bare_length(self) -> int:
        """A stream without description ends with EOF."""
        if self.snapshot.vmdesc is None:
            return len(self.specimen.loaded)
        return len(self.specimen.loaded) - len(self.snapshot.vmdesc) - 5

    def start(self, *args, **kwargs):
        """These are stopped one by one, as there are thousands of them."""
        # pylint: disable=attribute-defined-outside-init
        process = super().start(*args, **kwargs)
        self._cleanups.pop()
        self.process = process
        return process

    def flip(self, flip: Flip):
        byte = os.pread(self.file.fileno(), 1, flip.position)[0]
        os.pwrite(self.file.fileno(), bytes([byte ^ 1 << flip.bit]),
                  flip.position)

    def examine(self, flip: Flip) -> Outcome:
        """Flip a bit, try all, and flip it back."""
        outcome = Outcome(flip)
        self.flip(flip)
        try:
            outcome.check = self.check(outcome)
            outcome.load = self.judge_load(outcome)
            if flip.more:
                getattr(self, 'try_' + flip.more)(outcome)
        except Exception as e:          # pylint: disable=broad-except
            outcome.problem = f'{type(e).__name__}: {e}'
        self.flip(flip)
        return outcome

    def one_line(self, error: bytes):
        """The block layer may have said something before."""
        *before, last = error.splitlines()
        self.assertTrue(last.startswith(b'qemu-snap: '), error)
        self.assertFalse(any(line.startswith(b'qemu-snap: ')
                             for line in before), error)

    def check(self, outcome: Outcome) -> int:
        result = self.tool('check', *self.target)
        outcome.errors.append(result.stderr)
        self.assertIn(result.returncode, range(4), result)
        if result.returncode in (IMPOSSIBLE, CORRUPT):
            self.one_line(result.stderr)
        elif result.returncode == LEAKS:
            self.assertNotIn(b'qemu-snap: ', result.stderr)
        else:
            self.assertEqual(result.stderr, b'')
        return result.returncode

    def judge_load(self, outcome: Outcome) -> str:
        result = self.tool('load', *self.target)
        outcome.errors.append(result.stderr)
        if result.returncode == 0 and result.stdout == self.specimen.loaded:
            self.assertEqual(result.stderr, b'')
            return SAME
        if result.returncode == 0:
            self.assertTrue(result.stdout == self.bare, 'wrong memory')
            self.one_line(result.stderr)
            self.assertIn(b'description', result.stderr)
            return BARE
        self.assertEqual(result.returncode, 1, result.stderr)
        self.one_line(result.stderr)
        self.assertTrue(result.stdout == REFUSAL or
                        self.bare.startswith(result.stdout), 'wrong memory')
        self.assertLess(len(result.stdout), len(self.bare))
        return FAILED

    def try_info(self, _outcome: Outcome):
        result = self.tool('info', *self.target)
        self.assertIn(result.returncode, (0, 1), result)
        if result.returncode:
            self.one_line(result.stderr)

    # By postcopy, the peer finds what is wrong.

    def begin(self, *options: str, percent: int | None = 0) -> list:
        # This destination has not begun with a load that could be known.
        first = f'--resume={self.uuid}' if percent is None else \
            f'--postcopy={percent}'
        process = self.start(first, *options, 'load', *self.target)
        return process, process.stdout.fileno(), process.stdin.fileno()

    def try_postcopy(self, outcome: Outcome):
        """It delivers all just where a load by precopy does."""
        rng = random.Random(str(outcome.flip))
        try:
            peer = self.connect(percent=rng.choice((0, 0, 50)))
            whole = self.goes_on(peer, rng)
        finally:
            self.stop(self.process)
        self.assertEqual(whole, outcome.load != FAILED, 'by postcopy')

    def try_resume(self, outcome: Outcome):
        """The destination has some pages already."""
        rng = random.Random(str(outcome.flip))
        try:
            process, *channel = self.begin(percent=None)
            peer = Destination(self.snapshot, *channel)
            peer.process = process
            for pages in peer.pages.values():
                for i in range(len(pages)):
                    pages[i] = rng.choice((1, 2))
            peer.connect(*channel)
            whole = self.goes_on(peer, rng)
        finally:
            self.stop(self.process)
        # what is damaged may have come already
        self.assertTrue(whole or outcome.load == FAILED, 'when resumed')

    def goes_on(self, peer: Destination, rng: random.Random) -> bool:
        """Whether the load delivers all; or else it has to say so."""
        try:
            peer.until(RUNNING)
            missing = sorted(peer.missing())
            for key in rng.sample(missing, min(3, len(missing))):
                peer.request(*key)
            peer.finish()
            whole = True
        except EOFError:
            self.assertLess(peer.stage, Stage.OVER)
            whole = False
        status = peer.process.wait(60)
        error = peer.process.stderr.read()
        self.assertEqual(status, 0 if whole else 1, error)
        if error or not whole:
            self.one_line(error)
        return whole


class Workers:
    """Some of them, to work at the same time"""

    def __init__(self, specimen: Specimen, worker=Worker):
        self.workers = [worker() for _ in range(JOBS)]
        self.idle = queue.Queue()
        self.specimen = specimen

    def __enter__(self):
        for worker in self.workers:
            worker.begin_work(self.specimen)
            self.idle.put(worker)
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.doCleanups()

    def call(self, method: str, argument):
        worker = self.idle.get()
        try:
            return getattr(worker, method)(argument)
        finally:
            self.idle.put(worker)

    def map(self, flips, method: str = 'examine') -> list[Outcome]:
        with ThreadPoolExecutor(JOBS) as pool:
            return list(pool.map(lambda flip: self.call(method, flip), flips))

    def unchanged(self) -> bool:
        """Whether all copies are as they were"""
        with open(self.specimen.path, 'rb') as f:
            good = f.read()
        for worker in self.workers:
            with open(worker.image, 'rb') as f:
                if f.read() != good:
                    return False
        return True
