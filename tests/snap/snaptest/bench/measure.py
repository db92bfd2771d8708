# SPDX-License-Identifier: GPL-2.0-or-later
#
"""What saves and loads virtual machines, and how to measure it doing so."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from typing import Callable, Iterator, NamedTuple

from snaptest import env
from snaptest.bench.common import (MACHINE, PYTHON, REGION, TIMEOUT, cont,
                                   drop_cache, fill, fill_cache, launch,
                                   remove, set_migration, sync)
from snaptest.vm.guests import Loop
from snaptest.vm.machine import VM
from snaptest.vm.ram import Ram

# Run argv[2:]; leave in argv[1] when it ended, and what it has used.
MEASURE = '''
import os, sys, time
pid = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
status, usage = os.wait4(pid, 0)[1:]
with open(sys.argv[1] + '.new', 'w') as f:
    print(time.monotonic(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss,
          os.waitstatus_to_exitcode(status), file=f)
os.rename(sys.argv[1] + '.new', sys.argv[1])
'''

# The least that can be at the other end of a pipe; C does not do it faster.
NULL_READER = '''
import fcntl, os
fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, 1 << 20)
buffer = bytearray(1 << 20)
while os.readv(0, [buffer]):
    pass
'''
NULL_WRITER = '''
import fcntl, mmap, os, sys
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
fd = os.open(sys.argv[1], os.O_RDONLY)
stream = memoryview(mmap.mmap(fd, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE,
                              mmap.PROT_READ))
done = 0
while done < len(stream):
    done += os.write(1, stream[done:done + (1 << 20)])
'''

TITLES = {
    'save': 'save of a stopped guest',
    'background': 'save with background-snapshot',
    'cold': 'load, cold',
    'warm': 'load, warm',
}
# Of a source
CAPS = {
    'save': (),
    'background': ('background-snapshot',),
}


class Peer(NamedTuple):
    """
    Something that saves, loads, or both.

    @save, @load: what to migrate to and from: a command, or 'file' or
        'snapshot' for what QEMU does without one; {file} is the file's name,
        {dir} that of the directory
    @socket: the commands run beside the emulator, not below it, and {socket}
        is where they meet
    @caps, @params: of the migration
    @background: can save with the capability background-snapshot
    @cold, @warm: whether its loads can find nothing, or something, in the
        page cache
    @create: it needs a qcow2 image
    """
    name: str
    save: str | None = None
    load: str | None = None
    socket: bool = False
    caps: tuple = ()
    params: dict = {}
    background: bool = False
    cold: bool = True
    warm: bool = True
    create: bool = False
    suffix: str = 'img'

    def phases(self) -> list[str]:
        """What it can do, in an order in which it finds its file."""
        can = {'background': self.save and self.background, 'save': self.save,
               'cold': self.load and self.cold,
               'warm': self.load and self.warm}
        return [phase for phase, possible in can.items() if possible]


def snap(*options: str, **kwargs) -> Peer:
    tool = shlex.join([env('QEMU_SNAP'), *options])
    return Peer(' '.join(['qemu-snap', *options]), f'{tool} save {{file}}',
                f'{tool} load {{file}}', background=True, **kwargs)


def snap_unix(name: str, *load_options: str, **kwargs) -> Peer:
    tool = env('QEMU_SNAP') + ' --uri=unix:{socket}'
    load = shlex.join(load_options)
    return Peer(f'qemu-snap, unix{name}', f'{tool} save {{file}}',
                f'{tool} {load} load {{file}}', socket=True, **kwargs)


NULL_SAVE = Peer('null reader, 1 MiB pipe',
                 shlex.join([*PYTHON, NULL_READER]), background=True)
# Plays a stream that is in the file already
NULL_LOAD = Peer('null writer, 1 MiB pipe', None,
                 shlex.join([*PYTHON, NULL_WRITER]) + ' {file}', cold=False)
DEV_NULL = Peer('exec:cat > /dev/null', 'cat > /dev/null', background=True)
CAT = Peer('exec:cat', 'cat > {file}', 'cat {file}', background=True)


def emulator_cpu(vm: VM) -> float:
    with open(f'/proc/{vm.get_pid()}/stat', encoding='ascii') as f:
        fields = f.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def snapshot_job(vm: VM, verb: str, path: str) -> float:
    """Run it, and return when it has ended."""
    vm.cmd('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk',
        'file': {'driver': 'file', 'filename': path}})
    vm.cmd(f'snapshot-{verb}', {'job-id': 'job', 'tag': 'bench',
                                'vmstate': 'disk', 'devices': ['disk']})
    vm.event_wait('JOB_STATUS_CHANGE', TIMEOUT,
                  {'data': {'status': 'concluded'}})
    end = time.monotonic()
    error = vm.cmd('query-jobs')[0].get('error')
    if error:
        raise RuntimeError(f'snapshot-{verb}: {error}')
    vm.cmd('job-dismiss', id='job')
    vm.cmd('blockdev-del', {'node-name': 'disk'})
    vm.get_qmp_events()
    return end


class Measure:
    """
    Migrations to and from peers, and what they take.

    @directory: where peers save to
    @vm: what is saved; it runs a Loop if it is to be loaded
    @ram, @used: bytes that its RAM has, and those that are not zero
    """

    def __init__(self, directory: str, vm: VM, ram: int, used: int):
        self.dir, self.vm, self.ram, self.used = directory, vm, ram, used
        self.usage, self.socket = self.path('usage'), self.path('socket')
        self.beside = None

    def path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    # One migration, in either direction

    def command(self, target: str, path: str) -> list[str]:
        target = target.format(file=shlex.quote(path),
                               socket=shlex.quote(self.socket),
                               dir=shlex.quote(self.dir))
        return [*PYTHON, MEASURE, self.usage, 'sh', '-c', 'exec ' + target]

    def begin(self, vm: VM, verb: str, peer: Peer, path: str) -> float:
        """Start a migration, and return when that was."""
        qmp, target = {'save': ('migrate', peer.save),
                       'load': ('migrate-incoming', peer.load)}[verb]
        if not peer.socket:
            uri = f'file:{path}' if target == 'file' else \
                'exec:' + shlex.join(self.command(target, path))
            start = time.monotonic()
            vm.cmd(qmp, uri=uri)
            return start
        # Who listens is there first.
        if verb == 'load':
            vm.cmd(qmp, uri='unix:' + self.socket)
        start = time.monotonic()
        # pylint: disable=consider-using-with
        self.beside = subprocess.Popen(self.command(target, path),
                                       start_new_session=True)
        if verb == 'save':
            vm.wait_until(lambda: os.path.exists(self.socket) or
                          self.beside.poll() is not None)
            start = time.monotonic()
            vm.cmd(qmp, uri='unix:' + self.socket)
        return start

    def command_used(self, vm: VM) -> tuple[float, dict]:
        """When the command has ended, and what it has used."""
        vm.wait_until(lambda: os.path.exists(self.usage), TIMEOUT)
        with open(self.usage, encoding='ascii') as f:
            ended, cpu, rss, status = map(float, f.read().split())
        if status:
            raise RuntimeError(f'exit status {status:.0f}; {vm.log()}')
        return ended, {'cpu': cpu, 'rss': int(rss) << 10}

    def migrate(self, vm: VM, verb: str, peer: Peer, path: str,
                completed: Callable = lambda: None) -> dict:
        """
        Do it, and call @completed when QEMU says that it is.  Return when it
        began, the times since then, and what it took.
        """
        for name in (self.usage, self.socket):
            with contextlib.suppress(FileNotFoundError):
                os.remove(name)
        try:
            return self.do_migrate(vm, verb, peer, path, completed)
        finally:
            if self.beside:
                # After a failure, it may wait forever.
                if not os.path.exists(self.usage):
                    os.killpg(self.beside.pid, signal.SIGKILL)
                self.beside.wait()
                self.beside = None

    def do_migrate(self, vm: VM, verb: str, peer: Peer, path: str,
                   completed: Callable) -> dict:
        cpu = emulator_cpu(vm)
        if peer.save == 'snapshot':
            start = time.monotonic()
            end = snapshot_job(vm, verb, path)
        else:
            start = self.begin(vm, verb, peer, path)
            event = vm.events_wait(
                [('MIGRATION', {'data': {'status': s}})
                 for s in ('completed', 'failed')], TIMEOUT)
            end = time.monotonic()
            if event['data']['status'] != 'completed':
                error = vm.migration().get('error-desc')
                raise RuntimeError(f'{verb}: {error}; {vm.log()}')
        completed()
        result = {'start': start, 'time': end - start, 'ended': end - start}
        if peer.save not in ('file', 'snapshot'):
            ended, used = self.command_used(vm)
            result |= {'ended': max(ended, end) - start, **used}
        return result | {'emulator_cpu': emulator_cpu(vm) - cpu}

    # What is measured

    def prepare(self, peer: Peer, *caps: str) -> str:
        """Get ready for a save, to the path that is returned."""
        path = self.path('saved.' + peer.suffix)
        remove(path)
        if peer.create:
            subprocess.run([env('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                            path, str(2 * self.ram)], check=True)
        set_migration(self.vm, (*peer.caps, *caps), peer.params)
        return path

    def save(self, peer: Peer, *caps: str) -> dict:
        # QEMU does not save a guest that a migration has stopped.
        cont(self.vm)
        self.vm.cmd('stop')
        path = self.prepare(peer, *caps)
        result = self.migrate(self.vm, 'save', peer, path)
        if os.path.exists(path):
            result['fsync'] = sync(path)
            st = os.stat(path)
            result |= {'stable': result['ended'] + result['fsync'],
                       'length': st.st_size, 'du': st.st_blocks * 512}
        return result

    def load(self, peer: Peer, cold: bool) -> dict:
        path = self.path('saved.' + peer.suffix)
        incoming = [] if peer.load == 'snapshot' else ['-incoming', 'defer']
        vm = VM(self.dir, MACHINE, f'{self.ram >> 20}M',
                ['-S', *incoming, *Loop.args('x86_64', self.dir)], name='dst')
        try:
            launch(vm)
            set_migration(vm, peer.caps, peer.params)
            if cold:
                drop_cache(path)
            else:
                fill_cache(path)
            return self.migrate(vm, 'load', peer, path)
        finally:
            vm.kill()

    def phase(self, name: str, peer: Peer) -> dict:
        """One of TITLES, with the rate in GB/s of RAM that is not zero."""
        if name in ('cold', 'warm'):
            result = self.load(peer, name == 'cold')
        else:
            result = self.save(peer, *CAPS[name])
        del result['start']
        lasted = result.get('stable', result['ended'])
        return result | {'rate': self.used / 1e9 / lasted}


@contextlib.contextmanager
def stopped_guest(directory: str, shm: str, size: int, mix: dict[str, int],
                  seed: int) -> Iterator[Measure]:
    """A guest that has been running, with RAM as fill() makes it."""
    ram = Ram(os.path.join(shm, 'ram'), size)
    loop = Loop('x86_64', ram, pages=1)
    used = fill(ram, -(-loop.end // REGION) * REGION, mix, seed)
    vm = VM(directory, MACHINE, ram, ['-S', *Loop.args('x86_64', directory)])
    try:
        launch(vm)
        vm.cmd('cont')
        vm.wait_until(lambda: loop.gen() > 2)
        vm.cmd('stop')
        yield Measure(directory, vm, size, used)
    finally:
        vm.kill()
        os.remove(ram.path)
