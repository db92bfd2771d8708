/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of creating an empty image
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "snap/storage/create.h"

#define MASK 027                /* the umask of the tests */

/* What storage fails with when it looks for data; 0 if it does not */
static int seek_data_errno;

off_t lseek(int fd, off_t offset, int whence)
{
    if (whence == SEEK_DATA && seek_data_errno) {
        errno = seek_data_errno;
        return -1;
    }
    return syscall(SYS_lseek, fd, offset, whence);
}

/* Two files, which are there and empty */
typedef struct Fixture {
    char *dir;
    char *image;
    char *other;
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("test-snap-create-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->image = g_build_filename(f->dir, "image", NULL);
    f->other = g_build_filename(f->dir, "other", NULL);
    g_assert_true(g_file_set_contents(f->image, "", 0, NULL));
    g_assert_true(g_file_set_contents(f->other, "", 0, NULL));
    umask(MASK);
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

static void create(const char *path, const char *format, const char *options,
                   uint64_t size)
{
    g_assert_true(snap_create_image(path, format, options, size,
                                    &error_abort));
}

static struct stat status_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st;
}

static void assert_opens_as(const char *path, const char *format,
                            int64_t size)
{
    QDict *options = qdict_new();
    BlockBackend *blk;

    qdict_put_str(options, "driver", format);
    blk = blk_new_open(path, NULL, options, 0, &error_abort);
    g_assert_cmpint(blk_getlength(blk), ==, size);
    blk_unref(blk);
}

static void assert_same_content(const char *path, const char *other)
{
    g_autofree char *a = NULL;
    g_autofree char *b = NULL;
    size_t a_length, b_length;

    g_assert_true(g_file_get_contents(path, &a, &a_length, NULL));
    g_assert_true(g_file_get_contents(other, &b, &b_length, NULL));
    g_assert_cmpmem(a, a_length, b, b_length);
}

/* What is made in memory is what block drivers make in a file. */
static void test_image_is_the_same_with_and_without_options(Fixture *f,
                                                            gconstpointer data)
{
    create(f->image, "qcow2", NULL, 3 * GiB);
    create(f->other, "qcow2", "cluster_size=64k", 3 * GiB);
    assert_opens_as(f->image, "qcow2", 3 * GiB);
    assert_same_content(f->image, f->other);
}

static void test_options_are_heeded(Fixture *f, gconstpointer data)
{
    create(f->image, "qcow2", "cluster_size=4k", 1 * MiB);
    create(f->other, "qcow2", NULL, 1 * MiB);
    assert_opens_as(f->image, "qcow2", 1 * MiB);
    g_assert_cmpint(status_of(f->image).st_size, <,
                    status_of(f->other).st_size);
}

static void test_raw_image_is_sparse(Fixture *f, gconstpointer data)
{
    struct stat st;

    create(f->image, "raw", NULL, 1 * GiB);
    st = status_of(f->image);
    g_assert_cmpint(st.st_size, ==, 1 * GiB);
    g_assert_cmpint(st.st_blocks * 512, <=, 1 * MiB);
}

/* Whoever has the file open, or its name, has the image. */
static void test_image_is_made_in_the_file_that_is_there(Fixture *f,
                                                         gconstpointer data)
{
    struct stat before = status_of(f->image);
    struct stat after;

    create(f->image, "qcow2", NULL, 1 * MiB);
    after = status_of(f->image);
    g_assert_cmpint(after.st_ino, ==, before.st_ino);
    g_assert_cmpint(after.st_mode, ==, before.st_mode);
}

static void test_file_size_limit_is_an_error(Fixture *f, gconstpointer data)
{
    struct rlimit old, limit;
    Error *err = NULL;

    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    limit = (struct rlimit) { .rlim_cur = MiB, .rlim_max = old.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    g_assert_false(snap_create_image(f->image, "raw", NULL, 2 * MiB, &err));
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    error_free_or_abort(&err);
    g_assert_cmpint(status_of(f->image).st_size, <=, 1 * MiB);
}

static unsigned nb_descriptors(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned nb = 0;

    while (g_dir_read_name(dir)) {
        nb++;
    }
    g_dir_close(dir);
    return nb;
}

static void assert_fails(const char *path, const char *format,
                         const char *options)
{
    Error *err = NULL;

    g_assert_false(snap_create_image(path, format, options, 1 * MiB, &err));
    g_assert_true(g_str_has_prefix(error_get_pretty(err), "Could not "));
    error_free(err);
}

static void test_failure_is_an_error_that_says_so(Fixture *f,
                                                  gconstpointer data)
{
    assert_fails(f->image, "no-such-format", NULL);
    assert_fails(f->image, "no-such-format", "cluster_size=64k");
    assert_fails(f->image, "qcow2", "cluster_size=3");
    assert_fails(f->image, "qcow2", "no-such-option=1");
}

/* The image that is copied would end there. */
static void test_no_answer_about_holes_is_an_error(Fixture *f,
                                                   gconstpointer data)
{
    seek_data_errno = EIO;
    assert_fails(f->image, "qcow2", NULL);
    seek_data_errno = 0;
    create(f->image, "qcow2", NULL, 1 * MiB);
}

static void test_missing_file_is_not_made(Fixture *f, gconstpointer data)
{
    g_remove(f->image);
    assert_fails(f->image, "qcow2", NULL);
    g_assert_cmpint(access(f->image, F_OK), <, 0);
}

static void test_nothing_is_left_behind(Fixture *f, gconstpointer data)
{
    unsigned nb = nb_descriptors();

    create(f->image, "qcow2", NULL, 1 * MiB);
    create(f->image, "qcow2", "cluster_size=64k", 1 * MiB);
    assert_fails(f->image, "no-such-format", NULL);
    assert_fails(f->image, "qcow2", "cluster_size=3");
    g_assert_cmpuint(nb_descriptors(), ==, nb);
    g_assert_cmpint(umask(MASK), ==, MASK);
}

/* Options of one image, as name=value; NULL for none */
typedef struct OptionCase {
    const char *name;
    const char *value;
    bool one_file;
} OptionCase;

static const OptionCase option_cases[] = {
    { NULL, NULL, true },
    { "cluster_size", "64k", true },
    { "preallocation", "full", true },
    { "backing_file", "base.qcow2", false },
    { "backing_file", "", false },
    { "data_file", "data.raw", false },
    { "data_file_raw", "on", true },
    { "detached-header", "on", false },
    { "detached-header", "yes", false },
    { "detached-header", "y", false },
    { "detached-header", "true", false },
    { "detached-header", "off", true },
    { "detached-header", "no", true },
    { "detached-header", "false", true },
    { "subformat", "monolithicSparse", true },
    { "subformat", "streamOptimized", true },
    { "subformat", "monolithicFlat", false },
    { "subformat", "twoGbMaxExtentSparse", false },
    { "subformat", "twoGbMaxExtentFlat", false },
};

static void check_option_case(const OptionCase *c)
{
    QDict *options = qdict_new();
    Error *err = NULL;

    qdict_put_str(options, "compat", "1.1");
    if (c->name) {
        qdict_put_str(options, c->name, c->value);
    }
    g_test_message("%s=%s", c->name, c->value);
    g_assert_cmpint(snap_create_check_options(options, &err), ==,
                    c->one_file);
    g_assert_cmpint(!err, ==, c->one_file);
    if (err) {
        g_autofree char *named = g_strdup_printf("'%s=%s'", c->name,
                                                 c->value);

        g_assert_nonnull(strstr(error_get_pretty(err), named));
        error_free(err);
    }
    qobject_unref(options);
}

static void test_options_for_a_second_file_are_refused(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(option_cases); i++) {
        check_option_case(&option_cases[i]);
    }
}

static void add(const char *name, void (*test)(Fixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/snap/create/%s", name);

    g_test_add(path, Fixture, NULL, fixture_set_up, test, fixture_tear_down);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    add("image-is-the-same-with-and-without-options",
        test_image_is_the_same_with_and_without_options);
    add("options-are-heeded", test_options_are_heeded);
    add("raw-image-is-sparse", test_raw_image_is_sparse);
    add("image-is-made-in-the-file-that-is-there",
        test_image_is_made_in_the_file_that_is_there);
    add("file-size-limit-is-an-error", test_file_size_limit_is_an_error);
    add("failure-says-why", test_failure_is_an_error_that_says_so);
    add("no-answer-about-holes-is-an-error",
        test_no_answer_about_holes_is_an_error);
    add("missing-file-is-not-made", test_missing_file_is_not_made);
    add("nothing-is-left-after-a-failure", test_nothing_is_left_behind);
    g_test_add_func("/snap/create/second-file-is-refused",
                    test_options_for_a_second_file_are_refused);
    return g_test_run();
}
