#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Measure save and load beside what else QEMU offers.
#

"""
Measure save and load beside what else QEMU offers, and what they cost the
guest.  Nothing is asserted; the tables show medians over the rounds.

save, load
    One run, one stopped guest, the same RAM for all: in each round every peer
    saves it, and loads what it has saved.  Ratios are to qemu-snap without
    options.

    "saved" is when QEMU says that the migration has completed, which over a
    socket acknowledges nothing; "stable" is when the command has ended with
    status 0, and an fsync() of the file, timed as "fsync", is done.
    CPU (seconds) and RSS (at its peak) are those of the command at the other
    end of the channel, and QEMU CPU what the emulator has used meanwhile.
    "CPU/GB" is what the command has used beyond the null reader (for loads,
    the null writer), in seconds for each GB of RAM that is not zero.
    Cold means that the pages of the file were dropped from the host's page
    cache (posix_fadvise), and nothing else was; the null writer is never cold.
stall
    How long a guest and its monitor are kept waiting by saves; see
    bench_stall.py.
growth
    Time and memory of the tool, by the RAM of the guest; see bench_growth.py.

RAM is filled with regions of 4 MiB, in an order that --seed chooses; --mix has
the shares of their kinds:

zero          nothing in it
random        all pages differ, and no compression makes them smaller
compressible  text of few words; all pages differ as well
scattered     like random, but every other page is zero
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time

# pylint: disable=wrong-import-position
import bench_postcopy
from bench_growth import Growth
from bench_image import image_options
from bench_stall import Stall
from snaptest.bench.common import (MIX, cell, check_room, conditions, median,
                                   mixture, say, size, some_of, table, tool)
from snaptest.bench.measure import (CAT, DEV_NULL, NULL_LOAD, NULL_SAVE,
                                    TITLES, Peer, snap, snap_unix,
                                    stopped_guest)
from snaptest.units import GIB, MIB

MULTIFD = {'multifd-channels': 2}

OTHER = 'other: '


def own_peers() -> list[Peer]:
    return [
        snap(),
        snap_unix(', 2 multifd', '--multifd-channels=2', caps=('multifd',),
                  params=MULTIFD),
    ]


# The first is what the others are compared with.  The null writer plays the
# stream that the peer before it has saved.  QEMU 10.0 crashes at the end of a
# mapped-ram migration with background-snapshot, and refuses the combination
# with multifd.
PEERS = [
    snap(),
    snap('--cache=writeback'),
    snap('--cache=none', '--aio=native', warm=False),
    snap('--cache=none', '--aio=io_uring', warm=False),
    DEV_NULL,
    NULL_SAVE,
    CAT,
    NULL_LOAD,
    snap_unix(', 2 multifd', '--multifd-channels=2', caps=('multifd',),
              params=MULTIFD),
    Peer('mapped-ram', 'file', 'file', caps=('mapped-ram',)),
    Peer('mapped-ram, 2 multifd, direct-io', 'file', 'file',
         caps=('mapped-ram', 'multifd'),
         params={**MULTIFD, 'direct-io': True}, warm=False),
    Peer('internal snapshot', 'snapshot', 'snapshot', create=True,
         suffix='qcow2'),
]


def peers(args: argparse.Namespace) -> list[Peer]:
    if not args.other:
        return PEERS
    with tool(args.other):
        others = [peer._replace(name=OTHER + peer.name)
                  for peer in own_peers()]
    pairs = zip(own_peers(), others)
    return [*(peer for pair in pairs for peer in pair), NULL_SAVE, CAT,
            NULL_LOAD]


class Phases:
    """Every peer saves and loads, as far as it can."""

    def __init__(self, args: argparse.Namespace, disk: str, shm: str):
        self.args, self.disk, self.shm = args, disk, shm
        self.peers = peers(args)
        # What is not wanted of saves is still what is loaded.
        self.wanted = [*(['background', 'save'] if 'save' in args.parts
                         else []),
                       *(['cold', 'warm'] if 'load' in args.parts else [])]
        self.used = 0

    def measure(self) -> dict:
        args, results = self.args, collections.defaultdict(
            lambda: collections.defaultdict(list))
        with stopped_guest(self.disk, self.shm, args.size, args.mix,
                           args.seed) as measure:
            self.used = measure.used
            for n in range(args.runs):
                for peer in self.peers:
                    for phase in peer.phases():
                        if phase not in (*self.wanted, 'save'):
                            continue
                        result = measure.phase(phase, peer)
                        results[phase][peer.name].append(result)
                        say(f'{n + 1}/{args.runs} {phase:10} {peer.name:34}'
                            f'{result["time"]:7.2f} s')
        # As a reference; nothing is colder
        results['cold'][NULL_LOAD.name] = results['warm'][NULL_LOAD.name]
        return {phase: results[phase] for phase in TITLES
                if phase in self.wanted}

    def show(self, results: dict):
        for phase, peers in results.items():
            self.show_phase(phase, peers)

    def show_phase(self, phase: str, peers: dict):
        saving = phase in ('save', 'background')
        first, reference = next(iter(peers.items()))
        null = median(peers[(NULL_SAVE if saving else NULL_LOAD).name], 'cpu')
        head = ['', *(['saved', 'ratio', 'fsync', 'stable', 'ratio'] if saving
                      else ['loaded', 'ratio']),
                'CPU', 'CPU/GB', 'QEMU CPU', 'RSS',
                *(['du', 'length'] if saving else [])]
        rows = []
        for name, runs in peers.items():
            row = [name]
            for key in ('time', 'fsync', 'stable') if saving else ('time',):
                value = median(runs, key)
                row.append(cell(value))
                if key != 'fsync':
                    row.append(cell(value and value / median(reference, key)))
            cpu = median(runs, 'cpu')
            row += [cell(cpu),
                    cell(cpu and (cpu - null) / (self.used / 1e9), '{:.3f}'),
                    cell(median(runs, 'emulator_cpu')),
                    cell((median(runs, 'rss') or 0) / MIB or None,
                         '{:.0f} MiB')]
            if saving:
                row += [cell((median(runs, key) or 0) / self.used or None)
                        for key in ('du', 'length')]
            rows.append(row)
        table(f'{TITLES[phase]} (seconds; ratios to {first}' +
              ('; du and length: times the data)' if saving else ')'),
              head, rows)


# The command line

PARTS = {'save': Phases, 'load': Phases, 'stall': Stall, 'growth': Growth}


def sizes(text: str) -> list[int]:
    return list(map(size, text.split(',')))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--parts', type=some_of(PARTS),
                        default=['save', 'load'],
                        help=f'some of {",".join(PARTS)} (default: save,load)')
    parser.add_argument('--size', type=size,
                        help='RAM of the guest, as in 4G (default: 2G)')
    parser.add_argument('--sizes', type=sizes,
                        help='RAM of the guests of "growth" '
                             '(default: 1G,4G,16G)')
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
    parser.add_argument('--plot', metavar='PREFIX',
                        help='draw the figures to PREFIX-*.svg; needs '
                             '"scripts/install-deps plot"')
    parser.add_argument('--other', metavar='PROGRAM', type=os.path.abspath,
                        help='compare with another build of qemu-snap instead '
                             'of other ways to save and load')
    parser.add_argument('--image-options', action='store_true',
                        help='measure creation options of the image instead, '
                             'with recorded streams')
    parser.add_argument('--postcopy', action='store_true',
                        help='measure load --postcopy instead; '
                             '--postcopy --help has its options')
    args = parser.parse_args()
    sizes_ = ('512M', '128M') if args.image_options else ('2G', '512M')
    args.size = args.size or size(sizes_[args.quick])
    args.sizes = args.sizes or sizes('256M,512M,1G' if args.quick
                                     else '1G,4G,16G')
    args.runs = args.runs or (1 if args.quick else 3)
    return args


def needed(args: argparse.Namespace) -> int:
    """How much RAM there is to be saved at a time."""
    dense = [args.size, *([Growth.dense(max(args.sizes))]
                          if 'growth' in args.parts else [])]
    return max(dense)


def main():
    if '--postcopy' in sys.argv[1:]:
        bench_postcopy.main([a for a in sys.argv[1:] if a != '--postcopy'])
        return
    args = arguments()
    if args.plot:
        # Rather now than after ten minutes
        # pylint: disable-next=import-outside-toplevel
        from snaptest.bench.plot import draw
    # For source and destination, and the page cache for warm loads
    ram = needed(args)
    check_room(args.dir, memory=3 * ram, shm=2 * ram, disk=2 * ram)
    start = time.monotonic()
    record = {**conditions(args.runs), 'size': args.size, 'seed': args.seed,
              'mix': args.mix, 'cold': 'posix_fadvise'}
    with (tempfile.TemporaryDirectory(prefix='snap-', dir=args.dir) as disk,
          tempfile.TemporaryDirectory(prefix='snap-', dir='/dev/shm') as shm):
        if args.image_options:
            record['image-options'] = image_options(args, disk, shm)
            args.parts = []
        for kind in dict.fromkeys(PARTS[name] for name in args.parts):
            part = kind(args, disk, shm)
            name = kind.__name__.lower()
            record[name] = part.measure()
            part.show(record[name])
            if kind is Phases:
                record['used'] = part.used
    print(f'\n{args.size / GIB:g} GiB of RAM' +
          (f', {record["used"] / 1e9:.2f} GB not zero' if 'used' in record
           else '') +
          f'; medians of {args.runs}; {record["cpus"]} CPUs, load average '
          f'{record["load"]:.1f} at the start; '
          f'{time.monotonic() - start:.0f} s in all')
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(record, f, indent=1)
    if args.plot:
        draw(record, args.plot)


if __name__ == '__main__':
    main()
