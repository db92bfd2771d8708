/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a snapshot on a target, wherever its pages come from
 *
 * Order: snap_image_builder_new(), _create(), _start(); pages, through
 * _ram(), and device state, in any order; _commit(), _vmdesc(), _confirm().
 * The snapshot counts from the commit on, and a commit can be taken back until
 * it is confirmed.  After a failure: _drain(), _abandon().
 */

#ifndef SNAP_IMAGE_BUILDER_H
#define SNAP_IMAGE_BUILDER_H

#include "snap/image/ram-writer.h"
#include "snap/image/writer.h"
#include "snap/storage/target.h"

typedef struct SnapImageBuilder SnapImageBuilder;

/**
 * snap_image_builder_new: a snapshot that has nothing yet
 * @target: begun, taken over
 */
SnapImageBuilder *snap_image_builder_new(SnapTarget *target);

/**
 * snap_image_builder_free: close the target
 *
 * At any time outside coroutines, with nothing in flight.  What was not
 * confirmed is undone, see snap_image_builder_abandon().
 */
void snap_image_builder_free(SnapImageBuilder *builder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapImageBuilder, snap_image_builder_free)

/**
 * snap_image_builder_create: create the image, or see that an existing target
 * is large enough
 * @ram: RAM blocks, not owned
 * @section: identity of the RAM section, not owned; taken at the commit
 * @ordered: whether the order of the pages tells the guest's working set, see
 *           snap_ram_writer_new()
 *
 * Call outside coroutines.
 *
 * Returns: 0 or -errno with @errp set
 */
int snap_image_builder_create(SnapImageBuilder *builder,
                              const SnapRAMBlocks *ram,
                              const SnapRAMSection *section, bool ordered,
                              Error **errp);

/**
 * snap_image_builder_start: from now on there is no other snapshot on an
 * existing target
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_builder_start(SnapImageBuilder *builder,
                                          Error **errp);

/* Where the pages go, owned by the builder */
SnapRAMWriter *snap_image_builder_ram(SnapImageBuilder *builder);

/* UUID of the snapshot, which is a new one. */
const QemuUUID *snap_image_builder_uuid(const SnapImageBuilder *builder);

/**
 * snap_image_builder_flush_ram: bring RAM to stable storage, as far as it has
 * come
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_builder_flush_ram(SnapImageBuilder *builder,
                                              Error **errp);

/**
 * snap_image_builder_devices: append to the device state
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_builder_devices(SnapImageBuilder *builder,
                                            const void *data, size_t length,
                                            Error **errp);

/**
 * snap_image_builder_commit: complete the image, and let it take its name
 * @info: what else goes into it; its page counts, and whether the arrival list
 *        is truncated, are filled in
 *
 * On success the snapshot counts, and is on stable storage.
 *
 * Returns: 0 or -errno with @errp set; -ECANCELED if it was abandoned meanwhile
 */
int coroutine_fn snap_image_builder_commit(SnapImageBuilder *builder,
                                           const SnapCommitInfo *info,
                                           Error **errp);

/* Whether the snapshot counts. */
bool snap_image_builder_is_committed(const SnapImageBuilder *builder);

/**
 * snap_image_builder_rollback: take back a commit: the name, then the header
 *
 * Device state may follow, and another commit.  Does nothing if nothing is
 * committed.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_builder_rollback(SnapImageBuilder *builder,
                                             Error **errp);

/**
 * snap_image_builder_vmdesc: write the description announced at the commit
 *
 * See snap_image_writer_vmdesc().
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_builder_vmdesc(SnapImageBuilder *builder,
                                           const void *data, size_t length,
                                           Error **errp);

/* What was committed stays. */
void snap_image_builder_confirm(SnapImageBuilder *builder);

/* Discard pages that were collected, and wait for what is in flight. */
void coroutine_fn snap_image_builder_drain(SnapImageBuilder *builder);

/**
 * snap_image_builder_abandon: undo what was not confirmed
 * @in_flight: a call of this builder has not returned, as storage hangs; if
 *             that is a commit, it will be undone when it returns
 *
 * An old file is in its place again; an existing target has no snapshot.  Call
 * outside coroutines.
 *
 * Returns: 0; -errno if there may be the header of a snapshot on an existing
 * target, so that the image must not be used
 */
int snap_image_builder_abandon(SnapImageBuilder *builder, bool in_flight);

#endif /* SNAP_IMAGE_BUILDER_H */
