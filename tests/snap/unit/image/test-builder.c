/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making snapshots without a stream: on a new file and on an existing disk,
 * committed, rolled back, abandoned, and after errors
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "block/aio.h"
#include "block/block.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qobject/qdict.h"
#include "snap/image/builder.h"
#include "snap/image/image.h"
#include "snap/verb/check.h"
#include "snap-coroutine.h"
#include "some-ram.h"
#include "test-table.h"

#define DISK_SIZE (1 * GiB)
#define OLD "not a snapshot"

#define INJECT_ONCE "file.inject-error.0.event=none," \
    "file.inject-error.0.once=on,file.inject-error.0."

/**
 * Fixture: a directory, and what is built in it
 * @path: the image
 * @ret, @err: of the last coroutine
 */
typedef struct Fixture {
    char *dir;
    char *path;
    SnapRAMBlocks blocks;
    SnapRAMSection section;
    GByteArray *configuration;
    GByteArray *setup;
    QDict *metadata;
    char *options;              /* of an existing disk */
    SnapImageBuilder *builder;
    unsigned seed;              /* tells one snapshot from another */
    int ret;
    Error *err;
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    static const uint8_t configuration[] = "configuration";

    f->dir = g_dir_make_tmp("test-snap-builder-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->path = g_build_filename(f->dir, "image", NULL);
    some_ram_blocks_init(&f->blocks);
    f->section = (SnapRAMSection) { .id = 2, .footers = true };
    f->configuration = g_byte_array_new();
    g_byte_array_append(f->configuration, configuration,
                        sizeof(configuration));
    f->setup = g_byte_array_new();
    f->metadata = qdict_new();
}

static void assert_alone(Fixture *f, const char *name)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);

    g_assert_cmpstr(g_dir_read_name(dir), ==, name);
    g_assert_null(g_dir_read_name(dir));
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    g_assert_null(f->builder);
    g_remove(f->path);
    assert_alone(f, NULL);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->path);
    g_free(f->options);
    snap_ram_blocks_destroy(&f->blocks);
    g_byte_array_unref(f->configuration);
    g_byte_array_unref(f->setup);
    qobject_unref(f->metadata);
}

/* --- what is built --- */

static void fill_page(const Fixture *f, uint8_t *buf, uint64_t page)
{
    memset(buf, 0, PAGE);
    for (size_t i = 0; i < PAGE; i += 512) {
        stq_be_p(buf + i, page * 7 + f->seed);
    }
}

/* Every fifth page is zero, every seventh is not there. */
static int coroutine_fn put_page(Fixture *f, uint64_t page, Error **errp)
{
    SnapRAMWriter *ram = snap_image_builder_ram(f->builder);
    unsigned nb_pages = 1;

    if (page % 7 == 3) {
        return 0;
    }
    if (page % 5 == 0) {
        return snap_ram_writer_add_zero(ram, page, errp);
    }
    fill_page(f, snap_ram_writer_reserve(ram, page, &nb_pages), page);
    return snap_ram_writer_commit(ram, page, 1, errp);
}

static int coroutine_fn put_pages(Fixture *f, Error **errp)
{
    int ret = snap_image_builder_start(f->builder, errp);

    for (uint64_t page = 0; page < NB_PAGES && !ret; page++) {
        ret = put_page(f, page, errp);
    }
    return ret;
}

static int coroutine_fn commit(Fixture *f, Error **errp)
{
    SnapCommitInfo info = {
        .configuration = f->configuration,
        .setup = f->setup,
        .metadata = f->metadata,
    };

    return snap_image_builder_commit(f->builder, &info, errp);
}

static int coroutine_fn build(Fixture *f, Error **errp)
{
    int ret = put_pages(f, errp);

    if (!ret) {
        ret = snap_image_builder_flush_ram(f->builder, errp);
    }
    if (!ret) {
        ret = snap_image_builder_devices(f->builder, "devices", 7, errp);
    }
    return ret ?: commit(f, errp);
}

static void coroutine_fn co_build(void *opaque)
{
    Fixture *f = opaque;

    f->ret = build(f, &f->err);
    if (f->ret < 0) {
        snap_image_builder_drain(f->builder);
    }
    g_assert_true(snap_image_builder_is_committed(f->builder) == !f->ret);
}

static void coroutine_fn co_rollback(void *opaque)
{
    Fixture *f = opaque;

    snap_image_builder_rollback(f->builder, &error_abort);
    g_assert_false(snap_image_builder_is_committed(f->builder));
}

static void coroutine_fn co_commit_again(void *opaque)
{
    Fixture *f = opaque;

    snap_image_builder_devices(f->builder, " and more", 9, &error_abort);
    commit(f, &error_abort);
}

/* --- where it is built --- */

static bool try_begin(Fixture *f, const SnapTargetOptions *options,
                      Error **errp)
{
    f->builder =
        snap_image_builder_new(snap_target_begin(options, &error_abort));
    f->seed++;
    return snap_image_builder_create(f->builder, &f->blocks, &f->section, true,
                                     errp) == 0;
}

static void begin_new(Fixture *f)
{
    SnapTargetOptions options = {
        .image = { .filename = f->path, .format = "qcow2" },
    };

    g_assert_true(try_begin(f, &options, &error_abort));
}

static void begin_existing(Fixture *f)
{
    SnapTargetOptions options = {
        .image = {
            .filename = f->options ?: f->path,
            .image_opts = f->options,
            .format = f->options ? NULL : "raw",
            .backing_chain = true,
        },
        .existing = true,
    };

    g_assert_true(try_begin(f, &options, &error_abort));
}

static void make_disk(Fixture *f, off_t size)
{
    g_assert_true(g_file_set_contents(f->path, "", 0, NULL));
    g_assert_cmpint(truncate(f->path, size), ==, 0);
}

/* A disk below which @injection is: options of blkdebug */
static void inject(Fixture *f, const char *injection)
{
    g_free(f->options);
    f->options = !injection ? NULL : g_strdup_printf(
        "driver=raw,file.driver=blkdebug,file.image.driver=file,"
        "file.image.filename=%s,%s", f->path, injection);
}

static void end(Fixture *f)
{
    g_clear_pointer(&f->builder, snap_image_builder_free);
}

static void built(Fixture *f)
{
    run_in_coroutine(co_build, f);
    g_assert_null(f->err);
    g_assert_cmpint(f->ret, ==, 0);
}

static void confirm_and_end(Fixture *f)
{
    snap_image_builder_confirm(f->builder);
    end(f);
}

static void abandon_and_end(Fixture *f)
{
    g_assert_cmpint(snap_image_builder_abandon(f->builder, false), ==, 0);
    end(f);
}

/* --- what is there --- */

/* What the file at @path has. */
typedef struct Look {
    const Fixture *f;
    BlockBackend *blk;
    bool is_snapshot;
    size_t device_bytes;
} Look;

static void coroutine_fn check_pages(const Fixture *f, SnapImage *image)
{
    g_autoptr(SnapTable) table = snap_image_page_table(image, 4);
    uint8_t data[PAGE];
    uint64_t entry;

    for (uint64_t page = 0; page < NB_PAGES; page++) {
        snap_table_get(table, page, &entry, &error_abort);
        fill_page(f, data, page);
        g_assert_cmphex(entry, ==, page % 7 == 3 ? SNAP_PAGE_UNSENT :
                                   page % 5 == 0 ? SNAP_PAGE_ZERO :
                                   snap_page_entry(data, PAGE));
    }
}

static void coroutine_fn co_look(void *opaque)
{
    Look *look = opaque;
    g_autoptr(SnapImage) image = snap_image_open(look->blk, NULL);
    SnapCheckResult result = { };

    look->is_snapshot = image;
    if (!image) {
        return;
    }
    look->device_bytes = image->header.parts[SNAP_PART_DEVICES].length;
    check_pages(look->f, image);
    snap_check(image, &result);
    g_assert_null(result.first);
    snap_check_result_destroy(&result);
}

/* Returns: bytes of device state, 0 if there is no snapshot */
static size_t look(Fixture *f, const char *format)
{
    SnapImageOptions options = {
        .filename = f->path, .format = format, .force_share = true,
    };
    Look look = { .f = f };

    look.blk = snap_open_image(&options, false, &error_abort);
    run_in_coroutine(co_look, &look);
    blk_unref(look.blk);
    return look.is_snapshot ? look.device_bytes : 0;
}

static void make_old(Fixture *f)
{
    g_assert_true(g_file_set_contents(f->path, OLD, -1, NULL));
}

static void assert_old(Fixture *f)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(f->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, OLD);
    assert_alone(f, "image");
}

/* --- a new file --- */

static void test_new_file_is_there_once_committed(Fixture *f, gconstpointer p)
{
    begin_new(f);
    g_assert_false(g_file_test(f->path, G_FILE_TEST_EXISTS));
    built(f);
    g_assert_cmpuint(look(f, "qcow2"), ==, 7);
    confirm_and_end(f);
    g_assert_cmpuint(look(f, "qcow2"), ==, 7);
    assert_alone(f, "image");
}

static void test_new_file_is_gone_without_confirmation(Fixture *f,
                                                       gconstpointer p)
{
    begin_new(f);
    built(f);
    end(f);
    assert_alone(f, NULL);
}

static void test_new_file_is_gone_without_commit(Fixture *f, gconstpointer p)
{
    begin_new(f);
    end(f);
    assert_alone(f, NULL);
}

static void test_old_file_is_back_when_abandoned(Fixture *f, gconstpointer p)
{
    make_old(f);
    begin_new(f);
    built(f);
    g_assert_cmpuint(look(f, "qcow2"), ==, 7);
    g_assert_cmpint(snap_image_builder_abandon(f->builder, false), ==, 0);
    assert_old(f);
    end(f);
    assert_old(f);
}

static void test_old_file_is_back_when_rolled_back(Fixture *f, gconstpointer p)
{
    g_autofree char *text = NULL;

    make_old(f);
    begin_new(f);
    built(f);
    run_in_coroutine(co_rollback, f);
    g_assert_true(g_file_get_contents(f->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, OLD);
    run_in_coroutine(co_rollback, f);
    run_in_coroutine(co_commit_again, f);
    g_assert_cmpuint(look(f, "qcow2"), ==, 16);
    confirm_and_end(f);
    g_assert_cmpuint(look(f, "qcow2"), ==, 16);
    assert_alone(f, "image");
}

static void test_free_before_create(Fixture *f, gconstpointer p)
{
    SnapTargetOptions options = {
        .image = { .filename = f->path, .format = "qcow2" },
    };

    make_old(f);
    f->builder =
        snap_image_builder_new(snap_target_begin(&options, &error_abort));
    end(f);
    assert_old(f);
}

/* --- an existing disk --- */

static void test_existing_has_snapshot(Fixture *f, gconstpointer p)
{
    make_disk(f, DISK_SIZE);
    for (unsigned i = 0; i < 2; i++) {
        begin_existing(f);
        built(f);
        confirm_and_end(f);
        g_assert_cmpuint(look(f, "raw"), ==, 7);
    }
}

static void test_existing_loses_old_snapshot_when_abandoned(Fixture *f,
                                                            gconstpointer p)
{
    for (unsigned committed = 0; committed < 2; committed++) {
        make_disk(f, DISK_SIZE);
        begin_existing(f);
        built(f);
        confirm_and_end(f);
        begin_existing(f);
        if (committed) {
            built(f);
        }
        abandon_and_end(f);
        /* The other one was not begun. */
        f->seed--;
        g_assert_cmpuint(look(f, "raw"), ==, committed ? 0 : 7);
    }
}

static void test_existing_is_rolled_back(Fixture *f, gconstpointer p)
{
    make_disk(f, DISK_SIZE);
    begin_existing(f);
    built(f);
    run_in_coroutine(co_rollback, f);
    end(f);
    g_assert_cmpuint(look(f, "raw"), ==, 0);

    begin_existing(f);
    built(f);
    run_in_coroutine(co_rollback, f);
    run_in_coroutine(co_commit_again, f);
    confirm_and_end(f);
    g_assert_cmpuint(look(f, "raw"), ==, 16);
}

static void test_existing_too_small(Fixture *f, gconstpointer p)
{
    SnapTargetOptions options = {
        .image = { .filename = f->path, .format = "raw" },
        .existing = true,
    };
    Error *err = NULL;

    make_disk(f, 1 * MiB);
    g_assert_false(try_begin(f, &options, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "cannot hold"));
    error_free(err);
    end(f);
}

/* --- errors --- */

static void assert_build_fails(Fixture *f)
{
    run_in_coroutine(co_build, f);
    g_assert_cmpint(f->ret, <, 0);
    g_assert_nonnull(f->err);
    g_clear_pointer(&f->err, error_free);
}

/* A page, the claim, a flush: all is freed, and the next one succeeds. */
static void test_after_each_failed_write(Fixture *f, gconstpointer p)
{
    static const char *const injections[] = {
        INJECT_ONCE "iotype=write,file.inject-error.0.sector=8192",
        INJECT_ONCE "iotype=write,file.inject-error.0.sector=0",
        INJECT_ONCE "iotype=flush",
    };

    make_disk(f, DISK_SIZE);
    for (unsigned i = 0; i < ARRAY_SIZE(injections); i++) {
        inject(f, injections[i]);
        begin_existing(f);
        assert_build_fails(f);
        abandon_and_end(f);
        g_assert_cmpuint(look(f, "raw"), ==, 0);
    }
    inject(f, NULL);
    begin_existing(f);
    built(f);
    confirm_and_end(f);
    g_assert_cmpuint(look(f, "raw"), ==, 7);
}

/* The header cannot be removed any more: the caller has to know. */
static void test_header_that_stays_is_told(Fixture *f, gconstpointer p)
{
    make_disk(f, DISK_SIZE);
    inject(f, "file.set-state.0.event=flush_to_disk,file.set-state.0.state=1,"
           "file.set-state.0.new_state=2,"
           "file.set-state.1.event=flush_to_disk,file.set-state.1.state=2,"
           "file.set-state.1.new_state=3,"
           "file.set-state.2.event=flush_to_disk,file.set-state.2.state=3,"
           "file.set-state.2.new_state=4,"
           "file.inject-error.0.event=flush_to_disk,"
           "file.inject-error.0.state=4");
    begin_existing(f);
    assert_build_fails(f);
    g_assert_cmpint(snap_image_builder_abandon(f->builder, false), <, 0);
    end(f);
}

/* --- abandoned while it is in flight --- */

static void coroutine_fn build_entry(void *opaque)
{
    Fixture *f = opaque;

    f->ret = commit(f, &f->err);
    if (!f->ret) {
        f->ret = 1;
    }
}

static void coroutine_fn co_put_pages(void *opaque)
{
    put_pages(opaque, &error_abort);
}

/* @nb_polls: how far the commit gets. Returns: false if it was complete */
static bool abandon_commit(Fixture *f, unsigned nb_polls)
{
    bool complete;

    run_in_coroutine(co_put_pages, f);
    f->ret = 0;
    qemu_coroutine_enter(qemu_coroutine_create(build_entry, f));
    while (!f->ret && nb_polls--) {
        aio_poll(qemu_get_aio_context(), true);
    }
    complete = f->ret;
    snap_image_builder_abandon(f->builder, !complete);
    while (!f->ret) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(f->ret, ==, complete ? 1 : -ECANCELED);
    g_assert_true(complete == !f->err);
    g_clear_pointer(&f->err, error_free);
    return !complete;
}

static void test_new_file_abandoned_during_commit(Fixture *f, gconstpointer p)
{
    unsigned nb_polls = 0;
    bool again = true;

    make_old(f);
    while (again) {
        begin_new(f);
        again = abandon_commit(f, nb_polls++);
        assert_old(f);
        end(f);
        assert_old(f);
    }
    g_assert_cmpuint(nb_polls, >, 3);
}

static void test_existing_abandoned_during_commit(Fixture *f, gconstpointer p)
{
    unsigned nb_polls = 0;
    bool again = true;

    make_disk(f, DISK_SIZE);
    while (again) {
        begin_existing(f);
        again = abandon_commit(f, nb_polls++);
        end(f);
        g_assert_cmpuint(look(f, "raw"), ==, 0);
    }
    g_assert_cmpuint(nb_polls, >, 3);
}

static const struct {
    const char *path;
    void (*fn)(Fixture *f, gconstpointer data);
} tests[] = {
    { "new/file-is-there-once-committed",
      test_new_file_is_there_once_committed },
    { "new/file-is-gone-without-confirmation",
      test_new_file_is_gone_without_confirmation },
    { "new/file-is-gone-without-commit", test_new_file_is_gone_without_commit },
    { "new/old-file-is-back-when-abandoned",
      test_old_file_is_back_when_abandoned },
    { "new/old-file-is-back-when-rolled-back",
      test_old_file_is_back_when_rolled_back },
    { "new/may-be-freed-before-it-is-created", test_free_before_create },
    { "new/may-be-abandoned-during-the-commit",
      test_new_file_abandoned_during_commit },
    { "existing/file-has-the-new-snapshot", test_existing_has_snapshot },
    { "existing/old-snapshot-is-gone-when-abandoned",
      test_existing_loses_old_snapshot_when_abandoned },
    { "existing/commit-may-follow-a-rollback", test_existing_is_rolled_back },
    { "existing/file-that-is-too-small-is-refused", test_existing_too_small },
    { "existing/may-be-abandoned-during-the-commit",
      test_existing_abandoned_during_commit },
    { "error/next-one-succeeds-after-a-failed-write",
      test_after_each_failed_write },
    { "error/header-that-stays-is-reported", test_header_that_stays_is_told },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_FIXTURE_TESTS("/snap/builder/", tests, Fixture, fixture_set_up,
                      fixture_tear_down);
    return g_test_run();
}
