#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a save must not take: the FILE that is there stays as it is.
#

import os
import struct
import unittest
from concurrent.futures import ThreadPoolExecutor

from snaptest import TIMEOUT
from snaptest.peers.streams import (COMMAND, FOOTER, FULL, PAGE as PAGE_FLAG,
                                    PART, START, StreamBuilder, command, name8)
from snaptest.tool import ToolTest, pattern, sample, small
from snaptest.units import MIB, PAGE

NO_CHANNELS = ('multifd', 'channels have not come', '--uri=unix:PATH')


class BadStream(ToolTest):

    def setUp(self):
        super().setUp()
        self.save(sample([('old', 65536)]).build())
        self.loaded = self.load()

    def refuse(self, data: bytes, *causes: str, options=()):
        self.refused('save', *options, self.image, stdin=data,
                     causes=[self.image, *causes])
        self.refused('save', *options, self.path('new'), stdin=data,
                     causes=[self.path('new'), *causes])

    def refuse_record(self, flags: int, *causes: str):
        builder = sample()
        builder.parts.append([struct.pack('>Q', flags) + name8('pc.ram') +
                              bytes(100)])
        self.refuse(builder.build(), *causes)

    # Not a stream

    def test_empty_input_is_refused(self):
        self.refuse(b'', 'no migration stream')

    def test_garbage_is_refused(self):
        for data in (b'\0', b'x', b'GET / HTTP/1.0\r\n\r\n', bytes(100000),
                     pattern(1, 100000), b'\xff' * 5000, b'QEVM',
                     b'QEVM\0\0\0\3' + pattern(2, 5000)):
            with self.subTest(data[:20]):
                self.refuse(data)

    def test_other_version_of_the_format_is_refused(self):
        self.refuse(b'QEVM\0\0\0\2' + small()[8:], 'version 2')

    def test_image_in_place_of_a_stream_is_refused(self):
        with open(self.image, 'rb') as f:
            self.refuse(f.read(), 'not a')

    def test_closed_stdin_is_an_error(self):
        self.refused('save', self.image, causes=[self.image],
                     preexec_fn=lambda: os.close(0))

    # Truncated

    def truncated(self, data, complete):
        """
        Every length up to that of @complete fails, and at that length the
        stream is complete without a description.
        """
        os.mkdir(self.path('cut'))
        for i in range(8):
            os.link(self.image, self.path(f'cut/{i}'))
        before = self.tree()

        def cut(i):
            """Saves to a FILE of their own, one after the other."""
            for length in range(i, len(data), 8):
                if length != complete:
                    yield length, self.tool('save', self.path(f'cut/{i}'),
                                            stdin=data[:length])

        with ThreadPoolExecutor(4) as pool:
            results = sum(pool.map(lambda i: list(cut(i)), range(8)), [])
        self.assertEqual(len(results), len(data) - 1)
        for length, result in results:
            error = result.stderr.decode()
            self.assertEqual(result.returncode, 1, (length, error))
            self.assertEqual(result.stdout, b'', length)
            self.assertRegex(
                error, r"^qemu-snap: Could not save '.*/cut/\d': .*\n$",
                length)
        self.assertEqual(self.tree(), before)
        self.save(data[:complete])
        self.assert_same_stream(data[:complete], self.load(), 10)

    def test_stream_cut_anywhere_leaves_old_file(self):
        data = small()
        self.truncated(data, data.index(b'\0\6\0\0') + 1)

    def test_precopy_stream_cut_anywhere_leaves_old_file(self):
        """The same with END, many sections and a command."""
        builder = StreamBuilder([('r', 2048)], page_bits=10)
        builder.zero('r', 0)
        builder.early('early', b'e')
        builder.end_part()
        builder.zero('r', 1024)
        builder.device('cpu', b'state')
        builder.run_state('paused')
        data = builder.build(end=True)
        self.truncated(data, data.index(b'\0\6\0\0') + 1)

    def test_stream_without_eof_is_refused(self):
        self.refuse(sample().build(eof=False), 'ends too early')

    def test_bytes_after_the_end_are_refused(self):
        self.refuse(small() + b'more')

    # Not supported

    def test_unsupported_capability_is_named(self):
        for name in ('multifd', 'compress', 'xbzrle', 'x-ignore-shared',
                     'something-new'):
            with self.subTest(name):
                builder = sample()
                builder.subsection('configuration/capabilities',
                                   struct.pack('>I', 1) + name8(name))
                self.refuse(builder.build(), name)

    def test_unsupported_flags_are_refused(self):
        self.refuse_record(0x040, 'xbzrle')
        self.refuse_record(0x080, 'rdma')
        self.refuse_record(0x100, 'compress')
        self.refuse_record(0x200, *NO_CHANNELS)
        self.refuse_record(0x00a)
        self.refuse_record(0x000)

    def test_multifd_without_channels_is_refused(self):
        data = sample().build()
        at = data.index(struct.pack('>QB', 0x10, FOOTER))
        self.refuse(data[:at] + struct.pack('>Q', 0x200) + data[at:],
                    *NO_CHANNELS)

    def test_other_iterable_sections_are_refused_by_name(self):
        for name in ('spapr/htab', 'vfio'):
            with self.subTest(name):
                builder = sample()
                builder.commands = struct.pack('>BI', START, 9) + \
                    name8(name) + struct.pack('>IIBI', 0, 1, FOOTER, 9)
                self.refuse(builder.build(), name, 'iterat')

    def test_unsupported_command_is_named(self):
        for number in (4, 5, 6, 7, 9, 10, 12, 999):
            with self.subTest(number):
                builder = sample()
                builder.commands = command(number, bytes(6))
                self.refuse(builder.build(), f'command {number}')
        builder.commands = struct.pack('>BHH', COMMAND, 7, 60000) + \
            bytes(60000)
        self.refuse(builder.build(), 'command 7')

    def test_unknown_subsection_is_named(self):
        builder = sample()
        builder.subsection('configuration/unheard-of', b'abc')
        self.refuse(builder.build(), 'configuration/unheard-of')

    def test_impossible_page_size_is_refused(self):
        for bits in (0, 9, 17, 32, 0xffffffff):
            with self.subTest(bits):
                builder = sample()
                builder.subsection('configuration/target-page-bits',
                                   struct.pack('>I', bits))
                self.refuse(builder.build(), 'page size')

    # Nonsense

    def test_impossible_blocks_are_refused(self):
        for blocks, cause in (
                ([('a', MIB), ('a', MIB)], "'a' appears twice"),
                ([('', MIB)], 'name'),
                ([('a', MIB + 1024)], ''),
                ([('a', 0), ('b', MIB)], "'a'"),
                ([('a', 1 << 62)], "'a'"),
                ([(f'{i}', PAGE) for i in range(5000)], '4096')):
            with self.subTest(blocks[0]):
                self.refuse(StreamBuilder(blocks).build(), cause)

    def test_wrong_total_of_ram_is_refused(self):
        data = sample().build()
        total = struct.pack('>Q', MIB + 65536 | 4)
        for other in (4, PAGE | 4, 2 * MIB | 4, 1 << 63 | 4, 0, 0x10):
            with self.subTest(other):
                self.refuse(data.replace(total, struct.pack('>Q', other)))

    def test_page_outside_of_ram_is_refused(self):
        for name, offset, cause in (
                ('pc.ram', MIB, "'pc.ram'"), ('vga.vram', 65536, 'vga.vram'),
                ('nowhere', 0, "'nowhere'"), ('', 0, 'name'),
                ('pc.ram', 1 << 62, 'pc.ram')):
            with self.subTest((name, offset)):
                builder = sample()
                builder.parts.append([struct.pack('>Q', offset | PAGE_FLAG) +
                                      name8(name) + bytes(PAGE)])
                self.refuse(builder.build(), cause)

    def test_continue_without_a_block_is_refused(self):
        builder = StreamBuilder([('a', PAGE)])
        builder.parts.append([struct.pack('>Q', PAGE_FLAG | 0x20) +
                              bytes(PAGE)])
        self.refuse(builder.build())

    def test_fill_with_other_than_zero_is_refused(self):
        builder = sample()
        builder.parts.append([struct.pack('>Q', 2) + name8('pc.ram') + b'\1'])
        self.refuse(builder.build(), 'zero page')

    def test_wrong_sections_are_refused(self):
        footer = struct.pack('>BI', FOOTER, 2)
        data = sample().build()
        for what, other in (
                ('footer', data.replace(footer, footer[:-1] + b'\3', 1)),
                ('section type', data.replace(footer, b'', 2)),
                ('unknown section', data.replace(
                    struct.pack('>BI', PART, 2), b'\2\0\0\0\7', 1)),
                ('section type', data.replace(
                    struct.pack('>BI', PART, 2), b'\x55\0\0\0\2', 1)),
                ('version', data.replace(
                    b'\3ram' + struct.pack('>II', 0, 4),
                    b'\3ram' + struct.pack('>II', 0, 3)))):
            with self.subTest(what):
                self.assertNotEqual(data, other)
                self.refuse(other, what)

    def test_stream_without_ram_is_refused(self):
        header = StreamBuilder([('a', PAGE)]).header()
        self.refuse(header + b'\0')
        self.refuse(header + struct.pack('>BI', FULL, 4) + name8('cpu') +
                    struct.pack('>II', 0, 1) + b'state' +
                    struct.pack('>BI', FOOTER, 4) + b'\0')

    def test_machine_name_too_long_is_refused(self):
        self.refuse(b'QEVM\0\0\0\3\7\xff\xff\xff\xff' + bytes(1000),
                    'machine type')

    # Size

    def test_image_size_smaller_than_ram_is_refused(self):
        """An image size bounds RAM, before anything is written."""
        ram = MIB + 65536
        for size in (f'{ram - 1}', '1M', '1'):
            self.refuse(sample().build(), f'{ram}', options=['-s', size])

    def test_too_small_size_is_refused_before_any_page(self):
        builder = sample()
        process = self.start('-s', '1M', 'save', self.image)
        process.stdin.write(builder.header() + builder.ram_start())
        process.stdin.flush()
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(self.load(), self.loaded)

    def test_image_size_of_ram_or_more_suffices(self):
        data = sample().build()
        for size in (f'{MIB + 65536}', '1088k', '2M', '1G', '1T'):
            self.round_trip(data, '-s', size)

    def test_invalid_image_size_is_refused(self):
        for size in ('0', '-1', 'x', '1Q', ''):
            error = self.refused('save', '-s', size, self.image,
                                 stdin=small())
            self.assertIn(f"'{size}'", error)


if __name__ == '__main__':
    unittest.main(verbosity=2)
