# SPDX-License-Identifier: GPL-2.0-or-later
#
# The tool beside an emulator, or under it
#
"""A save or load that can be watched, and ended at any time."""

import os
import shlex
import signal
import socket

from snaptest import TIMEOUT
from snaptest.waiting import is_listening, wait_until

# Why pages are sent that nobody has asked for, while the guest runs
PUSHED = ('working-set-pages', 'arrival-pages', 'around-pages',
          'linear-pages')


class Run:
    """
    The tool, and @vm at the other end, which is told where by @connect(uri).

    @over: exec (the emulator starts the tool), unix, or fd (a socketpair)
    @prefix: what is to stand before the tool's command line
    """

    def __init__(self, test, vm, connect, over: str, verb: str, image: str,
                 *options: str, prefix=()):
        self.test, self.vm, self.process = test, vm, None
        self.verb = verb
        self.command = [*prefix, *test.command(verb, image, *options)]
        self.path = test.last_report
        getattr(self, 'over_' + over)(connect)

    def over_exec(self, connect):
        """A shell notes what the emulator does not tell."""
        inner = f'echo $$ > {self.path}.pid; exec {shlex.join(self.command)}'
        connect(f'exec:sh -c {shlex.quote(inner)} 2> {self.path}.err; '
                f'echo $? > {self.path}.status')

    def over_unix(self, connect):
        """Who listens comes first."""
        path = f'{self.path}.sock'
        command = [*self.command, f'--uri=unix:{path}']
        if self.verb == 'save':
            self.process = self.test.start(command)
            self.vm.wait_until(lambda: is_listening(path))
            connect(f'unix:{path}')
        else:
            connect(f'unix:{path}')
            self.process = self.test.start(command)

    def over_fd(self, connect):
        ours, theirs = (s.detach() for s in socket.socketpair())
        self.vm.getfd('stream', theirs)
        connect('fd:stream')
        self.process = self.test.start(self.command + [f'--uri=fd:{ours}'],
                                       pass_fds=[ours])
        os.close(ours)
        os.close(theirs)

    def read(self, suffix: str) -> str:
        try:
            with open(self.path + suffix, encoding='utf-8') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    def pid(self) -> int:
        return self.process.pid if self.process else int(
            wait_until(lambda: self.read('.pid'), TIMEOUT))

    def kill(self, number: int = signal.SIGKILL):
        os.kill(self.pid(), number)

    def ended(self) -> bool:
        """Whether it has, without a question to the emulator"""
        if self.process:
            return self.process.poll() is not None
        return bool(self.read('.status'))

    def status(self) -> int:
        """Wait for its exit status, or minus the signal that killed it."""
        wait_until(self.ended, TIMEOUT)
        if self.process:
            return self.process.returncode
        status = int(self.read('.status'))
        return status if status < 128 else 128 - status

    def finish(self, status: int = 0) -> str:
        """Its stderr, after it has ended with @status, or -@status by kill"""
        if self.process:
            return self.test.finish(self.process, status)
        ended = self.status()
        err = self.read('.err')
        self.test.assertEqual(ended, status, err + self.vm.log())
        return err

    def report(self) -> dict:
        return self.test.report(self.path)


class Load(Run):
    """A load by postcopy into @vm, which is told where by @accept(uri)."""

    def __init__(self, test, vm, accept, over: str, image: str,
                 *options: str, **kwargs):
        super().__init__(test, vm, accept, over, 'load', image, *options,
                         **kwargs)
