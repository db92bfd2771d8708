/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the pages of a load by postcopy, the most urgent ones first
 */

#ifndef SNAP_POSTCOPY_PUSHER_H
#define SNAP_POSTCOPY_PUSHER_H

#include "snap/channel/transport.h"
#include "snap/postcopy/demand.h"
#include "snap/postcopy/push-plan.h"
#include "snap/transfer/send.h"
#include "snap/util/progress.h"

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
 * SnapPusherParts: what a pusher works with; none of it is owned
 * @sender: the main channel
 * @preempt: the channel for requested pages, to the same stats; NULL to send
 *           them on the main channel
 * @transport: of the main channel
 * @map: which pages were sent
 * @demand: the requested pages
 * @plan: the others, in the order in which they are pushed
 * @progress: counts pages with data
 */
typedef struct SnapPusherParts {
    SnapSender *sender;
    SnapSender *preempt;
    SnapTransport *transport;
    SnapPageMap *map;
    SnapDemand *demand;
    SnapPushPlan *plan;
    SnapProgress *progress;
} SnapPusherParts;

/**
 * snap_pusher_new: push what the map does not have as sent
 * @parts, @options: copied
 */
SnapPusher *snap_pusher_new(const SnapPusherParts *parts,
                            const SnapPusherOptions *options);
/* Only before snap_pusher_run(), or after snap_pusher_end(). */
void snap_pusher_free(SnapPusher *pusher);

/* A requested page is ready to be sent. */
void snap_pusher_wake(SnapPusher *pusher);

/**
 * snap_pusher_run: push until all that is to be pushed was sent
 *
 * Each batch is a section of its own.  Requests are still served on the preempt
 * channel afterwards, until snap_pusher_stop().
 *
 * Returns: 0; -ECONNABORTED if it was stopped; -errno with @errp set
 */
int coroutine_fn snap_pusher_run(SnapPusher *pusher, Error **errp);

/* Let snap_pusher_run() return -ECONNABORTED, and serve no more requests. */
void snap_pusher_stop(SnapPusher *pusher);

/**
 * snap_pusher_end: stop, and wait until nothing is in flight
 *
 * That includes what the demand reads.  Only after snap_pusher_run() has
 * returned; the channels must not be stuck.
 */
void coroutine_fn snap_pusher_end(SnapPusher *pusher);

#endif /* SNAP_POSTCOPY_PUSHER_H */
