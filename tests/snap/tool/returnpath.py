#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A source that asks gets an answer, and a true one.
#

import os
import shlex
import shutil
import socket
import struct
import subprocess
import unittest

from snaptest import TIMEOUT, env
from snaptest.peers.streams import OPEN_RETURN_PATH, PING, command
from snaptest.tool import ToolTest, sample
from snaptest.units import MIB

SHUT, PONG = 1, 2


def message(kind: int, value: int) -> bytes:
    return struct.pack('>HHI', kind, 4, value)


class ReturnPath(ToolTest):

    def stream(self, *pings: int) -> bytes:
        builder = sample([('ram', MIB)])
        builder.commands = command(OPEN_RETURN_PATH) + b''.join(
            command(PING, struct.pack('>I', n)) for n in pings)
        return builder.build(end=True)

    def send(self, data: bytes, *options: str) -> subprocess.Popen:
        """Like QEMU, which closes nothing while it waits for the answer"""
        process = self.start('save', *options, self.image)
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except BrokenPipeError:
            pass
        return process

    def shut(self, process, status: int, answers: bytes = b''):
        """The rest of the conversation"""
        self.assertEqual(process.stdout.read(len(answers)), answers)
        self.assertEqual(process.stdout.read(8), message(SHUT, status))

    def test_success_is_told_when_image_is_complete(self):
        data = self.stream()
        process = self.send(data)
        self.shut(process, 0)
        # that was the promise, whatever becomes of the process
        process.kill()
        process.wait()
        self.assert_same_stream(data, self.load())

    def test_tool_exits_with_success_after_its_answer(self):
        process = self.send(self.stream())
        out, err = process.communicate(timeout=TIMEOUT)
        self.assertEqual((process.returncode, out, err),
                         (0, message(SHUT, 0), b''))
        self.assertEqual(os.listdir(self.dir), ['image'])

    def test_tool_ends_though_stdin_stays_open(self):
        process = self.send(self.stream())
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_each_ping_is_answered_in_turn(self):
        process = self.send(self.stream(1, 0xdeadbeef, 0))
        self.shut(process, 0, message(PONG, 1) + message(PONG, 0xdeadbeef) +
                  message(PONG, 0))

    def test_ping_without_return_path_is_refused(self):
        data = self.stream(1).replace(command(OPEN_RETURN_PATH), b'')
        self.refused('save', self.image, stdin=data, causes=['return path'])

    def test_ping_is_answered_at_once(self):
        data = self.stream(42)
        at = data.index(struct.pack('>I', 42)) + 4
        process = self.send(data[:at])
        self.assertEqual(process.stdout.read(8), message(PONG, 42))
        process.stdin.write(data[at:])
        process.stdin.flush()
        self.shut(process, 0)

    def test_silence_ends_stream_without_description(self):
        """Nothing but silence tells the end (suppress-vmdesc)."""
        builder = sample([('ram', MIB)])
        builder.commands = command(OPEN_RETURN_PATH)
        data = builder.build(end=True, vmdesc=False)
        process = self.send(data)
        self.shut(process, 0)
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.assert_same_stream(data, self.load())

    def test_description_within_a_device_ends_nothing(self):
        builder = sample([('ram', MIB)])
        builder.commands = command(OPEN_RETURN_PATH)
        builder.device('false', b'\x7e\0\0\0\5\0\6\0\0\0\7{"a":1}')
        builder.device('true', b'state')
        process = self.send(builder.build(end=True))
        self.shut(process, 0)
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.assertIn(builder.devices, self.load())

    def test_no_answer_while_anything_is_missing(self):
        data = self.stream()
        process = self.send(data[:-1])
        os.set_blocking(process.stdout.fileno(), False)
        self.assertRaises(subprocess.TimeoutExpired, process.wait, 0.5)
        self.assertIsNone(process.stdout.read(1))
        os.set_blocking(process.stdout.fileno(), True)
        process.stdin.write(data[-1:])
        process.stdin.flush()
        self.shut(process, 0)

    def refused_with(self, data: bytes, *options: str):
        before = self.tree()
        process = self.send(data, *options)
        process.stdin.close()
        self.shut(process, 1)
        self.assertEqual(process.stdout.read(), b'')
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(process.stderr.read().count(b'\n'), 1)
        self.assertEqual(self.tree(), before)

    def test_source_hears_of_each_failure(self):
        data = self.stream()
        self.refused_with(data[:len(data) // 2])
        self.refused_with(data, '-s', '4k')
        self.refused_with(data, '-O', 'nonsense')
        self.refused_with(data.replace(b'\3ram', b'\3rom', 2))
        self.save(data.replace(command(OPEN_RETURN_PATH), b''))
        self.refused_with(data[:-1])

    def test_source_hears_of_failing_disk(self):
        """Whichever write or flush it is that fails."""
        self.img('create', '-f', 'qcow2', self.path('disk'), '1G')
        for event in ('write_aio', 'flush_to_disk'):
            with self.subTest(event):
                process = self.start(
                    'save', '-n', '--image-opts',
                    'driver=qcow2,file.driver=blkdebug,'
                    'file.image.driver=file,'
                    f'file.image.filename={self.path("disk")},'
                    f'file.inject-error.0.event={event}')
                out, err = process.communicate(self.stream(), TIMEOUT)
                self.assertEqual((process.returncode, out),
                                 (1, message(SHUT, 1)), err)

    def test_source_hears_of_interruption_or_sees_the_end(self):
        data = self.stream(1)
        process = self.send(data[:len(data) // 2])
        self.assertEqual(process.stdout.read(8), message(PONG, 1))
        process.terminate()
        self.assertIn(process.stdout.read(), (b'', message(SHUT, 1)))
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(os.listdir(self.dir), [])

    def test_save_fails_if_nobody_hears_the_answer(self):
        """An answer that does not arrive makes the source fail: so must we."""
        before = self.tree()
        data = self.stream()
        process = self.send(data[:-1])
        process.stdout.close()
        process.stdin.write(data[-1:])
        process.stdin.flush()
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertEqual(self.tree(), before)

    def test_pipe_without_a_way_back_is_refused(self):
        """A pipe has no way back: better to know than to wait."""
        read, write = os.pipe()
        process = subprocess.run([env('QEMU_SNAP'), 'save', self.image,
                                  f'--uri=fd:{read}'], pass_fds=[read],
                                 capture_output=True, timeout=TIMEOUT,
                                 check=False, preexec_fn=lambda: os.write(
                                     write, self.stream()[:200]))
        os.close(read)
        os.close(write)
        self.assertEqual((process.returncode, process.stdout), (1, b''))
        self.assertIn(b'no way back', process.stderr)
        self.assertEqual(os.listdir(self.dir), [])


class Pipeline(ToolTest):
    """A program in front hides from QEMU how a save ends."""

    # More than fits into the pipe, so that the program is there long enough
    SIZE = 8 * MIB

    def pipeline(self, first: str, data: bytes, *options: str) -> str:
        """What the tool after the program @first says; all goes well."""
        line = shlex.join([env('QEMU_SNAP'), *options, 'save', self.image])
        result = subprocess.run(['sh', '-c', f'{first} | {line}'], input=data,
                                capture_output=True, check=False,
                                timeout=TIMEOUT)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stderr.decode()

    def warned(self, name: str, *args):
        self.assertRegex(self.pipeline(*args),
                         f"^qemu-snap: warning: .* '{name}': .*\n$")

    def test_program_in_front_is_warned_of(self):
        data = sample([('ram', self.SIZE)]).build()
        self.warned('cat', 'cat', data)
        self.assert_same_stream(data, self.load())

    def test_warning_names_the_last_of_several_programs(self):
        self.warned('tee', 'cat | tee', sample([('ram', self.SIZE)]).build())

    def test_name_of_program_is_escaped(self):
        program = self.path('a\033[2J\nb')
        shutil.copyfile(shutil.which('cat'), program)
        os.chmod(program, 0o700)
        self.warned(r'a\?\[2J\?b', shlex.quote(program),
                    sample([('ram', self.SIZE)]).build())

    def test_quiet_silences_the_warning(self):
        data = sample([('ram', self.SIZE)]).build()
        self.assertEqual(self.pipeline('cat', data, '-q'), '')

    def test_no_warning_with_return_path(self):
        """The answer goes around the program."""
        builder = sample([('ram', self.SIZE)])
        builder.commands = command(OPEN_RETURN_PATH)
        self.assertEqual(self.pipeline('cat', builder.build(end=True)), '')

    def test_no_warning_of_shells_around_the_tool(self):
        """They have started the tool, and are not in between."""
        line = shlex.join([env('QEMU_SNAP'), 'save', self.image])
        for command_line in (f'{line}; exit $?', f'({line}) || exit 1',
                             f'sh -c {shlex.quote(line)}; exit $?',
                             f'{line} | cat; exit 0', f'{line} < stream'):
            with self.subTest(command_line):
                data = sample([('ram', MIB)]).build()
                with open(self.path('stream'), 'wb') as f:
                    f.write(data)
                result = subprocess.run(['sh', '-c', command_line], input=data,
                                        capture_output=True, check=False,
                                        cwd=self.dir, timeout=TIMEOUT)
                self.assertEqual((result.returncode, result.stderr), (0, b''))

    def test_no_warning_of_a_socket(self):
        """What comes through a socket may come from anywhere."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = self.start(f'--uri=fd:{ours.fileno()}', 'save',
                                 self.image, pass_fds=[ours.fileno()])
            ours.close()
            theirs.sendall(sample([('ram', MIB)]).build())
            theirs.close()
            _, err = process.communicate(timeout=TIMEOUT)
        self.assertEqual((process.returncode, err), (0, b''))


if __name__ == '__main__':
    unittest.main(verbosity=2)
