# SPDX-License-Identifier: GPL-2.0-or-later
#
# Where guests may run under KVM, and how the tests' own guest does.
"""Guests under KVM: whether there can be any, and test cases of them."""

import functools
import os
import tempfile

from snaptest.units import MIB
from snaptest.vm.guests import Loop
from snaptest.vm.machine import Q35, VM
from snaptest.vm.ram import Ram

# pylint: disable=wrong-import-order
from qemu.machine.machine import VMLaunchFailure
from qemu.qmp import QMPError

DEVICE = '/dev/kvm'


def start(vm: VM, loop: Loop) -> str | None:
    """Why a guest does not get ahead; None if it does."""
    try:
        vm.launch()
        vm.cmd('cont')
        vm.wait_until(lambda: loop.gen() > 2)
    except VMLaunchFailure:
        return vm.log().strip().rpartition('\n')[2]
    except (OSError, QMPError):             # TimeoutError is an OSError
        return 'it does not run the guest of the tests'
    finally:
        vm.kill()
    return None


@functools.cache
def why_no_kvm() -> str | None:
    """Why no guest can run under KVM here; None if one can."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
    except OSError as e:
        return f'{DEVICE}: {e.strerror}'
    with tempfile.TemporaryDirectory(prefix='snap-') as directory, \
            tempfile.TemporaryDirectory(prefix='snap-', dir='/dev/shm') as shm:
        ram = Ram(os.path.join(shm, 'ram'), 16 * MIB)
        vm = VM(directory, Q35, ram, ['-S', *Loop.args('x86_64', directory)],
                accel='kvm')
        why = start(vm, Loop(vm.arch, ram, delay=0))
        return f'{DEVICE}: {why}' if why else None


class KVM:
    """
    To be put before a test case.  Processors that are virtual themselves may
    let KVM run a thousand times slower than others, and slower than TCG, so
    the guest only waits as long as it has to.
    """

    accel = 'kvm'

    # There is no KVM for these; of the releases, each one saves and loads.
    test_aarch64_guest_comes_back = test_s390x_guest_comes_back = None
    test_aarch64_guest_comes_back_with_preempt = None
    test_aarch64_load_can_be_resumed = None
    test_pc_guest_comes_back = test_7_2_guest_comes_back_in_10_0 = None
    test_7_2_guest_comes_back_in_newest = None
    test_newest_guest_comes_back_in_10_0 = None

    def source(self, *args, run: bool = False, **kwargs) -> VM:
        src = super().source(*args, run=True, **kwargs, delay=0)
        src.loop.limit(2000)
        if not run:
            src.cmd('stop')
        return src
