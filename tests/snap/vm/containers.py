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

    def test_qcow2_copy_loads(self):
        self.convert(([], 'qcow2'))

    def test_compressed_copy_loads(self):
        self.convert((['-c'], 'qcow2'))

    def test_raw_copy_loads(self):
        self.convert(([], 'raw'))

    def test_raw_copy_without_holes_loads(self):
        self.convert((['-S', '0'], 'raw'))

    def test_copy_by_way_of_raw_loads(self):
        self.convert(([], 'raw'), ([], 'qcow2'))

    def test_copy_by_way_of_compression_loads(self):
        self.convert((['-c'], 'qcow2'), (['-S', '0'], 'qcow2'))

    def test_image_saved_raw_loads(self):
        self.save(self.src, self.image, '-O', 'raw')
        self.verify(self.image, '-f', 'raw')

    def test_image_of_4k_clusters_loads(self):
        self.save(self.src, self.image, '-O', 'qcow2', '-o',
                  'cluster_size=4k')
        self.verify(self.image)

    def test_n_saves_over_what_an_image_held(self):
        self.img('create', '-f', 'qcow2', self.image, '256M')
        self.save(self.src, self.image, '-n')
        self.save(self.src, self.image, '-n')
        self.verify(self.image)

    def test_overlay_of_a_snapshot_is_a_snapshot(self):
        self.save(self.src, self.image)
        overlay = self.path('overlay')
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 overlay)
        self.verify(overlay, '--backing-chain')

    def test_zero_pages_hide_an_older_snapshot_below(self):
        old = self.source()
        old.ram.fill_random(old.loop.end, old.ram.size)
        self.save(old, self.image)
        overlay = self.path('overlay')
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 overlay)
        self.save(self.src, overlay, '-n')
        self.verify(overlay, '--backing-chain')

    def test_saves_and_loads_with_each_aio_mode(self):
        for options in (['--cache=none', '--aio=native'],
                        ['--cache=writeback', '--aio=threads'],
                        ['--cache=none', '--aio=io_uring']):
            with self.subTest(options):
                self.save(self.src, self.image, *options)
                self.verify(self.image, *options)


if __name__ == '__main__':
    unittest.main(verbosity=2)
