/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a source's RAM in some order, ahead of who takes the pages
 */

#ifndef SNAP_RAM_WALK_H
#define SNAP_RAM_WALK_H

#include "snap/ram/source.h"

typedef struct SnapRAMWalk SnapRAMWalk;

/* Pieces in memory: that of the caller, and the reads in flight */
#define SNAP_RAM_WALK_AHEAD 16

/**
 * SnapRAMPlanFunc: what to read next
 * @range: filled in if 1 is returned; of any length
 *
 * Returns: 1; 0 at the end; -errno with @errp set
 */
typedef int coroutine_fn SnapRAMPlanFunc(void *opaque, SnapPageRange *range,
                                         Error **errp);

/**
 * snap_ram_walk_new: read pages in the order of a plan
 * @source: not owned, must outlive the walk
 * @piece_size: bytes of a piece at most, 64 KiB at least; the walk has 16 of
 *              that size in memory
 * @plan: NULL for all of RAM, in order
 * @opaque: for @plan
 */
SnapRAMWalk *snap_ram_walk_new(SnapPageSource *source, size_t piece_size,
                               SnapRAMPlanFunc *plan, void *opaque);

/* Only after snap_ram_walk_abort(), unless the end was reached. */
void snap_ram_walk_free(SnapRAMWalk *walk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapRAMWalk, snap_ram_walk_free)

/**
 * snap_ram_walk_next: the next piece of RAM
 * @pages: valid until the next call
 *
 * Returns: 1; 0 at the end; -errno with @errp set if something cannot be
 * read, or a page does not match its hash (-EBADMSG)
 *
 * After an error in the data of pages, and only then, the walk can go on with
 * the next piece: see snap_ram_walk_corrupt_pages().
 */
int coroutine_fn snap_ram_walk_next(SnapRAMWalk *walk,
                                    SnapPages *pages, Error **errp);

/**
 * snap_ram_walk_corrupt_pages: pages that the last error was about
 *
 * Returns: how many pages of the piece are damaged or could not be read; 0
 * if it was not about pages
 */
unsigned snap_ram_walk_corrupt_pages(const SnapRAMWalk *walk);

/* Wait for what is in flight. */
void coroutine_fn snap_ram_walk_abort(SnapRAMWalk *walk);

#endif /* SNAP_RAM_WALK_H */
