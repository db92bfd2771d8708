#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each request to storage fails once, is cut short once, is slow once: a command
# has failed then, and says so, or is entirely right.
#

import collections
import errno
import os
import random
import sys
import unittest

from snaptest import TIMEOUT
from snaptest.faults.crash import (NEW, NEW_BARE, OLD, READER, REFUSED, SAVES,
                                   CrashTest, Failure, Run, Save, files,
                                   one_line)
from snaptest.faults.powercut import SECTOR, replay
from snaptest.faults.storage import Storage
from snaptest.peers.decode import Stream
from snaptest.peers.destination import RUNNING, PostcopyTest
from snaptest.peers.streams import StreamBuilder
from snaptest.tool import pattern
from snaptest.units import PAGE

DELAY_US = 60000
WARNINGS = (b'qemu-snap: warning: The description of the devices is lost: ',
            b'qemu-snap: warning: Failed to unlock byte ')
FULL = (errno.ENOSPC, errno.EDQUOT)
# Short and slow requests are the same to all saves of a kind.
SOME_SAVES = tuple(save for save in SAVES if save in (
    Save(before=OLD), Save(('-O', 'raw')), Save(('-n',), 'old qcow2'),
    Save(('-n', '-O', 'raw'), 'old raw')))


# What qcow2 says of its own, while it flushes and while it is checked
DRIVERS = (b'Failed to flush', b'qemu-snap: Failed to flush', b'ERROR',
           b"Can't get refcount")


class FaultTest(CrashTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tried = collections.Counter()
        cls.harmless = collections.Counter()

    @classmethod
    def tearDownClass(cls):
        for kind, number in cls.tried.items():
            print(f'# {number} {kind}', file=sys.stderr)
        if cls.harmless:
            print('Errors without harm: ' + ', '.join(
                f'{number} of {kind}' for kind, number in
                sorted(cls.harmless.items())), file=sys.stderr)
        super().tearDownClass()

    def try_all(self, promise: str, function, cases):
        """
        @function(case) says whether there was such an operation; a Failure
        does not keep from the others.
        """
        def guarded(case):
            try:
                return function(case)
            except Failure as failure:
                return failure
        results = self.in_parallel(guarded, cases)
        problems = [f'{case}: {result}' for case, result in
                    zip(cases, results) if isinstance(result, Failure)]
        self.assertEqual(problems, [], '\n' + '\n'.join(problems))
        # Requests may be merged differently from run to run
        self.assertGreater(sum(results), len(cases) * 0.9)
        type(self).tried[promise] += sum(results)

    def no_harm(self, undone):
        """An error that was borne; the function's name, if it is known"""
        self.harmless[undone.path if undone.kind in ('look', 'mode') else
                      undone.kind] += 1

    def assert_cause(self, run: Run, undone, number: int):
        """
        One line that names the image and the cause.  QEMU's block drivers may
        have said something before it, and may not tell why it was not possible
        to look at a file.
        """
        *drivers, error = run.result.stderr.splitlines(keepends=True) or [b'']
        if not one_line(error) or \
                not all(line.startswith(DRIVERS) for line in drivers):
            raise Failure(f'not one line: {run.result.stderr}')
        if run.image.encode() not in error:
            raise Failure(f'does not say which image: {error}')
        if os.strerror(number).lower() not in error.decode().lower() and \
                undone.cls != 'look':
            raise Failure(f'does not say why: {error}')


class SaveFaults(FaultTest):

    def cases(self, saves, *classes: str):
        """(save, class, number) of each request"""
        return [(save, cls, n) for save in saves
                for cls, number in self.count(save, classes).items()
                for n in range(1, number + 1)]

    def assert_only_image(self, run: Run, undone):
        """Nothing else is left, unless it could not be removed."""
        left = sorted(name for name in os.listdir(run.work)
                      if name not in run.before)
        if left not in ([], ['image']) and undone.kind != 'unlink':
            raise Failure(f'{left} is left behind')

    def is_new(self, run: Run):
        """The snapshot is whole, and survives a power cut."""
        disk = run.disk()
        for _ in replay(run.records(), disk):
            pass
        for content in (files(run.work)['image'],
                        disk.cut(random.Random(0), 0)['image']):
            verdict = self.judge(content)
            if verdict not in (NEW, NEW_BARE):
                raise Failure(f'success, but the image is {verdict}')

    def error(self, case) -> bool:
        save, rule = case
        run = self.run_save(save, rule)
        undone = run.disturbed()
        if not undone:
            return False
        try:
            self.error_is_borne(save, run, undone, int(rule.split()[-1]))
        except Failure as failure:
            raise Failure(f'{undone}: {failure}') from None
        return True

    def error_is_borne(self, save: Save, run: Run, undone, number: int):
        """It has failed, or is entirely right all the same."""
        if run.result.returncode == 0:
            self.is_new(run)
            if any(not line.startswith(WARNINGS)
                   for line in run.result.stderr.splitlines()):
                raise Failure(f'success, but {run.result.stderr}')
            self.no_harm(undone)
        elif run.result.returncode == 1:
            self.assert_cause(run, undone, number)
            self.is_old(save, run)
        else:
            raise Failure(str(run.result))
        self.assert_only_image(run, undone)

    def is_old(self, save: Save, run: Run):
        """What there was before, or with -n nothing that is accepted"""
        after = files(run.work)
        if not save.existing():
            self.assert_old_file(run, after)
            return
        verdict = self.judge(after['image'])
        unchanged = after['image'].digest() == run.before['image'].digest()
        if verdict not in (REFUSED, NEW, NEW_BARE) and not unchanged:
            raise Failure(f'failed, and the image is {verdict}')

    def assert_old_file(self, run: Run, after: dict):
        image = after.get('image')
        if not run.before:
            if image:
                raise Failure('failed, but there is an image')
        elif not image or image.digest() != run.before['image'].digest() or \
                os.stat(run.image).st_ino != run.inodes['image']:
            raise Failure('failed, and the old file is gone')

    def undisturbed(self, case) -> bool:
        save, rule = case
        run = self.run_save(save, rule)
        if not run.disturbed():
            return False
        if (run.result.returncode, run.result.stderr) != (0, b''):
            raise Failure(f'{run.disturbed()}: {run.result}')
        self.is_new(run)
        return True

    def errors(self, *classes: str):
        cases = self.cases(SAVES, *classes)
        self.try_all(
            'requests of saves that fail: the save fails, with one line that '
            'says why, and the old file stays; or it is whole all the same',
            self.error,
            [(save, f'{cls} {n} error {errno.EIO}') for save, cls, n in cases] +
            [(save, f'{cls} {n} error {FULL[n % 2]}') for save, cls, n in cases
             if cls in ('write', 'flush', 'meta')])

    def test_failed_change_keeps_old_file_or_does_no_harm(self):
        self.errors('write', 'flush', 'meta')

    def test_failed_read_keeps_old_file_or_does_no_harm(self):
        self.errors('read')

    def test_failed_look_keeps_old_file_or_does_no_harm(self):
        """Requests that ask for state, or for locks"""
        self.errors('look')

    def test_short_requests_do_not_spoil_a_save(self):
        self.try_all(
            'requests of saves that are cut short: the snapshot is right',
            self.undisturbed,
            [(save, f'{cls} {n} short 0') for save, cls, n in
             self.cases(SOME_SAVES, 'write', 'read')])

    def test_slow_requests_do_not_spoil_a_save(self):
        self.try_all(
            'requests of saves that are slow: the snapshot is right',
            self.undisturbed,
            [(save, f'{cls} {n} delay {DELAY_US}') for save, cls, n in
             self.cases(SOME_SAVES, 'write', 'flush', 'read', 'meta')])


class PartialWrites(FaultTest):
    """
    With direct I/O, the block layer reads what surrounds a write of less than
    a sector.  If that fails, the write must not go on with something else: of
    qcow2, other entries of the table of L2 tables are in the same sector.
    """

    def test_read_error_around_partial_write_does_no_harm(self):
        builder = StreamBuilder([('ram', 2 << 30)])
        for i in range(8):
            builder.page('ram', i << 28, pattern(i))
        save = Save(stream=builder.build())
        number = self.count(save, ['read'])['read']
        for n in range(1, number + 1):
            run = self.run_save(save, f'read {n} error {errno.EIO}')
            if run.result.returncode == 0:
                check = self.run_tool('check', *READER, run.image)
                with self.subTest(n):
                    self.assertEqual(check.returncode, 0, check.stderr)
        self.assertGreater(number, 5)


class LoadFaults(FaultTest):
    """Of what reads an image: load and check"""

    CLASSES = ('read', 'meta', 'look')
    OPTIONS = (('--cache=writeback',), ('--cache=none',))

    def setUp(self):
        super().setUp()
        self.work = {}
        for fmt in ('qcow2', 'raw'):
            self.work[fmt] = self.directory()
            self.save(self.streams[NEW],
                      os.path.join(self.work[fmt], 'image'), '-O', fmt)

    def run_verb(self, fmt: str, *args: str, rule: str = '') -> Run:
        return self.finish_run(self.begin_run(self.work[fmt]), *args,
                               rule=rule)

    def cases(self, classes, actions) -> list:
        return [(fmt, verb, *options, f'{cls} {n} {action}')
                for fmt in self.work for verb in ('load', 'check')
                for options in self.OPTIONS
                for cls, number in self.count_run(
                    self.run_verb(fmt, verb, *options), classes).items()
                for n in range(1, number + 1)
                for action in actions(cls)]

    def is_right(self, verb: str, run: Run):
        """All was read, or all but the description, with a warning"""
        out = run.result.stdout
        error = b''.join(line for line in
                         run.result.stderr.splitlines(keepends=True)
                         if not line.startswith(WARNINGS))
        if verb == 'load' and out != self.outputs[NEW][bool(error)]:
            raise Failure('the load is wrong')
        if error and (verb != 'load' or error.count(b'\n') != 1 or
                      b'warning: ' not in error or
                      b'device description' not in error):
            raise Failure(f'success, but {error}')

    def disturbed(self, case) -> bool:
        fmt, verb, *options, rule = case
        run = self.run_verb(fmt, verb, *options, rule=rule)
        undone = run.disturbed()
        if not undone:
            return False
        if run.result.returncode == 0:
            self.is_right(verb, run)
            if 'error' in rule:
                self.no_harm(undone)
        elif 'error' not in rule or run.result.returncode not in (1, 2):
            raise Failure(f'{undone}: {run.result}')
        else:
            self.assert_cause(run, undone, int(rule.split()[-1]))
            if verb == 'load' and not self.is_prefix(NEW, run.result.stdout):
                raise Failure(f'{undone}: looks like a whole load')
        return True

    def test_failed_request_fails_clearly_or_does_no_harm(self):
        self.try_all(
            'requests of loads and checks that fail: one line says so, and '
            'what a load has sent is not mistaken for all of it',
            self.disturbed,
            self.cases(self.CLASSES, lambda cls: [f'error {errno.EIO}']))

    def test_short_reads_do_not_spoil_load_or_check(self):
        self.try_all('requests of loads and checks that are cut short: the '
                     'result is right', self.disturbed,
                     self.cases(['read'], lambda cls: ['short 0']))

    def test_slow_reads_do_not_spoil_load_or_check(self):
        self.try_all('requests of loads and checks that are slow: the result '
                     'is right', self.disturbed,
                     self.cases(['read'], lambda cls: [f'delay {DELAY_US}']))


class PostcopyFaults(FaultTest, PostcopyTest):
    """Of a load by postcopy, which can be continued"""

    def setUp(self):
        super().setUp()
        self.environ = None
        self.work = self.directory()
        self.image = os.path.join(self.work, 'image')
        self.save(self.streams[NEW])
        self.snapshot = Stream(self.streams[NEW])

    def start(self, *args, **kwargs):
        return super().start(*args, *READER, env=self.environ, **kwargs)

    def load_by_postcopy(self, rule: str = '') -> Run:
        """run.result is the peer, and whether it has come to a good end."""
        run = self.begin_run(self.work)
        watched = Storage(self.work, self.storage_library)
        self.environ = watched.environ(rule, run.log)
        peer = self.connect()
        try:
            peer.until(RUNNING)
            peer.request('ram', PAGE)
            peer.finish()
            run.result = peer, True
        except EOFError:
            run.result = peer, False
        self.environ = None
        return run

    def disturbed(self, rule: str) -> bool:
        run = self.load_by_postcopy(rule)
        peer, finished = run.result
        status = peer.process.wait(TIMEOUT)
        undone = run.disturbed()
        if not undone:
            return False
        if finished != (status == 0):
            raise Failure(f'{undone}: status {status}, {peer.stage}')
        if not finished:
            if 'error' not in rule:
                raise Failure(f'{undone}: {peer.process.stderr.read()}')
            self.fails(peer, *([] if undone.cls == 'look' else
                               [os.strerror(errno.EIO)]))
            if peer.stage >= RUNNING:
                self.resume(peer)
                self.completes(peer)
                type(self).resumed += 1
        elif 'error' in rule:
            self.no_harm(undone)
        return True

    resumed = 0

    def test_load_with_faults_is_right_or_can_be_continued(self):
        counts = self.count_run(self.load_by_postcopy(),
                                ('read', 'meta', 'look'))
        for action, classes in ((f'error {errno.EIO}', counts),
                                ('short 0', ['read']),
                                (f'delay {DELAY_US}', ['read'])):
            for rule in [f'{cls} {n} {action}' for cls in classes
                         for n in range(1, counts[cls] + 1)]:
                with self.subTest(rule):
                    self.tried['requests of loads by postcopy that fail, are '
                               'cut short, or slow: the load is right, or '
                               'fails and can be continued'] += \
                        self.disturbed(rule)
        self.assertGreater(self.resumed, 0)


class BlockLayer(FaultTest):
    """
    The same, by means of QEMU's block layer: for asynchronous I/O that does
    not go through the C library.
    """

    AIO = (('--aio=threads', '--cache=none'),
           ('--aio=native', '--cache=none'),
           ('--aio=io_uring', '--cache=none'),
           ('--aio=io_uring', '--cache=writeback'))

    @staticmethod
    def blkdebug(run: Run, fmt: str, *rules: str) -> str:
        return ','.join([
            f'driver={fmt},file.driver=blkdebug,file.image.driver=file',
            f'file.image.filename={run.image}',
            *(f'file.{rule}' for rule in rules)])

    @staticmethod
    def rule(iotype: str, flushes: int, sector: int | None = None) -> tuple:
        """
        A request fails that comes after that many flushes, at this sector; or
        the last of these flushes
        """
        event = 'flush_to_disk' if flushes else 'none'
        rules = [f'inject-error.0.event={event}',
                 f'inject-error.0.iotype={iotype}', 'inject-error.0.once=on']
        if flushes:
            rules.append(f'inject-error.0.state={flushes}')
        if sector is not None:
            rules.append(f'inject-error.0.sector={sector}')
        for i in range(1, flushes):
            rules += [f'set-state.{i - 1}.event=flush_to_disk',
                      f'set-state.{i - 1}.state={i}',
                      f'set-state.{i - 1}.new_state={i + 1}']
        return tuple(rules)

    def rules(self, run: Run) -> set:
        """For each request in the log of a run"""
        found, flushes = set(), 0
        for record in run.records():
            if record.kind == 'flush' and not record.end:
                flushes += 1
                found.add(self.rule('flush', flushes))
            elif record.kind in ('read', 'write') and not record.end and \
                    record.length % SECTOR == 0:
                found.add(self.rule(record.kind, flushes,
                                    record.offset // SECTOR))
        return found

    def cases(self, fmt: str, run: Run) -> list:
        """Each with the rules for a request, and whether it may be borne"""
        self.assertEqual(run.result.returncode, 0, run.result.stderr)
        rules = self.rules(run)
        # At the close, when all but the description has been flushed
        last = max((rule for rule in rules if 'flush' in rule[1]), key=len,
                   default=None)
        return [(fmt, options, rule, rule == last or 'read' in rule[1])
                for options in self.AIO for rule in sorted(rules)]

    def save_case(self, case) -> bool:
        fmt, options, rules, harmless = case
        run = self.begin_run(self.prepared(Save(before='old ' + fmt)))
        run.result = self.run_tool(
            'save', '-n', '-O', fmt, *options, '--image-opts',
            self.blkdebug(run, fmt, *rules), stdin=self.streams[NEW])
        verdict = self.judge(files(run.work)['image'])
        status, error = run.result.returncode, run.result.stderr
        if status == 0 and (harmless or error.startswith(WARNINGS)):
            self.harmless[rules[1].split('=')[1]] += 1
            if verdict not in (NEW, NEW_BARE):
                raise Failure(f'success, but the image is {verdict}')
        elif status != 1 or not one_line(error) or \
                b'Input/output error' not in error:
            raise Failure(f'{run.result}')
        elif verdict not in (OLD, NEW, NEW_BARE, REFUSED):
            raise Failure(f'failed, and the image is {verdict}')
        return True

    def load_case(self, case) -> bool:
        fmt, options, rules, _ = case
        run = self.begin_run(self.loaded[fmt])
        run.result = self.run_tool('load', *options, '--image-opts',
                                   self.blkdebug(run, fmt, *rules))
        status, error = run.result.returncode, run.result.stderr
        if status == 0:
            self.harmless['load: read'] += 1
            if run.result.stdout != self.outputs[NEW][bool(error)]:
                raise Failure('success, but the load is wrong')
        elif status != 1 or not one_line(error) or \
                b'Input/output error' not in error:
            raise Failure(f'{run.result}')
        elif not self.is_prefix(NEW, run.result.stdout):
            raise Failure('looks like a whole load')
        return True

    def test_failed_request_fails_save_clearly_with_any_aio(self):
        cases = []
        for fmt in ('qcow2', 'raw'):
            cases += self.cases(fmt, self.run_save(
                Save(('-n', '-O', fmt), 'old ' + fmt)))
        self.try_all('errors of the block layer in saves with -n, with all '
                     'kinds of asynchronous I/O: the save fails, with one '
                     'line that says why', self.save_case, cases)

    def test_failed_request_fails_load_clearly_with_any_aio(self):
        self.loaded, cases = {}, []
        for fmt in ('qcow2', 'raw'):
            self.loaded[fmt] = self.directory()
            self.save(self.streams[NEW],
                      os.path.join(self.loaded[fmt], 'image'), '-O', fmt)
            cases += self.cases(fmt, self.finish_run(
                self.begin_run(self.loaded[fmt]), 'load', '--cache=none'))
        self.try_all('errors of the block layer in loads, with all kinds of '
                     'asynchronous I/O: one line says so, and what was sent '
                     'is not mistaken for all of it', self.load_case, cases)

    def test_throttled_storage_is_no_failure(self):
        work = self.prepared(Save(before='qcow2'))
        image = os.path.join(work, 'image')
        slow = ('--object', 'throttle-group,id=slow,x-iops-total=40',
                '--image-opts', 'driver=qcow2,file.driver=throttle,'
                'file.throttle-group=slow,file.file.driver=file,'
                f'file.file.filename={image}')
        self.succeeds('save', '-n', *slow, stdin=self.streams[NEW])
        self.assertEqual(self.verdict(image), NEW)
        self.assertEqual(self.succeeds('load', *slow), self.outputs[NEW][0])
        self.succeeds('check', *slow)


if __name__ == '__main__':
    unittest.main(verbosity=2)
