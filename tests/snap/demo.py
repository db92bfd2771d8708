#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Show a live snapshot of a real Linux guest, and its revert.
#

"""
usage: demo.py [LOAD-OPTION...]

The load is asynchronous, and slowed down so that one can see it, unless other
options are given.  The guest prints a line every 0.1 s: a nonce that it drew
when it booted, and a counter.  Both are in its RAM only, so they tell where a
load goes on.
"""

import json
import os
import shlex
import sys
import tempfile
import time

# pylint: disable=wrong-import-position
from snaptest import env
from snaptest.units import MIB
from snaptest.vm.guests import Tick, console_ticks, linux_args
from snaptest.vm.machine import Q35, VM
from snaptest.waiting import wait_until

MACHINE = Q35
RAM = '512M'
LOAD_OPTIONS = ['--postcopy', '--rate-limit=20M']


class Timeline:
    """What happens, and when; and how long each step takes."""

    def __init__(self):
        self.start = self.last = time.monotonic()

    def say(self, text: str):
        now = time.monotonic()
        print(f'{now - self.start:7.2f} s  {now - self.last:+7.2f}  {text}',
              flush=True)
        self.last = now


def tick(vm: VM) -> Tick:
    return console_ticks(vm.console())[-1]


def wait_count(vm: VM, count: int) -> Tick:
    vm.wait_console(lambda lines: any(t.count >= count
                                      for t in console_ticks(lines)))
    return tick(vm)


def size(path: str) -> str:
    return f'{os.stat(path).st_blocks * 512 / MIB:.0f} MiB'


def check(ok: bool, what: str) -> bool:
    print(f'  {"yes" if ok else "NO "}  {what}')
    return ok


def report(path: str):
    """What the tool says about an asynchronous load."""
    wait_until(lambda: os.path.exists(path), 10)
    with open(path, encoding='utf-8') as f:
        postcopy = json.load(f).get('postcopy')
    if not postcopy:
        return
    latency = postcopy['latency-us']
    print(f'{"":18}the guest could run after {postcopy["run-us"] / 1e6:.3f} s, '
          f'all was there after {postcopy["complete-us"] / 1e6:.3f} s;\n'
          f'{"":18}it asked for {postcopy["requests"]} pages, which were sent '
          f'after {latency["p50"]} us\n{"":18}(median; 99 %: '
          f'{latency["p99"]} us, longest: {latency["max"]} us)')


def revert(guest, image: str, load_options: list[str],
           line: Timeline) -> list[Tick]:
    """Load the image, and return what the guest prints from then on."""
    report_path = image + '.report'
    command = [env('QEMU_SNAP'), *load_options, f'--report={report_path}',
               'load', image]
    vm = guest('second', '-incoming', 'defer')
    try:
        line.say('a new emulator waits')
        if any(o.startswith('--postcopy') for o in load_options):
            vm.capabilities('postcopy-ram')
        line.say(f'migrate-incoming "exec:qemu-snap {shlex.join(load_options)} '
                 'load vm.qcow2"')
        vm.incoming('exec:' + shlex.join(command))
        vm.wait_until(lambda: vm.status() == 'running')
        line.say('the guest runs again')
        vm.wait_console(console_ticks)
        back = console_ticks(vm.console())[0]
        line.say(f'and counts: nonce {back.nonce}, counter {back.count}')
        vm.wait_migration(timeout=60)
        line.say(f'all of its RAM is loaded; it is at {tick(vm).count}')
        report(report_path)
        wait_count(vm, tick(vm).count + 10)
        ticks = console_ticks(vm.console())
        line.say(f'the guest goes on to {ticks[-1].count}')
        return ticks
    finally:
        vm.kill()


def demo(directory: str, load_options: list[str]) -> bool:
    """Boot, save, go on, kill, load; whether all was as it should be."""
    tool = shlex.quote(env('QEMU_SNAP'))
    image = os.path.join(directory, 'vm.qcow2')
    line = Timeline()

    def guest(name: str, *args: str) -> VM:
        vm = VM(directory, MACHINE, RAM,
                [*linux_args(directory), *args], name=name)
        vm.launch()
        return vm

    first = guest('first')
    try:
        line.say(f'a Linux guest starts ({MACHINE}, {RAM}, TCG)')
        now = wait_count(first, 5)
        line.say(f'it has booted and counts: nonce {now.nonce}, '
                 f'counter {now.count}')

        before = tick(first)
        first.migrate(f'exec:{tool} save {shlex.quote(image)}',
                      'background-snapshot')
        first.wait_snapshot_taken()
        after = tick(first)
        line.say(f'live snapshot: its moment is at counter {after.count}')
        first.wait_migration()
        now = tick(first)
        line.say(f'the snapshot is complete, {size(image)}; the guest has '
                 f'gone on to {now.count}')
        last = wait_count(first, after.count + 30)
        line.say(f'the guest goes on to {last.count}')
    finally:
        first.kill()
    line.say('the guest is killed')

    ticks = revert(guest, image, load_options, line)

    print()
    counts = [t.count for t in ticks]
    # The line that was being printed at the moment may have come out in part.
    return all([
        check({t.nonce for t in ticks} == {before.nonce},
              f'same nonce: the boot of {before.nonce} goes on'),
        check(before.count < counts[0] <= after.count + 2,
              f'from the moment of the snapshot: {counts[0]}, '
              f'after {before.count} to {after.count}; not from {last.count}'),
        check(counts == list(range(counts[0], counts[0] + len(counts))),
              'no count was lost or repeated'),
        check(all(t.state == 'ok' for t in ticks),
              "the data in the guest's memory is intact")])


def main() -> int:
    with tempfile.TemporaryDirectory(
            prefix='snap-', dir=os.environ.get('TMPDIR', '/var/tmp')) as tmp:
        return 0 if demo(tmp, sys.argv[1:] or LOAD_OPTIONS) else 1


if __name__ == '__main__':
    sys.exit(main())
