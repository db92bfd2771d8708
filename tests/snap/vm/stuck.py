#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Signals, and peers that stand still or are left alone.
#

import os
import random
import signal
import socket
import time
import unittest

from snaptest import TIMEOUT
from snaptest.vm.failure import MODES, DisturbedTest
from snaptest.vm.run import Run
from snaptest.waiting import is_pending, wait_until

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
POISON = 0xa5a5a5a5             # what Ram.poison() makes of a word


def cpu_time(pid: int) -> int:
    """What the process has used, in clock ticks"""
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        fields = f.read().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


class StuckTest(DisturbedTest):

    def freeze(self, vm):
        """Let an emulator stand still, until self.thaw() or the end."""
        self.addCleanup(self.thaw, vm)
        os.kill(vm.get_pid(), signal.SIGSTOP)

    def thaw(self, vm):
        if vm.is_running():
            os.kill(vm.get_pid(), signal.SIGCONT)

    def assert_waits(self, run: Run):
        """The tool neither ends nor works: it has nothing to do."""
        def quiet():
            before = cpu_time(run.pid())
            time.sleep(0.3)
            return cpu_time(run.pid()) - before <= 1
        wait_until(quiet, TIMEOUT)
        self.assertFalse(run.ended(), run.read('.err'))


class SignalledSave(StuckTest):
    """The tool is told to end, while it saves."""

    STAGES = (('pwrite64', 1), ('pwrite64', 5), ('pwrite64', 25),
              ('fdatasync', 1), ('fdatasync', 2))

    def signalled(self, mode: str, number: int, stage) -> bool:
        """Whether the save is one that failed for all who were told"""
        run = self.hold(mode, *stage)
        self.assertFalse(run.ended())
        run.kill(number)
        if stage[0] in ('pwrite64', 'fdatasync') and stage[1] > 1:
            # A thread is held, and the main loop is not.
            wait_until(lambda: not is_pending(run.pid(), number), TIMEOUT)
        self.stages.release()
        status, new = self.outcome(mode, run)
        # One that comes too late does not hide that all went well.
        self.assertEqual(run.status(), 0 if new else 1)
        self.assertEqual(run.report()['status'],
                         'completed' if new else 'failed')
        if MODES[mode].asks:
            self.assertEqual(status, 'completed' if new else 'failed')
        self.assert_only('image')
        self.tried(f'signals to the tool in saves ({mode}) of real guests: '
                   'all agree how they end')
        return not new

    def signals(self, mode: str):
        failed = 0
        for n, stage in enumerate(self.STAGES):
            number = SIGNALS[n % len(SIGNALS)]
            with self.subTest(f'{mode}, {number.name} before {stage}'):
                failed += self.signalled(mode, number, stage)
        self.next_save()
        return failed

    def test_signal_fails_background_save(self):
        self.assertEqual(self.signals('background'), len(self.STAGES))

    def test_signal_fails_live_save(self):
        self.assertEqual(self.signals('live'), len(self.STAGES))

    def test_all_agree_on_save_signalled_at_commit(self):
        """Soon, a source that asks nobody will have sent all it has."""
        stages = (('fdatasync', 3), ('renameat2', 1), ('fsync', 2))
        for mode in ('background', 'live'):
            for stage in stages * 5:
                self.signalled(mode, signal.SIGTERM, stage)

    def test_signal_fails_save_over_unix(self):
        self.assertEqual(self.signals('unix'), len(self.STAGES))

    def test_signal_in_time_fails_return_path_save(self):
        """A source that asks may have sent everything by then."""
        self.assertGreater(self.signals('return-path'), 0)


class StuckSource(StuckTest):
    """A source that stands still in the middle of its RAM"""

    # More than fits into the tool's buffers, so that it has not sent it all
    MIB = 128

    def stuck(self, mode: str) -> Run:
        run = self.hold(mode, 'pwrite64', 5)
        self.assertFalse(run.ended())
        self.freeze(self.src)
        self.stages.release()
        self.assert_waits(run)
        self.tried('sources that stood still: the tool waits, or ends when '
                   'told to')
        return run

    def ends(self, mode: str, number: int):
        """The tool ends when it is told to, whatever the source does."""
        run = self.stuck(mode)
        run.kill(number)
        self.assertEqual(run.status(), 1)
        self.assertEqual(run.report()['status'], 'failed')
        self.assert_only('image')
        self.thaw(self.src)
        self.assertEqual(self.outcome(mode, run), ('failed', False))

    def goes_on(self, mode: str):
        run = self.stuck(mode)
        self.thaw(self.src)
        run.finish()
        self.assertEqual(self.outcome(mode, run), ('completed', True))
        self.assert_only('image')

    def test_tool_waits_for_stuck_source_or_ends_when_told(self):
        for n, mode in enumerate(MODES):
            with self.subTest(mode):
                self.ends(mode, SIGNALS[n % len(SIGNALS)])
                self.goes_on(mode)
        self.assert_loads_whole()


class LoadTest(StuckTest):
    """A snapshot of a running guest, and how far that had come"""

    # How to load: the transport, capabilities of the destination, options
    WAYS = {
        'exec': ('exec', [], []),
        'unix': ('unix', [], []),
        'multifd': ('unix', ['multifd'], ['--multifd-channels=2']),
        # So much ahead of the guest that it does not run before that
        'postcopy': ('exec', ['postcopy-ram'], ['--postcopy=90']),
    }

    def setUp(self):
        super().setUp()
        dst = self.destination(self.src)
        self.load(self.image, dst)
        self.gen = self.src.loop.gen(dst.ram)
        dst.kill()
        # The source is needed no more but for its RAM.
        self.src.kill()
        self.write_mark(self.old_mark)

    def begin_load(self, way: str, *, run: bool, **kwargs):
        over, caps, options = self.WAYS[way]
        dst = self.destination(self.src, run=run)
        dst.capabilities('events', *caps)
        return dst, Run(self, dst, dst.incoming, over, 'load', self.image,
                        '--aio=threads', *options, **kwargs)

    def hold_load(self, way: str, n: int, run: bool = True):
        """A load that waits before the n-th read of the image"""
        dst, load = self.begin_load(
            way, run=run, prefix=self.stages.prefix('pread64', n))
        self.assertTrue(self.stages.held(load.ended))
        return dst, load

    def reads(self, way: str) -> int:
        """How many reads there are"""
        dst, load = self.begin_load(way, run=False,
                                    prefix=self.stages.prefix())
        dst.wait_migration()
        load.finish()
        self.assert_loaded(dst)
        dst.kill()
        return sum(name == 'pread64'
                   for name, _ in self.stages.log(reads=True))

    def assert_loaded(self, dst):
        self.assertIsNone(self.src.loop.torn(dst.ram))
        self.assertIsNone(self.src.ram.difference(dst.ram, self.src.loop.end))

    def assert_gives_up(self, dst):
        """A destination ends with an error, and its guest has never run."""
        wait_until(lambda: dst.exitcode() is not None, TIMEOUT)
        self.assertNotEqual(dst.exitcode(), 0)
        self.assertIn(self.src.loop.gen(dst.ram), (0, self.gen, POISON))


class KilledLoad(LoadTest):
    """kill -9 of a load: no guest runs with a part of its RAM."""

    def each(self, way: str, end: float = 1):
        """Kills from a third to @end of all reads: some of it has been sent"""
        reads = self.reads(way)
        rng = random.Random(len(way))
        count = 6
        for n in range(count):
            part = (n + rng.random()) / count
            at = int(reads * (1 + (3 * end - 1) * part) / 3)
            with self.subTest(f'{way}, before read {at} of {reads}'):
                dst, load = self.hold_load(way, at)
                dst.wait_until(lambda dst=dst: dst.migration().get('status')
                               == 'active')
                load.kill()
                self.stages.release()
                self.assertEqual(load.status(), -signal.SIGKILL)
                self.assert_gives_up(dst)
                self.tried(f'kills of loads ({way}): no guest ran')

    def test_guest_never_runs_if_load_over_exec_is_killed(self):
        self.each('exec')

    def test_guest_never_runs_if_load_over_unix_is_killed(self):
        self.each('unix')

    def test_guest_never_runs_if_multifd_load_is_killed(self):
        self.each('multifd')

    def test_guest_never_runs_if_postcopy_load_is_killed(self):
        self.each('postcopy', 0.7)

    def test_destination_waits_on_if_load_is_killed_at_once(self):
        """QEMU goes on waiting if a command ends without a word."""
        dst, load = self.hold_load('exec', 1)
        load.kill()
        self.stages.release()
        self.assertEqual(load.status(), -signal.SIGKILL)
        self.assertEqual(dst.status(), 'inmigrate')
        self.assertEqual(self.src.loop.gen(dst.ram), POISON)


class StuckDestination(LoadTest):
    """A destination that stands still in the middle of a load"""

    def stuck(self, way: str):
        dst, load = self.hold_load(way, 10, run=False)
        self.freeze(dst)
        self.stages.release()
        self.assert_waits(load)
        self.tried('destinations that stood still: the tool waits, or ends '
                   'when told to')
        return dst, load

    def test_tool_waits_for_stuck_destination_or_ends_when_told(self):
        for n, way in enumerate(self.WAYS):
            with self.subTest(way):
                dst, load = self.stuck(way)
                load.kill(SIGNALS[n % len(SIGNALS)])
                self.assertEqual(load.status(), 1)
                self.assertEqual(load.report()['status'], 'failed')
                self.thaw(dst)
                self.assert_gives_up(dst)

                dst, load = self.stuck(way)
                self.thaw(dst)
                dst.wait_migration()
                load.finish()
                self.assert_loaded(dst)
                dst.kill()


class SignalWhileLoadOpens(LoadTest):
    """The image is at a server that accepts, and never says a word."""

    def setUp(self):
        super().setUp()
        path = self.path('server')
        self.server = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.server.close)
        self.server.bind(path)
        self.server.listen()
        self.silent = f'nbd:unix:{path}'

    def interrupt(self, run: Run, number: int):
        """It is told to end when it has connected to the server."""
        self.server.settimeout(60)
        self.addCleanup(self.server.accept()[0].close)
        run.kill(number)
        self.assertEqual(run.status(), 1)
        self.assertEqual(run.report()['error'], 'Interrupted')
        self.tried('signals to the tool while it opened an image: QEMU knows')

    def loads(self, over: str, *options: str):
        for number in SIGNALS:
            with self.subTest(f'{over}, {number.name}'):
                dst = self.destination(self.src, run=True)
                dst.capabilities('events')
                load = Run(self, dst, dst.incoming, over, 'load', self.silent,
                           *options)
                self.interrupt(load, number)
                self.assert_gives_up(dst)

    def test_signal_fails_load_over_exec(self):
        self.loads('exec')

    def test_signal_fails_load_over_unix(self):
        self.loads('unix')

    def test_signal_fails_load_over_fd(self):
        self.loads('fd')


class SignalWhileSaveOpens(StuckTest):
    """The same, and the source's guest runs on."""

    def test_signal_fails_save(self):
        path = self.path('server')
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            server.settimeout(60)
            # Over a socket, the image is opened before the source can connect.
            for n, mode in enumerate(m for m in MODES if 'unix' not in m):
                with self.subTest(mode):
                    run = self.begin(mode, '-n', '-O', 'raw',
                                     image=f'nbd:unix:{path}')
                    self.addCleanup(server.accept()[0].close)
                    run.kill(SIGNALS[n % len(SIGNALS)])
                    self.assertEqual(run.status(), 1)
                    self.assertEqual(run.report()['error'], 'Interrupted')
                    self.assertEqual(self.outcome(mode, run)[1], False)
                    self.tried('signals to the tool while it opened an image: '
                               'QEMU knows')

    def test_signalled_listening_save_leaves_no_socket(self):
        """The source has not come yet, and finds nobody."""
        path = self.path('channel')
        for number in SIGNALS:
            process = self.start(self.command('save', self.image,
                                              f'--uri=unix:{path}'))
            wait_until(lambda: os.path.exists(path), 60)
            process.send_signal(number)
            self.finish(process, 1)
            self.assertEqual(self.report()['error'], 'Interrupted')
            self.assertFalse(os.path.exists(path))


if __name__ == '__main__':
    unittest.main(verbosity=2)
