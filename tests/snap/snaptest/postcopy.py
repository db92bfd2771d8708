#
# This work is licensed under the terms of the GNU GPL, version 2 or later.
# See the COPYING file in the top-level directory.
#
"""The tool while it loads by postcopy: it can be ended at any time."""

import os
import shlex
import signal
import socket

from .machine import wait_until

TIMEOUT = 60

# Why pages are sent that nobody has asked for, while the guest runs
PUSHED = ('working-set-pages', 'arrival-pages', 'around-pages',
          'linear-pages')


class Load:
    """
    A load into @vm, which is told where by @accept(uri).

    @over: exec (the emulator starts the tool), unix, or fd (a socketpair)
    """

    def __init__(self, test, vm, accept, over: str, image: str,
                 *options: str):
        self.test, self.vm, self.process = test, vm, None
        self.command = test.command('load', image, *options)
        self.path = test.last_report
        getattr(self, 'over_' + over)(accept)

    def over_exec(self, accept):
        """A shell notes what the emulator does not tell."""
        inner = f'echo $$ > {self.path}.pid; exec {shlex.join(self.command)}'
        accept(f'exec:sh -c {shlex.quote(inner)} 2> {self.path}.err; '
               f'echo $? > {self.path}.status')

    def over_unix(self, accept):
        accept(f'unix:{self.path}.sock')
        self.process = self.test.start(
            self.command + [f'--uri=unix:{self.path}.sock'])

    def over_fd(self, accept):
        ours, theirs = (s.detach() for s in socket.socketpair())
        self.vm.getfd('stream', theirs)
        accept('fd:stream')
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

    def kill(self, number: int = signal.SIGKILL):
        os.kill(self.process.pid if self.process else
                int(wait_until(lambda: self.read('.pid'), TIMEOUT)), number)

    def finish(self, status: int = 0) -> str:
        """Its stderr, after it has ended with @status, or -@status by kill"""
        if self.process:
            return self.test.finish(self.process, status)
        ended = int(self.vm.wait_until(lambda: self.read('.status'), TIMEOUT))
        err = self.read('.err')
        self.test.assertEqual(ended if ended < 128 else 128 - ended, status,
                              err + self.vm.log())
        return err

    def report(self) -> dict:
        return self.test.report(self.path)
