#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#
"""What the test cases have in common: sources, saves, loads, comparisons."""

import itertools
import json
import os
import shlex
import subprocess
import tempfile
import unittest

from . import env
from .guests import MIB, Loop
from .machine import VM, wait_until
from .ram import Ram

TIMEOUT = 60


class SnapTest(unittest.TestCase):
    """A test with directories, virtual machines and the tool."""

    def setUp(self):
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
           version: str = '10.0') -> VM:
        vm = VM(self.dir, machine, ram, args, version, f'vm{next(self.count)}')
        self.addCleanup(vm.kill)
        vm.launch()
        return vm

    def source(self, machine: str = 'pc-q35-10.0', *args: str,
               version: str = '10.0', mib: int = 64, run: bool = False,
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

    def destination(self, like: VM, *args: str, version: str = '10.0',
                    run: bool = False) -> VM:
        """A paused machine like @like that waits, with stale RAM."""
        ram = self.ram(like.ram.size)
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

    def report(self) -> dict:
        """How the last command ended; an emulator may know before it."""
        def read():
            try:
                with open(self.last_report, encoding='utf-8') as f:
                    return json.load(f)
            except (FileNotFoundError, json.JSONDecodeError):
                return None
        return wait_until(read, 20)

    def assert_completed(self, verb: str):
        report = self.report()
        self.assertEqual(report['status'], 'completed', report)
        self.assertEqual(report['verb'], verb)

    def tool(self, *args: str, **kwargs) -> subprocess.CompletedProcess:
        """Run the tool away from any emulator."""
        return subprocess.run([env('QEMU_SNAP'), *args], text=True,
                              capture_output=True, timeout=TIMEOUT,
                              check=False, **kwargs)

    def img(self, *args: str) -> str:
        return subprocess.run([env('QEMU_IMG'), *args], check=True, text=True,
                              capture_output=True, timeout=TIMEOUT).stdout

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


class Machines:
    """The machines for which round_trip() is wanted."""

    def test_q35(self):
        self.round_trip('pc-q35-10.0')

    def test_pc(self):
        self.round_trip('pc-i440fx-10.0')

    def test_7_2(self):
        self.round_trip('pc-q35-7.2', '7.2', '7.2')

    def test_7_2_to_10_0(self):
        self.round_trip('pc-q35-7.2', '7.2', '10.0')

    def test_aarch64(self):
        self.round_trip('virt-10.0')

    def test_s390x(self):
        self.round_trip('s390-ccw-virtio-10.0')
