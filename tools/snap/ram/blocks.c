/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's RAM: its blocks, and the numbers of its pages
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/ram/blocks.h"

void snap_ram_blocks_init(SnapRAMBlocks *ram, unsigned page_bits)
{
    assert(page_bits >= SNAP_MIN_PAGE_BITS && page_bits <= SNAP_MAX_PAGE_BITS);

    *ram = (SnapRAMBlocks) {
        .page_bits = page_bits,
    };
}

void snap_ram_blocks_destroy(SnapRAMBlocks *ram)
{
    g_free(ram->blocks);
    *ram = (SnapRAMBlocks) { };
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

static bool ram_check_block(const SnapRAMBlocks *ram, const char *name,
                            uint64_t length, uint64_t page_size, Error **errp)
{
    uint64_t target_page = snap_ram_page_size(ram);
    size_t name_length = strlen(name);

    if (name_length == 0 || name_length > SNAP_BLOCK_NAME_MAX ||
        !snap_name_is_printable(name, name_length)) {
        error_setg(errp, "RAM block with an invalid name");
    } else if (snap_ram_blocks_find(ram, name, 0) >= 0) {
        error_setg(errp, "RAM block '%s' appears twice", name);
    } else if (ram->nb_blocks == SNAP_MAX_BLOCKS) {
        error_setg(errp, "More than %d RAM blocks", SNAP_MAX_BLOCKS);
    } else if (length == 0 || !QEMU_IS_ALIGNED(length, target_page)) {
        error_setg(errp, "RAM block '%s' has a length of %" PRIu64 " bytes, "
                   "not a multiple of the target page size (%" PRIu64 ")",
                   name, length, target_page);
    } else if (length > SNAP_MAX_RAM - (ram->nb_pages << ram->page_bits)) {
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

const SnapRAMBlock *snap_ram_blocks_add(SnapRAMBlocks *ram, const char *name,
                                        uint64_t length, uint64_t page_size,
                                        Error **errp)
{
    SnapRAMBlock *block;

    if (!ram_check_block(ram, name, length, page_size, errp)) {
        return NULL;
    }

    ram->blocks = g_renew(SnapRAMBlock, ram->blocks,
                          ram->nb_blocks + 1);
    block = &ram->blocks[ram->nb_blocks++];
    *block = (SnapRAMBlock) {
        .length = length,
        .page_size = page_size,
        .first_page = ram->nb_pages,
    };
    pstrcpy(block->name, sizeof(block->name), name);

    ram->nb_pages += snap_ram_block_pages(ram, block);
    return block;
}

int snap_ram_blocks_find(const SnapRAMBlocks *ram, const char *name, int hint)
{
    if (hint >= 0 && hint < ram->nb_blocks &&
        !strcmp(ram->blocks[hint].name, name)) {
        return hint;
    }
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        if (!strcmp(ram->blocks[i].name, name)) {
            return i;
        }
    }
    return -1;
}

const SnapRAMBlock *snap_ram_block_of(const SnapRAMBlocks *ram, uint64_t page)
{
    unsigned low = 0, high = ram->nb_blocks;

    assert(page < ram->nb_pages);

    while (high - low > 1) {
        unsigned mid = low + (high - low) / 2;

        if (ram->blocks[mid].first_page <= page) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return &ram->blocks[low];
}
