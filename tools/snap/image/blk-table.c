/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables of entries that lie on a block device
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "snap/image/blk-table.h"

/* Large enough for O_DIRECT on any device. */
#define ALIGNMENT 4096

static int coroutine_fn blk_table_read(void *opaque, uint64_t offset,
                                       void *buf)
{
    return blk_co_pread(opaque, offset, SNAP_CHUNK_SIZE, buf, 0);
}

static int coroutine_fn blk_table_write(void *opaque, uint64_t offset,
                                        const void *buf)
{
    return blk_co_pwrite(opaque, offset, SNAP_CHUNK_SIZE, buf, 0);
}

SnapTable *snap_blk_table_new(BlockBackend *blk, const char *name,
                              uint64_t offset, uint64_t nb_entries,
                              uint64_t seed, bool fresh,
                              unsigned cached_chunks)
{
    const SnapTableIO io = {
        .read = blk_table_read,
        .write = blk_table_write,
        .opaque = blk,
        .base = offset,
        .alignment = ALIGNMENT,
    };

    return snap_table_new(name, nb_entries, seed, fresh, cached_chunks, &io);
}
