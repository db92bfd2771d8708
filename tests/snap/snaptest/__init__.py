# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the Python tests have in common
#
"""
What tests, fuzzers and benches have in common; ../README.rst says more.

tool               ToolTest: save, load, info, refusals; sample streams
vm.case            SnapTest, PostcopyTest: a source, a destination, save, load;
                   Machines: all machines and releases of QEMU
vm.failure         DisturbedTest: saves that something happens to
faults.crash       CrashTest: an old and a new snapshot; FILE is one of them

peers.streams      StreamBuilder: a migration stream as bytes
peers.multifd      the same with multifd's channels, and who sends them
peers.decode       Stream: take a stream apart, to compare what it means
peers.destination  Destination: QEMU's part in a load by postcopy

vm.machine         VM: an emulator
vm.ram             Ram: RAM as a file: fill, read, compare
vm.guests          a Linux, and loops in machine code that write to RAM
vm.run             Run, Load: a save or load to watch, and to end at any time
vm.qtest           devices driven from outside; virtio-mem
vm.kvm             whether guests can run under KVM

faults.stages      stop the tool, or let it fail, at a known stage
faults.storage     watch what it writes, and let storage fail
faults.powercut    what a disk holds after a power cut
faults.preload     replace functions of the C library in a program

image.anatomy      what each bit of an image file is for
image.bitflips     images with one bit changed, and what becomes of them

waiting            wait_until(), for conditions
sanitizers         reports of sanitizers fail the test they belong to
units              PAGE, MIB, GIB

bench.common       RAM to save, tables, command lines
bench.measure      what saves and loads: the tool, and others beside it
bench.plot         figures of what "make bench" has measured

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
sys.path.append(os.path.join(env('QEMU_TREE'), 'scripts'))

# A test that is told to end does so by way of its cleanups.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# The tool ignores what whoever starts it has ignored, as nohup does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
