/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what is noted of a destination
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/postcopy/load-record.h"

static void test_store_and_read(void)
{
    g_autofree char *dir = g_dir_make_tmp("snap-record-XXXXXX", NULL);
    const SnapPeer peer = { .pid = getpid(), .start_time = 7 };
    const SnapPeer other = { .pid = getpid(), .start_time = 8 };
    QemuUUID one, two, read;
    Error *err = NULL;

    qemu_uuid_generate(&one);
    qemu_uuid_generate(&two);
    g_assert_false(snap_load_record_read(dir, &peer, &read, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "no record of it was kept");
    error_free_or_abort(&err);

    g_assert_true(snap_load_record_store(dir, &peer, &one, &error_abort));
    g_assert_true(snap_load_record_read(dir, &peer, &read, &error_abort));
    g_assert_true(qemu_uuid_is_equal(&read, &one));
    g_assert_false(snap_load_record_read(dir, &other, &read, NULL));

    g_assert_true(snap_load_record_store(dir, &peer, &two, &error_abort));
    g_assert_true(snap_load_record_read(dir, &peer, &read, &error_abort));
    g_assert_true(qemu_uuid_is_equal(&read, &two));

    /* That process has gone, as its start time says. */
    g_assert_true(snap_load_record_store(dir, &other, &one, &error_abort));
    g_assert_false(snap_load_record_read(dir, &peer, &read, NULL));
    snap_load_record_remove(dir, &other);
    snap_load_record_remove(dir, &other);
    /* Nothing is left, no temporary either. */
    g_assert_cmpint(rmdir(dir), ==, 0);
    g_assert_false(snap_load_record_store(dir, &peer, &one, &err));
    error_free_or_abort(&err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snap/load-record/is-read-back", test_store_and_read);
    return g_test_run();
}
