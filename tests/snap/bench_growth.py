# SPDX-License-Identifier: GPL-2.0-or-later
#
# Measure how save and load grow with the RAM of the guest.
#

"""
Time and memory of the tool, by how much RAM the guest has.

Up to 4 GiB, RAM is filled with the mix.  More than that is zero, and lies
between the regions that are not: the source has anonymous memory, in which
that takes nothing.
"""

import argparse
import collections
import os
import re

from snaptest.bench.common import (MACHINE, REGION, cell, fill, launch, median,
                                   say, table)
from snaptest.bench.measure import Measure, snap
from snaptest.units import GIB, MIB
from snaptest.vm.guests import Loop
from snaptest.vm.machine import VM
from snaptest.vm.ram import CHUNK, Ram

DENSE = 4 * GIB
PHASES = {'save': 'save', 'background': 'background save',
          'warm': 'load, warm'}


def copy_ram(ram: Ram, vm: VM):
    """Make the memory of @vm, which is zero, that of @ram."""
    reply = vm.cmd('human-monitor-command', {'command-line': 'gpa2hva 0'})
    base = int(re.search(r'is (0x[0-9a-f]+)', reply)[1], 16)
    offset = 0
    with open(ram.path, 'rb') as f, \
            open(f'/proc/{vm.get_pid()}/mem', 'r+b', buffering=0) as mem:
        while True:
            try:
                offset = os.lseek(f.fileno(), offset, os.SEEK_DATA)
            except OSError:
                return
            data = os.pread(f.fileno(), CHUNK, offset)
            os.pwrite(mem.fileno(), data, base + offset)
            offset += len(data)


class Growth:
    """The tool saves and loads guests with more and more RAM."""

    def __init__(self, args: argparse.Namespace, disk: str, shm: str):
        self.args, self.disk, self.shm = args, disk, shm

    @staticmethod
    def dense(size: int) -> int:
        """How much of RAM may not be zero."""
        return min(size, DENSE)

    def measure(self) -> dict:
        return {f'{size / GIB:g} GiB': self.measure_size(size)
                for size in self.args.sizes}

    def measure_size(self, size: int) -> dict:
        mix = dict(self.args.mix)
        share = sum(mix.values()) * (size - self.dense(size)) // DENSE
        mix['zero'] = mix.get('zero', 0) + share
        ram = Ram(os.path.join(self.shm, 'ram'), size)
        vm = VM(self.disk, MACHINE, f'{size >> 20}M',
                ['-S', *Loop.args('x86_64', self.disk)])
        runs = collections.defaultdict(list)
        try:
            Loop('x86_64', ram, pages=1)
            used = fill(ram, 2 * REGION, mix, self.args.seed)
            launch(vm)
            copy_ram(ram, vm)
            os.remove(ram.path)
            to = Measure(self.disk, vm, size, used)
            for n in range(self.args.runs):
                for phase in PHASES:
                    runs[phase].append(to.phase(phase, snap()))
                    say(f'{n + 1}/{self.args.runs} {size / GIB:g} GiB '
                        f'{phase:10} {runs[phase][-1]["time"]:7.2f} s')
        finally:
            vm.kill()
        return {'size': size, 'used': used, 'phases': runs}

    def show(self, results: dict):
        def columns(runs):
            return [cell(median(runs, 'stable') or median(runs, 'time')),
                    cell(median(runs, 'cpu')),
                    cell(median(runs, 'rss') / MIB, '{:.1f}')]
        table('growth with RAM (seconds until the file is stable, or all is '
              'loaded; of the tool: CPU, and RSS in MiB)',
              ['', 'GB not zero', *(head for title in PHASES.values()
                                    for head in (title, 'CPU', 'RSS'))],
              [[name, cell(result['used'] / 1e9),
                *(text for phase in PHASES
                  for text in columns(result['phases'][phase]))]
               for name, result in results.items()])
