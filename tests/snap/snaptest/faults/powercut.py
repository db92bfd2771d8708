# SPDX-License-Identifier: GPL-2.0-or-later
#
# What storage may hold after a power cut
#
"""Replay a log of storage.py, and cut it off anywhere.

    for disk in replay(log, directory, before):
        state = disk.cut(random)        # name → Content

What a flush has covered is there: writes to that file that had ended before
the flush began, once it has ended.  Anything else that has begun is there or
not, each sector by itself.  Names, too, are there for sure once their directory
was flushed; before that, some of the changes may be missing, the latest first.
"""

import dataclasses
import hashlib
import os
import random

from snaptest.faults.storage import Record

SECTOR = 512
ZERO = bytes(SECTOR)
EXCHANGE = 2          # of renameat2()
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


class Content:
    """A file's bytes, most of which may be zero"""

    def __init__(self, length: int = 0, sectors: dict | None = None):
        self.length = length
        self.sectors = sectors or {}

    @classmethod
    def read(cls, path: str) -> 'Content':
        self = cls(os.path.getsize(path))
        with open(path, 'rb', buffering=0) as f:
            end = 0
            while end < self.length:
                try:
                    start = os.lseek(f.fileno(), end, os.SEEK_DATA)
                except OSError:
                    break       # nothing but a hole
                end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
                start -= start % SECTOR
                self.write(start, os.pread(f.fileno(), end - start, start))
        return self

    def copy(self) -> 'Content':
        return Content(self.length, dict(self.sectors))

    def write(self, offset: int, data: bytes, keep=lambda sector: True):
        """Those sectors of a write that are to be @keep'ed"""
        end = offset + len(data)
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            if not keep(sector):
                continue
            at = sector * SECTOR
            first, last = max(at, offset), min(at + SECTOR, end)
            piece = data[first - offset:last - offset]
            if len(piece) < SECTOR:
                old = self.sectors.get(sector, ZERO)
                piece = old[:first - at] + piece + old[last - at:]
            if piece == ZERO:
                self.sectors.pop(sector, None)
            else:
                self.sectors[sector] = piece
            self.length = max(self.length, last)

    def clear(self, offset: int, length: int):
        """Zeroes, of which there may be many"""
        for sector in [sector for sector in self.sectors if
                       offset <= sector * SECTOR and
                       (sector + 1) * SECTOR <= offset + length]:
            del self.sectors[sector]
        for at in {offset, offset + length}:
            sector = at // SECTOR * SECTOR
            first, last = max(sector, offset), min(sector + SECTOR,
                                                   offset + length)
            if first < last and self.sectors.get(sector // SECTOR):
                known = self.length
                self.write(first, bytes(last - first))
                self.length = known

    def truncate(self, length: int):
        if length < self.length:
            self.clear(length, self.length - length + SECTOR)
        self.length = length

    def digest(self) -> bytes:
        state = hashlib.sha1(b'%d' % self.length)
        for sector in sorted(self.sectors):
            state.update(b'%d:' % sector)
            state.update(self.sectors[sector])
        return state.digest()

    def store(self, path: str):
        with open(path, 'wb') as f:
            for sector in sorted(self.sectors):
                f.seek(sector * SECTOR)
                f.write(self.sectors[sector])
            f.truncate(self.length)


@dataclasses.dataclass(eq=False)
class Change:
    """Something that was done to a file, or to the names"""
    record: Record
    ended: bool = False
    result: int = 0

    def length(self) -> int:
        return self.result if self.ended else self.record.length

    def apply(self, content: Content, keep=lambda sector: True):
        """As a whole, or those sectors of a write that are to be kept"""
        record = self.record
        if record.kind == 'write':
            content.write(record.offset, record.data[:self.length()], keep)
        elif record.kind == 'truncate':
            content.truncate(record.length)
        else:
            if record.flags & (PUNCH_HOLE | ZERO_RANGE):
                content.clear(record.offset, record.length)
            if not record.flags & KEEP_SIZE:
                content.length = max(content.length,
                                     record.offset + record.length)


class File:
    """What is on storage for sure, and what else may be"""

    def __init__(self, content: Content):
        self.durable = content
        self.pending = []

    def flushed(self, changes: list):
        """Changes that a flush has covered are there from now on."""
        for change in changes:
            if change in self.pending:
                change.apply(self.durable)
                self.pending.remove(change)

    def whole(self) -> Content:
        """What the program itself sees"""
        content = self.durable.copy()
        for change in self.pending:
            change.apply(content)
        return content

    def cut(self, rng: random.Random, share: float) -> Content:
        """
        What there may be after a cut, where about @share of the changes that
        nothing is known of have made it
        """
        content = self.durable.copy()
        for change in self.pending:
            chance = rng.random()
            if share >= 1 or chance < share / 2:
                change.apply(content)
            elif chance < share and change.record.kind == 'write':
                change.apply(content, lambda sector: rng.random() < 0.5)
                if rng.random() < 0.5:
                    content.length = max(content.length, change.record.offset +
                                         change.length())
        return content


class Disk:
    """A directory while a program works in it"""

    def __init__(self, directory: str, before: dict, inodes: dict,
                 flushes=lambda n: True):
        """
        @before, @inodes: name → Content, inode.  @flushes tells whether the
        n-th flush is one; if not, nothing is sure because of it.
        """
        self.directory = directory
        self.flushes = flushes
        self.nb_flushes = 0
        self.durable = {name: File(content.copy()) for name, content in
                        before.items()}
        self.names = dict(self.durable)
        self.pending = []               # changes of names: functions
        self.by_inode = {inodes[name]: file for name, file in
                         self.names.items()}
        self.directory_inode = os.stat(directory).st_ino
        self.begun = {}

    def name(self, path: str) -> str:
        return os.path.relpath(path, self.directory)

    # Files

    def begin(self, record: Record):
        file = self.by_inode.get(record.inode)
        if record.kind in ('write', 'truncate', 'fallocate'):
            change = Change(record)
            self.begun[record.number] = change
            file.pending.append(change)
        elif record.kind == 'flush':
            covered = list(self.pending) if file is None else \
                [change for change in file.pending if change.ended]
            self.begun[record.number] = covered
        elif record.kind in ('open', 'rename', 'link', 'unlink'):
            self.begun[record.number] = record

    def end(self, record: Record):
        begun = self.begun.pop(record.number, None)
        file = self.by_inode.get(record.inode)
        if record.kind in ('write', 'truncate', 'fallocate'):
            begun.ended, begun.result = True, record.result
            if record.result < 0:
                file.pending.remove(begun)
        elif record.kind == 'flush':
            self.nb_flushes += 1
            if record.result == 0 and self.flushes(self.nb_flushes):
                self.flushed(record.inode, begun)
        elif record.kind == 'open' and record.result >= 0:
            self.opened(self.name(begun.path), begun.flags, record.inode)
        elif record.kind in ('rename', 'link', 'unlink') and \
                record.result == 0:
            self.rename(begun)

    def flushed(self, inode: int, covered: list):
        if inode != self.directory_inode:
            self.by_inode[inode].flushed(covered)
            return
        for change in covered:
            change(self.durable)
        del self.pending[:len(covered)]

    # Names: what happens to them is one change after the other

    def change_names(self, change):
        change(self.names)
        self.pending.append(change)

    def opened(self, name: str, flags: int, inode: int):
        if name == '.' or name in self.names:
            assert not flags & os.O_TRUNC
            return
        assert flags & os.O_CREAT, name
        file = self.by_inode[inode] = File(Content())
        self.change_names(lambda names: names.update({name: file}))

    def rename(self, record: Record):
        one, other = self.name(record.path), self.name(record.other or '.')

        def change(names: dict):
            if record.kind == 'unlink':
                names.pop(one, None)
            elif record.kind == 'link':
                names[other] = names[one]
            elif record.flags & EXCHANGE:
                names[one], names[other] = names[other], names[one]
            else:
                names[other] = names.pop(one)
        self.change_names(change)

    # Cuts

    def possible_names(self, number: int) -> dict:
        """The names after that many changes of those that may be missing"""
        names = dict(self.durable)
        for change in self.pending[:number]:
            change(names)
        return names

    def cut(self, rng: random.Random, share: float) -> dict:
        """name → Content; see File.cut()"""
        number = round(len(self.pending) * share) if share in (0, 1) else \
            rng.randint(0, len(self.pending))
        return {name: file.cut(rng, share) for name, file in
                self.possible_names(number).items()}

    def whole(self) -> dict:
        return {name: file.whole() for name, file in self.names.items()}


def relevant(records: list) -> list:
    """Those that change something"""
    return [record for record in records if
            record.kind not in ('read', 'look', 'mode', 'close')]


def replay(records: list, disk: Disk):
    """@disk, after each thing that has happened to it"""
    yield disk
    for record in relevant(records):
        if record.end:
            disk.end(record)
        else:
            disk.begin(record)
        yield disk
