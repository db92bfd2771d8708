/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State of each page in a load by postcopy
 *
 * Per-page bitmaps, three bits a page.  A page must not be placed twice: the
 * destination takes that for a failure
 * (migration/postcopy-ram.c:qemu_ufd_copy_ioctl).  So whoever sends a page
 * takes it here first, and does not yield in between.
 */

#ifndef SNAP_POSTCOPY_PAGE_MAP_H
#define SNAP_POSTCOPY_PAGE_MAP_H

#include "snap/ram/host-pages.h"

/**
 * SnapPageMap: per-page bitmaps
 * @ram: RAM blocks, not owned
 * @host_pages: not owned
 * @sent: bit per page: the destination has it, or will read it
 * @planned: bit per page: it was sent, or is about to be pushed
 * @requested: bit per page: the destination has requested it
 */
typedef struct SnapPageMap {
    const SnapRAMBlocks *ram;
    const SnapHostPages *host_pages;

    /*< private >*/
    unsigned long *sent;
    unsigned long *planned;
    unsigned long *requested;
} SnapPageMap;

/**
 * snap_page_map_init: start with no page sent, planned or requested
 * @ram, @host_pages: must outlive @map
 *
 * Returns: whether there was memory for it; else @errp is set
 */
bool snap_page_map_init(SnapPageMap *map, const SnapRAMBlocks *ram,
                        const SnapHostPages *host_pages, Error **errp);
void snap_page_map_destroy(SnapPageMap *map);

/* snap_page_map_host_page: the target pages of the host page that has @page */
SnapPageRange snap_page_map_host_page(const SnapPageMap *map, uint64_t page);

bool snap_page_map_is_sent(const SnapPageMap *map, uint64_t page);

/* Whether none of these pages was sent or planned. */
bool snap_page_map_is_unsent(const SnapPageMap *map, SnapPageRange pages);

/* Somebody is about to push these pages, if they are not sent before that. */
void snap_page_map_plan(SnapPageMap *map, SnapPageRange pages);

/* Take pages, which may have been taken before. */
void snap_page_map_send(SnapPageMap *map, SnapPageRange pages);

/* Take pages back that were sent: they will be discarded. */
void snap_page_map_forget(SnapPageMap *map, SnapPageRange pages);

/* Note a request for @page. Returns: whether it is the first one */
bool snap_page_map_request(SnapPageMap *map, uint64_t page);

/**
 * snap_page_map_next_unsent: find host pages that are neither sent nor planned
 * @from: page to start at
 * @end: page to end before; the end of a host page
 * @range: filled in with what was found: up to the next page that was sent or
 *         planned, the end of the block, or @end
 *
 * A host page of which any target page was sent or planned counts as a whole.
 *
 * Returns: false if there are no more
 */
bool snap_page_map_next_unsent(const SnapPageMap *map, uint64_t from,
                               uint64_t end, SnapPageRange *range);

/**
 * snap_page_map_received: take the pages that a destination has as sent
 * @bitmap: of @block, a bit per target page, as the protocol has it: in bytes,
 *          the least significant bit first (migration/ram.c:
 *          ramblock_recv_bitmap_send)
 *
 * Returns: how many pages it has
 */
uint64_t snap_page_map_received(SnapPageMap *map, int block,
                                const uint8_t *bitmap);

#endif /* SNAP_POSTCOPY_PAGE_MAP_H */
