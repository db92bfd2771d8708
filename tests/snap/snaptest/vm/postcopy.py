# SPDX-License-Identifier: GPL-2.0-or-later
#
"""Loads by postcopy."""

from snaptest.vm.run import Run

# Why pages are sent that nobody has asked for, while the guest runs
PUSHED = ('working-set-pages', 'arrival-pages', 'around-pages',
          'linear-pages')


class Load(Run):
    """A load into @vm, which is told where by @accept(uri)."""

    def __init__(self, test, vm, accept, over: str, image: str,
                 *options: str, **kwargs):
        super().__init__(test, vm, accept, over, 'load', image, *options,
                         **kwargs)
