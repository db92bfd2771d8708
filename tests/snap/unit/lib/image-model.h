/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An image compared with what it should hold, and damaged
 */

#ifndef SNAP_TESTS_IMAGE_MODEL_H
#define SNAP_TESTS_IMAGE_MODEL_H

#include "qemu/cutils.h"
#include "snap/image/image.h"
#include "snap/ram/walk.h"
#include "snap/verb/check.h"
#include "saved-snapshot.h"

static inline int coroutine_fn try_devices(Snapshot *s, const void *data,
                                           size_t length, Error **errp)
{
    g_byte_array_append(s->devices, data, length);
    return snap_image_writer_devices(s->image, data, length, errp);
}

/* Append @length bytes of device state in pieces of @step bytes. */
static inline void coroutine_fn send_devices(Snapshot *s, size_t length,
                                             size_t step)
{
    g_autofree uint8_t *data = g_malloc(length);

    for (size_t i = 0; i < length; i++) {
        data[i] = i * 31 + (i >> 8) * 17 + (i >> 16);
    }
    for (size_t pos = 0; pos < length; pos += step) {
        try_devices(s, data + pos, MIN(step, length - pos), &error_abort);
    }
}

static inline void coroutine_fn write_vmdesc(Snapshot *s, const char *vmdesc)
{
    snap_image_writer_vmdesc(s->image, vmdesc, strlen(vmdesc), &error_abort);
}

static inline SnapRAMWalk *new_walk(SnapImage *image)
{
    return snap_ram_walk_new(&image->source, MiB, NULL, NULL);
}

static inline void coroutine_fn assert_ram(const Snapshot *s, SnapImage *image)
{
    g_autoptr(SnapRAMWalk) walk = new_walk(image);
    SnapPages pages;
    uint64_t next = 0;

    while (snap_ram_walk_next(walk, &pages, &error_abort) > 0) {
        g_assert_cmpuint(pages.range.first, ==, next);
        assert_pages(s, &pages);
        next += pages.range.count;
    }
    g_assert_cmpuint(next, ==, s->blocks.nb_pages);
}

static inline void assert_counts(const Snapshot *s,
                                 const SnapPageCounts *counts)
{
    for (unsigned i = 0; i < s->blocks.nb_blocks; i++) {
        const SnapRAMBlock *block = &s->blocks.blocks[i];
        uint64_t end = block->first_page +
                       snap_ram_block_pages(&s->blocks, block);
        uint64_t stored = 0, zero = 0;

        for (uint64_t page = block->first_page; page < end; page++) {
            stored += s->model[page] >= DATA;
            zero += s->model[page] == ZERO;
        }
        g_assert_cmpuint(counts[i].stored, ==, stored);
        g_assert_cmpuint(counts[i].zero, ==, zero);
    }
}

static inline void assert_layout(const Snapshot *s, const SnapImage *image)
{
    const SnapRAMBlocks *ram = &image->ram;

    g_assert_cmpuint(ram->nb_blocks, ==, s->blocks.nb_blocks);
    for (unsigned i = 0; i < s->blocks.nb_blocks; i++) {
        g_assert_cmpstr(ram->blocks[i].name, ==, s->blocks.blocks[i].name);
        g_assert_cmpuint(ram->blocks[i].length, ==,
                         s->blocks.blocks[i].length);
        g_assert_cmpuint(image->layout.offsets[i], ==, s->layout.offsets[i]);
    }
}

static inline void coroutine_fn append(void *opaque, const void *data,
                                       size_t length)
{
    g_byte_array_append(opaque, data, length);
}

/* That a part of the image reads as expected, in either way. */
static inline void coroutine_fn assert_part(SnapImage *image, SnapPart part,
                                            const GByteArray *expected)
{
    g_autoptr(GByteArray) copy = g_byte_array_new();
    g_autoptr(GByteArray) whole = NULL;

    snap_image_copy_part(image, part, append, copy, &error_abort);
    g_assert_cmpmem(copy->data, copy->len, expected->data, expected->len);
    if (expected->len <= SNAP_MAX_PART_IN_MEMORY) {
        whole = snap_image_read_part(image, part, &error_abort);
        g_assert_cmpmem(whole->data, whole->len, expected->data,
                        expected->len);
    }
}

static inline void coroutine_fn check(Snapshot *s, SnapCheckResult *result)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    snap_check(image, result);
}

static inline void coroutine_fn assert_sound(Snapshot *s)
{
    SnapCheckResult result;
    uint64_t stored = 0;

    for (uint64_t page = 0; page < s->blocks.nb_pages; page++) {
        stored += s->model[page] >= DATA;
    }
    check(s, &result);
    g_assert_cmpuint(result.pages_checked, ==, stored);
    g_assert_cmpuint(result.pages_corrupt, ==, 0);
    g_assert_cmpuint(result.corrupt_parts, ==, 0);
    g_assert_null(result.first);
}

/* That the image holds what the model says. */
static inline void coroutine_fn assert_snapshot(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    assert_layout(s, image);
    assert_counts(s, image->counts);
    assert_ram(s, image);
    assert_part(image, SNAP_PART_CONFIGURATION, s->configuration);
    assert_part(image, SNAP_PART_SETUP, s->setup);
    assert_part(image, SNAP_PART_DEVICES, s->devices);
    assert_sound(s);
}

static inline void coroutine_fn assert_not_complete(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    image = snap_image_open(s->blk, &err);
    g_assert_null(image);
    g_assert_nonnull(err);
    error_free(err);
}

static inline void coroutine_fn flip_bit(Snapshot *s, uint64_t offset)
{
    uint8_t byte;

    g_assert_cmpint(blk_co_pread(s->blk, offset, 1, &byte, 0), ==, 0);
    byte ^= 0x04;
    g_assert_cmpint(blk_co_pwrite(s->blk, offset, 1, &byte, 0), ==, 0);
}

/* Where page number @page lies in the image. */
static inline uint64_t page_offset(const Snapshot *s, uint64_t page)
{
    return snap_layout_page_offset(&s->layout,
                                   snap_ram_block_of(&s->blocks, page), page);
}

static inline uint64_t coroutine_fn part_offset(Snapshot *s, SnapPart part)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    return image->header.parts[part].offset;
}

static inline void coroutine_fn assert_reads_as_zero(Snapshot *s, uint64_t page)
{
    size_t page_size = snap_ram_page_size(&s->blocks);
    g_autofree uint8_t *buf = g_malloc(page_size);

    g_assert_cmpint(blk_co_pread(s->blk, page_offset(s, page), page_size, buf,
                                 0), ==, 0);
    g_assert_true(buffer_is_zero(buf, page_size));
}

static inline uint64_t nb_arrivals(Snapshot *s)
{
    bool truncated;

    return snap_ram_writer_arrivals(s->ram, &truncated);
}

/* Save a small snapshot with all parts, in which page 5 has data. */
static inline void coroutine_fn save_small(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 3, ZERO);
    send_devices(s, 70001, 4096);
    qdict_put_int(s->metadata, "number", 42);
    s->info.vmdesc_length = 2;
    commit(s);
    write_vmdesc(s, "{}");
    assert_sound(s);
}

static inline void coroutine_fn assert_damage(Snapshot *s, bool pages)
{
    SnapCheckResult result;

    check(s, &result);
    g_assert_cmpint(result.pages_corrupt > 0, ==, pages);
    g_assert_cmpint(result.corrupt_parts > 0, ==, !pages);
    g_assert_nonnull(result.first);
    error_free(result.first);
}

#endif /* SNAP_TESTS_IMAGE_MODEL_H */
