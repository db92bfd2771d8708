/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that the destination waits for, and those around them
 *
 * Takes requests, reads what is asked for with several reads in flight, and
 * has the pages ready for whoever sends them.  All in one AioContext.
 */

#ifndef SNAP_POSTCOPY_DEMAND_H
#define SNAP_POSTCOPY_DEMAND_H

#include "qemu/queue.h"
#include "snap/postcopy/page-map.h"
#include "snap/image/ram-read.h"
#include "snap/transfer/stats.h"

typedef struct SnapDemand SnapDemand;

/**
 * SnapFetch: pages that are ready to be sent
 * @first, @nb_pages: which; one host page where it was asked for
 * @request_ns: QEMU_CLOCK_REALTIME when it was asked for
 * @piece: the pages; without data and entries where the host page is larger
 *         than SNAP_DEMAND_MAX_READ: the taker has to read it
 * @ret, @err: where they could not be read
 */
typedef struct SnapFetch {
    uint64_t first;
    uint64_t nb_pages;
    int64_t request_ns;
    SnapRAMPiece piece;
    int ret;
    Error *err;

    /* private */
    SnapRAMRun run;
    SnapRAMRead read;
    QTAILQ_ENTRY(SnapFetch) next;
} SnapFetch;

/* Bytes of the largest host page that is read as a whole. */
#define SNAP_DEMAND_MAX_READ (1 * MiB)

/**
 * snap_demand_new: serve requests
 * @image, @map, @stats: not owned
 * @ready: called when a fetch can be taken
 */
SnapDemand *snap_demand_new(SnapImage *image, SnapPageMap *map,
                            SnapPostcopyStats *stats,
                            void (*ready)(void *opaque), void *opaque);
/* Only where snap_demand_is_quiet(). */
void snap_demand_free(SnapDemand *demand);

/**
 * snap_demand_set_fault_around: how many pages to read after a requested one
 * @nb_pages: target pages, 0 for none, SNAP_DEMAND_MAX_FAULT_AROUND at most
 */
void snap_demand_set_fault_around(SnapDemand *demand, unsigned nb_pages);
#define SNAP_DEMAND_MAX_FAULT_AROUND 256

/**
 * snap_demand_record: note the pages that are asked for, in this order
 * @pages: array of uint64_t page numbers, not owned
 * @max_pages: what it may grow to
 */
void snap_demand_record(SnapDemand *demand, GArray *pages, unsigned max_pages);

/**
 * snap_demand_request: pages are asked for
 * @block: index of the RAM block
 * @offset, @length: whole host pages, within the block
 *
 * Returns: 0; -ENOBUFS with @errp set where too many pages are waited for
 */
int coroutine_fn snap_demand_request(SnapDemand *demand, int block,
                                     uint64_t offset, uint64_t length,
                                     Error **errp);
/* A destination waits for few pages, for each of its threads one at most. */
#define SNAP_DEMAND_MAX_WAITING (64 * KiB)

/**
 * snap_demand_take: take something that is ready
 * @reason: SNAP_PUSH_REQUESTED or SNAP_PUSH_FAULT_AROUND
 *
 * Returns: to be given back by snap_demand_put(); NULL where nothing is ready
 */
SnapFetch *snap_demand_take(SnapDemand *demand, SnapPushReason reason);
void coroutine_fn snap_demand_put(SnapDemand *demand, SnapFetch *fetch);

/* The same where nothing is to be read any more. */
void snap_demand_drop(SnapDemand *demand, SnapFetch *fetch);

/* Whether nothing is asked for that was not taken and given back. */
bool snap_demand_is_idle(const SnapDemand *demand);

/* Whether something that is asked for waits to be read, or is being read. */
bool snap_demand_is_queued(const SnapDemand *demand);
bool snap_demand_is_reading(const SnapDemand *demand);

/* Whether nothing is being read. */
bool snap_demand_is_quiet(const SnapDemand *demand);

/* When the last request came (QEMU_CLOCK_REALTIME), 0 for never. */
int64_t snap_demand_last_ns(const SnapDemand *demand);

#endif /* SNAP_POSTCOPY_DEMAND_H */
