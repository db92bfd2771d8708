#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images that are no snapshots, not any more, or made by somebody hostile:
# never wrong data, never a crash, always a word about the cause.
#

import ctypes
import json
import os
import struct
import unittest

from snaptest.peers.decode import Stream
from snaptest.peers.streams import StreamBuilder
from snaptest.tool import (REFUSAL, ToolTest, memory_limit, pattern, sample,
                           small)
from snaptest.units import MIB, PAGE

HEADER_SIZE = 512
PARTS = 104         # be64 offset, length and checksum each
PAGE_TABLE, ARRIVALS, BLOCK_TABLE, CONFIGURATION, SETUP, METADATA, DEVICES, \
    VMDESC = range(8)

XXHASH = ctypes.CDLL('libxxhash.so.0')
XXHASH.XXH3_64bits.restype = ctypes.c_uint64
XXHASH.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def checksum(data: bytes) -> bytes:
    return struct.pack('>Q', XXHASH.XXH3_64bits(data, len(data)))


class NoSnapshot(ToolTest):

    def refuse(self, name: str, *causes: str):
        for verb in ('load', 'info', 'check'):
            with self.subTest(verb):
                self.refused(verb, self.path(name),
                             causes=[self.path(name), *causes])
        self.refused('info', '--output=json', self.path(name),
                     causes=[self.path(name), *causes])

    def write(self, name: str, data: bytes):
        with open(self.path(name), 'wb') as f:
            f.write(data)

    def test_missing_image_is_refused(self):
        self.refuse('missing', 'no such file')
        self.refuse('missing/too', 'no such file')

    def test_directory_is_refused(self):
        os.mkdir(self.path('dir'))
        self.refuse('dir', 'regular file')

    def test_fifo_is_refused_without_waiting(self):
        """Nobody will ever write to it."""
        os.mkfifo(self.path('fifo'))
        for verb in ('load', 'info', 'check'):
            self.refused(verb, self.path('fifo'),
                         causes=[self.path('fifo')])

    def test_text_is_refused_as_no_snapshot(self):
        for data in (b'', b'x', b'Hello, world\n', b'text ' * MIB):
            self.write('text', data)
            self.refuse('text', 'not a snapshot')

    def test_migration_stream_is_refused_as_no_snapshot(self):
        """An easy mistake: the stream itself."""
        self.write('stream', sample([('r', 4 * MIB)]).build())
        self.refuse('stream', 'not a snapshot')

    def test_empty_image_is_refused_as_no_snapshot(self):
        for fmt in ('qcow2', 'raw'):
            for size in ('0', '512', '1M', '1G'):
                self.img('create', '-f', fmt, self.path('empty'), size)
                self.refuse('empty', 'not a snapshot')

    def test_broken_container_is_refused(self):
        self.write('broken', b'QFI\xfb\0\0\0\3' + pattern(1, 4 * MIB))
        self.refuse('broken')

    def test_missing_backing_file_is_named(self):
        self.save(small(), self.path('base'))
        self.img('create', '-f', 'qcow2', '-b', self.path('base'), '-F',
                 'qcow2', self.path('overlay'))
        os.unlink(self.path('base'))
        self.refuse('overlay', self.path('base'))
        for verb in ('load', 'info', 'check'):
            self.refused(verb, '--backing-chain', self.path('overlay'),
                         causes=['backing file', self.path('base'),
                                 'no such file'])

    def test_what_containers_say_does_nothing_to_a_terminal(self):
        self.save(small())
        with open(self.image, 'r+b') as f:
            data = bytearray(f.read(65536))
            # An entry of the table of features: type, bit, name
            at = data.index(b'dirty bit') - 2
            data[at:at + 48] = struct.pack('>BB46s', 0, 60,
                                           b'\x1b[2J\n\xc2\x9b\xff\xc3\xa4')
            data[72] |= 1 << 4
            f.seek(0)
            f.write(data)
        for verb in ('load', 'info', 'check'):
            error = self.refused(verb, self.image, causes=['feature', 'ä'])
            self.assertTrue(error.rstrip('\n').isprintable(), error)

    def test_cut_image_is_refused_unless_all_is_there(self):
        """What a full disk or a broken copy leaves of an image."""
        data = sample().build()
        self.save(data)
        self.img('convert', '-O', 'raw', '-S', '0', self.image,
                 self.path('raw'))
        loaded = self.load()
        for source in ('image', 'raw'):
            size = os.stat(self.path(source)).st_size
            for i in range(40):
                with self.subTest(source, cut=i):
                    cut = self.copy(source, 'cut')
                    os.truncate(cut, size * i // 40)
                    result = self.tool('load', cut)
                    if result.returncode == 0:
                        self.assertEqual(result.stdout, loaded)
                        continue
                    self.assertEqual(result.returncode, 1)
                    self.assertEqual(result.stderr.count(b'\n'), 1,
                                     result.stderr)
                    self.assertTrue(result.stdout == REFUSAL or
                                    loaded.startswith(result.stdout))
                    self.assertGreater(self.tool('check', cut).returncode, 0)
        self.assertLess(len(result.stdout), len(loaded) + 1)


class References(ToolTest):
    """Other files that an image names are the user's business."""

    def setUp(self):
        super().setUp()
        self.data = sample().build()
        self.save(self.data)
        self.size = str(json.loads(self.img(
            'info', '--output=json', self.image).stdout)['virtual-size'])

    def overlay(self, backing: str, name: str = 'overlay',
                fmt: str = 'qcow2') -> str:
        self.img('create', '-f', 'qcow2', '-u', '-b', backing, '-F', fmt,
                 self.path(name), self.size)
        return self.path(name)

    def data_file(self, name: str = 'data') -> str:
        """An image that has its data in another file"""
        image = self.path('outside')
        self.img('create', '-f', 'qcow2', '-o', f'data_file={self.path(name)}',
                 image, self.size)
        self.img('convert', '-n', '-O', 'qcow2', self.image, image)
        return image

    def not_followed(self, image: str, *causes: str, options=()):
        for verb in ('load', 'info', 'check', 'embed'):
            with self.subTest(verb):
                self.refused(verb, image, *options,
                             causes=['refers to', '--backing-chain', *causes])

    def test_backing_file_is_followed_only_if_wanted(self):
        overlay = self.overlay(self.image)
        self.not_followed(overlay, f"backing file '{self.image}'")
        self.assertEqual(self.load(overlay, '--backing-chain'), self.load())

    def test_chain_is_followed_only_if_wanted(self):
        overlay = self.overlay(self.overlay(self.image, 'middle'))
        self.not_followed(overlay, self.path('middle'))
        self.assertEqual(self.load(overlay, '--backing-chain'), self.load())

    def test_data_file_is_followed_only_if_wanted(self):
        image = self.data_file()
        self.not_followed(image, f"data file '{self.path('data')}'")
        self.assertEqual(self.load(image, '--backing-chain'), self.load())

    def test_other_file_is_not_even_opened(self):
        """Who opens a FIFO waits for its writer."""
        os.mkfifo(self.path('fifo'))
        self.not_followed(self.overlay(self.path('fifo'), fmt='raw'), 'fifo')
        image = self.data_file()
        os.unlink(self.path('data'))
        os.mkfifo(self.path('data'))
        self.not_followed(image, 'data')

    def test_no_kind_of_name_is_followed(self):
        """Pseudo-protocols, networks, and what a terminal should not see"""
        for name in ('json:{"driver": "null-co"}', 'nbd://192.0.2.1/x',
                     'fat:/etc', '/etc/passwd', 'missing', '\x1b[31m'):
            error = ''
            overlay = self.overlay(name, fmt='raw')
            for verb in ('load', 'info', 'check'):
                error += self.refused(verb, overlay,
                                      causes=['backing file'])
            self.assertNotIn('\x1b', error)

    def test_backing_file_below_a_filter_is_not_followed(self):
        self.overlay(self.image)
        self.refused('load', '--image-opts', '--object',
                     'throttle-group,id=g', 'driver=throttle,'
                     'throttle-group=g,file.driver=qcow2,file.file.filename=' +
                     self.path('overlay'), causes=['refers to', self.image])

    def test_file_named_in_image_options_is_wanted(self):
        options = f'driver=qcow2,file.filename={self.overlay("nowhere")},'
        self.assertEqual(
            self.load(options + f'backing.file.filename={self.image},'
                      'backing.driver=qcow2', '--image-opts'), self.load())
        image = self.data_file()
        self.assertEqual(
            self.load(f'driver=qcow2,file.filename={image},'
                      f'data-file.filename={self.path("data")},'
                      'data-file.driver=file', '--image-opts'), self.load())

    def test_save_may_write_over_an_overlay(self):
        """What is written to is the user's own."""
        overlay = self.overlay(self.image)
        self.save(self.data, overlay, '-n')
        self.not_followed(overlay)
        self.succeeds('check', '--backing-chain', overlay)


class DamagedImage(ToolTest):
    """Everything about a raw image, where each byte can be reached"""

    def setUp(self):
        super().setUp()
        builder = sample([('pc.ram', MIB), ('rom', 65536)])
        for i in range(100, 50, -1):
            builder.page('pc.ram', i * PAGE, pattern(-i))
        builder.early('early', b'early')
        self.data = builder.build()
        self.save(self.data, self.image, '-O', 'raw')
        self.loaded = self.load()
        self.end = len(self.loaded) - len(builder.description()) - 1
        self.parts = self.info()['parts']
        with open(self.image, 'rb') as f:
            self.header = f.read(HEADER_SIZE)

    def patch(self, offset: int, data: bytes) -> bytes:
        """Overwrite bytes of the image; returns those that were there"""
        with open(self.image, 'r+b') as f:
            f.seek(offset)
            old = f.read(len(data))
            f.seek(offset)
            f.write(data)
        return old

    def examine(self, what):
        """
        The image loads all of it, fails before the destination can believe
        that it has all, and check knows as well.
        """
        limits = memory_limit(2 << 30)
        load = self.tool('load', self.image, **limits)
        check = self.tool('check', '--output=json', self.image, **limits)
        info = self.tool('info', '--output=json', self.image, **limits)
        for result in (load, check, info):
            self.assertIn(result.returncode, (0, 1, 2), (what, result))
            self.assertLessEqual(result.stderr.count(b'\n'), 1, what)
            if result.returncode:
                self.assertIn(self.image.encode(), result.stderr, what)
        if info.returncode == 0:
            json.loads(info.stdout)
        if load.returncode:
            self.assertTrue(load.stdout == REFUSAL or
                            self.loaded.startswith(load.stdout), what)
            self.assertLess(len(load.stdout), self.end, what)
            self.assertGreater(check.returncode, 0, what)
        elif load.stdout != self.loaded:
            # the description of the device state is optional
            self.assertEqual(load.stdout, self.loaded[:self.end + 1], what)
            self.assertIn(b'description', load.stderr, what)
            self.assertEqual(check.returncode, 2, what)
        return load.returncode == 0

    def test_undamaged_image_loads(self):
        self.assertTrue(self.examine('nothing'))

    def test_flip_in_any_page_is_found_and_located(self):
        pages = Stream(self.data).pages
        for block in self.info()['ram-blocks']:
            for offset in range(0, block['size'], 7 * PAGE):
                if not pages.get((block['name'], offset)):
                    continue
                self.patch(block['offset'] + offset, b'\0damage\xff')
                error = self.tool('load', self.image).stderr.decode()
                self.assertIn(f"'{block['name']}'", error)
                self.assertIn(f'{offset:#x}', error)
                self.save(self.data, self.image, '-O', 'raw')

    def test_page_lost_to_zeroes_is_no_zero_page(self):
        for block in self.info()['ram-blocks']:
            self.patch(block['offset'], bytes(PAGE))
            self.refused('load', self.image, stdout=None,
                         causes=[self.image, block['name'], '0x0'])
            self.save(self.data, self.image, '-O', 'raw')

    def test_damage_of_each_part_is_named(self):
        for name, part in self.parts.items():
            old = self.patch(part['offset'], b'\xa5' * 8)
            self.assertEqual(self.examine(name), name in (
                'arrival list', 'metadata', 'device description'))
            error = self.refused('check', self.image)
            self.assertIn(name, error)
            self.patch(part['offset'], old)

    # Headers with a valid checksum

    def hostile(self, position: int, data: bytes):
        header = bytearray(self.header)
        header[position:position + len(data)] = data
        header[504:] = checksum(bytes(header[:504]))
        self.patch(0, bytes(header))
        ok = self.examine(f'{data.hex()} at {position}')
        self.patch(0, self.header)
        return ok

    def test_these_tests_know_the_checksum_of_headers(self):
        self.assertEqual(self.header[504:], checksum(self.header[:504]))

    def numbers(self, form: str, *more: int):
        size = struct.calcsize(form)
        top = 1 << 8 * size
        return [struct.pack('>' + form, n) for n in
                {0, 1, 2, 3, 4095, 4097, 65536, top - 1, top // 2,
                 top // 2 - 1, top - 4096, *more}]

    def test_unknown_version_is_refused(self):
        for data in self.numbers('I'):
            if data != struct.pack('>I', 1):
                self.hostile(8, data)
                self.refused_with(8, data, 'version')

    def refused_with(self, position: int, data: bytes, cause: str):
        header = bytearray(self.header)
        header[position:position + len(data)] = data
        header[504:] = checksum(bytes(header[:504]))
        self.patch(0, bytes(header))
        for verb in ('load', 'info', 'check'):
            self.refused(verb, self.image, causes=[self.image, cause])
        self.patch(0, self.header)

    def test_only_incompatible_features_are_refused(self):
        for bit in range(64):
            data = struct.pack('>Q', 1 << bit)
            if bit % 8 == 0:
                self.refused_with(16, data, 'feature')
            self.assertFalse(self.hostile(16, data))
        self.assertTrue(self.hostile(24, b'\xff' * 8))

    def test_numbers_that_lie_do_no_harm(self):
        """Sizes, counts and identities that lie."""
        for position in (12, 60, 64, 76):
            for data in self.numbers('I'):
                if data != self.header[position:position + 4]:
                    self.assertFalse(self.hostile(position, data),
                                     (position, data))
        for position in (80, 88, 96):
            for data in self.numbers('Q'):
                if data != self.header[position:position + 8]:
                    self.hostile_count(position, data)

    def hostile_count(self, position: int, data: bytes):
        """The arrival list and the place of the setup are no checksum's."""
        header = bytearray(self.header)
        header[position:position + 8] = data
        header[504:] = checksum(bytes(header[:504]))
        self.patch(0, bytes(header))
        for verb in ('load', 'info', 'check'):
            result = self.tool(verb, self.image)
            self.assertIn(result.returncode, (0, 1, 2), (position, data))
            self.assertLessEqual(result.stderr.count(b'\n'), 1)
        self.patch(0, self.header)

    def test_part_at_a_wrong_place_does_no_harm(self):
        """Parts that lie outside, over RAM, or wrap around."""
        image = os.stat(self.image).st_size
        for part in (PAGE_TABLE, ARRIVALS, BLOCK_TABLE, CONFIGURATION,
                     SETUP, METADATA, DEVICES, VMDESC):
            position = PARTS + 24 * part
            if self.header[position + 8:position + 16] == bytes(8):
                continue
            for at, more in ((0, (2 * MIB, image, image - 65536)),
                             (8, (image, 1 << 20, (1 << 20) + 1))):
                for data in self.numbers('Q', *more):
                    if data != self.header[position + at:position + at + 8]:
                        self.hostile_part(part, position + at, data)

    def hostile_part(self, part: int, position: int, data: bytes):
        empty = position % 24 == (PARTS + 8) % 24 and data == bytes(8)
        if part in (VMDESC, METADATA, ARRIVALS) or \
                empty and part in (SETUP, DEVICES):
            self.hostile_count(position, data)
        else:
            self.assertFalse(self.hostile(position, data), (part, data))

    def test_wrong_block_table_is_refused(self):
        """A table of blocks with a right checksum and wrong content."""
        part = self.parts['block table']
        position = PARTS + 24 * BLOCK_TABLE
        with open(self.image, 'rb') as f:
            f.seek(part['offset'])
            table = f.read(part['length'])
        name = len(b'\6pc.ram')
        for other in (
                b'\0' * len(table), b'\xff' * len(table), table[:-1],
                table + b'\0', b'\6pc\0ram' + table[name:],
                table.replace(b'\3rom', b'\3rum').replace(b'pc.ram', b''),
                *(table[:name + at] + data + table[name + at + 8:]
                  for at in (0, 8) for data in self.numbers('Q')
                  if data != table[name + at:name + at + 8])):
            if other[:name] == table[:name] and \
                    other[:name + 8] == table[:name + 8] and \
                    len(other) == len(table):
                continue                    # only the page size, kept as is
            old = self.patch(part['offset'], other)
            self.assertFalse(self.hostile(
                position + 8, struct.pack('>Q', len(other)) + checksum(other)),
                other)
            self.patch(part['offset'], old)


class HugeClaims(ToolTest):
    """A small image that claims as much RAM as an image may"""

    RAM = 64 << 40
    LIMIT = 2 << 30     # of memory, which one bit a page does not fit

    def setUp(self):
        super().setUp()
        self.save(small(), self.path('raw'), '-O', 'raw')
        parts = self.info(self.path('raw'))['parts']
        with open(self.path('raw'), 'rb') as f:
            header = bytearray(f.read(HEADER_SIZE))
            f.seek(parts['block table']['offset'])
            blocks = f.read(parts['block table']['length'])
            f.seek(parts['configuration']['offset'])
            configuration = f.read(parts['configuration']['length'])
            f.seek(parts['device state']['offset'])
            devices = f.read(parts['device state']['length'])
        blocks = blocks[:4] + struct.pack('>4Q', self.RAM, 0, 0, 0)
        header[PARTS:-8] = bytes(len(header) - PARTS - 8)
        header[80:88] = struct.pack('>Q', self.RAM // 1024)
        table = -(-self.RAM // 1024 // 8191) * 65536
        at = self.RAM + 2 * MIB
        struct.pack_into('>2Q', header, PARTS, at, table)
        data = []
        for part, content in ((BLOCK_TABLE, blocks), (DEVICES, devices),
                              (CONFIGURATION, configuration)):
            place = at + table + part * 65536
            struct.pack_into('>2Q8s', header, PARTS + 24 * part, place,
                             len(content), checksum(content))
            data.append((place, content))
        header[504:] = checksum(bytes(header[:504]))
        self.img('create', '-f', 'qcow2', '-o', 'cluster_size=2M', self.image,
                 str(at + table + MIB))
        for place, content in [*data, (0, bytes(header))]:
            with open(self.path('part'), 'wb') as f:
                f.write(content.ljust(65536, b'\0'))
            self.io(self.image, f'write -s {self.path("part")} {place} 64k')

    def test_claim_of_64_tib_takes_no_memory(self):
        """There is no abort, and no memory for what does not come."""
        limits = memory_limit(self.LIMIT)
        result = self.tool('info', '--output=json', self.image, **limits)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)['ram-blocks'][0]['size'],
                         self.RAM)
        self.refused('check', self.image, causes=['page table'], **limits)
        self.refused('load', self.image, stdout=None, causes=['page table'],
                     **limits)
        self.refused('load', '--postcopy', self.image, causes=['memory'],
                     **limits)

    def test_save_of_64_tib_is_refused_for_want_of_memory(self):
        builder = StreamBuilder([('ram', self.RAM)], page_bits=10)
        builder.page('ram', 0, bytes(1024))
        self.refused('save', self.path('new'), stdin=builder.build(),
                     causes=['memory'], **memory_limit(self.LIMIT))


class InfoAndCheck(ToolTest):

    def test_json_tells_what_is_in_a_snapshot(self):
        builder = sample([('pc.ram', MIB), ('vga.vram', 65536, 4096)],
                         machine='pc-q35-10.0')
        builder.early('virtio-mem-device-early', b'abc')
        self.save(builder.build())
        info = self.info()
        self.assertEqual(info['machine'], 'pc-q35-10.0')
        self.assertEqual(info['page-size'], PAGE)
        self.assertEqual(info['run-state'], 'running')
        self.assertTrue(info['complete'])
        self.assertTrue(info['live'])
        self.assertRegex(info['uuid'], r'^[0-9a-f-]{36}$')
        self.assertGreater(info['created'], 1700000000)
        self.assertEqual(
            [(b['name'], b['size'], b['stored'], b['zero'])
             for b in info['ram-blocks']],
            [('pc.ram', MIB, 154 * PAGE, 51 * PAGE),
             ('vga.vram', 65536, 10 * PAGE, 3 * PAGE)])
        self.assertEqual([(d['name'], d['size']) for d in info['devices']],
                         [('virtio-mem-device-early', 3), ('cpu', 1000),
                          ('globalstate', 104)])
        self.assertEqual(info['device-state-size'], len(builder.devices))
        self.assertEqual(info['incompatible-features'], 0)
        for part in info['parts'].values():
            self.assertEqual(part['offset'] % 65536, 0)

    def test_precopy_of_a_paused_guest_is_not_live(self):
        builder = sample()
        builder.devices = b''
        builder.run_state('paused')
        self.save(builder.build(end=True))
        info = self.info()
        self.assertFalse(info['live'])
        self.assertEqual(info['run-state'], 'paused')

    def test_blocks_start_at_multiples_of_2_mib(self):
        self.save(StreamBuilder([('a', PAGE), ('b', 3 * MIB),
                                 ('c', PAGE)]).build())
        self.assertEqual([b['offset'] for b in self.info()['ram-blocks']],
                         [2 * MIB, 4 * MIB, 8 * MIB])

    def test_text_for_humans_tells_the_main_facts(self):
        self.save(sample(machine='some-machine').build())
        out = self.succeeds('info', self.image).decode()
        for word in (self.image, 'some-machine', 'pc.ram', 'vga.vram', 'cpu',
                     'running', 'complete: yes'):
            self.assertIn(word, out)
        out = self.succeeds('check', self.image).decode()
        self.assertIn('No errors', out)

    def test_names_are_escaped_for_terminals(self):
        builder = sample([('ram', MIB)], machine='\x1b[31mred\n')
        self.save(builder.build())
        out = self.succeeds('info', self.image)
        self.assertNotIn(b'\x1b', out)
        self.assertEqual(self.info()['machine'], '\x1b[31mred\n')

    def test_check_counts_corrupt_pages_in_json(self):
        self.save(sample().build(), self.image, '-O', 'raw')
        result = json.loads(self.succeeds('check', '--output=json',
                                          self.image))
        self.assertEqual(result['filename'], self.image)
        self.assertEqual(result['pages-checked'], 154 + 10)
        self.assertEqual(result['pages-corrupt'], 0)
        base = self.info()['ram-blocks'][0]['offset']
        with open(self.image, 'r+b') as f:
            for page in (0, 2, 200, 202):
                f.seek(base + page * PAGE)
                f.write(b'damage')
        damaged = self.tool('check', '--output=json', self.image)
        self.assertEqual(damaged.returncode, 2)
        result = json.loads(damaged.stdout)
        self.assertIn('pc.ram', result['first-error'])
        self.assertEqual(result['pages-corrupt'], 4)


if __name__ == '__main__':
    unittest.main(verbosity=2)
