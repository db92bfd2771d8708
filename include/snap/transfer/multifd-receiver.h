/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come over several channels
 *
 * Each channel has a coroutine that takes its packets to the image.  At a
 * synchronization point they all wait for each other, and for the main channel:
 * a page is sent again only after such a point, possibly on another channel.
 */

#ifndef SNAP_TRANSFER_MULTIFD_RECEIVER_H
#define SNAP_TRANSFER_MULTIFD_RECEIVER_H

#include "snap/channel/transport.h"
#include "snap/image/ram-writer.h"

typedef struct SnapMultifdReceiver SnapMultifdReceiver;

/**
 * snap_multifd_receiver_new: receive pages from @channels
 * @transport: not owned; its input is shut down when a channel fails, to wake
 *             whoever waits for it
 * @channels: not owned, as snap_transport_accept_channels() gives them
 * @blocks: RAM blocks, not owned
 * @ram: where the pages go, not owned
 */
SnapMultifdReceiver *snap_multifd_receiver_new(SnapTransport *transport,
                                               GPtrArray *channels,
                                               const SnapRAMBlocks *blocks,
                                               SnapRAMWriter *ram);

/* Only after snap_multifd_receiver_end(). */
void snap_multifd_receiver_free(SnapMultifdReceiver *receiver);

/* Begin to receive. */
void coroutine_fn snap_multifd_receiver_start(SnapMultifdReceiver *receiver);

/**
 * snap_multifd_receiver_sync: a synchronization point of the main channel
 *
 * Waits until every channel has reached it, and lets them go on.
 *
 * Returns: 0 on success, -errno with @errp set
 */
int coroutine_fn snap_multifd_receiver_sync(SnapMultifdReceiver *receiver,
                                            Error **errp);

/**
 * snap_multifd_receiver_status: whether a channel has failed
 *
 * Returns: 0 on success, -errno with @errp set
 */
int snap_multifd_receiver_status(const SnapMultifdReceiver *receiver,
                                 Error **errp);

/**
 * snap_multifd_receiver_pages_end: no page is expected any more
 *
 * Reads what has arrived.  Pages that come later fail the channel as well: see
 * snap_multifd_receiver_status().
 *
 * Returns: 0 or -errno with @errp set: a channel has failed, or has sent pages
 * after the last synchronization point
 */
int coroutine_fn snap_multifd_receiver_pages_end(SnapMultifdReceiver *receiver,
                                                 Error **errp);

/**
 * snap_multifd_receiver_end: close the channels
 * @timeout_ns: how long to wait for the source to close them first; 0 to fail
 *              what it is about to send
 *
 * Waits until nothing is in flight.
 */
void coroutine_fn snap_multifd_receiver_end(SnapMultifdReceiver *receiver,
                                            int64_t timeout_ns);

#endif /* SNAP_TRANSFER_MULTIFD_RECEIVER_H */
