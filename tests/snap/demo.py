#!/usr/bin/env python3
#
# Show a live snapshot of a real Linux guest, and its revert.
#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#

"""
usage: demo.py [LOAD-OPTION...]

The guest prints a line every 0.1 s: a nonce that it drew when it booted, and
a counter.  Both are in its RAM only, so they tell where a load goes on.
"""

import os
import shlex
import sys
import tempfile
import time

# pylint: disable=wrong-import-position
from snaptest import env, guests
from snaptest.machine import VM

MACHINE = 'pc-q35-10.0'
RAM = '512M'


class Timeline:
    """What happens, and when; and how long each step takes."""

    def __init__(self):
        self.start = self.last = time.monotonic()

    def say(self, text: str):
        now = time.monotonic()
        print(f'{now - self.start:7.2f} s  {now - self.last:+7.2f}  {text}',
              flush=True)
        self.last = now


def tick(vm: VM) -> guests.Tick:
    return guests.ticks(vm.console())[-1]


def wait_count(vm: VM, count: int) -> guests.Tick:
    vm.wait_console(lambda lines: any(t.count >= count
                                      for t in guests.ticks(lines)))
    return tick(vm)


def size(path: str) -> str:
    return f'{os.stat(path).st_blocks * 512 / guests.MIB:.0f} MiB'


def check(ok: bool, what: str) -> bool:
    print(f'  {"yes" if ok else "NO "}  {what}')
    return ok


def demo(directory: str, load_options: list[str]) -> bool:
    """Boot, save, go on, kill, load; whether all was as it should be."""
    tool = shlex.quote(env('QEMU_SNAP'))
    image = os.path.join(directory, 'vm.qcow2')
    line = Timeline()

    def guest(name: str, *args: str) -> VM:
        vm = VM(directory, MACHINE, RAM,
                [*guests.linux_args(directory), *args], name=name)
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

    second = guest('second', '-incoming', 'defer')
    try:
        line.say('a new emulator waits')
        if any(o.startswith('--postcopy') for o in load_options):
            second.capabilities('postcopy-ram')
        second.incoming(f'exec:{tool} {shlex.join(load_options)} '
                        f'load {shlex.quote(image)}')
        second.wait_until(lambda: second.status() == 'running')
        line.say('the guest runs again')
        second.wait_console(guests.ticks)
        back = guests.ticks(second.console())[0]
        line.say(f'and counts: nonce {back.nonce}, counter {back.count}')
        second.wait_migration()
        line.say('all of the snapshot is loaded')
        wait_count(second, back.count + 15)
        ticks = guests.ticks(second.console())
        line.say(f'the guest goes on to {ticks[-1].count}')
    finally:
        second.kill()

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
        return 0 if demo(tmp, sys.argv[1:]) else 1


if __name__ == '__main__':
    sys.exit(main())
