# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the tests of the tool have in common
#
"""Run the tool on streams and images, without a VM."""

import hashlib
import json
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import time
import unittest

from snaptest import TIMEOUT, env
from snaptest.peers.decode import Stream
from snaptest.peers.streams import StreamBuilder
from snaptest.sanitizers import (is_sanitized, limit_allocations,
                                 watch_sanitizers)
from snaptest.units import MIB, PAGE

# What is no stream, and tells a destination of a failure
REFUSAL = bytes(4)


def pattern(number: int, size: int = PAGE) -> bytes:
    """A page that no other number has, and that is not all one byte"""
    return hashlib.shake_128(b'%d' % number).digest(size)


def sample(blocks=None, **kwargs) -> StreamBuilder:
    """A stream with pages of all sorts: stored, zero and never sent"""
    builder = StreamBuilder(blocks or [('pc.ram', MIB), ('vga.vram', 65536)],
                            **kwargs)
    size = builder.page_size
    for name, length, _ in builder.blocks:
        for i in range(length // size):
            if i % 5 == 3:
                continue
            if i % 5 == 1:
                builder.zero(name, i * size)
            else:
                builder.page(name, i * size, pattern(i, size))
        builder.end_part()
    builder.device('cpu', pattern(1, 1000))
    builder.run_state('running')
    return builder


def small() -> bytes:
    """A stream as short as they come: 1 KiB pages, one of each sort"""
    builder = StreamBuilder([('ram', 3072)], page_bits=10)
    builder.page('ram', 0, pattern(0, 1024))
    builder.zero('ram', 1024)
    builder.device('cpu', b'state')
    return builder.build()


def memory_limit(size: int) -> dict:
    """
    Arguments of a process that may not have more memory.  AddressSanitizer
    reserves terabytes of addresses, so there each allocation is limited.
    """
    if is_sanitized():
        return {'env': limit_allocations(size)}
    return {'preexec_fn': lambda: resource.setrlimit(resource.RLIMIT_AS,
                                                     (size, size))}


class ToolTest(unittest.TestCase):
    """A test with a directory of its own"""

    def setUp(self):
        watch_sanitizers(self)
        tmp = tempfile.TemporaryDirectory(
            prefix='snap-', dir=os.environ.get('TMPDIR', '/var/tmp'))
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        os.chmod(self.dir, 0o755)
        self.image = self.path('image')

    def path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    # Programs

    def tool(self, *args, stdin: bytes = b'', **kwargs):
        """Run the tool with pipes for stdin and stdout, as exec: does"""
        kwargs.setdefault('timeout', TIMEOUT)
        return subprocess.run([env('QEMU_SNAP'), *args], input=stdin,
                              capture_output=True, check=False, **kwargs)

    def start(self, *args, **kwargs) -> subprocess.Popen:
        # pylint: disable=consider-using-with
        process = subprocess.Popen([env('QEMU_SNAP'), *args],
                                   stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **kwargs)
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process: subprocess.Popen):
        process.kill()
        process.wait()
        for file in (process.stdin, process.stdout, process.stderr):
            try:
                file.close()
            except BrokenPipeError:
                pass

    def img(self, *args, check: bool = True):
        return subprocess.run([env('QEMU_IMG'), *args], check=check, text=True,
                              capture_output=True, timeout=TIMEOUT)

    def io(self, image: str, command: str, fmt: str = 'qcow2'):
        out = subprocess.run([env('QEMU_IO'), '-f', fmt, '-c', command, image],
                             capture_output=True, text=True, check=True)
        self.assertNotIn('error', out.stdout + out.stderr)

    # The verbs, when all is well

    def succeeds(self, *args, stdin: bytes = b'', **kwargs) -> bytes:
        result = self.tool(*args, stdin=stdin, **kwargs)
        self.assertEqual((result.returncode, result.stderr), (0, b''))
        return result.stdout

    def save(self, data: bytes, image: str | None = None, *options: str):
        out = self.succeeds('save', image or self.image, *options, stdin=data)
        self.assertEqual(out, b'')

    def load(self, image: str | None = None, *options: str) -> bytes:
        return self.succeeds('load', image or self.image, *options)

    def info(self, image: str | None = None, *options: str) -> dict:
        return json.loads(self.succeeds('info', '--output=json',
                                        image or self.image, *options))

    # ... and when it is not

    def refused(self, *args, causes=(), stdin: bytes = b'', stdout=b'',
                **kwargs) -> str:
        """
        A command fails with one line that says all of @causes, and changes
        nothing; @stdout may be None for a load that can begin.
        """
        before = self.tree()
        result = self.tool(*args, stdin=stdin, **kwargs)
        error = result.stderr.decode()
        self.assertGreater(result.returncode, 0, error)
        self.assertEqual(error.count('\n'), 1, error)
        self.assertRegex(error, r'^qemu-snap: .*\n$')
        for cause in causes:
            self.assertIn(cause.lower(), error.lower())
        if stdout is not None:
            allowed = (b'', REFUSAL) if 'load' in args else (stdout,)
            self.assertIn(result.stdout, allowed)
        self.assertEqual(self.tree(), before)
        return error

    def tree(self) -> dict:
        """All that there is in the directory, and what it is made of"""
        found = {}
        for where, dirs, files in os.walk(self.dir):
            for name in dirs + files:
                path = os.path.join(where, name)
                st = os.lstat(path)
                digest = None
                if stat.S_ISREG(st.st_mode):
                    with open(path, 'rb') as f:
                        digest = hashlib.file_digest(f, 'sha1').hexdigest()
                found[path] = (st.st_ino, st.st_mode, st.st_uid, st.st_gid,
                               digest)
        return found

    def wait_for(self, condition, what: str):
        end = time.monotonic() + TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), end, f'no {what}')
            time.sleep(0.005)

    # Streams

    def assert_same_stream(self, one: bytes, other: bytes,
                           page_bits: int = 12):
        """All that a destination can tell is the same"""
        a, b = Stream(one, page_bits), Stream(other, page_bits)
        for part in ('header', 'setup', 'blocks', 'devices', 'vmdesc'):
            self.assertEqual(getattr(a, part), getattr(b, part), part)
        self.assertEqual(list(a.blocks), list(b.blocks))
        self.assertEqual(sorted(a.pages), sorted(b.pages))
        wrong = [page for page in a.pages if a.pages[page] != b.pages[page]]
        self.assertEqual(wrong, [])

    def round_trip(self, data: bytes, *options: str, page_bits: int = 12):
        self.save(data, self.image, *options)
        self.assert_same_stream(data, self.load(), page_bits)

    def copy(self, source: str, to: str) -> str:
        shutil.copyfile(self.path(source), self.path(to))
        return self.path(to)
