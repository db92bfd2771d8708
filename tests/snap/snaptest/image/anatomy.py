# SPDX-License-Identifier: GPL-2.0-or-later
#
# What each bit of an image file is for
#
"""Tell bits of an image that carry something from those that do not.

    disk = Disk('image.raw')
    image = Qcow2('image.qcow2', disk)
    image.what(position, bit)       # ('L2 table', True)
    image.extents('page')           # [(offset, length), ...] of the file

This knows the formats from their specifications, not from the tool.  A bit
carries something where a reader that is right cannot do without it; the rest
is there for those who write to the image, or for nobody.
"""

import bisect
import ctypes
import os
import struct
import zlib

HEADER_SIZE = 512
PARTS = ('page table', 'arrival list', 'block table', 'configuration',
         'setup sections', 'metadata', 'device state', 'device description',
         'working set')
PART_PLACES = (*range(104, 104 + 8 * 24, 24), 296)
# Fields of the header that are used
HEADER_USED = (*range(320), *range(504, 512))
ALIGNMENT = 2 << 20
CHUNK, ENTRIES = 65536, 8191

# What a load, or one by precopy, can do without
HINTS = ('arrival list', 'metadata', 'device description', 'working set')

XXHASH = ctypes.CDLL('libxxhash.so.0')
XXHASH.XXH3_64bits.restype = ctypes.c_uint64
XXHASH.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def checksum(data: bytes) -> bytes:
    return struct.pack('>Q', XXHASH.XXH3_64bits(data, len(data)))


class Disk:
    """
    The content of a snapshot's disk, from a raw copy of it

    ranges: (start, end, what) of all that carries something, in order
    end: how large the disk has to be
    """

    def __init__(self, path: str):
        with open(path, 'rb') as f:
            self.header = f.read(HEADER_SIZE)
            self.parts = {}
            for name, place in zip(PARTS, PART_PLACES):
                start, length = struct.unpack_from('>QQ', self.header, place)
                if length:
                    self.parts[name] = (start, start + length)
            self.uuid = self.header[32:48]
            self.page_size = 1 << struct.unpack_from('>I', self.header, 60)[0]
            blocks, table = (os.pread(f.fileno(), end - start, start)
                             for start, end in (self.parts['block table'],
                                                self.parts['page table']))
        self.ranges = [(0, HEADER_SIZE, 'header'),
                       *((*part, name) for name, part in self.parts.items())]
        self.pages = {}         # (block, offset) of what is stored: place
        self.add_pages(blocks, table)
        self.ranges.sort()
        self.content = self.read_ranges(path)
        self.starts = [start for start, _, _ in self.ranges]
        self.end = self.ranges[-1][1]

    def add_pages(self, blocks: bytes, table: bytes):
        entries = [entry for at in range(0, len(table), CHUNK) for entry in
                   struct.unpack_from(f'>{ENTRIES}Q', table, at)]
        at = number = 0
        place = ALIGNMENT
        while at < len(blocks):
            name = blocks[at + 1:at + 1 + blocks[at]].decode()
            at += 1 + blocks[at]
            length, = struct.unpack_from('>Q', blocks, at)
            at += 32
            for offset in range(0, length, self.page_size):
                if entries[number] > 1:
                    self.pages[name, offset] = place + offset
                    self.ranges.append((place + offset,
                                        place + offset + self.page_size,
                                        'page'))
                number += 1
            place += -(-length // ALIGNMENT) * ALIGNMENT

    def read_ranges(self, path: str) -> list[bytes]:
        with open(path, 'rb') as f:
            return [os.pread(f.fileno(), end - start, start)
                    for start, end, _ in self.ranges]

    def within(self, start: int, end: int):
        """All that @start to @end carries: where, what, which bytes"""
        i = max(bisect.bisect_right(self.starts, start) - 1, 0)
        while i < len(self.ranges) and self.ranges[i][0] < end:
            first, last, what = self.ranges[i]
            at = max(first, start)
            data = self.content[i][at - first:min(last, end) - first]
            if data:
                yield at, what, data
            i += 1

    def what(self, start: int, end: int) -> str | None:
        """The first thing that @start to @end carries a part of"""
        return next((what for _, what, _ in self.within(start, end)), None)

    def is_zero(self, start: int, end: int) -> bool:
        """Whether zeroes would do in the place of @start to @end"""
        return not any(any(data) for _, _, data in self.within(start, end))


class Raw:
    """A file that is the disk"""

    def __init__(self, path: str, disk: Disk):
        self.disk = disk
        self.size = os.stat(path).st_size

    def what(self, position: int, _bit: int):
        what = self.disk.what(position, position + 1)
        return what or 'nothing', bool(what)

    def extents(self, what: str):
        return [(start, end - start) for start, end, name in self.disk.ranges
                if name == what]


# Fields of a qcow2 header: offset, length, whether all of it carries something
QCOW2_FIELDS = {
    'magic': (0, 4, True), 'version': (4, 4, None),
    'backing file offset': (8, 8, False),       # without one that has a name
    'backing file size': (16, 4, False),        # or a place
    'cluster bits': (20, 4, True), 'disk size': (24, 8, None),
    'encryption': (32, 4, True), 'L1 size': (36, 4, None),
    'L1 offset': (40, 8, True), 'refcount table offset': (48, 8, True),
    'refcount table clusters': (56, 4, True),
    'snapshots': (60, 4, True),
    'snapshots offset': (64, 8, False),         # without snapshots
    'incompatible features': (72, 8, None),
    'compatible features': (80, 8, False),
    'autoclear features': (88, 8, False),       # without their extensions
    'refcount order': (96, 4, True), 'header length': (100, 4, None),
    'compression type': (104, 1, True), 'padding': (105, 7, False)}
VERSION_3_LENGTH = 104
DIRTY = 1               # who writes must repair first; a reader may read
EXTENDED_L2 = 1 << 4
CRYPTO_EXTENSION = 0x0537be77
OFFSET_MASK = 0x00fffffffffffe00
COPIED = 1 << 63
COMPRESSED = 1 << 62
SECTOR = 512

# Of a LUKS header, these are in use where there is one key: magic and version,
# the key's size and digest, its slot, state and place of other slots.  Where
# the payload begins (104) is for who has no qcow2 around it.
LUKS_SLOT, LUKS_SLOT_SIZE = 208, 48
LUKS_USED = ((0, 8), (108, 60), (LUKS_SLOT, LUKS_SLOT_SIZE),
             *((LUKS_SLOT + LUKS_SLOT_SIZE * i + at, length)
               for i in range(1, 8) for at, length in ((0, 4), (40, 8))))
# With other upper halves of these, to derive a key takes minutes to hours.
LUKS_ITERATIONS = (164, LUKS_SLOT + 4)
LUKS_NAMES = (8, 40, 72)                        # each ends with a zero byte
LUKS_STRIPES = 4000


class Qcow2:
    """
    A qcow2 file of version 3, without snapshots, backing file, bitmaps

    clusters: number of a cluster in the file: the offset that it has on the
              disk, of those that are not compressed
    compressed: (start, end) in the file: offset on the disk
    """

    def __init__(self, path: str, disk: Disk):
        self.disk = disk
        with open(path, 'rb') as f:
            self.data = f.read()
        self.size = len(self.data)
        assert self.field('version') == 3
        self.cluster_size = 1 << self.field('cluster bits')
        self.extended = bool(self.field('incompatible features') & EXTENDED_L2)
        self.refcount_bits = 1 << self.field('refcount order')
        assert self.refcount_bits in (16, 32, 64)
        self.extensions = self.find_extensions()
        self.crypto = self.find_crypto()
        self.l1 = self.table(self.field('L1 offset'), self.field('L1 size'))
        self.entry_words = 2 if self.extended else 1
        self.l2_entries = self.cluster_size // 8 // self.entry_words
        self.clusters, self.compressed = {}, {}
        # offset of an L2 table: of its first cluster on the disk
        self.l2 = {entry & OFFSET_MASK: i * self.l2_entries * self.cluster_size
                   for i, entry in enumerate(self.l1) if entry}
        for offset, first in self.l2.items():
            self.read_l2(offset, first)
        self.refcount_table = self.table(
            self.field('refcount table offset'),
            self.field('refcount table clusters') * self.cluster_size // 8)
        self.refcount_blocks = {
            entry: i for i, entry in enumerate(self.refcount_table) if entry}

    def number(self, offset: int, length: int) -> int:
        return int.from_bytes(self.data[offset:offset + length], 'big')

    def field(self, name: str) -> int:
        return self.number(*QCOW2_FIELDS[name][:2])

    def table(self, offset: int, entries: int) -> list[int]:
        return list(struct.unpack_from(f'>{entries}Q', self.data, offset))

    def find_extensions(self) -> dict:
        """Type of each extension: where its head is, length of the rest"""
        found = {}
        at = self.field('header length')
        while True:
            kind, length = self.number(at, 4), self.number(at + 4, 4)
            found[kind] = (at, length)
            if not kind:
                return found
            at += 8 + -(-length // 8) * 8

    def find_crypto(self):
        """Start and length of a LUKS header"""
        if CRYPTO_EXTENSION not in self.extensions:
            return None
        at = self.extensions[CRYPTO_EXTENSION][0] + 8
        return self.number(at, 8), self.number(at + 8, 8)

    def read_l2(self, offset: int, first: int):
        entries = self.table(offset, self.cluster_size // 8)
        for i, entry in enumerate(entries[::self.entry_words]):
            place = first + i * self.cluster_size
            if entry & COMPRESSED:
                self.compressed[self.compressed_range(entry)] = place
            elif entry & OFFSET_MASK:
                self.clusters[(entry & OFFSET_MASK) //
                              self.cluster_size] = place

    def compressed_range(self, entry: int) -> tuple[int, int]:
        shift = 62 - (self.field('cluster bits') - 8)
        offset = entry & (1 << shift) - 1
        sectors = (entry & COMPRESSED - 1) >> shift
        return offset, min((offset // SECTOR + sectors + 1) * SECTOR,
                           self.size)

    # Where things are

    def places(self, start: int, end: int):
        """(offset, length) in the file of a range of the disk"""
        found = []
        for number, place in self.clusters.items():
            first = max(start, place)
            last = min(end, place + self.cluster_size)
            if first < last:
                found.append((number * self.cluster_size + first - place,
                              last - first))
        for (first, last), place in self.compressed.items():
            if start < place + self.cluster_size and place < end:
                found.append((first, last - first))
        return found

    def extents(self, what: str):
        return [extent for start, end, name in self.disk.ranges
                if name == what for extent in self.places(start, end)]

    def metadata(self):
        """
        Each position of metadata that is in use, with the entries beside
        those of tables
        """
        positions = {at for field in QCOW2_FIELDS.values()
                     for at in range(field[0], field[0] + field[1])}
        for kind, (at, length) in self.extensions.items():
            positions.update(range(at, at + 8))
            if kind == CRYPTO_EXTENSION:
                positions.update(range(at + 8, at + 8 + length))
        for offset, entries, size in (
                (self.field('L1 offset'), self.l1, 8),
                (self.field('refcount table offset'), self.refcount_table, 8),
                *((offset, self.table(offset, self.cluster_size // 8
                                      )[::self.entry_words],
                   8 * self.entry_words) for offset in self.l2),
                *((offset, self.refcounts(offset), self.refcount_bits // 8)
                  for offset in self.refcount_blocks)):
            for i, _ in filter(lambda item: item[1], enumerate(entries)):
                positions.update(range(offset + max(i - 1, 0) * size,
                                       offset + (i + 2) * size))
        return sorted(positions)

    def refcounts(self, offset: int):
        size = self.refcount_bits // 8
        return [self.number(at, size) for at in
                range(offset, offset + self.cluster_size, size)]

    # What they are

    def what(self, position: int, bit: int):
        cluster = position // self.cluster_size
        start = cluster * self.cluster_size
        within = position - start
        if cluster == 0:
            return self.header_bit(position, bit)
        if self.crypto and 0 <= position - self.crypto[0] < self.crypto[1]:
            return 'LUKS header', self.luks_byte(position - self.crypto[0])
        if start == self.field('L1 offset'):
            return 'L1 table', within // 8 < len(self.l1)
        if start == self.field('refcount table offset'):
            return 'refcount table', True
        if start in self.l2:
            return self.l2_bit(start, within, bit)
        if start in self.refcount_blocks:
            return 'refcounts', self.is_refcount(start, within)
        if cluster in self.clusters:
            return self.data_byte(self.clusters[cluster] + within)
        return self.compressed_bit(position, bit)

    def header_bit(self, position: int, bit: int):
        for name, (offset, length, carries) in QCOW2_FIELDS.items():
            if offset <= position < offset + length:
                value = self.field(name) ^ 1 << (
                    8 * (offset + length - 1 - position) + bit)
                if carries is None:
                    carries = self.field_matters(name, value)
                return 'qcow2 header', carries
        return 'qcow2 header extensions', self.extension_matters(position, bit)

    def extension_matters(self, position: int, bit: int) -> bool:
        """Only one does, and where its data end is in its last 8 bytes."""
        at, length = self.extensions.get(CRYPTO_EXTENSION, (0, 0))
        if not at + 16 <= position < at + 8 + length:
            return at <= position < at + 16
        value = self.crypto[1] ^ 1 << (8 * (at + 23 - position) + bit)
        return value < self.luks_key()[1] or \
            (value - 1) // self.cluster_size != \
            (self.crypto[1] - 1) // self.cluster_size

    def field_matters(self, name: str, value: int) -> bool:
        """Whether @value instead of the present one makes a difference"""
        if name == 'disk size':
            return value < self.disk.end
        if name == 'L1 size':   # more of them, which are not in use
            return value < len(self.l1) or value * 8 > self.cluster_size
        if name == 'version':       # the one before, without features
            return value != 2 or self.extended or bool(self.crypto)
        if name == 'header length':     # then there may be no extensions
            return value < VERSION_3_LENGTH or bool(self.crypto)
        return bool((self.field(name) ^ value) & ~DIRTY)

    def l2_bit(self, start: int, within: int, bit: int):
        i, at = divmod(within, 8 * self.entry_words)
        place = self.l2[start] + i * self.cluster_size
        entry = self.number(start + i * 8 * self.entry_words, 8)
        flipped = 1 << 8 * (7 - at % 8) + bit
        if at >= 8:             # allocated or zero: all of a subcluster
            size = self.cluster_size // 32
            place += (flipped.bit_length() - 1) % 32 * size
            carries = not self.disk.is_zero(place, place + size)
        elif entry & COMPRESSED:
            carries = self.compressed_entry_matters(entry, entry ^ flipped)
        elif flipped == 1:      # zero, or reserved
            carries = not self.extended and not self.disk.is_zero(
                place, place + self.cluster_size)
        else:
            carries = bool(entry) or flipped != COPIED
        return 'L2 table', carries

    def compressed_entry_matters(self, entry: int, other: int) -> bool:
        """More sectors than needed do not."""
        if not other & COMPRESSED:
            return True
        start, end = self.compressed_range(entry)
        other_start, other_end = self.compressed_range(other)
        return other_start != start or other_end < end

    def is_refcount(self, start: int, within: int) -> bool:
        """Not if the file has no such cluster"""
        size = self.refcount_bits // 8
        index = self.refcount_blocks[start] * self.cluster_size // size + \
            within // size
        return index * self.cluster_size < self.size

    def data_byte(self, place: int):
        what = self.disk.what(place, place + 1)
        if not what and self.crypto:        # blocks of a cipher change whole
            place -= place % 16
            what = self.disk.what(place, place + 16)
        return what or 'nothing', bool(what)

    def compressed_bit(self, position: int, bit: int):
        """Look at what it does, as there is no other way to tell."""
        kind, carries = 'nothing', False
        for (start, end), place in self.compressed.items():
            what = self.disk.what(place, place + self.cluster_size)
            if not start <= position < end or not what or carries:
                continue
            kind = what
            data = bytearray(self.data[start:end])
            good = self.inflate(data)
            data[position - start] ^= 1 << bit
            carries = self.differs(good, self.inflate(data), place)
        return kind, carries

    def inflate(self, data: bytes) -> bytes:
        try:
            return zlib.decompressobj(-12).decompress(data, self.cluster_size)
        except zlib.error:
            return b''

    def differs(self, a: bytes, b: bytes, place: int) -> bool:
        """Whether two contents of a cluster are not the same snapshot"""
        if len(b) < self.cluster_size:
            return True
        return any(a[at - place:at - place + len(data)] !=
                   b[at - place:at - place + len(data)] for at, _, data in
                   self.disk.within(place, place + self.cluster_size))

    def luks_byte(self, at: int) -> bool:
        header = self.data[self.crypto[0]:]
        for name in LUKS_NAMES:
            if name <= at < name + 32:
                return at <= name + header[name:name + 32].index(b'\0')
        if any(start <= at < start + length for start, length in LUKS_USED):
            return True
        start, end = self.luks_key()
        return start <= at < end

    def takes_for_ever(self, position: int) -> bool:
        """Whether who opens the image could work on it for hours"""
        return any(0 <= position - self.crypto[0] - at < 2
                   for at in LUKS_ITERATIONS)

    def luks_key(self) -> tuple[int, int]:
        """Where the key material is, from the start of the LUKS header"""
        header = self.data[self.crypto[0]:]
        start = SECTOR * struct.unpack_from('>I', header, LUKS_SLOT + 40)[0]
        key_size, = struct.unpack_from('>I', header, 108)
        return start, start + key_size * LUKS_STRIPES
