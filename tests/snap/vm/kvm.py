#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Under KVM, the core of what the other suites do under TCG.

import sys
import unittest

import background
import live
import multifd
import postcopy
import recovery
from snaptest.vm.kvm import KVM, why_no_kvm


class BackgroundOfStoppedGuest(KVM, background.StoppedGuest):
    pass


class BackgroundOfRunningGuest(KVM, background.RunningGuest):

    # It measures time, and needs a machine for itself.
    test_monitor_answers_while_guest_is_saved = None

    def test_guest_with_host_processor_can_be_saved(self):
        """With all that the processor has, as most users run it"""
        self.processor = ['-cpu', 'host']
        self.test_each_snapshot_is_of_its_own_moment()

    processor = []

    def vm(self, *args, **kwargs):
        return super().vm(*args, *self.processor, **kwargs)


class LiveSave(KVM, live.LiveSave):
    pass


class PostcopyOfRunningGuest(KVM, postcopy.RunningGuest):
    pass


class BrokenLoad(KVM, recovery.BrokenLoad):
    pass


class SaveOverMultifd(KVM, multifd.SaveOverMultifd):
    pass


class LoadOverMultifd(KVM, multifd.LoadOverMultifd):
    pass


if __name__ == '__main__':
    WHY = why_no_kvm()
    if WHY:
        print(f'# 0 cases under KVM; {WHY}', file=sys.stderr)
        sys.exit(77)        # to meson, the test is skipped
    program = unittest.main(verbosity=2, exit=False)
    print(f'# {program.result.testsRun} cases under KVM', file=sys.stderr)
    sys.exit(not program.result.wasSuccessful())
