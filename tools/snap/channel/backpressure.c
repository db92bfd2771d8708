/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/channel/backpressure.h"
#include "snap/trace.h"

#define WIDEST (1 * MiB)

/*
 * A background snapshot writes one page at a time, which does not fill a pipe
 * this wide in so short a time.
 */
#define WIDE         (512 * KiB)
#define COALESCE_NS  (200 * SCALE_US)

/* Read little at a time from a pipe this narrow, too. */
#define NARROW          (64 * KiB)
#define MAX_READ        (8 * KiB)
#define MIN_READ        (4 * KiB)

/*
 * Width of the pipe if nothing tells when the device state comes, and after the
 * beginning of RAM's last section.  8 KiB give three times the throughput of
 * 4 KiB, 16 KiB almost that of larger pipes; the state of the smallest machines
 * takes 18 KiB.
 */
#define UNPREDICTABLE_SIZE      (16 * KiB)
#define UNPREDICTABLE_END_SIZE  (8 * KiB)

/* Calls until resizing a busy pipe is tried again. */
#define RESIZE_RETRY_CALLS 7

/* A zero page, the smallest record: be64 and a byte. */
#define SMALLEST_RECORD 9

static int backpressure_resize(SnapBackpressure *bp, int size)
{
    int ret = snap_transport_resize_input(bp->transport, size);

    if (ret >= 0) {
        SnapInput *input = snap_transport_input(bp->transport);

        bp->size = ret;
        snap_input_set_coalescing(input,
                                  bp->size >= WIDE ? COALESCE_NS : 0);
        if (bp->size <= NARROW) {
            snap_input_set_readahead(input, MIN(MAX(bp->size / 4, MIN_READ),
                                                MAX_READ));
        }
        trace_snap_backpressure_resize(bp->size);
    }
    return ret;
}

void snap_backpressure_init(SnapBackpressure *bp, SnapTransport *transport)
{
    *bp = (SnapBackpressure) {
        .transport = transport,
        .size = snap_transport_input_size(transport),
        .most = INT_MAX,
    };
    if (bp->size) {
        /* Best effort: unprivileged users may be limited to less. */
        backpressure_resize(bp, WIDEST);
    }
}

/* Shrink the pipe by one step. Returns: whether it is narrower now */
static bool backpressure_halve(SnapBackpressure *bp)
{
    /* The smallest pipe there is holds one page of the host. */
    if (bp->size <= qemu_real_host_page_size()) {
        return false;
    }
    if (backpressure_resize(bp, bp->size / 2) < 0) {
        bp->retry_calls = RESIZE_RETRY_CALLS;
        return false;
    }
    return true;
}

/*
 * Shrink the pipe step by step: resizing fails while it holds more than the new
 * capacity, and a source that keeps it full leaves little room.
 * @pending: bytes that can come before the device state; the pipe and what was
 *           read from it together need not hold less
 */
static void backpressure_narrow(SnapBackpressure *bp, uint64_t pending)
{
    size_t ahead = snap_input_buffered(snap_transport_input(bp->transport));

    if (bp->retry_calls) {
        bp->retry_calls--;
        return;
    }
    while ((pending <= bp->size || bp->size > bp->most) &&
           backpressure_halve(bp)) {
        /* as far as it goes */
    }
    if (pending > bp->size && pending <= bp->size + ahead) {
        /* A narrower pipe is read less far ahead. */
        backpressure_halve(bp);
    }
}

/* From now on, let the pipe hold @most bytes. */
static void backpressure_limit(SnapBackpressure *bp, int most)
{
    bp->most = most;
    bp->retry_calls = 0;
    backpressure_narrow(bp, UINT64_MAX);
}

void snap_backpressure_end_unpredictable(SnapBackpressure *bp)
{
    bp->unpredictable = true;
    backpressure_limit(bp, UNPREDICTABLE_SIZE);
}

void snap_backpressure_ram_end(SnapBackpressure *bp)
{
    if (bp->unpredictable) {
        backpressure_limit(bp, UNPREDICTABLE_END_SIZE);
    }
}

void snap_backpressure_update(SnapBackpressure *bp, uint64_t missing)
{
    backpressure_narrow(bp, bp->unpredictable ? UINT64_MAX :
                            missing * SMALLEST_RECORD);
}
