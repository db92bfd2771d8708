/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where RAM lies in a snapshot image
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/layout.h"

bool snap_layout_init(SnapLayout *layout, const SnapRAMBlocks *ram,
                      Error **errp)
{
    uint64_t end = SNAP_BLOCK_ALIGN;

    *layout = (SnapLayout) {
        .ram = ram,
        .offsets = g_new(uint64_t, ram->nb_blocks),
    };
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        const SnapRAMBlock *block = &ram->blocks[i];

        if (block->length > SNAP_MAX_RAM + SNAP_BLOCK_ALIGN - end) {
            error_setg(errp, "RAM block '%s' of %" PRIu64 " bytes exceeds the "
                       "limit of %" PRIu64 " bytes of RAM", block->name,
                       block->length, (uint64_t)SNAP_MAX_RAM);
            snap_layout_destroy(layout);
            return false;
        }
        layout->offsets[i] = end;
        end = ROUND_UP(end + block->length, SNAP_BLOCK_ALIGN);
    }
    layout->ram_end = end;
    return true;
}

void snap_layout_destroy(SnapLayout *layout)
{
    g_free(layout->offsets);
    *layout = (SnapLayout) { };
}
