/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page map of some RAM, for the unit tests of a load by postcopy
 */

#ifndef SNAP_TESTS_SOME_PAGE_MAP_H
#define SNAP_TESTS_SOME_PAGE_MAP_H

#include "snap/postcopy/page-map.h"
#include "some-ram.h"

/**
 * SomeRAM: three blocks, nothing of which was sent
 * @map: on @ram and @host_pages, so do not copy this
 */
typedef struct SomeRAM {
    SnapRAMBlocks ram;
    SnapHostPages host_pages;
    SnapPageMap map;
} SomeRAM;

/* @host_bits: log2 of the size of the host pages of block RAM */
static inline void some_ram_init(SomeRAM *ram, unsigned host_bits)
{
    some_ram_blocks_init(&ram->ram);
    some_ram_host_pages_init(&ram->host_pages, &ram->ram, host_bits);
    snap_page_map_init(&ram->map, &ram->ram, &ram->host_pages,
                       &error_abort);
}

static inline void some_ram_destroy(SomeRAM *ram)
{
    snap_page_map_destroy(&ram->map);
    snap_host_pages_destroy(&ram->host_pages);
    snap_ram_blocks_destroy(&ram->ram);
}

#endif /* SNAP_TESTS_SOME_PAGE_MAP_H */
