/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing to the virtual disk that a snapshot is on
 *
 * Functions return 0, or -errno with @errp set.
 */

#ifndef SNAP_IMAGE_DISK_H
#define SNAP_IMAGE_DISK_H

#include "system/block-backend.h"

/**
 * snap_disk_grow: let the disk grow, if it is too small
 * @size: bytes that it must have
 * @reserve: bytes to add if it has to grow; the sum is rounded up
 */
int coroutine_fn snap_disk_grow(BlockBackend *blk, uint64_t size,
                                uint64_t reserve, Error **errp);

/* Write @buf, which blk_blockalign() should have allocated. */
int coroutine_fn snap_disk_write(BlockBackend *blk, uint64_t offset,
                                 const void *buf, size_t length, Error **errp);

/**
 * snap_disk_write_padded: write bytes that are not aligned
 * @padded: bytes to write in all, at least @length; zeroes follow the data
 */
int coroutine_fn snap_disk_write_padded(BlockBackend *blk, uint64_t offset,
                                        const void *data, size_t length,
                                        size_t padded, Error **errp);

int coroutine_fn snap_disk_flush(BlockBackend *blk, Error **errp);

#endif /* SNAP_IMAGE_DISK_H */
