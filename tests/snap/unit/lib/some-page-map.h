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
 * @map: on @layout and @host_pages, so do not copy this
 */
typedef struct SomeRAM {
    SnapLayout layout;
    SnapHostPages host_pages;
    SnapPageMap map;
} SomeRAM;

/* @host_bits: log2 of the size of the host pages of block RAM */
static inline void some_ram_init(SomeRAM *ram, unsigned host_bits)
{
    some_ram_layout_init(&ram->layout);
    some_ram_host_pages_init(&ram->host_pages, &ram->layout, host_bits);
    snap_page_map_init(&ram->map, &ram->layout, &ram->host_pages,
                       &error_abort);
}

static inline void some_ram_destroy(SomeRAM *ram)
{
    snap_page_map_destroy(&ram->map);
    snap_host_pages_destroy(&ram->host_pages);
    snap_layout_destroy(&ram->layout);
}

#endif /* SNAP_TESTS_SOME_PAGE_MAP_H */
