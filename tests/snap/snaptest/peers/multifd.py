# SPDX-License-Identifier: GPL-2.0-or-later
#
# The channels of multifd, put together by hand
#
"""Streams whose pages come over channels of their own, and who sends them.

    builder = MultifdBuilder([('pc.ram', 4 << 20)], channels=2)
    builder.packet(1, 'pc.ram', {0: page, 4096: other}, zero=[8192])
    main, channels = builder.streams()
"""

import os
import socket
import struct
import subprocess
import threading
import time

from snaptest import TIMEOUT
from snaptest.peers.streams import END, EOS, StreamBuilder
from snaptest.tool import ToolTest
from snaptest.units import PAGE

MAGIC, VERSION = 0x11223344, 1
SYNC = 0x01
FLUSH = 0x200
DATA_SIZE = 512 << 10
# magic, version, flags, pages, normal, bytes, number, zero, block
HEAD = struct.Struct('>6IQI28x256s')


def init(channel: int, magic: int = MAGIC, version: int = VERSION) -> bytes:
    """What a channel begins with"""
    return struct.pack('>II16sB39x', magic, version, bytes(16), channel)


def head(block: str = '', normal=(), zero=(), *, flags: int = 0,
         page_size: int = PAGE, **lies) -> bytes:
    """The head of a packet with pages at these offsets; @lies say otherwise"""
    pages = DATA_SIZE // page_size
    fields = {'magic': MAGIC, 'version': VERSION, 'flags': flags,
              'pages': pages, 'nb_normal': len(normal),
              'size': len(normal) * page_size, 'number': 0,
              'nb_zero': len(zero), 'block': block}
    fields.update(lies)
    fields['block'] = fields['block'].encode()
    offsets = [*normal, *zero]
    return HEAD.pack(*fields.values()) + \
        struct.pack(f'>{pages}Q', *offsets, *[0] * (pages - len(offsets)))


def packet(block: str, normal: dict, zero=(), **kwargs) -> bytes:
    """A packet with @normal: offset → data"""
    return head(block, list(normal), zero, **kwargs) + \
        b''.join(normal.values())


class MultifdBuilder(StreamBuilder):
    """The streams of all channels, and the same over one channel

    flush: the main channel says where the channels wait for each other;
           otherwise they do so at the end of each of RAM's sections
    """

    def __init__(self, blocks, channels: int = 2, flush: bool = True,
                 **kwargs):
        super().__init__(blocks, **kwargs)
        self.expected = StreamBuilder(blocks, **kwargs)
        self.flush = flush
        self.channels = [bytearray(init(i)) for i in range(channels)]
        self.parts = [[]]
        self.sync()

    def packet(self, channel: int, block: str, normal: dict, zero=(),
               **kwargs):
        self.channels[channel] += packet(block, normal, zero,
                                         page_size=self.page_size, **kwargs)
        for offset, data in normal.items():
            self.expected.page(block, offset, data)
        for offset in zero:
            self.expected.zero(block, offset)

    def zero(self, block: str, offset: int):
        """A zero page of the main channel"""
        super().zero(block, offset)
        self.expected.zero(block, offset)

    def sync(self, **kwargs):
        for channel in self.channels:
            channel += head(flags=SYNC, page_size=self.page_size, **kwargs)

    def end_part(self):
        super().end_part()
        if not self.flush:
            self.sync()

    def end_round(self):
        """Pages may come again"""
        if self.flush:
            self.parts[-1].append(struct.pack('>Q', FLUSH))
            self.sync()
        self.end_part()

    def ram_start(self) -> bytes:
        data = super().ram_start()
        at = data.rindex(struct.pack('>Q', EOS))
        return data[:at] + self.flush_word() + data[at:]

    def ram_section(self, kind: int, records: bytes) -> bytes:
        if kind == END:
            records += self.flush_word()
        return super().ram_section(kind, records)

    def flush_word(self) -> bytes:
        return struct.pack('>Q', FLUSH) if self.flush else b''

    def streams(self) -> tuple[bytes, list[bytes]]:
        """What goes over the main channel, and over the others"""
        self.sync()
        if not self.flush:
            self.sync()
        return self.build(end=True), [bytes(c) for c in self.channels]

    def plain(self) -> bytes:
        """The same over one channel, which no answer is wanted from"""
        self.expected.devices = self.devices
        return self.expected.build(end=True)


class Sender(threading.Thread):
    """Sends while others do so, too; a receiver that goes away is no error"""

    def __init__(self, connection: socket.socket, data: bytes,
                 finish: bool = True):
        super().__init__(daemon=True)
        self.connection, self.data, self.finish = connection, data, finish
        self.start()

    def run(self):
        try:
            self.connection.sendall(self.data)
            if self.finish:
                self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Source:
    """Connections to a save at @path: the main one, and @nb more"""

    def __init__(self, path: str, nb: int = 0):
        self.path = path
        self.main = self.connect()
        self.channels = [self.connect() for _ in range(nb)]

    def connect(self) -> socket.socket:
        """As soon as somebody listens"""
        end = time.monotonic() + TIMEOUT
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(TIMEOUT)
            try:
                connection.connect(self.path)
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)

    def begin(self, channels: list[bytes], size: int = 64) -> list[bytes]:
        """Send the first @size bytes of each channel; returns what is left"""
        for connection, data in zip(self.channels, channels):
            connection.sendall(data[:size])
        return [data[size:] for data in channels]

    def send(self, main: bytes, channels: list[bytes], finish: bool = True):
        """All of it, at the same time"""
        self.send_channels(self.begin(channels), finish)
        Sender(self.main, main, finish)

    def send_channels(self, channels: list[bytes], finish: bool = True):
        return [Sender(connection, data, finish)
                for connection, data in zip(self.channels, channels)]

    def close(self):
        for connection in (self.main, *self.channels):
            connection.close()


class MultifdTest(ToolTest):
    """Saves from a socket, with sources made by hand"""

    def setUp(self):
        super().setUp()
        self.socket = self.path('socket')
        self.before = {}

    def begin(self, nb: int, *options: str, image: str | None = None,
              **kwargs) -> tuple[subprocess.Popen, Source]:
        """A save that is connected, and to which nothing was sent"""
        self.before = self.tree()
        process = self.start('save', image or self.image,
                             f'--uri=unix:{self.socket}', *options, **kwargs)
        source = Source(self.socket, nb)
        self.addCleanup(source.close)
        return process, source

    def end(self, process, status: int = 0) -> str:
        """It ends by itself, and soon."""
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            for path in self.tree().keys() - self.before.keys():
                os.unlink(path)
            raise
        error = err.decode()
        self.assertEqual((process.returncode, out, error.count('\n')),
                         (status, b'', 1 if status else 0), error)
        self.assertFalse(os.path.exists(self.socket))
        return error

    def fails(self, process, *causes: str) -> str:
        """... with one line that says why, and leaves nothing behind."""
        error = self.end(process, 1)
        self.assertRegex(error, r'^qemu-snap: .*\n$')
        for cause in causes:
            self.assertIn(cause.lower(), error.lower())
        self.assertEqual(self.tree(), self.before)
        return error

    def assert_saved(self, builder: MultifdBuilder):
        """The image is as if all had come over one channel."""
        loaded = self.load()
        self.assert_same_stream(builder.plain(), loaded, builder.page_bits)
        self.save(builder.plain(), self.path('plain'))
        self.assertEqual(loaded, self.load(self.path('plain')))
        self.succeeds('check', self.image)

    def save_multifd(self, builder: MultifdBuilder, *options: str):
        main, channels = builder.streams()
        process, source = self.begin(len(channels), *options)
        source.send(main, channels)
        self.end(process)
        self.assert_saved(builder)
