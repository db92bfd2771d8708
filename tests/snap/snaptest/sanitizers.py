# SPDX-License-Identifier: GPL-2.0-or-later
#
# A tool that was built with AddressSanitizer and UndefinedBehaviorSanitizer
#
"""
Reports of AddressSanitizer and LeakSanitizer go to files, where they disturb
nobody who looks at stderr, and each one fails the test case that it belongs to,
even if nobody knows the exit status of the process.  What is undefined ends the
process; gcc's runtime has no other place for such a report than stderr.
"""

import functools
import os
import re
import tempfile
import unittest

from snaptest import env

OPTIONS = {
    # A library that a test preloads may come first.
    'ASAN_OPTIONS': ':detect_leaks=1:verify_asan_link_order=0',
    'UBSAN_OPTIONS': ':halt_on_error=1:print_stacktrace=1',
}

# There are warnings as well, as coroutines switch stacks.
REPORT = re.compile(r'ERROR: \w+Sanitizer')


@functools.cache
def is_sanitized() -> bool:
    with open(env('QEMU_SNAP'), 'rb') as f:
        return b'__asan_init' in f.read()


def watch_sanitizers(test: unittest.TestCase):
    """Let the reports of all processes that @test starts be its failures."""
    if not is_sanitized():
        return
    # pylint: disable=consider-using-with
    tmp = tempfile.TemporaryDirectory(
        prefix='snap-reports-', dir=os.environ.get('TMPDIR', '/var/tmp'))
    test.addCleanup(tmp.cleanup)
    test.addCleanup(check, test, tmp.name)
    os.chmod(tmp.name, 0o1777)      # processes of other users, too
    for name, options in OPTIONS.items():
        before = os.environ.get(name)
        os.environ[name] = f'{before or ""}{options}:log_path={tmp.name}/r'
        test.addCleanup(restore, name, before)


def restore(name: str, value: str | None):
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


def check(test: unittest.TestCase, directory: str):
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), encoding='utf-8',
                  errors='replace') as f:
            report = f.read()
        if REPORT.search(report):
            test.fail(report)


def limit_allocations(size: int) -> dict:
    """The environment of a process that may not allocate more at a time"""
    options = os.environ['ASAN_OPTIONS']
    return dict(os.environ, ASAN_OPTIONS=options +
                f':max_allocation_size_mb={size >> 20}'
                ':allocator_may_return_null=1')
