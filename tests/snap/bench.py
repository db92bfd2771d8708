#!/usr/bin/env python3
#
# Measure save and load beside what else QEMU offers.
#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#

"""
One run, one stopped guest, the same RAM for all: in each round every peer
saves it, and loads what it has saved.  The tables show medians over the
rounds, and each as a ratio to qemu-snap.  Nothing is asserted.

"saved" is when QEMU says that the migration has completed; "stable" is when
its command has ended and an fsync() of the file, timed as "fsync", is done.
CPU (seconds) and RSS (at its peak) are those of the command at the other end
of the pipe, and QEMU CPU what the emulator has used meanwhile.
Cold means that the pages of the file were dropped from the host's page cache
(posix_fadvise), and nothing else was.
"""

import argparse
import collections
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

# pylint: disable=wrong-import-position
import bench_postcopy
from snaptest import env
from snaptest.bench import (GIB, MACHINE, MIX, PYTHON, REGION, TIMEOUT, cell,
                            check_room, drop_cache, fill, launch, median,
                            mixture, remove, say, set_migration, size, sync,
                            table)
from snaptest.guests import MIB, Loop
from snaptest.machine import VM
from snaptest.ram import Ram

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

# The least that can be at the other end of a pipe.
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


class Peer(NamedTuple):
    """
    Something that saves, loads, or both.

    @save, @load: what to migrate to and from: a command, or 'file' or
        'snapshot' for what QEMU does without one; {file} is the file's name
    @caps, @params: of the migration
    @background: can save with the capability background-snapshot
    @warm: whether its loads can find something in the page cache
    """
    name: str
    save: str | None = None
    load: str | None = None
    caps: tuple = ()
    params: dict = {}
    background: bool = False
    cold: bool = True
    warm: bool = True
    suffix: str = 'img'


def snap(*options: str, **kwargs) -> Peer:
    tool = shlex.join([env('QEMU_SNAP'), *options])
    return Peer(' '.join(['qemu-snap', *options]), f'{tool} save {{file}}',
                f'{tool} load {{file}}', background=True, **kwargs)


# The first is what the others are compared with.  The null writer plays the
# stream that the peer before it has saved.  QEMU 10.0 crashes at the end of a
# mapped-ram migration with background-snapshot, and refuses the combination
# with multifd.
PEERS = [
    snap('--cache=writeback'),
    snap('--cache=none', '--aio=native', warm=False),
    snap('--cache=none', '--aio=io_uring', warm=False),
    Peer('exec:cat > /dev/null', 'cat > /dev/null', background=True),
    Peer('null reader, 1 MiB pipe', shlex.join([*PYTHON, NULL_READER]),
         background=True),
    Peer('exec:cat', 'cat > {file}', 'cat {file}', background=True),
    Peer('null writer, 1 MiB pipe', None,
         shlex.join([*PYTHON, NULL_WRITER]) + ' {file}', cold=False),
    Peer('mapped-ram', 'file', 'file', ('mapped-ram',)),
    Peer('mapped-ram, 2 multifd, direct-io', 'file', 'file',
         ('mapped-ram', 'multifd'),
         {'multifd-channels': 2, 'direct-io': True}, warm=False),
    Peer('internal snapshot', 'snapshot', 'snapshot', suffix='qcow2'),
]


def emulator_cpu(vm: VM) -> float:
    with open(f'/proc/{vm.get_pid()}/stat', encoding='ascii') as f:
        fields = f.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Bench:
    """A stopped guest, and what is done with it."""

    def __init__(self, args: argparse.Namespace, directory: str, shm: str):
        self.args, self.dir = args, directory
        self.ram = Ram(os.path.join(shm, 'ram'), args.size)
        loop = Loop('x86_64', self.ram, pages=1)
        self.used = fill(self.ram, -(-loop.end // REGION) * REGION,
                         args.mix, args.seed)
        self.vm = VM(directory, MACHINE, self.ram,
                     ['-S', *Loop.args('x86_64', directory)])
        launch(self.vm)
        self.vm.cmd('cont')
        self.vm.wait_until(lambda: loop.gen() > 2)

    def close(self):
        self.vm.kill()

    def path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    # One migration, in either direction

    def uri(self, target: str, path: str) -> str:
        if target == 'file':
            return f'file:{path}'
        if os.path.exists(self.path('usage')):
            os.remove(self.path('usage'))
        return 'exec:' + shlex.join(
            [*PYTHON, MEASURE, self.path('usage'),
             'sh', '-c', 'exec ' + target.format(file=shlex.quote(path))])

    def snapshot_job(self, vm: VM, verb: str, path: str):
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

    def migrate(self, vm: VM, verb: str, target: str, path: str) -> dict:
        """Do it; the times since it began, and what it took."""
        command = {'save': 'migrate', 'load': 'migrate-incoming'}[verb]
        cpu = emulator_cpu(vm)
        uri = None if target == 'snapshot' else self.uri(target, path)
        start = time.monotonic()
        if uri is None:
            end = self.snapshot_job(vm, verb, path)
        else:
            vm.cmd(command, uri=uri)
            event = vm.events_wait(
                [('MIGRATION', {'data': {'status': s}})
                 for s in ('completed', 'failed')], TIMEOUT)
            end = time.monotonic()
            if event['data']['status'] != 'completed':
                error = vm.migration().get('error-desc')
                raise RuntimeError(f'{verb}: {error}; {vm.log()}')
        result = {'time': end - start, 'ended': end - start}
        if uri is not None and target != 'file':
            vm.wait_until(lambda: os.path.exists(self.path('usage')), TIMEOUT)
            with open(self.path('usage'), encoding='ascii') as f:
                ended, used, rss, status = map(float, f.read().split())
            if status:
                raise RuntimeError(f'{target}: exit status {status:.0f}; '
                                   f'{vm.log()}')
            result |= {'ended': max(ended, end) - start, 'cpu': used,
                       'rss': int(rss) << 10}
        return result | {'emulator_cpu': emulator_cpu(vm) - cpu}

    # What is measured

    def save(self, peer: Peer, *caps: str) -> dict:
        path = self.path('saved.' + peer.suffix)
        remove(path)
        if peer.save == 'snapshot':
            subprocess.run([env('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                            path, '64M'], check=True)
        # QEMU does not save a guest that a migration has stopped.
        self.vm.cmd('cont')
        self.vm.cmd('stop')
        set_migration(self.vm, (*peer.caps, *caps), peer.params)
        result = self.migrate(self.vm, 'save', peer.save, path)
        if os.path.exists(path):
            result['fsync'] = sync(path)
            st = os.stat(path)
            result |= {'stable': result['ended'] + result['fsync'],
                       'length': st.st_size, 'du': st.st_blocks * 512}
        return result

    def load(self, peer: Peer, cold: bool) -> dict:
        path = self.path('saved.' + peer.suffix)
        incoming = [] if peer.load == 'snapshot' else ['-incoming', 'defer']
        vm = VM(self.dir, MACHINE, f'{self.args.size >> 20}M',
                ['-S', *incoming, *Loop.args('x86_64', self.dir)], name='dst')
        try:
            launch(vm)
            set_migration(vm, peer.caps, peer.params)
            if cold:
                drop_cache(path)
            return self.migrate(vm, 'load', peer.load, path)
        finally:
            vm.kill()

    def phases(self, peer: Peer):
        """What a peer can do, in an order in which each finds its file."""
        if peer.save:
            if peer.background:
                yield 'background', lambda: self.save(peer,
                                                      'background-snapshot')
            yield 'save', lambda: self.save(peer)
        if peer.load:
            if peer.cold:
                yield 'cold', lambda: self.load(peer, True)
            if peer.warm:
                yield 'warm', lambda: self.load(peer, False)

    def run(self) -> dict:
        results = collections.defaultdict(
            lambda: collections.defaultdict(list))
        for n in range(self.args.runs):
            for peer in PEERS:
                for phase, measure in self.phases(peer):
                    results[phase][peer.name].append(measure())
                    say(f'{n + 1}/{self.args.runs} {phase:10} {peer.name:34}'
                        f'{results[phase][peer.name][-1]["time"]:7.2f} s')
        return results


# Tables

TITLES = {
    'save': 'save of a stopped guest',
    'background': 'save with background-snapshot',
    'cold': 'load, cold',
    'warm': 'load, warm',
}


def show(results: dict, used: int):
    for phase, title in TITLES.items():
        peers = results[phase]
        saving = phase in ('save', 'background')
        reference = next(iter(peers.values()))
        timed = ['time', 'fsync', 'stable'] if saving else ['time']
        head = ['', 'saved', 'ratio', 'fsync', 'stable', 'ratio', 'CPU',
                'QEMU CPU', 'RSS', 'du', 'length'] if saving else \
               ['', 'loaded', 'ratio', 'CPU', 'QEMU CPU', 'RSS']
        rows = []
        for name, runs in peers.items():
            row = [name]
            for key in timed:
                value = median(runs, key)
                row.append(cell(value))
                if key != 'fsync':
                    row.append(cell(value and value / median(reference, key)))
            row += [cell(median(runs, 'cpu')),
                    cell(median(runs, 'emulator_cpu')),
                    cell((median(runs, 'rss') or 0) / MIB or None,
                         '{:.0f} MiB')]
            if saving:
                row += [cell((median(runs, key) or 0) / used or None)
                        for key in ('du', 'length')]
            rows.append(row)
        table(f'{title} (seconds; ratios to {next(iter(peers))})', head, rows)


# How to create an image

CREATION = {
    'default': [],
    '4k': ['-o', 'cluster_size=4k'],
    '64k': ['-o', 'cluster_size=64k'],
    '128k, subclusters': ['-o', 'cluster_size=128k,extended_l2=on'],
    '1M': ['-o', 'cluster_size=1M'],
    'raw': ['-O', 'raw'],
}
MODES = {
    'writeback': ['--cache=writeback'],
    'none, threads': ['--cache=none', '--aio=threads'],
    'none, native': ['--cache=none', '--aio=native'],
    'none, io_uring': ['--cache=none', '--aio=io_uring'],
}
STREAMS = {
    'clustered': {'zero': 1, 'random': 1},
    'alternating': {'scattered': 1},
}


def replay(stream: str, path: str, options: list[str]) -> dict:
    remove(path)
    with subprocess.Popen([*PYTHON, NULL_WRITER, stream],
                          stdout=subprocess.PIPE) as writer:
        time.sleep(0.1)     # until it has mapped the stream
        start = time.monotonic()
        subprocess.run([env('QEMU_SNAP'), *options, 'save', path],
                       stdin=writer.stdout, check=True, timeout=TIMEOUT)
        end = time.monotonic()
    st = os.stat(path)
    return {'time': end - start, 'fsync': sync(path),
            'length': st.st_size, 'du': st.st_blocks * 512}


def image_options(args: argparse.Namespace, directory: str, shm: str) -> dict:
    results = {}
    for name, mix in STREAMS.items():
        args.mix = mix
        stream = os.path.join(shm, 'stream')
        bench = Bench(args, directory, shm)
        try:
            bench.vm.cmd('stop')
            cat = Peer('cat', 'cat > {file}')
            set_migration(bench.vm)
            bench.migrate(bench.vm, 'save', cat.save, stream)
        finally:
            bench.close()
            os.remove(bench.ram.path)
        runs = results[name] = {c: {m: [] for m in MODES} for c in CREATION}
        for n in range(args.runs):
            for creation, options in CREATION.items():
                for mode, flags in MODES.items():
                    runs[creation][mode].append(replay(
                        stream, os.path.join(directory, 'image'),
                        flags + options))
                    say(f'{n + 1}/{args.runs} {name} {creation}; {mode}: '
                        f'{runs[creation][mode][-1]["time"]:.2f} s')
        os.remove(stream)
        table(f'{name} pages, {bench.used / GIB:.2f} GiB (seconds to save; '
              'du and length: times the data)',
              ['', *MODES, 'du', 'length'],
              [[c, *(cell(median(runs[c][m], 'time')) for m in MODES),
                *(cell(median(runs[c]['none, native'], key) / bench.used)
                  for key in ('du', 'length'))] for c in CREATION])
    return results


# The command line

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--size', type=size,
                        help='RAM of the guest, as in 4G (default: 2G)')
    parser.add_argument('--runs', type=int, help='rounds (default: 3)')
    parser.add_argument('--quick', action='store_true',
                        help='little RAM and one round, to see that it works')
    parser.add_argument('--mix', type=mixture, default=mixture(MIX),
                        help=f'shares of RAM (default: {MIX})')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--dir', default=os.environ.get('TMPDIR', '/var/tmp'),
                        help='where to save the files (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE',
                        help='write all figures of all rounds to FILE')
    parser.add_argument('--image-options', action='store_true',
                        help='measure creation options of the image instead, '
                             'with recorded streams')
    parser.add_argument('--postcopy', action='store_true',
                        help='measure load --postcopy instead; '
                             '--postcopy --help has its options')
    args = parser.parse_args()
    sizes = ('512M', '128M') if args.image_options else ('2G', '512M')
    args.size = args.size or size(sizes[args.quick])
    args.runs = args.runs or (1 if args.quick else 3)
    return args


def main():
    if '--postcopy' in sys.argv[1:]:
        bench_postcopy.main([a for a in sys.argv[1:] if a != '--postcopy'])
        return
    args = arguments()
    # For source and destination, and the page cache for warm loads
    check_room(args.dir, memory=3 * args.size, shm=2 * args.size,
               disk=2 * args.size)
    start = time.monotonic()
    with (tempfile.TemporaryDirectory(prefix='snap-', dir=args.dir) as disk,
          tempfile.TemporaryDirectory(prefix='snap-', dir='/dev/shm') as shm):
        record = {'size': args.size, 'runs': args.runs, 'seed': args.seed,
                  'cpus': os.cpu_count(), 'load': os.getloadavg()[0]}
        if args.image_options:
            record['image-options'] = image_options(args, disk, shm)
        else:
            bench = Bench(args, disk, shm)
            try:
                record |= {'mix': args.mix, 'used': bench.used,
                           'cold': 'posix_fadvise', 'phases': bench.run()}
            finally:
                bench.close()
            show(record['phases'], bench.used)
    print(f'\n{args.size / GIB:g} GiB of RAM' +
          (f', {record["used"] / 1e9:.2f} GB not zero' if 'used' in record
           else '') +
          f'; medians of {args.runs}; {record["cpus"]} CPUs, load average '
          f'{record["load"]:.1f} at the start; '
          f'{time.monotonic() - start:.0f} s in all')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(record, f, indent=1)


if __name__ == '__main__':
    main()
