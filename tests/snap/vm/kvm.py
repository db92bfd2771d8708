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


class BackgroundPaused(KVM, background.Paused):
    pass


class BackgroundRunning(KVM, background.Running):

    # It measures time, and needs a machine for itself.
    test_responsive = None

    def test_host_processor(self):
        """With all that the processor has, as most users run it"""
        self.processor = ['-cpu', 'host']
        self.test_one_after_another()

    processor = []

    def vm(self, *args, **kwargs):
        return super().vm(*args, *self.processor, **kwargs)


class Live(KVM, live.Live):
    pass


class PostcopyRunning(KVM, postcopy.Running):
    pass


class Recovery(KVM, recovery.Broken):
    pass


class MultifdSave(KVM, multifd.Save):
    pass


class MultifdLoad(KVM, multifd.Load):
    pass


if __name__ == '__main__':
    WHY = why_no_kvm()
    if WHY:
        print(f'# 0 cases under KVM; {WHY}', file=sys.stderr)
        sys.exit(77)        # to meson, the test is skipped
    program = unittest.main(verbosity=2, exit=False)
    print(f'# {program.result.testsRun} cases under KVM', file=sys.stderr)
    sys.exit(not program.result.wasSuccessful())
