/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the order in which pages are pushed
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qemu/main-loop.h"
#include "snap/postcopy/push-plan.h"
#include "saved-ram-test.h"

#define NB_ROUNDS   20
#define NB_HINTS    400

#define WORKING_SET (1u << SNAP_PUSH_WORKING_SET)
#define ARRIVALS    (1u << SNAP_PUSH_ARRIVALS)
#define LINEAR      (1u << SNAP_PUSH_LINEAR)
#define ALL         (WORKING_SET | ARRIVALS | LINEAR)

/**
 * Walk: a plan that is followed
 * @log: ranges as text, such as "w1+5:3 " for three pages at page 5 of block 1
 *       from the working set; ranges of the linear part that meet are one
 * @last, @last_reason, @last_start: the range before, and where in the log it
 *                                   begins
 * @visits: how often each page was in a range
 */
typedef struct Walk {
    SavedRAM *saved;
    SnapPushPlan *plan;
    GString *log;
    SnapPageRange last;
    SnapPushReason last_reason;
    size_t last_start;
    unsigned *visits;
} Walk;

static void walk_begin(Walk *walk, SavedRAM *saved, unsigned reasons)
{
    *walk = (Walk) {
        .saved = saved,
        .plan = snap_push_plan_new(saved->image, &saved->image->source,
                                   &saved->ram.map, reasons),
        .log = g_string_new(""),
        .visits = g_new0(unsigned, NB_PAGES),
    };
}

static void walk_end(Walk *walk)
{
    snap_push_plan_free(walk->plan);
    g_string_free(walk->log, true);
    g_free(walk->visits);
}

static int block_of(const Walk *walk, uint64_t page)
{
    const SnapRAMBlocks *ram = &walk->saved->ram.ram;

    return snap_ram_block_of(ram, page) - ram->blocks;
}

/* A range is whole host pages within one block. */
static void check_range(const Walk *walk, const SnapPageRange *range)
{
    const SomeRAM *ram = &walk->saved->ram;
    const SnapRAMBlock *block;
    uint64_t targets;

    g_assert_cmpuint(range->first, <, NB_PAGES);
    g_assert_cmpuint(range->count, >, 0);
    block = snap_ram_block_of(&ram->ram, range->first);
    targets = snap_host_pages_count(&ram->host_pages,
                                    block - ram->ram.blocks);
    g_assert_cmpuint(range->count, <=,
                     snap_ram_block_end(&ram->ram, block) - range->first);
    g_assert_cmpuint((range->first - block->first_page) % targets, ==, 0);
    g_assert_cmpuint(range->count % targets, ==, 0);
}

static void log_range(Walk *walk, const SnapPageRange *range,
                      SnapPushReason reason)
{
    static const char letters[] = {
        [SNAP_PUSH_WORKING_SET] = 'w',
        [SNAP_PUSH_ARRIVALS] = 'a',
        [SNAP_PUSH_LINEAR] = 'l',
    };
    int block = block_of(walk, range->first);
    SnapPageRange whole = *range;

    if (reason == SNAP_PUSH_LINEAR && walk->last_reason == reason &&
        block_of(walk, walk->last.first) == block &&
        walk->last.first + walk->last.count == range->first) {
        whole.first = walk->last.first;
        whole.count += walk->last.count;
        g_string_truncate(walk->log, walk->last_start);
    }
    walk->last_start = walk->log->len;
    g_string_append_printf(walk->log, "%c%d+%" PRIu64 ":%" PRIu64 " ",
                           letters[reason], block, whole.first -
                           walk->saved->ram.ram.blocks[block].first_page,
                           whole.count);
    walk->last = whole;
    walk->last_reason = reason;
}

/* Take the next range, as who sends it does. */
static bool coroutine_fn walk_next(Walk *walk)
{
    SomeRAM *ram = &walk->saved->ram;
    SnapPageRange range = { };
    SnapPushReason reason = SNAP_PUSH__MAX;
    int ret = snap_push_plan_next(walk->plan, &range, &reason, &error_abort);

    if (!ret) {
        return false;
    }
    g_assert_cmpint(ret, ==, 1);
    check_range(walk, &range);
    log_range(walk, &range, reason);
    for (uint64_t i = 0; i < range.count; i++) {
        g_assert_false(snap_page_map_is_sent(&ram->map, range.first + i));
        walk->visits[range.first + i]++;
    }
    snap_page_map_send(&ram->map, range);
    return true;
}

/* Follow the plan to its end. */
static void coroutine_fn walk_all(Walk *walk)
{
    while (walk_next(walk)) {
        /* more */
    }
    g_assert_false(walk_next(walk));
}

/* The runs of a plan with such a working set are @expected. */
static void coroutine_fn check_working_set(SavedRAM *saved, unsigned reasons,
                                           const uint64_t *pages,
                                           size_t nb_pages,
                                           const char *expected)
{
    Walk walk;

    walk_begin(&walk, saved, reasons);
    snap_push_plan_set_working_set(walk.plan, pages, nb_pages);
    walk_all(&walk);
    g_assert_cmpstr(walk.log->str, ==, expected);
    walk_end(&walk);
}

static void coroutine_fn check_plan(SavedRAM *saved, unsigned reasons,
                                    const char *expected)
{
    check_working_set(saved, reasons, NULL, 0, expected);
}

/* Save pages of all kinds with such an arrival list. */
static void coroutine_fn save(SavedRAM *saved, const uint64_t *arrivals,
                              unsigned nb_arrivals)
{
    saved_ram_send_pages(saved);
    saved_ram_commit(saved, arrivals, nb_arrivals);
}

static const uint64_t some_pages[] = {
    RAM_FIRST + 100, VGA_FIRST + 3, RAM_FIRST + 50,
};

static const uint64_t some_arrivals[] = {
    RAM_FIRST + 7, RAM_FIRST + 100, ROM_FIRST,
};

static void coroutine_fn test_order(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, ALL, some_pages, 3,
                      "w1+100:1 w0+3:1 w1+50:1 a1+7:43 a2+0:3 "
                      "l0+0:3 l0+4:73 l1+0:7 l1+51:49 l1+101:1947 ");
}

static void coroutine_fn test_linear_only(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, LINEAR, some_pages, 3,
                      "l0+0:77 l1+0:2048 l2+0:3 ");
}

static void coroutine_fn test_working_set_only(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, WORKING_SET, some_pages, 3,
                      "w1+100:1 w0+3:1 w1+50:1 ");
}

static void coroutine_fn test_arrivals_only(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, ARRIVALS, some_pages, 3,
                      "a1+7:256 a2+0:3 ");
}

static void coroutine_fn test_without_arrivals(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, WORKING_SET | LINEAR, some_pages, 3,
                      "w1+100:1 w0+3:1 w1+50:1 l0+0:3 l0+4:73 l1+0:50 "
                      "l1+51:49 l1+101:1947 l2+0:3 ");
}

static void coroutine_fn test_no_reasons(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, 0, some_pages, 3, "");
}

/* Pages that are asked for, and those around them, are in no plan. */
static void coroutine_fn test_other_reasons(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    check_working_set(saved, 1u << SNAP_PUSH_PRECOPY |
                      1u << SNAP_PUSH_REQUESTED | 1u << SNAP_PUSH_FAULT_AROUND,
                      some_pages, 3, "");
}

static void coroutine_fn test_no_lists(SavedRAM *saved)
{
    save(saved, NULL, 0);
    check_plan(saved, WORKING_SET | ARRIVALS, "");
    check_plan(saved, ALL, "l0+0:77 l1+0:2048 l2+0:3 ");
}

static void coroutine_fn test_all_sent(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    snap_page_map_send(&saved->ram.map, PAGES(0, NB_PAGES));
    check_working_set(saved, ALL, some_pages, 3, "");
}

/* What precopy sent is left out. */
static void coroutine_fn test_sent_before(SavedRAM *saved)
{
    save(saved, some_arrivals, 3);
    snap_page_map_send(&saved->ram.map, PAGES(RAM_FIRST + 100, 1));
    snap_page_map_send(&saved->ram.map,
                       PAGES(RAM_FIRST + 200, RAM_PAGES - 200));
    check_working_set(saved, ALL, some_pages, 3,
                      "w0+3:1 w1+50:1 a1+7:43 a2+0:3 l0+0:3 l0+4:73 l1+0:7 "
                      "l1+51:49 l1+101:99 ");
}

/* What was asked for while the plan is followed is left out as well. */
static void coroutine_fn test_sent_meanwhile(SavedRAM *saved)
{
    SnapPageMap *map = &saved->ram.map;
    Walk walk;

    save(saved, some_arrivals, 3);
    walk_begin(&walk, saved, ALL);
    snap_push_plan_set_working_set(walk.plan, some_pages, 3);
    g_assert_true(walk_next(&walk));
    snap_page_map_send(map, PAGES(VGA_FIRST + 3, 1));
    g_assert_true(walk_next(&walk));
    snap_page_map_send(map, PAGES(RAM_FIRST + 7, 1));
    g_assert_true(walk_next(&walk));
    snap_page_map_send(map, PAGES(VGA_FIRST, VGA_PAGES - 3));
    g_assert_true(walk_next(&walk));
    snap_page_map_send(map, PAGES(RAM_FIRST, RAM_PAGES));
    walk_all(&walk);
    g_assert_cmpstr(walk.log->str, ==,
                    "w1+100:1 w1+50:1 a2+0:3 l0+74:3 ");
    walk_end(&walk);
}

static void coroutine_fn test_neighbours(SavedRAM *saved)
{
    const uint64_t pages[] = {
        RAM_FIRST + 5, RAM_FIRST + 6, RAM_FIRST + 7, RAM_FIRST + 9,
    };

    save(saved, pages, 4);
    check_working_set(saved, WORKING_SET, pages, 4, "w1+5:3 w1+9:1 ");
    snap_page_map_forget(&saved->ram.map, PAGES(0, NB_PAGES));
    check_plan(saved, ARRIVALS, "a1+5:256 ");
}

/* Only neighbours on the list, and upwards */
static void coroutine_fn test_no_neighbours(SavedRAM *saved)
{
    const uint64_t pages[] = {
        RAM_FIRST + 7, RAM_FIRST + 6, RAM_FIRST + 20, RAM_FIRST + 5,
        RAM_FIRST + 21,
    };

    save(saved, NULL, 0);
    check_working_set(saved, WORKING_SET, pages, 5,
                      "w1+7:1 w1+6:1 w1+20:1 w1+5:1 w1+21:1 ");
}

static void coroutine_fn test_neighbours_of_other_block(SavedRAM *saved)
{
    const uint64_t pages[] = {
        RAM_FIRST - 2, RAM_FIRST - 1, RAM_FIRST, RAM_FIRST + 1,
    };

    save(saved, NULL, 0);
    check_working_set(saved, WORKING_SET, pages, 4, "w0+75:2 w1+0:2 ");
}

static void coroutine_fn test_neighbour_was_sent(SavedRAM *saved)
{
    const uint64_t pages[] = { RAM_FIRST + 5, RAM_FIRST + 6, RAM_FIRST + 7 };

    save(saved, NULL, 0);
    snap_page_map_send(&saved->ram.map, PAGES(RAM_FIRST + 6, 1));
    check_working_set(saved, WORKING_SET, pages, 3, "w1+5:1 w1+7:1 ");
}

static void coroutine_fn test_last_page_of_ram(SavedRAM *saved)
{
    const uint64_t pages[] = { NB_PAGES - 2, NB_PAGES - 1 };

    save(saved, NULL, 0);
    check_working_set(saved, WORKING_SET, pages, 2, "w2+1:2 ");
}

/* Neighbours without end are not one read without end. */
static void coroutine_fn test_many_neighbours(SavedRAM *saved)
{
    uint64_t pages[1000];
    unsigned nb_runs = 0;
    Walk walk;

    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        pages[i] = RAM_FIRST + i;
    }
    save(saved, NULL, 0);
    walk_begin(&walk, saved, WORKING_SET);
    snap_push_plan_set_working_set(walk.plan, pages, ARRAY_SIZE(pages));
    while (walk_next(&walk)) {
        g_assert_cmpuint(walk.last.count * PAGE, <=, 1 * MiB);
        nb_runs++;
    }
    g_assert_cmpuint(nb_runs, <, ARRAY_SIZE(pages) / 8);
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        g_assert_cmpuint(walk.visits[pages[i]], ==, 1);
    }
    walk_end(&walk);
}

static void coroutine_fn test_repeated_pages(SavedRAM *saved)
{
    const uint64_t pages[] = {
        RAM_FIRST + 5, RAM_FIRST + 5, RAM_FIRST + 6, RAM_FIRST + 5,
    };

    save(saved, pages, 4);
    check_working_set(saved, WORKING_SET | ARRIVALS, pages, 4,
                      "w1+5:1 w1+6:1 ");
}

static void coroutine_fn check_all_visited(Walk *walk)
{
    walk_all(walk);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        g_assert_cmpuint(walk->visits[page], ==, 1);
    }
}

/* With such a damaged arrival list, all pages come nevertheless. */
static void coroutine_fn check_damaged_arrivals(SavedRAM *saved)
{
    Walk walk;

    walk_begin(&walk, saved, ALL);
    snap_push_plan_set_working_set(walk.plan, some_pages, 3);
    check_all_visited(&walk);
    g_assert_true(g_str_has_prefix(walk.log->str, "w1+100:1 w0+3:1 w1+50:1 "));
    walk_end(&walk);
}

static void coroutine_fn test_wild_arrival(SavedRAM *saved)
{
    const uint64_t arrivals[] = {
        RAM_FIRST + 7, RAM_FIRST + 8, NB_PAGES, RAM_FIRST + 9,
    };

    save(saved, arrivals, 4);
    check_damaged_arrivals(saved);
}

static void coroutine_fn test_wild_first_arrival(SavedRAM *saved)
{
    const uint64_t arrivals[] = { UINT64_MAX, RAM_FIRST + 9 };

    save(saved, arrivals, 2);
    check_damaged_arrivals(saved);
    snap_page_map_forget(&saved->ram.map, PAGES(0, NB_PAGES));
    check_plan(saved, ARRIVALS, "");
}

static void coroutine_fn test_damaged_arrivals(SavedRAM *saved)
{
    uint64_t offset;

    save(saved, some_arrivals, 3);
    offset = saved->image->header.parts[SNAP_PART_ARRIVALS].offset;
    saved->snapshot.disk->bytes[offset + 3] ^= 1;
    check_damaged_arrivals(saved);
}

/* The first chunk is well, the second one is not. */
static void coroutine_fn test_damaged_second_chunk(SavedRAM *saved)
{
    g_autofree uint64_t *arrivals = g_new(uint64_t, SNAP_CHUNK_ENTRIES + 10);
    uint64_t offset;

    for (unsigned i = 0; i < SNAP_CHUNK_ENTRIES + 10; i++) {
        arrivals[i] = RAM_FIRST + i * 5 % RAM_PAGES;
    }
    save(saved, arrivals, SNAP_CHUNK_ENTRIES + 10);
    offset = saved->image->header.parts[SNAP_PART_ARRIVALS].offset;
    saved->snapshot.disk->bytes[offset + SNAP_CHUNK_SIZE] ^= 1;
    check_damaged_arrivals(saved);
}

static void coroutine_fn test_arrivals_cannot_be_read(SavedRAM *saved)
{
    SlowDisk *disk = saved->snapshot.disk;

    save(saved, some_arrivals, 3);
    disk->fail_reads = true;
    disk->fail_ret = -EIO;
    check_damaged_arrivals(saved);
}

/* Of host pages with many target pages, those without data are left out. */
static void coroutine_fn test_huge(SavedRAM *saved)
{
    save(saved, NULL, 0);
    check_plan(saved, ALL, "l0+0:77 l1+0:512 l1+1536:512 l2+0:3 ");
    g_assert_false(snap_page_map_is_sent(&saved->ram.map,
                                         RAM_FIRST + HUGE_PAGES));
}

static void coroutine_fn test_huge_lists(SavedRAM *saved)
{
    const uint64_t pages[] = {
        RAM_FIRST + 3 * HUGE_PAGES + 17, VGA_FIRST + 5,
        RAM_FIRST + 3 * HUGE_PAGES, RAM_FIRST + 1,
    };

    save(saved, pages, 4);
    check_working_set(saved, ALL, pages, 4,
                      "w1+1536:512 w0+5:1 w1+0:512 l0+0:5 l0+6:71 l2+0:3 ");
}

static void coroutine_fn test_huge_sent_before(SavedRAM *saved)
{
    const uint64_t pages[] = { RAM_FIRST + 600, RAM_FIRST + 5 };

    save(saved, pages, 2);
    snap_page_map_send(&saved->ram.map, PAGES(RAM_FIRST, HUGE_PAGES));
    check_plan(saved, ARRIVALS | LINEAR,
               "l0+0:77 l1+1536:512 l2+0:3 ");
}

/* Where the destination has a part of a host page, the rest is no plan's. */
static void coroutine_fn test_huge_partly_sent(SavedRAM *saved)
{
    const uint64_t pages[] = { RAM_FIRST + 5, RAM_FIRST + 3 * HUGE_PAGES };

    save(saved, pages, 2);
    snap_page_map_send(&saved->ram.map, PAGES(RAM_FIRST + 77, 1));
    check_working_set(saved, ALL, pages, 2,
                      "w1+1536:512 l0+0:77 l2+0:3 ");
}

/* The linear part of large host pages needs the page table. */
static void coroutine_fn test_huge_damaged_page_table(SavedRAM *saved)
{
    SnapPageRange range;
    SnapPushReason reason;
    Error *err = NULL;
    uint64_t offset;
    Walk walk;

    save(saved, NULL, 0);
    offset = saved->image->header.parts[SNAP_PART_PAGE_TABLE].offset;
    saved->snapshot.disk->bytes[offset + 3] ^= 1;
    walk_begin(&walk, saved, ALL);
    g_assert_true(walk_next(&walk));
    g_assert_cmpstr(walk.log->str, ==, "l0+0:77 ");
    assert_failed(snap_push_plan_next(walk.plan, &range, &reason, &err),
                  -EBADMSG, &err);
    walk_end(&walk);
}

/* Pages of two or three in a row here and there, some of them twice */
static void fill_hints(GRand *rand, uint64_t *pages)
{
    for (unsigned i = 0; i < NB_HINTS; i++) {
        bool jump = !i || pages[i - 1] == NB_PAGES - 1 ||
                    g_rand_int_range(rand, 0, 3) == 0;

        pages[i] = jump ? g_rand_int_range(rand, 0, NB_PAGES) :
                          pages[i - 1] + 1;
    }
}

/* Somebody else sends a host page, as one that is asked for. */
static void send_random(SavedRAM *saved, GRand *rand, unsigned *visits)
{
    SnapPageMap *map = &saved->ram.map;
    uint64_t page = g_rand_int_range(rand, 0, NB_PAGES);
    SnapPageRange host_page = snap_page_map_host_page(map, page);

    if (!snap_page_map_is_sent(map, host_page.first)) {
        snap_page_map_send(map, host_page);
        for (uint64_t i = 0; i < host_page.count; i++) {
            visits[host_page.first + i]++;
        }
    }
}

static bool has_data(const SavedRAM *saved, uint64_t page)
{
    SnapPageRange host_page = snap_page_map_host_page(&saved->ram.map, page);

    for (uint64_t i = 0; i < host_page.count; i++) {
        if (saved->snapshot.model[host_page.first + i] >= DATA) {
            return true;
        }
    }
    return host_page.count == 1;
}

static void coroutine_fn check_random_walk(SavedRAM *saved, GRand *rand)
{
    uint64_t pages[NB_HINTS];
    Walk walk;

    fill_hints(rand, pages);
    walk_begin(&walk, saved, ALL);
    snap_push_plan_set_working_set(walk.plan, pages, NB_HINTS);
    do {
        if (g_rand_boolean(rand)) {
            send_random(saved, rand, walk.visits);
        }
    } while (walk_next(&walk));
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        g_assert_cmpuint(walk.visits[page], <=, 1);
        if (has_data(saved, page)) {
            g_assert_cmpuint(walk.visits[page], ==, 1);
        }
    }
    walk_end(&walk);
}

/* Everything is visited once, whatever the hints and whoever else sends. */
static void coroutine_fn test_random(SavedRAM *saved)
{
    GRand *rand = g_rand_new_with_seed(20260207);
    uint64_t arrivals[NB_HINTS];

    fill_hints(rand, arrivals);
    save(saved, arrivals, NB_HINTS);
    for (unsigned round = 0; round < NB_ROUNDS; round++) {
        snap_page_map_forget(&saved->ram.map, PAGES(0, NB_PAGES));
        check_random_walk(saved, rand);
    }
    g_rand_free(rand);
}

/* --- whether anything is left, for plans without a linear part --- */

static void coroutine_fn assert_rest(Walk *walk, bool left)
{
    g_assert_cmpint(snap_push_plan_rest(walk->plan, &error_abort), ==, left);
}

static void coroutine_fn test_rest(SavedRAM *saved)
{
    Walk walk;

    save(saved, some_arrivals, 3);
    walk_begin(&walk, saved, ARRIVALS);
    assert_rest(&walk, true);
    walk_all(&walk);
    assert_rest(&walk, true);
    snap_page_map_send(&saved->ram.map, PAGES(0, NB_PAGES));
    assert_rest(&walk, false);
    assert_rest(&walk, false);
    walk_end(&walk);
}

/* The page with data that is sent last may be anywhere. */
static void coroutine_fn check_rest_is(SavedRAM *saved, uint64_t page,
                                       uint64_t nb_pages)
{
    SnapPageMap *map = &saved->ram.map;
    Walk walk;

    snap_page_map_send(map, PAGES(0, NB_PAGES));
    snap_page_map_forget(map, PAGES(page, nb_pages));
    walk_begin(&walk, saved, WORKING_SET);
    assert_rest(&walk, true);
    snap_page_map_send(map, PAGES(page, nb_pages));
    assert_rest(&walk, false);
    walk_end(&walk);
}

static void coroutine_fn test_rest_is_one_page(SavedRAM *saved)
{
    save(saved, NULL, 0);
    check_rest_is(saved, 0, 1);
    check_rest_is(saved, VGA_PAGES - 1, 1);
    check_rest_is(saved, RAM_FIRST, 1);
    check_rest_is(saved, ROM_FIRST - 1, 1);
    check_rest_is(saved, ROM_FIRST, 1);
    check_rest_is(saved, NB_PAGES - 1, 1);
}

static void coroutine_fn test_rest_is_one_host_page(SavedRAM *saved)
{
    save(saved, NULL, 0);
    check_rest_is(saved, RAM_FIRST, HUGE_PAGES);
    check_rest_is(saved, ROM_FIRST - HUGE_PAGES, HUGE_PAGES);
    check_rest_is(saved, NB_PAGES - 1, 1);
}

/* Pages that are zero, or were never sent, are not waited for. */
static void coroutine_fn test_rest_without_data(SavedRAM *saved)
{
    SnapPageMap *map = &saved->ram.map;
    Walk walk;

    save(saved, NULL, 0);
    snap_page_map_send(map, PAGES(VGA_FIRST, VGA_PAGES));
    snap_page_map_send(map, PAGES(RAM_FIRST, HUGE_PAGES));
    snap_page_map_send(map, PAGES(ROM_FIRST - HUGE_PAGES, HUGE_PAGES));
    snap_page_map_send(map, PAGES(ROM_FIRST, ROM_PAGES));
    walk_begin(&walk, saved, 0);
    assert_rest(&walk, false);
    walk_end(&walk);
}

/* Pages are sent in any order, and it is asked after each of them. */
static void coroutine_fn test_rest_after_each(SavedRAM *saved)
{
    SnapPageMap *map = &saved->ram.map;
    uint64_t nb_left = 0;
    Walk walk;

    save(saved, NULL, 0);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        nb_left += saved->snapshot.model[page] >= DATA;
    }
    walk_begin(&walk, saved, 0);
    /* 1031 is a prime that does not divide the number of pages. */
    for (uint64_t i = 0; i < NB_PAGES; i++) {
        uint64_t page = i * 1031 % NB_PAGES;

        snap_page_map_send(map, PAGES(page, 1));
        nb_left -= saved->snapshot.model[page] >= DATA;
        assert_rest(&walk, nb_left > 0);
    }
    walk_end(&walk);
}

static void coroutine_fn test_rest_damaged_page_table(SavedRAM *saved)
{
    Error *err = NULL;
    Walk walk;

    save(saved, NULL, 0);
    saved->snapshot.disk->bytes[
        saved->image->header.parts[SNAP_PART_PAGE_TABLE].offset] ^= 1;
    walk_begin(&walk, saved, 0);
    assert_failed(snap_push_plan_rest(walk.plan, &err), -EBADMSG, &err);
    walk_end(&walk);
}

static const SavedRAMTest tests[] = {
    { "order/is-working-set-arrivals-rest", test_order },
    { "order/linear-alone", test_linear_only },
    { "order/working-set-alone", test_working_set_only },
    { "order/arrivals-alone", test_arrivals_only },
    { "order/without-arrivals", test_without_arrivals },
    { "order/no-reasons-have-no-plan", test_no_reasons },
    { "order/requested-pages-are-in-no-plan", test_other_reasons },
    { "order/lists-may-be-missing", test_no_lists },
    { "sent/nothing-is-left-if-all-were", test_all_sent },
    { "sent/pages-sent-before-are-left-out", test_sent_before },
    { "sent/pages-sent-meanwhile-are-left-out", test_sent_meanwhile },
    { "neighbours/are-one-run", test_neighbours },
    { "neighbours/others-are-no-run", test_no_neighbours },
    { "neighbours/of-another-block-are-no-run",
      test_neighbours_of_other_block },
    { "neighbours/that-were-sent-end-a-run", test_neighbour_was_sent },
    { "neighbours/run-may-end-with-the-last-page", test_last_page_of_ram },
    { "neighbours/run-is-bounded", test_many_neighbours },
    { "repeated-pages-come-once", test_repeated_pages },
    { "damaged/all-pages-come-with-a-wild-arrival", test_wild_arrival },
    { "damaged/all-pages-come-with-a-wild-first-arrival",
      test_wild_first_arrival },
    { "damaged/all-pages-come-with-damaged-arrivals", test_damaged_arrivals },
    { "damaged/all-pages-come-with-a-damaged-second-chunk",
      test_damaged_second_chunk },
    { "damaged/all-pages-come-if-arrivals-cannot-be-read",
      test_arrivals_cannot_be_read },
    { "huge/host-pages-without-data-are-left-out", test_huge, HUGE_BITS },
    { "huge/lists-bring-whole-host-pages", test_huge_lists, HUGE_BITS },
    { "huge/host-pages-sent-before-are-left-out",
      test_huge_sent_before, HUGE_BITS },
    { "huge/host-pages-sent-in-part-are-left-out",
      test_huge_partly_sent, HUGE_BITS },
    { "huge/damaged-page-table-is-an-error",
      test_huge_damaged_page_table, HUGE_BITS },
    { "rest/has-data-until-the-last-page-with-data", test_rest },
    { "rest/last-page-with-data-may-be-anywhere", test_rest_is_one_page },
    { "rest/last-host-page-with-data-may-be-anywhere",
      test_rest_is_one_host_page, HUGE_BITS },
    { "rest/pages-without-data-are-not-waited-for", test_rest_without_data },
    { "rest/pages-without-data-are-not-waited-for/huge",
      test_rest_without_data, HUGE_BITS },
    { "rest/is-right-after-each-page", test_rest_after_each },
    { "rest/damaged-page-table-is-an-error", test_rest_damaged_page_table },
    { "random-plans-bring-each-page-once", test_random },
    { "random-plans-bring-each-page-once/16k", test_random, 14 },
    { "random-plans-bring-each-page-once/huge", test_random, HUGE_BITS },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/push-plan/", tests, run_saved_ram_test);
    return g_test_run();
}
