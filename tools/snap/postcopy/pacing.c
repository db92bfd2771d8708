/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast, and in which steps, pages are pushed that nobody waits for
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/pacing.h"
#include "snap/trace.h"

/* Time without a request after which the channel is made large. */
#define QUIET_NS       (INT64_C(20) * SCALE_MS)
#define LARGE_CHANNEL  (256 * KiB)

/* Pages of a batch, with a small channel and a large one. */
#define BATCH_SMALL    8
#define BATCH_LARGE    32

/* The unit of time in which a limited rate is kept. */
#define RATE_SLICE_NS  (INT64_C(1) * SCALE_MS)

void snap_pacing_init(SnapPacing *p, SnapTransport *transport, uint64_t rate,
                      unsigned backlog)
{
    *p = (SnapPacing) { .transport = transport, .backlog = backlog };
    ratelimit_init(&p->limit);
    ratelimit_set_speed(&p->limit, rate, RATE_SLICE_NS);
}

void snap_pacing_destroy(SnapPacing *p)
{
    ratelimit_destroy(&p->limit);
}

void snap_pacing_hold(SnapPacing *p, int64_t ns)
{
    p->not_before_ns = ns;
}

void snap_pacing_sent(SnapPacing *p, uint64_t bytes, int64_t now_ns)
{
    p->not_before_ns = now_ns + ratelimit_calculate_delay(&p->limit, bytes);
}

int64_t snap_pacing_delay_ns(const SnapPacing *p, int64_t now_ns)
{
    return p->not_before_ns - now_ns;
}

bool snap_pacing_adapt(SnapPacing *p, int64_t request_ns, int64_t now_ns)
{
    bool small = request_ns && now_ns - request_ns < QUIET_NS;

    if (small != p->is_small) {
        unsigned size = small ? p->backlog : LARGE_CHANNEL;
        int ret = snap_transport_resize_output(p->transport, size);

        trace_snap_pacing_channel(size, ret);
        if (ret == -EBUSY) {
            return false;
        }
        p->is_small = small;
    }
    return true;
}

unsigned snap_pacing_batch(const SnapPacing *p)
{
    return p->is_small ? BATCH_SMALL : BATCH_LARGE;
}
