/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading by precopy: all RAM first, then the devices
 */

#ifndef SNAP_TRANSFER_PRECOPY_H
#define SNAP_TRANSFER_PRECOPY_H

#include "snap/transfer/multifd-sender.h"
#include "snap/transfer/send.h"
#include "snap/util/progress.h"

/**
 * SnapPrecopy: a load by precopy
 * @sender: what is sent, and the main channel; not owned
 * @transport: of the main channel, not owned
 * @multifd: send pages with data over several channels; NULL for one
 * @progress: not owned
 */
typedef struct SnapPrecopy {
    SnapSender *sender;
    SnapTransport *transport;
    const SnapMultifdOptions *multifd;
    SnapProgress *progress;
} SnapPrecopy;

/**
 * snap_precopy_send: send the snapshot whole, from its first byte to its last
 *
 * On failure, nothing is in flight either.
 *
 * Returns: 0 on success, -errno with @errp set
 */
int coroutine_fn snap_precopy_send(const SnapPrecopy *precopy, Error **errp);

#endif /* SNAP_TRANSFER_PRECOPY_H */
