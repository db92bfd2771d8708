/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of writing an image, but for its RAM
 */

#include "qemu/osdep.h"
#include "image-model.h"
#include "image-test.h"

static void coroutine_fn test_not_complete_before_commit(Snapshot *s)
{
    assert_not_complete(s);
    send_page(s, 0, DATA);
    send_devices(s, 200 * KiB, 4096);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_flush_ram(s->image, 0, &error_abort);
    assert_not_complete(s);
}

/* The commit writes what is missing. */
static void coroutine_fn test_commit_without_flush_ram(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 6, ZERO);
    snap_ram_writer_flush(s->ram, &error_abort);
    commit_header(s, s->image, &error_abort);
    assert_sound(s);
}

static void coroutine_fn test_invalidate(Snapshot *s)
{
    commit(s);
    snap_image_writer_invalidate(s->image, &error_abort);
    assert_not_complete(s);
}

static void coroutine_fn test_devices(Snapshot *s)
{
    static const size_t lengths[] = {
        1, 511, 4095, 1, SNAP_DEVICE_CHUNK, SNAP_DEVICE_CHUNK - 1,
        3 * SNAP_DEVICE_CHUNK + 7, 2,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        send_devices(s, lengths[i], lengths[i]);
    }
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_one_byte_of_devices(Snapshot *s)
{
    send_devices(s, 1, 1);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_whole_chunks_of_devices(Snapshot *s)
{
    send_devices(s, 2 * SNAP_DEVICE_CHUNK, 4096);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_devices_beyond_reserve(Snapshot *s)
{
    int64_t size = blk_co_getlength(s->blk);

    send_page(s, 0, DATA);
    send_devices(s, SNAP_DEVICE_RESERVE + 5 * MiB + 3, MiB - 1);
    commit(s);
    assert_snapshot(s);
    g_assert_cmpint(blk_co_getlength(s->blk), >, size);
}

static void coroutine_fn test_devices_after_commit(Snapshot *s)
{
    send_devices(s, 100001, 4096);
    commit(s);
    snap_image_writer_invalidate(s->image, &error_abort);
    send_devices(s, 50001, 4096);
    assert_not_complete(s);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_vmdesc(Snapshot *s)
{
    static const char vmdesc[] = "{\"page_size\": 4096}";
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;

    s->info.vmdesc_length = strlen(vmdesc);
    commit(s);
    write_vmdesc(s, vmdesc);
    assert_snapshot(s);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpmem(read->data, read->len, vmdesc, strlen(vmdesc));
}

static void coroutine_fn test_no_vmdesc(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;

    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpuint(read->len, ==, 0);
}

/* As a process leaves it that was killed after the commit. */
static void coroutine_fn test_vmdesc_not_written(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;
    Error *err = NULL;

    send_page(s, 0, DATA);
    send_devices(s, 1000, 1000);
    s->info.vmdesc_length = 5000;
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    assert_ram(s, image);
    assert_part(image, SNAP_PART_DEVICES, s->devices);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &err);
    g_assert_null(read);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_metadata(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(QDict) metadata = NULL;

    qdict_put_str(s->metadata, "host", "caf\xc3\xa9");
    qdict_put_int(s->metadata, "number", 42);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    metadata = snap_image_metadata(image, &error_abort);
    g_assert_true(qobject_is_equal(QOBJECT(metadata), QOBJECT(s->metadata)));
}

static void coroutine_fn test_header(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    s->info.flags = SNAP_FLAG_RAM_END;
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpuint(image->header.page_bits, ==, s->blocks.page_bits);
    g_assert_cmpuint(image->header.nb_pages, ==, s->blocks.nb_pages);
    g_assert_cmpuint(image->header.before_ram, ==, s->info.before_ram);
    g_assert_cmpuint(image->header.section.id, ==, 2);
    g_assert_cmpuint(image->header.section.instance, ==, 1);
    g_assert_true(image->header.section.footers);
    g_assert_true(image->header.flags & SNAP_FLAG_RAM_END);
    g_assert_false(image->header.flags & SNAP_FLAG_ARRIVALS_TRUNCATED);
    g_assert_cmpuint(image->header.created, >, 1700000000);
}

/* Whether there are footers is known late. */
static void coroutine_fn test_late_section(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    send_page(s, 0, DATA);
    s->section = (SnapRAMSection) { .id = 7, .instance = 3 };
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpuint(image->header.section.id, ==, 7);
    g_assert_cmpuint(image->header.section.instance, ==, 3);
    g_assert_false(image->header.section.footers);
}

static void coroutine_fn test_uuids_differ(Snapshot *s)
{
    const SnapRAMSection section = { };
    g_autoptr(SnapImageWriter) other = NULL;
    g_autoptr(SnapImage) image = NULL;
    QemuUUID uuid;

    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    uuid = image->header.uuid;
    g_clear_pointer(&image, snap_image_close);

    other = snap_image_writer_new(s->blk, &s->layout, &section);
    snap_image_writer_flush_ram(other, 0, &error_abort);
    commit_header(s, other, &error_abort);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_false(qemu_uuid_is_equal(&image->header.uuid, &uuid));
}

/*
 * The header comes last, and everything else is on stable storage before, the
 * header's place included.
 */
static void coroutine_fn test_commit_order(Snapshot *s)
{
    save_small(s);
    g_string_truncate(s->disk->log, 0);
    commit_header(s, s->image, &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "WHFHF"));
    g_assert_true(strchr(s->disk->log->str, 'H') ==
                  s->disk->log->str + s->disk->log->len - strlen("HFHF"));
}

static void coroutine_fn test_flush_ram_is_durable(Snapshot *s)
{
    send_page(s, 5, DATA);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_flush_ram(s->image, nb_arrivals(s), &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "WF"));
}

static void coroutine_fn test_invalidate_is_durable(Snapshot *s)
{
    snap_image_writer_invalidate(s->image, &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "HF"));
}

/* A disk that cannot grow */
static void coroutine_fn test_no_room_for_devices(Snapshot *s)
{
    g_autofree uint8_t *data = g_malloc0(SLOW_DISK_SIZE);
    Error *err = NULL;

    g_assert_cmpint(snap_image_writer_devices(s->image, data, SLOW_DISK_SIZE,
                                              &err), <, 0);
    g_assert_nonnull(err);
    error_free(err);
    assert_not_complete(s);
}

/* Everything that a save does, up to the first error. */
static int coroutine_fn try_save(Snapshot *s, Error **errp)
{
    int ret = snap_image_writer_invalidate(s->image, errp);

    for (uint64_t page = 0; !ret && page < 600; page += 37) {
        ret = try_send(s, page, DATA + page, errp);
    }
    if (!ret) {
        ret = try_devices(s, s->model, SNAP_DEVICE_CHUNK + 1000, errp);
    }
    return ret ?: try_commit(s, errp);
}

/*
 * A save in which one write or flush fails: it fails, and only where the
 * header was the last to be written there may be a snapshot.
 */
static void coroutine_fn save_with_error(void *opaque)
{
    Snapshot *s = opaque;
    Error *err = NULL;
    int ret = try_save(s, &err);

    if (s->disk->fail_nth >= s->disk->log->len) {
        g_assert_cmpint(ret, ==, 0);
        assert_snapshot(s);
        return;
    }
    snap_ram_writer_abort(s->ram);
    assert_failed(ret, -ENOSPC, &err);
    if (!g_str_has_suffix(s->disk->log->str, "HF")) {
        assert_not_complete(s);
    }
}

static void test_size(void)
{
    const ImageTest test = { };
    SnapRAMBlocks ram;
    SnapLayout layout;
    uint64_t size;

    fill_blocks(&ram, &test);
    snap_layout_init(&layout, &ram, &error_abort);
    size = snap_image_writer_size(&layout);
    g_assert_cmpuint(size, >=, layout.ram_end + SNAP_DEVICE_RESERVE +
                     snap_table_bytes(ram.nb_pages) +
                     snap_table_bytes(SNAP_MAX_ARRIVALS));
    g_assert_cmpuint(size, <=, SLOW_DISK_SIZE);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

/* Let each write and flush of a save fail in turn. */
static void test_each_write_fails(void)
{
    const ImageTest test = { };
    bool failed = true;

    for (int nth = 0; failed; nth++) {
        Snapshot s = { };

        fill_blocks(&s.blocks, &test);
        s.blk = slow_disk_open(&s.disk);
        s.disk->fail_nth = nth;
        s.disk->fail_ret = -ENOSPC;
        snapshot_begin(&s);
        run_in_coroutine(save_with_error, &s);
        failed = s.disk->log->len > nth;
        snapshot_end(&s);
    }
}

static const ImageTest tests[] = {
    { "commit/image-is-incomplete-before-it", test_not_complete_before_commit },
    { "commit/invalidated-image-is-incomplete", test_invalidate },
    { "commit/writes-tables-that-were-not-flushed",
      test_commit_without_flush_ram },
    { "commit/header-comes-last", test_commit_order },
    { "commit/flushed-ram-is-durable", test_flush_ram_is_durable },
    { "commit/invalidation-is-durable", test_invalidate_is_durable },
    { "devices/pieces-have-any-length", test_devices },
    { "devices/one-byte-is-stored", test_one_byte_of_devices },
    { "devices/whole-chunks-are-stored", test_whole_chunks_of_devices },
    { "devices/image-grows-beyond-its-reserve/raw",
      test_devices_beyond_reserve, "raw" },
    { "devices/image-grows-beyond-its-reserve/qcow2",
      test_devices_beyond_reserve, "qcow2" },
    { "devices/more-may-follow-an-invalidated-commit",
      test_devices_after_commit },
    { "vmdesc/follows-the-commit", test_vmdesc },
    { "vmdesc/may-be-missing", test_no_vmdesc },
    { "vmdesc/unwritten-one-damages-nothing-else", test_vmdesc_not_written },
    { "metadata/is-stored", test_metadata },
    { "header/has-what-the-commit-said", test_header },
    { "header/has-the-section-as-it-is-at-the-commit", test_late_section },
    { "header/each-snapshot-has-a-uuid-of-its-own", test_uuids_differ },
    { "error/devices-on-a-disk-that-cannot-grow", test_no_room_for_devices },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    g_test_add_func("/snap/image-writer/size/has-room-for-all-parts",
                    test_size);
    g_test_add_func("/snap/image-writer/error/of-any-write-leaves-no-snapshot",
                    test_each_write_fails);
    ADD_TESTS("/snap/image-writer/", tests, run_test);
    return g_test_run();
}
