/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what images refer to
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "snap/storage/create.h"
#include "snap/storage/references.h"

/* An image, and a file that it may refer to */
typedef struct Fixture {
    char *dir;
    char *image;
    char *other;
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("test-snap-references-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->image = g_build_filename(f->dir, "image", NULL);
    f->other = g_build_filename(f->dir, "other", NULL);
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    g_remove(f->image);
    g_remove(f->other);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->image);
    g_free(f->other);
}

static BlockBackend *create(Fixture *f, const char *options)
{
    snap_create_image(f->image, "qcow2", options, 1 * MiB, &error_abort);
    return blk_new_open(f->image, NULL, NULL, 0, &error_abort);
}

static void test_one_file(Fixture *f, gconstpointer data)
{
    BlockBackend *blk = create(f, "cluster_size=64k");
    g_auto(GStrv) files = snap_references_files(blk);

    g_assert_true(snap_references_only(blk, f->image, &error_abort));
    g_assert_cmpuint(g_strv_length(files), ==, 1);
    g_assert_cmpstr(files[0], ==, f->image);
    blk_unref(blk);
}

/* Whatever the creation options are called */
static void assert_second_file(Fixture *f, const char *options)
{
    BlockBackend *blk = create(f, options);
    g_auto(GStrv) files = snap_references_files(blk);
    Error *err = NULL;

    g_assert_false(snap_references_only(blk, f->image, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), f->other));
    error_free(err);
    g_assert_cmpuint(g_strv_length(files), ==, 2);
    g_assert_true(g_strv_contains((const char *const *)files, f->image));
    g_assert_true(g_strv_contains((const char *const *)files, f->other));
    blk_unref(blk);
}

static void test_data_file(Fixture *f, gconstpointer data)
{
    g_autofree char *options = g_strdup_printf("data_file=%s", f->other);
    struct stat st;

    assert_second_file(f, options);
    g_assert_cmpint(stat(f->other, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
}

static void test_backing_file(Fixture *f, gconstpointer data)
{
    g_autofree char *options =
        g_strdup_printf("backing_file=%s,backing_fmt=raw", f->other);

    g_assert_true(g_file_set_contents(f->other, "base", 4, NULL));
    assert_second_file(f, options);
}

static void add(const char *name, void (*test)(Fixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/snap/references/%s", name);

    g_test_add(path, Fixture, NULL, fixture_set_up, test, fixture_tear_down);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    add("image-of-one-file-has-no-other", test_one_file);
    add("data-file-is-another", test_data_file);
    add("backing-file-is-another", test_backing_file);
    return g_test_run();
}
