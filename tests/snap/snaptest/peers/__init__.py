# SPDX-License-Identifier: GPL-2.0-or-later
#
"""QEMU's part, played by hand: streams, channels, answers."""
