/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State of each page in a load by postcopy
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "snap/postcopy/page-map.h"

bool snap_page_map_init(SnapPageMap *map, const SnapRAMBlocks *ram,
                        const SnapHostPages *host_pages, Error **errp)
{
    *map = (SnapPageMap) {
        .ram = ram,
        .host_pages = host_pages,
        .sent = bitmap_try_new(ram->nb_pages),
        .planned = bitmap_try_new(ram->nb_pages),
        .requested = bitmap_try_new(ram->nb_pages),
    };
    if (!map->sent || !map->planned || !map->requested) {
        error_setg(errp, "Not enough memory for the map of %" PRIu64 " pages",
                   ram->nb_pages);
        snap_page_map_destroy(map);
        return false;
    }
    return true;
}

void snap_page_map_destroy(SnapPageMap *map)
{
    g_clear_pointer(&map->sent, g_free);
    g_clear_pointer(&map->planned, g_free);
    g_clear_pointer(&map->requested, g_free);
}

uint64_t snap_page_map_host_page(const SnapPageMap *map, uint64_t page,
                                 uint64_t *nb_pages)
{
    const SnapRAMBlock *block = snap_ram_block_of(map->ram, page);
    uint64_t in_block = page - block->first_page;

    *nb_pages = snap_host_pages_targets(map->host_pages,
                                        block - map->ram->blocks);
    return block->first_page + ROUND_DOWN(in_block, *nb_pages);
}

bool snap_page_map_is_sent(const SnapPageMap *map, uint64_t page)
{
    return test_bit(page, map->sent);
}

void snap_page_map_plan(SnapPageMap *map, uint64_t first, uint64_t nb_pages)
{
    bitmap_set(map->planned, first, nb_pages);
}

void snap_page_map_send(SnapPageMap *map, uint64_t first, uint64_t nb_pages)
{
    bitmap_set(map->sent, first, nb_pages);
    bitmap_set(map->planned, first, nb_pages);
}

void snap_page_map_forget(SnapPageMap *map, uint64_t first, uint64_t nb_pages)
{
    bitmap_clear(map->sent, first, nb_pages);
    bitmap_clear(map->planned, first, nb_pages);
}

bool snap_page_map_request(SnapPageMap *map, uint64_t page)
{
    return !test_and_set_bit(page, map->requested);
}

bool snap_page_map_next_unsent(const SnapPageMap *map, int block,
                               uint64_t *offset, uint64_t *length)
{
    const SnapRAMBlock *b = &map->ram->blocks[block];
    uint64_t targets = snap_host_pages_targets(map->host_pages, block);
    unsigned page_bits = map->ram->page_bits;
    uint64_t end = b->first_page + snap_ram_block_pages(map->ram, b);
    uint64_t page = snap_ram_page(map->ram, b, *offset);

    for (;;) {
        uint64_t first = find_next_zero_bit(map->planned, end, page);
        uint64_t in_block, taken;

        if (first >= end) {
            return false;
        }
        in_block = ROUND_DOWN(first - b->first_page, targets);
        taken = find_next_bit(map->planned, end, b->first_page + in_block) -
                b->first_page;
        if (taken < in_block + targets) {
            /* some of the host page was sent or planned */
            page = b->first_page + in_block + targets;
            continue;
        }
        *offset = in_block << page_bits;
        *length = (ROUND_DOWN(taken, targets) - in_block) << page_bits;
        return true;
    }
}

uint64_t snap_page_map_received(SnapPageMap *map, int block,
                                const uint8_t *bitmap)
{
    const SnapRAMBlock *b = &map->ram->blocks[block];
    uint64_t nb_pages = snap_ram_block_pages(map->ram, b);
    uint64_t nb_received = 0;

    for (uint64_t i = 0; i < nb_pages; i++) {
        if (bitmap[i / 8] & (1 << (i % 8))) {
            snap_page_map_send(map, b->first_page + i, 1);
            nb_received++;
        }
    }
    return nb_received;
}
