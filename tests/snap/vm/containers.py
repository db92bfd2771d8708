#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Snapshots in other containers, and after a conversion, load the same.
#

import unittest

from snaptest.vm.case import SnapTest


class Containers(SnapTest):
    """An image is a disk image: what qemu-img does to it does not matter."""

    def setUp(self):
        super().setUp()
        self.image = self.path('image')
        self.src = self.source()

    def save(self, vm, image, *options, caps=('background-snapshot',)):
        """As often as wanted."""
        return super().save(vm, image, *options, caps=caps)

    def verify(self, image, *options):
        dst = self.destination(self.src)
        self.load(image, dst, *options)
        self.assert_same_ram(self.src, dst)
        dst.kill()

    def convert(self, *args):
        """Convert the image in steps, and load the last one."""
        self.save(self.src, self.image)
        image = self.image
        for n, (options, fmt) in enumerate(args):
            target = self.path(f'copy{n}')
            self.img_convert(*options, '-O', fmt, image, target)
            image = target
        self.verify(image, '-f', fmt)

    def test_qcow2(self):
        self.convert(([], 'qcow2'))

    def test_compressed(self):
        self.convert((['-c'], 'qcow2'))

    def test_raw(self):
        self.convert(([], 'raw'))

    def test_raw_full(self):
        self.convert((['-S', '0'], 'raw'))

    def test_raw_and_back(self):
        self.convert(([], 'raw'), ([], 'qcow2'))

    def test_compressed_and_back(self):
        self.convert((['-c'], 'qcow2'), (['-S', '0'], 'qcow2'))

    def test_save_raw(self):
        self.save(self.src, self.image, '-O', 'raw')
        self.verify(self.image, '-f', 'raw')

    def test_save_cluster_size(self):
        self.save(self.src, self.image, '-O', 'qcow2', '-o',
                  'cluster_size=4k')
        self.verify(self.image)

    def test_save_existing(self):
        """-n saves into an image that is there, over what it held."""
        self.img('create', '-f', 'qcow2', self.image, '256M')
        self.save(self.src, self.image, '-n')
        self.save(self.src, self.image, '-n')
        self.verify(self.image)

    def test_backing(self):
        """An overlay of a snapshot is a snapshot."""
        self.save(self.src, self.image)
        overlay = self.path('overlay')
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 overlay)
        self.verify(overlay, '--backing-chain')

    def test_over_snapshot(self):
        """Zero pages hide what an older snapshot below has at their place."""
        old = self.source()
        old.ram.fill_random(old.loop.end, old.ram.size)
        self.save(old, self.image)
        overlay = self.path('overlay')
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 overlay)
        self.save(self.src, overlay, '-n')
        self.verify(overlay, '--backing-chain')

    def test_cache_and_aio(self):
        for options in (['--cache=none', '--aio=native'],
                        ['--cache=writeback', '--aio=threads'],
                        ['--cache=none', '--aio=io_uring']):
            with self.subTest(options):
                self.save(self.src, self.image, *options)
                self.verify(self.image, *options)


if __name__ == '__main__':
    unittest.main(verbosity=2)
