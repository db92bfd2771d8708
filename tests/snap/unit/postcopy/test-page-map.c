/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what has become of each page
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "some-page-map.h"
#include "test-table.h"

#define ROUNDS 200

/* What next_unsent should say of a block, one host page after another. */
static bool naive_next(const SomeRAM *ram, int block, uint64_t from,
                       SnapPageRange *range)
{
    const SnapRAMBlock *b = &ram->ram.blocks[block];
    uint64_t targets = snap_host_pages_count(&ram->host_pages, block);
    uint64_t end = snap_ram_block_end(&ram->ram, b);
    uint64_t start = b->first_page + ROUND_UP(from - b->first_page, targets);

    range->count = 0;
    for (uint64_t at = start; at < end; at += targets) {
        bool sent = false;

        for (uint64_t i = 0; i < targets; i++) {
            sent |= snap_page_map_is_sent(&ram->map, at + i);
        }
        if (!sent && !range->count) {
            range->first = at;
        }
        if (sent && range->count) {
            break;
        }
        range->count += sent ? 0 : targets;
    }
    return range->count;
}

/* Walk through a block, and compare with the model. */
static void check_walk(const SomeRAM *ram, int block)
{
    const SnapRAMBlock *b = &ram->ram.blocks[block];
    uint64_t end = snap_ram_block_end(&ram->ram, b);
    uint64_t page = b->first_page;
    SnapPageRange range, expected;

    while (naive_next(ram, block, page, &expected)) {
        g_assert_true(snap_page_map_next_unsent(&ram->map, page, end, &range));
        g_assert_cmpuint(range.first, ==, expected.first);
        g_assert_cmpuint(range.count, ==, expected.count);
        g_assert_true(snap_page_map_is_unsent(&ram->map, range));
        page = range.first + range.count;
    }
    g_assert_false(snap_page_map_next_unsent(&ram->map, page, end, &range));
}

/* Walk through all blocks at once, and compare with the model of each. */
static void check_walk_all(const SomeRAM *ram)
{
    uint64_t page = 0;
    SnapPageRange range, expected;

    for (int block = 0; block < NB_BLOCKS; block++) {
        page = MAX(page, ram->ram.blocks[block].first_page);
        while (naive_next(ram, block, page, &expected)) {
            g_assert_true(snap_page_map_next_unsent(&ram->map, page, NB_PAGES,
                                                    &range));
            g_assert_cmpuint(range.first, ==, expected.first);
            g_assert_cmpuint(range.count, ==, expected.count);
            page = range.first + range.count;
        }
    }
    g_assert_false(snap_page_map_next_unsent(&ram->map, page, NB_PAGES,
                                             &range));
}

/* In a block, from page @from of it on, up to its end */
static bool next_in_block(const SomeRAM *ram, int block, uint64_t from,
                          SnapPageRange *range)
{
    const SnapRAMBlock *b = &ram->ram.blocks[block];

    return snap_page_map_next_unsent(&ram->map, b->first_page + from,
                                     snap_ram_block_end(&ram->ram, b), range);
}

static void check_next(const SomeRAM *ram, int block, uint64_t from,
                       uint64_t expected_first, uint64_t expected_count)
{
    SnapPageRange range = { };

    g_assert_true(next_in_block(ram, block, from, &range));
    g_assert_cmpuint(range.first, ==,
                     ram->ram.blocks[block].first_page + expected_first);
    g_assert_cmpuint(range.count, ==, expected_count);
}

static void check_no_next(const SomeRAM *ram, int block, uint64_t from)
{
    SnapPageRange range;

    g_assert_false(next_in_block(ram, block, from, &range));
}

static uint64_t count_sent(const SomeRAM *ram)
{
    uint64_t nb = 0;

    for (uint64_t page = 0; page < NB_PAGES; page++) {
        nb += snap_page_map_is_sent(&ram->map, page);
    }
    return nb;
}

static void test_nothing_is_sent(SomeRAM *ram)
{
    g_assert_cmpuint(count_sent(ram), ==, 0);
    check_next(ram, VGA, 0, 0, VGA_PAGES);
    check_next(ram, RAM, 0, 0, RAM_PAGES);
    check_next(ram, ROM, 0, 0, ROM_PAGES);
}

static void test_send(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST + 5, 3));
    g_assert_cmpuint(count_sent(ram), ==, 3);
    for (uint64_t i = 5; i < 8; i++) {
        g_assert_true(snap_page_map_is_sent(&ram->map, RAM_FIRST + i));
    }
}

static void test_send_again(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(10, 4));
    snap_page_map_send(&ram->map, PAGES(8, 4));
    g_assert_cmpuint(count_sent(ram), ==, 6);
}

static void test_send_all(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(0, NB_PAGES));
    g_assert_cmpuint(count_sent(ram), ==, NB_PAGES);
    for (int block = 0; block < NB_BLOCKS; block++) {
        check_no_next(ram, block, 0);
    }
}

static void test_first_and_last_page(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(0, 1));
    snap_page_map_send(&ram->map, PAGES(NB_PAGES - 1, 1));
    g_assert_cmpuint(count_sent(ram), ==, 2);
    g_assert_true(snap_page_map_is_sent(&ram->map, 0));
    g_assert_true(snap_page_map_is_sent(&ram->map, NB_PAGES - 1));
}

static void test_forget(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST, RAM_PAGES));
    snap_page_map_forget(&ram->map, PAGES(RAM_FIRST + HUGE_PAGES, HUGE_PAGES));
    g_assert_cmpuint(count_sent(ram), ==, RAM_PAGES - HUGE_PAGES);
    check_next(ram, RAM, 0, HUGE_PAGES, HUGE_PAGES);
    check_no_next(ram, RAM, 2 * HUGE_PAGES);
}

/* Pages that were not sent can be taken back as well. */
static void test_forget_unsent(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(3, 2));
    snap_page_map_forget(&ram->map, PAGES(0, 4));
    g_assert_cmpuint(count_sent(ram), ==, 1);
    g_assert_true(snap_page_map_is_sent(&ram->map, 4));
}

static void test_request_once(SomeRAM *ram)
{
    g_assert_true(snap_page_map_request(&ram->map, RAM_FIRST));
    g_assert_false(snap_page_map_request(&ram->map, RAM_FIRST));
    g_assert_true(snap_page_map_request(&ram->map, RAM_FIRST + 1));
    g_assert_true(snap_page_map_request(&ram->map, RAM_FIRST - 1));
    g_assert_false(snap_page_map_request(&ram->map, RAM_FIRST));
}

static void test_request_is_not_send(SomeRAM *ram)
{
    snap_page_map_request(&ram->map, 7);
    g_assert_false(snap_page_map_is_sent(&ram->map, 7));
    snap_page_map_send(&ram->map, PAGES(8, 1));
    g_assert_true(snap_page_map_request(&ram->map, 8));
}

/* What was asked for stays so, although its place is emptied. */
static void test_forget_keeps_requested(SomeRAM *ram)
{
    snap_page_map_request(&ram->map, 7);
    snap_page_map_forget(&ram->map, PAGES(0, 10));
    g_assert_false(snap_page_map_request(&ram->map, 7));
}

static void check_host_page(const SomeRAM *ram, uint64_t page, uint64_t first,
                            uint64_t count)
{
    SnapPageRange host_page = snap_page_map_host_page(&ram->map, page);

    g_assert_cmpuint(host_page.first, ==, first);
    g_assert_cmpuint(host_page.count, ==, count);
}

static void test_host_page_is_page(SomeRAM *ram)
{
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        check_host_page(ram, page, page, 1);
    }
}

/* Host pages begin where their block does. */
static void test_host_page_of_many(SomeRAM *ram)
{
    check_host_page(ram, VGA_PAGES - 1, VGA_PAGES - 1, 1);
    check_host_page(ram, RAM_FIRST, RAM_FIRST, HUGE_PAGES);
    check_host_page(ram, RAM_FIRST + HUGE_PAGES - 1, RAM_FIRST, HUGE_PAGES);
    check_host_page(ram, RAM_FIRST + HUGE_PAGES, RAM_FIRST + HUGE_PAGES,
                    HUGE_PAGES);
    check_host_page(ram, ROM_FIRST - 1, ROM_FIRST - HUGE_PAGES, HUGE_PAGES);
    check_host_page(ram, ROM_FIRST, ROM_FIRST, 1);
    check_host_page(ram, NB_PAGES - 1, NB_PAGES - 1, 1);
}

static void test_next_stops_at_sent(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST + 10, 2));
    check_next(ram, RAM, 0, 0, 10);
    check_next(ram, RAM, 4, 4, 6);
    check_next(ram, RAM, 10, 12, RAM_PAGES - 12);
}

/* Pages of other blocks do not matter. */
static void test_next_stays_in_block(SomeRAM *ram)
{
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST, RAM_PAGES));
    check_next(ram, VGA, 0, 0, VGA_PAGES);
    check_no_next(ram, RAM, 0);
    check_next(ram, ROM, 0, 0, ROM_PAGES);
}

static void test_next_at_end_of_block(SomeRAM *ram)
{
    check_next(ram, VGA, VGA_PAGES - 1, VGA_PAGES - 1, 1);
    check_no_next(ram, VGA, VGA_PAGES);
    check_no_next(ram, RAM, RAM_PAGES);
}

/* One target page takes its host page with it. */
static void test_next_skips_partly_sent(SomeRAM *ram)
{
    uint64_t huge = HUGE_PAGES;

    snap_page_map_send(&ram->map, PAGES(RAM_FIRST + HUGE_PAGES + 100, 1));
    check_next(ram, RAM, 0, 0, huge);
    check_next(ram, RAM, huge, 2 * huge, 2 * huge);
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST + RAM_PAGES - 1, 1));
    check_next(ram, RAM, huge, 2 * huge, huge);
    check_no_next(ram, RAM, 3 * huge);
}

static void test_next_skips_first_of_host_page(SomeRAM *ram)
{
    uint64_t huge = HUGE_PAGES;

    snap_page_map_send(&ram->map, PAGES(RAM_FIRST, 1));
    snap_page_map_send(&ram->map, PAGES(RAM_FIRST + 2 * HUGE_PAGES - 1, 1));
    check_next(ram, RAM, 0, 2 * huge, 2 * huge);
}

/* A range ends with its block, although the next one is unsent, too. */
static void test_next_goes_through_blocks(SomeRAM *ram)
{
    SnapPageRange range;

    g_assert_true(snap_page_map_next_unsent(&ram->map, 5, NB_PAGES, &range));
    g_assert_cmpuint(range.first, ==, 5);
    g_assert_cmpuint(range.count, ==, VGA_PAGES - 5);
    snap_page_map_send(&ram->map, PAGES(5, VGA_PAGES + RAM_PAGES - 5));
    g_assert_true(snap_page_map_next_unsent(&ram->map, 5, NB_PAGES, &range));
    g_assert_cmpuint(range.first, ==, ROM_FIRST);
    g_assert_cmpuint(range.count, ==, ROM_PAGES);
}

static void test_next_stops_at_end(SomeRAM *ram)
{
    SnapPageRange range;

    g_assert_true(snap_page_map_next_unsent(&ram->map, RAM_FIRST,
                                            RAM_FIRST + HUGE_PAGES, &range));
    g_assert_cmpuint(range.first, ==, RAM_FIRST);
    g_assert_cmpuint(range.count, ==, HUGE_PAGES);
    snap_page_map_plan(&ram->map, PAGES(RAM_FIRST, HUGE_PAGES));
    g_assert_false(snap_page_map_next_unsent(&ram->map, RAM_FIRST,
                                             RAM_FIRST + HUGE_PAGES, &range));
    g_assert_false(snap_page_map_next_unsent(&ram->map, RAM_FIRST, RAM_FIRST,
                                             &range));
}

static void test_is_unsent(SomeRAM *ram)
{
    g_assert_true(snap_page_map_is_unsent(&ram->map, PAGES(3, 4)));
    snap_page_map_send(&ram->map, PAGES(2, 1));
    snap_page_map_plan(&ram->map, PAGES(7, 1));
    g_assert_true(snap_page_map_is_unsent(&ram->map, PAGES(3, 4)));
    g_assert_false(snap_page_map_is_unsent(&ram->map, PAGES(2, 4)));
    g_assert_false(snap_page_map_is_unsent(&ram->map, PAGES(4, 4)));
}

/* Random bitmaps, from a few pages that were sent to a few that were not */
static void test_random(SomeRAM *ram)
{
    GRand *rand = g_rand_new_with_seed(20260202);

    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned odds = 1 << g_rand_int_range(rand, 0, 11);
        bool most = g_rand_boolean(rand);

        snap_page_map_forget(&ram->map, PAGES(0, NB_PAGES));
        for (uint64_t page = 0; page < NB_PAGES; page++) {
            if (most != (g_rand_int_range(rand, 0, odds + 1) == 0)) {
                snap_page_map_send(&ram->map, PAGES(page, 1));
            }
        }
        for (int block = 0; block < NB_BLOCKS; block++) {
            check_walk(ram, block);
        }
        check_walk_all(ram);
    }
    g_rand_free(rand);
}

/* Random ranges that are sent and taken back, in whole host pages */
static void test_random_ranges(SomeRAM *ram)
{
    GRand *rand = g_rand_new_with_seed(20260203);
    g_autofree uint8_t *sent = g_malloc0(NB_PAGES);

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t first = g_rand_int_range(rand, 0, NB_PAGES);
        uint64_t nb = g_rand_int_range(rand, 1, NB_PAGES - first + 1);
        bool send = g_rand_boolean(rand);

        nb = MIN(nb, 300);
        memset(sent + first, send, nb);
        if (send) {
            snap_page_map_send(&ram->map, PAGES(first, nb));
        } else {
            snap_page_map_forget(&ram->map, PAGES(first, nb));
        }
        for (uint64_t page = 0; page < NB_PAGES; page++) {
            g_assert_cmpint(snap_page_map_is_sent(&ram->map, page), ==,
                            sent[page]);
        }
    }
    g_rand_free(rand);
}

/* Bytes of a bitmap of @nb_pages, as it comes: whole 64-bit words */
static uint8_t *bitmap_bytes(uint64_t nb_pages)
{
    return g_malloc0(ROUND_UP(DIV_ROUND_UP(nb_pages, 8), 8));
}

static void test_received_nothing(SomeRAM *ram)
{
    g_autofree uint8_t *bitmap = bitmap_bytes(RAM_PAGES);

    g_assert_cmpuint(snap_page_map_received(&ram->map, RAM, bitmap), ==, 0);
    g_assert_cmpuint(count_sent(ram), ==, 0);
}

/* The least significant bit of the first byte is the first page. */
static void test_received_order_of_bits(SomeRAM *ram)
{
    g_autofree uint8_t *bitmap = bitmap_bytes(VGA_PAGES);

    bitmap[0] = 0x01;
    bitmap[1] = 0x82;
    bitmap[8] = 0x40;
    g_assert_cmpuint(snap_page_map_received(&ram->map, VGA, bitmap), ==, 4);
    g_assert_cmpuint(count_sent(ram), ==, 4);
    g_assert_true(snap_page_map_is_sent(&ram->map, 0));
    g_assert_true(snap_page_map_is_sent(&ram->map, 9));
    g_assert_true(snap_page_map_is_sent(&ram->map, 15));
    g_assert_true(snap_page_map_is_sent(&ram->map, 70));
}

/* Bits after the last page mean nothing: 77 and 3 pages leave some. */
static void check_received_all(SomeRAM *ram, int block, uint64_t nb_pages)
{
    const SnapRAMBlock *b = &ram->ram.blocks[block];
    g_autofree uint8_t *bitmap = bitmap_bytes(nb_pages);

    memset(bitmap, 0xff, ROUND_UP(DIV_ROUND_UP(nb_pages, 8), 8));
    g_assert_cmpuint(snap_page_map_received(&ram->map, block, bitmap), ==,
                     nb_pages);
    g_assert_cmpuint(count_sent(ram), ==, nb_pages);
    g_assert_true(snap_page_map_is_sent(&ram->map, b->first_page));
    g_assert_true(snap_page_map_is_sent(&ram->map,
                                        b->first_page + nb_pages - 1));
    snap_page_map_forget(&ram->map, PAGES(0, NB_PAGES));
}

static void test_received_all(SomeRAM *ram)
{
    check_received_all(ram, VGA, VGA_PAGES);
    check_received_all(ram, RAM, RAM_PAGES);
    check_received_all(ram, ROM, ROM_PAGES);
}

/* A bitmap that is no longer than it has to be is not read beyond its end. */
static void test_received_short_bitmap(SomeRAM *ram)
{
    g_autofree uint8_t *bitmap = g_malloc0(DIV_ROUND_UP(VGA_PAGES, 8));

    bitmap[VGA_PAGES / 8] = 1 << (VGA_PAGES - 1) % 8;
    g_assert_cmpuint(snap_page_map_received(&ram->map, VGA, bitmap), ==, 1);
    g_assert_true(snap_page_map_is_sent(&ram->map, VGA_PAGES - 1));
}

static void test_received_random(SomeRAM *ram)
{
    GRand *rand = g_rand_new_with_seed(20260204);
    g_autofree uint8_t *bitmap = bitmap_bytes(RAM_PAGES);
    uint64_t nb = 0;

    for (uint64_t i = 0; i < RAM_PAGES / 8; i++) {
        bitmap[i] = g_rand_int_range(rand, 0, 256);
        nb += ctpop8(bitmap[i]);
    }
    g_assert_cmpuint(snap_page_map_received(&ram->map, RAM, bitmap), ==, nb);
    g_assert_cmpuint(count_sent(ram), ==, nb);
    for (uint64_t i = 0; i < RAM_PAGES; i++) {
        g_assert_cmpint(snap_page_map_is_sent(&ram->map, RAM_FIRST + i), ==,
                        bitmap[i / 8] >> i % 8 & 1);
    }
    check_walk(ram, RAM);
    g_rand_free(rand);
}

typedef struct PageMapTest {
    const char *path;
    void (*fn)(SomeRAM *ram);
    unsigned host_bits;         /* PAGE_BITS where that is 0 */
} PageMapTest;

static const PageMapTest tests[] = {
    { "nothing-is-sent", test_nothing_is_sent },
    { "nothing-is-sent/huge", test_nothing_is_sent, HUGE_BITS },
    { "sent/page-is-sent", test_send },
    { "sent/again-changes-nothing", test_send_again },
    { "sent/all-pages-may-be", test_send_all },
    { "sent/all-pages-may-be/huge", test_send_all, HUGE_BITS },
    { "sent/first-and-last-page-are-their-own", test_first_and_last_page },
    { "forget/page-is-no-longer-sent", test_forget },
    { "forget/page-is-no-longer-sent/huge", test_forget, HUGE_BITS },
    { "forget/unsent-page-stays-unsent", test_forget_unsent },
    { "requested/first-time-counts-only", test_request_once },
    { "requested/page-is-not-sent", test_request_is_not_send },
    { "requested/page-stays-so-when-forgotten", test_forget_keeps_requested },
    { "host-page/is-one-page", test_host_page_is_page },
    { "host-page/is-many-pages/huge", test_host_page_of_many, HUGE_BITS },
    { "unsent/all-pages-of-a-range-are", test_is_unsent },
    { "next/goes-through-blocks", test_next_goes_through_blocks },
    { "next/goes-through-blocks/huge", test_next_goes_through_blocks,
      HUGE_BITS },
    { "next/stops-at-the-end", test_next_stops_at_end },
    { "next/stops-at-the-end/huge", test_next_stops_at_end, HUGE_BITS },
    { "next/stops-at-sent", test_next_stops_at_sent },
    { "next/stays-in-block", test_next_stays_in_block },
    { "next/stays-in-block/huge", test_next_stays_in_block, HUGE_BITS },
    { "next/ends-with-the-block", test_next_at_end_of_block },
    { "next/ends-with-the-block/huge", test_next_at_end_of_block, HUGE_BITS },
    { "next/skips-host-pages-sent-in-part/huge",
      test_next_skips_partly_sent, HUGE_BITS },
    { "next/skips-the-rest-of-a-host-page/huge",
      test_next_skips_first_of_host_page,
      HUGE_BITS },
    { "next/random-pages-agree-with-a-model", test_random },
    { "next/random-pages-agree-with-a-model/16k", test_random, 14 },
    { "next/random-pages-agree-with-a-model/huge", test_random, HUGE_BITS },
    { "random-ranges-agree-with-a-model", test_random_ranges },
    { "received/nothing-means-nothing-is-sent", test_received_nothing },
    { "received/bits-are-in-the-order-of-pages", test_received_order_of_bits },
    { "received/all-means-all-is-sent", test_received_all },
    { "received/all-means-all-is-sent/huge", test_received_all, HUGE_BITS },
    { "received/bitmap-may-end-within-a-byte",
      test_received_short_bitmap },
    { "received/random-bits-agree-with-a-model", test_received_random },
    { "received/random-bits-agree-with-a-model/huge",
      test_received_random, HUGE_BITS },
};

static void run_test(gconstpointer data)
{
    const PageMapTest *test = data;
    SomeRAM ram;

    some_ram_init(&ram, test->host_bits ?: PAGE_BITS);
    test->fn(&ram);
    some_ram_destroy(&ram);
}

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/page-map/", tests, run_test);
    return g_test_run();
}
