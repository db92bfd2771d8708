#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# One file that a command line names for two purposes: refused, before anything
# is done to it.
#

import os
import socket
import subprocess
import sys
import unittest

from snaptest import env
from snaptest.tool import ToolTest, sample, small

TRIED = 'pairs of names for one file: refused, and nothing has changed'


class Names(ToolTest):

    ITSELF = 'is the image itself; choose another file'
    SAME = 'are the same file; choose another one'
    tried = 0

    @classmethod
    def tearDownClass(cls):
        print(f'# {cls.tried} {TRIED}', file=sys.stderr)
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.data = sample().build()
        self.save(self.data)
        self.other = self.path('other')
        with open(self.other, 'wb') as f:
            f.write(b'other')

    def named_twice(self, cause: str, *args: str, name: str | None = None):
        """Refused, with the option and the name that it was given"""
        error = self.refused(*args, stdin=self.data,
                             causes=[cause, name or ''])
        self.assertNotIn('Could not', error)
        type(self).tried += 1

    def names_of_image(self) -> list[str]:
        """Names that lead to the image"""
        os.makedirs(self.path('dir'), exist_ok=True)
        for make, target, name in ((os.symlink, 'image', 'soft'),
                                   (os.symlink, 'soft', 'softer'),
                                   (os.symlink, self.dir, 'dir/up'),
                                   (os.link, self.image, 'hard')):
            if not os.path.lexists(self.path(name)):
                make(target, self.path(name))
        names = ('image', 'soft', 'softer', 'hard', 'dir/up/image',
                 'dir/../image')
        return [self.path(name) for name in names] + [
            os.path.relpath(self.image)]

    def test_report_is_not_the_image(self):
        for name in self.names_of_image():
            for verb, *options in (['save'], ['save', '-n'], ['load'],
                                   ['load', '--postcopy']):
                with self.subTest((verb, options, name)):
                    self.named_twice(self.ITSELF, f'--report={name}', verb,
                                     *options, self.image,
                                     name=f'--report={name}')
                    self.named_twice(self.ITSELF, '--report', self.image,
                                     verb, *options, name)
        self.assert_same_stream(self.data, self.load())

    def test_report_is_not_the_image_to_come(self):
        """By its directory, as it does not exist"""
        os.unlink(self.image)
        os.symlink('image', self.path('soft'))
        os.symlink('.', self.path('here'))
        for name in ('image', 'soft', 'here/image', './image'):
            with self.subTest(name):
                self.named_twice(self.ITSELF, f'--report={self.path(name)}',
                                 'save', self.image)
        self.assertEqual(sorted(os.listdir(self.dir)),
                         ['here', 'other', 'soft'])

    def test_image_options_name_the_image(self):
        for image, *options in (
                [f'driver=qcow2,file.driver=file,file.filename={self.image}',
                 '--image-opts'],
                [f'driver=file,filename={self.image}', '--image-opts'],
                [f'file:{self.image}'],
                ['json:{"driver": "qcow2", "file": {"driver": "file", '
                 f'"filename": "{self.image}"}}}}']):
            with self.subTest(image):
                self.named_twice(self.ITSELF, f'--report={self.image}',
                                 'load', *options, image)
                self.named_twice(self.ITSELF, f'--report={self.image}',
                                 'save', '-n', *options, image)

    def test_working_set_is_not_the_image(self):
        for name in self.names_of_image():
            option = f'--working-set={name}'
            with self.subTest(name):
                self.named_twice(self.ITSELF, option, 'embed', self.image,
                                 name=option)
                self.named_twice(self.ITSELF, option, 'load', '--postcopy',
                                 '--record', self.image, name=option)
        self.assert_same_stream(self.data, self.load())

    def test_socket_is_not_the_image(self):
        for verb in ('save', 'load'):
            for image in (self.image, self.path('fresh')):
                self.named_twice(self.ITSELF, f'--uri=unix:{image}', verb,
                                 image)

    def test_trace_file_is_not_the_image(self):
        """Tracing begins before anything else."""
        for verb in ('save', 'load', 'info', 'check', 'embed'):
            self.named_twice(self.ITSELF, '-T',
                             f'snap_save_answer,file={self.image}', verb,
                             *(['--working-set', self.other]
                               if verb == 'embed' else []), self.image)

    def test_secret_is_not_written_to(self):
        secret = f'secret,id=s,file={self.other}'
        json = ('{"qom-type": "secret", "id": "s", '
                f'"file": "{self.other}"}}')
        for text in (secret, json):
            with self.subTest(text):
                self.named_twice(self.ITSELF, '--object', text, 'save',
                                 self.other)
                self.named_twice(self.ITSELF, '--object', text, 'save', '-n',
                                 '-O', 'raw', self.other)
                self.named_twice(self.SAME, '--object', text, 'load',
                                 f'--report={self.other}', self.image)
                self.named_twice(self.SAME, '--object', text, 'info', '-T',
                                 f'snap_save_answer,file={self.other}',
                                 self.image)

    def test_options_do_not_name_one_file(self):
        report = f'--report={self.other}'
        self.named_twice(self.SAME, report, 'load', '--postcopy', '--record',
                         f'--working-set={self.other}', self.image)
        self.named_twice(self.SAME, report, 'load', '--postcopy',
                         f'--working-set={self.other}', self.image)
        self.named_twice(self.SAME, report, '-T',
                         f'snap_save_answer,file={self.other}', 'load',
                         self.image)
        self.named_twice(self.SAME, f'--report={self.path("sock")}',
                         f'--uri=unix:{self.path("sock")}', 'save', self.image)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path('sock'))
            self.named_twice(self.SAME, f'--report={self.path("sock")}',
                             f'--uri=unix:{self.path("sock")}', 'load',
                             self.image)

    def test_default_working_set_is_not_the_report(self):
        report = f'--report={self.image}.working-set'
        self.named_twice('the working set of the image', report, 'load',
                         '--postcopy', '--record', self.image)
        self.named_twice('the working set of the image', report, 'load',
                         '--postcopy', self.image)

    def test_temporary_files_of_a_save_have_no_other_use(self):
        os.symlink('image', self.path('soft'))
        for left in (False, True):
            for name in ('.image.saving', '.image.saved'):
                if left:
                    with open(self.path(name), 'wb') as f:
                        f.write(b'of a save that was killed')
                for image in ('image', 'soft'):
                    self.named_twice('a temporary file of the save',
                                     f'--report={self.path(name)}', 'save',
                                     self.path(image))
        os.unlink(self.path('.image.saved'))
        os.unlink(self.path('.image.saving'))
        os.link(self.image, self.path('.image.saving'))
        self.save(self.data)            # it may be the image, too

    def test_backing_file_and_data_file_are_the_image(self):
        """Which only the image tells"""
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 self.path('overlay'))
        self.img('create', '-f', 'qcow2', '-o', f'data_file={self.other}',
                 self.path('top'), '256M')
        self.save(self.data, self.path('top'), '-n')
        for image, file in (('overlay', self.image), ('top', self.other)):
            report = f'--report={file}'
            with self.subTest(image):
                # The report cannot be written, nor does it say so
                for command in (['load', '--backing-chain'], ['save', '-n']):
                    before = self.tree()
                    result = self.tool(*command, report, self.path(image),
                                       stdin=self.data)
                    self.assertEqual(result.returncode, 1)
                    self.assertIn(self.ITSELF.encode(), result.stderr)
                    self.assertEqual(self.tree(), before)

    def test_what_is_no_file_may_be_named_twice(self):
        """And what is only read"""
        self.succeeds('-T', 'snap_save_answer,file=/dev/null',
                      '--report=/dev/null', 'save', self.image,
                      stdin=self.data)
        out = self.succeeds('-T', 'snap_save_answer,file=/dev/stdout',
                            '--report=/dev/stdout', 'save', self.image,
                            stdin=self.data)
        self.assertIn(b'completed', out)
        with open(self.path('out'), 'wb') as f:
            result = subprocess.run(
                [env('QEMU_SNAP'), '-T', 'snap_save_answer,file=/dev/fd/1',
                 '--report=/dev/stdout', 'save', self.image], input=self.data,
                stdout=f, stderr=subprocess.PIPE, check=False)
            self.assertEqual((result.returncode, result.stderr), (0, b''))
        os.mkfifo(self.path('fifo'))
        fd = os.open(self.path('fifo'), os.O_RDWR | os.O_NONBLOCK)
        try:
            self.succeeds('-T', f'snap_save_answer,file={self.path("fifo")}',
                          f'--report={self.path("fifo")}', 'save', self.image,
                          stdin=small())
        finally:
            os.close(fd)
        self.succeeds('--object', f'secret,id=a,file={self.other}',
                      '--object', f'secret,id=b,file={self.other}', 'info',
                      self.image)


if __name__ == '__main__':
    unittest.main(verbosity=2)
