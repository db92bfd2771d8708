/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that the destination waits for, and those around them
 *
 * Takes requests, reads the requested pages with several reads in flight, and
 * keeps them ready for whoever sends them.  All in one AioContext.
 */

#ifndef SNAP_POSTCOPY_DEMAND_H
#define SNAP_POSTCOPY_DEMAND_H

#include "qemu/queue.h"
#include "snap/postcopy/push-plan.h"

typedef struct SnapDemand SnapDemand;

/**
 * SnapFetch: pages that are ready to be sent
 * @item: the pages, one host page if it was requested; without data and entries
 *        if that is larger than SNAP_DEMAND_MAX_READ: the taker has to read it
 * @request_ns: QEMU_CLOCK_REALTIME of the request
 * @ret, @err: set if they could not be read
 */
typedef struct SnapFetch {
    SnapPushItem item;
    int64_t request_ns;
    int ret;
    Error *err;

    /*< private >*/
    SnapPageRead read;
    QTAILQ_ENTRY(SnapFetch) next;
} SnapFetch;

/* Bytes of the largest host page that is read as a whole. */
#define SNAP_DEMAND_MAX_READ (1 * MiB)

/**
 * snap_demand_new: serve requests
 * @source, @map, @stats: not owned
 * @ready: called when a fetch can be taken
 */
SnapDemand *snap_demand_new(SnapPageSource *source, SnapPageMap *map,
                            SnapPostcopyStats *stats,
                            void (*ready)(void *opaque), void *opaque);
/* Only if snap_demand_is_quiet(). */
void snap_demand_free(SnapDemand *demand);

/**
 * snap_demand_set_fault_around: how many pages to read after a requested one
 * @nb_pages: target pages, 0 for none, SNAP_DEMAND_MAX_FAULT_AROUND at most
 */
void snap_demand_set_fault_around(SnapDemand *demand, unsigned nb_pages);
#define SNAP_DEMAND_MAX_FAULT_AROUND 256

/**
 * snap_demand_record: record the requested pages, in order
 * @pages: array of uint64_t page numbers, not owned
 * @max_pages: how many it may hold at most
 */
void snap_demand_record(SnapDemand *demand, GArray *pages, unsigned max_pages);

/**
 * snap_demand_request: take a request for pages
 * @pages: whole host pages
 *
 * Returns: 0; -ENOBUFS with @errp set if too many pages are queued
 */
int coroutine_fn snap_demand_request(SnapDemand *demand, SnapPageRange pages,
                                     Error **errp);
/* A destination waits for few pages: at most one for each of its threads. */
#define SNAP_DEMAND_MAX_WAITING (64 * KiB)

/**
 * snap_demand_take: take something that is ready
 * @reason: SNAP_PUSH_REQUESTED or SNAP_PUSH_FAULT_AROUND
 *
 * Returns: to be given back by snap_demand_put(); NULL if nothing is ready
 */
SnapFetch *snap_demand_take(SnapDemand *demand, SnapPushReason reason);
void coroutine_fn snap_demand_put(SnapDemand *demand, SnapFetch *fetch);

/* The same, if nothing more is to be read. */
void snap_demand_drop(SnapDemand *demand, SnapFetch *fetch);

/* Whether all that was requested has been taken and given back. */
bool snap_demand_is_idle(const SnapDemand *demand);

/* Whether a requested page waits to be read, or is being read. */
bool snap_demand_is_queued(const SnapDemand *demand);
bool snap_demand_is_reading(const SnapDemand *demand);

/* Begin no more reads: what has not been read is not going to be ready. */
void snap_demand_stop(SnapDemand *demand);

/* Whether nothing is being read. */
bool snap_demand_is_quiet(const SnapDemand *demand);

/* When the last request came (QEMU_CLOCK_REALTIME), 0 for never. */
int64_t snap_demand_last_ns(const SnapDemand *demand);

#endif /* SNAP_POSTCOPY_DEMAND_H */
