# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Sizes, in bytes; PAGE is that of most guests."""

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
