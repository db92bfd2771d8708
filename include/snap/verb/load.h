/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading: from a snapshot image to a migration stream
 */

#ifndef SNAP_VERB_LOAD_H
#define SNAP_VERB_LOAD_H

#include "system/block-backend.h"
#include "snap/channel/transport.h"
#include "snap/transfer/stats.h"

typedef struct SnapLoad SnapLoad;
typedef struct SnapMultifdOptions SnapMultifdOptions;
typedef struct SnapPostcopyOptions SnapPostcopyOptions;

/**
 * SnapLoadOptions: how to load
 * @progress: show progress on stderr
 * @no_verify: do not compare pages with their hashes
 * @postcopy: let the guest run first; NULL for all RAM first (precopy)
 * @multifd: send a precopy over several channels; NULL for one
 */
typedef struct SnapLoadOptions {
    bool progress;
    bool no_verify;
    const SnapPostcopyOptions *postcopy;
    const SnapMultifdOptions *multifd;
} SnapLoadOptions;

/**
 * snap_load_new: prepare a load
 * @blk: the disk with the snapshot; the caller's reference is taken over
 * @transport: where to, connected; taken over
 * @options: copied
 */
SnapLoad *snap_load_new(BlockBackend *blk, SnapTransport *transport,
                        const SnapLoadOptions *options);

/**
 * snap_load_check_resumption: whether a load can be resumed, as far as that can
 * be known before snap_transport_connect()
 *
 * See snap_resumption_check_listener().  Call outside of coroutines.
 *
 * Returns: true; false with @errp set
 */
bool snap_load_check_resumption(BlockBackend *blk,
                                const SnapTransport *transport,
                                const SnapPostcopyOptions *options,
                                Error **errp);

/**
 * snap_load_run: send the snapshot
 * @stats: filled in, also on failure
 *
 * Runs the main loop until all is done.  Every page is compared with its hash
 * before it is sent, unless @no_verify, and the device state with its checksum
 * before anything is sent.  Call once.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: 0 when the stream was delivered whole; -errno with @errp set;
 * -ETIMEDOUT if requests are still in flight, see snap_load_interrupt()
 */
int snap_load_run(SnapLoad *load, SnapStats *stats, Error **errp);

/**
 * snap_load_free: free the load, and close disk and transport
 *
 * At any time outside snap_load_run().  What is in flight keeps what it refers
 * to until it is complete.
 */
void snap_load_free(SnapLoad *load);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapLoad, snap_load_free)

/**
 * snap_load_refuse: tell the destination that nothing will come
 * @transport: nothing was sent through it yet
 *
 * A destination does not notice the end of a pipe from which nothing has come,
 * and would wait indefinitely; a few bytes that are no stream make its
 * migration fail.  Not for a load that is resumed: there, they would be a valid
 * end.  May be called as what snap_interrupt_add() adds.
 */
void snap_load_refuse(SnapTransport *transport);

/* The same before there is a transport. Returns: false with errno set */
bool snap_load_refuse_fd(int fd);

/**
 * snap_load_interrupt: let snap_load_run() return as soon as possible
 *
 * The first call gives requests in flight a few seconds, a second one does not;
 * -ETIMEDOUT says that storage has not answered by then.
 *
 * Context: main loop, outside coroutines, while snap_load_run() runs.
 */
void snap_load_interrupt(SnapLoad *load);

#endif /* SNAP_VERB_LOAD_H */
