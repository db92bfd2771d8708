/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of embedding a working set in an image
 */

#include "qemu/osdep.h"
#include "snap/image/update.h"
#include "snap/image/working-set.h"
#include "image-model.h"
#include "image-test.h"

/* A working set of @nb pages for @image */
static GArray *some_pages(unsigned nb)
{
    GArray *pages = g_array_new(false, false, sizeof(uint64_t));

    for (uint64_t i = 0; i < nb; i++) {
        uint64_t page = (i * 1031 + nb) % NB_PAGES;

        g_array_append_val(pages, page);
    }
    return pages;
}

static int coroutine_fn try_embed(SnapImage *image, unsigned nb, Error **errp)
{
    g_autoptr(GArray) pages = some_pages(nb);
    g_autoptr(GByteArray) data = snap_working_set_encode(pages,
                                                         &image->header.uuid);

    return snap_image_set_working_set(image, data, errp);
}

static void coroutine_fn embed(Snapshot *s, unsigned nb)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    g_assert_cmpint(try_embed(image, nb, &error_abort), ==, 0);
}

static void coroutine_fn assert_working_set(SnapImage *image, unsigned nb)
{
    g_autoptr(GArray) expected = some_pages(nb);
    g_autoptr(GArray) pages = NULL;

    g_assert_cmpint(snap_image_working_set(image, &pages, &error_abort), ==,
                    1);
    g_assert_cmpmem(pages->data, pages->len * sizeof(uint64_t),
                    expected->data, expected->len * sizeof(uint64_t));
}

/* That the image has a working set of @nb pages, 0 for none. */
static void coroutine_fn assert_embedded(Snapshot *s, unsigned nb)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(GArray) pages = NULL;

    if (nb) {
        assert_working_set(image, nb);
    } else {
        g_assert_cmpint(snap_image_working_set(image, &pages, &error_abort),
                        ==, 0);
    }
}

static void coroutine_fn assert_no_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(GArray) pages = NULL;
    Error *err = NULL;

    g_assert_cmpint(snap_image_working_set(image, &pages, &err), <, 0);
    g_assert_null(pages);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_not_embedded(Snapshot *s)
{
    save_small(s);
    assert_embedded(s, 0);
}

static void coroutine_fn test_embed(Snapshot *s)
{
    save_small(s);
    embed(s, 300);
    assert_embedded(s, 300);
    assert_snapshot(s);
}

/* Nothing but the header and the working set is changed. */
static void coroutine_fn test_embed_keeps_rest(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) vmdesc = NULL;
    g_autoptr(QDict) metadata = NULL;
    SnapHeader before;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    before = image->header;
    g_clear_pointer(&image, snap_image_close);
    embed(s, 300);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpmem(&image->header.parts, sizeof(SnapPartInfo) *
                    SNAP_PART_WORKING_SET, &before.parts, sizeof(SnapPartInfo) *
                    SNAP_PART_WORKING_SET);
    g_assert_true(qemu_uuid_is_equal(&image->header.uuid, &before.uuid));
    g_assert_cmpuint(image->header.created, ==, before.created);
    g_assert_cmpuint(image->header.flags, ==, before.flags);
    g_assert_cmpuint(image->header.incompatible, ==, before.incompatible);
    g_assert_cmpuint(image->header.compatible, ==, before.compatible |
                     SNAP_COMPATIBLE_WORKING_SET);
    vmdesc = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpmem(vmdesc->data, vmdesc->len, "{}", 2);
    metadata = snap_image_metadata(image, &error_abort);
    g_assert_cmpint(qdict_get_int(metadata, "number"), ==, 42);
}

/* Who has the image open sees it as well. */
static void coroutine_fn test_embed_updates_header(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    try_embed(image, 300, &error_abort);
    assert_working_set(image, 300);
    try_embed(image, 20, &error_abort);
    assert_working_set(image, 20);
}

/* Whether the working set lies where anything else is, or was in @before. */
static void assert_place_is_free(const SnapImage *image,
                                 const SnapHeader *before)
{
    const SnapPartInfo *set = &image->header.parts[SNAP_PART_WORKING_SET];

    g_assert_cmpuint(set->offset, >=, image->layout.ram_end);
    g_assert_cmpuint(set->offset % SNAP_PART_ALIGN, ==, 0);
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        const SnapPartInfo *part = &before->parts[i];

        if (part->length) {
            g_assert_true(set->offset + set->length <= part->offset ||
                          part->offset + part->length <= set->offset);
        }
    }
}

static void coroutine_fn test_embed_again(Snapshot *s)
{
    static const unsigned sizes[] = { 300, 10, 8000, 9000, 20000, 1 };
    g_autoptr(SnapImage) image = NULL;

    send_devices(s, 3 * SNAP_DEVICE_CHUNK, 4096);
    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        SnapHeader before = image->header;

        try_embed(image, sizes[i], &error_abort);
        assert_place_is_free(image, &before);
        assert_embedded(s, sizes[i]);
    }
    assert_snapshot(s);
}

/* Cut what follows the last part off the disk. */
static void coroutine_fn cut_reserve(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    uint64_t end = image->layout.ram_end;

    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        const SnapPartInfo *part = &image->header.parts[i];

        end = MAX(end, part->offset + part->length);
    }
    blk_co_truncate(s->blk, ROUND_UP(end, SNAP_PART_ALIGN), true,
                    PREALLOC_MODE_OFF, 0, &error_abort);
}

/* The disk grows if there is no place between the parts. */
static void coroutine_fn test_embed_largest(Snapshot *s)
{
    int64_t size;

    save_small(s);
    cut_reserve(s);
    size = blk_co_getlength(s->blk);
    for (unsigned i = 0; i < 3; i++) {
        embed(s, SNAP_MAX_WORKING_SET - i);
        assert_embedded(s, SNAP_MAX_WORKING_SET - i);
    }
    g_assert_cmpint(blk_co_getlength(s->blk), >, size);
    assert_snapshot(s);
}

static void coroutine_fn test_embed_empty(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    embed(s, 0);
    image = snap_image_open(s->blk, &error_abort);
    assert_working_set(image, 0);
}

/* What the header says is on stable storage before the header is. */
static void coroutine_fn test_embed_order(Snapshot *s)
{
    save_small(s);
    g_string_truncate(s->disk->log, 0);
    embed(s, 300);
    g_assert_cmpstr(s->disk->log->str, ==, "WFHF");
}

/* Let one write or flush fail; the working set before has @old pages. */
static void coroutine_fn check_embed_interrupted(Snapshot *s, unsigned nth,
                                                 unsigned old)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    SnapHeader before = image->header;
    Error *err = NULL;

    s->disk->fail_nth = s->disk->log->len + nth;
    s->disk->fail_ret = -ENOSPC;
    assert_failed(try_embed(image, 500, &err), -ENOSPC, &err);
    s->disk->fail_nth = -1;
    g_assert_cmpmem(&image->header, sizeof(before), &before, sizeof(before));
    /* After the write of the header, it may be either. */
    assert_embedded(s, nth < 3 ? old : 500);
    assert_snapshot(s);
}

static void coroutine_fn test_embed_interrupted(Snapshot *s)
{
    save_small(s);
    for (unsigned nth = 0; nth < 3; nth++) {
        check_embed_interrupted(s, nth, 0);
    }
    for (unsigned nth = 0; nth < 4; nth++) {
        embed(s, 300);
        check_embed_interrupted(s, nth, 300);
    }
    embed(s, 20);
    assert_embedded(s, 20);
}

/* As a process leaves it that was killed between the two writes. */
static void coroutine_fn test_embed_killed(Snapshot *s)
{
    g_autofree uint8_t *header = NULL;

    save_small(s);
    embed(s, 300);
    header = g_memdup2(s->disk->bytes, SNAP_HEADER_SIZE);
    embed(s, 500);
    memcpy(s->disk->bytes, header, SNAP_HEADER_SIZE);
    assert_embedded(s, 300);
}

/* Change the features that the header says the image has. */
static void coroutine_fn set_compatible(Snapshot *s, uint64_t compatible)
{
    uint8_t buf[SNAP_HEADER_SIZE];
    SnapHeader header;

    g_assert_cmpint(blk_co_pread(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    snap_header_decode(&header, buf, INT64_MAX, &error_abort);
    header.compatible = compatible;
    snap_header_encode(&header, buf);
    g_assert_cmpint(blk_co_pwrite(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
}

/* An unknown feature may be about what would be changed. */
static void coroutine_fn check_unknown_feature(Snapshot *s, uint64_t features)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    set_compatible(s, features);
    g_string_truncate(s->disk->log, 0);
    image = snap_image_open(s->blk, &error_abort);
    assert_failed(try_embed(image, 500, &err), -ENOTSUP, &err);
    g_assert_cmpstr(s->disk->log->str, ==, "");
    assert_snapshot(s);
}

static void coroutine_fn test_embed_unknown_feature(Snapshot *s)
{
    save_small(s);
    check_unknown_feature(s, 2);
    check_unknown_feature(s, UINT64_C(1) << 63);
    set_compatible(s, 0);
    embed(s, 300);
    check_unknown_feature(s, SNAP_COMPATIBLE_WORKING_SET | 2);
    assert_embedded(s, 300);
}

/* Without the feature, what stands in its place in the header is nothing. */
static void coroutine_fn test_feature_is_cleared(Snapshot *s)
{
    save_small(s);
    embed(s, 300);
    set_compatible(s, 0);
    assert_embedded(s, 0);
    assert_snapshot(s);
}

static void coroutine_fn test_damaged_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    embed(s, 300);
    flip_bit(s, part_offset(s, SNAP_PART_WORKING_SET) + 100);
    assert_no_working_set(s);
    assert_damage(s, false);
    image = snap_image_open(s->blk, &error_abort);
    assert_ram(s, image);
}

static void coroutine_fn test_foreign_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GArray) pages = some_pages(20);
    g_autoptr(GByteArray) data = NULL;
    const QemuUUID other = { .data = { 1 } };

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    data = snap_working_set_encode(pages, &other);
    snap_image_set_working_set(image, data, &error_abort);
    assert_no_working_set(s);
}

static const ImageTest tests[] = {
    { "working-set/is-embedded", test_embed },
    { "working-set/is-embedded/raw", test_embed, "raw" },
    { "working-set/is-embedded/qcow2", test_embed, "qcow2" },
    { "working-set/is-missing-at-first", test_not_embedded },
    { "working-set/may-be-empty", test_embed_empty },
    { "embed/keeps-the-rest-of-the-image", test_embed_keeps_rest },
    { "embed/open-image-has-it-at-once", test_embed_updates_header },
    { "embed/takes-a-place-that-is-free", test_embed_again },
    { "embed/takes-a-place-that-is-free/raw", test_embed_again, "raw" },
    { "embed/disk-grows-if-no-place-is-free/raw", test_embed_largest, "raw" },
    { "embed/disk-grows-if-no-place-is-free/qcow2",
      test_embed_largest, "qcow2" },
    { "embed/header-comes-last", test_embed_order },
    { "embed/failure-keeps-the-old-one", test_embed_interrupted },
    { "embed/old-header-has-the-old-one", test_embed_killed },
    { "embed/is-refused-with-an-unknown-feature", test_embed_unknown_feature },
    { "working-set/is-missing-if-its-feature-is-cleared",
      test_feature_is_cleared },
    { "working-set/damaged-one-is-refused", test_damaged_working_set },
    { "working-set/foreign-one-is-refused", test_foreign_working_set },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/image-update/", tests, run_test);
    return g_test_run();
}
