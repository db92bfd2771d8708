/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a save writes to: an existing image, or a file that replaces another one
 */

#ifndef SNAP_STORAGE_TARGET_H
#define SNAP_STORAGE_TARGET_H

#include "snap/storage/open.h"

/**
 * SnapTargetOptions: what a save writes to
 * @image: how to open it; @image.format is what to create
 * @create_options: creation options, as qemu-img -o; NULL for the defaults
 * @existing: write to an existing image instead of replacing a local file
 * @may_be_read: whether readers of the image @blk can go on if it is replaced,
 *               as loads of a snapshot can; NULL if none can
 * @at_exit: the process ends when the target is closed, and whoever waits for
 *           that shall not wait for more than is necessary: a disk that was
 *           abandoned, and a new image that is complete, is left open
 */
typedef struct SnapTargetOptions {
    SnapImageOptions image;
    const char *create_options;
    bool existing;
    bool (*may_be_read)(BlockBackend *blk);
    bool at_exit;
} SnapTargetOptions;

typedef struct SnapTarget SnapTarget;

/**
 * snap_target_begin: check that nobody else uses what a save writes to
 * @options: what it points to must outlive the target
 *
 * An existing target is opened, and locked.  A local file that is to be
 * replaced must not be open for writing elsewhere, nor in use as something else
 * than a snapshot; it is not touched before snap_target_commit().  Call before
 * reading from the source.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: NULL with @errp set
 */
SnapTarget *snap_target_begin(const SnapTargetOptions *options, Error **errp);

/**
 * snap_target_create: create a new image, or check that an existing one is
 * large enough
 * @size: size of the virtual disk in bytes; an existing target must have it
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: false with @errp set
 */
bool snap_target_create(SnapTarget *target, uint64_t size, Error **errp);

/* Whether an existing image is written in place */
bool snap_target_is_existing(const SnapTarget *target);

/* The disk to write to, owned by the target; after snap_target_create() */
BlockBackend *snap_target_blk(SnapTarget *target);

/**
 * snap_target_sync: bring a new file to stable storage
 *
 * Call after each flush of the disk that matters: the block layer does not
 * flush a file that nobody can use yet.  Does nothing for an existing target.
 *
 * Returns: 0 or -errno
 */
int coroutine_fn snap_target_sync(SnapTarget *target);

/**
 * snap_target_commit: let a new file take the place of the old one, durably
 *
 * What was written must be on stable storage.  May be undone until
 * snap_target_confirm(); does nothing for an existing target.
 *
 * Returns: 0 or -errno with @errp set; -ECANCELED if it was abandoned meanwhile
 */
int coroutine_fn snap_target_commit(SnapTarget *target, Error **errp);

/**
 * snap_target_rollback: undo a commit, which can be made again later
 *
 * Returns: 0 or -errno with @errp set; the new file may be in place then
 */
int snap_target_rollback(SnapTarget *target, Error **errp);

/* Keep what was committed. */
void snap_target_confirm(SnapTarget *target);

/**
 * snap_target_close: close the disk; what was not confirmed is undone
 *
 * Context: main loop, outside coroutines, with nothing in flight.
 */
void snap_target_close(SnapTarget *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapTarget, snap_target_close)

/**
 * snap_target_abandon: undo what was not confirmed, whatever is in flight
 *
 * Only snap_target_close() may follow.
 */
void snap_target_abandon(SnapTarget *target);

#endif /* SNAP_STORAGE_TARGET_H */
