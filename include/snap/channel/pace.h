/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source may run ahead of the reader of its pipe
 *
 * QEMU calls a migration over exec: completed as soon as its last byte is in
 * the pipe.  To have the last word, the reader shrinks the pipe before the
 * device state comes, so that the source is still writing when the image is
 * committed.
 */

#ifndef SNAP_CHANNEL_PACE_H
#define SNAP_CHANNEL_PACE_H

#include "snap/channel/transport.h"

/**
 * SnapPace: state of the pipe
 * @transport: not owned
 * @size: capacity of the pipe in bytes, 0 for no pipe
 * @most: what the capacity is to come down to
 * @blind: pages do not tell the end
 * @retry_calls: calls left before a busy pipe is tried again
 */
typedef struct SnapPace {
    SnapTransport *transport;
    int size;
    int most;
    bool blind;
    unsigned retry_calls;
} SnapPace;

/* Start with a large pipe, which makes a precopy faster. */
void snap_pace_init(SnapPace *pace, SnapTransport *transport);

/**
 * snap_pace_pages: as many pages have not come yet
 * @missing: number of pages
 *
 * To be called whenever pages have come: a pipe that is busy is tried again.
 */
void snap_pace_pages(SnapPace *pace, uint64_t missing);

/**
 * snap_pace_blind: the device state may come at any time
 *
 * Because the pages that are missing do not tell the end: they come again, or
 * never come.
 */
void snap_pace_blind(SnapPace *pace);

/* RAM's last section begins, behind which comes the device state. */
void snap_pace_final(SnapPace *pace);

#endif /* SNAP_CHANNEL_PACE_H */
