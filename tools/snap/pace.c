/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "snap/pace.h"
#include "trace.h"

/* The smallest pipe there is: one page of the host. */
#define NARROWEST 4096
#define MIDDLE    (64 * KiB)
#define WIDEST    (1 * MiB)

/* QEMUFile reads ahead by so much (migration/qemu-file.c:IO_BUF_SIZE). */
#define READ_AHEAD (32 * KiB)

/* A zero page, the smallest record: be64 and a byte. */
#define SMALLEST_RECORD 9

static int resize(SnapPace *pace, int size)
{
    int ret = snap_transport_set_pipe_size(pace->transport, size);

    if (!ret) {
        pace->size = snap_transport_pipe_size(pace->transport);
        trace_snap_pace_resize(pace->size);
    }
    return ret;
}

void snap_pace_init(SnapPace *pace, SnapTransport *transport)
{
    *pace = (SnapPace) {
        .transport = transport,
        .size = snap_transport_pipe_size(transport),
    };
    if (pace->size) {
        /* Where that is too much for the user, what is there must do. */
        resize(pace, WIDEST);
    }
}

/* Make the pipe narrower; it is busy until it has been read to the end. */
static void narrow(SnapPace *pace)
{
    if (pace->size > MIDDLE) {
        resize(pace, MIDDLE);
    }
    if (pace->size > NARROWEST) {
        resize(pace, NARROWEST);
    }
}

void snap_pace_final(SnapPace *pace)
{
    pace->narrow = true;
    narrow(pace);
}

void snap_pace_pages(SnapPace *pace, uint64_t missing, bool repeated)
{
    if (pace->size <= NARROWEST && !(repeated && !pace->narrow)) {
        return;
    }
    if (pace->narrow) {
        narrow(pace);
    } else if (repeated) {
        if (pace->size && pace->size < WIDEST) {
            resize(pace, WIDEST);
        }
    } else if (missing * SMALLEST_RECORD <= pace->size + READ_AHEAD) {
        /* All that is missing may be in the pipe already. */
        if (pace->size > MIDDLE) {
            resize(pace, MIDDLE);
        } else {
            resize(pace, NARROWEST);
        }
    }
}
