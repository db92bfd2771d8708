# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Emulators, their guests, and saves and loads of them."""
