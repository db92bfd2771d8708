/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that go over several channels
 *
 * Each channel has a coroutine that reads, verifies and sends pieces of RAM of
 * its own.  Only pages with data go this way.
 */

#ifndef SNAP_TRANSFER_MULTIFD_SENDER_H
#define SNAP_TRANSFER_MULTIFD_SENDER_H

#include "qemu/uuid.h"
#include "snap/channel/transport.h"
#include "snap/transfer/send.h"

/**
 * SnapMultifdOptions: what the destination expects
 * @nb_channels: how many, up to SNAP_MULTIFD_MAX_CHANNELS
 * @uuid: of the virtual machine, zeroes if it has none
 */
typedef struct SnapMultifdOptions {
    unsigned nb_channels;
    QemuUUID uuid;
} SnapMultifdOptions;

typedef struct SnapMultifdSender SnapMultifdSender;

/**
 * snap_multifd_sender_new: connect the channels to the destination
 * @sender: what is sent, not owned; its statistics are kept up to date
 * @transport: where to, not owned
 *
 * The destination waits for the first bytes of the main channel before it
 * accepts others (migration/migration.c:migration_ioc_process_incoming).
 *
 * Returns: NULL with @errp set on failure
 */
SnapMultifdSender *snap_multifd_sender_new(SnapSender *sender,
                                           SnapTransport *transport,
                                           const SnapMultifdOptions *options,
                                           Error **errp);

/* Only after snap_multifd_sender_wait() or snap_multifd_sender_abort(). */
void snap_multifd_sender_free(SnapMultifdSender *multifd);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapMultifdSender, snap_multifd_sender_free)

/**
 * snap_multifd_sender_start: begin to send
 *
 * Each channel has two synchronization points, ahead of all pages and
 * after them: one for RAM's START section, one for its END.
 */
void coroutine_fn snap_multifd_sender_start(SnapMultifdSender *multifd);

/**
 * snap_multifd_sender_wait: wait until all pages are sent, or a channel failed
 *
 * Nothing is in flight then.  When a channel fails, all channels are shut down,
 * including the main one, to wake whoever waits for one of them.
 *
 * Returns: 0 on success, -errno with @errp set
 */
int coroutine_fn snap_multifd_sender_wait(SnapMultifdSender *multifd,
                                          Error **errp);

/**
 * snap_multifd_sender_status: whether a channel has failed
 *
 * Returns: 0 on success, -errno with @errp set
 */
int snap_multifd_sender_status(const SnapMultifdSender *multifd, Error **errp);

/* Give up, and wait until nothing is in flight. */
void coroutine_fn snap_multifd_sender_abort(SnapMultifdSender *multifd);

#endif /* SNAP_TRANSFER_MULTIFD_SENDER_H */
