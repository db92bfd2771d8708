/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the RAM writer, with one page after another
 */

#include "qemu/osdep.h"
#include "image-model.h"
#include "image-test.h"

static void coroutine_fn test_empty(Snapshot *s)
{
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_in_order(Snapshot *s)
{
    for (uint64_t page = 0; page < s->blocks.nb_pages; page++) {
        send_page(s, page, page % 5 ? DATA + page : ZERO);
    }
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_random_order(Snapshot *s)
{
    /* 1031 is a prime that does not divide the number of pages. */
    for (uint64_t i = 0; i < NB_PAGES; i++) {
        send_page(s, i * 1031 % NB_PAGES, i % 7 ? DATA + i : ZERO);
    }
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, 0);
    g_assert_false(snap_ram_writer_repeated(s->ram));
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_first_and_last_page_of_blocks(Snapshot *s)
{
    for (unsigned i = 0; i < s->blocks.nb_blocks; i++) {
        const SnapRAMBlock *block = &s->blocks.blocks[i];
        uint64_t nb = snap_ram_block_pages(&s->blocks, block);

        send_page(s, block->first_page + nb - 1, DATA + i);
        send_page(s, block->first_page, DATA + 10 + i);
    }
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_last_one_wins(Snapshot *s)
{
    for (unsigned round = 0; round < 20; round++) {
        for (uint64_t page = 0; page < NB_PAGES; page += 100) {
            send_page(s, page, DATA + page + round);
        }
    }
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_becomes_zero(Snapshot *s)
{
    for (uint64_t page = 10; page < 20; page++) {
        send_page(s, page, DATA + page);
    }
    send_page(s, 15, ZERO);
    commit(s);
    assert_snapshot(s);
    assert_reads_as_zero(s, 15);
}

static void coroutine_fn test_becomes_zero_after_flush(Snapshot *s)
{
    for (uint64_t page = 10; page < 20; page++) {
        send_page(s, page, DATA + page);
    }
    snap_ram_writer_flush(s->ram, &error_abort);
    send_page(s, 15, ZERO);
    commit(s);
    assert_snapshot(s);
    assert_reads_as_zero(s, 15);
}

static void coroutine_fn test_data_again_after_zero(Snapshot *s)
{
    send_page(s, 15, DATA);
    snap_ram_writer_flush(s->ram, &error_abort);
    send_page(s, 15, ZERO);
    snap_ram_writer_flush(s->ram, &error_abort);
    send_page(s, 15, DATA + 2);
    commit(s);
    assert_snapshot(s);
}

/* Later writes to the same cluster keep what is there. */
static void coroutine_fn test_neighbours_come_later(Snapshot *s)
{
    for (uint64_t page = 32; page < 48; page++) {
        send_page(s, page ^ 5, DATA + page);
        snap_ram_writer_flush(s->ram, &error_abort);
    }
    commit(s);
    assert_snapshot(s);
}

/* A page full of zeroes that comes with data is a zero page. */
static void coroutine_fn test_data_of_zeroes(Snapshot *s)
{
    unsigned nb_pages = 1;

    memset(snap_ram_writer_reserve(s->ram, 3, &nb_pages), 0,
           snap_ram_page_size(&s->blocks));
    snap_ram_writer_commit(s->ram, 3, nb_pages, &error_abort);
    s->model[3] = ZERO;
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_never_sent(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 7, ZERO);
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, NB_PAGES - 2);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_repeated(Snapshot *s)
{
    send_page(s, 5, DATA);
    g_assert_false(snap_ram_writer_repeated(s->ram));
    send_page(s, 5, DATA);
    g_assert_true(snap_ram_writer_repeated(s->ram));
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, NB_PAGES - 1);
    snap_ram_writer_abort(s->ram);
}

static void coroutine_fn test_repeated_zero(Snapshot *s)
{
    send_page(s, 5, ZERO);
    send_page(s, 5, ZERO);
    g_assert_true(snap_ram_writer_repeated(s->ram));
    snap_ram_writer_abort(s->ram);
}

static void coroutine_fn test_counts(Snapshot *s)
{
    g_autofree SnapPageCounts *counts = NULL;

    send_page(s, 0, DATA);
    send_page(s, 1, ZERO);
    send_page(s, 1, DATA);
    send_page(s, 2, DATA);
    send_page(s, 2, ZERO);
    counts = snap_ram_writer_counts(s->ram);
    assert_counts(s, counts);
    snap_ram_writer_abort(s->ram);
}

/* Streaks of pages with jumps, pages that repeat and change what they are. */
static void coroutine_fn test_random(Snapshot *s)
{
    GRand *rand = g_rand_new_with_seed(20260105);
    uint64_t nb_ops = MIN(64 * MiB >> s->blocks.page_bits, 8000);
    uint64_t page = 0;

    for (uint64_t op = 0; op < nb_ops; op++) {
        bool jump = g_rand_int_range(rand, 0, 8) == 0;

        page = jump ? g_rand_int_range(rand, 0, NB_PAGES) :
                      (page + 1) % NB_PAGES;
        send_page(s, page, g_rand_int_range(rand, 0, 4) ? DATA + op : ZERO);
        if (op % 1501 == 1500) {
            snap_ram_writer_flush(s->ram, &error_abort);
        }
    }
    commit(s);
    assert_snapshot(s);
    for (page = 0; page < NB_PAGES; page++) {
        if (s->model[page] == ZERO) {
            assert_reads_as_zero(s, page);
        }
    }
    g_rand_free(rand);
}

/* A disk that was used before keeps what is not written. */
static void coroutine_fn test_over_old_data(Snapshot *s)
{
    memset(s->disk->bytes, 0xee, SLOW_DISK_SIZE);
    snap_image_writer_invalidate(s->image, &error_abort);
    assert_not_complete(s);
    for (uint64_t i = 0; i < NB_PAGES; i += 2) {
        uint64_t page = i * 1031 % NB_PAGES;

        send_page(s, page, i % 3 ? DATA + i : ZERO);
    }
    send_devices(s, 1000, 1000);
    commit(s);
    assert_snapshot(s);
}

/* More RAM may follow a flush. */
static void coroutine_fn test_after_flush(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 6, ZERO);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_flush_ram(s->image, 0, &error_abort);
    send_page(s, 5, DATA + 1);
    send_page(s, 6, DATA + 2);
    send_page(s, 2000, DATA + 3);
    commit(s);
    assert_snapshot(s);
}

/* Every step reports an error of RAM's writes that was before. */
static void coroutine_fn test_ram_error_sticks(Snapshot *s)
{
    Error *err = NULL;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    try_send(s, 5, DATA, &error_abort);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    s->disk->fail_ret = 0;
    assert_failed(try_send(s, 6, DATA, &err), -ENOSPC, &err);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
}

static void coroutine_fn test_ram_error_at_zero_page(Snapshot *s)
{
    Error *err = NULL;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    try_send(s, 5, DATA, &error_abort);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    assert_failed(try_send(s, 6, ZERO, &err), -ENOSPC, &err);
}

static void coroutine_fn test_error_from_file(Snapshot *s)
{
    Error *err = NULL;

    send_page(s, 5, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
}

static void coroutine_fn test_writer_abort(Snapshot *s)
{
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        send_page(s, page, DATA + page);
    }
    snap_ram_writer_abort(s->ram);
    g_assert_cmpuint(s->disk->in_flight, ==, 0);
}

static const ImageTest tests[] = {
    { "ram-may-have-no-pages", test_empty },
    { "pages-in-order-are-stored/qcow2", test_in_order, "qcow2" },
    { "pages-in-order-are-stored/raw", test_in_order, "raw" },
    { "pages-in-random-order-are-stored/qcow2", test_random_order, "qcow2" },
    { "pages-in-random-order-are-stored/raw", test_random_order, "raw" },
    { "first-and-last-page-of-each-block-are-stored",
      test_first_and_last_page_of_blocks },
    { "last-page-wins", test_last_one_wins },
    { "zero-page-replaces-data", test_becomes_zero },
    { "zero-page-replaces-data-that-was-written",
      test_becomes_zero_after_flush },
    { "zero-page-replaces-data-that-was-written/qcow2",
      test_becomes_zero_after_flush, "qcow2" },
    { "data-replaces-a-zero-page", test_data_again_after_zero },
    { "neighbours-that-come-later-keep-what-is-there",
      test_neighbours_come_later },
    { "neighbours-that-come-later-keep-what-is-there/qcow2",
      test_neighbours_come_later, "qcow2" },
    { "data-of-zeroes-is-a-zero-page", test_data_of_zeroes },
    { "pages-never-sent-are-missing", test_never_sent },
    { "old-data-of-the-disk-does-not-show", test_over_old_data },
    { "pages-may-follow-a-flush", test_after_flush },
    { "repeated-page-is-noticed", test_repeated },
    { "repeated-zero-page-is-noticed", test_repeated_zero },
    { "pages-are-counted-by-what-they-became", test_counts },
    { "random-pages-are-stored", test_random },
    { "random-pages-are-stored/raw", test_random, "raw" },
    { "random-pages-are-stored/qcow2", test_random, "qcow2" },
    { "random-pages-are-stored/qcow2/subclusters",
      test_random, "qcow2", "cluster_size=128k,extended_l2=on" },
    { "random-pages-are-stored/qcow2/large-clusters",
      test_random, "qcow2", "cluster_size=2M" },
    { "random-pages-are-stored/qcow2/small-clusters",
      test_random, "qcow2", "cluster_size=512" },
    { "random-pages-are-stored/1k-pages", test_random, "qcow2", NULL, 10 },
    { "random-pages-are-stored/64k-pages", test_random, "qcow2", NULL, 16 },
    { "error/first-one-stays", test_ram_error_sticks },
    { "error/earlier-one-is-reported-at-a-zero-page",
      test_ram_error_at_zero_page },
    { "error/of-the-file-is-reported",
      test_error_from_file, "raw", .fails = true },
    { "abort/waits-for-writes", test_writer_abort },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/ram-writer/", tests, run_test);
    return g_test_run();
}
