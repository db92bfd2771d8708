# SPDX-License-Identifier: GPL-2.0-or-later
#
"""A stock emulator under test, all of it bounded in time."""

import asyncio
import json
import os
import socket
import threading
import time

from snaptest import TIMEOUT, env
from snaptest.units import PAGE
from snaptest.vm.ram import Ram
from snaptest.waiting import wait_until

from qemu.machine import QEMUMachine  # pylint: disable=wrong-import-order

# Tests run on the newest QEMU that Debian has, 11.1 for example, but for those
# that name 7.2 or 10.0 since what they look at differs (see vm.case.Machines).
NEWEST = os.path.basename(os.path.realpath(
    os.path.join(env('SNAP_EMULATORS'), 'newest')))
Q35, PC, VIRT, S390 = (f'{name}-{NEWEST}' for name in (
    'pc-q35', 'pc-i440fx', 'virt', 's390-ccw-virtio'))

# Machine type prefix: architecture, the id of its RAM, further arguments
MACHINES = {
    'pc-': ('x86_64', 'pc.ram', []),
    'virt-': ('aarch64', 'mach-virt.ram', ['-cpu', 'cortex-a57']),
    's390-': ('s390x', 's390.ram', []),
    'pseries-': ('ppc64', 'ppc_spapr.ram', []),
}


class VM(QEMUMachine):
    """
    A guest without default devices.

    @machine: versioned machine type, which chooses the architecture
    @ram: a Ram to run on, or a size for anonymous memory
    @version: whose emulator to take
    @accel: tcg, or kvm where snaptest.vm.kvm finds it
    """

    def __init__(self, directory: str, machine: str, ram: Ram | str,
                 args=(), version: str = NEWEST, name: str = 'vm',
                 accel: str = 'tcg'):
        self.machine, self.ram, self.version = machine, ram, version
        self.arch, self.ram_id, extra = next(
            v for k, v in MACHINES.items() if machine.startswith(k))
        binary = os.path.join(env('SNAP_EMULATORS'), version,
                              'qemu-system-' + self.arch)
        if not os.path.exists(binary):
            raise FileNotFoundError(binary)
        self.probe_path = os.path.join(directory, name + '.qmp')
        self.serial_path = os.path.join(directory, name + '.serial')
        if isinstance(ram, Ram):
            memory = ['-machine', f'{machine},memory-backend={self.ram_id}',
                      '-m', f'{ram.size >> 20}M', '-object',
                      f'memory-backend-file,id={self.ram_id},size={ram.size},'
                      f'mem-path={ram.path},share=on']
        else:
            memory = ['-machine', machine, '-m', ram]
        super().__init__(
            binary,
            ['-nodefaults', '-accel', accel, *memory, *extra,
             '-chardev', f'socket,id=probe,path={self.probe_path},'
                         'server=on,wait=off',
             '-mon', 'chardev=probe,mode=control',
             '-serial', f'file:{self.serial_path}', *args],
            # No emulator survives the test that started it.
            wrapper=('setpriv', '--pdeathsig', 'KILL'),
            name=name, base_temp_dir=directory, log_dir=directory,
            qmp_timer=TIMEOUT)

    def launch(self):
        super().launch()
        self._qmp.settimeout(TIMEOUT)

    def __del__(self):
        if self._popen and self._popen.poll() is None:
            self._popen.kill()

    def log(self) -> str:
        """What the emulator, and the tool under it, said on stderr."""
        path = os.path.join(self.log_dir, self._name + '.log')
        with open(path, encoding='utf-8', errors='replace') as f:
            return f.read()

    def status(self) -> str:
        return self.cmd('query-status')['status']

    def wait_until(self, what, timeout: float = TIMEOUT):
        """Like wait_until(), and tells what the emulator said."""
        try:
            return wait_until(what, timeout)
        except TimeoutError as e:
            raise TimeoutError(f'{e}; {self.log()}') from None

    # Migration

    def capabilities(self, *names: str):
        self.cmd('migrate-set-capabilities', capabilities=[
            {'capability': name, 'state': True} for name in names])

    def migrate(self, uri: str, *caps: str, bandwidth: int = 16 << 30):
        """Start to migrate, as fast as can be by default."""
        self.capabilities('events', *caps)
        self.cmd('migrate-set-parameters', {'max-bandwidth': bandwidth})

        def accepted():
            reply = self.qmp('migrate', uri=uri)
            if 'error' not in reply:
                return True
            # The migration before has ended, but is not cleaned up yet.
            if 'yank' in reply['error']['desc']:
                return False
            raise RuntimeError(reply['error']['desc'])
        self.wait_until(accepted)

    def incoming(self, uri: str):
        self.cmd('migrate-incoming', uri=uri)

    def migration(self) -> dict:
        return self.cmd('query-migrate')

    def wait_migration(self, *wanted: str, timeout: float = TIMEOUT) -> dict:
        """Wait for the end, or for one of @wanted; another end is an error."""
        wanted = wanted or ('completed',)

        def reached():
            info = self.migration()
            status = info.get('status')
            if status in wanted:
                return info
            if status in ('completed', 'failed', 'cancelled'):
                raise RuntimeError(f'migration {status}, not {wanted}: '
                                   f'{info.get("error-desc")}; {self.log()}')
            return None
        return self.wait_until(reached, timeout)

    def wait_paused(self):
        """
        Wait for a postcopy that is broken.  It is an event that tells: a
        missing page may keep the main loop from answering.
        """
        try:
            self.event_wait('MIGRATION', TIMEOUT,
                            {'data': {'status': 'postcopy-paused'}})
        except asyncio.TimeoutError:
            raise TimeoutError(f'not paused; {self.log()}') from None

    def out_of_band(self, command: str, **arguments):
        reply = self._qmp.cmd_obj({'exec-oob': command,
                                   'arguments': arguments})
        if 'error' in reply:
            raise RuntimeError(reply['error']['desc'])

    def recover(self, uri: str):
        """Wait for a stream that goes on; out of band, as wait_paused()."""
        self.out_of_band('migrate-recover', uri=uri)

    def pages_placed(self) -> int:
        """How much of its RAM has come so far, in a postcopy."""
        return os.stat(self.ram.path).st_blocks * 512 // PAGE

    def pages_sent(self) -> int:
        ram = self.migration().get('ram', {})
        return ram.get('normal', 0) + ram.get('duplicate', 0)

    def wait_snapshot_taken(self):
        """Wait until the moment of a background snapshot has passed."""
        self.wait_until(self.pages_sent)

    def getfd(self, name: str, fd: int):
        """Hand over @fd, for fd:@name."""
        self.send_fd_scm(fd)
        self.cmd('getfd', fdname=name)

    # The guest

    def console(self) -> list[str]:
        """The whole lines that the guest has written so far."""
        with open(self.serial_path, encoding='utf-8', errors='replace') as f:
            text = f.read()
        return text[:text.rfind('\n') + 1].splitlines()

    def wait_console(self, what, timeout: float = TIMEOUT):
        """Wait for whole lines of which @what() is true, and return that."""
        return self.wait_until(lambda: what(self.console()), timeout)

    def dump_ram(self, path: str, size: int) -> Ram:
        """Guest-physical memory from 0 on, for RAM that is no file."""
        self.cmd('pmemsave', val=0, size=size, filename=path)
        return Ram.existing(path)


class Probe(threading.Thread):
    """
    Measures how long QMP commands take, on a monitor of its own:

        with Probe(vm) as probe:
            ...
        probe.longest, or probe.answers: when each came, and how long it took
    """

    def __init__(self, vm: VM):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(vm.probe_path)
        self.stream = self.sock.makefile('rw')
        self.stream.readline()
        self.quit = threading.Event()
        self.longest = 0.0
        self.count = 0
        self.answers = []
        self.query('qmp_capabilities')

    def query(self, command: str):
        self.stream.write(json.dumps({'execute': command}) + '\n')
        self.stream.flush()
        while True:
            line = self.stream.readline()
            if not line:
                raise ConnectionError('the emulator has gone')
            if 'event' not in json.loads(line):
                return

    def run(self):
        while not self.quit.is_set():
            start = time.monotonic()
            try:
                self.query('query-status')
            except OSError:
                # A probe that saw no answer has seen the longest wait.
                self.longest = float('inf')
                return
            end = time.monotonic()
            self.answers.append((end, end - start))
            self.longest = max(self.longest, end - start)
            self.count += 1
            time.sleep(0.002)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.quit.set()
        self.join()
        self.stream.close()
        self.sock.close()
