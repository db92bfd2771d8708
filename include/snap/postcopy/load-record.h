/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a destination is loading, for whoever has to resume it
 *
 * A record is a small file that is named after the destination's process.  It
 * outlives the tool, but means nothing after the process has ended, nor after a
 * boot; so it lies in memory.  What others may have put there is not believed.
 */

#ifndef SNAP_POSTCOPY_LOAD_RECORD_H
#define SNAP_POSTCOPY_LOAD_RECORD_H

#include "qemu/uuid.h"
#include "snap/channel/peer.h"

/* Where records are */
#define SNAP_LOAD_RECORDS "/dev/shm"

/**
 * snap_load_record_store: note that @peer is loading a snapshot
 * @dir: where records are
 * @uuid: of the snapshot
 *
 * Replaces what was noted before, and removes records of processes that have
 * gone.
 *
 * Returns: true; false with @errp set
 */
bool snap_load_record_store(const char *dir, const SnapPeer *peer,
                            const QemuUUID *uuid, Error **errp);

/**
 * snap_load_record_read: look up what @peer was loading
 * @uuid: filled in on success
 *
 * Returns: true; false with @errp set, to be read after "because"
 */
bool snap_load_record_read(const char *dir, const SnapPeer *peer,
                           QemuUUID *uuid, Error **errp);

/* Remove the record of @peer, if there is one. */
void snap_load_record_remove(const char *dir, const SnapPeer *peer);

#endif /* SNAP_POSTCOPY_LOAD_RECORD_H */
