/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "snap/pace.h"
#include "trace.h"

#define WIDEST (1 * MiB)

/* QEMUFile reads ahead by so much (migration/qemu-file.c:IO_BUF_SIZE). */
#define READ_AHEAD (32 * KiB)

/*
 * Pages until a busy pipe is tried again.  A read takes up to 8 pages; with
 * another number the tries do not all come as long after the last read.
 */
#define PATIENCE 7

/* A zero page, the smallest record: be64 and a byte. */
#define SMALLEST_RECORD 9

static int resize(SnapPace *pace, int size)
{
    int ret = snap_transport_resize_input(pace->transport, size);

    if (ret >= 0) {
        pace->size = ret;
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

/*
 * Make the pipe narrower, step by step: one that holds more than the new
 * capacity is busy, and a source that keeps it full leaves little room.
 * @pending: bytes that can come before the device state; the pipe need not be
 *           narrower than that
 */
static void narrow(SnapPace *pace, uint64_t pending)
{
    if (pace->patience) {
        pace->patience--;
        return;
    }
    /* The smallest pipe there is holds one page of the host. */
    while (pace->size > qemu_real_host_page_size() &&
           pending <= pace->size + READ_AHEAD) {
        if (resize(pace, pace->size / 2) < 0) {
            pace->patience = PATIENCE;
            return;
        }
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
