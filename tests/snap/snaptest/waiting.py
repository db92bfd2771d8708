# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Wait for conditions, never for a time."""

import os
import time


def wait_until(what, timeout: float):
    """Wait for @what() to be true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f'{timeout} s have passed')
        time.sleep(0.01)


def is_listening(path: str) -> bool:
    """Whether connections to @path are taken: as soon as it is there."""
    return os.path.exists(path)


def is_pending(pid: int, number: int) -> bool:
    """Whether the process has not seen the signal yet"""
    try:
        with open(f'/proc/{pid}/status', encoding='ascii') as f:
            mask = next(line for line in f if line.startswith('ShdPnd:'))
    except FileNotFoundError:
        return False
    return bool(int(mask.split()[1], 16) & 1 << number - 1)
