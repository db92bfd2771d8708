#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Loads by postcopy: what arrives is the snapshot, in the order that was
# promised, and as QEMU needs it.
#

import glob
import os
import random
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import unittest

from snaptest import TIMEOUT
from snaptest.peers.decode import Stream
from snaptest.peers.destination import (ADVISE, DISCARD, ENDED, LISTEN,
                                        PACKAGED, PONG, REQ_PAGES_ID,
                                        RETURN_PATH, RUN, RUNNING, SETUP,
                                        Destination, PostcopyTest,
                                        ProtocolError, Userfaultfd, message,
                                        word)
from snaptest.peers.streams import (END, EOF, OPEN_RETURN_PATH,
                                    PAGE as PAGE_FLAG, PART, PING, ZERO,
                                    StreamBuilder, command, name8)
from snaptest.tool import pattern, sample
from snaptest.units import GIB, MIB, PAGE

SWITCHOVER_ACK = 7
HOST_PAGE = 2 * MIB
ARRIVAL_PAGES = 256


def dense(pages: int = 1024, first=(), block: str = 'ram') -> StreamBuilder:
    """
    Pages with data, of which every tenth is zero, in the order of their
    numbers but for those that are to come @first
    """
    builder = StreamBuilder([(block, pages * PAGE)])
    late = [i for i in range(pages) if i not in first]
    for i in [*first, *late]:
        if i % 10 == 9:
            builder.zero(block, i * PAGE)
        else:
            builder.page(block, i * PAGE, pattern(i))
    builder.device('cpu', pattern(1, 1000))
    return builder


def numbers(pages) -> list[int]:
    """The pages of a dense() snapshot as numbers"""
    return [offset // PAGE for _, offset in pages]


def with_data(pages: int) -> list[int]:
    return [i for i in range(pages) if i % 10 != 9]


def push_order(arrivals, sent=()) -> list[int]:
    """
    What is pushed for an arrival list: each page with some that follow it,
    up to one that was sent
    """
    order = list(sent)
    for first in arrivals:
        for i in range(first, min(first + ARRIVAL_PAGES, 1024)):
            if i in order:
                break
            if i % 10 != 9:
                order.append(i)
    return order


class StandIn(unittest.TestCase):
    """The peer of these tests finds what it is meant to find."""

    def setUp(self):
        self.builder = StreamBuilder([('ram', 4 * PAGE), ('rom', PAGE)])
        self.builder.page('ram', 0, pattern(1))
        self.builder.page('ram', PAGE, pattern(2))
        self.builder.zero('ram', 2 * PAGE)
        self.builder.page('rom', 0, pattern(3))
        self.builder.device('cpu', b'state')
        self.snapshot = Stream(self.builder.build())
        builder = self.builder
        self.stream = {
            'header': builder.header(),
            'open': command(OPEN_RETURN_PATH),
            'ping': command(PING, bytes(4)),
            'advise': command(ADVISE, struct.pack('>QQ', PAGE, PAGE)),
            'start': builder.ram_start(),
            'precopy': self.part(self.page('rom', 0, 3)),
            'discard': self.discard('ram', (0, 4 * PAGE)),
            'package': self.package(),
            'page 0': self.part(self.page('ram', 0, 1)),
            'page 1': self.part(self.page('ram', PAGE, 2)),
            'end': builder.ram_section(END, b''),
            'eof': bytes([EOF]),
        }

    def page(self, name: str, offset: int, number: int) -> bytes:
        return struct.pack('>Q', offset | PAGE_FLAG) + name8(name) + \
            pattern(number)

    def zero(self, name: str, offset: int) -> bytes:
        return struct.pack('>Q', offset | ZERO) + name8(name) + b'\0'

    def part(self, records: bytes) -> bytes:
        return self.builder.ram_section(PART, records)

    def discard(self, name: str, *ranges) -> bytes:
        return command(DISCARD, b'\0' + name8(name) + b'\0' + b''.join(
            struct.pack('>QQ', *pair) for pair in ranges))

    def package(self, devices: bytes | None = None) -> bytes:
        if devices is None:
            devices = self.snapshot.devices
        data = command(LISTEN) + devices + \
            command(PING, struct.pack('>I', 3)) + command(RUN)
        return command(PACKAGED, struct.pack('>I', len(data))) + data

    def load(self, stream: dict, **kwargs):
        with tempfile.TemporaryFile() as f, \
                open('/dev/null', 'wb') as null:
            f.write(b''.join(stream.values()))
            f.seek(0)
            peer = Destination(self.snapshot, f.fileno(), null.fileno(),
                               **kwargs)
            peer.finish()
        return peer

    def test_right_load_is_taken(self):
        peer = self.load(self.stream)
        self.assertEqual(peer.precopied, [('rom', 0)])
        self.assertEqual(peer.arrived, [('ram', 0), ('ram', PAGE)])

    def test_missing_piece_is_found(self):
        """Without any of its pieces, but for the optional PING"""
        for name in self.stream:
            if name == 'ping':
                continue
            with self.subTest(name), \
                    self.assertRaises((ProtocolError, EOFError)):
                self.load({key: value for key, value in self.stream.items()
                           if key != name})

    def test_piece_sent_twice_is_found(self):
        for name, data in self.stream.items():
            if name in ('ping', 'precopy', 'discard'):
                continue
            with self.subTest(name), self.assertRaises(ProtocolError):
                self.load({**self.stream, name: 2 * data})

    def test_pieces_in_wrong_order_are_found(self):
        names = list(self.stream)
        for i in range(3, len(names) - 1):
            if names[i] == 'page 0':
                continue
            swapped = names[:i] + [names[i + 1], names[i]] + names[i + 2:]
            with self.subTest(names[i]), self.assertRaises(ProtocolError):
                self.load({key: self.stream[key] for key in swapped})

    def test_wrong_piece_is_found(self):
        data = self.stream['page 1']
        for name, wrong in (
                ('advise', command(ADVISE)),
                ('advise', command(ADVISE, struct.pack('>QQ', PAGE, 1024))),
                ('advise', command(ADVISE, struct.pack(
                    '>QQ', PAGE | HOST_PAGE, PAGE))),
                ('start', StreamBuilder([('ram', 4 * PAGE), ('rom', PAGE,
                                                             HOST_PAGE)]
                                        ).ram_start()),
                ('precopy', self.part(self.page('rom', 0, 4))),
                ('precopy', self.part(self.zero('ram', 3 * PAGE))),
                ('discard', self.discard('ram', (0, 3 * PAGE))),
                ('discard', self.discard('ram', (0, 5 * PAGE))),
                ('discard', self.discard('ram', (0, 4 * PAGE), (PAGE, 0))),
                ('discard', self.discard('rum', (0, 4 * PAGE))),
                ('discard', self.discard('ram')),
                ('package', self.package(b'')),
                ('package', self.package(self.snapshot.devices + b'\0')),
                ('page 1', self.part(self.page('ram', PAGE, 1))),
                ('page 1', self.part(self.zero('ram', PAGE))),
                ('page 1', data + self.part(self.zero('ram', 2 * PAGE))),
                ('page 1', data + self.part(self.zero('ram', 3 * PAGE))),
                ('page 1', data + self.part(self.zero('ram', 4 * PAGE))),
                ('page 1', data + self.part(self.page('rom', 0, 3))),
                ('page 1', data[:-1] + b'\xff'),
                ('page 1', data[:-5]),
                ('eof', b'\0\0')):
            with self.subTest(name, wrong=wrong[:20]), \
                    self.assertRaises((ProtocolError, EOFError)):
                self.load({**self.stream, name: wrong})

    def test_wrong_host_page_is_found(self):
        """It is to come whole, in one piece, and in its own size."""
        sizes = {'host_pages': {'ram': 2 * PAGE}}
        builder = StreamBuilder([('ram', 4 * PAGE, 2 * PAGE), ('rom', PAGE)])
        good = {**self.stream,
                'advise': command(ADVISE, struct.pack('>QQ', 3 * PAGE, PAGE)),
                'start': builder.ram_start()}
        self.load(good, **sizes)
        both = self.page('ram', 0, 1) + self.page('ram', PAGE, 2)
        for records in (self.page('ram', 0, 1), both + both, 2 * both[:4111],
                        self.page('ram', 0, 1) + self.zero('ram', 2 * PAGE)):
            with self.subTest(len(records)), self.assertRaises(ProtocolError):
                self.load({**good, 'page 0': self.part(records), 'page 1': b''
                           }, **sizes)
        for name in ('advise', 'start'):
            with self.subTest(name), self.assertRaises(ProtocolError):
                self.load({**good, name: self.stream[name]}, **sizes)


class RoundTrip(PostcopyTest):

    def whole(self, peer: Destination) -> dict:
        """A load without requests has all, and knows what it did."""
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], 0)
        self.assertEqual(set(peer.arrived) - peer.optional,
                         peer.with_data - set(peer.precopied))
        return stats

    def test_load_without_precopy_brings_all(self):
        self.take(sample())
        peer = self.connect()
        self.whole(peer)
        self.assertEqual(peer.precopied, [])

    def test_postcopy_without_value_means_no_precopy(self):
        self.take(sample())
        process = self.start('load', self.image, '--postcopy')
        peer = Destination(self.snapshot, process.stdout.fileno(),
                           process.stdin.fileno())
        peer.finish()
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.assertEqual(peer.precopied, [])

    def test_stream_with_end_and_early_sections_loads(self):
        """What else a stream may have: an END, early and other sections."""
        builder = sample([('ram', MIB)])
        builder.early('virtio-mem-device-early', b'early')
        self.take(builder, end=True)
        self.whole(self.connect())

    def test_stream_without_footers_loads(self):
        builder = sample(footers=False)
        self.take(sample())
        self.snapshot.devices = builder.devices
        self.save(builder.build())
        self.whole(self.connect(footers=False))

    def test_raw_and_compressed_images_load(self):
        self.take(sample(), '-O', 'raw')
        self.whole(self.connect())
        self.img('convert', '-c', '-O', 'qcow2', self.image,
                 self.path('compressed'))
        os.rename(self.path('compressed'), self.image)
        self.whole(self.connect(percent=30))

    def test_snapshot_of_240_blocks_loads(self):
        self.take(sample([(f'/device:{i:02x}/' + i * 'x', (1 + i % 7) * PAGE)
                          for i in range(240)]))
        self.whole(self.connect())
        self.whole(self.connect(percent=50))

    def test_snapshot_without_data_loads(self):
        builder = StreamBuilder([('ram', MIB), ('rom', PAGE)])
        builder.zero('ram', 0)
        self.take(builder)
        for percent in (0, 50, 100):
            self.whole(self.connect(percent=percent))

    def test_guest_pages_smaller_than_host_pages_load(self):
        """A host page that is four of the guest's"""
        self.take(sample([('ram', MIB), ('rom', 64 << 10)], page_bits=10))
        self.whole(self.connect())
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        for name, length in self.snapshot.blocks.items():
            for offset in range(0, length, PAGE):
                peer.request(name, offset)
        peer.until_answered()
        self.completes(peer)

    def test_load_over_unix_brings_all(self):
        self.take(sample())
        self.whole(self.connect_socket())
        self.whole(self.connect_socket(percent=50))

    def test_load_over_fd_brings_all(self):
        self.take(sample())
        ours, theirs = socket.socketpair()
        process = self.start('load', '--postcopy', self.image,
                             f'--uri=fd:{theirs.fileno()}',
                             pass_fds=[theirs.fileno()])
        theirs.close()
        with ours:
            Destination(self.snapshot, ours.fileno(), ours.fileno()).finish()
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_image_can_be_loaded_several_times_at_once(self):
        self.take(sample())
        peers = [self.connect('--push=none') for _ in range(5)]
        for peer in peers:
            peer.until(RUNNING)
        for name, offset in peers[0].with_data:
            for peer in peers:
                peer.request(name, offset)
        for peer in peers:
            self.completes(peer)

    def usage(self, *options: str, cause: str):
        """A command line that is refused before anything happens"""
        before = self.tree()
        result = self.tool('load', *options, self.image)
        self.assertEqual((result.returncode, result.stdout.strip(b'\0')),
                         (1, b''), result)
        line = result.stderr.decode().splitlines()[0]
        self.assertRegex(line, 'qemu-snap: ')
        self.assertIn(cause, line)
        self.assertEqual(self.tree(), before)

    def test_wrong_percent_is_refused(self):
        self.take(sample())
        for value in ('101', '-1', 'x', '', '5x', '1e1', '4294967296',
                      '50%'):
            with self.subTest(value):
                self.usage(f'--postcopy={value}', cause=f"'{value}'")

    def test_options_that_make_no_sense_are_refused(self):
        self.take(sample())
        for value, options in (
                ('postcopy', ['--preempt']),
                ('unix', ['--postcopy', '--preempt']),
                ('postcopy', ['--push=linear']),
                ('everything', ['--postcopy', '--push=everything']),
                ('none', ['--postcopy', '--push=none,linear']),
                ('-1', ['--postcopy', '--fault-around=-1']),
                ('fast', ['--postcopy', '--rate-limit=fast']),
                ('much', ['--postcopy', '--backlog=much']),
                ('long', ['--postcopy', '--record=long']),
                ('3145728', ['--postcopy', '--host-page-size=3M']),
                ('1024', ['--postcopy', '--host-page-size=1k']),
                ('nope', ['--postcopy', '--host-page-size=nope=2M'])):
            with self.subTest(options):
                self.usage(*options, cause=value)


class Refused(PostcopyTest):
    """How far a destination has come before it closes tells what is wrong."""

    # Commands and sections until there, and PINGs among them
    STEPS = {1: ('waits for a migration', 'machine type', 'info'),
             3: ('postcopy-ram', 'userfaultfd', '--host-page-size'),
             5: ('RAM', 'sizes', 'info', '--host-page-size'),
             7: ('devices',)}
    ALL = {'waits', 'postcopy-ram', "snapshot's RAM", 'devices'}

    def assert_explained(self, peer, steps: int):
        error = self.fails(peer, *self.STEPS[steps], 'its own log')
        self.assertEqual(sum(word in error for word in self.ALL), 1, error)

    def test_destination_that_closes_is_explained(self):
        self.take(sample())
        for steps in self.STEPS:
            with self.subTest(steps):
                peer = self.connect()
                for _ in range(steps):
                    peer.step()
                self.hang_up(peer)
                peer.process.stdout.close()
                self.assert_explained(peer, steps)

    def test_destination_that_resets_is_explained(self):
        """What was not read makes the system tell the tool of a reset."""
        self.take(sample([('pc.ram', 8 * MIB)]))
        for steps in self.STEPS:
            with self.subTest(steps):
                peer = self.connect_socket(percent=100)
                for _ in range(steps):
                    peer.step()
                # There is more to read, whatever the peer has read ahead.
                select.select([peer.main.fd], [], [], TIMEOUT)
                with open('/dev/null', 'rb') as null:
                    os.dup2(null.fileno(), peer.main.fd)
                self.assert_explained(peer, steps)


class Precopy(PostcopyTest):
    """A part of RAM goes ahead of the switch."""

    def test_wanted_share_of_ram_goes_ahead(self):
        builder = StreamBuilder([('a', 11 * MIB), ('b', 5 * MIB)])
        for name, length, _ in builder.blocks:
            for i in range(0, length, PAGE):
                if i // PAGE % 3 == 0:
                    builder.zero(name, i)
                else:
                    builder.page(name, i, pattern(i))
        self.take(builder)
        for percent in (0, 1, 25, 50, 75, 99, 100):
            with self.subTest(percent):
                peer = self.connect(percent=percent)
                stats = self.completes(peer)
                self.assertEqual(stats['percent'], percent)
                self.check_pieces(peer, percent)

    def check_pieces(self, peer: Destination, percent: int):
        """As much as was wanted, in whole pieces of 2 MiB but for one"""
        sent = {key for key in peer.precopied if key in peer.with_data}
        want = len(peer.with_data) * percent / 100
        self.assertAlmostEqual(len(sent), want, delta=2 * MIB // PAGE)
        self.assertEqual(percent == 0, not sent)
        self.assertTrue(sent.isdisjoint(peer.arrived))
        pieces, whole = {}, 0
        for name, offset in peer.with_data:
            pieces.setdefault((name, offset // (2 * MIB)), []).append(
                (name, offset))
        for pages in pieces.values():
            there = [page in sent for page in sorted(pages)]
            whole += all(there)
            self.assertEqual(there, sorted(there, reverse=True))
        started = sum(any(page in sent for page in pages)
                      for pages in pieces.values())
        self.assertLessEqual(started - whole, 1)

    def test_discard_is_sent_even_if_all_has_gone_ahead(self):
        builder = StreamBuilder([('ram', MIB)])
        for i in range(MIB // PAGE):
            builder.page('ram', i * PAGE, pattern(i))
        self.take(builder)
        self.completes(self.connect(percent=100))

    def test_discard_of_many_ranges_takes_several_commands(self):
        builder = StreamBuilder([('ram', 40 * MIB)])
        for i in range(0, 40 * MIB // PAGE, 2):
            builder.page('ram', i * PAGE, struct.pack('>Q', i + 1) * 512)
        self.take(builder)
        for percent in (60, 100):
            self.completes(self.connect(percent=percent))

    def test_requests_before_the_switch_are_answered(self):
        """They are answered after the switch, or in it."""
        self.take(sample([('ram', 8 * MIB), ('rom', MIB)]))
        peer = self.connect('--push=none', percent=50)
        peer.until(SETUP)
        for i in range(2048):
            peer.request('ram', i * PAGE)
        peer.request('rom', 0)
        peer.until(RUNNING)
        peer.until_answered()
        for key in peer.missing():
            peer.request(*key)
        self.completes(peer)


class Requests(PostcopyTest):

    def setUp(self):
        super().setUp()
        self.take(sample([('ram', 4 * MIB), ('rom', MIB), ('x', PAGE)]))
        self.all = [(name, offset)
                    for name, length in self.snapshot.blocks.items()
                    for offset in range(0, length, PAGE)]

    def test_only_what_is_asked_for_comes(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        order = sorted(peer.with_data)
        random.Random(1).shuffle(order)
        for key in order[:20]:
            peer.request(*key)
            peer.until_answered()
        for key in order[20:]:
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(peer.arrived[:20], order[:20])
        self.assertEqual(sorted(peer.arrived), sorted(order))
        self.assertEqual(stats['requests'], len(order))
        self.assertEqual(stats['requested-pages'], len(order))
        self.assertEqual(stats['zero-requested-pages'], 0)

    def test_zero_pages_come_if_they_are_asked_for(self):
        """Pages that are zero, and such as were never sent."""
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        empty = [key for key in self.all if key not in peer.with_data]
        for key in empty:
            peer.request(*key)
        peer.until_answered()
        self.assertEqual(sorted(peer.arrived), sorted(empty))
        for key in peer.with_data:
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['requested-pages'], len(self.all))
        self.assertEqual(stats['zero-requested-pages'], len(empty))

    def test_repeated_request_is_answered_once(self):
        """Asked for again before, while and after the page comes"""
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        for key in self.all:
            for _ in range(5):
                peer.request(*key)
        peer.until_answered()
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], 5 * len(self.all))
        self.assertEqual(stats['requested-pages'], len(self.all))
        self.assertEqual(stats['requests-repeated'] +
                         stats['requests-on-the-way'], 4 * len(self.all))

    def test_page_on_its_way_does_not_come_again(self):
        peer = self.connect('--push=linear')
        peer.until(RUNNING)
        peer.until_arrived(100)
        late = peer.arrived[:100]
        for key in late:
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['requests-on-the-way'], 100)

    def test_thousands_of_requests_are_answered(self):
        """Thousands at once, of all pages in all blocks, while pushing"""
        peer = self.connect()
        peer.until(RUNNING)
        rng = random.Random(2)
        for key in rng.choices(sorted(peer.with_data), k=20000):
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], 20000)
        self.assertEqual(stats['requested-pages'] + stats['requests-repeated']
                         + stats['requests-on-the-way'], 20000)

    def test_request_may_be_for_several_pages(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        for i in range(100, 110):
            peer.requested['ram', i * PAGE] = 1
        peer.send(message(REQ_PAGES_ID, struct.pack(
            '>QI', 100 * PAGE, 10 * PAGE) + name8('ram')))
        peer.until_answered()
        for key in peer.missing():
            peer.request(*key)
        self.completes(peer)

    def test_requests_after_the_end_are_read(self):
        """Nobody waits for what comes after the end, but it is read."""
        peer = self.connect()
        peer.until(ENDED)
        for key in self.all:
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], len(self.all))

    def test_page_pushed_while_it_is_read_comes_once(self):
        """The last page is pushed while it is read because it is asked for."""
        builder = StreamBuilder([('ram', 40 * PAGE)])
        for i in range(40):
            builder.page('ram', i * PAGE, pattern(i))
        self.take(builder, '-O', 'raw')
        # Storage that is so slow that a read ends after all that is pushed
        self.image = ('driver=raw,file.driver=throttle,file.throttle-group=t,'
                      f'file.file.driver=file,file.file.filename={self.image}')
        peer = self.connect('--object', 'throttle-group,id=t,x-iops-total=4',
                            '-r', '1M', '--image-opts')
        peer.until_arrived(32)
        peer.request('ram', 39 * PAGE)
        stats = self.completes(peer)
        self.assertEqual(stats['requests-on-the-way'], 1)

    def test_load_ends_with_last_missing_page(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        for key in list(peer.with_data):
            self.assertEqual(peer.stage, RUNNING)
            peer.request(*key)
        peer.until(ENDED)
        self.assertEqual(set(peer.arrived), peer.with_data)
        self.completes(peer)

    def test_switchover_ack_is_ignored(self):
        peer = self.connect()
        peer.until(RETURN_PATH)
        peer.send(message(SWITCHOVER_ACK, b''))
        self.completes(peer)

    def test_statistics_add_up(self):
        peer = self.connect('-r', '4M')
        peer.until(RUNNING)
        for key in list(peer.with_data)[:50] + self.all[3:40:5]:
            peer.request(*key)
        stats = self.completes(peer)
        latency = stats['latency-us']
        self.assertLessEqual(latency['count'], 58)
        self.assertEqual(latency['count'], stats['requested-pages'])
        self.assertEqual(sum(item['count'] for item in latency['histogram']),
                         latency['count'])
        bounds = [item['below-us'] for item in latency['histogram']]
        self.assertEqual(bounds, sorted(bounds))
        self.assertLessEqual(latency['p50'], latency['p99'])
        self.assertLessEqual(latency['p99'], latency['max'])
        self.assertLess(0, stats['run-us'])
        self.assertLess(stats['run-us'], stats['complete-us'])


class Order(PostcopyTest):

    HOT = [800, 13, 601, 77, 400, 9, 250]

    def test_pages_are_pushed_in_their_order(self):
        self.take(dense())
        for options in ([], ['--push=linear']):
            peer = self.connect(*options)
            stats = self.completes(peer)
            self.assertEqual(numbers(peer.arrived), with_data(1024))
            self.assertGreaterEqual(stats['linear-pages'], 900)

    def test_blocks_are_pushed_in_their_order(self):
        builder = StreamBuilder([('b', MIB), ('a', MIB)])
        builder.fill('b', 1)
        builder.fill('a', 2)
        self.take(builder)
        peer = self.connect('--push=linear')
        self.completes(peer)
        self.assertEqual(peer.arrived, [
            (name, offset) for name in 'ba'
            for offset in range(0, MIB, PAGE)])

    def test_arrivals_are_pushed_first(self):
        """Those that came out of order; after them the others"""
        self.take(dense(first=self.HOT))
        # the sweep that begins again at 0 looks like one of them
        hot = push_order(self.HOT + [0])
        peer = self.connect()
        stats = self.completes(peer)
        rest = [i for i in with_data(1024) if i not in hot]
        self.assertEqual(numbers(peer.arrived), hot + rest)
        self.assertEqual(stats['arrival-pages'], len(hot))
        self.assertEqual(stats['linear-pages'], len(rest))
        peer = self.connect('--push=linear')
        self.completes(peer)
        self.assertEqual(numbers(peer.arrived), with_data(1024))

    def test_arrivals_alone_push_nothing_else(self):
        """The rest has to be asked for."""
        self.take(dense(first=self.HOT))
        hot = push_order(self.HOT + [0])
        peer = self.connect('--push=arrivals')
        peer.until(RUNNING)
        peer.until_arrived(len(hot))
        self.assertEqual(numbers(peer.arrived), hot)
        rest = next(i for i in with_data(1024) if i not in hot)
        peer.request('ram', rest * PAGE)
        peer.until_answered()
        self.assertEqual(numbers(peer.arrived), hot + [rest])
        for key in peer.missing():
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['linear-pages'] + stats['around-pages'], 0)

    def around(self, pages: int, *options: str):
        self.take(dense())
        peer = self.connect('--push=around', *options)
        peer.until(RUNNING)
        seen = []
        for first in (100, 500, 95, 1020):
            before = len(peer.arrived)
            want = [first] + [
                i for i in range(first + 1, min(first + pages + 1, 1024))
                if i % 10 != 9 and i not in seen]
            peer.request('ram', first * PAGE)
            peer.until_arrived(before + len(want))
            self.assertEqual(numbers(peer.arrived[before:]), want)
            seen += want
        # nothing but that has come
        peer.request('ram', 700 * PAGE)
        before = len(peer.arrived)
        peer.until_answered()
        self.assertEqual(numbers(peer.arrived[before:]), [700])
        for key in peer.missing():
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['linear-pages'], 0)

    def test_sixteen_pages_follow_a_requested_one(self):
        self.around(16)

    def test_fault_around_sets_how_many_pages_follow(self):
        self.around(5, '--fault-around=5')

    def test_fault_around_of_0_lets_none_follow(self):
        self.around(0, '--fault-around=0')

    def test_pages_around_come_before_linear_ones(self):
        self.take(dense())
        peer = self.connect('--push=around,linear', '-r', '1M')
        peer.until(RUNNING)
        peer.until_arrived(10)
        peer.request('ram', 600 * PAGE)
        peer.until_answered()
        before = len(peer.arrived)
        want = [i for i in range(601, 617) if i % 10 != 9]
        while not all(peer.has(('ram', i * PAGE)) for i in want):
            peer.step()
        got = numbers(peer.arrived[before:])
        self.assertEqual([i for i in got if i > 600], want)
        # at 1 MiB/s: half of what is in front takes a second
        self.assertLess(len(got) - len(want), len(with_data(600)) // 2)

    def test_pages_around_come_after_arrivals(self):
        """After arrivals, and before anything else"""
        first = [450, 420, 390, 360]
        self.take(dense(first=first))
        hot = push_order(first + [0])
        # Slow enough for the request to come before the end of the list
        for rate in ('1M', '256k', '64k'):
            peer = self.connect('-r', rate)
            peer.until(RUNNING)
            peer.until_arrived(5)
            peer.request('ram', 900 * PAGE)
            peer.until_answered()
            if len(peer.arrived) < len(hot) // 2:
                break
            peer.process.kill()
        self.assertLess(len(peer.arrived), len(hot) // 2)
        near = [i for i in range(901, 917) if i % 10 != 9]
        peer.until_arrived(len(hot) + len(near) + 10)
        got = [i for i in numbers(peer.arrived) if i != 900]
        self.assertEqual(got[:len(hot) + len(near)], hot + near)

    def test_requested_pages_come_before_pushed_ones(self):
        """However much waits to be pushed"""
        self.take(dense(2048))
        peer = self.connect('-r', '1M')
        peer.until(RUNNING)
        peer.until_arrived(50)
        for number in (2000, 1500, 1800, 1900):
            before = len(peer.arrived)
            peer.request('ram', number * PAGE)
            peer.until_answered()
            # at 1 MiB/s: a third of what is pushed takes two seconds
            self.assertLess(len(peer.arrived) - before, number // 3)

    def ahead(self, *options: str) -> list[int]:
        """How many pages come before one that a slow guest asks for"""
        peer = self.connect('--push=linear', *options)
        peer.until(RUNNING)
        rng = random.Random(3)
        waits = []
        for _ in range(100):
            number = rng.randrange(4096, 8190)
            before = len(peer.arrived)
            if number % 10 == 9 or peer.has(('ram', number * PAGE)):
                continue
            peer.request('ram', number * PAGE)
            peer.until_heard()
            peer.until_answered()
            waits.append(len(peer.arrived) - before)
        self.completes(peer)
        return sorted(waits[5:])

    def test_small_backlog_lets_requested_pages_come_sooner(self):
        """
        A busy machine lets the tool believe that the guest is quiet, and read
        late what it asks for, but not always.
        """
        self.take(dense(8192))
        waits = self.ahead('--backlog=16k')
        # what the peer has read ahead, what is in the channel, and a record
        self.assertLess(waits[len(waits) // 10], (32 + 16 + 16) // 4)
        many = self.ahead('--backlog=1M')
        self.assertLess(waits[len(waits) // 2], many[len(many) // 2])

    def test_requests_of_a_peer_that_reads_nothing_come_first(self):
        """They overtake what waits to be pushed, but for a full channel."""
        self.take(dense(8192))
        peer = self.connect('--push=linear')
        peer.until(RUNNING)
        peer.until_much_waits()
        wanted = [('ram', i * PAGE) for i in range(8000, 7000, -7)
                  if i % 10 != 9]
        for key in wanted:
            peer.request(*key)
        peer.until_heard()
        peer.until_answered()
        # A full channel has 256 at most.  More are pushed while storage is
        # slow to answer, but by far not all that are in front.
        self.assertLess(len(peer.arrived) - len(wanted),
                        len(with_data(7000)) // 2)
        self.completes(peer)

    def test_pages_are_pushed_no_faster_than_the_rate(self):
        self.take(dense(512))
        start = time.monotonic()
        peer = self.connect('--push=linear', '--rate-limit=1M')
        peer.until(RUNNING)
        for i in range(400, 512):
            if i % 10 != 9:
                peer.request('ram', i * PAGE)
        self.completes(peer)
        pushed = len(with_data(400)) * PAGE
        self.assertGreater(time.monotonic() - start, 0.7 * pushed / MIB)

    def test_requests_are_not_slowed_down_by_the_rate(self):
        """At that rate they would take 18 s, with as many that are pushed."""
        self.take(dense(1024))
        peer = self.connect('--push=linear', '--rate-limit=64k')
        peer.until(RUNNING)
        wanted = [i for i in range(700, 1024) if i % 10 != 9]
        for i in wanted:
            peer.request('ram', i * PAGE)
        peer.until_answered()
        self.assertLess(len(peer.arrived) - len(wanted), len(wanted) // 2)


class HostPages(PostcopyTest):
    """RAM in huge pages, which come as a whole"""

    OPTION = '--host-page-size=ram=2M'
    SIZES = {'ram': HOST_PAGE}

    def setUp(self):
        super().setUp()
        builder = StreamBuilder([('ram', 10 * MIB), ('rom', 64 << 10)])
        for i in range(512):                    # all of a host page
            builder.page('ram', i * PAGE, pattern(i))
        for i in range(512, 1024, 5):           # some of one
            builder.page('ram', i * PAGE, pattern(i))
            builder.zero('ram', (i + 1) * PAGE)
        for i in range(1024, 1536):             # zero
            builder.zero('ram', i * PAGE)
        builder.page('ram', 2047 * PAGE, pattern(2047))
        builder.fill('rom', 3)                  # and one that never came
        self.take(builder)

    def test_host_pages_come_as_a_whole(self):
        peer = self.connect(self.OPTION, '--push=linear',
                            host_pages=self.SIZES)
        self.completes(peer)
        self.assertEqual([key for key in peer.arrived if key[0] == 'ram'],
                         [('ram', i * HOST_PAGE) for i in (0, 1, 3)])

    def test_host_pages_come_as_a_whole_by_precopy(self):
        for percent in (20, 50, 100):
            peer = self.connect(self.OPTION, host_pages=self.SIZES,
                                percent=percent)
            self.completes(peer)

    def test_requested_host_pages_come_as_a_whole(self):
        """Zero ones and those that never came, too"""
        for options in ([], ['--push=none']):
            peer = self.connect(self.OPTION, *options, host_pages=self.SIZES)
            peer.until(RUNNING)
            for offset in range(8 * MIB, -1, -HOST_PAGE):
                peer.request('ram', offset)
                peer.request('ram', offset)
            for offset in range(0, 65536, PAGE):
                peer.request('rom', offset)
            self.completes(peer)
            if options:
                self.assertEqual(len(peer.arrived), 5 + 16)

    def test_host_pages_come_as_a_whole_with_preempt(self):
        peer = self.connect_socket(self.OPTION, preempt=True,
                                   host_pages=self.SIZES)
        peer.until(RUNNING)
        for offset in range(8 * MIB, -1, -HOST_PAGE):
            peer.request('ram', offset)
        self.completes(peer)

    def test_broken_load_of_host_pages_can_be_resumed(self):
        for percent in (0, 40):
            peer = self.connect(self.OPTION, '--push=none',
                                host_pages=self.SIZES, percent=percent)
            peer.until(RUNNING)
            peer.request('ram', 6 * MIB)
            peer.request('ram', 8 * MIB)
            peer.until_answered()
            peer.process.kill()
            with self.assertRaises(EOFError):
                peer.finish()
            self.assertGreater(len(peer.missing()), 0)
            self.resume(peer, self.OPTION)
            self.completes(peer)

    def test_option_without_a_name_means_largest_block(self):
        """All blocks that are named, or the largest one if none is"""
        builder = StreamBuilder([('b', 2 * MIB), ('a', 4 * MIB)])
        builder.fill('a', 1)
        builder.page('b', 7 * PAGE, pattern(7))
        self.take(builder)
        self.completes(self.connect('--host-page-size=2M',
                                    host_pages={'a': HOST_PAGE}))
        self.completes(self.connect(
            '--host-page-size=a=2M', '--host-page-size=b=2M',
            host_pages={'a': HOST_PAGE, 'b': HOST_PAGE}))

    def test_working_set_is_pushed_in_host_pages(self):
        """In host pages, whatever it was recorded in"""
        for options, sizes in (([], {}), ([self.OPTION], self.SIZES)):
            self.recorded([('ram', offset) for offset in (
                6 * MIB, 2 * MIB + 5 * PAGE, 2 * MIB, 8 * MIB, 0)],
                *options, host_pages=sizes)
            peer = self.connect(self.OPTION, host_pages=self.SIZES,
                                optional=[('ram', 8 * MIB)])
            self.completes(peer)
            self.assertEqual([offset // MIB for _, offset in peer.arrived
                              if offset != 8 * MIB][:3], [6, 2, 0])

    def test_blocks_may_have_different_host_pages(self):
        builder = StreamBuilder([('a', 4 * MIB), ('b', 1 << 20)])
        builder.fill('a', 1)
        builder.fill('b', 2, 16384, 65536)
        self.take(builder)
        peer = self.connect('--host-page-size=a=2M',
                            '--host-page-size=b=64k',
                            host_pages={'a': HOST_PAGE, 'b': 65536})
        self.completes(peer)

    def test_block_of_no_whole_host_pages_is_refused(self):
        self.refused('load', '--postcopy', '--host-page-size=rom=2M',
                     self.image, causes=['rom'])

    def test_request_smaller_than_host_page_is_refused(self):
        """A peer that asks for less has smaller pages than was said."""
        peer = self.connect(self.OPTION, '--push=none',
                            host_pages=self.SIZES)
        peer.until(RUNNING)
        peer.host = {'ram': PAGE, 'rom': PAGE}
        peer.request('ram', 0)
        self.fails(peer, "'ram'")

    def test_host_pages_of_a_gigabyte_load(self):
        builder = StreamBuilder([('ram', 3 * GIB), ('rom', 64 << 10)])
        for i in (0, 100, 262143):
            builder.page('ram', i * PAGE, pattern(i))
        for i in range(200, 300):
            builder.zero('ram', i * PAGE)
        builder.fill('rom', 3)
        self.take(builder)
        peer = self.connect('--host-page-size=ram=1G', '--push=linear',
                            host_pages={'ram': GIB})
        self.completes(peer)
        self.assertEqual([key for key in peer.arrived if key[0] == 'ram'],
                         [('ram', 0)])
        peer = self.connect('--host-page-size=ram=1G', '--push=none',
                            host_pages={'ram': GIB})
        peer.until(RUNNING)
        peer.request('ram', 2 * GIB)
        peer.request('rom', 0)
        peer.until_answered()
        for key in peer.missing():
            peer.request(*key)
        self.completes(peer)


class Preempt(PostcopyTest):
    """Urgent pages have a channel of their own."""

    def test_requested_pages_take_the_urgent_channel(self):
        self.take(sample([('ram', 4 * MIB), ('rom', MIB)]))
        peer = self.connect_socket(preempt=True)
        peer.until(RUNNING)
        everything = list(self.snapshot.pages)
        random.Random(4).shuffle(everything)
        for key in everything[:700]:
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['requests'], 700)
        self.assertEqual(len(peer.urgent), stats['requested-pages'])
        self.assertGreater(len(peer.urgent), 0)

    def test_unasked_pages_take_the_main_channel(self):
        self.take(sample([('ram', 4 * MIB), ('rom', MIB)]))
        peer = self.connect_socket(preempt=True, percent=50)
        self.completes(peer)
        self.assertEqual(peer.urgent, set())

    def test_urgent_page_overtakes_pushed_ones(self):
        self.take(dense(4096))
        peer = self.connect_socket('--push=linear', preempt=True)
        peer.until(RUNNING)
        peer.until_much_waits()
        peer.request('ram', 4000 * PAGE)
        while peer.unanswered():
            peer.read_fast()
        self.assertEqual(peer.arrived, [('ram', 4000 * PAGE)])
        self.completes(peer)

    def test_requests_after_the_end_are_answered(self):
        """QEMU waits there for what it has asked for, zero pages as well."""
        self.take(sample())
        peer = self.connect_socket(preempt=True)
        peer.until(ENDED)
        peer.request('pc.ram', PAGE)
        peer.request('pc.ram', 3 * PAGE)
        self.completes(peer)
        self.assertEqual(len(peer.urgent), 2)

    def test_broken_load_with_preempt_can_be_resumed(self):
        self.take(sample([('ram', 4 * MIB), ('rom', MIB)]))
        peer = self.connect_socket('-r', '1M', preempt=True)
        peer.until(RUNNING)
        peer.until_arrived(20)
        peer.process.kill()
        with self.assertRaises(EOFError):
            peer.finish()
        peer.requested.update({key: 1 for key in
                               sorted(peer.missing())[::7]})
        before = len(peer.arrived)
        self.resume_socket(peer, preempt=True)
        self.completes(peer)
        self.assertEqual(len(peer.arrived), len(peer.with_data))
        self.assertGreater(len(peer.urgent), 0)
        self.assertGreater(len(peer.arrived), before)


class Resume(PostcopyTest):
    """A load continues where another one broke off."""

    def setUp(self):
        super().setUp()
        # a block whose bitmap does not end with a word
        self.take(sample([('ram', 4 * MIB), ('rom', 37 * PAGE),
                          ('x', PAGE)]))

    def broken(self, pages: int, **kwargs) -> Destination:
        peer = self.connect('-r', '2M', **kwargs)
        peer.until(RUNNING)
        peer.until_arrived(pages)
        peer.process.kill()
        with self.assertRaises(EOFError):
            peer.finish()
        return peer

    def test_broken_load_can_be_resumed(self):
        for percent in (0, 50):
            peer = self.broken(10, percent=percent)
            before = len(peer.arrived)
            self.assertGreater(len(peer.missing()), 0)
            self.resume(peer)
            self.completes(peer)
            self.assertGreater(len(peer.arrived), before)

    def test_only_missing_pages_come(self):
        rng = random.Random(5)
        for share in (0, 0.1, 0.5, 0.999, 1):
            peer = self.broken(1)
            for name, pages in peer.pages.items():
                for i in range(len(pages)):
                    pages[i] = 1 if rng.random() < share else 2
            missing = peer.missing()
            before = len(peer.arrived)
            self.resume(peer)
            self.completes(peer)
            self.assertEqual(sorted(peer.arrived[before:]), sorted(missing))

    def test_pending_requests_are_answered(self):
        """QEMU asks again for all that it waits for."""
        peer = self.broken(10)
        wanted = sorted(peer.missing())[-20:] + [('ram', PAGE),
                                                 ('ram', 3 * PAGE)]
        for key in wanted:
            peer.requested[key] = 1
        before = len(peer.arrived)
        self.resume(peer, '--push=none')
        peer.until(RUNNING)
        peer.until_answered()
        self.assertEqual(sorted(peer.arrived[before:]), sorted(wanted))
        for key in peer.missing():
            peer.request(*key)
        stats = self.completes(peer)
        self.assertEqual(stats['zero-requested-pages'], 2)

    def test_resumed_load_can_break_and_be_resumed(self):
        peer = self.broken(10)
        for _ in range(3):
            before = len(peer.arrived)
            self.resume(peer, '-r', '2M')
            peer.until_arrived(before + 50)
            peer.process.kill()
            with self.assertRaises(EOFError):
                peer.finish()
        self.resume(peer)
        self.completes(peer)

    def test_terminated_load_can_be_resumed(self):
        """SIGTERM breaks a load as well, but it says so."""
        peer = self.connect('-r', '1M')
        peer.until(RUNNING)
        peer.until_arrived(10)
        peer.process.terminate()
        self.fails(peer)
        with self.assertRaises(EOFError):
            peer.finish()
        self.resume(peer)
        self.completes(peer)

    def test_load_can_be_resumed_over_another_connection(self):
        peer = self.broken(10)
        self.resume_socket(peer)
        self.completes(peer)


class SameSnapshot(PostcopyTest):
    """A load is resumed with the snapshot that it was of, or not at all."""

    RECORDS = f'/dev/shm/qemu-snap-load.*.{os.getpid()}.*'

    refusals = 0

    @classmethod
    def tearDownClass(cls):
        print(f'# {cls.refusals} resumptions without a guest that are refused',
              file=sys.stderr)
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.builder = sample([('ram', MIB), ('rom', 37 * PAGE)])
        self.other = self.path('other')
        self.save(self.builder.build(), self.other)
        self.take(self.builder)
        self.uuid = self.info()['uuid']
        self.other_uuid = self.info(self.other)['uuid']

    def record(self) -> str:
        """The file in which it is noted what this process is loading"""
        path, = glob.glob(self.RECORDS)
        return path

    def broken(self, *options: str) -> Destination:
        peer = self.connect('-r', '1M', *options)
        peer.until(RUNNING)
        peer.until_arrived(10)
        peer.process.kill()
        with self.assertRaises(EOFError):
            peer.finish()
        return peer

    def not_resumed(self, image: str, *causes: str, option: str = '--resume',
                    more=()) -> str:
        process = self.start(option, *more, 'load', image)
        # A destination that has hung up cannot be looked at.
        status = process.wait(60)
        out, err = process.stdout.read(), process.stderr.read()
        self.assertEqual((status, out), (1, b''), err)
        self.assertRegex(err.decode(), f"^qemu-snap: Could not load '{image}':"
                         ' .*\n$')
        for cause in causes:
            self.assertIn(cause, err.decode())
        type(self).refusals += 1
        return err.decode()

    def goes_on(self, peer: Destination, *options: str):
        self.resume(peer, *options)
        self.completes(peer)
        self.assertEqual(glob.glob(self.RECORDS), [])

    def test_another_snapshot_is_refused(self):
        peer = self.broken()
        for option in ('--resume', f'--resume={self.uuid}',
                       f'--resume={self.other_uuid}'):
            self.not_resumed(self.other, self.uuid, self.other_uuid,
                             option=option)
        self.goes_on(peer)

    def test_same_stream_saved_again_is_another_snapshot(self):
        """What is the same is known by the UUID, not by the content."""
        peer = self.broken()
        again = self.path('again')
        self.save(self.builder.build(), again)
        self.not_resumed(again, self.uuid)
        self.goes_on(peer)

    def test_copy_in_another_container_is_taken(self):
        for fmt, *options in (['raw'], ['qcow2'], ['qcow2', '-c']):
            with self.subTest(fmt, options=options):
                peer = self.broken()
                copy = self.path(f'copy.{fmt}')
                self.img('convert', *options, '-O', fmt, self.image, copy)
                good, self.image = self.image, copy
                self.goes_on(peer, '-f', fmt)
                self.image = good

    def test_copy_of_another_snapshot_is_refused(self):
        peer = self.broken()
        for fmt, *options in (['raw'], ['qcow2'], ['qcow2', '-c']):
            with self.subTest(fmt, options=options):
                copy = self.path(f'copy.{fmt}')
                self.img('convert', *options, '-O', fmt, self.other, copy)
                self.not_resumed(copy, self.uuid, more=['-f', fmt])
        self.goes_on(peer)

    def test_refusal_without_record_says_how_to_go_on(self):
        peer = self.broken()
        os.unlink(self.record())
        self.not_resumed(self.image, 'no record', f'--resume={self.uuid}')
        self.not_resumed(self.other, self.uuid, self.other_uuid,
                         option=f'--resume={self.uuid}')
        self.goes_on(peer, f'--resume={self.uuid}')

    def test_process_in_between_is_no_destination(self):
        """A process that passes all of it on may do so for several."""
        peer = self.broken()
        peer.userfaultfd = None
        self.not_resumed(self.image, 'postcopy-paused',
                         f'--resume={self.uuid}')
        peer.userfaultfd = Userfaultfd()
        self.goes_on(peer)

    def test_no_record_is_kept_of_what_is_no_destination(self):
        """What was noted before the guest ran goes as soon as that is known."""
        peer = self.connect('-r', '1M')
        send, noted = peer.send, []

        def answer(data: bytes):
            if data == word(PONG, 3):
                noted.extend(glob.glob(self.RECORDS))
                peer.userfaultfd = None
            send(data)
        peer.send = answer
        peer.until(RUNNING)
        self.assertEqual(len(noted), 1)
        self.wait_for(lambda: not glob.glob(self.RECORDS), 'end of the record')
        self.completes(peer)

    def test_record_stays_until_destination_answers(self):
        """It may be one that is in the middle of another load."""
        peer = self.broken()
        before = os.stat(self.record())
        process = self.start('--postcopy', 'load', self.other)
        process.stdin.write(b'what is that?')
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(os.stat(self.record()), before)
        self.not_resumed(self.other, self.uuid)
        self.goes_on(peer)

    def test_record_not_written_by_the_tool_is_not_believed(self):
        peer = self.broken()
        path = self.record()
        with open(path, encoding='ascii') as f:
            good = f.read()
        head, uuid = good.rstrip('\n').rsplit(' ', 1)
        self.assertEqual(uuid, self.uuid)
        for content in ('', ' ', '\n', good[:-1], good + '\n', good + good,
                        good.replace('load 1', 'load 2'), f'{head} {uuid}x\n',
                        f'{head} \n', f'{head}\n', f'{head}  {uuid}\n',
                        f'1 {good}', good.replace(str(os.getpid()), '1'),
                        good.replace('-', '\0'), good + '\0', uuid + '\n',
                        f'{head} {uuid}' + ' ' * 300 + '\n', 'x' * 100000,
                        f'{head} \033[2J\n', '\xff' * 100):
            with self.subTest(content[:100]):
                with open(path, 'w', encoding='latin-1') as f:
                    f.write(content)
                self.not_resumed(self.image, path, f'--resume={self.uuid}')
        self.goes_on(peer, f'--resume={self.uuid}')

    def test_record_that_is_no_file_is_not_believed(self):
        peer = self.broken()
        path = self.record()
        with open(path, encoding='ascii') as f:
            good = f.read()
        real = self.path('record')
        with open(real, 'w', encoding='ascii') as f:
            f.write(good)
        for make in (os.mkfifo, os.mkdir, lambda p: os.symlink(real, p),
                     lambda p: os.symlink('/dev/zero', p),
                     lambda p: os.symlink('nowhere', p)):
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
            make(path)
            self.not_resumed(self.image, f'--resume={self.uuid}')
        self.goes_on(peer, f'--resume={self.uuid}')

    def test_stale_records_are_removed(self):
        """Those of processes that have gone, and nothing else"""
        peer = self.broken()
        head, start = self.record().rsplit('.', 1)
        head = head.rsplit('.', 1)[0]
        stale = [f'{head}.{os.getpid()}.1', f'{head}.{os.getpid()}.1.7',
                 f'{head}.99999999.{start}']
        others = [f'{head}.x.1', f'{head}.1', f'{head}.{os.getpid()}.',
                  f'{head}.{os.getpid()}.1x', f'{head}.-1.1',
                  f'{head}0.99999999.1', f'{head}.99999999999999999999.1']
        for path in stale + others:
            with open(path, 'w', encoding='ascii'):
                pass
            self.addCleanup(lambda p=path: os.path.exists(p) and os.unlink(p))
        self.resume(peer)
        self.completes(peer)
        self.completes(self.connect())
        self.assertEqual([p for p in stale + others if os.path.exists(p)],
                         others)

    def test_load_does_not_depend_on_its_record(self):
        # As another user, whose file is there already
        if os.geteuid():
            self.skipTest('needs root')
        peer = self.broken()
        path = self.record()
        self.completes(self.connect())
        os.mkdir(path)
        self.addCleanup(lambda: os.path.isdir(path) and os.rmdir(path))
        peer = self.broken()
        os.rmdir(path)
        self.not_resumed(self.image, 'no record', f'--resume={self.uuid}')
        self.goes_on(peer, f'--resume={self.uuid}')

    def test_invalid_uuid_is_refused(self):
        for uuid in ('x', self.uuid + '0', self.uuid[:-1], ''):
            self.refused(f'--resume={uuid}', 'load', self.image,
                         causes=[f"Invalid --resume '{uuid}': expected a UUID"])

    def test_terminated_load_says_how_to_go_on(self):
        peer = self.connect('-r', '1M')
        peer.until(RUNNING)
        peer.until_arrived(10)
        peer.process.terminate()
        self.fails(peer, 'Interrupted', f'--resume={self.uuid}')
        with self.assertRaises(EOFError):
            peer.finish()
        self.assertEqual(self.report('failed')['uuid'], self.uuid)
        self.goes_on(peer)
        self.assertEqual(self.report()['uuid'], self.uuid)

    def test_working_set_across_a_resumption_is_of_its_snapshot(self):
        path = self.path('used')
        peer = self.broken()
        self.not_resumed(self.other, self.uuid,
                         more=['--record', f'--working-set={path}'])
        self.assertFalse(os.path.exists(path))
        self.resume(peer, '--record=0', f'--working-set={path}')
        peer.until(RUNNING)
        peer.request('ram', 100 * PAGE)
        self.completes(peer)
        self.refused('embed', f'--working-set={path}', self.other,
                     causes=['another snapshot'])
        self.succeeds('embed', f'--working-set={path}', self.image)

    def test_load_that_may_not_go_on_connects_to_nothing(self):
        peer = self.broken()
        listener = self.listen()
        self.not_resumed(self.other, self.uuid, self.other_uuid,
                         more=[f'--uri=unix:{self.socket}'])
        listener.settimeout(0)
        with self.assertRaises(BlockingIOError):
            listener.accept()
        self.resume_socket(peer)
        self.completes(peer)

    def test_connection_may_be_accepted_late(self):
        peer = self.broken()
        listener = self.listen()
        os.rename(self.socket, self.socket + '.link')
        process, _, _ = self.begin(f'--uri=unix:{self.socket}.link',
                                   percent=None)
        time.sleep(0.3)
        peer.process = process
        peer.connect(*self.accept(listener))
        self.completes(peer)


class WorkingSet(PostcopyTest):
    """What was asked for is pushed first, the next time."""

    WANTED = [900, 17, 333, 16, 555, 901, 3, 700]
    OTHER = [1, 2, 4]

    @classmethod
    def setUpClass(cls):
        """A recording takes a second at least, so two of them serve all."""
        super().setUpClass()
        cls.files = {}

    def setUp(self):
        super().setUp()
        self.sidecar = self.image + '.working-set'
        if not self.files:
            self.take(dense())
            self.record(self.OTHER)
            os.rename(self.sidecar, self.path('other'))
            self.record(self.WANTED)
            for name in ('image', 'image.working-set', 'other'):
                with open(self.path(name), 'rb') as f:
                    self.files[name] = f.read()
            self.files['snapshot'] = self.snapshot
        self.snapshot = self.files['snapshot']
        for name in ('image', 'image.working-set', 'other'):
            with open(self.path(name), 'wb') as f:
                f.write(self.files[name])
        self.other = self.path('other')

    def record(self, wanted, *options: str):
        """A load in which these pages are asked for, one by one"""
        return self.recorded([('ram', i * PAGE) for i in wanted], *options)

    def pushed(self, *options: str, **kwargs) -> list[int]:
        peer = self.connect(*options, optional=[
            ('ram', i * PAGE) for i in range(9, 1024, 10)], **kwargs)
        stats = self.completes(peer)
        return numbers(peer.arrived)[:stats['working-set-pages']]

    def test_recorded_pages_are_pushed_first(self):
        start = time.monotonic()
        self.record([5, 500])
        self.assertGreaterEqual(time.monotonic() - start, 1)
        self.assertEqual(self.pushed(), [5, 500])
        self.assertEqual(self.pushed('--push=linear'), [])
        self.assertEqual(self.pushed('--push=working-set,linear'), [5, 500])

    def test_zero_pages_of_a_working_set_may_come(self):
        """Zero pages that were asked for may come unasked, no others."""
        self.record([9, 100, 19, 101])
        self.assertEqual([i for i in self.pushed() if i % 10 != 9],
                         [100, 101])

    def test_working_set_is_pushed_before_arrivals(self):
        self.take(dense(first=[800, 13, 601]))
        os.unlink(self.sidecar)
        self.record(self.WANTED)
        peer = self.connect()
        self.completes(peer)
        pushed = push_order([800, 13, 601, 0], self.WANTED)
        self.assertEqual(numbers(peer.arrived)[:len(pushed)], pushed)

    def test_requested_page_overtakes_working_set(self):
        self.record(list(range(0, 1000, 5))[::-1][1::2])
        peer = self.connect('-r', '512k')
        peer.until(RUNNING)
        peer.until_arrived(10)
        peer.request('ram', 1001 * PAGE)
        peer.until_answered()
        # at 512 KiB/s: half of the others take 3 s
        self.assertLess(len(peer.arrived), len(with_data(1000)) // 2)
        peer.process.kill()

    def test_working_set_option_names_the_file(self):
        new = self.path('new')
        self.record([5, 6], f'--working-set={new}')
        self.assertEqual(self.pushed(), self.WANTED)
        self.assertEqual(self.pushed(f'--working-set={new}'), [5, 6])
        self.assertEqual(self.pushed(f'--working-set={self.other}'),
                         self.OTHER)

    def test_load_needs_no_working_set(self):
        os.unlink(self.sidecar)
        self.assertEqual(self.pushed(), [])

    def test_record_replaces_the_file_and_leaves_nothing(self):
        with open(self.sidecar, 'rb') as old:
            self.record([5, 6])
            self.assertEqual(old.read(), self.files['image.working-set'])
        self.assertEqual(self.pushed(), [5, 6])
        self.assertEqual(sorted(os.listdir(self.dir)),
                         ['image', 'image.working-set', 'other', 'report'])

    def test_load_that_fails_keeps_the_old_working_set(self):
        peer = self.connect('--record=1')
        peer.until(RUNNING)
        peer.request('ram', 0)
        peer.until_answered()
        peer.process.kill()
        peer.process.wait()
        self.assertEqual(self.pushed(), self.WANTED)

    def test_working_set_of_another_snapshot_is_ignored(self):
        self.take(dense())
        self.warned()

    def warned(self):
        peer = self.connect()
        stats = self.completes(peer, self.sidecar)
        self.assertEqual(stats['working-set-pages'], 0)

    def test_damaged_working_set_is_ignored(self):
        good = self.files['image.working-set']
        rng = random.Random(6)
        for data in (b'', b'x', good[:-1], good + b'\0', good[:len(good) // 2],
                     bytes(len(good)), *(self.flipped(good, rng)
                                         for _ in range(10))):
            with self.subTest(data[:20]):
                with open(self.sidecar, 'wb') as f:
                    f.write(data)
                self.warned()

    def flipped(self, data: bytes, rng: random.Random) -> bytes:
        """One bit is another."""
        position = rng.randrange(len(data))
        return data[:position] + bytes([
            data[position] ^ 1 << rng.randrange(8)]) + data[position + 1:]

    def test_working_set_that_is_no_file_is_ignored(self):
        os.unlink(self.sidecar)
        os.mkdir(self.sidecar)
        self.warned()

    def test_resumed_load_pushes_rest_of_working_set(self):
        peer = self.connect('-r', '1M')
        peer.until(RUNNING)
        peer.until_arrived(3)
        peer.process.kill()
        with self.assertRaises(EOFError):
            peer.finish()
        left = [i for i in self.WANTED
                if not peer.has(('ram', i * PAGE))]
        before = len(peer.arrived)
        self.resume(peer)
        self.completes(peer)
        self.assertEqual(numbers(peer.arrived[before:])[:len(left)], left)

    # In the image

    def embed(self, *options: str):
        self.assertIn(b'working set', self.succeeds('embed', *options,
                                                    self.image))

    def test_working_set_lies_beside_a_name_with_a_colon(self):
        name = 'vm-2026-11-28T00:50.qcow2'
        os.rename(self.image, self.path(name))
        os.rename(self.sidecar, self.path(name + '.working-set'))
        self.succeeds('embed', name, cwd=self.dir)
        os.rename(self.path(name), self.image)
        self.assertEqual(self.embedded(), len(self.WANTED))

    def embedded(self) -> int:
        """How many pages the image has itself"""
        check = self.tool('check', self.image)
        # A cluster may have leaked, if it was killed
        self.assertIn(check.returncode, (0, 3), check.stderr)
        return self.info().get('working-set') or 0

    def test_embedded_working_set_is_pushed(self):
        self.assertEqual(self.embedded(), 0)
        self.embed()
        if os.path.exists(self.sidecar):
            os.unlink(self.sidecar)
        self.assertEqual(self.embedded(), len(self.WANTED))
        self.assertIn(b'orking set', self.succeeds('info', self.image))
        self.assertEqual(self.pushed(), self.WANTED)
        self.assert_same_stream(self.snapshot.data, self.load())

    def test_working_set_can_be_embedded_in_raw_image(self):
        self.img('convert', '-O', 'raw', self.image, self.path('raw'))
        os.rename(self.path('raw'), self.image)
        self.embed('-f', 'raw')
        self.assertEqual(self.embedded(), len(self.WANTED))

    def test_embed_replaces_the_set_before(self):
        self.embed()
        self.embed(f'--working-set={self.other}')
        self.embed(f'--working-set={self.other}')
        self.assertEqual(self.embedded(), len(self.OTHER))
        if os.path.exists(self.sidecar):
            os.unlink(self.sidecar)
        self.assertEqual(self.pushed(), self.OTHER)

    def test_file_beside_the_image_wins_over_embedded_set(self):
        self.embed()
        os.rename(self.other, self.sidecar)
        self.assertEqual(self.pushed(), self.OTHER)

    def test_embed_without_working_set_is_refused(self):
        os.unlink(self.sidecar)
        self.refused('embed', self.image, causes=[self.sidecar])
        self.refused('embed', self.path('none'), causes=[self.path('none')])

    def test_embed_of_another_snapshots_set_is_refused(self):
        self.take(dense())
        self.refused('embed', self.image, causes=[self.sidecar])

    def test_embed_of_a_damaged_set_is_refused(self):
        with open(self.sidecar, 'r+b') as f:
            f.seek(-3, os.SEEK_END)
            f.write(b'\xff\xee\xdd')
        self.refused('embed', self.image, causes=[self.sidecar])

    def test_embed_is_refused_while_image_is_loaded(self):
        peer = self.connect('--push=none')
        peer.until(RUNNING)
        self.refused('embed', self.image, causes=[self.image, 'lock'])
        for key in peer.missing():
            peer.request(*key)
        self.completes(peer)
        self.embed()

    def test_embedded_set_survives_conversion(self):
        """It is in the disk's content, like all of a snapshot."""
        self.embed()
        self.img('convert', '-O', 'raw', self.image, self.path('raw'))
        os.rename(self.path('raw'), self.image)
        self.assertEqual(self.embedded(), len(self.WANTED))

    def test_killed_embed_leaves_old_or_new_set(self):
        """At any moment: the snapshot is whole, the set old or new."""
        self.embed()
        stream = self.load()
        base = self.copy('image', 'base')
        arguments = ['embed', f'--working-set={self.other}', self.image]

        def duration() -> float:
            start = time.monotonic()
            self.start(*arguments).wait()
            return time.monotonic() - start
        # The first run may be slow, and nothing can be killed once it is over
        whole = min(duration() for _ in range(5))
        rng = random.Random(7)
        killed = 0
        for i in range(25):
            shutil.copyfile(base, self.image)
            process = self.start(*arguments)
            time.sleep(rng.random() * whole)
            process.kill()
            killed += process.wait() == -signal.SIGKILL
            with self.subTest(i):
                self.assertIn(self.embedded(), (0, 3, 8))
        self.assertEqual(self.load(), stream)
        self.assertGreater(killed, 5)


if __name__ == '__main__':
    unittest.main(verbosity=2)
