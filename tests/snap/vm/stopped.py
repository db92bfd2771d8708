#!/usr/bin/env python3
#
# Saves of a stopped guest by precopy, loaded byte for byte.
#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..'))
# pylint: disable=wrong-import-position
from snaptest.case import Machines, SnapTest


class Stopped(Machines, SnapTest):
    """Every page once, the device state of the same instant."""

    def round_trip(self, machine, version='10.0', to='10.0'):
        src = self.source(machine, version=version)
        self.save(src, self.path('image'))
        dst = self.destination(src, version=to)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)
        self.assert_goes_on(dst, src.loop)

    def test_return_path(self):
        src = self.source()
        self.save(src, self.path('image'), caps=['return-path'])
        dst = self.destination(src)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)

    def test_stays_paused(self):
        """A destination without -S takes the run state of the source."""
        src = self.source()
        self.save(src, self.path('image'))
        dst = self.destination(src, run=True)
        self.load(self.path('image'), dst)
        self.assertEqual(dst.status(), 'paused')

    def test_two_saves(self):
        """A save leaves a source that can be saved again, over the first."""
        src = self.source()
        self.save(src, self.path('image'))
        src.cmd('cont')
        src.wait_until(lambda gen=src.loop.gen(): src.loop.gen() > gen)
        src.cmd('stop')
        self.save(src, self.path('image'))
        dst = self.destination(src)
        self.load(self.path('image'), dst)
        self.assert_same_ram(src, dst)


unittest.main(verbosity=2)
