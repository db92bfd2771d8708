/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the pages of a load by postcopy, the most urgent ones first
 */

#ifndef SNAP_POSTCOPY_PUSHER_H
#define SNAP_POSTCOPY_PUSHER_H

#include "snap/postcopy/demand.h"
#include "snap/util/progress.h"
#include "snap/postcopy/push-plan.h"
#include "snap/stream/writer.h"
#include "snap/channel/transport.h"

typedef struct SnapPusher SnapPusher;

/**
 * SnapPusherOptions: how to push
 * @reasons: bit mask of 1 << SnapPushReason: what to push unrequested
 * @fault_around: pages after a requested one
 * @rate: bytes a second of unrequested pages, 0 for no limit
 * @backlog: bytes that may wait in the channel while there are requests
 * @record_ns: for this long, only what is requested is sent
 */
typedef struct SnapPusherOptions {
    unsigned reasons;
    unsigned fault_around;
    uint64_t rate;
    unsigned backlog;
    int64_t record_ns;
} SnapPusherOptions;

/**
 * snap_pusher_new: push what @map does not have as sent
 * @image, @map, @transport, @stats, @progress: not owned
 * @writer: of the main channel, not owned
 * @preempt: of the channel for requested pages, not owned; NULL to send them on
 *           the main channel
 */
SnapPusher *snap_pusher_new(SnapImage *image, SnapPageMap *map,
                            SnapTransport *transport, SnapStreamWriter *writer,
                            SnapStreamWriter *preempt,
                            const SnapPusherOptions *options,
                            SnapStats *stats, SnapProgress *progress);
/* Nothing may be in flight: see snap_pusher_is_idle(). */
void snap_pusher_free(SnapPusher *pusher);

/* Record the requested pages: see snap_demand_record(). */
void snap_pusher_record(SnapPusher *pusher, GArray *pages, unsigned max_pages);

/* Push @pages first: page numbers, not owned; before snap_pusher_run(). */
void snap_pusher_set_working_set(SnapPusher *pusher, const uint64_t *pages,
                                 size_t nb_pages);

/* Take a request for host pages: see snap_demand_request(). */
int coroutine_fn snap_pusher_request(SnapPusher *pusher, int block,
                                     uint64_t offset, uint64_t length,
                                     Error **errp);

/**
 * snap_pusher_run: push until all that is to be pushed was sent
 *
 * Each batch is a section of its own.  Requests are still served on @preempt
 * afterwards, until snap_pusher_stop().
 *
 * Returns: 0; -errno with @errp set
 */
int coroutine_fn snap_pusher_run(SnapPusher *pusher, Error **errp);

/* Let snap_pusher_run() return -@err; @err > 0, and 0 to serve no more. */
void snap_pusher_stop(SnapPusher *pusher, int err);

/* Whether no coroutine is at work. */
bool snap_pusher_is_idle(const SnapPusher *pusher);

#endif /* SNAP_POSTCOPY_PUSHER_H */
