/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of walking through RAM, whatever has it
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "snap/ram/walk.h"
#include "memory-source.h"
#include "snap-coroutine.h"
#include "some-ram.h"
#include "test-table.h"

#define PIECE_SIZE  (64 * KiB)
#define PIECE_PAGES (PIECE_SIZE / PAGE)

/**
 * Walk: RAM in memory, and a walk through it
 * @entries: what each page is; pages of all kinds
 * @ranges: the plan, up to one without pages; then @plan_ret is returned
 */
typedef struct Walk {
    SnapRAMBlocks ram;
    uint64_t entries[NB_PAGES];
    MemorySource memory;
    SnapRAMWalk *walk;
    const SnapPageRange *ranges;
    int plan_ret;
} Walk;

typedef struct WalkTest {
    const char *path;
    void coroutine_fn (*fn)(Walk *w);
} WalkTest;

static void walk_all(Walk *w)
{
    w->walk = snap_ram_walk_new(&w->memory.source, PIECE_SIZE, NULL, NULL);
}

static int coroutine_fn follow_ranges(void *opaque, SnapPageRange *range,
                                      Error **errp)
{
    Walk *w = opaque;

    if (w->ranges->count) {
        *range = *w->ranges++;
        return 1;
    }
    if (w->plan_ret < 0) {
        error_setg(errp, "The plan has failed");
    }
    return w->plan_ret;
}

static void walk_ranges(Walk *w, const SnapPageRange *ranges)
{
    w->ranges = ranges;
    w->walk = snap_ram_walk_new(&w->memory.source, PIECE_SIZE, follow_ranges,
                                w);
}

/* The next piece is these pages, with what they have. */
static void coroutine_fn check_next(Walk *w, uint64_t first, uint64_t count)
{
    SnapPages pages;

    g_assert_cmpint(snap_ram_walk_next(w->walk, &pages, &error_abort), ==, 1);
    g_assert_cmpuint(pages.range.first, ==, first);
    g_assert_cmpuint(pages.range.count, ==, count);
    assert_memory(&w->memory, &pages);
}

static void coroutine_fn check_end(Walk *w)
{
    SnapPages pages;

    g_assert_cmpint(snap_ram_walk_next(w->walk, &pages, &error_abort), ==, 0);
}

/* Each block begins a piece, and ends one. */
static void coroutine_fn test_all_of_ram_comes_in_order(Walk *w)
{
    walk_all(w);
    for (int i = 0; i < NB_BLOCKS; i++) {
        uint64_t end = snap_ram_block_end(&w->ram, &w->ram.blocks[i]);

        for (uint64_t page = w->ram.blocks[i].first_page; page < end;
             page += PIECE_PAGES) {
            check_next(w, page, MIN(end - page, PIECE_PAGES));
        }
    }
    check_end(w);
    check_end(w);
}

static void coroutine_fn test_plan_is_followed(Walk *w)
{
    static const SnapPageRange ranges[] = {
        { ROM_FIRST, 3 }, { VGA_FIRST, 1 }, { RAM_FIRST + 16, 16 }, { },
    };

    walk_ranges(w, ranges);
    check_next(w, ROM_FIRST, 3);
    check_next(w, VGA_FIRST, 1);
    check_next(w, RAM_FIRST + 16, 16);
    check_end(w);
}

/* So that requests to storage are aligned, too */
static void coroutine_fn test_pieces_are_aligned_in_their_block(Walk *w)
{
    static const SnapPageRange ranges[] = { { RAM_FIRST + 5, 40 }, { } };

    walk_ranges(w, ranges);
    check_next(w, RAM_FIRST + 5, 11);
    check_next(w, RAM_FIRST + 16, 16);
    check_next(w, RAM_FIRST + 32, 13);
    check_end(w);
}

static void coroutine_fn test_first_piece_waits_for_few_reads(Walk *w)
{
    walk_all(w);
    check_next(w, 0, PIECE_PAGES);
    g_assert_cmpuint(w->memory.nb_started, ==, 2);
}

static void coroutine_fn test_reads_ahead_as_far_as_it_may(Walk *w)
{
    walk_all(w);
    for (unsigned i = 0; i < 60; i++) {
        SnapPages pages;

        g_assert_cmpint(snap_ram_walk_next(w->walk, &pages, &error_abort), ==,
                        1);
    }
    g_assert_cmpuint(w->memory.in_flight, ==, SNAP_RAM_WALK_AHEAD - 2);
    g_assert_cmpuint(w->memory.max_held, <=, SNAP_RAM_WALK_AHEAD);
}

static void coroutine_fn test_goes_on_after_damaged_page(Walk *w)
{
    SnapPages pages;
    Error *err = NULL;

    w->memory.bad_page = PIECE_PAGES + 3;
    walk_all(w);
    check_next(w, 0, PIECE_PAGES);
    g_assert_cmpuint(snap_ram_walk_corrupt_pages(w->walk), ==, 0);
    assert_failed(snap_ram_walk_next(w->walk, &pages, &err), -EBADMSG, &err);
    g_assert_cmpuint(snap_ram_walk_corrupt_pages(w->walk), ==, 1);
    check_next(w, 2 * PIECE_PAGES, PIECE_PAGES);
    g_assert_cmpuint(snap_ram_walk_corrupt_pages(w->walk), ==, 0);
}

/* What is known of pages is missing: this is not about pages. */
static void coroutine_fn test_failed_lookup_is_reported(Walk *w)
{
    SnapPages pages;
    Error *err = NULL;

    w->memory.unknown_page = PIECE_PAGES;
    walk_all(w);
    assert_failed(snap_ram_walk_next(w->walk, &pages, &err), -EIO, &err);
    g_assert_cmpuint(snap_ram_walk_corrupt_pages(w->walk), ==, 0);
}

static void coroutine_fn test_failed_plan_is_reported(Walk *w)
{
    static const SnapPageRange ranges[] = { { 0, 1 }, { } };
    SnapPages pages;
    Error *err = NULL;

    w->plan_ret = -EINVAL;
    walk_ranges(w, ranges);
    assert_failed(snap_ram_walk_next(w->walk, &pages, &err), -EINVAL, &err);
}

static void coroutine_fn test_empty_plan_ends_at_once(Walk *w)
{
    static const SnapPageRange ranges[] = { { } };

    walk_ranges(w, ranges);
    check_end(w);
    g_assert_cmpuint(w->memory.nb_started, ==, 0);
}

static void coroutine_fn test_abort_waits_for_reads(Walk *w)
{
    walk_all(w);
    check_next(w, 0, PIECE_PAGES);
    g_assert_cmpuint(w->memory.in_flight, >, 0);
    snap_ram_walk_abort(w->walk);
    g_assert_cmpuint(w->memory.in_flight, ==, 0);
}

static const WalkTest tests[] = {
    { "all-of-ram-comes-in-order", test_all_of_ram_comes_in_order },
    { "plan-is-followed", test_plan_is_followed },
    { "plan-that-is-empty-ends-at-once", test_empty_plan_ends_at_once },
    { "pieces-are-aligned-in-their-block",
      test_pieces_are_aligned_in_their_block },
    { "first-piece-waits-for-few-reads", test_first_piece_waits_for_few_reads },
    { "reads-ahead-as-far-as-it-may", test_reads_ahead_as_far_as_it_may },
    { "goes-on-after-damaged-page", test_goes_on_after_damaged_page },
    { "failed-lookup-is-reported", test_failed_lookup_is_reported },
    { "failed-plan-is-reported", test_failed_plan_is_reported },
    { "abort-waits-for-reads", test_abort_waits_for_reads },
};

typedef struct TestRun {
    const WalkTest *test;
    Walk walk;
} TestRun;

/* All that was read is given back, whatever a test has left. */
static void coroutine_fn call_walk_test(void *opaque)
{
    TestRun *run = opaque;
    Walk *w = &run->walk;

    run->test->fn(w);
    snap_ram_walk_abort(w->walk);
    snap_ram_walk_free(w->walk);
    g_assert_cmpuint(w->memory.nb_held, ==, 0);
    g_assert_cmpuint(w->memory.nb_readers, ==, 0);
}

static void run_test(gconstpointer data)
{
    g_autofree TestRun *run = g_new0(TestRun, 1);
    Walk *w = &run->walk;

    run->test = data;
    some_ram_blocks_init(&w->ram);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        w->entries[page] = page % 7 < 2 ? page % 7 : 1000 + page;
    }
    memory_source_init(&w->memory, &w->ram, w->entries);
    run_in_coroutine(call_walk_test, run);
    snap_ram_blocks_destroy(&w->ram);
}

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/walk/", tests, run_test);
    return g_test_run();
}
