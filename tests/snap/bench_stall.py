# SPDX-License-Identifier: GPL-2.0-or-later
#
# Measure what a guest and its monitor wait for while it is saved.
#

"""
How long the guest and the monitor are kept waiting, by the way of saving:

background  with background-snapshot: the guest runs on
live        without it: the guest is stopped at the end, and continued when
            QEMU says that the migration has completed
stopped     of a stopped guest: only the monitor can wait

The guest (snaptest.vm.guests.Clock) reads its clock all the time, and writes to
another page now and then.  "longest" is its longest pause, which is one that
it saw itself, or the time from STOP to RESUME, "stopped": while QEMU has
stopped it, its clock stands still.  What it saw itself, and was longer than
20 µs, is told by number, as "p99" of them, and as their sum.  "QMP" is the
longest round trip of a command up to the completion of the migration, and
"QMP, end" that of a later one; each is on the side where most of it is.  All
of that also happens to a guest that is not saved: it shares the host's CPUs
with others.
"""

import argparse
import collections
import itertools
import os
import time

from snaptest import env
from snaptest.bench.common import (MACHINE, REGION, cell, cont, fill, launch,
                                   median, say, table)
from snaptest.bench.measure import (CAPS, CAT, DEV_NULL, Measure, Peer, snap,
                                    snap_unix)
from snaptest.faults.preload import build_library
from snaptest.units import GIB, MIB, PAGE
from snaptest.vm.guests import Clock
from snaptest.vm.machine import VM, Probe
from snaptest.vm.ram import Ram

SLOW = 200 * MIB                # bytes in a second
PAUSE = 20e-6
RATE = 4000                     # pages that the guest writes in a second
PAGES = 16384
IDLE = 2.0                      # seconds without a save

FLUSH = 0.2                     # seconds that a busy disk may take for one
SLOW_FLUSH = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

static int slow(const char *name, int fd)
{
    int (*flush)(int) = dlsym(RTLD_NEXT, name);
    struct stat st;

    /* What has no name is in memory. */
    if (fstat(fd, &st) == 0 && st.st_nlink)
        usleep(DELAY);
    return flush(fd);
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
'''

TOOL = snap()._replace(name='exec:qemu-snap')
NOTHING = Peer('no save')
WAYS = [
    NOTHING,
    DEV_NULL,
    CAT._replace(name='exec:cat > file'),
    TOOL,
    TOOL._replace(name='exec:qemu-snap, return-path', caps=('return-path',),
                  background=False),
    Peer(f'exec:qemu-snap, {SLOW // MIB} MiB/s',
         f'{env("QEMU_SNAP")} -n --object throttle-group,id=slow,'
         f'x-bps-write={SLOW} --image-opts save driver=qcow2,'
         'file.driver=throttle,file.throttle-group=slow,'
         'file.file.driver=file,file.file.filename={file}',
         background=True, create=True),
    TOOL._replace(name=f'exec:qemu-snap, flushes of {FLUSH:g} s',
                  save='env LD_PRELOAD={dir}/slow-flush.so ' + TOOL.save),
    snap_unix('', background=True),
]
MODES = {'background': 'background snapshots of a running guest',
         'live': 'live saves of a running guest',
         'stopped': 'saves of a stopped guest'}


def percentile(pauses: list[tuple[float, int]], share: float) -> float:
    """What @share of @pauses, in order of their length, do not exceed."""
    wanted = share * sum(count for _, count in pauses)
    so_far = itertools.accumulate(count for _, count in pauses)
    return next(length for (length, _), n in zip(pauses, so_far)
                if n >= wanted)


class Stall:
    """One guest, which is saved in all ways."""

    def __init__(self, args: argparse.Namespace, disk: str, shm: str):
        self.args = args
        self.ram = Ram(os.path.join(shm, 'ram'), args.size)
        # As far up as 32 bits go for sure
        end = min(args.size, 2 * GIB)
        pages = min(PAGES, end // PAGE // 4)
        used = fill(self.ram, REGION, args.mix, args.seed)
        self.ram.fill_random(end - pages * PAGE, end, args.seed)
        self.clock = Clock(self.ram, end - pages * PAGE, pages)
        self.vm = VM(disk, MACHINE, self.ram, Clock.args(disk), name='stall')
        build_library(disk, 'slow-flush', SLOW_FLUSH,
                      f'-DDELAY={FLUSH * 1e6:.0f}')
        self.to = Measure(disk, self.vm, args.size, used)

    def measure(self) -> dict:
        results = {mode: collections.defaultdict(list) for mode in MODES}
        try:
            launch(self.vm)
            self.vm.wait_until(self.counts)
            self.clock.calibrate(RATE)
            for n in range(self.args.runs):
                for mode, ways in results.items():
                    for peer in WAYS:
                        if mode == 'background' and peer.save and \
                                not peer.background:
                            continue
                        ways[peer.name].append(self.save(mode, peer))
                        say(f'{n + 1}/{self.args.runs} {mode:10} '
                            f'{peer.name:34}' + ', '.join(
                                f'{key} {value:.4g}' for key, value
                                in ways[peer.name][-1].items()))
        finally:
            self.vm.kill()
            os.remove(self.ram.path)
        return results

    def counts(self) -> bool:
        return any(count for _, count in self.clock.pauses())

    def save(self, mode: str, peer: Peer) -> dict:
        path = self.to.prepare(peer, *CAPS.get(mode, ()))
        if mode == 'stopped':
            self.vm.cmd('stop')
        else:
            self.clock.reset()
        self.vm.get_qmp_events()
        with Probe(self.vm) as probe:
            if peer is NOTHING:
                start = time.monotonic()
                time.sleep(IDLE)
                result = {'start': start, 'time': IDLE}
            else:
                result = self.to.migrate(
                    self.vm, 'save', peer, path,
                    lambda: mode == 'live' and cont(self.vm))
            # The last answer may have been long in coming
            time.sleep(0.05)
        end = result['start'] + result['time']
        result = {
            'time': result['time'],
            'qmp': max(t for at, t in probe.answers if at - t / 2 <= end),
            'qmp-end': max((t for at, t in probe.answers if at - t / 2 > end),
                           default=0.0)}
        if mode == 'stopped':
            cont(self.vm)
            return result
        return result | self.guest(peer is not NOTHING)

    def guest(self, stopped: bool) -> dict:
        """What the guest has seen, and what it could not see."""
        pauses = [(t, n) for t, n in self.clock.pauses() if t >= PAUSE and n]
        result = {'stopped': self.stopped() if stopped else 0.0,
                  'longest': self.clock.longest(),
                  'pauses': sum(n for _, n in pauses),
                  'sum': sum(t * n for t, n in pauses)}
        if pauses:
            result['p99'] = percentile(pauses, 0.99)
        result['longest'] = max(result['longest'], result['stopped'])
        return result

    def stopped(self) -> float:
        """For how long QEMU had stopped the guest."""
        times = (self.vm.event_wait(name, 10.0)['timestamp']
                 for name in ('STOP', 'RESUME'))
        stop, resume = (t['seconds'] + t['microseconds'] / 1e6 for t in times)
        return resume - stop

    def show(self, results: dict):
        seen = ('longest', 'p99', 'pauses', 'sum', 'stopped')
        for mode, ways in results.items():
            keys = ('qmp', 'qmp-end') if mode == 'stopped' else \
                (*seen, 'qmp', 'qmp-end')
            names = {'qmp': 'QMP', 'qmp-end': 'QMP, end'}
            rows = []
            for name, runs in ways.items():
                row = [name, cell(median(runs, 'time'))]
                for key in keys:
                    value = median(runs, key)
                    row.append(cell(value, '{:.0f}') if key == 'pauses' else
                               cell(value and 1e3 * value))
                rows.append(row)
            table(f'{MODES[mode]} (saved: seconds; all else: ms)',
                  ['', 'saved', *(names.get(key, key) for key in keys)], rows)
