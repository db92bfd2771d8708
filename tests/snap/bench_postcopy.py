#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Measure load --postcopy: when the guest runs, and what it waits for then.
#

"""
Four parts, each of which ends in tables of medians over the rounds, with the
figures to reach beside them.  Nothing is asserted.

run         from migrate-incoming to the guest running, with an image that is
            not in the page cache, beside an eager load of mapped-ram
completion  of all of the load, beside a program that sends the same bytes from
            memory and looks at none of them
latency     of a page that the guest waits for, from the emulator's request to
            its place in RAM, by how fast other pages are pushed meanwhile
requests    of a working guest in the first seconds, by what is pushed

All times are the emulator's own: of its events, and of its trace.
"""

import argparse
import collections
import contextlib
import json
import os
import re
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from typing import NamedTuple

# pylint: disable=wrong-import-position
from snaptest import env
from snaptest.bench.common import (MACHINE, MIX, PYTHON, cell, check_room,
                                   conditions, drop_cache, fill, launch, median,
                                   mixture, remove, say, set_migration, size,
                                   some_of, sync, table, tool)
from snaptest.peers.streams import CONTINUE, EOS, FOOTER, PART, ZERO
from snaptest.units import GIB, MIB, PAGE
from snaptest.vm.guests import WORKING_SET, Access
from snaptest.vm.machine import VM
from snaptest.vm.ram import Ram
from snaptest.waiting import wait_until

TIMEOUT = 120.0
FIRST = 3.0                     # seconds in which requests are counted
SLOW = '200M'                   # what a busy disk may give
SPARSE = 256 * MIB              # what is there of a sparse guest

# Send the file argv[1] through stdout, or the socket argv[3], while QEMU's
# messages are read until it closes; the last is that all has been loaded.
# When the file is in memory, and the first byte goes, is left in argv[2].
NULL_PUSHER = '''
import fcntl, mmap, os, socket, sys, threading, time
fd = os.open(sys.argv[1], os.O_RDONLY)
stream = memoryview(mmap.mmap(fd, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE,
                              mmap.PROT_READ))
if len(sys.argv) > 3:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[3])
    source = sink = sock.fileno()
else:
    source, sink = 0, 1
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 1 << 20)
last = b''
def drain():
    global last
    while data := os.read(source, 1 << 16):
        last = (last + data)[-8:]
reader = threading.Thread(target=drain)
reader.start()
start = time.time()
done = 0
while done < len(stream):
    done += os.write(sink, stream[done:done + (1 << 20)])
reader.join()
with open(sys.argv[2] + '.new', 'w') as f:
    print(start, last == bytes.fromhex('0001000400000000'), file=f)
os.rename(sys.argv[2] + '.new', sys.argv[2])
'''


class Guest(NamedTuple):
    """
    What works in a guest while it is saved, and after it is loaded.

    @start: where its region begins, as a share of RAM
    @pages, @walk, @reads: see Access; a small RAM has fewer pages
    @rate: accesses in a second, as long as no page is missing
    """
    title: str
    start: float
    pages: int
    walk: bool
    reads: int
    rate: int


GUESTS = {
    'hot set': Guest('a hot set, walked again and again',
                     0.75, 4096, True, 0, 10000),
    'database': Guest('random accesses in a region, half of them writes',
                      0.75, 4096, False, 1, 20000),
    'wide': Guest('random accesses in half of RAM',
                  0.5, 65536, False, 1, 4000),
}


class Request(NamedTuple):
    """A page that a destination has asked for, and when; None: never."""
    asked: float
    placed: float | None


def accesses(vm: VM) -> int:
    """How far an Access in the guest has come."""
    text = vm.cmd('human-monitor-command',
                  {'command-line': f'xp /1wd {Access.COUNT:#x}'})
    return int(text.split(':')[1])


def with_more_ram(stream: bytes, size_: int, wanted: int):
    """The pieces of @stream with another size of pc.ram, the rest zero."""
    head = b'\3ram' + struct.pack('>II', 0, 4)
    total = stream.index(head) + len(head)
    ram_id = stream[total - len(head) - 4:total - len(head)]
    footer = bytes([FOOTER]) + ram_id
    end = struct.pack('>Q', EOS) + footer
    behind = stream.index(end, total) + len(end)
    block = b'\6pc.ram'
    setup = stream[total + 8:behind].replace(
        block + struct.pack('>Q', size_), block + struct.pack('>Q', wanted))
    yield stream[:total]
    yield struct.pack('>Q', struct.unpack_from('>Q', stream, total)[0] +
                      wanted - size_)
    yield setup
    yield bytes([PART]) + ram_id
    yield struct.pack('>Q', size_ | ZERO) + block + b'\0'
    for at in range(size_ + PAGE, wanted, PAGE):
        yield struct.pack('>QB', at | ZERO | CONTINUE, 0)
    yield end
    yield stream[behind:]


class Destination:
    """
    An emulator that waits for a load, what loads, and what is known of it.
    To be used in a "with" statement, at the end of which all of it is gone.
    """

    def __init__(self, directory: str, ram: int, caps: tuple = (),
                 params: dict | None = None, run: bool = True):
        self.dir = directory
        self.trace = self.path('trace')
        self.process = self.start = None
        self.vm = VM(directory, MACHINE, f'{ram >> 20}M',
                     [*([] if run else ['-S']), '-incoming', 'defer',
                      *Access.args(directory), '-D', self.trace,
                      '-msg', 'timestamp=on',
                      '-trace', 'postcopy_page_req_add',
                      '-trace', 'postcopy_page_req_del'], name='dst')
        for name in ('report', 'trace', 'socket'):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path(name))
        self.caps, self.params = caps, params

    def path(self, name: str) -> str:
        return os.path.join(self.dir, 'dst.' + name)

    def __enter__(self):
        launch(self.vm)
        set_migration(self.vm, self.caps, self.params)
        return self

    def __exit__(self, *exc):
        self.vm.kill()
        if self.process:
            self.process.kill()
            self.process.wait()

    # How to load

    def tool(self, image: str, *options: str) -> list[str]:
        return [env('QEMU_SNAP'), '--report', self.path('report'), *options,
                'load', image]

    def uri(self, uri: str):
        self.start = time.time()
        self.vm.incoming(uri)

    def exec(self, command: list[str]):
        self.uri('exec:exec ' + shlex.join(command))

    def unix(self, command: list[str]):
        """Run @command, that is told to connect to self.path('socket')."""
        self.vm.incoming('unix:' + self.path('socket'))
        self.start = time.time()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def load(self, transport: str, image: str, *options: str):
        """Let the tool load @image."""
        if transport == 'unix':
            self.unix(self.tool(image, '--uri=unix:' + self.path('socket'),
                                *options))
        else:
            self.exec(self.tool(image, *options))

    # What there is to know

    def event(self, *wanted: tuple[str, dict]) -> float:
        """When the first of the events came."""
        bad = ('failed', 'postcopy-paused')
        event = None
        with contextlib.suppress(TimeoutError):
            event = self.vm.events_wait(
                [*wanted, *(('MIGRATION', {'data': {'status': s}})
                            for s in bad)], TIMEOUT)
        if not event or event.get('data', {}).get('status') in bad:
            raise RuntimeError(f'not {wanted}, but {event}; {self.vm.log()}')
        return event['timestamp']['seconds'] + \
            event['timestamp']['microseconds'] / 1e6

    def running(self) -> float:
        """The time from the start until the guest ran."""
        return self.event(('RESUME', {})) - self.start

    def completed(self) -> float:
        """The time from the start until all was loaded."""
        return self.event(('MIGRATION', {'data': {'status': 'completed'}})) \
            - self.start

    def report(self) -> dict:
        """What the tool says about its load."""
        def read():
            try:
                with open(self.path('report'), encoding='utf-8') as f:
                    return json.load(f)
            except (FileNotFoundError, json.JSONDecodeError):
                return None
        report = wait_until(read, 20)
        if report['status'] != 'completed':
            raise RuntimeError(f'{report}; {self.vm.log()}')
        return report

    def requests(self) -> list[Request]:
        """The pages that the emulator asked for, in its order."""
        # As QEMU writes it up to 10.0, and since
        line = re.compile(r'(?:\d+@(\d+\.\d+):|(\S+)Z )'
                          r'postcopy_page_req_(add|del) '
                          r'.* page req (0x[0-9a-f]+) ')
        asked, placed = {}, {}
        with open(self.trace, encoding='ascii', errors='replace') as f:
            for match in filter(None, map(line.match, f)):
                seconds, date, what, page = match.groups()
                when = float(seconds) if seconds else \
                    datetime.fromisoformat(date + '+00:00').timestamp()
                (asked if what == 'add' else placed)[page] = when
        if not asked:
            raise RuntimeError(f'no request in {self.trace}')
        return [Request(when, placed.get(page))
                for page, when in asked.items()]


class Bench:
    """Where snapshots are kept, and what can be done with them."""

    def __init__(self, args: argparse.Namespace, disk: str, shm: str):
        self.args, self.disk, self.shm = args, disk, shm
        self.images = {}
        # What was measured of this build and of the other one, in pairs
        self.others = collections.defaultdict(list)

    def path(self, name: str) -> str:
        return os.path.join(self.disk, name)

    def rounds(self, measures: dict) -> dict:
        """The results of each of @measures, in each round."""
        results = collections.defaultdict(list)
        for n in range(self.args.runs):
            for name, measure in measures.items():
                results[name].append(measure())
                say(f'{n + 1}/{self.args.runs} {name:46}' + ', '.join(
                    f'{key} {value:.4g}'
                    for key, value in results[name][-1].items()
                    if isinstance(value, (int, float))))
                if self.args.other:
                    with tool(self.args.other):
                        self.others[name].append((results[name][-1],
                                                  measure()))
        return results

    def show_others(self):
        """The medians of this build, and of the other one."""
        rows = []
        for name, pairs in self.others.items():
            ours, others = zip(*pairs)
            rows += [[name, key, cell(median(ours, key), '{:.4g}'),
                      cell(median(others, key), '{:.4g}')]
                     for key, value in ours[0].items()
                     if isinstance(value, (int, float))]
        table('this build, and the other one', ['', '', 'this', 'other'], rows)

    @contextlib.contextmanager
    def source(self, ram: Ram):
        """A working guest."""
        vm = VM(self.disk, MACHINE, ram, Access.args(self.disk), name='src')
        try:
            launch(vm)
            vm.wait_until(lambda: accesses(vm) > 2)
            yield vm
        finally:
            vm.kill()
            os.remove(ram.path)

    def save(self, vm: VM, path: str, uri: str, *caps: str, **params):
        set_migration(vm, caps, params)
        vm.cmd('migrate', uri=uri)
        vm.wait_migration(timeout=TIMEOUT)
        # The command that QEMU waits for may not have ended, but has renamed.
        sync(path)
        return path

    def snapshot(self, vm: VM, name: str, *caps: str) -> str:
        path = self.path(name + '.qcow2')
        command = shlex.join([env('QEMU_SNAP'), 'save', path])
        return self.save(vm, path, 'exec:exec ' + command, *caps)

    def sparse_snapshot(self, vm: VM, name: str, ram: int) -> str:
        """
        As if the guest had @ram, the rest of it zero.  To make a guest that
        has would take all of that memory.
        """
        stream = os.path.join(self.shm, 'stream')
        self.save(vm, stream, f'exec:exec cat > {shlex.quote(stream)}')
        path = self.path(name + '.qcow2')
        with open(stream, 'rb') as f, subprocess.Popen(
                [env('QEMU_SNAP'), 'save', path],
                stdin=subprocess.PIPE) as tool:
            for piece in with_more_ram(f.read(), vm.ram.size, ram):
                tool.stdin.write(piece)
        if tool.returncode:
            raise RuntimeError(f'save of {path}: {tool.returncode}')
        os.remove(stream)
        sync(path)
        return path

    def image(self, name: str) -> str:
        """A background snapshot of one of GUESTS; it is made only once."""
        if name not in self.images:
            guest, ram = GUESTS[name], Ram(os.path.join(self.shm, 'ram'),
                                           self.args.size)
            ram.fill_random(ram.size // 8, ram.size)
            start = int(ram.size * guest.start)
            pages = guest.pages
            while start + pages * PAGE > ram.size:
                pages //= 2
            access = Access(ram, start, pages, guest.walk, guest.reads)
            with self.source(ram) as vm:
                access.pace(guest.rate)
                self.images[name] = self.snapshot(vm, name.replace(' ', '-'),
                                                  'background-snapshot')
        return self.images[name]


# Time to run

class Run:
    """From migrate-incoming to the guest running, from a cold image."""

    EAGER = {'multifd-channels': 2, 'direct-io': True}

    def __init__(self, bench: Bench):
        self.bench = bench
        small, large, sparse = bench.args.guests
        self.names = {'small': f'{small / GIB:g} GiB',
                      'large': f'{large / GIB:g} GiB',
                      'sparse': f'{sparse / GIB:g} GiB, sparse'}
        self.used = {}

    def images(self) -> dict:
        """Each guest's snapshot, and what peers make of the large one."""
        images = {}
        for key, ram_size in zip(self.names, self.bench.args.guests):
            sparse = key == 'sparse'
            ram = Ram(os.path.join(self.bench.shm, 'ram'),
                      SPARSE if sparse else ram_size)
            Access(ram, WORKING_SET, 2, True)
            self.used[key] = fill(ram, 8 * MIB, mixture(MIX),
                                  self.bench.args.seed)
            say(f'{self.names[key]}: {self.used[key] / 1e9:.2f} GB not zero')
            with self.bench.source(ram) as vm:
                images[key] = self.bench.sparse_snapshot(
                    vm, key, ram_size) if sparse else \
                    self.bench.snapshot(vm, key)
                if key == 'large':
                    images['mapped-ram'] = self.mapped_ram_file(vm)
        return images

    def mapped_ram_file(self, vm: VM) -> str:
        vm.cmd('cont')
        path = self.bench.path('mapped-ram')
        return self.bench.save(vm, path, 'file:' + path, 'mapped-ram',
                               'multifd', **self.EAGER)

    def measure(self) -> dict:
        images = self.images()
        sizes = dict(zip(self.names, self.bench.args.guests))
        return self.bench.rounds({
            **{f'qemu-snap --postcopy, {name}': lambda key=key: self.postcopy(
                images[key], sizes[key]) for key, name in self.names.items()},
            f'mapped-ram, multifd, direct-io, {self.names["large"]}':
                lambda: self.mapped_ram(images['mapped-ram'], sizes['large']),
            f'qemu-snap, all of {self.names["large"]} first':
                lambda: self.eager(images['large'], sizes['large'])})

    def postcopy(self, image: str, ram: int) -> dict:
        with Destination(self.bench.disk, ram, ('postcopy-ram',)) as dst:
            drop_cache(image)
            dst.load('exec', image, '--postcopy')
            return {'running': dst.running()}

    def eager(self, image: str, ram: int) -> dict:
        with Destination(self.bench.disk, ram) as dst:
            drop_cache(image)
            dst.load('exec', image)
            return {'running': dst.running()}

    def mapped_ram(self, path: str, ram: int) -> dict:
        with Destination(self.bench.disk, ram, ('mapped-ram', 'multifd'),
                         self.EAGER) as dst:
            drop_cache(path)
            dst.uri('file:' + path)
            return {'running': dst.running()}

    def show(self, results: dict):
        times = {name: median(runs, 'running')
                 for name, runs in results.items()}
        small, large, _, mapped, _ = times
        targets = {large: ('<= 0.05', '<= 1.20')}
        table(f'time to run, not in the page cache (seconds; '
              f'{self.names["large"]}: {self.used["large"] / 1e9:.2f} GB '
              'not zero)',
              ['', 'running', 'of mapped-ram', 'target', 'of small', 'target'],
              [[name, cell(value, '{:.3f}'),
                cell(value / times[mapped], '{:.3f}'),
                targets.get(name, ('', ''))[0],
                cell(value / times[small]), targets.get(name, ('', ''))[1]]
               for name, value in times.items()])


# Completion

class Completion:
    """All of a load into a stopped guest, beside the null pusher."""

    TRANSPORTS = ('exec', 'unix')

    def __init__(self, bench: Bench):
        self.bench = bench
        self.image = bench.image('hot set')
        self.stream = os.path.join(bench.shm, 'stream')

    def destination(self) -> Destination:
        return Destination(self.bench.disk, self.bench.args.size,
                           ('postcopy-ram',), run=False)

    def record(self):
        """Keep what the tool sends."""
        with self.destination() as dst:
            command = shlex.join(dst.tool(self.image, '--postcopy'))
            dst.uri(f'exec:{command} | tee {shlex.quote(self.stream)}')
            dst.completed()
            dst.report()

    def measure(self) -> dict:
        self.record()
        results = self.bench.rounds({
            f'{t}, {who}': lambda t=t, how=how: how(t)
            for t in self.TRANSPORTS
            for who, how in (('qemu-snap', self.tool),
                             ('null pusher', self.null_pusher))})
        os.remove(self.stream)
        return results

    def result(self, seconds: float) -> dict:
        return {'time': seconds,
                'rate': os.path.getsize(self.stream) / 1e6 / seconds}

    def tool(self, transport: str) -> dict:
        with self.destination() as dst:
            dst.load(transport, self.image, '--postcopy', '--cache=writeback')
            result = self.result(dst.completed())
            return result | {'report': dst.report()}

    def null_pusher(self, transport: str) -> dict:
        with self.destination() as dst:
            began = dst.path('began')
            remove(began)
            command = [*PYTHON, NULL_PUSHER, self.stream, began]
            if transport == 'unix':
                dst.unix([*command, dst.path('socket')])
            else:
                dst.exec(command)
            completed = dst.start + dst.completed()
            wait_until(lambda: os.path.exists(began), 20)
            with open(began, encoding='ascii') as f:
                start, loaded = f.read().split()
            if loaded != 'True':
                raise RuntimeError(f'null pusher: {dst.vm.log()}')
            return self.result(completed - float(start))

    def show(self, results: dict):
        rows = []
        for transport in self.TRANSPORTS:
            tool, null = (results[f'{transport}, {who}']
                          for who in ('qemu-snap', 'null pusher'))
            rows += [[f'{transport}, qemu-snap', cell(median(tool, 'time')),
                      cell(median(tool, 'rate'), '{:.0f}'),
                      cell(median(tool, 'rate') / median(null, 'rate')),
                      '>= 0.90'],
                     [f'{transport}, null pusher', cell(median(null, 'time')),
                      cell(median(null, 'rate'), '{:.0f}'), '', '']]
        table('completion of postcopy, in the page cache, stopped guest '
              '(seconds)',
              ['', 'complete', 'MB/s', 'of null pusher', 'target'], rows)


# Latency

class Latency:
    """From request to placed page, while other pages are pushed."""

    # How to load, its title, and the share of the full rate at which it is
    # to be good
    CHANNELS = {'exec': ('exec', (), 0.5),
                'unix': ('unix', (), 0.5),
                'preempt': ('unix', ('--preempt',), 0.8)}
    FREE = 'unrestrained'
    BACKLOGS = ('8k', '16k', '32k', '64k', '256k')
    SHARES = (0.75, 0.5, 0.25)

    def __init__(self, bench: Bench):
        self.bench = bench
        self.image = bench.image('wide')

    def settings(self, full: float) -> dict:
        """Options of the tool, where unrestrained are @full bytes/s."""
        return {'default': (),
                **{f'--backlog={b}': (f'--backlog={b}',)
                   for b in self.BACKLOGS},
                **{f'-r {share:.0%}': ('-r', str(int(full * share)))
                   for share in self.SHARES}}

    def measure(self) -> dict:
        results = {}
        for name in self.bench.args.channels:
            say(f'over {name}')
            free = self.bench.rounds({
                'nothing pushed': lambda n=name: self.load(n, push='none'),
                self.FREE: lambda n=name: self.load(n, '--backlog=1M')})
            full = median(free[self.FREE], 'rate') * 1e6
            results[name] = free | self.bench.rounds(
                {setting: lambda n=name, o=options: self.load(n, *o)
                 for setting, options in self.settings(full).items()})
        return results

    def load(self, name: str, *options: str, push: str = 'linear') -> dict:
        transport, extra, _ = self.CHANNELS[name]
        caps = ('postcopy-ram',
                *(['postcopy-preempt'] if name == 'preempt' else []))
        with Destination(self.bench.disk, self.bench.args.size, caps) as dst:
            dst.load(transport, self.image, '--postcopy', '--cache=writeback',
                     '--push=' + push, *extra, *options)
            result = {'running': dst.running(), 'rate': 0.0}
            if push == 'none':
                # It does not end.
                time.sleep(1)
            else:
                result |= {'completed': dst.completed(),
                           'report': dst.report()}
                result['rate'] = self.push_rate(result['report'])
            waits = sorted(1e6 * (r.placed - r.asked)
                           for r in dst.requests() if r.placed)
        result['requests'] = len(waits)
        if len(waits) > 1:
            cuts = statistics.quantiles(waits, n=100, method='inclusive')
            result |= {'p50': cuts[49], 'p99': cuts[98], 'max': waits[-1]}
        return result

    @staticmethod
    def push_rate(report: dict) -> float:
        """Of pages that nobody had asked for, in MB/s."""
        postcopy = report['postcopy']
        pages = sum(postcopy[reason + '-pages'] for reason in
                    ('working-set', 'arrival', 'around', 'linear'))
        return pages * PAGE / (postcopy['complete-us'] - postcopy['run-us'])

    def show(self, results: dict):
        for name, settings in results.items():
            target = self.CHANNELS[name][2]
            full = median(settings[self.FREE], 'rate')
            rows = []
            for setting, runs in settings.items():
                share = median(runs, 'rate') / full
                rows.append([
                    setting, cell(median(runs, 'rate'), '{:.0f}'),
                    cell(share), cell(median(runs, 'requests'), '{:.0f}'),
                    *(cell(median(runs, k), '{:.0f}')
                      for k in ('p50', 'p99', 'max')),
                    'p50 <= 120, p99 <= 600' if share >= target else ''])
            table(f'from request to placed page over {name}, in the page '
                  f'cache (µs; targets where the push has {target:.0%} of '
                  'its rate)',
                  ['', 'MB/s', 'share', 'requests', 'p50', 'p99', 'max',
                   'target'], rows)


# Requests

class Requests:
    """Pages that a working guest had to wait for in the first seconds."""

    GUESTS = ('hot set', 'database')
    RATES = {'full rate': (), f'{SLOW}/s': ('-r', SLOW)}
    NONE, AROUND = 'nothing, on demand', 'around'
    LINEAR, ARRIVALS, RECORDED = 'linear', 'arrivals, linear', \
        'working set, linear'
    PUSH = {NONE: 'none', AROUND: 'around', LINEAR: 'linear',
            ARRIVALS: 'arrivals,linear', RECORDED: 'working-set,linear'}

    # What is compared with what, and the target
    TARGETS = {
        (AROUND, 'full rate'): (NONE, 1 / 5),
        (ARRIVALS, 'full rate'): (LINEAR, 1 / 2),
        (ARRIVALS, f'{SLOW}/s'): (LINEAR, 4 / 5),
        (RECORDED, 'full rate'): (LINEAR, 1 / 50),
        (RECORDED, f'{SLOW}/s'): (LINEAR, 1 / 50),
    }

    def __init__(self, bench: Bench):
        self.bench = bench

    def cases(self, rate: str) -> list[str]:
        """What to push at that rate; it matters to linear only."""
        return [what for what in self.PUSH
                if not self.RATES[rate] or 'linear' in self.PUSH[what]]

    def measure(self) -> dict:
        results = {}
        for name in self.GUESTS:
            self.record(name)
            runs = self.bench.rounds({
                f'{name}; {what}, {rate}':
                    lambda n=name, w=what, r=rate: self.load(n, w, r)
                for rate in self.RATES for what in self.cases(rate)})
            results[name] = {
                rate: {what: runs[f'{name}; {what}, {rate}']
                       for what in self.cases(rate)} for rate in self.RATES}
        return results

    def working_set(self, name: str) -> str:
        return self.bench.image(name) + '.recorded'

    def destination(self) -> Destination:
        return Destination(self.bench.disk, self.bench.args.size,
                           ('postcopy-ram', 'postcopy-blocktime'))

    def record(self, name: str):
        with self.destination() as dst:
            dst.load('exec', self.bench.image(name), '--postcopy', '--record',
                     '--working-set=' + self.working_set(name))
            dst.running()
            dst.completed()
            dst.report()
        wait_until(lambda: os.path.exists(self.working_set(name)), 20)

    def load(self, name: str, what: str, rate: str) -> dict:
        with self.destination() as dst:
            dst.load('exec', self.bench.image(name), '--postcopy',
                     '--cache=writeback', '--push=' + self.PUSH[what],
                     '--working-set=' + self.working_set(name),
                     *self.RATES[rate])
            end = dst.start + dst.running() + FIRST
            began = accesses(dst.vm)
            time.sleep(max(0, end - time.time()))
            result = {'accesses': accesses(dst.vm) - began}
            if 'linear' in self.PUSH[what]:
                # QEMU tells it at the end, and there is one for these only.
                dst.completed()
                result['blocktime'] = dst.vm.migration()['postcopy-blocktime']
            first = [r for r in dst.requests() if r.asked <= end]
            return result | {
                'requests': len(first),
                'waited': 1e3 * sum(r.placed - r.asked
                                    for r in first if r.placed)}

    COLUMNS = ('requests', 'waited', 'blocktime', 'accesses')

    def row(self, runs: dict, what: str, rate: str) -> list[str]:
        row = [what, *(cell(median(runs[what], key), '{:.0f}')
                       for key in self.COLUMNS)]
        if (what, rate) not in self.TARGETS:
            return row + [''] * 4
        base, target = self.TARGETS[what, rate]
        return row + [base, *(self.ratio(runs[what], runs[base], key)
                              for key in ('requests', 'waited')),
                      f'<= {target:.2g}']

    def show(self, results: dict):
        for name, rates in results.items():
            for rate, runs in rates.items():
                table(f'{GUESTS[name].title}, pushed at {rate}: in the first '
                      f'{FIRST:g} s, requests, ms that they took, and '
                      'accesses; blocktime (ms) is of the whole load',
                      ['', *self.COLUMNS, 'beside', 'requests', 'waited',
                       'target'], [self.row(runs, what, rate)
                                   for what in runs])

    @staticmethod
    def ratio(runs: list[dict], base: list[dict], key: str) -> str:
        below = median(base, key)
        return cell(median(runs, key) / below, '{:.3f}') if below else ''


# The command line

PARTS = {'run': Run, 'completion': Completion, 'latency': Latency,
         'requests': Requests}


def sizes(text: str) -> list[int]:
    small, large, sparse = map(size, text.split(','))
    return [small, large, sparse]


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--parts', type=some_of(PARTS), default=list(PARTS),
                        help=f'some of {",".join(PARTS)} (default: all)')
    parser.add_argument('--channels', type=some_of(Latency.CHANNELS),
                        default=['exec', 'preempt'],
                        help=f'some of {",".join(Latency.CHANNELS)}, for '
                             '"latency" (default: exec,preempt)')
    parser.add_argument('--guests', type=sizes,
                        help='RAM of the guests of "run": small, large and '
                             'sparse (default: 512M,4G,16G)')
    parser.add_argument('--size', type=size,
                        help='RAM of all other guests (default: 1G)')
    parser.add_argument('--runs', type=int, help='rounds (default: 3)')
    parser.add_argument('--quick', action='store_true',
                        help='little RAM and one round, to see that it works')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--dir', default=os.environ.get('TMPDIR', '/var/tmp'),
                        help='where to save the files (default: %(default)s)')
    parser.add_argument('--other', metavar='PROGRAM', type=os.path.abspath,
                        help='measure another build of qemu-snap as well')
    parser.add_argument('--json', metavar='FILE',
                        help='write all figures of all rounds to FILE')
    parser.add_argument('--plot', metavar='PREFIX',
                        help='draw the figures to PREFIX-*.svg; needs '
                             '"scripts/install-deps plot"')
    args = parser.parse_args(argv)
    quick = args.quick
    args.guests = args.guests or sizes('256M,512M,1G' if quick
                                       else '512M,4G,16G')
    args.size = args.size or size('256M' if quick else '1G')
    args.runs = args.runs or (1 if quick else 3)
    return args


def main(argv: list[str]):
    args = arguments(argv)
    if args.plot:
        # Rather now than after ten minutes
        # pylint: disable-next=import-outside-toplevel
        from snaptest.bench.plot import draw
    # Source and destination at once, and an image in the page cache; nearly
    # all of a sparse guest is not there.
    ram = max(args.size, args.guests[1])
    check_room(args.dir, memory=3 * ram, shm=2 * ram, disk=3 * ram)
    start = time.monotonic()
    record = {**conditions(args.runs), 'size': args.size,
              'guests': args.guests, 'seed': args.seed}
    with (tempfile.TemporaryDirectory(prefix='snap-', dir=args.dir) as disk,
          tempfile.TemporaryDirectory(prefix='snap-', dir='/dev/shm') as shm):
        bench = Bench(args, disk, shm)
        for name in args.parts:
            part = PARTS[name](bench)
            record[name] = part.measure()
            part.show(record[name])
        if args.other:
            bench.show_others()
    print(f'\nmedians of {args.runs}; {record["cpus"]} CPUs, load average '
          f'{record["load"]:.1f} at the start; '
          f'{time.monotonic() - start:.0f} s in all')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(record, f, indent=1)
    if args.plot:
        draw(record, args.plot)


if __name__ == '__main__':
    main(sys.argv[1:])
