# SPDX-License-Identifier: GPL-2.0-or-later
#
"""What may happen to the tool: kills, failing storage, power cuts."""
