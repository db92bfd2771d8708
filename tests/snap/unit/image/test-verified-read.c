/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of reading all of RAM from an image
 */

#include "qemu/osdep.h"
#include "image-model.h"
#include "image-test.h"

static void coroutine_fn test_read_error(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapRAMWalk) walk = NULL;
    SnapPages pages;
    Error *err = NULL;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    walk = new_walk(image);
    s->disk->fail_reads = true;
    s->disk->fail_ret = -EIO;
    assert_failed(snap_ram_walk_next(walk, &pages, &err), -EIO, &err);
    snap_ram_walk_abort(walk);
    assert_not_complete(s);
}

/* A walk that is given up while reads are in flight */
static void coroutine_fn test_walk_abort(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapRAMWalk) walk = NULL;
    SnapPages pages;

    for (uint64_t page = 0; page < NB_PAGES; page++) {
        send_page(s, page, DATA + page);
    }
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    walk = new_walk(image);
    g_assert_cmpint(snap_ram_walk_next(walk, &pages, &error_abort), ==, 1);
    snap_ram_walk_abort(walk);
    g_assert_cmpuint(s->disk->in_flight, ==, 0);
}

static const ImageTest tests[] = {
    { "error/of-the-disk-is-reported", test_read_error },
    { "abort/waits-for-reads", test_walk_abort },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/verified-read/", tests, run_test);
    return g_test_run();
}
