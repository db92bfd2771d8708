# SPDX-License-Identifier: GPL-2.0-or-later
#
# What tests of failures have in common
#
"""Saves of a running guest that do not go well"""

import collections
import itertools
import json
import os
import struct
import sys
from typing import NamedTuple

from snaptest.faults.stages import Stages
from snaptest.units import PAGE
from snaptest.vm.case import SnapTest
from snaptest.vm.run import Run


class FailureTest(SnapTest):
    """A running source, and a directory where FILE is to be."""

    MIB = 64                    # of RAM

    def setUp(self):
        super().setUp()
        self.home = self.directory(self.dir)
        self.image = os.path.join(self.home, 'image')
        self.src = self.source(run=True, mib=self.MIB)

    def start_save(self, *options, caps=('background-snapshot',),
                   image=None, prefix=''):
        self.src.migrate(self.exec_uri(
            self.command('save', image or self.image, *options), prefix),
            *caps)

    def assert_runs_on(self):
        # A source says that it failed before it lets its guest run again.
        self.src.wait_until(lambda: self.src.status() == 'running')
        gen = self.src.loop.gen()
        self.src.wait_until(lambda: self.src.loop.gen() > gen + 2)

    def assert_failed(self, *words):
        """The source reports failure, and the tool why."""
        self.src.wait_migration('failed')
        report = self.report()
        self.assertEqual(report['status'], 'failed', report)
        for word in words:
            self.assertIn(word, report['error'])
        self.assert_runs_on()

    def assert_no_snapshot(self, image, when=''):
        info = self.tool('info', image)
        self.assertNotEqual(info.returncode, 0, f'{when}: {info.stdout}')
        self.assertIn(image, info.stderr)

    def assert_loads(self, image):
        """It is still a snapshot of the loop, and whole."""
        dst = self.destination(self.src)
        self.load(image, dst)
        self.assertIsNone(self.src.loop.torn(dst.ram))
        self.assertIsNone(self.src.ram.difference(dst.ram, self.src.loop.end))
        dst.kill()


class Mode(NamedTuple):
    """How to save: the transport, and the source's capabilities"""
    over: str
    caps: list[str]

    @property
    def asks(self) -> bool:
        """Whether a source that says "completed" knows it."""
        return self.over == 'exec' or 'return-path' in self.caps


MODES = {
    'background': Mode('exec', ['background-snapshot']),
    'live': Mode('exec', []),
    'return-path': Mode('exec', ['return-path']),
    'unix': Mode('unix', ['background-snapshot']),
    'unix-return-path': Mode('unix', ['return-path']),
}
CAPABILITIES = {name for mode in MODES.values() for name in mode.caps}


class DisturbedTest(FailureTest):
    """
    Saves that something happens to, over a FILE that is a snapshot.  Each has
    a mark of its own in the guest's RAM, which tells whose RAM a snapshot has.
    """

    MIB = 32
    # What a tool that was killed may leave
    LEFTOVERS = {'.image.saving', '.image.saved'}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.figures = collections.Counter()

    @classmethod
    def tearDownClass(cls):
        for what, number in cls.figures.items():
            print(f'# {number} {what}', file=sys.stderr)
        super().tearDownClass()

    def tried(self, what: str, number: int = 1):
        """Cases of a kind, of which the end of the class says how many"""
        self.figures[what] += number

    def setUp(self):
        super().setUp()
        self.stages = Stages(self.dir, self.home)
        self.marks = itertools.count(1)
        self.mark = 0           # of the last save that began
        self.old_mark = 0       # of the snapshot that FILE is
        self.old = None         # and its UUID
        self.next_save()

    # Saves

    def begin(self, mode: str, *options: str, prefix=(),
              image: str | None = None) -> Run:
        """Start to save the running guest, with a new mark."""
        over, caps = MODES[mode]
        self.restore_stdin()
        if self.src.status() == 'postmigrate':
            self.src.cmd('cont')
        self.src.cmd('migrate-set-capabilities', capabilities=[
            {'capability': name, 'state': False} for name in CAPABILITIES])
        self.mark = next(self.marks)
        self.write_mark(self.mark)
        return Run(self, self.src, lambda uri: self.src.migrate(uri, *caps),
                   over, 'save', image or self.image, '--aio=threads',
                   *options, prefix=prefix)

    def restore_stdin(self):
        """
        A background snapshot that fails before RAM is write-protected, as one
        whose command ends at once, makes QEMU 10.0 and 11.1 close descriptor 0
        (ram_write_tracking_stop() with an uffdio_fd that was not set).  From
        then on, commands of exec: get no stdin.  The next descriptor that QEMU
        receives becomes 0 again.
        """
        if not os.path.exists(f'/proc/{self.src.get_pid()}/fd/0'):
            fd = os.open(os.devnull, os.O_RDWR)
            self.src.getfd(f'stdin{next(self.count)}', fd)
            os.close(fd)

    def write_mark(self, mark: int):
        ram = self.src.ram
        ram.write(ram.size - PAGE, struct.pack('<Q', mark))

    def hold(self, mode: str, step: str, n: int, *options: str,
             **kwargs) -> Run:
        """
        Start a save that waits before it does @step for the n-th time; one
        that never comes there is over when this returns.
        """
        run = self.begin(mode, *options, prefix=self.stages.prefix(step, n),
                         **kwargs)
        self.stages.held(run.ended)
        return run

    def next_save(self):
        """A save when all is well: it trips over nothing that is left."""
        run = self.begin('background')
        run.finish()
        self.src.wait_migration()
        self.old, self.old_mark = self.whole(), self.mark
        self.assert_only('image')

    def steps(self, mode: str, *options: str) -> list[tuple[str, int]]:
        """What an undisturbed save does to FILE: see Stages.log()"""
        run = self.begin(mode, *options, prefix=self.stages.prefix())
        run.finish()
        self.src.wait_migration()
        self.old, self.old_mark = self.whole(), self.mark
        return self.stages.log()

    # What became of them

    def assert_only(self, *names: str):
        self.assertEqual(sorted(os.listdir(self.home)), sorted(names))

    def whole(self, undescribed: bool = False) -> str:
        """
        FILE is a snapshot in which nothing is wrong; its UUID.  With
        @undescribed, the description of its devices may be missing.
        """
        out = self.tool('check', '--output=json', self.image)
        if undescribed and out.returncode == 2:
            damage = json.loads(out.stdout)
            self.assertEqual((damage['pages-corrupt'],
                              damage['parts-corrupt']), (0, 1), damage)
            self.assertIn('description', damage['first-error'])
        else:
            self.assertEqual((out.returncode, out.stderr), (0, ''))
        return self.info(self.image)['uuid']

    def assert_goes_on_after(self, mode: str, status: str):
        """The source's guest runs on, or can, as its migration has ended."""
        if status == 'completed' and mode not in ('background', 'unix'):
            self.assertEqual(self.src.status(), 'postmigrate')
            self.src.cmd('cont')
        self.assert_runs_on()

    def outcome(self, mode: str, run: Run, **kwargs) -> tuple[str, bool]:
        """
        How the source says that its migration ended, and whether FILE is the
        new snapshot; and if not, the old one.  The guest goes on.
        """
        status = self.src.wait_migration('completed', 'failed')['status']
        run.status()
        uuid = self.whole(**kwargs)
        new = uuid != self.old
        if status == 'completed' and MODES[mode].asks:
            self.assertTrue(new, 'completed, and the old FILE is there')
        if new:
            self.old, self.old_mark = uuid, self.mark
        self.assert_goes_on_after(mode, status)
        return status, new

    def assert_loads_whole(self):
        """A destination gets the RAM whose snapshot FILE is said to be."""
        dst = self.destination(self.src)
        self.load(self.image, dst)
        self.assertIsNone(self.src.loop.torn(dst.ram))
        self.write_mark(self.old_mark)
        self.assertIsNone(self.src.ram.difference(dst.ram, self.src.loop.end))
        self.assert_goes_on(dst, self.src.loop)
        dst.kill()
