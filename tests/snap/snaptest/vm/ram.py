# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Guest RAM as a file, which the tests fill, read and compare."""

import hashlib
import os
import random
import struct

from snaptest.units import PAGE

CHUNK = 1 << 20


class Ram:
    """The RAM of a guest: a file on tmpfs, shared with the emulator."""

    def __init__(self, path: str, size: int):
        self.path, self.size = path, size
        with open(path, 'wb') as f:
            f.truncate(size)

    @classmethod
    def existing(cls, path: str) -> 'Ram':
        ram = cls.__new__(cls)
        ram.path, ram.size = path, os.path.getsize(path)
        return ram

    def read(self, offset: int, length: int) -> bytes:
        with open(self.path, 'rb') as f:
            return os.pread(f.fileno(), length, offset)

    def write(self, offset: int, data: bytes):
        with open(self.path, 'r+b') as f:
            f.seek(offset)
            f.write(data)

    def word(self, offset: int, order: str) -> int:
        return struct.unpack(order + 'I', self.read(offset, 4))[0]

    def fill(self, start: int, end: int, seed: int = 1):
        """
        Fill from start to end, MiB by MiB: wholly random, alternating
        random and zero pages, sparse, all one byte, and zero.
        Every page that is not zero is different from any other, except
        where it is meant to be the same.
        """
        rng = random.Random(seed)
        base = rng.randbytes(CHUNK)
        kinds = ('random', 'alternate', 'random', 'sparse', 'same', 'zero')
        with open(self.path, 'r+b') as f:
            for n, offset in enumerate(range(start, end, CHUNK)):
                kind = kinds[n % len(kinds)]
                if kind == 'zero':
                    continue
                shift = rng.randrange(CHUNK)
                data = bytearray(base[shift:] + base[:shift])
                if kind == 'same':
                    data = bytearray(bytes([1 + n % 255]) * CHUNK)
                for p in range(0, CHUNK, PAGE):
                    if kind == 'alternate' and p & PAGE \
                            or kind == 'sparse' and rng.random() < 0.9:
                        data[p:p + PAGE] = bytes(PAGE)
                    elif kind != 'same':
                        struct.pack_into('<Q', data, p + 8, offset + p)
                f.seek(offset)
                f.write(data[:end - offset])

    def fill_random(self, start: int, end: int, seed: int = 1):
        """Fill with pages that all differ, as fast as memory goes."""
        rng = random.Random(seed)
        base = rng.randbytes(2 * CHUNK)
        with open(self.path, 'r+b') as f:
            f.seek(start)
            for offset in range(start, end, CHUNK):
                shift = rng.randrange(CHUNK)
                f.write(struct.pack('<Q', offset))
                f.write(base[shift:shift + CHUNK - 8])

    def poison(self):
        """Leave no byte as a load must make it: not even the zeroes."""
        stale = b'\xa5' * CHUNK
        with open(self.path, 'r+b') as f:
            for _ in range(0, self.size, CHUNK):
                f.write(stale)

    def digest(self) -> str:
        with open(self.path, 'rb') as f:
            return hashlib.file_digest(f, 'sha256').hexdigest()

    def copy(self) -> 'Ram':
        """The same bytes under another name."""
        other = Ram(self.path + '.copy', self.size)
        with open(self.path, 'rb') as a, open(other.path, 'r+b') as b:
            for offset in range(0, self.size, CHUNK):
                data = a.read(CHUNK)
                if data.count(0) != len(data):
                    b.seek(offset)
                    b.write(data)
        return other

    def nonzero_pages(self) -> int:
        with open(self.path, 'rb') as f:
            return sum(page.count(0) != PAGE
                       for page in iter(lambda: f.read(PAGE), b''))

    def difference(self, other: 'Ram', start: int = 0) -> str | None:
        """What differs from @start on, in words; None for the same bytes."""
        if self.size != other.size:
            return f'sizes differ: {self.size:#x} and {other.size:#x}'
        with open(self.path, 'rb') as a, open(other.path, 'rb') as b:
            bad = []
            a.seek(start)
            b.seek(start)
            for offset in range(start, self.size, CHUNK):
                x, y = a.read(CHUNK), b.read(CHUNK)
                if x != y:
                    bad += [(offset + p, x[p:p + PAGE], y[p:p + PAGE])
                            for p in range(0, len(x), PAGE)
                            if x[p:p + PAGE] != y[p:p + PAGE]]
        if not bad:
            return None
        return f'{len(bad)} pages differ: ' + ', '.join(
            f'{p:#x} ({describe(x)}, but {describe(y)})'
            for p, x, y in bad[:8])


def describe(page: bytes) -> str:
    if page == bytes(len(page)):
        return 'zero'
    return page[:12].hex()
