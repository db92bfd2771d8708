# SPDX-License-Identifier: GPL-2.0-or-later
#
# Measure creation options of images, with recorded streams.
#

"""Saves of one stream of clustered, and one of alternating pages."""

import argparse
import os
import subprocess
import time

from snaptest import env
from snaptest.bench.common import (PYTHON, TIMEOUT, cell, median, remove, say,
                                   set_migration, sync, table)
from snaptest.bench.measure import CAT, NULL_WRITER, stopped_guest
from snaptest.units import GIB

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
        stream = os.path.join(shm, 'stream')
        with stopped_guest(directory, shm, args.size, mix,
                           args.seed) as measure:
            used = measure.used
            set_migration(measure.vm)
            measure.migrate(measure.vm, 'save', CAT, stream)
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
        table(f'{name} pages, {used / GIB:.2f} GiB (seconds to save; '
              'du and length: times the data)',
              ['', *MODES, 'du', 'length'],
              [[c, *(cell(median(runs[c][m], 'time')) for m in MODES),
                *(cell(median(runs[c]['none, native'], key) / used)
                  for key in ('du', 'length'))] for c in CREATION])
    return results
