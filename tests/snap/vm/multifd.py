#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves and loads over several channels.
#

import os
import unittest

from snaptest.units import MIB, PAGE
from snaptest.vm.case import Machines, SnapTest
from snaptest.vm.machine import NEWEST, Q35
from snaptest.waiting import is_listening


class MultifdTest(SnapTest):
    """A socket that all channels are made to."""

    def setUp(self):
        super().setUp()
        self.image = self.path('image')
        self.socket = self.path('socket')

    def save_multifd(self, src, *caps, channels=2, params=None):
        tool = self.start(self.command('save', self.image,
                                       f'--uri=unix:{self.socket}'))
        src.wait_until(lambda: is_listening(self.socket))
        src.cmd('migrate-set-parameters',
                {'multifd-channels': channels, **(params or {})})
        src.migrate(f'unix:{self.socket}', 'multifd', *caps)
        info = src.wait_migration()
        self.finish(tool)
        self.assert_completed('save')
        self.assertFalse(os.path.exists(self.socket))
        return info

    def load_multifd(self, dst, *options, channels=2):
        dst.capabilities('multifd', 'events')
        dst.cmd('migrate-set-parameters', {'multifd-channels': channels})
        dst.incoming(f'unix:{self.socket}')
        tool = self.start(self.command(
            'load', self.image, f'--uri=unix:{self.socket}',
            f'--multifd-channels={channels}', *options))
        dst.wait_migration()
        self.finish(tool)
        self.assert_completed('load')


class SaveOverMultifd(Machines, MultifdTest):
    """An image is the same, whichever way its pages came."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST, **kwargs):
        src = self.source(machine, version=version)
        self.save_multifd(src, **kwargs)
        dst = self.destination(src, version=to)
        self.load(self.image, dst)
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_guest_comes_back_over_one_channel(self):
        self.round_trip(Q35, channels=1)

    def test_guest_comes_back_over_32_channels(self):
        """More than there are open buffers"""
        self.round_trip(Q35, channels=32)

    def test_zero_pages_may_come_over_main_channel(self):
        self.round_trip(Q35,
                        params={'zero-page-detection': 'legacy'})

    def test_guest_saved_with_return_path_has_same_ram(self):
        src = self.source()
        self.save_multifd(src, 'return-path')
        dst = self.destination(src)
        self.load(self.image, dst)
        self.assert_same_ram(src, dst)

    def test_last_copy_of_a_page_counts(self):
        """Pages come again, over whichever channel."""
        src = self.source(run=True, pages=4096, mib=128)
        info = self.save_multifd(src, channels=4)
        ram = info['ram']
        self.assertGreater(ram['normal'] + ram['duplicate'],
                           src.ram.size // PAGE, 'no page was sent twice')
        dst = self.destination(src)
        self.load(self.image, dst)
        self.assertIsNone(src.loop.torn(dst.ram))
        self.assert_same_ram(src, dst)

    def test_no_order_of_arrivals_is_recorded(self):
        """What comes over several channels has no order."""
        src = self.source()
        self.save_multifd(src)
        self.assertEqual(self.info(self.image)['arrivals'], 0)


class LoadOverMultifd(Machines, MultifdTest):
    """Any image, whichever way it was saved."""

    def round_trip(self, machine, version=NEWEST, to=NEWEST, channels=2):
        src = self.source(machine, version=version)
        self.save(src, self.image)
        dst = self.destination(src, version=to)
        self.load_multifd(dst, channels=channels)
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_guest_comes_back_over_one_channel(self):
        self.round_trip(Q35, channels=1)

    def test_guest_comes_back_over_20_channels(self):
        self.round_trip(Q35, channels=20)

    def test_guest_saved_and_loaded_over_multifd_comes_back(self):
        """There and back over several channels, while the guest runs"""
        src = self.source(run=True, mib=128)
        self.save_multifd(src, channels=3)
        dst = self.destination(src)
        self.load_multifd(dst)
        self.assertIsNone(src.loop.torn(dst.ram))
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_destination_takes_channels_with_its_uuid(self):
        """A destination does not take the channels of another machine."""
        uuid = '3f2504e0-4f89-11d3-9a0c-0305e82c3301'
        src = self.source()
        self.save(src, self.image)
        dst = self.destination(src, '-uuid', uuid)
        self.load_multifd(dst, f'--uuid={uuid}')
        self.assert_same_ram(src, dst)

    def test_damaged_page_fails_load(self):
        src = self.source()
        self.save(src, self.image, '-O', 'raw')
        block = self.info(self.image)['ram-blocks'][0]
        with open(self.image, 'r+b') as f:
            f.seek(block['offset'] + 40 * MIB)
            page = next(page for page in iter(lambda: f.read(PAGE), b'')
                        if any(page))
            f.seek(-PAGE, os.SEEK_CUR)
            f.write(bytes([page[0] ^ 1]) + page[1:])
        dst = self.destination(src)
        dst.capabilities('multifd', 'events')
        dst.incoming(f'unix:{self.socket}')
        tool = self.start(self.command('load', self.image, '-f', 'raw',
                                       f'--uri=unix:{self.socket}',
                                       '--multifd-channels=2'))
        self.assertIn('corrupt', self.finish(tool, 1))


if __name__ == '__main__':
    unittest.main(verbosity=2)
