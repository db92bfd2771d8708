/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where RAM lies in a snapshot image
 *
 * A function of its blocks: pure arithmetic.  The rules are those of
 * docs/interop/snapshot-image.rst, section "Layout".
 */

#ifndef SNAP_IMAGE_LAYOUT_H
#define SNAP_IMAGE_LAYOUT_H

#include "qemu/units.h"
#include "snap/ram/blocks.h"

/* RAM blocks start at multiples of this, the first one after the header. */
#define SNAP_BLOCK_ALIGN    (2 * MiB)

/**
 * SnapLayout: the places of RAM's blocks
 * @ram: the blocks, not owned
 * @offsets: where each block starts in the image, in bytes
 * @ram_end: first byte of the image after RAM
 */
typedef struct SnapLayout {
    const SnapRAMBlocks *ram;
    uint64_t *offsets;
    uint64_t ram_end;
} SnapLayout;

/**
 * snap_layout_init: place RAM's blocks
 * @ram: all blocks, must outlive @layout
 *
 * Returns: false with @errp set if an image cannot hold that much RAM
 */
bool snap_layout_init(SnapLayout *layout, const SnapRAMBlocks *ram,
                      Error **errp);
/* Also if it was zero and never initialised. */
void snap_layout_destroy(SnapLayout *layout);

/* Where page number @page of @block lies in the image, in bytes. */
static inline uint64_t snap_layout_page_offset(const SnapLayout *layout,
                                               const SnapRAMBlock *block,
                                               uint64_t page)
{
    return layout->offsets[block - layout->ram->blocks] +
           snap_ram_page_offset(layout->ram, block, page);
}

#endif /* SNAP_IMAGE_LAYOUT_H */
