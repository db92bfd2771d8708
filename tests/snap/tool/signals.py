#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Signals while the tool is blocked: it opens an image, or waits for QEMU
#

import collections
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from snaptest.faults.preload import build_library
from snaptest.tool import REFUSAL, ToolTest, sample
from snaptest.units import MIB

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What holds the tool does so for good, so this is no measure of speed.
TIMEOUT = 30

# A driver whose library waits in the main thread
BLOCKED_OPEN = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

int open64(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    mode_t mode = 0;
    va_list ap;

    while (strstr(path, "/blocked")) {
        pause();
    }
    va_start(ap, flags);
    if (flags & O_CREAT) {
        mode = va_arg(ap, mode_t);
    }
    va_end(ap);
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
    __attribute__((alias("open64")));
'''

# Storage that takes its time to allocate an image
BLOCKED_ALLOCATION = r'''
#include <fcntl.h>
#include <unistd.h>

int posix_fallocate64(int fd, off_t offset, off_t length)
{
    for (;;) {
        pause();
    }
}

int posix_fallocate(int fd, off_t offset, off_t length)
    __attribute__((alias("posix_fallocate64")));
'''

# A library with a thread of its own, which is there before main()
THREAD = r'''
#include <pthread.h>
#include <unistd.h>

static void *wait_for_nothing(void *opaque)
{
    for (;;) {
        pause();
    }
}

static void __attribute__((constructor)) start(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, wait_for_nothing, NULL);
}
'''

# Time between bind() and listen()
SLOW_LISTEN = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

int listen(int fd, int backlog)
{
    int (*real)(int, int) = dlsym(RTLD_NEXT, "listen");

    usleep(300000);
    return real(fd, backlog);
}
'''


# How many saves and loads have been ended
ended = collections.Counter()


def tearDownModule():
    for verb, number in ended.items():
        print(f'# {number} signals to {verb}s that were blocked: a line, a '
              'report, and nothing is left', file=sys.stderr)


class SignalTest(ToolTest):

    def setUp(self):
        super().setUp()
        self.stream = sample([('ram', 2 * MIB)]).build()
        self.save(self.stream)
        self.server = f'nbd:unix:{self.path("server")}'

    def preloaded(self, name: str, source: str, *flags: str) -> dict:
        """Arguments of a command that runs with a library"""
        library = build_library(self.dir, name, source, *flags)
        return {'env': dict(os.environ, LD_PRELOAD=library)}

    def listen(self, name: str, backlog: int = 8) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path(name))
        listener.listen(backlog)
        return listener

    def silent_server(self) -> socket.socket:
        """Somebody who accepts connections, and never says a word"""
        return self.listen('server')

    def accepted(self, listener: socket.socket):
        listener.settimeout(TIMEOUT)
        peer = listener.accept()[0]
        self.addCleanup(peer.close)

    def handles(self, process, number: int = signal.SIGTERM) -> bool:
        with open(f'/proc/{process.pid}/status', encoding='ascii') as f:
            mask = next(line for line in f if line.startswith('SigBlk:'))
        return bool(int(mask.split()[1], 16) & 1 << number - 1)

    def sleeps(self, process) -> bool:
        with open(f'/proc/{process.pid}/stat', encoding='ascii') as f:
            return f.read().rpartition(')')[2].split()[0] == 'S'

    def blocked(self, process):
        """Wait until it takes signals, and has nothing to do."""
        self.wait_for(lambda: self.handles(process), 'handling of signals')
        self.wait_for(lambda: self.sleeps(process), 'sleep')

    def begin(self, verb: str, image: str, *options: str, **kwargs):
        """Start it with a report; self.ends() compares with what is there."""
        self.report = self.path('report')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.report)
        self.before = self.tree()
        return self.start(*options, '--report', self.report, verb, image,
                          **kwargs)

    def ends(self, process, number: int, verb: str, image: str,
             sent: bytes = b'', errors: tuple = ('Interrupted',)):
        """
        A signal ends it as at any other moment: a line with one of the errors,
        a report, exit status 1, a refusal if that can be sent; and nothing is
        left.
        """
        process.send_signal(number)
        self.assertEqual(process.wait(TIMEOUT), 1, process.stderr.peek())
        lines = {f"qemu-snap: Could not {verb} '{image}': {error}\n": error
                 for error in errors}
        line = process.stderr.read().decode()
        self.assertIn(line, lines)
        error = lines[line]
        self.assertEqual(process.stdout.read(), sent)
        with open(self.report, encoding='utf-8') as f:
            report = json.load(f)
        self.assertEqual((report['verb'], report['status'], report['error'],
                          report['image']),
                         (verb, 'failed', error, image))
        os.unlink(self.report)
        self.assertEqual(self.tree(), self.before)
        ended[verb] += 1


class SignalWhileOpening(SignalTest):
    """The image cannot be opened, but goes on to try."""

    def load_ends(self, image: str, listener, *options: str,
                  number: int = signal.SIGTERM, sent: bytes = REFUSAL):
        process = self.begin('load', image, *options)
        self.accepted(listener)
        self.ends(process, number, 'load', image, sent)

    def test_load_from_silent_server_ends(self):
        listener = self.silent_server()
        for number in SIGNALS:
            with self.subTest(number):
                self.load_ends(self.server, listener, number=number)

    def test_load_by_image_options_ends(self):
        listener = self.silent_server()
        options = f'driver=nbd,server.type=unix,server.path={self.dir}/server'
        self.load_ends(options, listener, '--image-opts')

    def test_load_with_silent_backing_file_ends(self):
        listener = self.silent_server()
        image = self.path('overlay')
        self.img('create', '-q', '-u', '-f', 'qcow2', '-F', 'raw',
                 '-b', self.server, image, '1M')
        self.load_ends(image, listener, '--backing-chain')

    def test_load_by_postcopy_ends(self):
        self.load_ends(self.server, self.silent_server(), '--postcopy')

    def test_resumption_sends_nothing(self):
        """There, a byte would be a valid end of the stream."""
        self.load_ends(self.server, self.silent_server(), '--resume', sent=b'')

    def test_load_over_descriptor_ends(self):
        listener = self.silent_server()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = self.begin('load', self.server,
                                 f'--uri=fd:{theirs.fileno()}',
                                 pass_fds=[theirs.fileno()])
            theirs.close()
            self.accepted(listener)
            self.ends(process, signal.SIGTERM, 'load', self.server)
            self.assertEqual(ours.recv(8), REFUSAL)
            self.assertEqual(ours.recv(8), b'')

    def test_load_over_sockets_ends(self):
        listener = self.silent_server()
        channel = self.listen('channel')
        process = self.begin('load', self.server,
                             f'--uri=unix:{self.path("channel")}')
        peer = channel.accept()[0]
        with peer:
            self.accepted(listener)
            self.ends(process, signal.SIGTERM, 'load', self.server)
            self.assertEqual(peer.recv(8), REFUSAL)
            self.assertEqual(peer.recv(8), b'')

    def test_load_that_listened_removes_its_socket(self):
        listener = self.silent_server()
        path = self.path('channel')
        process = self.begin('load', self.server,
                             f'--uri=unix:{path},server=on')
        self.wait_for(lambda: os.path.exists(path), 'socket')
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            self.accepted(listener)
            self.ends(process, signal.SIGTERM, 'load', self.server)
            self.assertEqual(peer.recv(8), REFUSAL)

    def test_save_to_silent_server_ends(self):
        listener = self.silent_server()
        for number in SIGNALS:
            with self.subTest(number):
                process = self.begin('save', self.server, '-n', '-O', 'raw')
                self.accepted(listener)
                self.ends(process, number, 'save', self.server)

    def test_save_with_blocked_creation_ends(self):
        """The temporary goes, too."""
        allocation = self.preloaded('allocation', BLOCKED_ALLOCATION)
        for name in ('image', 'fresh'):
            with self.subTest(name):
                image = self.path(name)
                temporary = self.path(f'.{name}.saving')
                process = self.begin('save', image, '-o',
                                     'preallocation=falloc', **allocation)
                process.stdin.write(self.stream[:len(self.stream) // 2])
                process.stdin.flush()
                self.wait_for(lambda: os.path.exists(temporary), 'temporary')
                self.blocked(process)
                self.ends(process, signal.SIGTERM, 'save', image)

    def test_blocked_library_ends(self):
        """Nothing of the tool runs meanwhile, not even its main loop."""
        library = self.preloaded('open', BLOCKED_OPEN)
        image = self.copy('image', 'blocked')
        for number in SIGNALS:
            with self.subTest(number):
                process = self.begin('load', image, **library)
                self.blocked(process)
                self.ends(process, number, 'load', image, REFUSAL)
        process = self.begin('save', image, '-n', **library)
        self.blocked(process)
        self.ends(process, signal.SIGTERM, 'save', image)

    def test_blocked_secret_ends(self):
        """An object that reads a FIFO nobody writes to"""
        fifo = self.path('fifo')
        os.mkfifo(fifo)
        secret = ('--object', f'secret,id=s,file={fifo}')
        for verb, options, sent in (('save', [], b''),
                                    ('load', [], REFUSAL),
                                    ('load', ['--resume'], b'')):
            for number in SIGNALS:
                with self.subTest((verb, options, number)):
                    process = self.begin(verb, self.image, *secret, *options)
                    self.blocked(process)
                    self.ends(process, number, verb, self.image, sent)

    def test_blocked_trace_ends(self):
        fifo = self.path('fifo')
        os.mkfifo(fifo)
        process = self.begin('save', self.image, '-T',
                             f'enable=snap_save_*,file={fifo}')
        self.blocked(process)
        self.ends(process, signal.SIGTERM, 'save', self.image)

    def test_bad_object_is_refused(self):
        missing = ('--object', f'secret,id=s,file={self.path("missing")}')
        for verb in ('save', 'load', 'info', 'check'):
            self.refused(verb, self.image, *missing, causes=['missing'])
        self.assertEqual(self.tool('load', self.image, *missing).stdout,
                         REFUSAL)

    def test_slow_image_sends_refusal(self):
        """
        What it holds does not come.  When the signal does, it may not have been
        opened yet.
        """
        options = ('driver=throttle,throttle-group=slow,file.driver=qcow2,'
                   f'file.file.driver=file,file.file.filename={self.image}')
        process = self.begin(
            'load', options, '--image-opts', '--backing-chain', '--object',
            'throttle-group,id=slow,x-bps-total=1')
        self.blocked(process)
        self.ends(process, signal.SIGTERM, 'load', options, REFUSAL,
                  ('Interrupted', 'Interrupted, and storage does not answer'))

    def test_other_verbs_die_by_the_signal(self):
        listener = self.silent_server()
        for verb in ('info', 'check', 'embed'):
            for number in SIGNALS:
                with self.subTest((verb, number)):
                    process = self.start(verb, '-f', 'raw', self.server,
                                         '--working-set=x'
                                         if verb == 'embed' else '-q')
                    self.accepted(listener)
                    process.send_signal(number)
                    self.assertEqual(process.wait(TIMEOUT), -number)


class SignalWhileConnecting(SignalTest):
    """Nobody connects, or accepts."""

    def end_listener(self, verb: str, *, uri: str = '', number: int):
        path = self.path('channel')
        process = self.begin(verb, self.image, f'--uri=unix:{path}{uri}')
        self.wait_for(lambda: os.path.exists(path), 'socket')
        self.ends(process, number, verb, self.image)

    def test_listening_save_ends(self):
        for number in SIGNALS:
            with self.subTest(number):
                self.end_listener('save', number=number)

    def test_listening_load_ends(self):
        for number in SIGNALS:
            with self.subTest(number):
                self.end_listener('load', uri=',server=on', number=number)

    def test_listening_at_long_path_ends(self):
        """There is no place for another name beside it."""
        deep = os.path.join(self.dir, 'x' * (106 - len(self.dir) - 10))
        os.mkdir(deep)
        path = os.path.join(deep, 'channel')
        process = self.begin('save', self.image, f'--uri=unix:{path}')
        self.wait_for(lambda: os.path.exists(path), 'socket')
        self.ends(process, signal.SIGTERM, 'save', self.image)

    def end_connecting(self, verb: str, *options: str, full: bool = True,
                       number: int = signal.SIGTERM):
        """One connection waits to be accepted, and no second one can."""
        path = self.path('channel')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = self.listen('channel', 0)
        if full:
            first = socket.socket(socket.AF_UNIX)
            self.addCleanup(first.close)
            first.connect(path)
        process = self.begin(verb, self.image, f'--uri=unix:{path}', *options)
        if not full:
            self.assertTrue(select.select([listener], [], [], TIMEOUT)[0])
        self.blocked(process)
        self.ends(process, number, verb, self.image)

    def test_connecting_load_ends(self):
        for number in SIGNALS:
            with self.subTest(number):
                self.end_connecting('load', number=number)

    def test_connecting_save_ends(self):
        path = self.path('channel')
        listener = self.listen('channel', 0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            process = self.begin('save', self.image,
                                 f'--uri=unix:{path},server=off')
            self.blocked(process)
            self.ends(process, signal.SIGTERM, 'save', self.image)
        listener.close()

    def test_load_over_several_channels_ends(self):
        self.end_connecting('load', '--multifd-channels=2', full=False)

    def test_load_with_second_channel_ends(self):
        self.end_connecting('load', '--postcopy', '--preempt', full=False)


class SocketFile(SignalTest):
    """Who waits for the socket's file can connect as soon as it is there."""

    def connect_at_once(self, **kwargs):
        path = self.path('channel')
        process = self.begin('save', self.image, f'--uri=unix:{path}',
                             **kwargs)
        with socket.socket(socket.AF_UNIX) as peer:
            deadline = time.monotonic() + TIMEOUT
            while not os.path.exists(path):
                self.assertLess(time.monotonic(), deadline)
            peer.connect(path)
            peer.sendall(self.stream)
        self.assertEqual(process.wait(TIMEOUT), 0, process.stderr.peek())
        self.assertFalse(os.path.exists(path))

    def test_socket_appears_when_it_accepts(self):
        self.connect_at_once()
        self.connect_at_once(**self.preloaded('listen', SLOW_LISTEN))

    def test_dead_socket_is_replaced(self):
        self.listen('channel').close()
        process = self.begin('save', self.image,
                             f'--uri=unix:{self.path("channel")}')

        def connect():
            with socket.socket(socket.AF_UNIX) as peer, \
                    contextlib.suppress(ConnectionRefusedError):
                peer.connect(self.path('channel'))
                peer.sendall(self.stream)
                return True
            return False
        self.wait_for(connect, 'connection')
        self.assertEqual(process.wait(TIMEOUT), 0, process.stderr.peek())

    def test_only_the_own_socket_is_removed(self):
        """Somebody else has taken the path since."""
        path = self.path('channel')
        process = self.begin('save', self.image, f'--uri=unix:{path}')
        self.wait_for(lambda: os.path.exists(path), 'socket')
        os.unlink(path)
        self.listen('channel')
        self.before[path] = self.tree()[path]
        self.ends(process, signal.SIGTERM, 'save', self.image)


class SignalToThread(SignalTest):
    """A signal may be delivered to a thread that knows nothing of the tool."""

    def setUp(self):
        super().setUp()
        self.thread = self.preloaded('thread', THREAD, '-pthread')

    def test_signal_to_a_thread_ends_save(self):
        for number in SIGNALS:
            with self.subTest(number):
                process = self.begin('save', self.image, **self.thread)
                process.stdin.write(self.stream[:len(self.stream) // 2])
                process.stdin.flush()
                self.wait_for(
                    lambda: os.path.exists(self.path('.image.saving')),
                    'temporary')
                self.ends(process, number, 'save', self.image)

    def test_signal_to_a_thread_ends_load(self):
        """Its reader has had a byte, and takes no more."""
        for number in SIGNALS:
            with self.subTest(number):
                self.save(sample([('ram', 4 * MIB)]).build())
                process = self.begin('load', self.image, **self.thread)
                self.assertEqual(process.stdout.read(1), b'Q')
                self.blocked(process)
                process.send_signal(number)
                process.stdin.close()
                self.assertEqual(process.wait(TIMEOUT), 1)
                self.assertIn(b'Interrupted', process.stderr.read())

    def test_signal_to_a_thread_ends_load_that_opens(self):
        listener = self.silent_server()
        for number in SIGNALS:
            with self.subTest(number):
                process = self.begin('load', self.server, **self.thread)
                self.accepted(listener)
                self.ends(process, number, 'load', self.server, REFUSAL)

    def test_signal_to_a_thread_ends_listening_save(self):
        path = self.path('channel')
        process = self.begin('save', self.image, f'--uri=unix:{path}',
                             **self.thread)
        self.wait_for(lambda: os.path.exists(path), 'socket')
        self.ends(process, signal.SIGTERM, 'save', self.image)

    def test_late_signals_change_nothing(self):
        """Many signals while it ends: one outcome, and one line"""
        for _ in range(20):
            process = self.begin('save', self.image, **self.thread)
            stop = threading.Event()

            def pelt(process=process, stop=stop):
                while not stop.is_set():
                    process.send_signal(signal.SIGTERM)

            self.blocked(process)
            thread = threading.Thread(target=pelt)
            thread.start()
            try:
                self.assertEqual(process.wait(TIMEOUT), 1)
            finally:
                stop.set()
                thread.join()
            self.assertEqual(process.stderr.read().count(b'\n'), 1)
            os.unlink(self.report)
            self.assertEqual(self.tree(), self.before)


class IgnoredSignal(SignalTest):

    def test_ignored_signal_stays_ignored(self):
        """As SIGHUP is under nohup"""
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        process = self.begin('save', self.image, preexec_fn=ignore)
        process.stdin.write(self.stream[:len(self.stream) // 2])
        process.stdin.flush()
        self.wait_for(lambda: os.path.exists(self.path('.image.saving')),
                      'temporary')
        process.send_signal(signal.SIGHUP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.stdin.write(self.stream[len(self.stream) // 2:])
        process.stdin.close()
        self.assertEqual(process.wait(TIMEOUT), 0, process.stderr.peek())


if __name__ == '__main__':
    unittest.main(verbosity=2)
