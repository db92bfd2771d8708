# SPDX-License-Identifier: GPL-2.0-or-later
#
# Functions of the C library, replaced in a command under test
#
"""Libraries for LD_PRELOAD"""

import os
import subprocess


def build_library(directory: str, name: str, source: str, *flags: str) -> str:
    """Compile C @source, in @directory, and return the library's path."""
    path = os.path.join(directory, name + '.so')
    subprocess.run(['cc', '-shared', '-fPIC', '-o', path, *flags,
                    '-x', 'c', '-', '-ldl'],
                   input=source, text=True, check=True)
    return path
