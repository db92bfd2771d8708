#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Loads by postcopy that break: no guest is lost, and a new load goes on.
#

import glob
import os
import signal
import sys
import unittest

from snaptest import TIMEOUT
from snaptest.units import PAGE
from snaptest.vm.case import PostcopyTest
from snaptest.vm.guests import WORKING_SET
from snaptest.vm.machine import NEWEST, Q35, VIRT
from snaptest.vm.run import Load
from snaptest.waiting import wait_until

# So slow that a load takes seconds, in MiB/s
SLOW = 2
RATE = ['-r', f'{SLOW}M']
RAW = ['-f', 'raw']


class RecoveryTest(PostcopyTest):
    """How to break a load, and to resume it."""

    PREEMPT = dict(over='unix', caps=['postcopy-preempt'])

    def begin(self, src, *options, version=NEWEST, run=True, **kwargs):
        """A destination, and the load that is in the middle of it."""
        def start(*rate):
            dst = self.destination(src, version=version, run=run)
            return dst, self.postcopy(dst, self.image, *rate, *options,
                                      **kwargs)

        def during(dst):
            if run:
                self.assert_runs(dst, src.loop)
            else:
                dst.wait_until(lambda: dst.status() == 'paused')
        dst, load, _ = self.unfinished(start, during, SLOW)
        return dst, load

    def records(self, dst) -> list[str]:
        """What tools have noted of @dst"""
        return glob.glob(f'/dev/shm/qemu-snap-load.*.{dst.get_pid()}.*')

    def break_off(self, dst, load, number=signal.SIGKILL):
        load.kill(number)
        dst.wait_paused()
        self.assertIsNone(dst.exitcode())
        return load.finish(1 if number == signal.SIGTERM else -number)

    def end(self, src, dst, *options, run=True, most=None, **kwargs):
        """Resume what is broken, to the end, with @most pages of data."""
        if most is None:
            # What had come does not come again; zero pages do not count.
            most = self.stored - dst.pages_placed() + 128
        stats = self.complete(self.resume(dst, self.image, *options,
                                          **kwargs))
        self.assertLess(stats['stored-pages'], most)
        self.assertEqual(self.records(dst), [])
        if run:
            self.assert_ran_on(dst, src)
        else:
            self.assert_same_ram(src, dst)
            self.assert_goes_on(dst, src.loop)


class BrokenLoad(RecoveryTest):
    """The tool is killed, and another one takes over."""

    def recovers(self, *options, machine=Q35, version=NEWEST,
                 over='exec', caps=()):
        src = self.snapshot(machine, version=version, run=True, mib=32)
        dst, load = self.begin(src, *options, version=version, over=over,
                               caps=caps)
        self.break_off(dst, load)
        self.end(src, dst, *options, over=over)

    def test_load_over_exec_can_be_resumed(self):
        self.recovers()

    def test_load_over_unix_can_be_resumed(self):
        self.recovers(over='unix')

    def test_7_2_load_can_be_resumed(self):
        self.recovers(machine='pc-q35-7.2', version='7.2')

    def test_10_0_load_can_be_resumed(self):
        self.recovers(machine='pc-q35-10.0', version='10.0')

    def test_preempt_load_can_be_resumed(self):
        self.recovers('--preempt', **self.PREEMPT)

    def test_7_2_preempt_load_can_be_resumed(self):
        self.recovers('--preempt', machine='pc-q35-7.2', version='7.2',
                      **self.PREEMPT)

    def test_10_0_preempt_load_can_be_resumed(self):
        self.recovers('--preempt', machine='pc-q35-10.0', version='10.0',
                      **self.PREEMPT)

    def test_aarch64_load_can_be_resumed(self):
        self.recovers(machine=VIRT)

    def test_stopped_guest_has_same_ram_once_resumed(self):
        src = self.snapshot(mib=32)
        dst, load = self.begin(src, run=False)
        self.break_off(dst, load)
        self.end(src, dst, run=False)

    def test_pages_of_precopy_count_as_received(self):
        src = self.snapshot(run=True, mib=32)
        dst, load = self.begin(src, percent=50)
        self.break_off(dst, load)
        self.end(src, dst, most=self.stored / 2 + 1)

    def test_terminated_load_can_be_resumed(self):
        src = self.snapshot(run=True, mib=32)
        dst, load = self.begin(src)
        err = self.break_off(dst, load, signal.SIGTERM)
        self.assertIn(self.image, err)
        self.assertEqual(load.report()['status'], 'failed')
        self.end(src, dst)

    def several(self, *options, caps=(), ways=('exec',)):
        """Again and again, and not always in the same way."""
        src = self.snapshot(run=True, mib=32)
        dst, load = self.begin(src, *options, over=ways[0], caps=caps)
        for n in range(1, 5):
            self.break_off(dst, load)
            placed = dst.pages_placed()
            load = self.resume(dst, self.image, '-r', '512k', *options,
                               over=ways[n % len(ways)])
            dst.wait_until(lambda: dst.pages_placed() > placed + 100)
        self.assert_runs(dst, src.loop)
        self.break_off(dst, load)
        self.end(src, dst, *options, over=ways[0])

    def test_load_can_break_several_times(self):
        self.several(ways=('exec', 'unix'))

    def test_preempt_load_can_break_several_times(self):
        self.several('--preempt', caps=['postcopy-preempt'], ways=('unix',))

    def test_load_can_break_before_a_page_has_come(self):
        """Breaks before a page has come, and as soon as one is resumed."""
        src = self.snapshot(run=True, mib=32)
        dst = self.destination(src, run=True)
        load = self.postcopy(dst, self.image, '--push=none')
        dst.wait_until(lambda: dst.migration().get('status')
                       == 'postcopy-active')
        for _ in range(5):
            self.break_off(dst, load)
            load = self.resume(dst, self.image, '--push=none')
            dst.event_wait('MIGRATION', TIMEOUT,
                           {'data': {'status': 'postcopy-recover'}})
        self.break_off(dst, load)
        self.end(src, dst)


class OtherSnapshot(RecoveryTest):
    """
    A load is resumed with the snapshot that it was of, or not at all: RAM of
    two moments is of no use to a guest.
    """

    refused = 0

    @classmethod
    def tearDownClass(cls):
        print(f'# {cls.refused} resumptions with real guests that are refused',
              file=sys.stderr)
        super().tearDownClass()

    def two_snapshots(self, machine='pc-q35-10.0', version='10.0', run=True):
        """
        Two of a guest that is no more: self.image, of which src.ram is the
        RAM, and self.other, of a later moment
        """
        src = self.source(machine, version=version, run=run, mib=32)
        if run:
            src.wait_until(lambda: src.loop.gen() > 100)
        self.other = self.path('other')
        truth = src.ram.copy()
        self.save(src, self.image, caps=['background-snapshot'])
        self.stored = self.report()['stored-pages']
        src.ram.fill(src.loop.end, src.ram.size, seed=2)
        self.save(src, self.other, caps=['background-snapshot'])
        self.uuid = self.info(self.image)['uuid']
        self.other_uuid = self.info(self.other)['uuid']
        src.kill()
        src.ram = truth
        return src

    def broken(self, *options, machine='pc-q35-10.0', version='10.0',
               number=signal.SIGKILL, run=True, **kwargs):
        """A destination of self.image that has got a part of it"""
        src = self.two_snapshots(machine, version, run)
        dst, load = self.begin(src, *options, version=version, run=run,
                               **kwargs)
        self.message = self.break_off(dst, load, number)
        return src, dst

    def refuses(self, dst, image, *options, causes=(), over='exec'):
        """Not a page of @image comes to @dst, which waits on."""
        placed = dst.pages_placed()
        load = self.resume(dst, image, *options, over=over)
        err = load.finish(1)
        self.assertEqual(err.count('\n'), 1, err)
        for cause in (image, *causes):
            self.assertIn(cause, err)
        report = load.report()
        self.assertEqual(report['status'], 'failed')
        self.assertEqual(report['stored-pages'], 0)
        if over == 'fd':
            # Of what is tried otherwise, QEMU notices nothing.
            dst.wait_paused()
        self.assertEqual(dst.pages_placed(), placed)
        type(self).refused += 1

    def refuses_other(self, dst, image, *options, **kwargs):
        self.refuses(dst, image, *options,
                     causes=(self.uuid, self.other_uuid), **kwargs)

    def test_image_saved_again_is_refused(self):
        """As a periodic save does while a load by postcopy is under way"""
        src, dst = self.broken()
        kept = self.path('kept')
        os.rename(self.image, kept)
        os.rename(self.other, self.image)
        self.refuses_other(dst, self.image)
        os.rename(kept, self.image)
        self.end(src, dst)

    def test_another_snapshot_is_refused(self):
        src, dst = self.broken()
        for _ in range(3):
            self.refuses_other(dst, self.other)
        self.end(src, dst)

    def test_raw_copy_is_taken_only_of_same_snapshot(self):
        src, dst = self.broken()
        for image in (self.image, self.other):
            self.img_convert('-O', 'raw', image, image + '.raw')
        self.refuses_other(dst, self.other + '.raw', *RAW)
        self.image += '.raw'
        self.end(src, dst, *RAW)

    def test_compressed_copy_is_taken_only_of_same_snapshot(self):
        src, dst = self.broken()
        for image in (self.image, self.other):
            self.img_convert('-c', '-O', 'qcow2', image, image + '.copy')
        self.refuses_other(dst, self.other + '.copy')
        self.image += '.copy'
        self.end(src, dst)

    def test_terminated_tool_says_how_to_go_on(self):
        src, dst = self.broken(number=signal.SIGTERM)
        self.assertIn(f'--resume={self.uuid}', self.message)
        self.refuses_other(dst, self.other)
        self.end(src, dst, f'--resume={self.uuid}')

    def test_load_paused_by_user_resumes_only_its_snapshot(self):
        src = self.two_snapshots()
        # QEMU cannot do that with a pipe.
        dst, load = self.begin(src, over='unix')
        dst.out_of_band('migrate-pause')
        self.assertIn(f'--resume={self.uuid}', load.finish(1))
        dst.wait_paused()
        self.refuses_other(dst, self.other)
        self.end(src, dst)

    def test_another_snapshot_is_refused_over_unix(self):
        src, dst = self.broken(over='unix')
        self.refuses_other(dst, self.other, over='unix')
        self.end(src, dst, over='unix')

    def test_another_snapshot_is_refused_over_fd(self):
        """A socket pair that both ends were given, also by name only"""
        src, dst = self.broken(run=False, over='fd')
        self.refuses_other(dst, self.other, over='fd')
        self.end(src, dst, over='fd', run=False)

    def test_another_snapshot_is_refused_over_another_channel(self):
        """The destination is the same, however it is talked to."""
        src, dst = self.broken(over='unix')
        self.refuses_other(dst, self.other, over='exec')
        self.refuses_other(dst, self.other, over='unix')
        self.end(src, dst)

    def test_missing_image_leaves_load_resumable(self):
        src, dst = self.broken('--preempt', machine='pc-q35-7.2',
                               version='7.2', **self.PREEMPT)
        self.refuses(dst, self.path('none'), '--preempt', over='unix')
        self.end(src, dst, '--preempt', over='unix')

    def test_another_snapshot_is_refused_with_preempt(self):
        src, dst = self.broken('--preempt', **self.PREEMPT)
        self.refuses_other(dst, self.other, '--preempt', over='unix')
        self.end(src, dst, '--preempt', over='unix')

    def test_another_snapshot_is_refused_with_7_2(self):
        src, dst = self.broken(machine='pc-q35-7.2', version='7.2')
        self.refuses_other(dst, self.other)
        self.end(src, dst)

    def test_another_snapshot_is_refused_with_preempt_of_7_2(self):
        src, dst = self.broken('--preempt', machine='pc-q35-7.2',
                               version='7.2', **self.PREEMPT)
        self.refuses_other(dst, self.other, '--preempt', over='unix')
        self.end(src, dst, '--preempt', over='unix')

    def test_another_snapshot_is_refused_after_precopy(self):
        src, dst = self.broken(percent=50)
        self.refuses_other(dst, self.other)
        self.end(src, dst, most=self.stored / 2 + 1)

    def test_another_snapshot_is_refused_after_each_break(self):
        src, dst = self.broken()
        for over in ('exec', 'unix', 'exec'):
            self.refuses_other(dst, self.other, over=over)
            placed = dst.pages_placed()
            load = self.resume(dst, self.image, *RATE, over=over)
            dst.wait_until(lambda: dst.pages_placed() > placed + 100)
            self.break_off(dst, load)
        self.end(src, dst)

    def test_first_load_into_paused_destination_is_forgotten(self):
        """It comes to nothing, and nothing of it is remembered."""
        src, dst = self.broken()
        Load(self, dst, dst.recover, 'exec', self.other, '--postcopy',
             *RATE).finish(1)
        dst.wait_paused()
        self.refuses_other(dst, self.other)
        self.end(src, dst)

    def test_each_destination_resumes_what_it_was_loading(self):
        """Each has what it was loading, with the same parent process."""
        src = self.two_snapshots()
        one, load = self.begin(src)
        self.break_off(one, load)
        two = self.destination(src, run=True)
        load = self.postcopy(two, self.other, *RATE)
        self.assert_runs(two, src.loop)
        self.break_off(two, load)
        self.refuses_other(one, self.other)
        self.refuses_other(two, self.image)
        self.end(src, one)
        self.complete(self.resume(two, self.other))

    def forget(self, dst):
        """As if the destination had been another one"""
        record, = self.records(dst)
        os.remove(record)

    def test_unknown_destination_needs_uuid_to_resume(self):
        """If nobody knows which snapshot it was of, the user has to."""
        src, dst = self.broken()
        self.forget(dst)
        self.refuses(dst, self.image, causes=[f'--resume={self.uuid}',
                                              'no record'])
        self.refuses(dst, self.other, f'--resume={self.uuid}',
                     causes=(self.uuid, self.other_uuid))
        load = self.resume(dst, self.image, f'--resume={self.uuid}', *RATE)
        wait_until(lambda: self.records(dst), 30)
        self.break_off(dst, load)
        # It is known again.
        self.refuses_other(dst, self.other)
        self.refuses_other(dst, self.other, f'--resume={self.other_uuid}')
        self.end(src, dst)

    def test_record_of_another_user_is_not_believed(self):
        if os.geteuid():
            self.skipTest('needs root')
        src, dst = self.broken()
        record, = self.records(dst)
        os.chown(record, 12345, 12345)
        self.refuses(dst, self.image, causes=[f'--resume={self.uuid}',
                                              record])
        self.end(src, dst, f'--resume={self.uuid}')

    def test_no_working_set_is_recorded_of_refused_load(self):
        src, dst = self.broken()
        path = self.path('working-set')
        self.refuses_other(dst, self.other, '--record',
                           f'--working-set={path}')
        self.assertFalse(os.path.exists(path))
        self.end(src, dst)


class BadImage(RecoveryTest):
    """Not a byte of RAM is made up when an image cannot be read."""

    # As long as the guest has not run, QEMU gives up rather than pause it.
    LATER = ['-r', '8M']

    def setUp(self):
        super().setUp()
        self.src = self.snapshot(Q35, '-O', 'raw', run=True,
                                 mib=32)
        block = self.info(self.image)['ram-blocks'][0]
        self.assertEqual(block['name'], self.src.ram_id)
        self.ram_start = block['offset']
        # One that is pushed, and one that the guest asks for
        self.pushed = self.page_with_data(3 * self.src.ram.size // 4)
        self.asked = self.page_with_data(WORKING_SET + 100 * PAGE)

    def page_with_data(self, start):
        """The first page from @start on whose data is in the image."""
        with open(self.image, 'rb') as f:
            return next(offset for offset in range(start, self.src.ram.size,
                                                   PAGE)
                        if any(os.pread(f.fileno(), PAGE,
                                        self.ram_start + offset)))

    def fails(self, dst, load, page):
        """A load pauses the guest for @page; what it said of the cause."""
        dst.wait_paused()
        err = load.finish(1)
        self.assertRegex(err, "^qemu-snap: Could not load '.*': .*\n$")
        self.assertIn(self.image, err)
        report = load.report()
        self.assertEqual(report['status'], 'failed')
        self.assertIn(report['error'], err)
        self.assertIsNone(dst.exitcode())
        self.assertFalse(any(dst.ram.read(page, PAGE)))
        return err

    def read_error(self, page, *options, over='exec', caps=()):
        sector = (self.ram_start + page) // 512
        dst = self.destination(self.src, run=True)
        load = self.postcopy(
            dst, 'driver=raw,file.driver=blkdebug,file.image.driver=file,'
            f'file.image.filename={self.image},'
            'file.inject-error.0.event=none,file.inject-error.0.iotype=read,'
            f'file.inject-error.0.sector={sector},'
            'file.inject-error.0.once=off', '--image-opts', *options,
            over=over, caps=caps)
        self.assertIn('Input/output error', self.fails(dst, load, page))
        again = [o for o in options if o == '--preempt']
        self.end(self.src, dst, *RAW, *again, over=over)

    def test_read_error_of_pushed_page_pauses_guest(self):
        self.read_error(self.pushed, *self.LATER)

    def test_read_error_of_requested_page_pauses_guest(self):
        self.read_error(self.asked, '--push=none')

    def test_read_error_of_requested_page_pauses_guest_over_unix(self):
        self.read_error(self.asked, '--push=none', over='unix')

    def test_read_error_of_requested_page_pauses_guest_with_preempt(self):
        self.read_error(self.asked, '--push=none', '--preempt',
                        **self.PREEMPT)

    def flip(self, page):
        with open(self.image, 'r+b') as f:
            f.seek(self.ram_start + page)
            byte = f.read(1)[0]
            f.seek(self.ram_start + page)
            f.write(bytes([byte ^ 1]))

    def corrupt(self, page, *options):
        self.flip(page)
        dst = self.destination(self.src, run=True)
        self.fails(dst, self.postcopy(dst, self.image, *RAW, *options), page)
        self.flip(page)
        self.end(self.src, dst, *RAW)

    def test_corrupt_pushed_page_pauses_guest(self):
        self.corrupt(self.pushed, *self.LATER)

    def test_corrupt_requested_page_pauses_guest(self):
        self.corrupt(self.asked, '--push=none')

    def test_corrupt_page_of_resumed_load_pauses_guest(self):
        dst, load = self.begin(self.src, *RAW, '--push=none')
        self.break_off(dst, load)
        self.flip(self.pushed)
        self.fails(dst, self.resume(dst, self.image, *RAW), self.pushed)
        self.flip(self.pushed)
        self.end(self.src, dst, *RAW)


class LostDestination(RecoveryTest):
    """If there is nothing to go on with, the tool says so."""

    def destination_killed(self, *options, **kwargs):
        src = self.snapshot(run=True, mib=32)
        dst, load = self.begin(src, *options, **kwargs)
        os.kill(dst.get_pid(), signal.SIGKILL)
        err = load.finish(1)
        self.assertRegex(err, "^qemu-snap: Could not load '.*': .*\n$")
        self.assertIn(self.image, err)
        self.assertEqual(load.report()['status'], 'failed')

    def test_load_over_exec_fails_if_destination_is_killed(self):
        self.destination_killed()

    def test_load_over_unix_fails_if_destination_is_killed(self):
        self.destination_killed(over='unix')

    def test_load_over_fd_fails_if_destination_is_killed(self):
        self.destination_killed(over='fd')

    def test_preempt_load_fails_if_destination_is_killed(self):
        self.destination_killed('--preempt', **self.PREEMPT)

    def test_destination_awaiting_first_stream_is_not_resumed(self):
        src = self.snapshot('pc-q35-7.2', mib=32)
        for version in ('7.2', '10.0', NEWEST):
            with self.subTest(version):
                dst = self.destination(src, run=True, version=version)
                dst.capabilities('postcopy-ram')
                load = Load(self, dst, dst.incoming, 'unix', self.image,
                            '--resume')
                err = load.finish(1)
                self.assertIn(self.image, err)
                self.assertRegex(err, 'migrate-recover|paused')


if __name__ == '__main__':
    unittest.main(verbosity=2)
