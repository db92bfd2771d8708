/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of reading and checking an image, whole or damaged
 */

#include "qemu/osdep.h"
#include "snap/verb/info.h"
#include "image-model.h"
#include "image-test.h"

static void coroutine_fn test_copy_without_func(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    send_devices(s, 100001, 4096);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpint(snap_image_copy_part(image, SNAP_PART_DEVICES, NULL, NULL,
                                         &error_abort), ==, 0);
}

static void coroutine_fn test_info(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapInfo) info = NULL;
    const SnapInfoBlock *block;
    unsigned nb_blocks = 0;

    send_page(s, 0, DATA);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    info = snap_info(image, &error_abort);
    g_assert_cmpstr(info->machine, ==, "pc-q35-10.0");
    for (SnapInfoBlockList *l = info->ram_blocks; l; l = l->next) {
        nb_blocks++;
    }
    g_assert_cmpuint(nb_blocks, ==, 3);
    block = info->ram_blocks->value;
    g_assert_cmpstr(block->name, ==, "pc.ram");
    g_assert_cmpuint(block->size, ==, s->blocks.blocks[0].length);
}

static void coroutine_fn test_info_of_many_devices(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapInfo) info = NULL;
    Error *err = NULL;

    send_devices(s, SNAP_MAX_PART_IN_MEMORY + 1, 1 * MiB);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    info = snap_info(image, &err);
    g_assert_nonnull(info);
    error_free(err);
}

static void coroutine_fn assert_ram_corrupt(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(SnapRAMWalk) walk = new_walk(image);
    SnapPages pages;
    Error *err = NULL;
    int ret;

    do {
        ret = snap_ram_walk_next(walk, &pages, &err);
    } while (ret > 0);
    assert_failed(ret, -EBADMSG, &err);
    snap_ram_walk_abort(walk);
}

static void coroutine_fn test_damaged_page(Snapshot *s)
{
    save_small(s);
    flip_bit(s, page_offset(s, 5) + 4000);
    assert_ram_corrupt(s);
    assert_damage(s, true);
}

/* A mapping that is lost reads as zeroes. */
static void coroutine_fn test_lost_page(Snapshot *s)
{
    save_small(s);
    blk_co_pwrite_zeroes(s->blk, page_offset(s, 0), 64 * KiB,
                         BDRV_REQ_MAY_UNMAP);
    assert_ram_corrupt(s);
    assert_damage(s, true);
}

static void coroutine_fn test_damaged_page_table(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_PAGE_TABLE) + 5 * 8);
    assert_ram_corrupt(s);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_unsent_entry(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_PAGE_TABLE) + 6 * 8);
    assert_ram_corrupt(s);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_parts(Snapshot *s)
{
    static const SnapPart parts[] = {
        SNAP_PART_ARRIVALS, SNAP_PART_CONFIGURATION, SNAP_PART_SETUP,
        SNAP_PART_METADATA, SNAP_PART_DEVICES, SNAP_PART_VMDESC,
    };

    save_small(s);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        uint64_t offset = part_offset(s, parts[i]);

        flip_bit(s, offset + 1);
        assert_damage(s, false);
        flip_bit(s, offset + 1);
    }
    assert_sound(s);
}

/* An intact arrival list with a page number out of range */
static void coroutine_fn test_wild_arrival(Snapshot *s)
{
    SnapTable *arrivals = snap_image_writer_arrivals(s->image);

    save_small(s);
    snap_table_set(arrivals, 0, NB_PAGES, &error_abort);
    snap_table_flush(arrivals, 1, &error_abort);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_devices_are_not_read(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;
    Error *err = NULL;

    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_DEVICES) + 70000);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_DEVICES, &err);
    assert_failed(read ? 0 : -1, -1, &err);
    g_assert_cmpint(snap_image_copy_part(image, SNAP_PART_DEVICES, NULL, NULL,
                                         &err), <, 0);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_damaged_metadata_is_not_read(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_METADATA));
    image = snap_image_open(s->blk, &error_abort);
    g_assert_null(snap_image_metadata(image, &err));
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_damaged_header(Snapshot *s)
{
    save_small(s);
    flip_bit(s, 100);
    assert_not_complete(s);
}

static void coroutine_fn test_damaged_block_table(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_BLOCK_TABLE));
    assert_not_complete(s);
}

/* The tables of an image are no substitute for each other. */
static void coroutine_fn test_chunk_of_other_table(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapTable) table = NULL;
    const SnapPartInfo *parts;
    Error *err = NULL;
    uint64_t entry;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    parts = image->header.parts;
    memcpy(s->disk->bytes + parts[SNAP_PART_PAGE_TABLE].offset,
           s->disk->bytes + parts[SNAP_PART_ARRIVALS].offset,
           SNAP_CHUNK_SIZE);
    table = snap_image_page_table(image, 1);
    assert_failed(snap_table_get(table, 0, &entry, &err), -EBADMSG, &err);
}

/* A header that is valid in itself, with a part in the middle of RAM */
static void coroutine_fn test_part_within_ram(Snapshot *s)
{
    uint8_t buf[SNAP_HEADER_SIZE];
    SnapHeader header;

    save_small(s);
    g_assert_cmpint(blk_co_pread(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    snap_header_decode(&header, buf, INT64_MAX, &error_abort);
    header.parts[SNAP_PART_DEVICES].offset = SNAP_BLOCK_ALIGN;
    snap_header_encode(&header, buf);
    g_assert_cmpint(blk_co_pwrite(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    assert_not_complete(s);
}

static const ImageTest tests[] = {
    { "part/is-checked-if-nothing-takes-it", test_copy_without_func },
    { "info/has-machine-and-blocks", test_info },
    { "info/device-state-may-be-large", test_info_of_many_devices, "raw" },
    { "damaged/page-is-found", test_damaged_page },
    { "damaged/page-is-found/raw", test_damaged_page, "raw" },
    { "damaged/page-is-found/qcow2", test_damaged_page, "qcow2" },
    { "damaged/lost-page-is-found", test_lost_page, "qcow2" },
    { "damaged/page-table-is-found", test_damaged_page_table },
    { "damaged/chunk-of-another-table-is-refused", test_chunk_of_other_table },
    { "damaged/entry-of-an-unsent-page-is-found", test_damaged_unsent_entry },
    { "damaged/each-part-is-found", test_damaged_parts },
    { "damaged/arrival-out-of-range-is-found", test_wild_arrival },
    { "damaged/devices-are-not-read", test_damaged_devices_are_not_read },
    { "damaged/metadata-is-not-read", test_damaged_metadata_is_not_read },
    { "damaged/header-is-refused", test_damaged_header },
    { "damaged/block-table-is-refused", test_damaged_block_table },
    { "damaged/part-within-ram-is-refused", test_part_within_ram },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/image/", tests, run_test);
    return g_test_run();
}
