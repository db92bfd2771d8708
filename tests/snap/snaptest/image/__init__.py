# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Snapshot images: what their bits mean, and what a wrong bit does."""
