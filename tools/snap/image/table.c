/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checksummed, cached tables of 64-bit entries
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/coroutine.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/image/table.h"
#include "snap/trace.h"

/* Large enough for O_DIRECT on any device. */
#define BLK_ALIGNMENT 4096

typedef struct Chunk {
    uint64_t number;
    uint64_t last_use;
    bool dirty;
    uint64_t *entries;      /* big-endian, then the checksum */
} Chunk;

struct SnapTable {
    /* constant */
    const char *name;
    uint64_t nb_chunks;
    uint64_t seed;
    SnapTableIO io;

    /*
     * Chunks in memory, and the slot of each chunk, -1 for none.  Moving chunks
     * takes the lock; there is no @current meanwhile.
     */
    CoMutex lock;
    Chunk *cache;
    unsigned cache_size;
    int *slots;
    Chunk *current;
    uint64_t use;

    /* chunks that storage has */
    unsigned long *stored;
};

SnapTable *snap_table_new(const char *name, uint64_t nb_entries, uint64_t seed,
                          bool fresh, unsigned cached_chunks,
                          const SnapTableIO *io)
{
    SnapTable *t = g_new0(SnapTable, 1);

    qemu_co_mutex_init(&t->lock);
    t->name = name;
    t->nb_chunks = snap_table_chunks(nb_entries);
    t->seed = seed;
    t->io = *io;

    t->cache_size = MIN(t->nb_chunks, cached_chunks);
    t->cache = g_new0(Chunk, t->cache_size);
    for (unsigned i = 0; i < t->cache_size; i++) {
        t->cache[i].number = UINT64_MAX;
        t->cache[i].entries = qemu_memalign(io->alignment, SNAP_CHUNK_SIZE);
    }
    t->slots = g_new(int, t->nb_chunks);
    for (uint64_t i = 0; i < t->nb_chunks; i++) {
        t->slots[i] = -1;
    }

    t->stored = bitmap_new(t->nb_chunks);
    if (!fresh) {
        bitmap_set(t->stored, 0, t->nb_chunks);
    }
    return t;
}

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
        .alignment = BLK_ALIGNMENT,
    };

    return snap_table_new(name, nb_entries, seed, fresh, cached_chunks, &io);
}

void snap_table_free(SnapTable *t)
{
    if (!t) {
        return;
    }
    for (unsigned i = 0; i < t->cache_size; i++) {
        qemu_vfree(t->cache[i].entries);
    }
    g_free(t->cache);
    g_free(t->slots);
    g_free(t->stored);
    g_free(t);
}

/* Seeding with the chunk number detects misplaced chunks. */
static uint64_t table_chunk_checksum(const SnapTable *t, const Chunk *chunk)
{
    return XXH3_64bits_withSeed(chunk->entries, SNAP_CHUNK_ENTRIES * 8,
                                t->seed + chunk->number);
}

static int coroutine_fn table_write_chunk(SnapTable *t, Chunk *chunk,
                                          Error **errp)
{
    int ret;

    trace_snap_table_write(t->name, chunk->number);
    stq_be_p(&chunk->entries[SNAP_CHUNK_ENTRIES],
             table_chunk_checksum(t, chunk));
    ret = t->io.write(t->io.opaque,
                      t->io.base + chunk->number * SNAP_CHUNK_SIZE,
                      chunk->entries);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the %s", t->name);
        return ret;
    }
    chunk->dirty = false;
    set_bit(chunk->number, t->stored);
    return 0;
}

static int coroutine_fn table_read_chunk(SnapTable *t, Chunk *chunk,
                                         Error **errp)
{
    int ret;

    trace_snap_table_read(t->name, chunk->number);
    ret = t->io.read(t->io.opaque,
                     t->io.base + chunk->number * SNAP_CHUNK_SIZE,
                     chunk->entries);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the %s", t->name);
        return ret;
    }
    if (ldq_be_p(&chunk->entries[SNAP_CHUNK_ENTRIES]) !=
        table_chunk_checksum(t, chunk)) {
        error_setg(errp, "Chunk %" PRIu64 " of the %s is corrupt",
                   chunk->number, t->name);
        return -EBADMSG;
    }
    return 0;
}

static Chunk *table_least_recently_used(SnapTable *t)
{
    Chunk *chunk = &t->cache[0];

    for (unsigned i = 1; i < t->cache_size; i++) {
        if (t->cache[i].last_use < chunk->last_use) {
            chunk = &t->cache[i];
        }
    }
    return chunk;
}

/* Take the least recently used place of the cache for chunk @number. */
static int coroutine_fn table_load_chunk(SnapTable *t, uint64_t number,
                                         Chunk **result, Error **errp)
{
    Chunk *chunk = table_least_recently_used(t);
    int ret;

    if (chunk->dirty) {
        ret = table_write_chunk(t, chunk, errp);
        if (ret < 0) {
            return ret;
        }
    }
    if (chunk->number != UINT64_MAX) {
        t->slots[chunk->number] = -1;
    }
    chunk->number = number;
    if (test_bit(number, t->stored)) {
        ret = table_read_chunk(t, chunk, errp);
        if (ret < 0) {
            chunk->number = UINT64_MAX;
            return ret;
        }
    } else {
        memset(chunk->entries, 0, SNAP_CHUNK_SIZE);
    }
    t->slots[number] = chunk - t->cache;
    *result = chunk;
    return 0;
}

/* With the lock held. */
static int coroutine_fn table_bring_chunk(SnapTable *t, uint64_t number,
                                          Chunk **chunk, Error **errp)
{
    t->current = NULL;
    if (t->slots[number] >= 0) {
        *chunk = &t->cache[t->slots[number]];
    } else {
        int ret = table_load_chunk(t, number, chunk, errp);

        if (ret < 0) {
            return ret;
        }
    }
    (*chunk)->last_use = ++t->use;
    return 0;
}

static int coroutine_fn table_find_chunk(SnapTable *t, uint64_t number,
                                         Chunk **chunk, Error **errp)
{
    assert(number < t->nb_chunks);

    if (!t->current || t->current->number != number) {
        QEMU_LOCK_GUARD(&t->lock);
        int ret = table_bring_chunk(t, number, chunk, errp);

        if (ret < 0) {
            return ret;
        }
        t->current = *chunk;
    }
    *chunk = t->current;
    return 0;
}

int coroutine_fn snap_table_get(SnapTable *t, uint64_t index, uint64_t *entry,
                                Error **errp)
{
    Chunk *chunk;
    int ret = table_find_chunk(t, index / SNAP_CHUNK_ENTRIES, &chunk, errp);

    if (ret < 0) {
        return ret;
    }
    *entry = ldq_be_p(&chunk->entries[index % SNAP_CHUNK_ENTRIES]);
    return 0;
}

int coroutine_fn snap_table_set(SnapTable *t, uint64_t index, uint64_t entry,
                                Error **errp)
{
    Chunk *chunk;
    int ret = table_find_chunk(t, index / SNAP_CHUNK_ENTRIES, &chunk, errp);

    if (ret < 0) {
        return ret;
    }
    stq_be_p(&chunk->entries[index % SNAP_CHUNK_ENTRIES], entry);
    chunk->dirty = true;
    return 0;
}

/* Write a chunk, unless storage has it as it is. */
static int coroutine_fn table_flush_chunk(SnapTable *t, uint64_t number,
                                          Error **errp)
{
    QEMU_LOCK_GUARD(&t->lock);
    Chunk *chunk;
    int ret;

    if (t->slots[number] < 0 && test_bit(number, t->stored)) {
        return 0;
    }
    ret = table_bring_chunk(t, number, &chunk, errp);
    if (!ret && (chunk->dirty || !test_bit(number, t->stored))) {
        ret = table_write_chunk(t, chunk, errp);
    }
    return ret;
}

int coroutine_fn snap_table_flush(SnapTable *t, uint64_t nb_entries,
                                  Error **errp)
{
    uint64_t nb_chunks = snap_table_chunks(nb_entries);
    int ret = 0;

    assert(nb_chunks <= t->nb_chunks);
    for (uint64_t number = 0; number < nb_chunks && !ret; number++) {
        ret = table_flush_chunk(t, number, errp);
    }
    return ret;
}
