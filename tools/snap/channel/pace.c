/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/channel/pace.h"
#include "snap/trace.h"

#define WIDEST (1 * MiB)

/*
 * A background snapshot writes one page at a time.  A pipe as wide as that does
 * not become full in so short a time.
 */
#define WIDE         (512 * KiB)
#define COALESCE_NS  (200 * SCALE_US)

/* What is read from a pipe as narrow as that is to be little, too. */
#define NARROW          (64 * KiB)
#define MAX_READ        (8 * KiB)
#define MIN_READ        (4 * KiB)

/*
 * How wide the pipe may be where nothing tells when the device state comes, and
 * behind the beginning of RAM's last section.  With 8 KiB there are still three
 * times as many bytes a second as with 4 KiB, with 16 KiB almost as many as
 * with more; the state of the smallest machines takes 18 KiB.
 */
#define BLIND_SIZE      (16 * KiB)
#define BLIND_END_SIZE  (8 * KiB)

/* Calls until a busy pipe is tried again. */
#define RESIZE_RETRY_CALLS 7

/* A zero page, the smallest record: be64 and a byte. */
#define SMALLEST_RECORD 9

static int resize(SnapPace *pace, int size)
{
    int ret = snap_transport_resize_input(pace->transport, size);

    if (ret >= 0) {
        SnapInput *input = snap_transport_input(pace->transport);

        pace->size = ret;
        snap_input_set_coalescing(input,
                                  pace->size >= WIDE ? COALESCE_NS : 0);
        if (pace->size <= NARROW) {
            snap_input_set_readahead(input, MIN(MAX(pace->size / 4, MIN_READ),
                                                MAX_READ));
        }
        trace_snap_pace_resize(pace->size);
    }
    return ret;
}

void snap_pace_init(SnapPace *pace, SnapTransport *transport)
{
    *pace = (SnapPace) {
        .transport = transport,
        .size = snap_transport_input_size(transport),
        .most = INT_MAX,
    };
    if (pace->size) {
        /* Where that is too much for the user, what is there must do. */
        resize(pace, WIDEST);
    }
}

/* One step; returns whether the pipe is narrower now */
static bool halve(SnapPace *pace)
{
    /* The smallest pipe there is holds one page of the host. */
    if (pace->size <= qemu_real_host_page_size()) {
        return false;
    }
    if (resize(pace, pace->size / 2) < 0) {
        pace->retry_calls = RESIZE_RETRY_CALLS;
        return false;
    }
    return true;
}

/*
 * Make the pipe narrower, step by step: one that holds more than the new
 * capacity is busy, and a source that keeps it full leaves little room.
 * @pending: bytes that can come before the device state; together, the pipe and
 *           what was read from it need not hold less
 */
static void narrow(SnapPace *pace, uint64_t pending)
{
    size_t ahead = snap_input_buffered(snap_transport_input(pace->transport));

    if (pace->retry_calls) {
        pace->retry_calls--;
        return;
    }
    while ((pending <= pace->size || pace->size > pace->most) && halve(pace)) {
        /* as far as it goes */
    }
    if (pending > pace->size && pending <= pace->size + ahead) {
        /* With what is read from it, less will be ahead. */
        halve(pace);
    }
}

/* The pipe is to hold @most bytes from now on. */
static void limit(SnapPace *pace, int most)
{
    pace->most = most;
    pace->retry_calls = 0;
    narrow(pace, UINT64_MAX);
}

void snap_pace_blind(SnapPace *pace)
{
    pace->blind = true;
    limit(pace, BLIND_SIZE);
}

void snap_pace_final(SnapPace *pace)
{
    if (pace->blind) {
        limit(pace, BLIND_END_SIZE);
    }
}

void snap_pace_pages(SnapPace *pace, uint64_t missing)
{
    narrow(pace, pace->blind ? UINT64_MAX : missing * SMALLEST_RECORD);
}
