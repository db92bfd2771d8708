# SPDX-License-Identifier: GPL-2.0-or-later
#
"""What the benches have in common: RAM to save, files, and tables."""

import argparse
import contextlib
import os
import random
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import time

from snaptest.units import GIB, MIB, PAGE
from snaptest.vm.machine import Q35, VM
from snaptest.vm.ram import Ram

REGION = 4 * MIB
# A float: for QMP, a number without a point means forever
TIMEOUT = 600.0
MACHINE = Q35
CAPABILITIES = ('events', 'mapped-ram', 'multifd', 'background-snapshot',
                'postcopy-ram', 'postcopy-preempt', 'postcopy-blocktime',
                'return-path')

# Shares of RAM in which pages are of one kind; 62.5 % of it is not zero.
MIX = 'zero:5,random:6,compressible:4,scattered:5'

# A Python that is there at once
PYTHON = (sys.executable, '-I', '-S', '-c')


def sync(path: str) -> float:
    """How long it takes to get what is still in memory to the disk."""
    start = time.monotonic()
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    return time.monotonic() - start


def fill_cache(path: str):
    with open(path, 'rb', buffering=0) as f:
        while f.read(MIB):
            pass


def drop_cache(path: str):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def remove(path: str):
    """... for good: a file system may discard blocks when it commits."""
    if os.path.exists(path):
        os.remove(path)
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def fill(ram: Ram, start: int, mix: dict[str, int], seed: int) -> int:
    """Fill @ram from @start on, and tell how many bytes are in use."""
    rng = random.Random(seed)
    noise = rng.randbytes(REGION)
    words = [b'%x ' % rng.randrange(1 << 20) for _ in range(64)]
    text = b''.join(rng.choices(words, k=REGION // 4))[:REGION]
    regions = range(0, ram.size, REGION)
    kinds = [k for k, share in mix.items() for _ in range(share)]
    kinds *= len(regions) // len(kinds) + 1
    kinds = kinds[:len(regions)]
    rng.shuffle(kinds)
    used = 0
    with open(ram.path, 'r+b') as f:
        for offset, kind in zip(regions, kinds):
            if offset < start or kind == 'zero':
                continue
            shift = rng.randrange(1, REGION)
            base = text if kind == 'compressible' else noise
            data = bytearray(base[shift:] + base[:shift])
            data[:8] = struct.pack('<Q', offset)
            if kind == 'scattered':
                for page in range(0, REGION, 2 * PAGE):
                    data[page:page + PAGE] = bytes(PAGE)
            f.seek(offset)
            f.write(data)
            used += REGION // (2 if kind == 'scattered' else 1)
    return used


def launch(vm: VM):
    vm.launch()
    # Internal snapshots keep QMP waiting until they are done.
    vm._qmp.settimeout(TIMEOUT)     # pylint: disable=protected-access


def cont(vm: VM):
    """Let the guest run, also right after it was saved."""
    # A migration that has completed may not have left the guest alone yet.
    for _ in range(10000):
        reply = vm.qmp('cont')
        if 'error' not in reply:
            return
        time.sleep(0.0005)
    raise RuntimeError(reply['error']['desc'])


def set_migration(vm: VM, caps: tuple = (), params: dict | None = None):
    """Say how to migrate, once a migration before is cleaned up."""
    vm.wait_until(lambda: all(i['type'] != 'migration'
                              for i in vm.cmd('query-yank')))
    vm.cmd('migrate-set-capabilities', capabilities=[
        {'capability': c, 'state': c in ('events', *caps)}
        for c in CAPABILITIES])
    vm.cmd('migrate-set-parameters',
           {'max-bandwidth': 0, 'direct-io': False, **(params or {})})


def say(text: str):
    print(text, file=sys.stderr, flush=True)


def table(title: str, head: list[str], rows: list[list[str]]):
    print(f'\n{title}\n')
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print('  '.join([row[0].ljust(widths[0])] +
                        [c.rjust(w) for c, w in zip(row[1:], widths[1:])]))


def median(runs: list[dict], key: str) -> float | None:
    values = [run[key] for run in runs if key in run]
    return statistics.median(values) if values else None


def cell(value: float | None, form: str = '{:.2f}') -> str:
    return '' if value is None else form.format(value)


def conditions(runs: int) -> dict:
    """What a record of figures says about how they were measured."""
    files = ('--dir', '--json', '--plot', '--other')
    args = [arg for before, arg in zip(sys.argv, sys.argv[1:])
            if arg not in files and before not in files]
    commit = subprocess.run(
        ['git', '-C', os.path.dirname(__file__), 'rev-parse', '--short=7',
         'HEAD'], capture_output=True, text=True, check=False).stdout.strip()
    return {'command': f'make bench ARGS="{shlex.join(args)}"',
            'commit': commit or 'unknown', 'runs': runs,
            'cpus': os.cpu_count(), 'load': os.getloadavg()[0]}


@contextlib.contextmanager
def tool(program: str):
    """Measure @program, another build of the tool."""
    own = os.environ['QEMU_SNAP']
    os.environ['QEMU_SNAP'] = program
    try:
        yield
    finally:
        os.environ['QEMU_SNAP'] = own


# The command line

def size(text: str) -> int:
    factor = {'M': MIB, 'G': GIB}[text[-1].upper()]
    return int(float(text[:-1]) * factor) // REGION * REGION


def mixture(text: str) -> dict[str, int]:
    mix = {k: int(v) for k, v in (part.split(':') for part in text.split(','))}
    if not mix.keys() <= {'zero', 'random', 'compressible', 'scattered'}:
        raise ValueError(text)
    return mix


def some_of(names):
    """The type of an argument that lists some of @names."""
    def names_in(text: str) -> list[str]:
        listed = text.split(',')
        if not set(listed) <= set(names):
            raise argparse.ArgumentTypeError(f'{text}: not some of '
                                             f'{", ".join(names)}')
        return listed
    return names_in


def check_room(directory: str, memory: int, shm: int, disk: int):
    """End before anything is done if there is no room to do it in."""
    with open('/proc/meminfo', encoding='ascii') as f:
        free = next(int(line.split()[1]) << 10 for line in f
                    if line.startswith('MemAvailable'))
    for what, has, needs in (
            ('memory', free, memory),
            ('/dev/shm', shutil.disk_usage('/dev/shm').free, shm),
            (directory, shutil.disk_usage(directory).free, disk)):
        if has < needs:
            sys.exit(f'{what}: {has / GIB:.1f} GiB free, '
                     f'{needs / GIB:.1f} wanted; --size takes less')
