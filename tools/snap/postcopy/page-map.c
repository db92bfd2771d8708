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

SnapPageRange snap_page_map_host_page(const SnapPageMap *map, uint64_t page)
{
    const SnapRAMBlock *block = snap_ram_block_of(map->ram, page);
    uint64_t nb_target_pages = snap_host_pages_count(map->host_pages,
                                                     block - map->ram->blocks);
    uint64_t in_block = ROUND_DOWN(page - block->first_page, nb_target_pages);

    return (SnapPageRange) { block->first_page + in_block, nb_target_pages };
}

bool snap_page_map_is_sent(const SnapPageMap *map, uint64_t page)
{
    return test_bit(page, map->sent);
}

bool snap_page_map_is_unsent(const SnapPageMap *map, SnapPageRange pages)
{
    uint64_t end = pages.first + pages.count;

    return find_next_bit(map->planned, end, pages.first) >= end;
}

void snap_page_map_plan(SnapPageMap *map, SnapPageRange pages)
{
    bitmap_set(map->planned, pages.first, pages.count);
}

void snap_page_map_send(SnapPageMap *map, SnapPageRange pages)
{
    bitmap_set(map->sent, pages.first, pages.count);
    bitmap_set(map->planned, pages.first, pages.count);
}

void snap_page_map_forget(SnapPageMap *map, SnapPageRange pages)
{
    bitmap_clear(map->sent, pages.first, pages.count);
    bitmap_clear(map->planned, pages.first, pages.count);
}

bool snap_page_map_request(SnapPageMap *map, uint64_t page)
{
    return !test_and_set_bit(page, map->requested);
}

bool snap_page_map_next_unsent(const SnapPageMap *map, uint64_t from,
                               uint64_t end, SnapPageRange *range)
{
    uint64_t page = from;

    while ((page = find_next_zero_bit(map->planned, end, page)) < end) {
        const SnapRAMBlock *block = snap_ram_block_of(map->ram, page);
        SnapPageRange host_page = snap_page_map_host_page(map, page);
        uint64_t limit = MIN(end, snap_ram_block_end(map->ram, block));
        uint64_t unsent = find_next_bit(map->planned, limit, host_page.first) -
                          host_page.first;

        if (unsent >= host_page.count) {
            *range = (SnapPageRange) {
                .first = host_page.first,
                .count = ROUND_DOWN(unsent, host_page.count),
            };
            return true;
        }
        /* Some of the host page was sent or planned. */
        page = host_page.first + host_page.count;
    }
    return false;
}

uint64_t snap_page_map_received(SnapPageMap *map, int block,
                                const uint8_t *bitmap)
{
    const SnapRAMBlock *b = &map->ram->blocks[block];
    uint64_t nb_pages = snap_ram_block_pages(map->ram, b);
    uint64_t nb_received = 0;

    for (uint64_t i = 0; i < nb_pages; i++) {
        if (bitmap[i / 8] & (1 << (i % 8))) {
            snap_page_map_send(map, (SnapPageRange) { b->first_page + i, 1 });
            nb_received++;
        }
    }
    return nb_received;
}
