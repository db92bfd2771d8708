/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/pace.h"
#include "trace.h"

#define WIDEST (1 * MiB)

/*
 * A background snapshot writes one page at a time.  A pipe as wide as that does
 * not become full in so short a time.
 */
#define WIDE    (512 * KiB)
#define NAP_NS  (100 * SCALE_US)

/* What is read from a pipe as narrow as that is to be little, too. */
#define NARROW          (64 * KiB)
#define READ_AT_A_TIME  (8 * KiB)

/* Calls until a busy pipe is tried again. */
#define PATIENCE 7

/* A zero page, the smallest record: be64 and a byte. */
#define SMALLEST_RECORD 9

static int resize(SnapPace *pace, int size)
{
    int ret = snap_transport_resize_input(pace->transport, size);

    if (ret >= 0) {
        SnapInput *input = snap_transport_input(pace->transport);

        pace->size = ret;
        snap_input_set_nap(input, pace->size >= WIDE ? NAP_NS : 0);
        if (pace->size <= NARROW) {
            snap_input_set_limit(input, READ_AT_A_TIME);
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
        pace->patience = PATIENCE;
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

    if (pace->patience) {
        pace->patience--;
        return;
    }
    while (pending <= pace->size && halve(pace)) {
        /* as far as it goes */
    }
    if (pending > pace->size && pending <= pace->size + ahead) {
        /* With what is read from it, less will be ahead. */
        halve(pace);
    }
}

void snap_pace_end_is_near(SnapPace *pace)
{
    pace->narrow = true;
    pace->patience = 0;
    narrow(pace, 0);
}

void snap_pace_pages(SnapPace *pace, uint64_t missing)
{
    narrow(pace, pace->narrow ? 0 : missing * SMALLEST_RECORD);
}
