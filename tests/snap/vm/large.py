#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A large guest: exact, and in little memory.
#

import os
import shlex
import sys
import unittest

from snaptest.units import MIB
from snaptest.vm.case import SnapTest

TOOL_MIB = 128


class LargeGuest(SnapTest):
    """4 GiB, of which 2.5 GiB are not zero, on both sides of the PCI hole."""

    def measured(self, verb):
        """
        An exec: URI, whose command leaves its peak of memory in a file.
        """
        self.peak = self.path('peak-' + verb)
        script = ('import resource, subprocess, sys\n'
                  'status = subprocess.call(sys.argv[2:])\n'
                  'peak = resource.getrusage(resource.RUSAGE_CHILDREN)\n'
                  'open(sys.argv[1], "w").write(str(peak.ru_maxrss))\n'
                  'sys.exit(status)')
        return 'exec:' + shlex.join(
            [sys.executable, '-c', script, self.peak,
             *self.command(verb, self.path('image'))])

    def assert_little_memory(self, verb):
        self.report()
        with open(self.peak, encoding='ascii') as f:
            peak = int(f.read()) // 1024
        print(f'{verb}: {peak} MiB at most')
        self.assertLess(peak, TOOL_MIB)

    def test_4_gib_come_back_in_little_memory(self):
        src = self.source(mib=4096, run=True)
        src.cmd('stop')
        src.ram.fill_random(1024 * MIB, 3200 * MIB)
        src.ram.fill_random(3800 * MIB, 4096 * MIB)
        src.migrate(self.measured('save'), 'background-snapshot')
        src.wait_migration()
        self.assert_completed('save')
        src.wait_until(lambda: os.path.exists(self.peak))
        self.assert_little_memory('save')
        src.kill()

        dst = self.destination(src)
        dst.incoming(self.measured('load'))
        dst.wait_migration()
        self.assert_completed('load')
        self.assert_little_memory('load')
        dst.kill()
        self.assert_same_ram(src, dst)


if __name__ == '__main__':
    unittest.main(verbosity=2)
