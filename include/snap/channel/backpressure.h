/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far the source of a save may run ahead of the reader of its pipe
 *
 * QEMU considers a migration over exec: completed as soon as its last byte is
 * in the pipe.  To have the last word, the reader shrinks the pipe before the
 * device state comes, so that the source is still writing when the image is
 * committed.
 */

#ifndef SNAP_CHANNEL_BACKPRESSURE_H
#define SNAP_CHANNEL_BACKPRESSURE_H

#include "snap/channel/transport.h"

/**
 * SnapBackpressure: state of the pipe
 * @size: capacity of the pipe in bytes, 0 for no pipe
 * @unpredictable: missing pages do not tell when RAM ends
 */
typedef struct SnapBackpressure {
    int size;
    bool unpredictable;

    /*< private >*/
    SnapTransport *transport;
    int most;                   /* capacity to shrink it to, in bytes */
    unsigned retry_calls;       /* until a busy pipe is resized again */
} SnapBackpressure;

/* Start with a large pipe, which makes a precopy faster. */
void snap_backpressure_init(SnapBackpressure *bp, SnapTransport *transport);

/**
 * snap_backpressure_update: adapt the pipe to the pages that are missing
 * @missing: number of pages that have not come yet
 *
 * Call whenever pages have come: resizing a busy pipe is tried again.
 */
void snap_backpressure_update(SnapBackpressure *bp, uint64_t missing);

/**
 * snap_backpressure_end_unpredictable: the device state may come at any time
 *
 * The number of missing pages does not tell the end, because pages come again,
 * or never come.
 */
void snap_backpressure_end_unpredictable(SnapBackpressure *bp);

/* RAM's last section begins; the device state follows it. */
void snap_backpressure_ram_end(SnapBackpressure *bp);

#endif /* SNAP_CHANNEL_BACKPRESSURE_H */
