#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Saves whose pages come over several channels, and sources that do it wrong.
#

import os
import random
import resource
import signal
import socket
import struct
import threading
import time
import unittest

from snaptest import TIMEOUT
from snaptest.faults.stages import Stages
from snaptest.peers.multifd import (DATA_SIZE, FLUSH, SYNC, MultifdBuilder,
                                    MultifdTest, Sender, head, init, packet)
from snaptest.peers.streams import EOS, PAGE as PAGE_FLAG, PART, RAM_ID, name8
from snaptest.tool import pattern, sample
from snaptest.units import MIB, PAGE
from snaptest.waiting import is_pending, wait_until

BATCH = DATA_SIZE // PAGE
SHUT_OK = struct.pack('>HHI', 1, 4, 0)
# Until something that would happen has happened
MOMENT = 0.3


def pages(numbers, version: int = 0, size: int = PAGE) -> dict:
    """Pages of these numbers: offset → data"""
    return {i * size: pattern(i + 100000 * version, size) for i in numbers}


def sync_with_pages(data: bytes) -> bytes:
    """
    The stream of a channel whose thread came to nothing before it was to send
    SYNC: SYNC has the pages of the packet before, and no pages come after it.
    """
    size = len(head())
    packets, at = [], len(init(0))
    while at < len(data):
        _, _, flags, _, nb_normal = struct.unpack_from('>5I', data, at)
        end = at + size + nb_normal * PAGE
        packets.append((flags, bytearray(data[at:end])))
        at = end
    for i in range(1, len(packets)):
        (flags, before), (now, data) = packets[i - 1:i + 1]
        if now == SYNC and flags != SYNC:
            before[8:12], data[8:12] = data[8:12], before[8:12]
            packets[i] = 0, data
    return init(0) + b''.join(data for _, data in packets)


def filled(channels: int = 2, flush: bool = True, blocks=None,
           **kwargs) -> MultifdBuilder:
    """Pages of all sorts, in packets over each of the channels"""
    builder = MultifdBuilder(blocks or [('pc.ram', 4 * MIB),
                                        ('vga.vram', 65536)],
                             channels, flush, **kwargs)
    size = builder.page_size
    number = 0
    for name, length, _ in builder.blocks:
        batch = DATA_SIZE // size
        for first in range(0, length // size, batch):
            numbers = range(first, min(first + batch, length // size))
            builder.packet(number % channels, name,
                           pages([i for i in numbers if i % 5 not in (1, 3)],
                                 size=size),
                           [i * size for i in numbers if i % 5 == 1])
            number += 1
        builder.end_part()
    builder.device('cpu', pattern(1, 1000))
    builder.run_state('running')
    return builder


class MultifdSave(MultifdTest):

    def test_pages_come_over_any_number_of_channels(self):
        for channels in (1, 2, 20):
            for flush in (True, False):
                with self.subTest((channels, flush)):
                    self.save_multifd(filled(channels, flush))
                    self.assertEqual(self.info()['arrivals'], 0)

    def test_last_copy_of_a_page_wins_over_all_rounds(self):
        """Pages come again and again, over any channel."""
        for flush in (True, False):
            with self.subTest(flush):
                rng = random.Random(1)
                builder = MultifdBuilder([('pc.ram', 4 * MIB)], 4, flush)
                for version in range(8):
                    numbers = list(range(1024))
                    rng.shuffle(numbers)
                    for channel in range(4):
                        normal, zero = (
                            numbers[channel * 128 + i:channel * 128 + i + 64]
                            for i in (0, 64))
                        builder.packet(channel, 'pc.ram',
                                       pages(normal, version),
                                       [i * PAGE for i in zero])
                    builder.end_round()
                builder.device('cpu', b'state')
                self.save_multifd(builder)

    def test_page_after_a_sync_wins_though_it_arrives_before(self):
        for flush in (True, False):
            for late in (0, 1):
                with self.subTest((flush, late)):
                    self.overtake(flush, late)

    def overtake(self, flush: bool, late: int):
        builder = MultifdBuilder([('pc.ram', MIB)], 2, flush)
        builder.packet(late, 'pc.ram', pages(range(64)), [64 * PAGE])
        builder.end_round()
        builder.packet(1 - late, 'pc.ram', pages(range(8, 65), 1),
                       [i * PAGE for i in range(8)])
        builder.device('cpu', b'state')
        main, channels = builder.streams()
        process, source = self.begin(2)
        left = source.begin(channels)
        Sender(source.main, main)
        Sender(source.channels[1 - late], left[1 - late])
        time.sleep(MOMENT)
        Sender(source.channels[late], left[late])
        self.end(process)
        self.assert_saved(builder)

    def test_zero_pages_of_packets_and_main_channel_are_zero(self):
        """Of packets, with data again, and of the main channel"""
        for flush in (True, False):
            with self.subTest(flush):
                builder = MultifdBuilder([('pc.ram', 2 * MIB)], 2, flush)
                builder.packet(0, 'pc.ram', pages(range(0, 20)),
                               [i * PAGE for i in range(20, 128)])
                builder.packet(1, 'pc.ram', {}, [i * PAGE for i in
                                                 range(200, 328)])
                builder.zero('pc.ram', 400 * PAGE)
                builder.end_round()
                builder.packet(1, 'pc.ram', pages([25, 205, 400], 1),
                               [i * PAGE for i in range(5, 10)])
                builder.zero('pc.ram', 12 * PAGE)
                builder.end_round()
                builder.zero('pc.ram', 400 * PAGE)
                builder.packet(0, 'pc.ram', {30 * PAGE: bytes(PAGE),
                                             3 * PAGE: bytes(PAGE)})
                builder.device('cpu', b'state')
                self.save_multifd(builder)

    def test_pages_may_come_in_any_order(self):
        """Descending, scattered, and across the writer's buffers"""
        numbers = list(range(10 * BATCH))
        random.Random(2).shuffle(numbers)
        for name, order in (('descending', range(10 * BATCH - 1, -1, -1)),
                            ('scattered', numbers),
                            ('straddling', range(70, 10 * BATCH))):
            with self.subTest(name):
                builder = MultifdBuilder([('pc.ram', 10 * BATCH * PAGE)], 2)
                order = list(order)
                for i in range(0, len(order), BATCH):
                    builder.packet(i // BATCH % 2, 'pc.ram',
                                   pages(order[i:i + BATCH]))
                builder.device('cpu', b'state')
                self.save_multifd(builder)

    def test_other_page_sizes_are_taken(self):
        for bits in (10, 13, 16):
            with self.subTest(bits):
                size = 1 << bits
                self.save_multifd(filled(3, blocks=[('ram', 1500 * size),
                                                    ('rom', size)],
                                         page_bits=bits))

    def test_sync_may_come_with_pages(self):
        """The last packet of a round may say so itself."""
        builder = MultifdBuilder([('pc.ram', MIB)], 1)
        builder.packet(0, 'pc.ram', pages(range(10)), [20 * PAGE], flags=SYNC)
        builder.parts[-1].append(struct.pack('>Q', FLUSH))
        builder.end_part()
        builder.packet(0, 'pc.ram', pages([20]))
        builder.device('cpu', b'state')
        self.save_multifd(builder)

    def test_sync_may_have_a_size_as_before_9_0(self):
        """Before 9.0, a sync has the size of the packet before."""
        builder = MultifdBuilder([('pc.ram', MIB)], 2, False)
        builder.packet(0, 'pc.ram', pages(range(10)), number=1)
        builder.sync(size=10 * PAGE, number=2)
        builder.parts.append([])
        builder.packet(1, 'pc.ram', pages(range(5), 1), number=3)
        builder.device('cpu', b'state')
        self.save_multifd(builder)

    def test_footers_may_come_after_the_channels(self):
        """A source sends footers when its channels have been read from."""
        for flush in (True, False):
            with self.subTest(flush):
                builder = MultifdBuilder([('pc.ram', 8 * MIB)], 2, flush)
                for i in range(2):
                    builder.packet(i, 'pc.ram', pages(range(128 * i,
                                                            128 * i + 128)))
                builder.end_round()
                for i in range(4, 14):
                    builder.packet(i % 2, 'pc.ram', pages(range(128 * i,
                                                                128 * i + 128)))
                builder.device('cpu', b'state')
                main, channels = builder.streams()
                eos = struct.pack('>Q', EOS)
                start = main.index(eos) + len(eos)
                part = main.index(eos, start + 1) + len(eos)
                process, source = self.begin(2)
                left = source.begin(channels)
                source.main.sendall(main[:start])
                source.main.sendall(main[start:part])
                # More than a socket holds comes after the point
                senders = [Sender(connection, data) for connection, data
                           in zip(source.channels, left)]
                for sender in senders:
                    sender.join(TIMEOUT)
                    self.assertFalse(sender.is_alive())
                source.main.sendall(main[part:])
                source.close()
                self.end(process)
                self.assert_saved(builder)

    def test_packets_without_pages_count_for_nothing(self):
        """QEMU before 9.0 sends SYNC with pages, and nothing in its turn."""
        for flush in (True, False):
            with self.subTest(flush):
                builder = MultifdBuilder([('pc.ram', 4 * MIB)], 3, flush)
                for version in range(4):
                    for channel in range(3):
                        numbers = range(version * 100 + channel * 50,
                                        version * 100 + channel * 50 + 128)
                        if channel != version:
                            builder.packet(channel, 'pc.ram',
                                           pages(numbers, version))
                    builder.end_round()
                builder.device('cpu', b'state')
                main, channels = builder.streams()
                channels = [sync_with_pages(data) for data in channels]
                process, source = self.begin(3)
                source.send(main, channels)
                self.end(process)
                self.assert_saved(builder)

    def test_packet_without_pages_after_last_sync_is_taken(self):
        """At any time until the source closes the channel"""
        for finish in (True, False):
            with self.subTest(finish):
                builder = filled()
                main, channels = builder.streams()
                process, source = self.begin(2)
                source.send_channels(source.begin(
                    [data + head() for data in channels]), finish)
                Sender(source.main, main)
                self.end(process)
                self.assert_saved(builder)

    def test_channel_stays_open_for_a_packet_without_pages(self):
        """The image is in place, but the source has not completed."""
        builder = filled()
        main, channels = builder.streams()
        process, source = self.begin(2)
        source.send(main[:-10], channels, finish=False)
        wait_until(lambda: os.path.exists(self.image), TIMEOUT)
        for channel in source.channels:
            channel.sendall(head())
        Sender(source.main, main[-10:])
        self.end(process)
        self.assert_saved(builder)

    def test_channel_stays_open_for_a_packet_after_the_answer(self):
        """A source has the answer, and a thread has not had its turn."""
        builder = filled()
        builder.open_return_path()
        main, channels = builder.streams()
        process, source = self.begin(2)
        source.send(main, channels, finish=False)
        self.assertEqual(source.main.recv(8), SHUT_OK)
        for channel in source.channels:
            channel.sendall(head())
        source.close()
        self.end(process)
        self.assert_saved(builder)

    def test_stream_without_pages_is_saved(self):
        for flush in (True, False):
            with self.subTest(flush):
                builder = MultifdBuilder([('pc.ram', MIB)], 2, flush)
                builder.device('cpu', b'state')
                self.save_multifd(builder)

    def test_more_channels_than_buffers_do_not_block(self):
        """More channels in the middle of a packet than there are buffers"""
        builder = MultifdBuilder([('pc.ram', 24 * MIB)], 24)
        for i in range(24):
            builder.packet(i, 'pc.ram', pages(range(256 * i + 100,
                                                    256 * i + 228)))
        builder.device('cpu', b'state')
        main, channels = builder.streams()
        process, source = self.begin(24)
        left = source.begin(channels)
        source.main.sendall(main)
        left = source.begin(left, 50000)
        time.sleep(MOMENT)
        source.send(b'', left)
        self.end(process)
        self.assert_saved(builder)

    def test_channels_may_connect_in_any_order(self):
        """The number of a channel is not when it is connected."""
        builder = filled(3)
        main, channels = builder.streams()
        process, source = self.begin(3)
        source.send(main, channels[::-1])
        self.end(process)
        self.assert_saved(builder)

    def test_source_gets_its_answer_with_channels_open(self):
        builder = filled()
        builder.open_return_path()
        main, channels = builder.streams()
        process, source = self.begin(2)
        source.send(main, channels, finish=False)
        self.assertEqual(source.main.recv(8), SHUT_OK)
        self.end(process)
        self.assert_saved(builder)

    def test_channels_may_close_after_last_sync(self):
        builder = filled(2)
        main, channels = builder.streams()
        process, source = self.begin(2)
        source.send_channels(source.begin(channels))
        at = len(main) - 30
        source.main.sendall(main[:at])
        time.sleep(MOMENT)
        Sender(source.main, main[at:])
        self.end(process)
        self.assert_saved(builder)

    def test_existing_target_is_saved_to(self):
        self.img('create', '-f', 'qcow2', self.image, '1G')
        self.save_multifd(filled(), '-n')


class PlainSource(MultifdTest):
    """A source without multifd"""

    def plain(self, process, source, data: bytes):
        Sender(source.main, data)
        self.end(process)
        self.assert_same_stream(data, self.load())

    def test_stream_without_multifd_is_saved(self):
        self.plain(*self.begin(0), sample().build())

    def test_silent_connections_do_no_harm(self):
        """Somebody else is connected, and says nothing."""
        self.plain(*self.begin(3), sample().build())

    def test_connection_that_is_closed_at_once_does_no_harm(self):
        """Somebody looked whether there is a socket."""
        process, source = self.begin(2)
        for connection in source.channels:
            connection.close()
        self.plain(process, source, sample().build())


class Hostile(MultifdTest):

    def setUp(self):
        super().setUp()
        self.builder = filled()
        self.main, self.channels = self.builder.streams()
        # up to where the channels are read from
        builder = MultifdBuilder(self.builder.blocks)
        self.started = self.main[:len(builder.header() + builder.ram_start())]

    def said(self, main: bytes, channels: list[bytes], *causes: str,
             finish: bool = True, options=()) -> str:
        """What a save says to these streams"""
        process, source = self.begin(len(channels), *options)
        source.send(main, channels, finish)
        error = self.fails(process, self.image, *causes)
        source.close()
        return error

    def unsynced(self, channel: int) -> bytes:
        """All of a channel but its last sync"""
        return self.channels[channel][:-len(head(flags=SYNC))]


class HostileChannels(Hostile):
    """They do not come, or say what they should not."""

    def test_missing_channels_are_refused(self):
        for main in (self.main, filled(flush=False).streams()[0].replace(
                struct.pack('>BI', PART, RAM_ID), struct.pack(
                    '>BIQ', PART, RAM_ID, FLUSH))):
            self.said(main, [], 'multifd', '--uri=unix:PATH')

    def test_silent_channels_are_refused(self):
        self.said(self.main, [b'', b''], 'channels have not come',
                  finish=False)

    def test_wrong_handshake_is_refused(self):
        good = self.channels[0][64:]
        for data, cause in ((init(0, magic=0x44332211) + good,
                             'in multifd handshake'),
                            (self.main, 'in multifd handshake'),
                            (init(0, version=2) + good, 'version 2'),
                            (init(0)[:20], 'end-of-file'),
                            (b'x', 'end-of-file')):
            for bad in (0, 1):
                with self.subTest((data[:64], bad)):
                    channels = list(self.channels)
                    channels[bad] = data
                    self.said(self.main, channels, f'channel {bad}', cause)

    def bad_packets(self):
        return (
            (head(magic=1), 'magic 0x00000001 in multifd packet'),
            (head(version=3), 'version 3'),
            (head(flags=2), 'multifd-compression'),
            (head(flags=32), 'multifd-compression'),
            (head(flags=0x40), 'device state'),
            (head(flags=0x80), 'unknown'),
            (head('pc.ram', nb_zero=129), '129'),
            (head('pc.ram', nb_normal=129, size=129 * PAGE), '129'),
            (head('pc.ram', nb_normal=1, nb_zero=0xffffffff, size=PAGE),
             'packet'),
            (head('pc.ram', [0], size=0), 'bytes'),
            (head('pc.ram', [0], size=2 * PAGE), 'bytes'),
            (head('pc.rom', [0]), 'block'),
            (head('', [0]), 'block'),
            (head('x' * 256, [0]), 'block'),
            (head('pc.ram\n', [0]), 'block'),
            (head('pc.ram', [512]), 'pc.ram'),
            (head('pc.ram', [4 * MIB]), 'pc.ram', '0x400000'),
            (head('pc.ram', [], [-PAGE % (1 << 64)]), 'pc.ram'),
            (bytes(4096), 'packet'),
        )

    def test_wrong_packet_is_refused_at_once(self):
        """At once, whoever is waited for"""
        for data, *causes in self.bad_packets():
            data += bytes(PAGE)
            with self.subTest(causes):
                self.said(self.main, [init(0) + data, self.channels[1]],
                          'channel 0 of multifd', *causes)
            with self.subTest(('main is silent', *causes)):
                self.said(self.started, [self.channels[0], self.unsynced(1) +
                                         data],
                          'channel 1 of multifd', *causes, finish=False)

    def test_wrong_packet_is_refused_while_others_wait(self):
        """The main channel waits at a sync for a channel that is silent."""
        bad = init(0) + head(magic=1)
        self.said(self.main, [bad, init(1)], 'channel 0', 'packet',
                  finish=False)

    def test_flipped_bits_never_crash_a_save(self):
        rng = random.Random(3)
        for i in range(30):
            channels = [bytearray(data) for data in self.channels]
            data = channels[i % 2]
            at = rng.randrange(64) if i % 3 == 0 else 64 + rng.randrange(36)
            data[at] ^= 1 << rng.randrange(8)
            with self.subTest((i, at)):
                process, source = self.begin(2)
                source.send(self.main, channels)
                process.communicate(timeout=TIMEOUT)
                self.assertIn(process.returncode, (0, 1))
                source.close()


class EarlyEnds(Hostile):
    """Channels that end early, or not where they should"""

    def test_channel_closed_in_a_packet_fails_save(self):
        """In its head, and in its data, while the main channel waits"""
        size = len(head())
        for at in (64 + 1, 64 + size - 1, 64 + 2 * size - 1,
                   64 + 2 * size + 1, 64 + 2 * size + 10 * PAGE):
            for main in (self.main, self.started):
                with self.subTest((at, len(main))):
                    process, source = self.begin(2)
                    left = source.begin(self.channels)
                    Sender(source.main, main, finish=False)
                    Sender(source.channels[1], left[1], finish=False)
                    source.channels[0].sendall(left[0][:at - 64])
                    source.channels[0].close()
                    self.fails(process, self.image, 'channel 0 of multifd')

    def test_channel_closed_while_others_hold_buffers_fails_save(self):
        builder = MultifdBuilder([('pc.ram', 24 * MIB)], 24)
        for i in range(24):
            builder.packet(i, 'pc.ram', pages(range(256 * i, 256 * i + 128)))
        main, channels = builder.streams()
        for main in (main, main[:len(self.started)]):
            with self.subTest(len(main)):
                process, source = self.begin(24)
                left = source.begin(channels)
                Sender(source.main, main, finish=False)
                source.begin(left, 3 * len(head()))
                time.sleep(MOMENT)
                source.channels[3].close()
                self.fails(process, self.image, 'channel 3 of multifd')

    def test_channel_closed_before_sync_fails_save(self):
        for data in (init(0), init(0) + head(flags=SYNC), self.unsynced(0)):
            with self.subTest(len(data)):
                self.said(self.main, [data, self.channels[1]],
                          'multifd', 'too early')

    def test_channel_closed_while_main_waits_fails_save(self):
        """The main channel is at a sync that a channel never comes to."""
        process, source = self.begin(2)
        left = source.begin(self.channels, 64 + len(head()))
        Sender(source.main, self.main, finish=False)
        Sender(source.channels[1], left[1], finish=False)
        time.sleep(MOMENT)
        source.channels[0].close()
        self.fails(process, self.image, 'multifd', 'too early')

    def test_killed_source_fails_save(self):
        """As if the source was killed, at any time"""
        rng = random.Random(4)
        for i in range(12):
            with self.subTest(i):
                process, source = self.begin(2)
                cut = [data[:rng.randrange(64, len(data) - 1)]
                       for data in self.channels]
                source.send(self.main[:rng.randrange(1, len(self.main) - 60)],
                            cut)
                self.fails(process, self.image)
                source.close()

    def sent_after_last_sync(self, data: bytes):
        """
        A save of a channel that sends @data after all of its stream.  Nobody
        reads it before the main channel has come to its last flush, so it has
        to fit into a socket's buffer.
        """
        process, source = self.begin(2)
        left = source.begin([self.channels[0], self.channels[1] + data])
        at = len(self.main) - len(self.builder.devices) - 60
        Sender(source.main, self.main[:at], finish=False)
        for sender in source.send_channels(left, finish=False):
            sender.join()
        source.main.sendall(self.main[at:])
        source.close()
        return process

    def test_pages_after_last_sync_are_refused(self):
        """Nobody waits for them: they would be lost, or not."""
        for data in (packet('pc.ram', pages(range(4), 5)),
                     head('pc.ram', [], [0]),
                     head() + head('pc.ram', [], [0]),
                     packet('pc.ram', pages([0]), flags=SYNC),
                     packet('pc.ram', pages(range(4), 5))[:-1]):
            with self.subTest(len(data)):
                process = self.sent_after_last_sync(data)
                self.fails(process, self.image, 'multifd channel 1 sent pages '
                           'after the last SYNC')

    def test_sync_after_last_sync_is_refused(self):
        """A point that only one channel knows of"""
        for data in (head(flags=SYNC), head() + head(flags=SYNC)):
            with self.subTest(len(data)):
                process = self.sent_after_last_sync(data)
                self.fails(process, self.image, 'multifd channel 1 sent more '
                           'SYNCs than the main channel')

    def test_endless_packets_after_last_sync_are_refused(self):
        """A source sends one at most."""
        process = self.sent_after_last_sync(head() * 20)
        self.fails(process, self.image, 'multifd channel 1 sent more than 16 '
                   'packets after the last SYNC')

    def test_pages_after_image_is_in_place_are_refused(self):
        process, source = self.begin(2)
        source.send(self.main[:-10], self.channels, finish=False)
        wait_until(lambda: os.path.exists(self.image), TIMEOUT)
        source.channels[0].sendall(head('pc.ram', [], [0]))
        self.fails(process, self.image, 'multifd channel 0 sent pages after '
                   'the last SYNC')


class DisturbedSave(Hostile):
    """The main channel, the storage and the user"""

    def test_closed_main_channel_fails_save(self):
        """While the channels wait for it, or have more to say"""
        for channels in (self.channels, [self.unsynced(0), self.unsynced(1)]):
            for main in (self.started, self.started[:-5], self.main[:-200],
                         self.started + self.main[len(self.started):][:40]):
                with self.subTest(len(main)):
                    process, source = self.begin(2)
                    source.send_channels(source.begin(channels), finish=False)
                    source.main.sendall(main)
                    source.main.close()
                    if main == self.main[:-200] and \
                            channels is not self.channels:
                        # it waits for the channels, not for the main one
                        time.sleep(MOMENT)
                        source.close()
                    self.fails(process, self.image)

    def test_cut_main_channel_fails_save_with_all_buffers_taken(self):
        """After a page with data, while channels take all of the buffers"""
        builder = MultifdBuilder([('pc.ram', 24 * MIB)], 2)
        for i in range(1, 24):
            builder.packet(i % 2, 'pc.ram', pages(range(256 * i,
                                                        256 * i + 128)))
        _, channels = builder.streams()
        record = struct.pack('>BIQ', PART, RAM_ID, PAGE_FLAG) + \
            name8('pc.ram')
        process, source = self.begin(2)
        left = source.begin(channels)
        source.main.sendall(builder.header() + builder.ram_start() + record +
                            bytes(100))
        source.send_channels(left)
        time.sleep(MOMENT)
        source.main.sendall(bytes(PAGE - 100))
        source.close()
        self.fails(process, self.image)

    def test_image_size_smaller_than_ram_is_refused(self):
        self.said(self.main, self.channels, 'image size', options=['-s', '1M'])

    def test_write_error_fails_save_at_any_time(self):
        """Whenever it is, also before the channels are read from"""
        disk = self.path('disk')
        self.img('create', '-f', 'qcow2', disk, '1G')
        for event in ('write_aio', 'flush_to_disk', 'cluster_alloc',
                      'l2_update'):
            with self.subTest(event):
                process, source = self.begin(
                    2, '-n', '--image-opts', image='driver=qcow2,'
                    'file.driver=blkdebug,file.image.driver=file,'
                    f'file.image.filename={disk},'
                    f'file.inject-error.0.event={event}')
                source.send(self.main, self.channels)
                self.assertIn('error', self.end(process, 1))
                source.close()

    def test_more_channels_than_descriptors_fail_save(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

        channels = [init(i) for i in range(100)]
        process, source = self.begin(100, preexec_fn=limit)
        source.send(self.main, channels, finish=False)
        self.fails(process)

    def interrupted(self, process):
        time.sleep(MOMENT)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.fails(process, self.image, 'interrupted')

    def test_signal_ends_save_whatever_it_waits_for(self):
        size = len(head())
        for main in (self.started[:-20], self.started, self.main):
            for ends in ((64, 64), (64 + size, 64), (64 + 3 * size,
                                                     64 + 3 * size),
                         (64 + size, len(self.channels[1]))):
                with self.subTest((len(main), ends)):
                    process, source = self.begin(2)
                    source.send(main, [data[:end] for data, end in zip(
                        self.channels, ends)], finish=False)
                    self.interrupted(process)
                    source.close()

    def test_signal_ends_save_before_it_waits_for_channels(self):
        """The signal comes while the image is written to, and nothing else."""
        self.img('create', '-f', 'raw', self.image, '1G')
        stages = Stages(self.path('.'), self.image)
        variables = stages.prefix('fdatasync', 1)[1:]
        process, source = self.begin(
            2, '-n', '-O', 'raw', '--aio=threads',
            env=dict(os.environ, **dict(v.split('=', 1) for v in variables)))
        source.send(self.started, [init(0), init(1)], finish=False)
        self.assertTrue(stages.held(lambda: process.poll() is not None),
                        process.poll() and process.stderr.read())
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_pending(process.pid, signal.SIGTERM),
                   TIMEOUT)
        stages.release()
        self.assertIn('Interrupted', self.end(process, 1))

    def test_signal_ends_save_while_channels_send_endlessly(self):
        for data in (head() * 100, packet('pc.ram', pages(range(BATCH)))):
            with self.subTest(len(data)):
                process, source = self.begin(2)
                source.begin([init(i) + head(flags=SYNC) for i in range(2)],
                             1 << 20)
                source.main.sendall(self.started)
                for connection in source.channels:
                    threading.Thread(target=flood, args=(connection, data),
                                     daemon=True).start()
                self.interrupted(process)


def flood(connection: socket.socket, data: bytes):
    """Send until nobody wants it any more."""
    try:
        while True:
            connection.sendall(data)
    except OSError:
        pass


if __name__ == '__main__':
    unittest.main(verbosity=2)
