# SPDX-License-Identifier: GPL-2.0-or-later
#
# Storage under a command under test: watched, and failing
#
"""What a command does to the files of a directory, and how to disturb it.

    storage = Storage(directory, build_storage_library(scratch))
    subprocess.run(..., env=storage.environ('write 3 error 5', log=log))
    for record in read_log(log): ...

All of it goes through the C library, with --aio=threads: see storage.c.
"""

import dataclasses
import os
import struct

from snaptest.faults.preload import build_library

CLASSES = ('write', 'flush', 'read', 'meta', 'look')
KINDS = ('write', 'flush', 'read', 'open', 'truncate', 'fallocate', 'link',
         'rename', 'unlink', 'mode', 'close', 'look')
HEAD = struct.Struct('<IBBBBQqqqiIIIQ')


@dataclasses.dataclass
class Record:
    """The beginning or the end of an operation; see storage.c"""
    number: int
    end: bool
    kind: str
    cls: str
    disturbed: bool
    inode: int
    offset: int
    length: int
    result: int
    error: int
    flags: int
    path: str
    other: str
    data: bytes

    def __str__(self):
        return (f'{self.number} {self.kind} {self.path} {self.other} '
                f'{self.offset}+{self.length}')


def read_log(path: str) -> list:
    """All that was noted, in the order in which it happened"""
    with open(path, 'rb') as f:
        log = f.read()
    records, at = [], 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        return log[at - length:at]

    while at < len(log):
        (number, end, kind, cls, disturbed, inode, offset, length, result,
         error, flags, path_length, other_length,
         data_length) = HEAD.unpack(take(HEAD.size))
        records.append(Record(
            number, bool(end), KINDS[kind], CLASSES[cls], bool(disturbed),
            inode, offset, length, result, error, flags,
            take(path_length).decode(), take(other_length).decode(),
            take(data_length)))
    return records


def build_storage_library(scratch: str) -> str:
    """Compile the library, in @scratch."""
    source = os.path.join(os.path.dirname(__file__), 'storage.c')
    with open(source, encoding='ascii') as f:
        return build_library(scratch, 'storage', f.read(), '-O1')


class Storage:
    """The files below @directory, under a command with @library"""

    def __init__(self, directory: str, library: str):
        self.directory = os.path.realpath(directory)
        self.library = library

    def environ(self, rule: str = '', log: str = '', sync: bool = False,
                exchange: bool = True) -> dict:
        """
        rule: CLASS N ACTION VALUE; CLASS may be any, and ACTION error, short,
              delay, kill-before or kill-after
        sync: whether flushes are more than noted
        exchange: whether renameat2() knows flags, which NFS does not
        """
        environ = dict(os.environ, LD_PRELOAD=self.library,
                       STORAGE_DIR=self.directory)
        for name, value in (('RULE', rule), ('LOG', log),
                            ('NO_SYNC', '' if sync else '1'),
                            ('NO_FLAGS', '' if exchange else '1')):
            if value:
                environ['STORAGE_' + name] = value
        return environ
