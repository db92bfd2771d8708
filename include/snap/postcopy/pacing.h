/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast, and in which steps, pages are pushed that nobody waits for
 *
 * A requested page waits for all that is in the channel before it.  So while
 * there are requests, the channel is kept small and filled in small batches;
 * after a while without any, it is large.  A rate limit comes on top.
 */

#ifndef SNAP_POSTCOPY_PACING_H
#define SNAP_POSTCOPY_PACING_H

#include "qemu/ratelimit.h"
#include "snap/channel/transport.h"

/**
 * SnapPacing: the pace of a push
 * @transport: whose output is resized, not owned
 * @backlog: bytes that may wait in the channel while there are requests
 * @limit: the rate limit
 * @not_before_ns: QEMU_CLOCK_REALTIME when the next batch may be sent
 * @is_small: the channel
 */
typedef struct SnapPacing {
    /*< private >*/
    SnapTransport *transport;
    unsigned backlog;
    RateLimit limit;
    int64_t not_before_ns;
    bool is_small;
} SnapPacing;

/**
 * snap_pacing_init: start with a large channel
 * @rate: bytes a second, 0 for no limit
 * @backlog: see SnapPacing
 */
void snap_pacing_init(SnapPacing *pacing, SnapTransport *transport,
                      uint64_t rate, unsigned backlog);
void snap_pacing_destroy(SnapPacing *pacing);

/* Push nothing before @ns (QEMU_CLOCK_REALTIME). */
void snap_pacing_hold(SnapPacing *pacing, int64_t ns);

/* Note that @bytes, which count for the rate, are sent at @now_ns. */
void snap_pacing_sent(SnapPacing *pacing, uint64_t bytes, int64_t now_ns);

/* Nanoseconds to wait before the next batch, 0 or less for none. */
int64_t snap_pacing_delay_ns(const SnapPacing *pacing, int64_t now_ns);

/**
 * snap_pacing_adapt: make the channel small or large
 * @request_ns: when the last request came, 0 for never
 *
 * Returns: false if it is too full to become small: try again a little later
 */
bool snap_pacing_adapt(SnapPacing *pacing, int64_t request_ns, int64_t now_ns);

/* Pages of the next batch. */
unsigned snap_pacing_batch(const SnapPacing *pacing);

#endif /* SNAP_POSTCOPY_PACING_H */
