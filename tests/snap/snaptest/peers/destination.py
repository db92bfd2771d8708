# SPDX-License-Identifier: GPL-2.0-or-later
#
# The destination of a postcopy load, without a VM
#
"""Take a postcopy load as QEMU does, and insist on all that QEMU relies on.

    peer = Destination(Stream(data), reader, writer)
    peer.until(RUNNING)
    peer.request('pc.ram', 0x1000)
    peer.finish()
    peer.arrived        # pages in the order in which they came

If QEMU would fail, wait forever or lose memory, ProtocolError says why.
"""

import array
import ctypes
import fcntl
import json
import os
import platform
import select
import socket
import struct
import termios
from enum import IntEnum

from snaptest import TIMEOUT
from snaptest.peers.decode import Stream
from snaptest.peers.streams import (COMMAND, CONTINUE, END, EOF, EOS, FOOTER,
                                    FULL, MEM_SIZE, OPEN_RETURN_PATH, PAGE,
                                    PART, PING, START, ZERO, StreamBuilder,
                                    command, name8)
from snaptest.tool import ToolTest
from snaptest.waiting import wait_until

ADVISE, LISTEN, RUN, DISCARD, PACKAGED, RESUME, RECV_BITMAP = \
    3, 4, 5, 6, 7, 9, 10
SHUT, PONG, REQ_PAGES_ID, REQ_PAGES, BITMAP, RESUME_ACK = range(1, 7)
BITMAP_END = 0x0123456789abcdef

# What QEMU reads at once, so that no more is ahead of an urgent page here
READ_SIZE = 32768
HOST_PAGE = 4096
# Precopy takes pieces as large as a transparent huge page.
PIECE = 2 << 20

# Numbers of the system call, and UFFD_USER_MODE_ONLY, which all may ask for
USERFAULTFD = {'x86_64': 323}
USERFAULTFD_GENERIC = 282
USER_MODE_ONLY = 1

# What is known of a page; nothing, until the switch
RECEIVED, DISCARDED = 1, 2


class Stage(IntEnum):
    """How far the load is"""
    CONNECTED = 0
    HEADER = 1
    RETURN_PATH = 2
    ADVISED = 3
    SETUP = 4           # RAM's START has come; precopy, if any
    DISCARDED = 5
    RECOVERING = 6      # instead of all those before, to resume
    RUNNING = 7
    ENDED = 8           # RAM's END has come
    OVER = 9


RETURN_PATH, SETUP, RUNNING, ENDED = \
    Stage.RETURN_PATH, Stage.SETUP, Stage.RUNNING, Stage.ENDED


class ProtocolError(Exception):
    """The load did what QEMU would not bear"""


def message(kind: int, data: bytes) -> bytes:
    """A message of the return path"""
    return struct.pack('>HH', kind, len(data)) + data


def unread(fd: int) -> int:
    """Bytes in a pipe, by either end, or in a socket that can be read from it
    """
    number = array.array('i', [0])
    fcntl.ioctl(fd, termios.FIONREAD, number)
    return number[0]


def word(kind: int, value: int) -> bytes:
    """A message that carries one number"""
    return message(kind, struct.pack('>I', value))


class Userfaultfd:
    """What tells a process in postcopy from others"""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        number = USERFAULTFD.get(platform.machine(), USERFAULTFD_GENERIC)
        self.fd = libc.syscall(number, os.O_CLOEXEC | USER_MODE_ONLY)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), 'no userfaultfd')

    def __del__(self):
        if self.fd >= 0:
            os.close(self.fd)


class Channel:
    """One direction of a connection, and where its RAM records are"""

    def __init__(self, fd: int, wait):
        self.fd = fd
        self.wait = wait        # until @fd can be read, or something has been
        self.buffer, self.pos = b'', 0
        self.block = None       # of the record before
        self.host = None        # host page that is not complete yet,
        self.parts = set()      # and the offsets that are there
        self.over = False       # EOS has come, after which QEMU reads no more
        self.closed = False

    def fill(self):
        before = self.buffer
        self.wait(self)
        if self.buffer is before:
            self.read()
        if self.closed:
            raise EOFError('the stream is cut')

    def read(self):
        try:
            data = os.read(self.fd, READ_SIZE)
        except ConnectionResetError:
            data = b''
        self.closed = not data
        self.buffer, self.pos = self.buffer[self.pos:] + data, 0

    def within(self) -> bool:
        """Whether something has begun that is not complete"""
        return bool(self.pending() or self.parts)

    def take(self, length: int) -> bytes:
        while len(self.buffer) - self.pos < length:
            self.fill()
        self.pos += length
        return self.buffer[self.pos - length:self.pos]

    def number(self, form: str) -> int:
        return struct.unpack('>' + form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        return self.take(self.number('B')).decode()

    def pending(self) -> bool:
        return self.pos < len(self.buffer)

    def at_end(self) -> bool:
        """Whether nothing follows, which takes until the end to know"""
        try:
            self.take(1)
        except EOFError:
            return not self.pending()
        return False


class Destination:
    """
    The peer of a load.  It has no memory, but compares all that comes with
    the snapshot.

    snapshot: what is loaded
    reader, writer: file descriptors
    host_pages: block → size, where that is not the usual one
    optional: pages that may be pushed though they are zero or were never sent
    listener: socket on which a channel for urgent pages has to arrive

    precopied, arrived: (block, offset) of the host pages, as they came
    urgent: those of arrived that came on a channel of their own
    """

    def __init__(self, snapshot: Stream, reader: int, writer: int,
                 host_pages=None, optional=(), listener=None,
                 footers: bool = True):
        self.snapshot = snapshot
        self.page_size = snapshot.page_size
        self.usual = max(HOST_PAGE, self.page_size)
        self.host = {name: (host_pages or {}).get(name, self.usual)
                     for name in snapshot.blocks}
        self.optional = set(optional)
        self.listener = listener
        self.footers = footers
        self.pages = {name: bytearray(length // self.page_size)
                      for name, length in snapshot.blocks.items()}
        data = [key for key, page in snapshot.pages.items() if page]
        self.with_data = {self.host_page(*key) for key in data}
        self.pieces = {(name, offset - offset % max(PIECE, self.host[name]))
                       for name, offset in data}
        self.precopied, self.arrived, self.urgent = [], [], set()
        self.requested = {}             # in order; how often
        self.fast = None
        self.userfaultfd = None
        self.connect(reader, writer, Stage.CONNECTED)

    def connect(self, reader: int, writer: int,
                stage: Stage = Stage.RECOVERING):
        """Begin, or go on after a connection has broken."""
        self.stage = stage
        self.main = Channel(reader, self.wait)
        if self.fast:
            os.close(self.fast.fd)
            self.fast = None
        self.writer, self.outgoing = writer, bytearray()
        self.last_requested = None
        self.bitmaps = []       # blocks whose bitmaps were asked for
        self.sent = 0           # target pages of this connection
        os.set_blocking(writer, False)

    def host_page(self, name: str, offset: int):
        return name, offset - offset % self.host[name]

    def block_pages(self, key) -> slice:
        """Where the target pages of a host page are in self.pages"""
        first = key[1] // self.page_size
        return slice(first, first + self.host[key[0]] // self.page_size)

    def has(self, key) -> bool:
        return self.pages[key[0]][key[1] // self.page_size] == RECEIVED

    def missing(self):
        """Host pages with data that have not come"""
        return {key for key in self.with_data if not self.has(key)}

    # The return path

    def send(self, data: bytes):
        if self.writer is not None:
            self.outgoing += data
            self.write()

    def write(self):
        """What the tool does not take now has to wait for wait()."""
        try:
            while self.outgoing:
                del self.outgoing[:os.write(self.writer, self.outgoing)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.outgoing.clear()       # whoever reads learns of it

    def request(self, name: str, offset: int):
        """A guest waits for a page; it may ask again."""
        key = self.host_page(name, offset)
        self.requested[key] = self.requested.get(key, 0) + 1
        self.send_request(*key)

    def send_request(self, name: str, offset: int):
        data = struct.pack('>QI', offset, self.host[name])
        if name == self.last_requested:
            self.send(message(REQ_PAGES, data))
        else:
            self.send(message(REQ_PAGES_ID, data + name8(name)))
        self.last_requested = name

    def until_heard(self):
        """The tool has read all requests; over pipes."""
        def heard():
            self.write()
            return not self.outgoing and not unread(self.writer)
        wait_until(heard, TIMEOUT)

    def until_much_waits(self):
        """The tool has sent so much that a request had to wait for it."""
        wait_until(lambda: unread(self.main.fd) > 2 * READ_SIZE - HOST_PAGE,
                   TIMEOUT)

    def unanswered(self):
        return [key for key in self.requested if not self.has(key)]

    # The stream

    def wait(self, channel: Channel):
        """
        Until there is more for @channel.  QEMU has a thread for each of two
        channels: neither may wait for the other.
        """
        before = channel.buffer
        while channel.buffer is before:
            readers = [channel.fd]
            if self.fast and channel is not self.fast:
                readers.append(self.fast.fd)
            elif self.fast and self.fast.within() and not self.main.closed:
                readers.append(self.main.fd)
            readable, writable, _ = select.select(
                readers, [self.writer] if self.outgoing else [], [], TIMEOUT)
            self.expect(bool(readable or writable), 'nothing comes')
            if writable:
                self.write()
            if channel.fd in readable:
                return
            if readable and channel is self.main:
                self.read_fast()
            elif readable:
                self.main.read()

    def until(self, stage: Stage):
        while self.stage < stage:
            self.step()

    def until_answered(self):
        while self.unanswered():
            self.step()

    def until_arrived(self, number: int):
        while len(self.arrived) < number:
            self.step()

    def finish(self):
        """The rest of the load, to a good end"""
        self.until(Stage.OVER)
        # QEMU waits for urgent pages even after the end.
        while self.fast and self.unanswered():
            self.expect(not self.fast.over, 'EOS, but pages are waited for')
            self.read_fast()
        missing = sorted(self.missing())
        self.expect(not missing, f'{len(missing)} pages would be zero, of '
                    f'them {missing[:4]}')
        self.send(word(SHUT, 0))
        while self.fast:
            self.read_fast()
        self.expect(self.main.at_end(), 'something follows the end')
        self.userfaultfd = None

    def expect(self, good: bool, problem: str):
        if not good:
            raise ProtocolError(f'{problem} (stage {self.stage.name})')

    def enter(self, stage: Stage, *after: Stage):
        self.expect(self.stage in after, f'too early or late: {stage.name}')
        self.stage = stage

    def step(self):
        """The next section or command"""
        if self.stage == Stage.CONNECTED:
            header = self.main.take(len(self.snapshot.header))
            self.expect(header == self.snapshot.header, 'another header')
            self.stage = Stage.HEADER
            return
        kind = self.main.number('B')
        self.expect(self.stage != Stage.ENDED or kind == EOF,
                    f'section {kind} after the end of RAM')
        if kind == COMMAND:
            self.command(self.main.number('H'),
                         self.main.take(self.main.number('H')))
        elif kind in (START, FULL):
            self.setup()
        elif kind in (PART, END):
            self.ram_section(kind)
        else:
            self.expect(kind == EOF, f'section of type {kind}')
            self.enter(Stage.OVER, Stage.ENDED)

    def footer(self, section: int):
        self.expect(not self.footers or self.main.take(5) ==
                    struct.pack('>BI', FOOTER, section), 'no footer')

    # Commands

    def command(self, number: int, data: bytes):
        handlers = {OPEN_RETURN_PATH: self.open_return_path, PING: self.ping,
                    ADVISE: self.advise, DISCARD: self.discard,
                    PACKAGED: self.package, RECV_BITMAP: self.recv_bitmap,
                    RESUME: self.resume}
        self.expect(number in handlers, f'command {number}')
        handlers[number](data)

    def no_data(self, data: bytes):
        self.expect(not data, 'a command that is too long')

    def open_return_path(self, data: bytes):
        self.no_data(data)
        self.enter(Stage.RETURN_PATH, Stage.HEADER)

    def ping(self, data: bytes):
        self.expect(self.stage >= Stage.RETURN_PATH, 'PING: no return path')
        self.expect(len(data) == 4, 'PING of another length')
        self.send(message(PONG, data))

    def advise(self, data: bytes):
        self.enter(Stage.ADVISED, Stage.RETURN_PATH)
        sizes = 0
        for size in self.host.values():
            sizes |= size
        self.expect(data == struct.pack('>QQ', sizes, self.page_size),
                    f'ADVISE says {data.hex()}')

    def discard(self, data: bytes):
        self.enter(Stage.DISCARDED, Stage.SETUP, Stage.DISCARDED)
        name = data[2:2 + data[1]].decode()
        ranges = data[3 + data[1]:]
        self.expect(data[0] == 0 and data[2 + data[1]] == 0, 'bad DISCARD')
        self.expect(name in self.host, f'DISCARD in unknown block {name}')
        self.expect(ranges and len(ranges) % 16 == 0, 'DISCARD of no range')
        for start, length in struct.iter_unpack('>QQ', ranges):
            what = f'DISCARD of {start:#x}+{length:#x} in {name}'
            self.expect(length > 0 and start % self.host[name] == 0 and
                        length % self.host[name] == 0, f'{what}: unaligned')
            self.expect(start + length <= self.snapshot.blocks[name],
                        f'{what}: outside')
            first, count = start // self.page_size, length // self.page_size
            self.pages[name][first:first + count] = bytes([DISCARDED]) * count

    def package(self, data: bytes):
        """All that the switch is made of"""
        self.expect(len(data) == 4, 'PACKAGED of another length')
        package = self.main.take(struct.unpack('>I', data)[0])
        if self.listener:
            self.accept_fast()
        self.enter(Stage.RUNNING, Stage.DISCARDED)
        for name, pages in self.pages.items():
            self.expect(0 not in pages, f'page {pages.find(0)} of {name} was '
                        'neither sent nor discarded')
        head = command(LISTEN)
        tail = command(PING, struct.pack('>I', 3)) + command(RUN)
        self.expect(package.startswith(head), 'the package: no LISTEN')
        self.expect(package.endswith(tail), 'the package: no PING 3 and RUN')
        self.expect(package[len(head):-len(tail)] == self.snapshot.devices,
                    'the package: other devices than in the snapshot')
        self.userfaultfd = Userfaultfd()
        self.send(word(PONG, 3))

    def recv_bitmap(self, data: bytes):
        self.enter(Stage.RECOVERING, Stage.RECOVERING)
        name = data[1:].decode()
        self.expect(data == name8(name) and name in self.pages,
                    f'RECV_BITMAP of {name}')
        self.expect(name not in self.bitmaps, f'RECV_BITMAP of {name} again')
        self.bitmaps.append(name)
        self.send_bitmap(name)

    def send_bitmap(self, name: str):
        pages = self.pages[name]
        bitmap = bytearray((len(pages) + 63) // 64 * 8)
        for i, state in enumerate(pages):
            bitmap[i // 8] |= (state == RECEIVED) << i % 8
        self.send(message(BITMAP, name8(name)) +
                  struct.pack('>Q', len(bitmap)) + bitmap +
                  struct.pack('>Q', BITMAP_END))

    def resume(self, data: bytes):
        self.no_data(data)
        if self.listener:
            self.accept_fast()
        self.enter(Stage.RUNNING, Stage.RECOVERING)
        self.expect(set(self.bitmaps) == set(self.pages),
                    'RESUME before all bitmaps were asked for')
        self.send_resume_ack()
        for key in self.unanswered():
            self.send_request(*key)

    def send_resume_ack(self):
        self.send(word(RESUME_ACK, 1))

    # RAM

    def setup(self):
        """RAM's START, or a section that stands beside it"""
        self.expect(self.stage in (Stage.RETURN_PATH, Stage.ADVISED, SETUP),
                    'a section outside of the package')
        section, name = self.main.number('I'), self.main.name()
        self.main.take(8)
        if name == 'ram':
            self.enter(SETUP, Stage.ADVISED)
            self.expect(section == self.snapshot.ram_id, "RAM's section id")
            self.ram_start()
            self.footer(section)
            return
        footer = struct.pack('>BI', FOOTER, section)
        payload = b''
        while not payload.endswith(footer):
            payload += self.main.take(1)
        self.expect(payload in self.snapshot.setup, f'other bytes in {name}')

    def ram_start(self):
        total = self.main.number('Q')
        self.expect(total == sum(self.snapshot.blocks.values()) | MEM_SIZE,
                    'another size of RAM')
        for name, length in self.snapshot.blocks.items():
            self.expect(self.main.name() == name and
                        self.main.number('Q') == length, f'block {name}')
            self.expect(self.host[name] == self.usual or
                        self.main.number('Q') == self.host[name],
                        f'the page size of {name}')
        self.expect(self.main.number('Q') == EOS, 'more in the START of RAM')

    def ram_section(self, kind: int):
        self.expect(self.stage in (SETUP, RUNNING), 'RAM now')
        section = self.main.number('I')
        self.expect(section == self.snapshot.ram_id, f'section {section}')
        while self.record(self.main):
            pass
        self.footer(section)
        if kind == END:
            self.enter(Stage.ENDED, RUNNING)
            self.expect(not self.main.parts, 'END within a host page')

    def accept_fast(self):
        self.listener.settimeout(TIMEOUT)
        try:
            connection, _ = self.listener.accept()
        except socket.timeout:
            raise ProtocolError('no channel for urgent pages') from None
        connection.setblocking(True)
        self.fast = Channel(connection.detach(), self.wait)

    def read_fast(self):
        """What has come on the channel of urgent pages, in whole records"""
        try:
            self.fast.fill()
        except EOFError:
            if self.stage < Stage.OVER and not self.fast.over or \
                    self.fast.parts:
                raise
            os.close(self.fast.fd)
            self.fast = None
            return
        while self.fast and self.fast.pending():
            self.expect(not self.fast.over, 'EOS among the urgent pages')
            self.fast.over = not self.record(self.fast)

    def record(self, channel: Channel) -> bool:
        """One record of RAM; False for EOS"""
        value = channel.number('Q')
        flags = value % self.page_size
        offset = value - flags
        if flags == EOS:
            return False
        if not flags & CONTINUE:
            channel.block = channel.name()
            self.expect(channel.block in self.host, f'block {channel.block}')
        self.expect(channel.block is not None, 'CONTINUE without a block')
        kind = flags & ~CONTINUE
        if kind == PAGE:
            data = channel.take(self.page_size)
            if not data.strip(b'\0'):
                data = b''
        else:
            self.expect(kind == ZERO and channel.take(1) == b'\0',
                        f'record {value:#x}')
            data = b''
        self.page(channel, channel.block, offset, data)
        return True

    def page(self, channel: Channel, name: str, offset: int, data: bytes):
        self.sent += 1
        if offset >= self.snapshot.blocks[name]:
            raise ProtocolError(f'{offset:#x} is not in {name}')
        if data != self.snapshot.pages.get((name, offset), b''):
            raise ProtocolError(f'wrong content of {name} {offset:#x}')
        if self.stage == RUNNING or channel is self.fast:
            self.host_page_part(channel, name, offset)
            return
        self.wanted(name, offset, (
            name, offset - offset % max(PIECE, self.host[name])) in self.pieces
            and (name, offset) in self.snapshot.pages)
        self.pages[name][offset // self.page_size] = RECEIVED
        key = self.host_page(name, offset)
        if key not in self.precopied[-1:]:
            self.precopied.append(key)

    def wanted(self, name: str, offset: int, there: bool):
        """Pages without data come for a reason only."""
        key = self.host_page(name, offset)
        if not there and key not in self.with_data and \
                key not in self.requested and key not in self.optional:
            state = 'zero' if (name, offset) in self.snapshot.pages else \
                'never sent'
            raise ProtocolError(f'{name} {offset:#x} comes unasked, but was '
                                f'{state}')

    def host_page_part(self, channel: Channel, name: str, offset: int):
        """
        Host pages are placed as a whole, so their parts have to follow each
        other; placing one where there is one is an error.
        """
        key = self.host_page(name, offset)
        if channel.parts and key != channel.host:
            raise ProtocolError(f'{name} {offset:#x} within host page '
                                f'{channel.host}')
        if offset in channel.parts:
            raise ProtocolError(f'{name} {offset:#x} twice in a host page')
        if self.has(key):
            raise ProtocolError(f'{name} {offset:#x} comes again')
        channel.host = key
        channel.parts.add(offset)
        if len(channel.parts) < self.host[name] // self.page_size:
            return
        self.wanted(name, offset, False)
        if channel is self.fast:
            self.expect(key in self.requested, f'{key} is not urgent')
            self.urgent.add(key)
        where = self.block_pages(key)
        self.pages[name][where] = bytes([RECEIVED]) * (where.stop -
                                                       where.start)
        channel.parts.clear()
        self.arrived.append(key)



class PostcopyTest(ToolTest):
    """Loads that have a stand-in for QEMU at their other end"""

    def take(self, builder: StreamBuilder, *options: str, **kwargs):
        """Save what is to be loaded."""
        data = builder.build(**kwargs)
        self.snapshot = Stream(data, builder.page_bits)
        self.save(data, self.image, *options)

    def begin(self, *options: str, percent: int | None = 0) -> list:
        """
        A process, and the descriptors of its stdout and stdin.  A later one of
        @options takes the place of --resume.
        """
        self.report_file = self.path('report')
        first = '--resume' if percent is None else f'--postcopy={percent}'
        process = self.start(first, *options, '--report', self.report_file,
                             'load', self.image)
        return process, process.stdout.fileno(), process.stdin.fileno()

    def connect(self, *options: str, percent: int = 0,
                **kwargs) -> Destination:
        """A load over pipes, and the peer that is at their other ends"""
        process, *channel = self.begin(*options, percent=percent)
        peer = Destination(self.snapshot, *channel, **kwargs)
        peer.process = process
        self.addCleanup(setattr, peer, 'userfaultfd', None)
        return peer

    def recorded(self, keys, *options: str, **kwargs) -> dict:
        """
        A load in whose recording these pages are requested, one by one, and
        nothing else comes.  A busy machine needs more time for it.
        """
        for seconds in (1, 5, 25):
            peer = self.connect(f'--record={seconds}', *options, **kwargs)
            peer.until(RUNNING)
            for key in keys:
                peer.request(*key)
                peer.until_answered()
            if all(key in peer.requested for key in peer.arrived):
                break
            peer.process.kill()
            peer.process.wait()
        wanted = dict.fromkeys(peer.host_page(*key) for key in keys)
        self.assertEqual(peer.arrived, list(wanted))
        return self.completes(peer)

    def hang_up(self, peer: Destination):
        """Nothing more comes from the peer, which still listens."""
        peer.writer = None
        peer.outgoing.clear()
        peer.process.stdin.close()

    def resume(self, peer: Destination, *options: str):
        """Go on with another process."""
        peer.process, *channel = self.begin(*options, percent=None)
        peer.connect(*channel)

    def listen(self) -> socket.socket:
        """A socket as QEMU has it, at self.socket"""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        self.socket = self.path(f'socket{len(os.listdir(self.dir))}')
        listener.bind(self.socket)
        listener.listen()
        listener.settimeout(TIMEOUT)
        return listener

    def accept(self, listener: socket.socket) -> list:
        connection, _ = listener.accept()
        self.addCleanup(connection.close)
        return [connection.fileno()] * 2

    def begin_socket(self, *options: str, preempt: bool, percent: int | None):
        """A process; the descriptors of its connection; for another one"""
        listener = self.listen()
        process, _, _ = self.begin(
            f'--uri=unix:{self.socket}', *options,
            *(['--preempt'] if preempt else []), percent=percent)
        return process, self.accept(listener), listener if preempt else None

    def connect_socket(self, *options: str, preempt: bool = False,
                       percent: int = 0, **kwargs) -> Destination:
        process, channel, listener = self.begin_socket(
            *options, preempt=preempt, percent=percent)
        peer = Destination(self.snapshot, *channel, listener=listener,
                           **kwargs)
        peer.process = process
        self.addCleanup(setattr, peer, 'userfaultfd', None)
        return peer

    def resume_socket(self, peer: Destination, *options: str,
                      preempt: bool = False):
        peer.process, channel, peer.listener = self.begin_socket(
            *options, preempt=preempt, percent=None)
        peer.connect(*channel)

    def report(self, status: str = 'completed') -> dict:
        with open(self.report_file, encoding='utf-8') as f:
            report = json.load(f)
        self.assertEqual(report['status'], status, report)
        return report

    def completes(self, peer: Destination, warning: str = '') -> dict:
        """The rest of a load; returns its statistics, which add up"""
        peer.finish()
        self.assertEqual(peer.process.wait(TIMEOUT), 0)
        error = peer.process.stderr.read().decode()
        self.assertEqual(error.count('\n'), bool(warning), error)
        self.assertIn(warning, error)
        stats = self.report()['postcopy']
        self.assertEqual(peer.sent, sum(
            number for name, number in stats.items() if
            name.endswith('-pages') and name != 'zero-requested-pages'))
        return stats

    def fails(self, peer: Destination, *causes: str) -> str:
        """The load ends with one line that says why, and has all causes."""
        status = peer.process.wait(TIMEOUT)
        error = peer.process.stderr.read().decode()
        self.assertEqual(status, 1, error)
        self.assertEqual(error.count('\n'), 1, error)
        self.assertTrue(error.startswith(
            f"qemu-snap: Could not load '{self.image}': "), error)
        for cause in causes:
            self.assertIn(cause.lower(), error.lower())
        self.assertIn(self.report('failed')['error'], error)
        return error
