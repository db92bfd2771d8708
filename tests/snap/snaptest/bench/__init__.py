# SPDX-License-Identifier: GPL-2.0-or-later
#
"""What the benches have in common."""
