/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables of entries that lie on a block device
 */

#ifndef SNAP_IMAGE_BLK_TABLE_H
#define SNAP_IMAGE_BLK_TABLE_H

#include "system/block-backend.h"
#include "snap/image/table.h"

/**
 * snap_blk_table_new: a table on @blk
 * @blk: not owned, must outlive the table
 * @offset: where it starts, in bytes
 *
 * The other parameters are those of snap_table_new().
 */
SnapTable *snap_blk_table_new(BlockBackend *blk, const char *name,
                              uint64_t offset, uint64_t nb_entries,
                              uint64_t seed, bool fresh,
                              unsigned cached_chunks);

#endif /* SNAP_IMAGE_BLK_TABLE_H */
