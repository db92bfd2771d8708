/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of pages that are read ahead
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qemu/main-loop.h"
#include "snap/postcopy/prefetch.h"
#include "saved-ram-test.h"

#define WORKING_SET (1u << SNAP_PUSH_WORKING_SET)
#define LINEAR      (1u << SNAP_PUSH_LINEAR)

/**
 * Ahead: a prefetch that is followed
 * @nb_ready: how often something was said to be ready
 * @sleep: until then
 */
typedef struct Ahead {
    SavedRAM *saved;
    SnapPushPlan *plan;
    SnapPrefetch *prefetch;
    unsigned nb_ready;
    QemuCoSleep sleep;
} Ahead;

static void ready(void *opaque)
{
    Ahead *ahead = opaque;

    ahead->nb_ready++;
    qemu_co_sleep_wake(&ahead->sleep);
}

static void coroutine_fn begin(Ahead *ahead, SavedRAM *saved,
                               unsigned reasons)
{
    saved_ram_send_pages(saved);
    saved_ram_commit(saved, NULL, 0);
    *ahead = (Ahead) { .saved = saved };
    ahead->plan = snap_push_plan_new(saved->image, &saved->image->source,
                                     &saved->ram.map, reasons);
    ahead->prefetch = snap_prefetch_new(&saved->image->source, &saved->ram.map,
                                        ahead->plan, ready, ahead);
}

/* Wait until something was said to be ready @nb times. */
static void coroutine_fn await_ready(Ahead *ahead, unsigned nb)
{
    while (ahead->nb_ready < nb) {
        qemu_co_sleep(&ahead->sleep);
    }
}

/* The next piece; NULL if there are no more */
static SnapPushItem *coroutine_fn next_piece(Ahead *ahead)
{
    SnapPushItem *next;

    while (!(next = snap_prefetch_peek(ahead->prefetch)) &&
           snap_prefetch_is_running(ahead->prefetch)) {
        qemu_co_sleep(&ahead->sleep);
    }
    return next;
}

static void coroutine_fn end(Ahead *ahead)
{
    snap_prefetch_stop(ahead->prefetch);
    while (snap_prefetch_is_running(ahead->prefetch)) {
        qemu_co_sleep(&ahead->sleep);
    }
    snap_prefetch_free(ahead->prefetch);
    snap_push_plan_free(ahead->plan);
}

/* Deal with all of a piece, as who sends it does. */
static void take(Ahead *ahead, SnapPushItem *next)
{
    next->pos = next->pages.range.count;
    snap_prefetch_advance(ahead->prefetch);
}

/* Take all pieces; @seen counts how often each page was in one. */
static void coroutine_fn take_all(Ahead *ahead, unsigned seen[NB_PAGES])
{
    SnapPushItem *next;

    while ((next = next_piece(ahead))) {
        uint64_t first = next->pages.range.first;

        g_assert_cmpuint(next->pos, ==, 0);
        assert_pages(&ahead->saved->snapshot, &next->pages);
        for (unsigned i = 0; i < next->pages.range.count; i++) {
            seen[first + i]++;
        }
        take(ahead, next);
    }
    g_assert_cmpint(snap_prefetch_status(ahead->prefetch, &error_abort), ==,
                    0);
}

static void coroutine_fn test_each_page_with_data_comes_once(SavedRAM *saved)
{
    g_autofree unsigned *seen = g_new0(unsigned, NB_PAGES);
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    snap_prefetch_start(ahead.prefetch);
    take_all(&ahead, seen);
    for (unsigned i = 0; i < NB_PAGES; i++) {
        if (saved->snapshot.model[i] >= DATA) {
            g_assert_cmpuint(seen[i], ==, 1);
        } else {
            g_assert_cmpuint(seen[i], <=, 1);
        }
    }
    end(&ahead);
}

static void coroutine_fn test_pieces_without_data_are_left_out(SavedRAM *saved)
{
    SnapPushItem *next;
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    snap_prefetch_start(ahead.prefetch);
    while ((next = next_piece(&ahead))) {
        g_assert_nonnull(next->pages.data);
        take(&ahead, next);
    }
    end(&ahead);
}

/* The last large host page has data at its end only. */
static void coroutine_fn test_large_host_page_comes_whole(SavedRAM *saved)
{
    g_autofree unsigned *seen = g_new0(unsigned, NB_PAGES);
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    snap_prefetch_start(ahead.prefetch);
    take_all(&ahead, seen);
    for (unsigned i = ROM_FIRST - HUGE_PAGES; i < ROM_FIRST; i++) {
        g_assert_cmpuint(seen[i], ==, 1);
    }
    end(&ahead);
}

/* They were requested before, so zeroes are sent as well. */
static void coroutine_fn test_zero_page_of_working_set_comes(SavedRAM *saved)
{
    const uint64_t page = RAM_FIRST + HUGE_PAGES + 7;
    SnapPushItem *next;
    Ahead ahead;

    begin(&ahead, saved, WORKING_SET);
    g_assert_cmpuint(saved->snapshot.model[page], ==, ZERO);
    snap_push_plan_set_working_set(ahead.plan, &page, 1);
    snap_prefetch_start(ahead.prefetch);
    next = next_piece(&ahead);
    g_assert_nonnull(next);
    g_assert_cmpuint(next->pages.range.first, ==, page);
    g_assert_cmpuint(next->pages.range.count, ==, 1);
    g_assert_null(next->pages.data);
    take(&ahead, next);
    g_assert_null(next_piece(&ahead));
    end(&ahead);
}

static void coroutine_fn test_piece_stays_until_all_of_it_is_taken(
    SavedRAM *saved)
{
    SnapPushItem *next;
    uint64_t first;
    unsigned nb_pages;
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    g_assert_null(snap_prefetch_peek(ahead.prefetch));
    g_assert_cmpint(snap_prefetch_status(ahead.prefetch, &error_abort), ==, 1);
    snap_prefetch_start(ahead.prefetch);
    next = next_piece(&ahead);
    first = next->pages.range.first;
    nb_pages = next->pages.range.count;
    g_assert_cmpuint(nb_pages, >, 1);
    for (unsigned pos = 1; pos < nb_pages; pos++) {
        next->pos = pos;
        snap_prefetch_advance(ahead.prefetch);
        g_assert_true(snap_prefetch_peek(ahead.prefetch) == next);
        g_assert_cmpuint(next->pos, ==, pos);
        g_assert_cmpuint(next->pages.range.first, ==, first);
    }
    g_assert_cmpuint(ahead.nb_ready, ==, 1);
    take(&ahead, next);
    next = next_piece(&ahead);
    g_assert_cmpuint(next->pages.range.first, ==, first + nb_pages);
    end(&ahead);
}

/* The error is handed over, the status stays. */
static void coroutine_fn test_failed_read_is_told_once(SavedRAM *saved)
{
    SlowDisk *disk = saved->snapshot.disk;
    Error *err = NULL;
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    disk->fail_reads = true;
    disk->fail_ret = -EIO;
    snap_prefetch_start(ahead.prefetch);
    g_assert_null(next_piece(&ahead));
    g_assert_cmpuint(ahead.nb_ready, ==, 1);
    assert_failed(snap_prefetch_status(ahead.prefetch, &err), -EIO, &err);
    g_assert_cmpint(snap_prefetch_status(ahead.prefetch, &err), ==, -EIO);
    g_assert_null(err);
    disk->fail_reads = false;
    end(&ahead);
}

static void coroutine_fn test_stopped_while_a_piece_is_ready(SavedRAM *saved)
{
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    snap_prefetch_start(ahead.prefetch);
    g_assert_nonnull(next_piece(&ahead));
    g_assert_true(snap_prefetch_is_running(ahead.prefetch));
    snap_prefetch_stop(ahead.prefetch);
    await_ready(&ahead, 2);
    g_assert_false(snap_prefetch_is_running(ahead.prefetch));
    end(&ahead);
}

static void coroutine_fn test_stopped_while_reading(SavedRAM *saved)
{
    Ahead ahead;

    begin(&ahead, saved, LINEAR);
    snap_prefetch_start(ahead.prefetch);
    g_assert_cmpuint(ahead.nb_ready, ==, 0);
    g_assert_true(snap_prefetch_is_running(ahead.prefetch));
    snap_prefetch_stop(ahead.prefetch);
    while (snap_prefetch_is_running(ahead.prefetch)) {
        qemu_co_sleep(&ahead.sleep);
    }
    g_assert_cmpuint(saved->snapshot.disk->in_flight, ==, 0);
    end(&ahead);
}

static const SavedRAMTest tests[] = {
    { "each-page-with-data-comes-once", test_each_page_with_data_comes_once },
    { "each-page-with-data-comes-once/huge",
      test_each_page_with_data_comes_once, HUGE_BITS },
    { "pieces-without-data-are-left-out",
      test_pieces_without_data_are_left_out },
    { "large-host-page-comes-whole",
      test_large_host_page_comes_whole, HUGE_BITS },
    { "zero-page-of-the-working-set-comes",
      test_zero_page_of_working_set_comes },
    { "piece-stays-until-all-of-it-is-taken",
      test_piece_stays_until_all_of_it_is_taken },
    { "failed-read-is-reported-once", test_failed_read_is_told_once },
    { "may-be-stopped-while-a-piece-is-ready",
      test_stopped_while_a_piece_is_ready },
    { "may-be-stopped-while-reading", test_stopped_while_reading },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/prefetch/", tests, run_saved_ram_test);
    return g_test_run();
}
