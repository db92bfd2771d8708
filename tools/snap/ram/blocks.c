/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where RAM lies in a snapshot image
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/ram/blocks.h"

void snap_layout_init(SnapLayout *layout, unsigned page_bits)
{
    assert(page_bits >= SNAP_MIN_PAGE_BITS && page_bits <= SNAP_MAX_PAGE_BITS);

    *layout = (SnapLayout) {
        .page_bits = page_bits,
        .ram_end = SNAP_BLOCK_ALIGN,
    };
}

void snap_layout_destroy(SnapLayout *layout)
{
    g_free(layout->blocks);
    *layout = (SnapLayout) { };
}

bool snap_name_is_printable(const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (!g_ascii_isprint(name[i])) {
            return false;
        }
    }
    return true;
}

static bool check_block(const SnapLayout *layout, const char *name,
                        uint64_t length, uint64_t page_size, Error **errp)
{
    uint64_t target_page = snap_layout_page_size(layout);
    size_t name_length = strlen(name);

    if (name_length == 0 || name_length > SNAP_BLOCK_NAME_MAX ||
        !snap_name_is_printable(name, name_length)) {
        error_setg(errp, "RAM block with an invalid name");
    } else if (snap_layout_find(layout, name, 0) >= 0) {
        error_setg(errp, "RAM block '%s' appears twice", name);
    } else if (layout->nb_blocks == SNAP_MAX_BLOCKS) {
        error_setg(errp, "More than %d RAM blocks", SNAP_MAX_BLOCKS);
    } else if (length == 0 || !QEMU_IS_ALIGNED(length, target_page)) {
        error_setg(errp, "RAM block '%s' has a length of %" PRIu64 " bytes, "
                   "not a multiple of the target page size (%" PRIu64 ")",
                   name, length, target_page);
    } else if (length > SNAP_MAX_RAM + SNAP_BLOCK_ALIGN - layout->ram_end) {
        error_setg(errp, "RAM block '%s' of %" PRIu64 " bytes exceeds the "
                   "limit of %" PRIu64 " bytes of RAM", name, length,
                   (uint64_t)SNAP_MAX_RAM);
    } else if (page_size && !is_power_of_2(page_size)) {
        error_setg(errp, "RAM block '%s' has an invalid page size of %" PRIu64
                   " bytes", name, page_size);
    } else {
        return true;
    }
    return false;
}

SnapRAMBlock *snap_layout_add(SnapLayout *layout, const char *name,
                              uint64_t length, uint64_t page_size,
                              Error **errp)
{
    SnapRAMBlock *block;

    if (!check_block(layout, name, length, page_size, errp)) {
        return NULL;
    }

    layout->blocks = g_renew(SnapRAMBlock, layout->blocks,
                             layout->nb_blocks + 1);
    block = &layout->blocks[layout->nb_blocks++];
    *block = (SnapRAMBlock) {
        .length = length,
        .page_size = page_size,
        .offset = layout->ram_end,
        .first_page = layout->nb_pages,
    };
    pstrcpy(block->name, sizeof(block->name), name);

    layout->nb_pages += snap_layout_block_pages(layout, block);
    layout->ram_end = ROUND_UP(layout->ram_end + length, SNAP_BLOCK_ALIGN);
    return block;
}

int snap_layout_find(const SnapLayout *layout, const char *name, int hint)
{
    if (hint >= 0 && hint < layout->nb_blocks &&
        !strcmp(layout->blocks[hint].name, name)) {
        return hint;
    }
    for (unsigned i = 0; i < layout->nb_blocks; i++) {
        if (!strcmp(layout->blocks[i].name, name)) {
            return i;
        }
    }
    return -1;
}

SnapRAMBlock *snap_layout_block_of(const SnapLayout *layout, uint64_t page)
{
    unsigned low = 0, high = layout->nb_blocks;

    assert(page < layout->nb_pages);

    while (high - low > 1) {
        unsigned mid = low + (high - low) / 2;

        if (layout->blocks[mid].first_page <= page) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return &layout->blocks[low];
}

uint64_t snap_layout_stored_pages(const SnapLayout *layout)
{
    uint64_t stored = 0;

    for (unsigned i = 0; i < layout->nb_blocks; i++) {
        stored += layout->blocks[i].stored_pages;
    }
    return stored;
}
