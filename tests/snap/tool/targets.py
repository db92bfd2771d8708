#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves into what exists, and what the block layer can put behind it.
#

import json
import os
import subprocess
import sys
import unittest

from snaptest import TIMEOUT, env
from snaptest.tool import ToolTest, sample, small
from snaptest.units import MIB


class ExistingTarget(ToolTest):

    def setUp(self):
        super().setUp()
        self.data = sample().build()
        self.save(self.data, self.path('own'))
        self.size = json.loads(self.img('info', '--output=json',
                                        self.path('own')).stdout
                               )['virtual-size']

    def create(self, fmt: str, size: int | None = None):
        self.img('create', '-f', fmt, self.image, str(size or self.size))

    def save_over(self, target: str | None = None, *options: str, read=()):
        """A save with less in it replaces one with more."""
        target = target or self.image
        for data in (sample([('other', 2 * MIB)]).build(), self.data):
            self.save(data, target, '-n', *options)
            self.assert_same_stream(data, self.load(target, *read))
            self.succeeds('check', target, *read)

    def test_raw_image_is_saved_over(self):
        self.create('raw', 2 * self.size)
        self.save_over(self.image, '-O', 'raw')

    def test_qcow2_image_is_saved_over(self):
        self.create('qcow2', 2 * self.size)
        self.save_over()
        self.img('check', self.image)

    def test_image_of_exact_size_suffices(self):
        self.create('raw')
        self.save(self.data, self.image, '-n', '-O', 'raw')
        self.assert_same_stream(self.data, self.load())

    def test_old_content_does_not_shine_through(self):
        """Old content does not shine through, zero pages are zero."""
        self.create('raw', 2 * self.size)
        self.io(self.image, f'write -P 0xa5 0 {2 * self.size}', 'raw')
        self.save_over(self.image, '-O', 'raw')

    def test_content_of_backing_file_does_not_shine_through(self):
        base = self.path('base')
        self.img('create', '-f', 'qcow2', base, str(2 * self.size))
        self.io(base, f'write -P 0xa5 0 {2 * self.size}')
        self.img('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2',
                 self.image)
        before = self.tree()[base]
        self.save_over(read=['--backing-chain'])
        self.assertEqual(self.tree()[base], before)

    def test_too_small_image_is_refused(self):
        for fmt in ('raw', 'qcow2'):
            for size in (self.size - 512, MIB, 512):
                with self.subTest((fmt, size)):
                    self.create(fmt, size)
                    self.io(self.image, 'write -P 0x77 0 512', fmt)
                    self.refused('save', '-n', '-O', fmt, self.image,
                                 stdin=self.data,
                                 causes=[self.image, str(size),
                                         str(self.size)])

    def test_failure_before_first_page_leaves_target_alone(self):
        self.save(self.data)
        for data in (b'', b'garbage', self.data[:40]):
            self.refused('save', '-n', self.image, stdin=data,
                         causes=[self.image])
        self.refused('save', '-n', '-s', '64k', self.image, stdin=self.data,
                     causes=[self.image])
        self.assert_same_stream(self.data, self.load())

    def test_save_that_fails_later_leaves_no_snapshot(self):
        for length in (len(self.data) // 2, len(self.data) - 1):
            self.save(self.data)
            result = self.tool('save', '-n', self.image,
                               stdin=self.data[:length])
            self.assertEqual(result.returncode, 1)
            for verb in ('load', 'info', 'check'):
                self.refused(verb, self.image, causes=[self.image, 'save'])
        self.save_over()

    def test_missing_target_is_refused(self):
        self.refused('save', '-n', self.image, stdin=self.data,
                     causes=[self.image, 'no such file'])

    def test_target_of_another_format_is_refused(self):
        self.create('raw', 2 * self.size)
        self.refused('save', '-n', '-O', 'qcow2', self.image, stdin=self.data,
                     causes=[self.image, 'qcow2'])

    def test_target_that_is_no_local_file_is_not_created(self):
        self.refused('save', f'nbd+unix:///?socket={self.path("sock")}',
                     stdin=self.data, causes=['nbd', '-n'])

    # NBD

    def serve(self, *command: str) -> str:
        """A server at a socket in the directory; returns its URI"""
        # pylint: disable=consider-using-with
        socket = self.path('sock')
        process = subprocess.Popen([arg.replace('@', socket)
                                    for arg in command])
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        uri = f'nbd+unix:///?socket={socket}'
        self.wait_for(lambda: self.img('info', uri, check=False
                                       ).returncode == 0, 'server')
        return uri

    def test_nbd_export_is_saved_to(self):
        self.create('raw', 2 * self.size)
        uri = self.serve(env('QEMU_NBD'), '-k', '@', '-f', 'raw', '-t',
                         self.image)
        self.save_over(uri, '-O', 'raw')

    def test_too_small_nbd_export_is_refused(self):
        self.create('raw', MIB)
        uri = self.serve(env('QEMU_NBD'), '-k', '@', '-f', 'raw', '-t',
                         self.image)
        self.refused('save', '-n', '-O', 'raw', uri, stdin=self.data,
                     causes=[uri, str(MIB)])

    def test_read_only_nbd_export_is_refused(self):
        self.create('raw', 2 * self.size)
        uri = self.serve(env('QEMU_NBD'), '-k', '@', '-f', 'raw', '-t', '-r',
                         self.image)
        self.refused('save', '-n', '-O', 'raw', uri, stdin=self.data,
                     causes=[uri])

    def test_export_of_storage_daemon_is_saved_to(self):
        """A qcow2 image behind an export of the storage daemon."""
        self.create('qcow2', 2 * self.size)
        uri = self.serve(
            env('QEMU_STORAGE_DAEMON'),
            '--blockdev', f'file,node-name=file,filename={self.image}',
            '--blockdev', 'qcow2,node-name=disk,file=file',
            '--nbd-server', 'addr.type=unix,addr.path=@',
            '--export', 'nbd,id=export,node-name=disk,name=,writable=on')
        self.save_over(uri, '-O', 'raw')

    def test_nbd_server_that_dies_fails_save(self):
        """A server that dies is an error, and its image no snapshot."""
        self.create('raw', 2 * self.size)
        uri = self.path('sock')
        # pylint: disable=consider-using-with
        server = subprocess.Popen([env('QEMU_NBD'), '-k', uri, '-f', 'raw',
                                   self.image])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.wait_for(lambda: self.tree().get(uri), 'server')
        before = os.stat(self.image).st_mtime_ns
        process = self.start('save', '-n', '-O', 'raw',
                             f'nbd+unix:///?socket={uri}')
        process.stdin.write(self.data[:len(self.data) // 2])
        process.stdin.flush()
        self.wait_for(lambda: os.stat(self.image).st_mtime_ns > before,
                      'write')
        server.kill()
        server.wait()
        out, err = process.communicate(self.data[len(self.data) // 2:],
                                       TIMEOUT)
        self.assertEqual((process.returncode, out, err.count(b'\n')),
                         (1, b'', 1), err)
        self.refused('info', self.image, causes=[self.image])


class Names(ToolTest):
    """What stands for a file, what for something else."""

    COLON = 'vm-2026-11-28T00:50.qcow2'

    def here(self, *args: str, **kwargs) -> bytes:
        return self.succeeds(*args, cwd=self.dir, **kwargs)

    def test_unknown_protocol_is_a_file_name(self):
        data = sample().build()
        for name in (self.COLON, 'a:b:c', '2026:image', 'a b:', ':x'):
            with self.subTest(name):
                for stdin in (small(), data):
                    self.here('save', name, stdin=stdin)
                self.assertEqual(os.listdir(self.dir), [name])
                self.assert_same_stream(data, self.here('load', name))
                self.assert_same_stream(data,
                                        self.here('load', './' + name))
                self.assertIn(f'image: {name}\n'.encode(),
                              self.here('info', name))
                self.here('check', name)
                self.here('check', '--repair', name)
                self.here('save', '-n', name, stdin=small())
                self.assert_same_stream(small(), self.here('load', name), 10)
                os.unlink(self.path(name))

    def test_raw_format_is_probed_under_such_a_name(self):
        self.here('save', '-O', 'raw', self.COLON, stdin=small())
        for options in ([], ['-f', 'raw']):
            self.assert_same_stream(small(), self.here('load', self.COLON,
                                                       *options), 10)

    def test_error_names_the_file_as_given(self):
        for verb in ('load', 'info', 'check', 'embed'):
            error = self.refused(verb, self.COLON, cwd=self.dir,
                                 causes=['no such file'])
            self.assertIn(f"'{self.COLON}': ", error)

    def test_known_protocol_is_no_file_name(self):
        """Nor is a URL, nor what only looks like a protocol in a path."""
        for name in ('nbd:localhost:1:exportname=x', 'nbd+unix:///?socket=x',
                     'frob://host/image', 'json:{"driver":"null-co"}',
                     'null-co://'):
            with self.subTest(name):
                self.refused('save', name, stdin=small(), cwd=self.dir,
                             causes=[name, '-n'])
        self.refused('load', 'frob://host/image', cwd=self.dir,
                     causes=['Unknown protocol', 'frob'])
        self.here('save', 'file:a:b', stdin=small())
        self.assertEqual(os.listdir(self.dir), ['a:b'])

    def test_dash_is_refused(self):
        """It would be a file of that name."""
        for verb, options in (('save', []), ('save', ['-n']), ('load', []),
                              ('load', ['--postcopy']), ('info', []),
                              ('check', []), ('embed', [])):
            with self.subTest((verb, options)):
                self.refused(verb, *options, '-', stdin=small(), cwd=self.dir,
                             causes=["'-'", 'stdin', 'stdout', './-'])
        self.here('save', './-', stdin=small())
        self.assertEqual(os.listdir(self.dir), ['-'])
        self.refused('load', '-', cwd=self.dir, causes=['./-'])
        self.assert_same_stream(small(), self.here('load', './-'), 10)


class EncryptedImage(ToolTest):

    OPTIONS = ['-o', 'encrypt.format=luks,encrypt.key-secret=s0,'
                     'encrypt.iter-time=10']

    def secret(self, text: str) -> list[str]:
        return ['--object', f'secret,id=s0,data={text}']

    def test_luks_image_is_never_in_clear(self):
        """A build without cryptography says so; it never saves in clear."""
        probe = self.img('create', '-f', 'qcow2', *self.secret('abc'),
                         *self.OPTIONS, self.path('probe'), '1M', check=False)
        data = sample().build()
        if probe.returncode:
            print('No LUKS in this build:', probe.stderr, file=sys.stderr)
            self.save(small())
            self.refused('save', *self.secret('abc'), *self.OPTIONS,
                         self.image, stdin=data, causes=[self.image, 'cipher'])
            return
        self.save(data, self.image, *self.secret('abc'), *self.OPTIONS)
        opts = (f'driver=qcow2,file.driver=file,file.filename={self.image},'
                'encrypt.format=luks,encrypt.key-secret=s0')
        self.assert_same_stream(data, self.load(
            opts, '--image-opts', *self.secret('abc')))
        self.refused('load', '--image-opts', *self.secret('wrong'), opts)
        self.refused('load', self.image, causes=[self.image])
        with open(self.image, 'rb') as f:
            self.assertNotIn(b'QEMUSNAP', f.read())

    def test_encryption_without_secret_is_refused(self):
        self.refused('save', *self.OPTIONS, self.image, stdin=small(),
                     causes=[self.image])


class SecondFile(ToolTest):
    """Creation options that make or name another file than FILE"""

    CAUSES = ['not one file that can be replaced', 'qemu-img', '-n']

    def setUp(self):
        super().setUp()
        self.data = sample().build()
        self.other = self.path('other')

    def not_created(self, options: str, *args: str):
        """Neither is there anything new, nor is anything lost."""
        for image in (self.image, self.path('fresh')):
            with self.subTest((options, image)):
                name, _, value = options.partition('=')
                self.refused('save', *args, '-o', options, image,
                             stdin=self.data,
                             causes=[*self.CAUSES, name,
                                     value.partition(',')[0]])

    def test_data_file_is_refused(self):
        self.save(self.data)
        for options in (f'data_file={self.other}',
                        f'data_file={self.other},data_file_raw=on',
                        'data_file=file:other', 'data_file=json:{}'):
            self.not_created(options)
        self.refused('save', '-o', 'cluster_size=64k', '-o',
                     f'data_file={self.other}', self.image, stdin=self.data,
                     causes=self.CAUSES)
        self.assert_same_stream(self.data, self.load())

    def test_data_file_that_exists_is_not_written_to(self):
        self.save(self.data)
        self.save(self.data, self.other, '-O', 'raw')
        self.not_created(f'data_file={self.other}')
        self.assert_same_stream(self.data, self.load(self.other))

    def test_backing_file_is_refused(self):
        self.save(self.data)
        self.img('create', '-f', 'qcow2', self.other, '1G')
        for options in (f'backing_file={self.other}',
                        f'backing_file={self.other},backing_fmt=qcow2',
                        'backing_file=nbd://nowhere,backing_fmt=raw'):
            self.not_created(options)
        self.assert_same_stream(self.data, self.load())

    def test_detached_header_is_refused(self):
        self.save(self.data)
        for value in ('on', 'true', 'yes', 'y'):
            self.not_created(f'detached-header={value},key-secret=s', '-O',
                             'luks', '--object', 'secret,id=s,data=abc')
        self.assert_same_stream(self.data, self.load())

    def test_vmdk_extents_are_refused(self):
        """Also by a build that does not have the format"""
        self.save(self.data)
        for value in ('monolithicFlat', 'twoGbMaxExtentSparse',
                      'twoGbMaxExtentFlat'):
            self.not_created(f'subformat={value}', '-O', 'vmdk')

    def test_other_options_are_no_second_file(self):
        luks = ['--object', 'secret,id=s,data=abc', '-O', 'luks']
        for image, args in (
                ('qcow2', ['-o', 'cluster_size=128k,extended_l2=on']),
                ('lazy', ['-o', 'lazy_refcounts=on,preallocation=metadata']),
                ('luks', [*luks, '-o', 'key-secret=s,detached-header=off,'
                                       'iter-time=10']),
                ('raw', ['-O', 'raw', '-o', 'preallocation=falloc'])):
            with self.subTest(image):
                self.save(small(), self.path(image), *args)
        self.assertEqual(sorted(os.listdir(self.dir)),
                         ['lazy', 'luks', 'qcow2', 'raw'])

    def test_existing_image_may_have_a_data_file(self):
        """The way that the message shows"""
        self.img('create', '-f', 'qcow2', '-o', f'data_file={self.other}',
                 self.image, '256M')
        self.save(self.data, self.image, '-n')
        self.assert_same_stream(self.data, self.load(self.image,
                                                     '--backing-chain'))

    def test_drivers_that_create_nothing_leave_nothing(self):
        for driver in ('nbd', 'null-co', 'quorum', 'throttle', 'preallocate',
                       'host_device', 'luks', 'nonsense'):
            with self.subTest(driver):
                self.refused('save', '-O', driver, self.image,
                             stdin=self.data, causes=[self.image])


if __name__ == '__main__':
    unittest.main(verbosity=2)
