/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checksummed, cached tables of 64-bit entries
 *
 * The page table and the arrival list of a snapshot image.  A table grows with
 * RAM, so only a bounded number of chunks is held in memory; it reaches its
 * storage through two functions of the caller.  Several coroutines may use a
 * table at once.
 */

#ifndef SNAP_IMAGE_TABLE_H
#define SNAP_IMAGE_TABLE_H

#include "qemu/units.h"
#include "system/block-backend.h"

/* A chunk: 8191 big-endian entries and a checksum. */
#define SNAP_CHUNK_SIZE     (64 * KiB)
#define SNAP_CHUNK_ENTRIES  (SNAP_CHUNK_SIZE / 8 - 1)

/* Chunks that a table of @nb_entries takes. */
static inline uint64_t snap_table_chunks(uint64_t nb_entries)
{
    return DIV_ROUND_UP(nb_entries, SNAP_CHUNK_ENTRIES);
}

/* Bytes that a table of @nb_entries takes. */
static inline uint64_t snap_table_bytes(uint64_t nb_entries)
{
    return snap_table_chunks(nb_entries) * SNAP_CHUNK_SIZE;
}

/**
 * SnapTableIO: where a table is stored
 * @read: read SNAP_CHUNK_SIZE bytes at @offset bytes to @buf. Returns 0 or
 *        -errno
 * @write: likewise; NULL for a table that is only read
 * @opaque: for both
 * @base: offset of the table's first chunk
 * @alignment: alignment that @buf needs, in bytes
 */
typedef struct SnapTableIO {
    int coroutine_fn (*read)(void *opaque, uint64_t offset, void *buf);
    int coroutine_fn (*write)(void *opaque, uint64_t offset, const void *buf);
    void *opaque;
    uint64_t base;
    size_t alignment;
} SnapTableIO;

typedef struct SnapTable SnapTable;

/**
 * snap_table_new: a table of @nb_entries
 * @name: what to call it in messages
 * @seed: seed of the checksums, which binds the chunks to one image
 * @fresh: nothing is in storage yet, all entries are 0
 * @cached_chunks: how many chunks to hold in memory
 * @io: copied; its functions are called in the coroutine of the caller
 */
SnapTable *snap_table_new(const char *name, uint64_t nb_entries, uint64_t seed,
                          bool fresh, unsigned cached_chunks,
                          const SnapTableIO *io);
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

void snap_table_free(SnapTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapTable, snap_table_free)

/**
 * snap_table_get: read entry @index, which is below @nb_entries
 *
 * Returns: 0; -errno with @errp set if storage fails (-EIO) or the chunk
 * has a wrong checksum (-EBADMSG)
 */
int coroutine_fn snap_table_get(SnapTable *table, uint64_t index,
                                uint64_t *entry, Error **errp);
int coroutine_fn snap_table_set(SnapTable *table, uint64_t index,
                                uint64_t entry, Error **errp);

/**
 * snap_table_flush: write all chunks with one of the first @nb_entries that
 * storage does not have
 */
int coroutine_fn snap_table_flush(SnapTable *table, uint64_t nb_entries,
                                  Error **errp);

#endif /* SNAP_IMAGE_TABLE_H */
