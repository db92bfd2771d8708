# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the tests of crashes and faults have in common
#
"""An old and a new snapshot, and what a file is: one of them, or refused."""

import collections
import concurrent.futures
import dataclasses
import os
import shutil
import subprocess
import tempfile
import threading

from snaptest import TIMEOUT, env
from snaptest.faults.powercut import Content, Disk
from snaptest.faults.storage import (Record, Storage, build_storage_library,
                                     read_log)
from snaptest.peers.streams import StreamBuilder
from snaptest.tool import REFUSAL, ToolTest, pattern
from snaptest.units import PAGE

RAM, VRAM = 131072, 32768
WORKERS = 2
# Not to wait for a disk that has nothing to do with it
READER = ('--cache=writeback', '--aio=threads')
OLD, NEW, REFUSED = 'old', 'new', 'refused'
# Complete, but for the description of the devices, which no load needs
OLD_BARE, NEW_BARE = 'old, bare', 'new, bare'
LOST_DESCRIPTION = b"The snapshot's device description is corrupt\n"


def guest(seed: int) -> StreamBuilder:
    """
    A guest of some state; all of them have the same layout, so that a mixture
    of two is plausible.
    """
    builder = StreamBuilder([('ram', RAM), ('vram', VRAM)])
    for name, length, _ in builder.blocks:
        for i in range(length // PAGE):
            kind = (i * 7 + seed) % 5
            if kind == 0:
                builder.zero(name, i * PAGE)
            elif kind < 4:
                builder.page(name, i * PAGE, pattern(1000 * seed + i))
        builder.end_part()
    builder.device('cpu', pattern(seed, 1000))
    builder.run_state('running')
    return builder


@dataclasses.dataclass(frozen=True)
class Save:
    """A save, and what there was before it

    before: "" for nothing, OLD for a snapshot that is replaced; for -n, the
            format of an empty image, or "old qcow2", "old raw"
    exchange: whether the file system can exchange names
    stream: of the new snapshot, if not the usual one
    """
    args: tuple = ()
    before: str = ''
    exchange: bool = True
    stream: bytes = b''

    def existing(self) -> bool:
        return '-n' in self.args

    def description_flushed(self) -> bool:
        """A new file is not flushed after the description."""
        return self.existing() or any('writethrough' in arg or
                                      'directsync' in arg
                                      for arg in self.args)

    def allowed(self, exited: bool) -> set:
        """What the image may be after a power cut"""
        if exited:
            return {NEW} if self.description_flushed() else {NEW, NEW_BARE}
        return {OLD, NEW, NEW_BARE} | ({REFUSED} if self.existing() else
                                       set())


# Those that differ in what they do to files
SAVES = (Save(), Save(before=OLD), Save(before=OLD, exchange=False),
         Save(('-O', 'raw')), Save(('-o', 'cluster_size=4k'), OLD),
         Save(('-n',), 'qcow2'), Save(('-n',), 'old qcow2'),
         Save(('-n', '-O', 'raw'), 'old raw'))


@dataclasses.dataclass
class Run:
    """A command that has worked in a directory

    before, inodes: name → Content and inode, of what there was before it
    """
    work: str
    image: str
    log: str
    before: dict
    inodes: dict
    result: subprocess.CompletedProcess | None = None

    def records(self) -> list:
        return read_log(self.log)

    def disturbed(self) -> Record | None:
        """The beginning of what was disturbed"""
        return next((record for record in self.records()
                     if record.disturbed and not record.end), None)

    def disk(self, flushes=lambda n: True) -> Disk:
        return Disk(self.work, self.before, self.inodes, flushes)


class Failure(Exception):
    """A file, or a command, was neither good nor clearly bad"""


def files(directory: str) -> dict:
    """All that there is, name → Content"""
    return {name: Content.read(os.path.join(directory, name))
            for name in os.listdir(directory)}


def one_line(error: bytes) -> bool:
    return error.startswith(b'qemu-snap: ') and error.count(b'\n') == 1 and \
        error.endswith(b'\n')


def is_dirty(path: str) -> bool:
    """Whether qcow2's reference counts are made anew before it is written"""
    with open(path, 'rb') as f:
        header = f.read(80)
    return header[:4] == b'QFI\xfb' and bool(header[79] & 1)


def forgive_refcounts(check, path: str):
    """
    Clusters may leak when a save ends suddenly, and with lazy_refcounts no
    count is right until the image is opened for writing; that is no loss.
    """
    lines = check.stderr.splitlines(keepends=True)
    if check.returncode == 3:
        check.returncode = 0
    if is_dirty(path):
        lines = [line for line in lines if not line.startswith(b'ERROR ')]
        if lines and lines[-1].endswith(b'The container is corrupt\n'):
            del lines[-1]
            check.returncode = 0
    check.stderr = b''.join(line for line in lines
                            if not line.startswith(b'Leaked cluster'))


class CrashTest(ToolTest):
    """
    A test with two streams.  self.storage_library is for LD_PRELOAD, and
    self.outputs[name] has what a load of a snapshot sends, with and without
    description.
    """

    outputs: dict
    storage_library: str

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        scratch = tempfile.mkdtemp(prefix='snap-', dir=os.environ.get(
            'TMPDIR', '/var/tmp'))
        cls.addClassCleanup(shutil.rmtree, scratch)
        cls.storage_library = build_storage_library(scratch)
        cls.streams = {OLD: guest(1).build(), NEW: guest(2).build()}
        cls.outputs = {}

    def setUp(self):
        super().setUp()
        self.cache = {}         # verdicts
        self.images = {}        # what is there before a save
        self.cache_lock = threading.Lock()
        if not self.outputs:
            for name, builder in ((OLD, guest(1)), (NEW, guest(2))):
                self.outputs[name] = [
                    self.output(builder.build(vmdesc=vmdesc))
                    for vmdesc in (None, False)]

    def output(self, stream: bytes) -> bytes:
        """What a load sends"""
        self.save(stream)
        output = self.load()
        self.assert_same_stream(stream, output)
        os.unlink(self.image)
        return output

    # Directories of one case each

    def in_parallel(self, function, cases) -> list:
        """The results, in the order of the cases"""
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(function, cases))

    def directory(self) -> str:
        return tempfile.mkdtemp(dir=self.dir)

    def prepared(self, save: Save) -> str:
        """A directory as it is before a save"""
        work = self.directory()
        if save.before:
            with self.cache_lock:
                if save.before not in self.images:
                    self.images[save.before] = self.make_image(save.before)
            self.images[save.before].store(os.path.join(work, 'image'))
        return work

    def make_image(self, before: str) -> Content:
        *old, fmt = before.split()
        path = os.path.join(self.directory(), 'image')
        if before == OLD:
            self.save(self.streams[OLD], path)
        else:
            self.img('create', '-f', fmt, path, '80M')
            if old:
                self.save(self.streams[OLD], path, '-n', '-O', fmt)
        return Content.read(path)

    def run_tool(self, *args: str, stdin: bytes = b'', **kwargs):
        return subprocess.run([env('QEMU_SNAP'), *args], input=stdin,
                              capture_output=True, check=False,
                              timeout=TIMEOUT, **kwargs)

    def begin_run(self, work: str, name: str = 'image') -> Run:
        return Run(work, os.path.join(work, name),
                   os.path.join(self.directory(), 'log'), files(work),
                   {entry.name: entry.inode() for entry in os.scandir(work)})

    def finish_run(self, run: Run, *args: str, stdin: bytes = b'',
                   rule: str = '', exchange: bool = True) -> Run:
        watched = Storage(run.work, self.storage_library)
        run.result = self.run_tool(
            *args, '--aio=threads', run.image, stdin=stdin,
            env=watched.environ(rule, run.log, exchange=exchange))
        return run

    def run_save(self, save: Save, rule: str = '') -> Run:
        """A save in a directory of its own, disturbed by a rule"""
        run = self.begin_run(self.prepared(save))
        return self.finish_run(run, 'save', *save.args, rule=rule,
                               stdin=save.stream or self.streams[NEW],
                               exchange=save.exchange)

    def count(self, save: Save, classes) -> dict:
        """How many operations a save has, by class"""
        run = self.run_save(save)
        self.assertEqual(run.result.returncode, 0, run.result.stderr)
        return self.count_run(run, classes)

    def count_run(self, run: Run, classes) -> dict:
        counts = collections.Counter(
            record.cls for record in run.records() if not record.end)
        return {cls: counts[cls] for cls in classes}

    # What a file is

    def verdict(self, path: str, *options: str) -> str:
        """
        OLD, NEW, ... or REFUSED, on which all verbs must agree; with the
        pages of a working set, 'new+3'
        """
        results = {
            verb: self.run_tool(verb, *options, *READER, path)
            for verb in ('info', 'check', 'load')}
        forgive_refcounts(results['check'], path)
        statuses = {result.returncode for result in results.values()}
        errors = [result.stderr for result in results.values()]
        loaded = results['load'].stdout
        if statuses == {1} and all(one_line(error) for error in errors):
            if loaded not in (b'', REFUSAL):
                raise Failure(f'{path} is no snapshot, but a load begins')
            return REFUSED
        bare = self.is_bare(results)
        if statuses != {0} and not bare:
            raise Failure(f'{path}: statuses {statuses}, {errors}')
        for name, outputs in self.outputs.items():
            if loaded == outputs[bare]:
                return name + ', bare' * bare + \
                    self.working_set(results['info'].stdout)
        raise Failure(f'{path} is accepted, and wrong')

    def is_bare(self, results: dict) -> bool:
        """Whether no more than the description was lost, and they say so"""
        return [results[verb].returncode for verb in
                ('info', 'check', 'load')] == [0, 2, 0] and all(
            one_line(results[verb].stderr) and
            results[verb].stderr.endswith(LOST_DESCRIPTION)
            for verb in ('check', 'load'))

    def working_set(self, info: bytes) -> str:
        line, = [line for line in info.decode().split('\n')
                 if line.startswith('working set: ')]
        pages = line.split()[2]
        return '' if pages == '0' else '+' + pages

    def judge(self, content: Content, *options: str) -> str:
        """Likewise, of content that may have been judged before"""
        key = (content.digest(), options)
        with self.cache_lock:
            if key in self.cache:
                return self.cache[key]
        with tempfile.NamedTemporaryFile(dir=self.dir) as file:
            content.store(file.name)
            verdict = self.verdict(file.name, *options)
        with self.cache_lock:
            self.cache[key] = verdict
        return verdict

    def is_prefix(self, name: str, part: bytes) -> bool:
        """Whether @part of a load cannot be mistaken for all of it"""
        whole = self.outputs[name][0]
        return part in (b'', REFUSAL) or \
            whole.startswith(part) and len(part) < len(self.outputs[name][1])


