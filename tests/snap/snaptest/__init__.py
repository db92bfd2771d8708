# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the Python tests have in common
#
"""
What tests, fuzzers and benches have in common; ../README.rst says more.

To write tests  tool, case, failure, crash
Streams, peers  streams, multifd, decode, destination
Guests          machine, ram, guests, run, postcopy, qtest, kvm
Faults          stages, storage, cuts, anatomy, flips, preload, sanitizers
Benches         bench, peers, plot

Everything is found through the environment, and what is missing is an error:

QEMU_SNAP, QEMU_IMG, QEMU_IO  the programs under test, and their siblings
QEMU_TREE                     a QEMU source tree (its python/ and scripts/)
SNAP_EMULATORS                7.2/, 10.0/ and newest/, each with
                              qemu-system-<arch>; the last is a link to another
SNAP_KERNEL, SNAP_BUSYBOX     a Linux kernel and a static busybox, for x86_64
"""

import os
import signal
import sys

# Seconds after which something that was waited for does not come any more.
# It is for hangs only: machines may be very busy.
TIMEOUT = 300


def env(name: str) -> str:
    """The value of a variable that the tests cannot do without."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f'{name} is not set; "make check" sets it')
    return os.path.abspath(value)


sys.path.insert(0, os.path.join(env('QEMU_TREE'), 'python'))

# A test that is told to end does so by way of its cleanups.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# The tool ignores what whoever starts it has ignored, as nohup does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
