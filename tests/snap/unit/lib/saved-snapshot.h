/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot that the unit tests save, and a model of it
 */

#ifndef SNAP_TESTS_SAVED_SNAPSHOT_H
#define SNAP_TESTS_SAVED_SNAPSHOT_H

#include "qobject/qdict.h"
#include "snap/image/ram-writer.h"
#include "snap/image/writer.h"
#include "snap/ram/source.h"
#include "slow-disk.h"
#include "stream-bytes.h"

/* What a page of the model is; other values say what data it has. */
enum {
    UNSENT = 0,
    ZERO = 1,
    DATA = 2,
};

/**
 * Snapshot: a snapshot being saved, and a model of it
 * @disk: what @blk is, NULL for a file
 * @blocks: the RAM; all of it is there when the snapshot begins
 * @model: what each page is
 * @section: identity of the RAM section, taken at the commit
 * @info: what goes into the image at the commit
 * @configuration, @setup, @metadata: for @info
 * @devices: device state so far
 */
typedef struct Snapshot {
    BlockBackend *blk;
    SlowDisk *disk;
    SnapRAMBlocks blocks;
    SnapLayout layout;
    SnapImageWriter *image;
    SnapRAMWriter *ram;
    uint32_t *model;
    SnapRAMSection section;
    SnapCommitInfo info;
    GByteArray *configuration;
    GByteArray *setup;
    QDict *metadata;
    GByteArray *devices;
} Snapshot;

/* Content of a page; every third seed has but one byte that is not zero. */
static inline void fill_page(const Snapshot *s, uint8_t *buf, uint32_t seed)
{
    size_t page_size = snap_ram_page_size(&s->blocks);

    memset(buf, 0, page_size);
    if (seed % 3 == 0) {
        buf[page_size - 1] = seed % 255 + 1;
        return;
    }
    for (size_t i = 0; i < page_size; i += 4) {
        stl_be_p(buf + i, seed * 2654435761u + i);
    }
}

static inline int coroutine_fn try_send(Snapshot *s, uint64_t page,
                                        uint32_t seed, Error **errp)
{
    unsigned nb_pages = 1;

    s->model[page] = seed;
    if (seed == ZERO) {
        return snap_ram_writer_add_zero(s->ram, page, errp);
    }
    fill_page(s, snap_ram_writer_reserve(s->ram, page, &nb_pages), seed);
    return snap_ram_writer_commit(s->ram, page, nb_pages, errp);
}

static inline void coroutine_fn send_page(Snapshot *s, uint64_t page,
                                          uint32_t seed)
{
    try_send(s, page, seed, &error_abort);
}

/* What has come of RAM is as the RAM writer says. */
static inline int coroutine_fn commit_header(Snapshot *s,
                                             SnapImageWriter *image,
                                             Error **errp)
{
    g_autofree SnapPageCounts *counts = snap_ram_writer_counts(s->ram);

    s->info.counts = counts;
    return snap_image_writer_finish(image, &s->info, errp);
}

static inline int coroutine_fn try_commit(Snapshot *s, Error **errp)
{
    bool truncated;
    uint64_t nb_arrivals = snap_ram_writer_arrivals(s->ram, &truncated);
    int ret = snap_ram_writer_flush(s->ram, errp);

    if (!ret) {
        ret = snap_image_writer_flush_ram(s->image, nb_arrivals, errp);
    }
    return ret ?: commit_header(s, s->image, errp);
}

static inline void coroutine_fn commit(Snapshot *s)
{
    try_commit(s, &error_abort);
}

/* Compare pages that were read with the model. */
static inline void assert_pages(const Snapshot *s, const SnapPages *pages)
{
    size_t page_size = snap_ram_page_size(&s->blocks);
    g_autofree uint8_t *expected = g_malloc(page_size);

    for (unsigned i = 0; i < pages->range.count; i++) {
        uint32_t seed = s->model[pages->range.first + i];

        if (seed < DATA) {
            g_assert_cmpuint(pages->entries[i], ==, seed == ZERO ?
                             SNAP_PAGE_ZERO : SNAP_PAGE_UNSENT);
            continue;
        }
        fill_page(s, expected, seed);
        g_assert_cmpuint(pages->entries[i], ==,
                         snap_page_entry(expected, page_size));
        g_assert_cmpmem(pages->data + i * page_size, page_size,
                        expected, page_size);
    }
}

/* Header and configuration section of a stream, with the machine's name */
static inline GByteArray *make_configuration(void)
{
    static const char machine[] = "pc-q35-10.0";
    GByteArray *configuration = g_byte_array_new();

    put_be32(configuration, QEMU_VM_FILE_MAGIC);
    put_be32(configuration, QEMU_VM_FILE_VERSION);
    put_u8(configuration, QEMU_VM_CONFIGURATION);
    put_be32(configuration, strlen(machine));
    put_bytes(configuration, machine, strlen(machine));
    return configuration;
}

/* Start a snapshot on its disk. */
static inline void snapshot_begin(Snapshot *s)
{
    snap_layout_init(&s->layout, &s->blocks, &error_abort);
    s->section = (SnapRAMSection) { .id = 2, .instance = 1, .footers = true };
    s->image = snap_image_writer_new(s->blk, &s->layout, &s->section);
    s->ram = snap_ram_writer_new(s->blk, &s->layout,
                                 snap_image_writer_page_table(s->image),
                                 snap_image_writer_arrivals(s->image),
                                 &error_abort);
    s->model = g_new0(uint32_t, MAX(s->blocks.nb_pages, SNAP_DEVICE_CHUNK));
    s->configuration = make_configuration();
    s->setup = g_byte_array_new();
    put_zeroes(s->setup, 100);
    s->metadata = qdict_new();
    s->devices = g_byte_array_new();
    s->info = (SnapCommitInfo) {
        .configuration = s->configuration,
        .setup = s->setup,
        .before_ram = 60,
        .metadata = s->metadata,
    };
}

static inline void snapshot_end(Snapshot *s)
{
    snap_ram_writer_free(s->ram);
    snap_image_writer_free(s->image);
    snap_layout_destroy(&s->layout);
    snap_ram_blocks_destroy(&s->blocks);
    g_free(s->model);
    g_byte_array_unref(s->configuration);
    g_byte_array_unref(s->setup);
    qobject_unref(s->metadata);
    g_byte_array_unref(s->devices);
    blk_unref(s->blk);
}

#endif /* SNAP_TESTS_SAVED_SNAPSHOT_H */
