#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves and loads over sockets and descriptors.
#

import os
import socket
import unittest

from snaptest.vm.case import SnapTest
from snaptest.waiting import is_listening


class Transport(SnapTest):
    """The tool runs beside the emulator, and its exit status counts."""

    def setUp(self):
        super().setUp()
        self.image = self.path('image')

    def verify(self, src):
        """What was saved is what src.truth has."""
        dst = self.destination(src)
        self.load(self.image, dst)
        self.assertIsNone(src.truth.difference(dst.ram))

    def stopped(self):
        src = self.source()
        src.truth = src.ram.copy()
        return src

    def save_unix(self, src, *caps):
        path = self.path('socket')
        tool = self.start(self.command('save', self.image,
                                       f'--uri=unix:{path}'))
        src.wait_until(lambda: is_listening(path))
        src.migrate(f'unix:{path}', *caps)
        src.wait_migration()
        self.finish(tool)
        self.assert_completed('save')
        self.assertFalse(os.path.exists(path), 'the socket was left behind')

    def save_fd(self, src, ours, theirs, *caps):
        tool = self.start(self.command('save', self.image, f'--uri=fd:{ours}'),
                          pass_fds=[ours])
        src.getfd('stream', theirs)
        os.close(ours)
        os.close(theirs)
        src.migrate('fd:stream', *caps)
        src.wait_migration()
        self.finish(tool)
        self.assert_completed('save')

    def load_fd(self, dst, ours, theirs):
        dst.getfd('stream', theirs)
        dst.incoming('fd:stream')
        tool = self.start(self.command('load', self.image, f'--uri=fd:{ours}'),
                          pass_fds=[ours])
        os.close(ours)
        os.close(theirs)
        dst.wait_migration()
        self.finish(tool)
        self.assert_completed('load')

    @staticmethod
    def pair():
        return [s.detach() for s in socket.socketpair()]

    def test_background_save_over_unix_has_all_ram(self):
        src = self.stopped()
        self.save_unix(src, 'background-snapshot')
        self.verify(src)

    def test_precopy_save_over_unix_has_all_ram(self):
        src = self.stopped()
        self.save_unix(src)
        self.verify(src)

    def test_return_path_save_over_unix_has_all_ram(self):
        src = self.stopped()
        self.save_unix(src, 'return-path')
        self.verify(src)

    def test_background_save_over_pipe_has_all_ram(self):
        src = self.stopped()
        self.save_fd(src, *os.pipe(), 'background-snapshot')
        self.verify(src)

    def test_background_save_over_socketpair_has_all_ram(self):
        src = self.stopped()
        self.save_fd(src, *self.pair(), 'background-snapshot')
        self.verify(src)

    def test_return_path_save_over_socketpair_has_all_ram(self):
        src = self.stopped()
        self.save_fd(src, *self.pair(), 'return-path')
        self.verify(src)

    def loadable(self):
        src = self.source()
        self.save(src, self.image)
        return src

    def test_load_over_unix_has_all_ram(self):
        src = self.loadable()
        dst = self.destination(src)
        path = self.path('socket')
        dst.incoming(f'unix:{path}')
        tool = self.start(self.command('load', self.image,
                                       f'--uri=unix:{path}'))
        dst.wait_migration()
        self.finish(tool)
        self.assert_completed('load')
        self.assert_same_ram(src, dst)

    def test_load_over_pipe_has_all_ram(self):
        src = self.loadable()
        dst = self.destination(src)
        theirs, ours = os.pipe()
        self.load_fd(dst, ours, theirs)
        self.assert_same_ram(src, dst)

    def test_load_over_socketpair_has_all_ram(self):
        src = self.loadable()
        dst = self.destination(src)
        self.load_fd(dst, *self.pair())
        self.assert_same_ram(src, dst)


if __name__ == '__main__':
    unittest.main(verbosity=2)
