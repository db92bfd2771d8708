#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Run fuzzers
#
"""
run.py [--seconds N] [--work DIR] [NAME...]

Each fuzzer runs for N seconds, after its seeds and what was found before
(regressions/NAME).  With DIR, it goes on from DIR/NAME, and leaves there what
it has learned; without, each run is the same, as far as N seconds allow.
"""

import argparse
import concurrent.futures
import hashlib
import os
import re
import subprocess
import sys
import tempfile

from seeds import seeds
from snaptest import env

HERE = os.path.dirname(os.path.abspath(__file__))

DICTIONARIES = {'save': 'stream'}
NAMES = ('image', 'multifd', 'qmp', 'return-path', 'save', 'stream')

# One input takes far less of all of these, also on a busy machine.
LIMITS = ['-timeout=60', '-rss_limit_mb=1024', '-malloc_limit_mb=256',
          '-max_len=262144']


class Fuzzer:

    def __init__(self, name: str):
        self.name = name
        self.build = env('QEMU_BUILD')
        self.path = f'{self.build}/tests/snap/fuzz/fuzz-{name}'
        self.crashes = f'{os.path.dirname(self.build)}/crashes'
        self.dictionary = f'{HERE}/{DICTIONARIES.get(name, name)}.dict'

    def write_seeds(self, directory: str):
        for data in seeds(self.name):
            path = os.path.join(directory, hashlib.sha1(data).hexdigest())
            with open(path, 'wb') as f:
                f.write(data)

    def command(self, seconds: int, directories: list[str]) -> list[str]:
        regressions = f'{HERE}/regressions/{self.name}'
        if os.path.isdir(regressions):
            directories = [*directories, regressions]
        return [self.path, f'-max_total_time={seconds}', *LIMITS,
                f'-dict={self.dictionary}', '-print_final_stats=1',
                f'-artifact_prefix={self.crashes}/{self.name}-', *directories]

    def run(self, seconds: int, work: str | None) -> bool:
        """Whether nothing was found"""
        os.makedirs(self.crashes, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='fuzz-') as tmp:
            corpus = f'{work}/{self.name}' if work else f'{tmp}/corpus'
            os.makedirs(corpus, exist_ok=True)
            os.mkdir(f'{tmp}/seeds')
            self.write_seeds(f'{tmp}/seeds')
            command = self.command(seconds, [corpus, f'{tmp}/seeds'])
            if not work:
                command.insert(1, '-seed=1')
            process = subprocess.run(command, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, check=False)
        return self.report(process.returncode,
                           process.stderr.decode(errors='replace'))

    def report(self, status: int, log: str) -> bool:
        if status == 0:
            nb, = re.search(r'number_of_executed_units: (\d+)', log).groups()
            cov = re.findall(r' cov: (\d+)', log)[-1]
            print(f'# {nb} inputs: fuzz-{self.name}, {cov} edges of the code',
                  file=sys.stderr)
            return True
        lines = [line for line in log.splitlines()
                 if not re.match(r'#\d+|\s+NEW_(FUNC|PC)', line)]
        print('\n'.join(lines[-100:]), file=sys.stderr)
        for path in re.findall(r'Test unit written to (\S+)', log):
            print(f'\nfuzz-{self.name} has found {path}\n'
                  f'Again: {self.path} {path}', file=sys.stderr)
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seconds', type=int, default=15)
    parser.add_argument('--work')
    parser.add_argument('names', nargs='*', metavar='NAME')
    args = parser.parse_args()
    tempfile.tempdir = os.path.dirname(env('QEMU_BUILD'))
    fuzzers = [Fuzzer(name) for name in args.names or NAMES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda f: f.run(args.seconds, args.work),
                                fuzzers))
    sys.exit(not all(results))


if __name__ == '__main__':
    main()
