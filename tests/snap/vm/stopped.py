#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves of a stopped guest by precopy, loaded byte for byte.
#

import unittest

from snaptest.vm.case import Machines, SnapTest
from snaptest.vm.machine import NEWEST, Q35


class StoppedGuest(Machines, SnapTest):
    """Every page once, the device state of the same instant."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST):
        src = self.source(machine, version=version)
        self.save(src, self.path('image'))
        dst = self.destination(src, version=to)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_guest_saved_with_return_path_has_same_ram(self):
        src = self.source()
        self.save(src, self.path('image'), caps=['return-path'])
        dst = self.destination(src)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)

    def test_guest_stays_paused_without_S(self):
        """A destination without -S takes the run state of the source."""
        src = self.source()
        self.save(src, self.path('image'))
        dst = self.destination(src, run=True)
        self.load(self.path('image'), dst)
        self.assertEqual(dst.status(), 'paused')

    def test_guest_can_be_saved_again_over_first_image(self):
        src = self.source()
        self.save(src, self.path('image'))
        src.cmd('cont')
        src.wait_until(lambda gen=src.loop.gen(): src.loop.gen() > gen)
        src.cmd('stop')
        self.save(src, self.path('image'))
        dst = self.destination(src)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)


class RunStates(SnapTest):
    """
    Run states in which background-snapshot aborts QEMU: without it, the guest
    can be saved, and is in the same state when it is loaded.
    """

    VERSIONS = {NEWEST: Q35, '10.0': 'pc-q35-10.0', '7.2': 'pc-q35-7.2'}
    MEMORY = '64M'

    def round_trip(self, state, *args, cause=lambda vm: None):
        for version, machine in self.VERSIONS.items():
            with self.subTest(version):
                src = self.vm(machine, self.MEMORY, *args, version=version)
                cause(src)
                src.wait_until(lambda src=src: src.status() == state)
                self.save(src, self.path('image'))
                src.kill()
                self.assertEqual(self.info(self.path('image'))['run-state'],
                                 state)
                dst = self.vm(machine, self.MEMORY, *args, '-incoming',
                              'defer', version=version)
                self.load(self.path('image'), dst)
                dst.wait_until(lambda dst=dst: dst.status() == state)
                dst.kill()

    def port(self, command: str):
        """What makes a guest write to an I/O port"""
        return lambda vm: vm.cmd('human-monitor-command',
                                 command_line='o ' + command)

    def test_prelaunch_can_be_saved(self):
        self.round_trip('prelaunch', '-S')

    def test_io_error_can_be_saved(self):
        disk = self.path('disk')
        with open(disk, 'wb') as f:
            f.truncate(1 << 20)
        self.round_trip(
            'io-error', '-blockdev', 'driver=blkdebug,node-name=disk,'
            f'image.driver=file,image.filename={disk},inject-error.0.event='
            'none,inject-error.0.iotype=read', '-device',
            'ide-hd,drive=disk,rerror=stop,werror=stop')

    def test_guest_panicked_can_be_saved(self):
        self.round_trip('guest-panicked', '-device', 'pvpanic', '-action',
                        'panic=pause', cause=self.port('/b 0x505 1'))

    def test_watchdog_can_be_saved(self):
        self.round_trip('watchdog', '-device', 'ib700', '-action',
                        'watchdog=pause', cause=self.port('/b 0x443 0xf'))

    def test_shutdown_can_be_saved(self):
        self.round_trip('shutdown', '-no-shutdown', '-no-reboot',
                        cause=lambda vm: vm.cmd('system_reset'))


if __name__ == '__main__':
    unittest.main(verbosity=2)
