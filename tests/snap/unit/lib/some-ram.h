/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM of a few blocks for unit tests
 *
 * The host pages do not depend on the host that the tests run on.
 */

#ifndef SNAP_TESTS_SOME_RAM_H
#define SNAP_TESTS_SOME_RAM_H

#include "qapi/error.h"
#include "snap/ram/host-pages.h"

#define PAGE_BITS   12
#define PAGE        (UINT64_C(1) << PAGE_BITS)
#define HUGE_BITS   21
#define HUGE_PAGES  (1 << (HUGE_BITS - PAGE_BITS))

/* The blocks: the large one does not begin at a round page number. */
enum {
    VGA,
    RAM,
    ROM,
    NB_BLOCKS,
};

#define VGA_PAGES   77
#define RAM_PAGES   (4 * HUGE_PAGES)
#define ROM_PAGES   3
#define NB_PAGES    (VGA_PAGES + RAM_PAGES + ROM_PAGES)

#define PAGES(first, count) ((SnapPageRange) { (first), (count) })

/* Number of the first page of each block. */
#define VGA_FIRST   0
#define RAM_FIRST   VGA_PAGES
#define ROM_FIRST   (VGA_PAGES + RAM_PAGES)

static inline void some_ram_blocks_init(SnapRAMBlocks *ram)
{
    snap_ram_blocks_init(ram, PAGE_BITS);
    snap_ram_blocks_add(ram, "vga.vram", VGA_PAGES * PAGE, 0, &error_abort);
    snap_ram_blocks_add(ram, "pc.ram", RAM_PAGES * PAGE, 0, &error_abort);
    snap_ram_blocks_add(ram, "/rom@etc/acpi/tables", ROM_PAGES * PAGE, 0,
                        &error_abort);
}

/* @host_bits: log2 of the size of the host pages of block RAM */
static inline void some_ram_host_pages_init(SnapHostPages *host_pages,
                                            SnapRAMBlocks *ram,
                                            unsigned host_bits)
{
    *host_pages = (SnapHostPages) {
        .ram = ram,
        .bits = g_new(unsigned, NB_BLOCKS),
        .default_bits = PAGE_BITS,
    };
    for (unsigned i = 0; i < NB_BLOCKS; i++) {
        host_pages->bits[i] = i == RAM ? host_bits : PAGE_BITS;
    }
}

#endif /* SNAP_TESTS_SOME_RAM_H */
