# SPDX-License-Identifier: GPL-2.0-or-later
#
"""What the test cases have in common: sources, saves, loads, comparisons."""

import itertools
import json
import os
import shlex
import subprocess
import tempfile
import unittest

from snaptest import TIMEOUT, env
from snaptest.sanitizers import watch_sanitizers
from snaptest.units import MIB
from snaptest.vm.guests import Loop
from snaptest.vm.machine import NEWEST, PC, Q35, S390, VIRT, VM
from snaptest.vm.ram import Ram
from snaptest.vm.run import PUSHED, Load
from snaptest.waiting import wait_until



class SnapTest(unittest.TestCase):
    """A test with directories, virtual machines and the tool."""

    accel = 'tcg'

    def setUp(self):
        watch_sanitizers(self)
        # Kept short: the paths of sockets are bounded.
        self.dir = self.directory(os.environ.get('TMPDIR', '/var/tmp'))
        self.shm = self.directory('/dev/shm')
        self.count = itertools.count()

    def directory(self, where: str) -> str:
        tmp = tempfile.TemporaryDirectory(prefix='snap-', dir=where)
        self.addCleanup(tmp.cleanup)
        return tmp.name

    def path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    # Virtual machines

    def ram(self, size: int) -> Ram:
        return Ram(os.path.join(self.shm, f'ram{next(self.count)}'), size)

    def vm(self, machine: str, ram: Ram | str, *args: str,
           version: str = NEWEST) -> VM:
        vm = VM(self.dir, machine, ram, args, version,
                f'vm{next(self.count)}', self.accel)
        self.addCleanup(vm.kill)
        vm.launch()
        return vm

    def source(self, machine: str = Q35, *args: str,
               version: str = NEWEST, mib: int = 64, run: bool = False,
               pages: int = 256, delay: int = 1000) -> VM:
        """
        A guest with RAM in all patterns that has run for a moment, is still
        running or not, and knows its .loop.
        """
        ram = self.ram(mib * MIB)
        vm = VM(self.dir, machine, ram, version=version)    # for its .arch
        loop = Loop(vm.arch, ram, pages, delay)
        ram.fill(loop.end, ram.size)
        vm = self.vm(machine, ram, '-S', *Loop.args(vm.arch, self.dir), *args,
                     version=version)
        vm.loop = loop
        vm.cmd('cont')
        vm.wait_until(lambda: loop.gen() > 2)
        if not run:
            vm.cmd('stop')
        return vm

    def destination(self, like: VM, *args: str, version: str = NEWEST,
                    run: bool = False, ram: Ram | None = None) -> VM:
        """A paused machine like @like that waits, with stale RAM."""
        ram = ram or self.ram(like.ram.size)
        ram.poison()
        return self.vm(like.machine, ram, *([] if run else ['-S']),
                       '-incoming', 'defer',
                       *Loop.args(like.arch, self.dir), *args, version=version)

    # The tool

    def command(self, verb: str, image: str, *options: str) -> list[str]:
        """A command line, the end of which self.report() knows."""
        self.last_report = self.path(f'report{next(self.count)}')
        return [env('QEMU_SNAP'), *options, '--report', self.last_report,
                verb, image]

    def report(self, path: str | None = None) -> dict:
        """
        How the last command ended, or that with the report at @path; an
        emulator may know before it.
        """
        def read():
            try:
                with open(path or self.last_report, encoding='utf-8') as f:
                    return json.load(f)
            except (FileNotFoundError, json.JSONDecodeError):
                return None
        return wait_until(read, TIMEOUT)

    def assert_completed(self, verb: str):
        report = self.report()
        self.assertEqual(report['status'], 'completed', report)
        self.assertEqual(report['verb'], verb)

    def tool(self, *args: str, **kwargs) -> subprocess.CompletedProcess:
        """Run the tool away from any emulator."""
        return subprocess.run([env('QEMU_SNAP'), *args], text=True,
                              capture_output=True, timeout=TIMEOUT,
                              check=False, **kwargs)

    def info(self, image: str) -> dict:
        out = self.tool('info', '-U', '--output=json', image)
        self.assertEqual(out.returncode, 0, out.stderr)
        return json.loads(out.stdout)

    def img(self, *args: str) -> str:
        return subprocess.run([env('QEMU_IMG'), *args], check=True, text=True,
                              capture_output=True, timeout=TIMEOUT).stdout

    def img_convert(self, *args: str):
        """
        Convert an image; a save keeps its locks until its process has gone,
        which may be a moment after the migration.
        """
        self.img('convert', '-U', *args)

    def exec_uri(self, command: list[str], prefix: str = '') -> str:
        return 'exec:' + prefix + shlex.join(command)

    def save(self, vm: VM, image: str, *options: str, caps=()):
        """Save over exec, and expect that all went well."""
        vm.migrate(self.exec_uri(self.command('save', image, *options)), *caps)
        info = vm.wait_migration(timeout=TIMEOUT)
        self.assert_completed('save')
        return info

    def load(self, image: str, vm: VM, *options: str):
        """Load over exec, and expect that all went well."""
        vm.incoming(self.exec_uri(self.command('load', image, *options)))
        vm.wait_migration(timeout=TIMEOUT)
        self.assert_completed('load')

    def start(self, command: list[str], **kwargs) -> subprocess.Popen:
        """Start the tool beside an emulator, to be ended by finish()."""
        # pylint: disable=consider-using-with
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, **kwargs)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def finish(self, process: subprocess.Popen, status: int = 0) -> str:
        """Its stderr, after it has ended with @status and silent stdout."""
        out, err = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, status, err)
        self.assertEqual(out, '')
        return err

    def save_stream(self, vm: VM, path: str, *caps: str):
        """The migration stream itself, in a file."""
        vm.migrate(f'exec:cat > {shlex.quote(path)}', *caps)
        vm.wait_migration(timeout=TIMEOUT)

    def load_stream(self, image: str, path: str):
        """What a load emits, in a file; standard input has nothing to say."""
        with open(path, 'wb') as f:
            subprocess.run(self.command('load', image), check=True, stdout=f,
                           stdin=subprocess.DEVNULL, timeout=TIMEOUT)
        self.assert_completed('load')

    # Comparisons

    def assert_same_ram(self, a: VM, b: VM):
        self.assertIsNone(a.ram.difference(b.ram))

    def assert_goes_on(self, vm: VM, loop: Loop):
        """The loop of a loaded guest continues where its RAM says."""
        before = loop.gen(vm.ram)
        vm.cmd('cont')
        vm.wait_until(lambda: loop.gen(vm.ram) > before + 2)
        vm.cmd('stop')
        self.assertIsNone(loop.torn(vm.ram))
        self.assertLess(loop.gen(vm.ram), before + 100000)


class PostcopyTest(SnapTest):
    """A test with a snapshot that is loaded while its guest runs."""

    def setUp(self):
        super().setUp()
        self.image = self.path('image')

    def snapshot(self, machine: str = Q35, *options: str,
                 **kwargs) -> VM:
        """A guest that is no more, see snapshot_of()."""
        return self.snapshot_of(self.source(machine, **kwargs), *options)

    def snapshot_of(self, src: VM, *options: str) -> VM:
        """
        Save and end a guest.  Its .ram is that of the snapshot then, but for
        what it has written meanwhile, and self.stored counts its pages.
        """
        if src.status() == 'running':
            # One that starts anew would show.
            src.wait_until(lambda: src.loop.gen() > 100)
        truth = src.ram.copy()
        self.save(src, self.image, *options, caps=['background-snapshot'])
        self.stored = self.report()['stored-pages']
        src.kill()
        # 7.2 lets a stopped guest run afterwards.
        src.ram = truth
        return src

    def postcopy(self, vm: VM, image: str, *options: str,
                 percent: int | None = None, over: str = 'exec',
                 caps=()) -> Load:
        """Start a load, to be ended by complete()."""
        vm.capabilities('postcopy-ram', 'events', *caps)
        postcopy = '--postcopy' + ('' if percent is None else f'={percent}')
        return Load(self, vm, vm.incoming, over, image, postcopy, *options)

    def unfinished(self, start, during, mib: int):
        """
        A destination, its load, which is not over, and what @during(vm) has
        returned meanwhile.

        start: given options that limit the rate, returns the first two
        mib: the rate per second, which is lower if the machine is so busy
             that the load is over too early
        """
        for divisor in (1, 4, 16):
            vm, load = start('-r', f'{(mib << 10) // divisor}k')
            result = during(vm)
            if vm.migration()['status'] == 'postcopy-active':
                return vm, load, result
            self.complete(load)
            vm.kill()
        raise AssertionError('each load was over too early')

    def resume(self, vm: VM, image: str, *options: str,
               over: str = 'exec') -> Load:
        """Start to load what a broken load has left out."""
        return Load(self, vm, vm.recover, over, image, '--resume', *options)

    def complete(self, load: Load) -> dict:
        """Expect that all goes well, and return what the report counts."""
        load.finish()
        load.vm.wait_migration(timeout=TIMEOUT)
        report = load.report()
        self.assertEqual(report['status'], 'completed', report)
        self.assertEqual(report['verb'], 'load')
        stats = report | report['postcopy']
        self.assert_sane(stats)
        return stats

    def load_postcopy(self, vm: VM, image: str, *options: str,
                      **kwargs) -> dict:
        """Load by postcopy, and expect that all went well."""
        stats = self.complete(self.postcopy(vm, image, *options, **kwargs))
        self.assertGreater(stats['run-us'], 0)
        return stats

    def assert_sane(self, stats: dict):
        # To resume a guest is not to let it run.
        self.assertLess(stats['run-us'], stats['complete-us'])
        self.assertEqual(
            stats['precopy-pages'] + sum(stats[reason] for reason in PUSHED)
            + stats['requested-pages'],
            stats['stored-pages'] + stats['zero-pages'], stats)
        self.assertLessEqual(stats['zero-requested-pages'],
                             min(stats['requested-pages'],
                                 stats['zero-pages']))
        latency = stats['latency-us']
        self.assertLessEqual(
            latency['count'] + stats['requests-on-the-way']
            + stats['requests-repeated'], stats['requests'], stats)
        if latency['count']:
            self.assertLessEqual(latency['p50'], latency['p99'])
            self.assertLessEqual(latency['p99'], latency['max'])
        self.assertEqual(latency['count'],
                         sum(bar['count'] for bar in latency['histogram']))
        bounds = [bar['below-us'] for bar in latency['histogram']]
        self.assertEqual(bounds, sorted(set(bounds)))

    def assert_runs(self, vm: VM, loop: Loop) -> int:
        """
        A guest that nobody has told to run makes progress, from the
        generation that is returned.
        """
        vm.wait_until(lambda: vm.status() == 'running')
        gen = vm.wait_until(lambda: loop.gen(vm.ram))
        vm.wait_until(lambda: loop.gen(vm.ram) > gen + 2)
        return gen

    def assert_all_sent(self, stats: dict):
        """Each page with data has been sent, once."""
        self.assertEqual(stats['stored-pages'], self.stored, stats)

    def assert_ran_on(self, vm: VM, src: VM):
        """
        A running guest has all of RAM, where @src has not changed since,
        and makes progress with it.
        """
        self.assert_runs(vm, src.loop)
        vm.cmd('stop')
        self.assertIsNone(src.loop.torn(vm.ram))
        self.assertIsNone(src.ram.difference(vm.ram, src.loop.end))


class Machines:
    """
    The machines for which round_trip() is wanted, and the releases of QEMU
    that save and load: other tests run on the newest one alone.
    """

    def test_q35_guest_comes_back(self):
        self.round_trip(Q35)

    def test_pc_guest_comes_back(self):
        self.round_trip(PC)

    def test_7_2_guest_comes_back(self):
        self.round_trip('pc-q35-7.2', '7.2', '7.2')

    def test_10_0_guest_comes_back(self):
        self.round_trip('pc-q35-10.0', '10.0', '10.0')

    def test_7_2_guest_comes_back_in_10_0(self):
        self.round_trip('pc-q35-7.2', '7.2', '10.0')

    def test_7_2_guest_comes_back_in_newest(self):
        self.round_trip('pc-q35-7.2', '7.2', NEWEST)

    def test_10_0_guest_comes_back_in_newest(self):
        self.round_trip('pc-q35-10.0', '10.0', NEWEST)

    def test_newest_guest_comes_back_in_10_0(self):
        self.round_trip('pc-q35-10.0', NEWEST, '10.0')

    def test_aarch64_guest_comes_back(self):
        self.round_trip(VIRT)

    def test_s390x_guest_comes_back(self):
        self.round_trip(S390)
