#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the fuzzers start from
#
"""Valid inputs of each fuzzer, small ones: seeds(name) yields their bytes."""

import json
import os
import struct
import subprocess
import tempfile

from snaptest import TIMEOUT, env
from snaptest.peers.multifd import MultifdBuilder
from snaptest.peers.streams import (EOF, FULL, OPEN_RETURN_PATH, PART, PING,
                                    START, StreamBuilder, command, name8)
from snaptest.tool import pattern
from snaptest.units import MIB, PAGE

MIN_PAGE_BITS = 10
KIB = 1 << 10

# --- streams ---


def section(kind: int, number: int, name: str, payload: bytes) -> bytes:
    """A section of a device that sends its state in iterations"""
    data = struct.pack('>BI', kind, number)
    if kind in (START, FULL):
        data += name8(name) + struct.pack('>II', 0, 1)
    return data + payload + struct.pack('>BI', 0x7e, number)


def short(number: int, size: int) -> bytes:
    """A page that takes few bytes of an input where zeroes take none"""
    return pattern(number, 8) + bytes(size - 8)


def builder(page_bits: int = MIN_PAGE_BITS, fill=pattern,
            **kwargs) -> StreamBuilder:
    """Pages of all sorts, in runs and alone, in two blocks"""
    size = 1 << page_bits
    stream = StreamBuilder([('pc.ram', 8 * size), ('vga.vram', 2 * size)],
                           page_bits, **kwargs)
    for i in (0, 1, 2, 3, 5):
        stream.page('pc.ram', i * size, fill(i, size))
    stream.end_part()
    stream.zero('pc.ram', 6 * size)
    stream.page('pc.ram', 4 * size, fill(4, size))
    stream.zero('pc.ram', 1 * size)
    stream.page('vga.vram', 0, fill(9, size))
    stream.device('cpu', pattern(1, 50))
    return stream


def record(page: int, flags: int, data: bytes) -> bytes:
    return struct.pack('>Q', page * KIB | flags) + data


def run_of_pages(broken: int = 0, by: bytes = b'') -> bytes:
    """As QEMU sends them: only the first record has the block's name.

    broken, by: another record takes the place of that page's
    """
    stream = builder()
    records = [record(0, 0x08, name8('pc.ram') + pattern(0, KIB))] + \
        [record(i, 0x28, pattern(i, KIB)) for i in range(1, 8)]
    if broken:
        records[broken] = by
    stream.parts = [records]
    return stream.build()


def with_iterations(fill=pattern) -> bytes:
    """Sections of a device ahead of RAM, among its pages, and after them"""
    stream = builder(fill=fill)
    stream.commands = section(FULL, 21, 'early', b'ahead of RAM')
    stream.early_sections = section(START, 20, 'dirty-bitmap', b'first')
    data = stream.build(end=True)
    at = data.index(struct.pack('>BI', PART, 2))
    return data[:at] + section(PART, 20, '', b'second') + data[at:]


def streams():
    yield builder().build()
    yield builder().build(end=True)
    yield run_of_pages()
    yield run_of_pages(3, record(3, 0x22, b'\0'))
    yield run_of_pages(4, record(4, 0x08, name8('pc.ram') + pattern(4, KIB)))
    yield run_of_pages(5, record(7, 0x28, pattern(5, KIB)))
    yield with_iterations()
    yield builder(footers=False).build()
    yield builder().build(vmdesc=False)
    yield builder(12).build(end=True)

    stream = builder()
    stream.commands = command(OPEN_RETURN_PATH) + \
        command(PING, struct.pack('>I', 7))
    stream.subsection('configuration/uuid', bytes(range(16)))
    stream.early('timer', b'early')
    yield stream.build(end=True)

    # bytes that look like an end, twice
    stream = builder()
    stream.device('false', b'\x7e\0\0\0\5' + bytes([EOF]) +
                  b'\6\0\0\0\7{"a":1}\0\6\0\0\0\7{"a"')
    yield stream.build()

    # page sizes of blocks; a block that is longer than a buffer
    stream = StreamBuilder([('pc.ram', 2 * MIB, 2 * MIB),
                            ('rom', 64 * KIB, 4 * KIB)], 16)
    stream.page('rom', 0, bytes([1]) * (64 * KIB))
    yield stream.build()
    stream = MultifdBuilder([('pc.ram', 8 * KIB)], page_bits=MIN_PAGE_BITS)
    yield stream.streams()[0]


def stream_seeds():
    for stream in streams():
        for chunk, nb_pages in ((1, 99), (7, 0), (128, 99), (255, 2),
                                (255, 99)):
            yield bytes([2, chunk, nb_pages]) + stream


def save_seeds():
    for i, stream in enumerate(streams()):
        for flags in range(8):
            yield struct.pack('>BBBBH', flags, 2, i + flags, 0, i) + stream
        yield struct.pack('>BBBBH', 4, 2, 0, 1 + i, i) + stream


# --- images ---


def runs(data: bytes):
    """(offset, bytes) of what is not zero, with short gaps in between"""
    at = 0
    while at < len(data):
        if not data[at]:
            at += 1
            continue
        end = data.find(bytes(32), at)
        end = min(len(data) if end < 0 else end, at + 0xffff)
        yield at, data[at:end]
        at = end


def contents(path: str):
    """The same, of a file that is sparse"""
    with open(path, 'rb') as f:
        size, at = os.path.getsize(path), 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            for offset, data in runs(os.pread(f.fileno(), end - at, at)):
                yield at + offset, data
            at = end


def image_records(path: str) -> bytes:
    records = list(contents(path))
    end = max(offset + len(data) for offset, data in records)
    # the size is a unit more than is needed, in units of 64 KiB
    return struct.pack('>HH', end // (64 * KIB) + 1, 1) + b''.join(
        struct.pack('>IH', offset, len(data)) + data
        for offset, data in records)


def embed(path: str):
    """Put a working set into an image, after all that it has."""
    entries = struct.pack('>QQ', 2, 0)
    with open(path, 'r+b') as f:
        header = f.read(512)
        at = max(offset for offset, _ in contents(path))
        at = (at // (64 * KIB) + 1) * 64 * KIB
        data = b'QSNAPWKS' + struct.pack('>II', 1, 0) + header[32:48] + \
            struct.pack('>Q', 2) + entries + bytes([1]) * 8
        f.seek(24)
        f.write(struct.pack('>Q', 1))
        f.seek(296)
        f.write(struct.pack('>QQ', at, len(data)))
        f.seek(at)
        f.write(data)


def spoil_arrivals(path: str):
    """Let the list have a page that is not in RAM."""
    with open(path, 'r+b') as f:
        f.seek(104 + 24)
        offset, length = struct.unpack('>QQ', f.read(16))
        if length:
            f.seek(offset)
            f.write(bytes([0xff]) * 8)


def snapshots():
    yield builder(fill=short).build()
    yield with_iterations(short)
    yield builder(12, short, footers=False).build(end=True, vmdesc=False)
    stream = builder(16, short)
    stream.run_state('running')
    yield stream.build()
    yield builder(11).build()


def image_seeds():
    with tempfile.TemporaryDirectory(prefix='snap-') as tmp:
        path = os.path.join(tmp, 'image')
        for i, stream in enumerate(snapshots()):
            subprocess.run([env('QEMU_SNAP'), '-O', 'raw', 'save', path],
                           input=stream, capture_output=True, timeout=TIMEOUT,
                           check=True)
            data = image_records(path)
            for flags, fail_at in ((0, 0), (4, 1), (8, 0), (0x10, 9), (3, i)):
                yield bytes([flags, fail_at]) + data
            embed(path)
            yield bytes([0x20, 0]) + image_records(path)
            spoil_arrivals(path)
            yield bytes([0x20, 0]) + image_records(path)


# --- multifd ---


def multifd_seeds():
    for page_bits in (MIN_PAGE_BITS, 12, 16):
        size = 1 << page_bits
        for nb in (1, 2, 4) if page_bits < 16 else (1,):
            main = MultifdBuilder([('pc.ram', 3 * MIB),
                                   ('vga.vram', 256 * KIB)], nb,
                                  page_bits=page_bits)
            for i in range(nb):
                at = i * 2 * size
                main.packet(i, 'pc.ram', {at: pattern(i, size),
                                          at + size: bytes([1]) * size},
                            zero=[at + 64 * KIB])
            main.sync()
            main.packet(0, 'vga.vram', {0: pattern(9, size)})
            data = struct.pack('>BBBH4B', nb & 1, page_bits - MIN_PAGE_BITS,
                               nb - 1, nb - 1, 0x80, 0x80, 3, 0x80)
            main.sync()
            for channel in main.channels:
                data += struct.pack('>I', len(channel)) + channel
            yield data


# --- the return path ---

SHUT, PONG, REQ_PAGES_ID, REQ_PAGES, BITMAP, RESUME_ACK, SWITCHOVER_ACK = \
    range(1, 8)
# tests/snap/some-ram.h
BLOCKS = {'vga.vram': 77, 'pc.ram': 2048, '/rom@etc/acpi/tables': 3}
HUGE = 2 * MIB


def message(kind: int, data: bytes = b'') -> bytes:
    return struct.pack('>HH', kind, len(data)) + data


def word(kind: int, value: int) -> bytes:
    return message(kind, struct.pack('>I', value))


def request(offset: int, length: int = PAGE, block: str = '') -> bytes:
    data = struct.pack('>QI', offset, length)
    return message(REQ_PAGES_ID, data + name8(block)) if block else \
        message(REQ_PAGES, data)


def bitmap(block: str, byte: int) -> bytes:
    size = (BLOCKS[block] + 63) // 64 * 8
    return message(BITMAP, name8(block)) + struct.pack('>Q', size) + \
        bytes([byte]) * size + struct.pack('>Q', 0x0123456789abcdef)


def conversation(page: int) -> list[bytes]:
    """What is said in a load by postcopy"""
    return [word(PONG, 1), word(PONG, 2), word(PONG, 3),
            request(0, page, 'pc.ram') + request(page, page),
            request(PAGE, PAGE, 'vga.vram'),
            request(2 * page, 2 * page, 'pc.ram'),
            request(0, PAGE, '/rom@etc/acpi/tables'), word(SHUT, 0)]


def resumption(byte: int) -> list[bytes]:
    return [bitmap(block, byte) for block in BLOCKS] + \
        [word(RESUME_ACK, 1), request(HUGE, HUGE, 'pc.ram'), word(SHUT, 0)]


def script(messages: list[bytes], turns: int) -> bytes:
    """Each after a wait, and all the time that is left before the last one"""
    data = b''
    for i, one in enumerate(messages):
        wait = 255 if i == len(messages) - 1 else turns
        for at in range(0, len(one), 255):
            piece = one[at:at + 255]
            data += bytes([0 if at else wait, len(piece)]) + piece
    return data


def return_path_seeds():
    for page, large in ((PAGE, 0), (HUGE, 4)):
        talks = [conversation(page), resumption(0), resumption(0xff),
                 [word(SHUT, 1), message(SWITCHOVER_ACK)]]
        for i, messages in enumerate(talks):
            yield bytes([large, (0, 1, 5)[i % 3]]) + b''.join(messages)
            for flags in (0, 8, 16):
                resume = 2 if messages[0][1] == BITMAP else 0
                for turns in (0, 2, 20):
                    yield bytes([1 | flags | large | resume,
                                 (0, 50, 100)[i % 3], 16]) + \
                        script(messages, turns)
    # broken off at any time
    for turns in range(64):
        yield bytes([1 | turns % 2 * 8, 0, 64]) + \
            script(conversation(PAGE)[:4] + [b''], 8) + bytes([turns, 0])


# --- what a monitor says ---

GREETING = {'QMP': {'version': {'qemu': {'major': 10}, 'package': ''},
                    'capabilities': ['oob']}}
REFUSAL = {'class': 'GenericError', 'desc': 'No'}


def event(name: str, **data) -> dict:
    return {'event': name, 'data': data,
            'timestamp': {'seconds': 1, 'microseconds': 2}}


def reply(number: int, key: str = 'return', value=None) -> dict:
    return {key: {} if value is None else value, 'id': number}


def qmp_talks():
    yield [reply(2), reply(3), event('STOP'), event('MIGRATION', status='a')]
    yield [event('STOP'), reply(3, 'error', REFUSAL), reply(4), reply(2)]
    yield [event('MIGRATION', status='setup'), reply(2, value=[1.5, 'x', None]),
           {'event': 'RESUME'}, reply(3), event('MIGRATION', status='a')]
    yield [reply(5)]
    yield [reply(2, 'error', 'No')]
    yield [{'error': REFUSAL}]
    yield [event('MIGRATION')] * 1100


def conversations():
    for messages in qmp_talks():
        yield '\r\n'.join(json.dumps(one) for one in messages)
    # just so deep that QEMU's parser takes it
    yield '{"id": 2, "return": ' + 1020 * '[' + 1020 * ']' + '}'


def qmp_seeds():
    greeting = json.dumps(GREETING) + json.dumps(reply(1))
    for i, text in enumerate(conversations()):
        for flags in range(32):
            data = text if flags & 1 else greeting + text
            yield bytes([flags, (0, 1, 7, 100)[i % 4], i % 3, 20 * i]) + \
                data.encode()


def seeds(name: str):
    return {'image': image_seeds, 'multifd': multifd_seeds, 'qmp': qmp_seeds,
            'return-path': return_path_seeds, 'save': save_seeds,
            'stream': stream_seeds}[name]()
