#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Peers of a postcopy load that lie, break off or say nothing, and images that
# are damaged: one clear line, never a wrong page, a crash or an endless wait.
#

import ctypes
import os
import random
import select
import socket
import struct
import subprocess
import time
import unittest
import uuid

from snaptest import TIMEOUT, env
from snaptest.peers.destination import (BITMAP, BITMAP_END, ENDED, PONG,
                                        REQ_PAGES, REQ_PAGES_ID, RESUME_ACK,
                                        RETURN_PATH, RUNNING, SETUP, SHUT,
                                        Destination, PostcopyTest, Stage,
                                        message, word)
from snaptest.peers.streams import StreamBuilder, name8
from snaptest.tool import pattern, sample
from snaptest.units import MIB, PAGE

CHUNK, CHUNK_ENTRIES = 65536, 8191

XXHASH = ctypes.CDLL('libxxhash.so.0')
XXHASH.XXH3_64bits_withSeed.restype = ctypes.c_uint64
XXHASH.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t,
                                        ctypes.c_uint64]


def checksum(data: bytes, seed: int) -> bytes:
    """As a chunk of a table has it"""
    return struct.pack('>Q', XXHASH.XXH3_64bits_withSeed(data, len(data),
                                                         seed))


def request(offset: int, length: int = PAGE, name: str | None = 'pc.ram'):
    """A request that may be anything; without a name, of the last block"""
    data = struct.pack('>QI', offset % (1 << 64), length)
    if name is None:
        return message(REQ_PAGES, data)
    return message(REQ_PAGES_ID, data + name8(name))


class Hostile(PostcopyTest):

    def setUp(self):
        super().setUp()
        self.take(sample())

    def said(self, data: bytes, *causes: str, stage: Stage = RUNNING,
             options=('--push=none',)) -> str:
        """What the load says to @data in a return path that stays open"""
        peer = self.connect(*options)
        peer.until(stage)
        peer.send(data)
        return self.fails(peer, *causes)

    def all_said(self, *cases):
        for data, *causes in cases:
            with self.subTest(data[:32]):
                self.said(data, *causes)


class HostileMessages(Hostile):

    def test_unknown_kind_of_message_is_refused(self):
        self.all_said(*((message(kind, data), 'return path', f'{kind}')
                        for kind in (0, 8, 9, 0x100, 0xffff)
                        for data in (b'', b'1234')))

    def test_wrong_length_of_message_is_refused(self):
        for kind, right in ((SHUT, 4), (PONG, 4), (REQ_PAGES, 12),
                            (RESUME_ACK, 4)):
            for length in (0, 1, right - 1, right + 1, 512, 65535):
                data = struct.pack('>HH', kind, length)
                with self.subTest((kind, length)):
                    self.said(data + bytes(min(length, 600)), 'length')

    def test_wrong_length_of_name_is_refused(self):
        """A request that is too short for its name, or for any"""
        numbers = struct.pack('>QI', 0, PAGE)
        self.all_said(*(
            (message(REQ_PAGES_ID, data),) for data in (
                b'', numbers[:11], numbers, numbers + b'\7pc.ram',
                numbers + b'\5pc.ram', numbers + b'\xffpc.ram',
                numbers + b'\6pc.ram' + bytes(400))),
            (struct.pack('>HH', REQ_PAGES_ID, 65535) + numbers, 'length'))

    def test_unknown_block_is_refused(self):
        self.all_said(*((request(0, name=name), 'block') for name in (
            '', 'p', 'pc.ra', 'pc.ramm', 'PC.RAM', 'x' * 255, 'pc.ram\0',
            '%s%n', 'pc\0ram')))
        self.assertIn("'nope'", self.said(request(0, name='nope')))

    def test_names_are_escaped_in_errors(self):
        for name in ('a\nb', '\x1b[2J', '\r', '\x7f', '\xff\xfe'):
            error = self.said(message(
                REQ_PAGES_ID, struct.pack('>QIB', 0, PAGE, len(name)) +
                name.encode('latin1')), 'block')
            self.assertTrue(error.rstrip('\n').isprintable(), error)

    def test_request_for_last_block_needs_one_before(self):
        self.said(request(0, name=None), 'block')

    def test_refused_request_names_no_last_block(self):
        """A request that was refused does not stand for those after it."""
        self.said(request(0, name='nope') + request(0, name=None), 'nope')

    def test_request_outside_of_block_is_refused(self):
        """At the end, beyond it, across it, and around the top"""
        for name, size in (('pc.ram', MIB), ('vga.vram', 65536)):
            for offset in (size, size + PAGE, 2 * size, 1 << 40, 1 << 63,
                           (1 << 63) - PAGE, -PAGE, -size):
                with self.subTest((name, offset)):
                    self.said(request(offset, name=name), f"'{name}'",
                              f'{offset % (1 << 64):#x}')

    def test_request_across_end_of_block_is_refused(self):
        for length in (2 * MIB, 1 << 31, 0xfffff000, 0x80001000):
            for offset in (0, MIB - PAGE):
                with self.subTest((offset, length)):
                    self.said(request(offset, length), "'pc.ram'", f'{length}')

    def test_length_that_would_wrap_is_refused(self):
        """Lengths that would be negative, or come around to its start"""
        builder = StreamBuilder([('ram', 3 << 30)])
        builder.page('ram', 0, pattern(1))
        self.take(builder)
        for offset, length in ((0x80001000, 0x80000000), (0, 0xfffff000),
                               (0x80000000, 0x80000000), (PAGE, 0xc0000000)):
            with self.subTest((offset, length)):
                self.said(request(offset, length, 'ram'), f'{offset:#x}',
                          f'{length} bytes')

    def test_unaligned_request_is_refused(self):
        for offset in (1, 8, PAGE - 1, 2048, MIB - 1, MIB - 512):
            with self.subTest(offset):
                self.said(request(offset), "'pc.ram'", f'{offset:#x}')

    def test_request_of_no_whole_pages_is_refused(self):
        for length in (0, 1, 512, 4095, 4097, 6144, 0xffffffff):
            with self.subTest(length):
                self.said(request(0, length), "'pc.ram'", f'{length} ')

    def test_bad_request_after_a_good_one_is_refused(self):
        self.said(request(0) + request(MIB, name=None), '0x100000')
        self.said(request(0) + request(8, name=None), '0x8 ')

    def test_answer_to_what_was_not_asked_is_refused(self):
        for data in (word(RESUME_ACK, 1),
                     message(BITMAP, name8('pc.ram')) +
                     struct.pack('>Q', 32) + bytes(32) +
                     struct.pack('>Q', BITMAP_END)):
            with self.subTest(data[:16]):
                self.said(data)

    def test_pong_to_no_ping_is_refused_or_ignored(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        peer.send(word(PONG, 0xdeadbeef))
        try:
            for key in peer.with_data:
                peer.request(*key)
            peer.finish()
        except EOFError:
            self.fails(peer, 'pong')
        else:
            self.assertEqual(peer.process.wait(TIMEOUT), 0)

    def test_failure_that_destination_reports_fails_load(self):
        for stage in (RETURN_PATH, SETUP, RUNNING, ENDED):
            options = [] if stage == ENDED else ['--push=none']
            for status in (1, 0xffffffff):
                with self.subTest((stage, status)):
                    self.said(word(SHUT, status), 'destination', stage=stage,
                              options=options)

    def test_success_before_the_end_is_none(self):
        for stage in (RETURN_PATH, SETUP, RUNNING):
            with self.subTest(stage):
                self.said(word(SHUT, 0), stage=stage)

    def test_garbage_is_refused_at_each_stage(self):
        for stage in (RETURN_PATH, Stage.ADVISED, SETUP, Stage.DISCARDED,
                      RUNNING, ENDED):
            options = [] if stage == ENDED else ['--push=none']
            with self.subTest(stage):
                self.said(b'garbage!', 'return path', stage=stage,
                          options=options)

    def test_bad_message_is_noticed_while_peer_reads_nothing(self):
        self.take(sample([('pc.ram', 8 * MIB)]))
        for data in (b'garbage!', word(SHUT, 1), request(1)):
            self.said(data, stage=RUNNING, options=[])

    def test_nearly_right_messages_fail_cleanly(self):
        """Messages that are nearly right, and then the end"""
        rng = random.Random(1)
        valid = [word(PONG, 3), word(PONG, 1), request(0), request(PAGE),
                 request(0, name=None), request(65536 - PAGE, PAGE,
                                                'vga.vram')]
        for i in range(100):
            data = bytearray(b''.join(rng.choices(valid, k=3)))
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.choice(
                    (rng.randrange(256), 0, 1, 255))
            data += rng.randbytes(rng.randrange(8))
            with self.subTest((i, bytes(data))):
                self.last_words(bytes(data), SETUP if i % 3 else RUNNING)

    def last_words(self, data: bytes, stage: Stage):
        """... and then the end; what comes until then is good."""
        peer = self.connect('--push=none')
        peer.until(stage)
        peer.optional = set(self.all_pages())       # they may be asked for
        peer.send(data)
        self.hang_up(peer)
        with self.assertRaises(EOFError):
            peer.finish()
        return self.fails(peer)

    def all_pages(self):
        return [(name, offset) for name, length in
                self.snapshot.blocks.items()
                for offset in range(0, length, PAGE)]

    def test_random_noise_fails_cleanly(self):
        rng = random.Random(2)
        for i in range(40):
            with self.subTest(i):
                self.last_words(rng.randbytes(1 << rng.randrange(12)), RUNNING)

    def test_truncated_message_fails_cleanly(self):
        data = request(0)
        for length in (1, 3, 4, 8, 16, len(data) - 1):
            with self.subTest(length):
                self.last_words(data[:length], RUNNING)


class SilentPeer(Hostile):
    """Peers that go away, or do nothing"""

    def test_end_of_return_path_fails_load(self):
        for stage in Stage:
            if stage in (Stage.RECOVERING, Stage.OVER):
                continue
            options = [] if stage == ENDED else ['--push=none']
            with self.subTest(stage):
                peer = self.connect(*options)
                peer.until(stage)
                self.hang_up(peer)
                self.fails(peer)

    def test_peer_that_goes_away_fails_load(self):
        """Both ways at once, while there is something to write"""
        self.take(sample([('pc.ram', 8 * MIB)]))
        for stage in (Stage.CONNECTED, RETURN_PATH, SETUP, RUNNING):
            with self.subTest(stage):
                peer = self.connect(percent=50)
                peer.until(stage)
                self.hang_up(peer)
                peer.process.stdout.close()
                self.fails(peer)

    def test_peer_that_closes_its_reading_end_fails_load(self):
        self.take(sample([('pc.ram', 8 * MIB)]))
        peer = self.connect()
        peer.until(RUNNING)
        peer.process.stdout.close()
        self.fails(peer)

    def test_socket_that_is_shut_down_fails_load(self):
        for preempt in (False, True):
            peer = self.connect_socket('--push=none', preempt=preempt)
            peer.until(RUNNING)
            with socket.socket(fileno=os.dup(peer.main.fd)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
            self.fails(peer)

    def test_reset_is_explained_like_any_end(self):
        """A socket whose peer has gone before it had read all"""
        for percent, cause in ((0, 'before it answered'),
                               (None, 'migrate-recover')):
            with self.subTest(percent):
                listener = self.listen()
                process, _, _ = self.begin(f'--uri=unix:{self.socket}',
                                           percent=percent)
                connection, _ = listener.accept()
                connection.recv(1)
                connection.close()
                self.assertEqual(process.wait(TIMEOUT), 1)
                error = process.stderr.read().decode()
                self.assertEqual(error.count('\n'), 1, error)
                self.assertIn(cause, error)

    def test_missing_socket_is_refused(self):
        self.refused('load', '--postcopy', self.image,
                     f'--uri=unix:{self.path("none")}',
                     causes=['no such file'])

    def terminated(self, peer: Destination):
        """It waits, and a signal ends that."""
        with self.assertRaises(subprocess.TimeoutExpired):
            peer.process.wait(0.7)
        peer.process.terminate()
        self.fails(peer)

    def test_signal_ends_load_if_peer_never_reads(self):
        self.take(sample([('pc.ram', 8 * MIB)]))
        for stage in (Stage.CONNECTED, SETUP, RUNNING):
            with self.subTest(stage):
                peer = self.connect(percent=50)
                peer.until(stage)
                self.terminated(peer)

    def test_signal_ends_load_if_peer_never_answers(self):
        """Neither PING nor anything else"""
        peer = self.connect('--push=none')
        peer.send = lambda data: None
        try:
            while select.select([peer.main.fd], [], [], 0.5)[0] or \
                    peer.main.pending():
                peer.step()
        except EOFError:
            self.fails(peer)
        else:
            self.terminated(peer)

    def test_signal_ends_load_if_peer_never_confirms(self):
        peer = self.connect()
        peer.until(Stage.OVER)
        self.terminated(peer)

    def test_signal_ends_load_if_peer_never_asks(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        self.terminated(peer)

    def test_signal_ends_load_if_second_channel_is_not_taken(self):
        """QEMU without postcopy-preempt listens, but takes nothing."""
        peer = self.connect_socket('--push=none', preempt=True)
        peer.listener = None
        peer.until(RUNNING)
        peer.request('pc.ram', 0)
        self.terminated(peer)

    def test_return_path_is_drained_though_nobody_reads(self):
        self.take(sample([('pc.ram', 8 * MIB)]))
        for options in ([], ['--push=none']):
            peer = self.connect(*options)
            peer.until(RUNNING)
            peer.send(request(0))
            for _ in range(100):
                peer.send(b''.join(request(i * PAGE, name=None)
                                   for i in range(2048)))
            end = time.monotonic() + TIMEOUT
            while peer.outgoing:
                self.assertLess(time.monotonic(), end, 'not drained')
                select.select([], [peer.writer], [], 1)
                peer.write()
            peer.optional = {('pc.ram', i * PAGE) for i in range(2048)}
            stats = self.completes(peer)
            self.assertEqual(stats['requests'], 204801)

    def test_repeated_requests_bring_nothing_twice(self):
        self.take(sample([('pc.ram', 8 * MIB)]))
        peer = self.connect()
        peer.until(RUNNING)
        for number in range(5):
            peer.request('pc.ram', 5 * number * PAGE)
        peer.send(request(0, name=None) * 50000 +
                  request(5 * PAGE, name=None) * 50000)
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], 100005)

    # No return path at all

    def absent(self, **kwargs):
        for options in (['--postcopy'], ['--postcopy=50'], ['--resume']):
            with self.subTest(options):
                result = subprocess.run(
                    [env('QEMU_SNAP'), 'load', *options, self.image],
                    stderr=subprocess.PIPE, check=False, timeout=TIMEOUT,
                    **kwargs)
                error = result.stderr.decode()
                self.assertEqual((result.returncode, error.count('\n')),
                                 (1, 1), error)
                self.assertIn(f"Could not load '{self.image}': ", error)

    def test_closed_stdin_is_no_return_path(self):
        self.absent(stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(0))

    def test_dev_null_is_no_return_path(self):
        self.absent(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def test_file_is_no_return_path(self):
        with open(self.path('out'), 'wb') as out, \
                open(self.path('in'), 'w+b') as empty:
            self.absent(stdin=subprocess.DEVNULL, stdout=out)
            self.absent(stdin=empty, stdout=out)

    def test_pipe_is_no_return_path(self):
        read, write = os.pipe()
        with os.fdopen(read), os.fdopen(write, 'wb'):
            result = self.tool('load', '--postcopy', self.image,
                               f'--uri=fd:{write}', pass_fds=[write])
        self.assertEqual((result.returncode, result.stderr.count(b'\n')),
                         (1, 1), result.stderr)


class HostileResumption(Hostile):
    """Peers that answer wrongly when a load is to go on"""

    def setUp(self):
        super().setUp()
        self.take(sample([('pc.ram', MIB), ('rom', 37 * PAGE)]))

    def paused(self) -> Destination:
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        peer.process.kill()
        with self.assertRaises(EOFError):
            peer.finish()
        self.resume(peer)
        return peer

    def answers(self, reply, *causes: str):
        """@reply(name, bitmap) is what the peer sends for each block."""
        peer = self.paused()
        peer.send_bitmap = lambda name: peer.send(
            reply(name, bytes((len(peer.pages[name]) + 63) // 64 * 8)))
        try:
            peer.finish()
            self.fail('that was not noticed')
        except EOFError:
            self.fails(peer, *causes)

    def bitmap(self, name: str, data: bytes, size: int | None = None,
               end: int = BITMAP_END) -> bytes:
        return message(BITMAP, name8(name)) + struct.pack(
            '>Q', len(data) if size is None else size) + data + \
            struct.pack('>Q', end)

    def test_wrong_size_of_bitmap_is_refused(self):
        for size in (0, 4, 24, 31, 33, 40, 1 << 32, 1 << 63, (1 << 64) - 8):
            with self.subTest(size):
                self.answers(lambda name, data, size=size: self.bitmap(
                    name, data, size), 'bitmap')

    def test_bitmap_of_unknown_block_is_refused(self):
        for other in ('', 'nope', 'rom\0', 'x' * 255):
            with self.subTest(other):
                self.answers(lambda name, data, other=other: self.bitmap(
                    other, data), 'block')

    def test_bitmap_of_block_not_asked_for_is_refused(self):
        self.answers(lambda name, data: self.bitmap('rom', bytes(8)) * 2,
                     'bitmap')

    def test_bitmap_sent_twice_is_refused(self):
        self.answers(lambda name, data: 2 * self.bitmap(name, data))

    def test_wrong_end_of_bitmap_is_refused(self):
        for end in (0, BITMAP_END + 1, 0xefcdab8967452301):
            with self.subTest(end):
                self.answers(lambda name, data, end=end: self.bitmap(
                    name, data, end=end), 'bitmap')

    def test_other_message_than_a_bitmap_is_refused(self):
        for reply in (b'garbage!', message(BITMAP, b''),
                      message(BITMAP, b'\6pc'), word(SHUT, 0),
                      word(SHUT, 1), word(RESUME_ACK, 1)):
            with self.subTest(reply):
                self.answers(lambda name, data, reply=reply: reply)

    def test_cut_bitmap_is_refused(self):
        for length in (0, 3, 10, 15, 25, -9, -1):
            with self.subTest(length):
                peer = self.paused()

                def cut(name, length=length, peer=peer):
                    data = bytes((len(peer.pages[name]) + 63) // 64 * 8)
                    peer.send(self.bitmap(name, data)[:length])
                    self.hang_up(peer)
                peer.send_bitmap = cut
                with self.assertRaises(EOFError):
                    peer.until(RUNNING)
                self.fails(peer)

    def test_bits_after_last_page_say_nothing(self):
        peer = self.paused()
        good = peer.send_bitmap

        def padded(name):
            data = bytearray(8)
            if name == 'rom':
                data[5:] = b'\xff' * 3
                peer.send(self.bitmap(name, bytes(data)))
            else:
                good(name)
        peer.send_bitmap = padded
        self.completes(peer)

    def test_wrong_acknowledgement_is_refused(self):
        for reply in (word(RESUME_ACK, 0), word(RESUME_ACK, 2),
                      word(RESUME_ACK, 0xffffffff), word(SHUT, 0),
                      word(SHUT, 1), message(RESUME_ACK, b''), b'garbage!'):
            with self.subTest(reply):
                peer = self.paused()
                peer.send_resume_ack = lambda peer=peer, reply=reply: \
                    peer.send(reply)
                with self.assertRaises(EOFError):
                    peer.finish()
                self.fails(peer)

    def test_signal_or_eof_ends_wait_for_acknowledgement(self):
        peer = self.paused()
        peer.send_resume_ack = lambda: None
        peer.until(RUNNING)
        with self.assertRaises(subprocess.TimeoutExpired):
            peer.process.wait(0.7)
        peer.process.terminate()
        self.fails(peer)
        peer = self.paused()
        peer.send_resume_ack = lambda: self.hang_up(peer)
        peer.until(RUNNING)
        self.fails(peer)

    def test_second_acknowledgement_is_refused(self):
        peer = self.paused()
        peer.send_resume_ack = lambda: peer.send(2 * word(RESUME_ACK, 1))
        with self.assertRaises(EOFError):
            peer.finish()
        self.fails(peer)

    def test_destination_that_is_not_paused_fails_resumption(self):
        """A QEMU that waits for the beginning goes away."""
        process, reader, writer = self.begin(percent=None)
        os.read(reader, 8)
        process.stdin.close()
        process.stdout.close()
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(process.stderr.read().count(b'\n'), 1)
        self.assertGreater(writer, 0)


class DamagedImage(PostcopyTest):
    """Images in which something is not what it was"""

    def setUp(self):
        super().setUp()
        # more than one chunk of the page table
        builder = StreamBuilder([('ram', 40 * MIB), ('rom', 65536)])
        for i in (7, 5, 3, 1, *range(100, 200), 8200, 8205, 10000, 200):
            builder.page('ram', i * PAGE, pattern(i))
        builder.fill('rom', 7)
        builder.device('cpu', b'state')
        self.take(builder, '-O', 'raw')
        info = self.info()
        self.parts = info['parts']
        self.blocks = {block['name']: block['offset']
                       for block in info['ram-blocks']}
        self.uuid = uuid.UUID(info['uuid'])
        self.assertEqual(info['arrivals'], 10)

    def read(self, offset: int, length: int) -> bytes:
        with open(self.image, 'rb') as f:
            f.seek(offset)
            return f.read(length)

    def patch(self, offset: int, data: bytes):
        with open(self.image, 'r+b') as f:
            f.seek(offset)
            f.write(data)

    def flip(self, offset: int, bit: int = 0):
        self.patch(offset, bytes([self.read(offset, 1)[0] ^ 1 << bit]))

    def breaks(self, name: str, offset: int, *causes: str, options=(),
               percent: int = 0):
        """A page is asked for, and does not come."""
        peer = self.connect(*options, percent=percent)
        with self.assertRaises(EOFError):
            peer.until(RUNNING)
            peer.request(name, offset)
            peer.finish()
        self.fails(peer, *causes)
        self.assertFalse(peer.has((name, offset)))

    def test_damaged_page_never_comes(self):
        """Asked for, pushed, or sent by precopy"""
        rng = random.Random(1)
        for number in (100, 8205):
            offset = number * PAGE
            for at in (0, PAGE - 1, rng.randrange(PAGE)):
                where = self.blocks['ram'] + offset + at
                self.flip(where, at % 8)
                for options in ([], ['--push=none'], ['--push=linear']):
                    with self.subTest((number, at, options)):
                        self.breaks('ram', offset, "'ram'", f'{offset:#x}',
                                    options=options)
                self.flip(where, at % 8)
        self.flip(self.blocks['rom'])
        self.breaks('rom', 0, "'rom'", options=['--push=linear'])
        peer = self.connect(percent=100)
        with self.assertRaises(EOFError):
            peer.finish()
        self.fails(peer, "'rom'")

    def test_damaged_page_stops_only_what_needs_it(self):
        self.flip(self.blocks['ram'] + 100 * PAGE)
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        for number in (101, 8205, 0):
            peer.request('ram', number * PAGE)
        peer.until_answered()
        peer.request('ram', 100 * PAGE)
        self.fails(peer, "'ram'", '0x64000')

    def test_damaged_page_spoils_its_host_page(self):
        self.flip(self.blocks['ram'] + 150 * PAGE)
        peer = self.connect('--host-page-size=ram=2M', '--push=none',
                            host_pages={'ram': 2 * MIB})
        peer.until(RUNNING)
        peer.request('ram', 0)
        with self.assertRaises(EOFError):
            peer.finish()
        self.fails(peer, "'ram'", '0x96000')
        self.assertEqual(peer.arrived, [])

    def test_page_lost_to_zeroes_is_no_zero_page(self):
        self.patch(self.blocks['ram'] + 100 * PAGE, bytes(PAGE))
        self.breaks('ram', 100 * PAGE, "'ram'", '0x64000',
                    options=['--push=none'])

    def test_damaged_chunk_of_page_table_spoils_only_its_pages(self):
        table = self.parts['page table']['offset']
        for entry in (8200, 8191 + 3000):
            self.flip(table + CHUNK + entry % 8191 * 8, 2)
            with self.subTest(entry):
                peer = self.connect('--push=none')
                peer.until(RUNNING)
                peer.request('ram', 100 * PAGE)
                peer.until_answered()
                peer.request('ram', 10000 * PAGE)
                with self.assertRaises(EOFError):
                    peer.finish()
                self.fails(peer, 'page table')
                self.assertEqual(peer.arrived, [('ram', 100 * PAGE)])
                self.breaks('ram', 8200 * PAGE, 'page table')
            self.flip(table + CHUNK + entry % 8191 * 8, 2)

    def ends_well_or_clearly(self, part: str):
        """A hint that is damaged: nothing wrong comes, and it is said."""
        peer = self.connect()
        try:
            peer.finish()
        except EOFError:
            self.fails(peer, part)
            return
        self.assertEqual(peer.process.wait(TIMEOUT), 0)
        error = peer.process.stderr.read().decode()
        self.assertEqual(error.count('\n'), 1, error)
        self.assertIn(part, error)

    def test_damaged_arrival_list_is_told(self):
        offset = self.parts['arrival list']['offset']
        for at in (0, 7, 8, 500, CHUNK - 1):
            self.flip(offset + at)
            with self.subTest(at):
                self.ends_well_or_clearly('arrival list')
            self.flip(offset + at)

    def test_hostile_arrival_list_does_no_harm(self):
        """Pages outside, with a right checksum; no page twice"""
        offset = self.parts['arrival list']['offset']
        pages = sum(self.snapshot.blocks.values()) // PAGE
        seed = self.uuid.int % (1 << 64)
        self.assertEqual(
            checksum(self.read(offset, CHUNK - 8), seed),
            self.read(offset + CHUNK - 8, 8))
        for number in (pages, pages + 1, 1 << 32, 1 << 52, (1 << 64) - 1):
            with self.subTest(number):
                self.arrivals([7, number, 5])
                self.ends_well_or_clearly('arrival list')
        self.arrivals([7, 7, 5, 100, 5, 7, 7, 5, 100])
        self.completes(self.connect())
        self.arrivals([0, 4, 2, 8192, pages - 1, 6000, 7, 5, 3])
        peer = self.connect(optional=[('ram', i * PAGE) for i in (
            0, 4, 2, 8192, 6000)])
        self.assertEqual(self.never_sent(peer), [])

    def never_sent(self, peer: Destination) -> list:
        """An arrival list does not make a page one that was sent."""
        self.completes(peer)
        return [key for key in peer.arrived if key not in peer.with_data]

    def arrivals(self, numbers: list[int]):
        offset = self.parts['arrival list']['offset']
        numbers = numbers + [0] * (10 - len(numbers))
        data = struct.pack(f'>{CHUNK_ENTRIES}Q', *numbers,
                           *[0] * (CHUNK_ENTRIES - 10))
        self.patch(offset, data + checksum(data, self.uuid.int % (1 << 64)))

    def test_damaged_device_state_is_refused_at_once(self):
        """Nothing begins that damage will end."""
        self.flip(self.parts['device state']['offset'] + 3)
        self.refused('load', '--postcopy', self.image,
                     causes=['device state'])

    def test_damaged_embedded_working_set_is_told(self):
        self.recorded([('ram', number * PAGE) for number in (150, 8200, 3)])
        self.succeeds('embed', '-f', 'raw', self.image)
        if os.path.exists(self.image + '.working-set'):
            os.unlink(self.image + '.working-set')
        before = self.info()
        part = next(part for name, part in before['parts'].items()
                    if 'working' in name)
        rng = random.Random(3)
        for _ in range(10):
            at = part['offset'] + rng.randrange(part['length'])
            self.flip(at, 5)
            with self.subTest(at):
                self.ends_well_or_clearly('working set')
                result = self.tool('check', self.image)
                self.assertGreater(result.returncode, 0)
                self.assertIn(b'working set', result.stderr)
            self.flip(at, 5)
        self.completes(self.connect())

    def test_cut_image_fails_or_is_loaded_whole(self):
        size = os.stat(self.image).st_size
        failed = 0
        for i in range(11, 0, -1):
            os.truncate(self.image, size * i // 12 // 512 * 512)
            with self.subTest(i):
                peer = self.connect()
                try:
                    peer.finish()
                except EOFError:
                    failed += 1
                    self.fails(peer)
                else:
                    self.assertEqual(peer.process.wait(TIMEOUT), 0)
        self.assertGreater(failed, 2)


if __name__ == '__main__':
    unittest.main(verbosity=2)
