#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a load emits is what the save was given, for every kind of stream.
#

import json
import os
import random
import struct
import subprocess
import sys
import unittest

from snaptest import env
from snaptest.peers.decode import Stream
from snaptest.peers.streams import (CONTINUE, END, FOOTER, PAGE as PAGE_FLAG,
                                    START, StreamBuilder, command, name8)
from snaptest.tool import ToolTest, pattern, sample
from snaptest.units import MIB, PAGE


def section(kind: int, number: int, payload: bytes, name: str = '') -> bytes:
    """A section that StreamBuilder does not know"""
    head = name8(name) + struct.pack('>II', 0, 1) if name else b''
    return struct.pack('>BI', kind, number) + head + payload + \
        struct.pack('>BI', FOOTER, number)


class Streams(ToolTest):

    def test_background_stream_comes_back(self):
        self.round_trip(sample().build())

    def test_precopy_stream_comes_back(self):
        self.round_trip(sample().build(end=True))

    def test_decoder_of_these_tests_sees_differences(self):
        good = sample().build()
        builder = sample()
        builder.page('pc.ram', 4 * PAGE, pattern(1000))
        for other in (builder.build(), good.replace(b'cpu', b'cpv', 1),
                      sample([('pc.ram', MIB), ('vga.vbam', 65536)]).build()):
            with self.assertRaises(AssertionError):
                self.assert_same_stream(good, other)

    def test_false_end_in_device_state_ends_nothing(self):
        """Device state full of what looks like its end"""
        end = struct.pack('>BIBBI', FOOTER, 5, 0, 6, 16) + b'{"'
        builder = sample()
        builder.device('hostile', end * 100 + b'rest')
        data = builder.build()
        saved = self.tool('save', '-T', 'snap_image_commit', self.image,
                          stdin=data)
        self.assertEqual(saved.returncode, 0, saved.stderr)
        self.assertLess(saved.stderr.count(b'snap_image_commit'), 20)
        self.assertTrue(self.load().endswith(data[data.index(b'hostile'):]))

    def test_pages_in_random_order_come_back(self):
        builder = StreamBuilder([('pc.ram', 4 * MIB)])
        pages = list(range(4 * MIB // PAGE))
        random.Random(1).shuffle(pages)
        for i in pages:
            builder.page('pc.ram', i * PAGE, pattern(i))
        self.round_trip(builder.build())
        self.assertGreater(self.info()['arrivals'], 0)

    def test_last_copy_of_a_page_wins(self):
        """The last one wins, whatever it is and however soon it comes."""
        builder = StreamBuilder([('pc.ram', 2 * MIB), ('b', MIB)])
        rng = random.Random(2)
        for name in ('pc.ram', 'b'):
            builder.fill(name, 0x11)
        for i in range(3000):
            name = rng.choice(('pc.ram', 'b'))
            offset = rng.randrange(64) * PAGE
            if rng.randrange(3):
                builder.page(name, offset, pattern(i))
            else:
                builder.zero(name, offset)
            if rng.randrange(50) == 0:
                builder.end_part()
        self.round_trip(builder.build(end=True))

    def test_page_sent_over_and_over_is_its_last_copy(self):
        builder = StreamBuilder([('pc.ram', 2 * PAGE)])
        for i in range(2000):
            builder.page('pc.ram', 0, pattern(i))
            builder.page('pc.ram', PAGE, pattern(-i))
        self.round_trip(builder.build(end=True))

    def test_page_that_becomes_zero_is_zero(self):
        builder = StreamBuilder([('pc.ram', MIB)])
        builder.fill('pc.ram', 0x22)
        for offset in range(0, MIB, 3 * PAGE):
            builder.zero('pc.ram', offset)
        for offset in range(PAGE, MIB, 6 * PAGE):
            builder.page('pc.ram', offset, bytes(PAGE))
        self.round_trip(builder.build(end=True))

    def test_ram_of_zeroes_comes_back(self):
        builder = StreamBuilder([('pc.ram', MIB)])
        for offset in range(0, MIB, PAGE):
            builder.zero('pc.ram', offset)
        self.round_trip(builder.build())

    def test_zeroes_sent_as_data_come_back(self):
        builder = StreamBuilder([('pc.ram', MIB)])
        builder.fill('pc.ram', 0)
        self.round_trip(builder.build())

    def test_stream_without_pages_comes_back(self):
        self.round_trip(StreamBuilder([('pc.ram', MIB), ('x', PAGE)]).build())
        self.assertEqual(Stream(self.load()).pages, {})

    def test_pages_never_sent_do_not_come(self):
        builder = StreamBuilder([('pc.ram', MIB), ('virtio-mem', 8 * MIB)])
        builder.fill('pc.ram', 0x33)
        for i in range(0, 1500, 7):
            builder.page('virtio-mem', i * PAGE, pattern(i))
        self.round_trip(builder.build())

    def test_records_without_a_block_name_are_understood(self):
        builder = StreamBuilder([('pc.ram', MIB)])
        builder.page('pc.ram', 0, pattern(0))
        for i in range(1, 20):
            builder.parts[-1].append(
                struct.pack('>Q', i * PAGE | PAGE_FLAG | CONTINUE) +
                pattern(i))
        self.round_trip(builder.build())

    def test_many_blocks_come_back(self):
        names = ['0000:00:02.0/vga.vram', '/rom@etc/acpi/tables', 'x' * 255]
        names += [f'block{i}' for i in range(200)]
        self.round_trip(sample([(name, (1 + i % 3) * PAGE)
                                for i, name in enumerate(names)]).build())

    def test_page_size_of_a_block_is_kept_but_not_loaded(self):
        """It is kept, but a destination without postcopy expects none."""
        self.round_trip(sample([('pc.ram', 4 * MIB, 2 * MIB),
                                ('vga.vram', 65536, PAGE)]).build())
        self.assertEqual([b['page-size'] for b in self.info()['ram-blocks']],
                         [2 * MIB, PAGE])
        self.assertNotIn(struct.pack('>QQ', 4 * MIB, 2 * MIB), self.load())

    def test_early_sections_come_back(self):
        builder = sample()
        builder.early('virtio-mem-device-early', pattern(5, 300))
        builder.early('virtio-mem-device-early', b'')
        self.round_trip(builder.build(end=True))

    def test_sections_of_dirty_bitmaps_come_back(self):
        """Iterations of another section before, among and after RAM."""
        builder = sample()
        builder.commands = section(START, 1, pattern(6, 100), 'dirty-bitmap')
        builder.devices = section(END, 1, pattern(7, 50)) + builder.devices
        self.round_trip(builder.build(end=True))
        builder.commands, builder.devices = b'', b''
        builder.early_sections = section(START, 1, b'bits', 'dirty-bitmap')
        builder.devices = section(END, 1, b'end')
        builder.device('cpu', b'state')
        self.round_trip(builder.build(end=True))

    def test_commands_among_devices_come_back(self):
        builder = sample()
        builder.devices += command(2, struct.pack('>I', 7))
        builder.device('timer', b'state')
        self.round_trip(builder.build())

    def test_stream_without_footers_comes_back(self):
        builder = sample(footers=False)
        data = builder.build()
        self.save(data)
        loaded = self.load()
        self.assertTrue(loaded.startswith(
            builder.header() + builder.ram_start()))
        self.assertTrue(loaded.endswith(
            builder.devices + b'\0' + builder.description()))

    def test_stream_without_configuration_comes_back(self):
        builder = sample()
        data = builder.build()[len(builder.header()):]
        self.round_trip(struct.pack('>II', 0x5145564d, 3) + data)

    def test_stream_without_description_comes_back(self):
        self.round_trip(sample().build(vmdesc=False))
        self.assertNotIn('device description', self.info()['parts'])

    def test_device_state_that_looks_like_the_end_comes_back(self):
        for fake in (b'\0\6\0\0\0\x10{"page_size": 1}',
                     b'\x7e\0\0\0\3\0\6\0\0\0\x10{"page_size":4}xx',
                     b'\x7e\0\0\0\3\0\6\0\0\0\x02{}',
                     b'\x7e\0\0\0\3\0\6\0\7\0\0{"devices',
                     b'\x7e\0\0\0\3\0\6\0\0\0\x20{"a": "\x7e\0\0\0\3\0\6\0'):
            builder = sample()
            builder.devices += section(4, 900, b'a' + fake * 3 + b'b', 'odd')
            builder.device('timer', b'state')
            data = builder.build()
            self.save(data)
            loaded = self.load()
            tail = builder.devices + b'\0' + builder.description()
            self.assertTrue(loaded.endswith(tail), fake)

    def test_large_device_state_comes_back(self):
        """More device state than the image has room reserved for."""
        builder = StreamBuilder([('pc.ram', MIB)])
        payload = pattern(8, MIB) * 70
        builder.device('huge', payload)
        data = builder.build()
        self.save(data)
        self.assertTrue(self.load().endswith(data[-len(payload):]))

    def test_uuid_of_configuration_comes_back(self):
        builder = sample()
        builder.subsection('configuration/uuid', pattern(9, 16))
        self.round_trip(builder.build())


class PageSizes(ToolTest):

    def bits(self, bits):
        size = 1 << bits
        self.round_trip(sample([('ram', 64 * size), ('rom', size)],
                               page_bits=bits).build())
        self.assertEqual(self.info()['page-size'], size)

    def test_page_size_of_the_stream_is_taken(self):
        for bits in (10, 11, 13, 14, 16):
            with self.subTest(bits):
                self.bits(bits)

    def test_page_size_of_the_option_is_taken(self):
        for bits, given in ((13, '8k'), (14, '16384'), (16, '64K'),
                            (12, '4096')):
            with self.subTest(given):
                builder = sample([('ram', 1 << 20)], page_bits=bits)
                builder.subsections = b''
                self.round_trip(builder.build(),
                                f'--target-page-size={given}', page_bits=bits)

    def test_stream_knows_better_than_the_option(self):
        self.round_trip(sample(page_bits=14).build(),
                        '--target-page-size=4k')

    def test_larger_pages_than_expected_are_refused(self):
        builder = sample(page_bits=14)
        builder.subsections = b''
        self.refused('save', self.image, stdin=builder.build(),
                     causes=[self.image])


class ConvertedImage(ToolTest):
    """A snapshot is an ordinary disk."""

    def setUp(self):
        super().setUp()
        builder = sample([('pc.ram', 3 * MIB), ('rom', PAGE)])
        for i in range(0, 768, 2):
            builder.zero('pc.ram', i * PAGE)
        builder.fill('pc.ram', 0x44, MIB, 65536)
        self.data = builder.build(end=True)
        self.save(self.data)
        self.loaded = self.load()
        self.assert_same_stream(self.data, self.loaded)

    def convert(self, *args: str, source: str = 'image', to: str = 'copy'):
        self.img('convert', *args, self.path(source), self.path(to))
        self.assertEqual(self.load(self.path(to)), self.loaded)
        self.succeeds('check', self.path(to))
        self.assertEqual(self.info(self.path(to)), self.info())

    def test_qcow2_copy_loads_the_same(self):
        self.convert('-O', 'qcow2')

    def test_compressed_copy_loads_the_same(self):
        self.convert('-O', 'qcow2', '-c')

    def test_zstd_copy_loads_the_same(self):
        self.convert('-O', 'qcow2', '-c', '-o', 'compression_type=zstd')

    def test_copy_without_holes_loads_the_same(self):
        self.convert('-O', 'qcow2', '-S', '0')

    def test_copy_with_other_clusters_loads_the_same(self):
        self.convert('-O', 'qcow2', '-o', 'cluster_size=512')
        self.convert('-O', 'qcow2', '-o', 'cluster_size=128k,extended_l2=on')

    def test_copy_by_way_of_raw_loads_the_same(self):
        self.convert('-O', 'raw', '-S', '0', to='raw')
        self.convert('-f', 'raw', '-O', 'raw', source='raw', to='sparse')
        self.convert('-f', 'raw', '-O', 'qcow2', source='sparse', to='back')
        self.img('compare', self.image, self.path('back'))

    def test_overlay_loads_the_same(self):
        self.img('create', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2',
                 self.path('overlay'))
        self.assertEqual(self.load(self.path('overlay'), '--backing-chain'),
                         self.loaded)
        self.convert('-O', 'qcow2', source='overlay', to='flat')

    def test_qemu_img_understands_a_snapshot(self):
        self.img('check', self.image)
        self.img('compare', self.image, self.image)
        extents = json.loads(self.img('map', '--output=json',
                                      self.image).stdout)
        size = json.loads(self.img('info', '--output=json',
                                   self.image).stdout)['virtual-size']
        self.assertEqual(extents[-1]['start'] + extents[-1]['length'], size)
        ram = self.info()['ram-blocks'][0]['offset']
        self.assertTrue(any(e['data'] and e['start'] <= ram + MIB <
                            e['start'] + e['length'] for e in extents))

    def test_page_lies_at_base_of_its_block_plus_offset(self):
        self.img('convert', '-O', 'raw', self.image, self.path('raw'))
        stream = Stream(self.data)
        blocks = {b['name']: b['offset'] for b in self.info()['ram-blocks']}
        with open(self.path('raw'), 'rb') as f:
            for (name, offset), page in stream.pages.items():
                f.seek(blocks[name] + offset)
                self.assertEqual(f.read(PAGE), page or bytes(PAGE))


class QemusDecoder(ToolTest):
    """QEMU's own decoder finds the same in both streams."""

    def analyze(self, data: bytes, name: str) -> dict:
        os.mkdir(self.path(name))
        with open(self.path(f'{name}/stream'), 'wb') as f:
            f.write(data)
        script = os.path.join(env('QEMU_TREE'), 'scripts/analyze-migration.py')
        subprocess.run([sys.executable, '-W', 'ignore', script, '-f', 'stream',
                        '-x'], cwd=self.path(name), check=True,
                       capture_output=True)
        found = {}
        for file in ('state.json', 'desc.json', 'ram', 'rom'):
            with open(self.path(f'{name}/{file}'), 'rb') as f:
                found[file] = f.read()
        return found

    def test_decoder_finds_the_same_in_both_streams(self):
        blocks = [('ram', MIB), ('rom', 65536)]
        builder = sample(blocks)
        builder.devices = b''
        builder.device('timer', struct.pack('>QQ', 1, 2))
        desc = {'page_size': PAGE, 'configuration': {
                    'vmsd_name': 'configuration', 'version': 1, 'fields': [
                        {'name': 'len', 'type': 'uint32', 'size': 4},
                        {'name': 'name', 'type': 'buffer', 'size': 2}]},
                'devices': [{
                    'name': 'timer', 'instance_id': 0, 'version': 1,
                    'fields': [{'name': 'ticks', 'type': 'int64', 'size': 8},
                               {'name': 'offset', 'type': 'int64',
                                'size': 8}]}]}
        data = builder.build(end=True, vmdesc=desc)
        self.save(data)
        self.assertEqual(self.analyze(data, 'saved'),
                         self.analyze(self.load(), 'loaded'))


if __name__ == '__main__':
    unittest.main(verbosity=2)
