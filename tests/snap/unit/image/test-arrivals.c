/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the order in which pages arrived, as the RAM writer records it
 */

#include "qemu/osdep.h"
#include "image-model.h"
#include "image-test.h"

static void coroutine_fn test_no_arrival_list(Snapshot *s)
{
    bool truncated;

    snap_ram_writer_free(s->ram);
    s->ram = snap_ram_writer_new(s->blk, &s->layout,
                                 snap_image_writer_page_table(s->image), NULL,
                                 &error_abort);
    for (uint64_t i = 0; i < 100; i++) {
        send_page(s, i * 1031 % NB_PAGES, i % 2 ? DATA : ZERO);
    }
    g_assert_cmpuint(snap_ram_writer_arrivals(s->ram, &truncated), ==, 0);
    g_assert_false(truncated);
    commit(s);
    assert_snapshot(s);
}

/* The last entry of the arrival list of a snapshot that is complete. */
static uint64_t coroutine_fn last_arrival(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(SnapTable) arrivals = snap_image_arrivals(image, 1);
    uint64_t page = 0;

    snap_table_get(arrivals, image->header.nb_arrivals - 1, &page,
                   &error_abort);
    return page;
}

static void coroutine_fn test_no_arrivals_in_order(Snapshot *s)
{
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        send_page(s, page, ZERO);
    }
    g_assert_cmpuint(nb_arrivals(s), ==, 0);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_jump_is_arrival(Snapshot *s)
{
    send_page(s, 0, DATA);
    send_page(s, 1, DATA);
    send_page(s, 100, DATA);
    g_assert_cmpuint(nb_arrivals(s), ==, 1);
    commit(s);
    assert_snapshot(s);
    g_assert_cmpuint(last_arrival(s), ==, 100);
}

/* The source continues after the page that it jumped to. */
static void coroutine_fn test_order_continues_after_jump(Snapshot *s)
{
    send_page(s, 0, ZERO);
    send_page(s, 100, ZERO);
    send_page(s, 101, ZERO);
    send_page(s, 102, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 1);
}

/* Pages that came before are left out, and that is no jump. */
static void coroutine_fn test_order_skips_what_came(Snapshot *s)
{
    send_page(s, 10, ZERO);
    send_page(s, 9, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 2);
    send_page(s, 11, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 2);
}

/* From the end of RAM the source goes on with what is left. */
static void coroutine_fn test_order_wraps(Snapshot *s)
{
    send_page(s, 0, ZERO);
    send_page(s, NB_PAGES - 1, ZERO);
    send_page(s, 1, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 1);
}

static void coroutine_fn test_order_wraps_over_what_came(Snapshot *s)
{
    send_page(s, 0, ZERO);
    send_page(s, NB_PAGES - 1, ZERO);
    send_page(s, NB_PAGES - 2, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 2);
    send_page(s, 1, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 2);
}

static void coroutine_fn test_repeated_is_no_arrival(Snapshot *s)
{
    for (uint64_t page = 0; page < 10; page++) {
        send_page(s, page, ZERO);
    }
    send_page(s, 3, ZERO);
    g_assert_cmpuint(nb_arrivals(s), ==, 0);
}

static void coroutine_fn test_most_arrivals(Snapshot *s)
{
    bool truncated;

    for (uint64_t i = 0; i < SNAP_MAX_ARRIVALS; i++) {
        send_page(s, 2 * i + 1, ZERO);
    }
    g_assert_cmpuint(snap_ram_writer_arrivals(s->ram, &truncated), ==,
                     SNAP_MAX_ARRIVALS);
    g_assert_false(truncated);
    commit(s);
    assert_sound(s);
    g_assert_cmpuint(last_arrival(s), ==, 2 * SNAP_MAX_ARRIVALS - 1);
}

static void coroutine_fn test_too_many_arrivals(Snapshot *s)
{
    bool truncated;

    for (uint64_t i = 0; i <= SNAP_MAX_ARRIVALS; i++) {
        send_page(s, 2 * i + 1, ZERO);
    }
    g_assert_cmpuint(snap_ram_writer_arrivals(s->ram, &truncated), ==,
                     SNAP_MAX_ARRIVALS);
    g_assert_true(truncated);
    commit(s);
    assert_sound(s);
    g_assert_cmpuint(last_arrival(s), ==, 2 * SNAP_MAX_ARRIVALS - 1);
}

static const ImageTest tests[] = {
    { "none-is-recorded-without-a-table", test_no_arrival_list },
    { "pages-in-order-are-none", test_no_arrivals_in_order },
    { "jump-is-one", test_jump_is_arrival },
    { "order-continues-after-a-jump", test_order_continues_after_jump },
    { "order-skips-pages-that-came", test_order_skips_what_came },
    { "order-continues-at-the-start-of-ram", test_order_wraps },
    { "order-continues-at-the-start-with-what-is-left",
      test_order_wraps_over_what_came },
    { "repeated-page-is-none", test_repeated_is_no_arrival },
    { "as-many-as-fit-are-recorded",
      test_most_arrivals, "raw", .page_bits = 10, .many_pages = true },
    { "list-is-truncated-if-there-are-too-many",
      test_too_many_arrivals, "raw", .page_bits = 10, .many_pages = true },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/arrivals/", tests, run_test);
    return g_test_run();
}
