/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of serving the pages that a destination waits for
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qemu/main-loop.h"
#include "snap/postcopy/demand.h"
#include "memory-source.h"
#include "saved-ram.h"
#include "snap-coroutine.h"
#include "test-table.h"

#define NB_RANDOM   1500
#define LARGE_BITS  16          /* host pages that are read as a whole */

/**
 * Service: requests and what comes of them
 * @log: what was taken, as text: "1+5:3 " for three pages at page 5 of block 1
 * @answers: how often each page was sent
 * @nb_ready: calls of the ready callback
 * @nb_failed: fetches that could not be read
 */
typedef struct Service {
    SavedRAM *saved;
    SnapDemand *demand;
    SnapPostcopyStats stats;
    GString *log;
    unsigned *answers;
    unsigned nb_ready;
    unsigned nb_failed;
} Service;

static void note_ready(void *opaque)
{
    Service *service = opaque;

    service->nb_ready++;
}

static void service_begin(Service *service, SavedRAM *saved)
{
    *service = (Service) {
        .saved = saved,
        .log = g_string_new(""),
        .answers = g_new0(unsigned, NB_PAGES),
    };
    service->demand = snap_demand_new(&saved->image->source, &saved->ram.map,
                                      &service->stats, note_ready, service);
}

static void service_end(Service *service)
{
    g_assert_true(snap_demand_is_quiet(service->demand));
    snap_demand_free(service->demand);
    g_string_free(service->log, true);
    g_free(service->answers);
}

/* Ask for target pages, of which there are whole host pages. */
static void coroutine_fn ask(Service *service, int block, uint64_t page,
                             uint64_t nb_pages)
{
    const SnapRAMBlock *b = &service->saved->ram.ram.blocks[block];

    g_assert_cmpint(snap_demand_request(service->demand,
                                        PAGES(b->first_page + page, nb_pages),
                                        &error_abort), ==, 0);
}

static void coroutine_fn request_page(Service *service, uint64_t page)
{
    snap_demand_request(service->demand, PAGES(page, 1), &error_abort);
}

/* What was read is what was requested, and what the model has. */
static void check_fetch(const Service *service, const SnapFetch *fetch)
{
    const SnapRAMBlocks *ram = &service->saved->ram.ram;
    const SnapPages *pages = &fetch->item.pages;
    const SnapRAMBlock *block = snap_ram_block_of(ram, pages->range.first);

    g_assert_cmpuint(pages->range.count, >, 0);
    g_assert_cmpuint(pages->range.first + pages->range.count, <=,
                     snap_ram_block_end(ram, block));
    g_assert_cmpuint(fetch->item.pos, ==, 0);
    g_assert_cmpint(fetch->request_ns, >, 0);
    g_assert_cmpint(fetch->request_ns, <=,
                    qemu_clock_get_ns(QEMU_CLOCK_REALTIME));
    if (pages->range.count * PAGE > SNAP_DEMAND_MAX_READ) {
        g_assert_null(pages->entries);
        g_assert_null(pages->data);
        return;
    }
    assert_pages(&service->saved->snapshot, pages);
}

/* Send what was not sent meanwhile. */
static void send_fetch(Service *service, const SnapFetch *fetch)
{
    SnapPageMap *map = &service->saved->ram.map;
    SnapPageRange range = fetch->item.pages.range;

    for (uint64_t page = range.first; page < range.first + range.count;
         page++) {
        if (!snap_page_map_is_sent(map, page)) {
            service->answers[page]++;
            snap_page_map_send(map, PAGES(page, 1));
        }
    }
}

static void log_fetch(Service *service, const SnapFetch *fetch)
{
    const SnapRAMBlocks *ram = &service->saved->ram.ram;
    SnapPageRange range = fetch->item.pages.range;
    const SnapRAMBlock *block = snap_ram_block_of(ram, range.first);

    g_string_append_printf(service->log, "%d+%" PRIu64 ":%" PRIu64 " ",
                           (int)(block - ram->blocks),
                           range.first - block->first_page, range.count);
}

/* Take something that is ready, and send it. */
static bool coroutine_fn serve_one(Service *service, SnapPushReason reason)
{
    SnapFetch *fetch = snap_demand_take(service->demand, reason);

    if (!fetch) {
        return false;
    }
    if (fetch->ret < 0) {
        g_assert_nonnull(fetch->err);
        service->nb_failed++;
    } else {
        g_assert_null(fetch->err);
        check_fetch(service, fetch);
        send_fetch(service, fetch);
    }
    log_fetch(service, fetch);
    snap_demand_put(service->demand, fetch);
    return true;
}

/* Serve what is ready of one kind, until nothing is being read. */
static void coroutine_fn serve_reason(Service *service, SnapPushReason reason)
{
    while (serve_one(service, reason) ||
           !snap_demand_is_quiet(service->demand)) {
        snap_co_pause();
    }
}

/* Whether something that is asked for is not ready yet. */
static bool is_urgent(const Service *service)
{
    return snap_demand_is_queued(service->demand) ||
           snap_demand_is_reading(service->demand);
}

/* Serve all there is: first what is asked for. */
static void coroutine_fn serve(Service *service)
{
    while (!snap_demand_is_idle(service->demand)) {
        if (!serve_one(service, SNAP_PUSH_REQUESTED) &&
            !serve_one(service, SNAP_PUSH_FAULT_AROUND)) {
            snap_co_pause();
        }
    }
    g_assert_false(is_urgent(service));
}

/* Serve all there is, and see that it was @expected. */
static void coroutine_fn check_log(Service *service, const char *expected)
{
    serve(service);
    g_assert_cmpstr(service->log->str, ==, expected);
    g_string_truncate(service->log, 0);
}

static void coroutine_fn test_nothing_requested(Service *service)
{
    g_assert_true(snap_demand_is_idle(service->demand));
    g_assert_true(snap_demand_is_quiet(service->demand));
    g_assert_false(is_urgent(service));
    g_assert_cmpint(snap_demand_last_ns(service->demand), ==, 0);
    g_assert_null(snap_demand_take(service->demand, SNAP_PUSH_REQUESTED));
    g_assert_null(snap_demand_take(service->demand, SNAP_PUSH_FAULT_AROUND));
    g_assert_cmpuint(service->nb_ready, ==, 0);
}

static void coroutine_fn test_one_page(Service *service)
{
    int64_t before = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    ask(service, RAM, 5, 1);
    g_assert_false(snap_demand_is_idle(service->demand));
    g_assert_cmpint(snap_demand_last_ns(service->demand), >=, before);
    check_log(service, "1+5:1 ");
    g_assert_cmpuint(service->nb_ready, ==, 1);
    g_assert_cmpuint(service->answers[RAM_FIRST + 5], ==, 1);
    g_assert_cmpuint(service->stats.requests, ==, 1);
    g_assert_cmpuint(service->stats.already_sent, ==, 0);
    g_assert_cmpuint(service->stats.duplicate, ==, 0);
}

static void coroutine_fn test_zero_page(Service *service)
{
    ask(service, RAM, HUGE_PAGES, 1);
    check_log(service, "1+512:1 ");
}

static void coroutine_fn test_page_that_was_never_sent(Service *service)
{
    ask(service, RAM, 2 * HUGE_PAGES, 1);
    check_log(service, "1+1024:1 ");
}

/* A request for several host pages is answered page by page. */
static void coroutine_fn test_several_pages(Service *service)
{
    ask(service, ROM, 0, 3);
    serve(service);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(service->answers[ROM_FIRST + i], ==, 1);
    }
    g_assert_cmpuint(service->stats.requests, ==, 3);
    g_assert_cmpuint(service->nb_ready, ==, 3);
}

static void coroutine_fn test_last_pages(Service *service)
{
    ask(service, VGA, VGA_PAGES - 1, 1);
    check_log(service, "0+76:1 ");
    ask(service, RAM, RAM_PAGES - 1, 1);
    check_log(service, "1+2047:1 ");
    ask(service, ROM, ROM_PAGES - 1, 1);
    check_log(service, "2+2:1 ");
}

static void coroutine_fn test_sent_before(Service *service)
{
    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST + 5, 1));
    ask(service, RAM, 5, 1);
    check_log(service, "");
    g_assert_cmpuint(service->stats.requests, ==, 1);
    g_assert_cmpuint(service->stats.already_sent, ==, 1);
    g_assert_cmpuint(service->stats.duplicate, ==, 0);
}

static void coroutine_fn test_repeated_while_queued(Service *service)
{
    for (unsigned i = 0; i < 10; i++) {
        ask(service, RAM, 5, 1);
    }
    check_log(service, "1+5:1 ");
    g_assert_cmpuint(service->stats.requests, ==, 10);
    g_assert_cmpuint(service->stats.already_sent, ==, 0);
    g_assert_cmpuint(service->stats.duplicate, ==, 9);
}

static void coroutine_fn test_repeated_after_answer(Service *service)
{
    ask(service, RAM, 5, 1);
    check_log(service, "1+5:1 ");
    ask(service, RAM, 5, 1);
    check_log(service, "");
    g_assert_cmpuint(service->stats.already_sent, ==, 1);
    g_assert_cmpuint(service->answers[RAM_FIRST + 5], ==, 1);
}

/* Ready to be sent is not answered yet, and asked for once all the same. */
static void coroutine_fn test_repeated_while_ready(Service *service)
{
    ask(service, RAM, 5, 1);
    while (!service->nb_ready) {
        snap_co_pause();
    }
    ask(service, RAM, 5, 1);
    check_log(service, "1+5:1 ");
    g_assert_cmpuint(service->stats.duplicate, ==, 1);
}

/* Some of the pages in a request were asked for before. */
static void coroutine_fn test_overlapping_requests(Service *service)
{
    ask(service, RAM, 5, 2);
    ask(service, RAM, 4, 4);
    serve(service);
    for (unsigned i = 4; i < 8; i++) {
        g_assert_cmpuint(service->answers[RAM_FIRST + i], ==, 1);
    }
    g_assert_cmpuint(service->nb_ready, ==, 4);
    g_assert_cmpuint(service->stats.requests, ==, 6);
    g_assert_cmpuint(service->stats.duplicate, ==, 2);
}

/* Between a request and the page that is given back */
static void coroutine_fn test_states(Service *service)
{
    SnapFetch *fetch;

    ask(service, RAM, 5, 1);
    g_assert_true(is_urgent(service));
    g_assert_false(snap_demand_is_quiet(service->demand));
    g_assert_null(snap_demand_take(service->demand, SNAP_PUSH_REQUESTED));
    while (!service->nb_ready) {
        snap_co_pause();
    }
    g_assert_false(is_urgent(service));
    g_assert_true(snap_demand_is_quiet(service->demand));
    g_assert_false(snap_demand_is_idle(service->demand));
    fetch = snap_demand_take(service->demand, SNAP_PUSH_REQUESTED);
    g_assert_nonnull(fetch);
    g_assert_false(snap_demand_is_idle(service->demand));
    g_assert_null(snap_demand_take(service->demand, SNAP_PUSH_REQUESTED));
    snap_demand_put(service->demand, fetch);
    g_assert_true(snap_demand_is_idle(service->demand));
}

/* What nobody took is freed as well. */
static void coroutine_fn test_not_taken(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    for (unsigned i = 0; i < 100; i++) {
        ask(service, RAM, i * 20, 1);
    }
    while (!snap_demand_is_quiet(service->demand)) {
        snap_co_pause();
    }
    g_assert_false(snap_demand_is_idle(service->demand));
}

/* --- many at once --- */

static void coroutine_fn test_reads_in_flight(Service *service)
{
    for (unsigned i = 0; i < 8; i++) {
        ask(service, RAM, 10 * i + 1, 1);
    }
    service->saved->snapshot.disk->max_in_flight = 0;
    serve(service);
    g_assert_cmpuint(service->saved->snapshot.disk->max_in_flight, >, 1);
    g_assert_cmpuint(service->nb_ready, ==, 8);
}

/* All of RAM in one request, of which each page is answered */
static void coroutine_fn test_all_pages(Service *service)
{
    for (int block = 0; block < NB_BLOCKS; block++) {
        const SnapRAMBlocks *ram = &service->saved->ram.ram;

        ask(service, block, 0,
            snap_ram_block_pages(ram, &ram->blocks[block]));
    }
    serve(service);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        g_assert_cmpuint(service->answers[page], ==, 1);
    }
}

/* Memory does not grow with what is asked for and not taken. */
static void coroutine_fn test_reads_are_bounded(Service *service)
{
    unsigned nb_reads;

    ask(service, RAM, 0, HUGE_PAGES);
    while (!snap_demand_is_quiet(service->demand)) {
        snap_co_pause();
    }
    nb_reads = service->nb_ready;
    g_assert_cmpuint(nb_reads, <, 100);
    g_assert_true(is_urgent(service));
    g_assert_true(serve_one(service, SNAP_PUSH_REQUESTED));
    serve(service);
    g_assert_cmpuint(service->nb_ready, ==, HUGE_PAGES);
}

/* Random pages while others are served: each one is answered once. */
static void coroutine_fn check_random(Service *service)
{
    GRand *rand = g_rand_new_with_seed(20260208);
    g_autofree bool *requested = g_new0(bool, NB_PAGES);

    for (unsigned i = 0; i < NB_RANDOM; i++) {
        uint64_t page = g_rand_int_range(rand, 0, NB_PAGES);

        request_page(service, page);
        requested[page] = true;
        if (g_rand_boolean(rand)) {
            snap_co_pause();
            serve_one(service, g_rand_boolean(rand) ? SNAP_PUSH_REQUESTED
                                                    : SNAP_PUSH_FAULT_AROUND);
        }
    }
    serve(service);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        g_assert_cmpuint(service->answers[page], <=, 1);
        if (requested[page]) {
            g_assert_cmpuint(service->answers[page], ==, 1);
        }
    }
    g_assert_cmpuint(service->stats.requests, ==, NB_RANDOM);
    g_rand_free(rand);
}

static void coroutine_fn test_random(Service *service)
{
    check_random(service);
}

static void coroutine_fn test_random_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, 16);
    check_random(service);
}

/* --- pages around --- */

/* What is around, when a page is asked for, is @expected. */
static void coroutine_fn check_around(Service *service, int block,
                                      uint64_t page, const char *expected)
{
    ask(service, block, page, 1);
    serve_reason(service, SNAP_PUSH_REQUESTED);
    g_string_truncate(service->log, 0);
    serve_reason(service, SNAP_PUSH_FAULT_AROUND);
    g_assert_true(snap_demand_is_idle(service->demand));
    g_assert_cmpstr(service->log->str, ==, expected);
}

static void coroutine_fn test_none_around(Service *service)
{
    check_around(service, RAM, 5, "");
    snap_demand_set_fault_around(service->demand, 8);
    snap_demand_set_fault_around(service->demand, 0);
    check_around(service, RAM, 105, "");
}

static void coroutine_fn test_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    check_around(service, RAM, 100, "1+101:8 ");
    for (unsigned i = 0; i < 9; i++) {
        g_assert_cmpuint(service->answers[RAM_FIRST + 100 + i], ==, 1);
    }
    g_assert_cmpuint(service->answers[RAM_FIRST + 109], ==, 0);
}

static void coroutine_fn test_around_at_end_of_block(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    check_around(service, VGA, VGA_PAGES - 1, "");
    check_around(service, VGA, VGA_PAGES - 4, "0+74:2 ");
    check_around(service, ROM, 0, "2+1:2 ");
    check_around(service, RAM, RAM_PAGES - 9, "1+2040:8 ");
}

static void coroutine_fn test_around_stops_at_sent(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST + 104, 1));
    check_around(service, RAM, 100, "1+101:3 ");
}

/* Only that many pages after the requested one count. */
static void coroutine_fn test_around_is_all_sent(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST + 101, 8));
    check_around(service, RAM, 100, "");
}

/* What was sent among them is not made up for. */
static void coroutine_fn test_around_after_sent(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST + 101, 3));
    check_around(service, RAM, 100, "1+104:5 ");
}

static void coroutine_fn test_most_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, SNAP_DEMAND_MAX_FAULT_AROUND);
    check_around(service, RAM, 100, "1+101:256 ");
    snap_demand_set_fault_around(service->demand, UINT_MAX);
    check_around(service, RAM, 1000, "1+1001:256 ");
}

/* A page that is around another one is asked for before it was sent. */
static void coroutine_fn test_requested_and_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    ask(service, RAM, 100, 1);
    ask(service, RAM, 103, 1);
    serve(service);
    for (unsigned i = 0; i < 9; i++) {
        g_assert_cmpuint(service->answers[RAM_FIRST + 100 + i], ==, 1);
    }
    g_assert_cmpuint(service->stats.requests, ==, 2);
}

/* What is around is not asked for: nobody waits for it. */
static void coroutine_fn test_around_is_not_urgent(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    ask(service, RAM, 100, 1);
    serve_reason(service, SNAP_PUSH_REQUESTED);
    g_assert_false(is_urgent(service));
    g_assert_false(snap_demand_is_idle(service->demand));
    g_assert_cmpuint(service->stats.requests, ==, 1);
    serve(service);
}

/* A request for what is on the way reads nothing around it. */
static void coroutine_fn test_around_of_sent(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST + 100, 1));
    ask(service, RAM, 100, 1);
    check_log(service, "");
}

/* --- host pages of many target pages --- */

static void coroutine_fn test_large_pages(Service *service)
{
    ask(service, RAM, 16, 16);
    check_log(service, "1+16:16 ");
    ask(service, RAM, 32, 32);
    serve(service);
    for (unsigned i = 16; i < 64; i++) {
        g_assert_cmpuint(service->answers[RAM_FIRST + i], ==, 1);
    }
    g_assert_cmpuint(service->nb_ready, ==, 3);
}

/* Whole host pages only, and as many as fit */
static void coroutine_fn test_large_pages_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, 15);
    ask(service, RAM, 16, 16);
    check_log(service, "1+16:16 ");
    snap_demand_set_fault_around(service->demand, 40);
    ask(service, RAM, 160, 16);
    serve_reason(service, SNAP_PUSH_REQUESTED);
    g_string_truncate(service->log, 0);
    check_log(service, "1+176:32 ");
}

/* The taker reads pages that are larger than a buffer. */
static void coroutine_fn test_huge_pages(Service *service)
{
    ask(service, RAM, HUGE_PAGES, HUGE_PAGES);
    ask(service, RAM, 0, 2 * HUGE_PAGES);
    serve(service);
    for (unsigned i = 0; i < 2 * HUGE_PAGES; i++) {
        g_assert_cmpuint(service->answers[RAM_FIRST + i], ==, 1);
    }
    g_assert_cmpuint(service->nb_ready, ==, 2);
    g_assert_cmpuint(service->stats.duplicate, ==, 1);
}

static void coroutine_fn test_huge_pages_around(Service *service)
{
    snap_demand_set_fault_around(service->demand, SNAP_DEMAND_MAX_FAULT_AROUND);
    ask(service, RAM, 0, HUGE_PAGES);
    check_log(service, "1+0:512 ");
    check_around(service, VGA, 70, "0+71:6 ");
}

/* --- errors --- */

static void coroutine_fn fail_reads(Service *service, bool fail)
{
    service->saved->snapshot.disk->fail_reads = fail;
    service->saved->snapshot.disk->fail_ret = -EIO;
}

/* A request for page 5 of RAM fails with @code. */
static void coroutine_fn check_failure(Service *service, int code)
{
    SnapFetch *fetch;

    ask(service, RAM, 5, 1);
    while (!service->nb_ready) {
        snap_co_pause();
    }
    fetch = snap_demand_take(service->demand, SNAP_PUSH_REQUESTED);
    g_assert_nonnull(fetch);
    g_assert_cmpint(fetch->ret, ==, code);
    g_assert_nonnull(fetch->err);
    g_assert_cmpuint(fetch->item.pages.range.first, ==, RAM_FIRST + 5);
    g_assert_cmpuint(fetch->item.pages.range.count, ==, 1);
    snap_demand_put(service->demand, fetch);
    g_assert_true(snap_demand_is_idle(service->demand));
}

/* The table is read first. */
static void coroutine_fn test_table_cannot_be_read(Service *service)
{
    fail_reads(service, true);
    check_failure(service, -EIO);
}

static void coroutine_fn test_page_cannot_be_read(Service *service)
{
    ask(service, RAM, 100, 1);
    check_log(service, "1+100:1 ");
    service->nb_ready = 0;
    fail_reads(service, true);
    check_failure(service, -EIO);
}

static void coroutine_fn test_corrupt_page(Service *service)
{
    uint64_t offset = service->saved->image->layout.offsets[RAM] + 5 * PAGE;

    service->saved->snapshot.disk->bytes[offset + 4095] ^= 1;
    check_failure(service, -EBADMSG);
}

static void coroutine_fn test_corrupt_table(Service *service)
{
    const SnapHeader *header = &service->saved->image->header;

    service->saved->snapshot.disk->bytes[
        header->parts[SNAP_PART_PAGE_TABLE].offset] ^= 1;
    check_failure(service, -EBADMSG);
}

/* After an error that passes, other pages are served. */
static void coroutine_fn test_error_passes(Service *service)
{
    snap_demand_set_fault_around(service->demand, 8);
    fail_reads(service, true);
    for (unsigned i = 0; i < 50; i++) {
        ask(service, RAM, 20 * i, 1);
    }
    serve(service);
    g_assert_cmpuint(service->nb_failed, >=, 50);
    fail_reads(service, false);
    g_string_truncate(service->log, 0);
    snap_demand_set_fault_around(service->demand, 0);
    ask(service, VGA, 5, 1);
    check_log(service, "0+5:1 ");
    g_assert_cmpuint(service->answers[VGA_FIRST + 5], ==, 1);
}

/* --- recording --- */

static GArray *record(Service *service, unsigned max_pages)
{
    GArray *pages = g_array_new(false, false, sizeof(uint64_t));

    snap_demand_record(service->demand, pages, max_pages);
    return pages;
}

static void assert_recorded(const GArray *pages, const uint64_t *expected,
                            unsigned nb_expected)
{
    g_assert_cmpmem(pages->data, pages->len * sizeof(uint64_t),
                    expected, nb_expected * sizeof(uint64_t));
}

static void coroutine_fn test_record(Service *service)
{
    static const uint64_t expected[] = {
        RAM_FIRST + 50, VGA_FIRST + 3, ROM_FIRST, ROM_FIRST + 1, RAM_FIRST,
    };
    g_autoptr(GArray) pages = record(service, 100);

    ask(service, RAM, 50, 1);
    ask(service, VGA, 3, 1);
    ask(service, RAM, 50, 1);
    ask(service, ROM, 0, 2);
    serve(service);
    ask(service, VGA, 3, 1);
    ask(service, RAM, 0, 1);
    serve(service);
    assert_recorded(pages, expected, ARRAY_SIZE(expected));
}

/* What was sent before it was asked for is used all the same. */
static void coroutine_fn test_record_sent(Service *service)
{
    static const uint64_t expected[] = { RAM_FIRST + 7, RAM_FIRST + 6 };
    g_autoptr(GArray) pages = record(service, 100);

    snap_page_map_send(&service->saved->ram.map, PAGES(RAM_FIRST, 10));
    ask(service, RAM, 7, 1);
    ask(service, RAM, 7, 1);
    ask(service, RAM, 6, 1);
    check_log(service, "");
    assert_recorded(pages, expected, ARRAY_SIZE(expected));
}

/* What is around was not asked for. */
static void coroutine_fn test_record_around(Service *service)
{
    static const uint64_t expected[] = { RAM_FIRST + 7, RAM_FIRST + 9 };
    g_autoptr(GArray) pages = record(service, 100);

    snap_demand_set_fault_around(service->demand, 8);
    ask(service, RAM, 7, 1);
    serve(service);
    assert_recorded(pages, expected, 1);
    ask(service, RAM, 9, 1);
    serve(service);
    assert_recorded(pages, expected, 2);
}

static void coroutine_fn test_record_is_bounded(Service *service)
{
    static const uint64_t expected[] = {
        RAM_FIRST + 9, RAM_FIRST + 8, RAM_FIRST + 7,
    };
    g_autoptr(GArray) pages = record(service, 3);

    for (unsigned i = 0; i < 10; i++) {
        ask(service, RAM, 9 - i, 1);
    }
    serve(service);
    assert_recorded(pages, expected, ARRAY_SIZE(expected));
    g_assert_cmpuint(service->nb_ready, ==, 10);
}

static void coroutine_fn test_record_nothing(Service *service)
{
    g_autoptr(GArray) pages = record(service, 0);

    ask(service, RAM, 5, 1);
    check_log(service, "1+5:1 ");
    g_assert_cmpuint(pages->len, ==, 0);
}

/* A host page is recorded by the number of its first page. */
static void coroutine_fn test_record_huge(Service *service)
{
    static const uint64_t expected[] = {
        RAM_FIRST + HUGE_PAGES, RAM_FIRST + 2 * HUGE_PAGES,
    };
    g_autoptr(GArray) pages = record(service, 100);

    ask(service, RAM, HUGE_PAGES, 2 * HUGE_PAGES);
    serve(service);
    assert_recorded(pages, expected, ARRAY_SIZE(expected));
}

typedef struct DemandTest {
    const char *path;
    void coroutine_fn (*fn)(Service *service);
    unsigned host_bits;         /* PAGE_BITS where that is 0 */
} DemandTest;

static const DemandTest tests[] = {
    { "nothing-is-read-without-a-request", test_nothing_requested },
    { "page-is-answered", test_one_page },
    { "zero-page-is-answered", test_zero_page },
    { "page-that-was-never-sent-is-answered", test_page_that_was_never_sent },
    { "several-pages-are-answered-one-by-one", test_several_pages },
    { "last-pages-of-blocks-are-answered", test_last_pages },
    { "page-sent-before-is-not-answered", test_sent_before },
    { "repeated/while-queued-is-answered-once", test_repeated_while_queued },
    { "repeated/while-ready-is-answered-once", test_repeated_while_ready },
    { "repeated/after-the-answer-is-not-answered", test_repeated_after_answer },
    { "repeated/rest-of-a-request-is-answered", test_overlapping_requests },
    { "states-follow-a-request-to-its-end", test_states },
    { "pages-that-nobody-takes-are-freed", test_not_taken },
    { "many/reads-run-together", test_reads_in_flight },
    { "many/all-of-ram-is-answered", test_all_pages },
    { "many/memory-is-bounded", test_reads_are_bounded },
    { "many/random-requests-are-answered-once", test_random },
    { "many/random-requests-are-answered-once/fault-around",
      test_random_around },
    { "fault-around/pages-that-follow-come-too", test_around },
    { "fault-around/none-if-it-is-off", test_none_around },
    { "fault-around/ends-with-the-block", test_around_at_end_of_block },
    { "fault-around/ends-at-a-page-that-was-sent", test_around_stops_at_sent },
    { "fault-around/none-if-all-were-sent", test_around_is_all_sent },
    { "fault-around/pages-that-were-sent-are-not-made-up-for",
      test_around_after_sent },
    { "fault-around/is-bounded", test_most_around },
    { "fault-around/page-may-be-requested-before-it-is-sent",
      test_requested_and_around },
    { "fault-around/pages-wait-for-requests", test_around_is_not_urgent },
    { "fault-around/none-for-a-page-on-its-way", test_around_of_sent },
    { "large/host-page-is-answered-whole", test_large_pages, LARGE_BITS },
    { "large/fault-around-has-whole-host-pages",
      test_large_pages_around, LARGE_BITS },
    { "huge/host-page-is-answered-once", test_huge_pages, HUGE_BITS },
    { "huge/fault-around-is-for-small-host-pages",
      test_huge_pages_around, HUGE_BITS },
    { "error/of-the-table-is-reported", test_table_cannot_be_read },
    { "error/of-a-page-is-reported", test_page_cannot_be_read },
    { "error/corrupt-page-is-reported", test_corrupt_page },
    { "error/corrupt-table-is-reported", test_corrupt_table },
    { "error/other-pages-are-answered-after-it", test_error_passes },
    { "record/has-pages-in-the-order-of-requests", test_record },
    { "record/has-pages-that-were-sent-before", test_record_sent },
    { "record/has-no-pages-of-fault-around", test_record_around },
    { "record/is-bounded", test_record_is_bounded },
    { "record/may-have-nothing", test_record_nothing },
    { "record/has-the-first-page-of-a-host-page", test_record_huge, HUGE_BITS },
};

typedef struct TestRun {
    const DemandTest *test;
    SavedRAM saved;
} TestRun;

static void coroutine_fn call_demand_test(void *opaque)
{
    TestRun *run = opaque;
    Service service;

    saved_ram_send_pages(&run->saved);
    saved_ram_commit(&run->saved, NULL, 0);
    service_begin(&service, &run->saved);
    run->test->fn(&service);
    service_end(&service);
}

static void run_demand_test(gconstpointer data)
{
    TestRun run = { .test = data };

    saved_ram_init(&run.saved, run.test->host_bits ?: PAGE_BITS);
    run_in_coroutine(call_demand_test, &run);
    saved_ram_destroy(&run.saved);
}

/* --- more pages than anybody can wait for --- */

static void ignore_ready(void *opaque)
{
}

/* A demand is asked for one page more again and again. */
static void coroutine_fn request_too_many(SnapImage *image, SnapPageMap *map)
{
    uint64_t limit = SNAP_DEMAND_MAX_WAITING;
    SnapPostcopyStats stats = { };
    SnapDemand *demand = snap_demand_new(&image->source, map, &stats,
                                         ignore_ready, NULL);
    Error *err = NULL;
    int ret = snap_demand_request(demand, PAGES(0, limit), &error_abort);

    g_assert_cmpint(ret, ==, 0);
    for (uint64_t page = limit; !ret && page < map->ram->nb_pages; page++) {
        ret = snap_demand_request(demand, PAGES(page, 1), &err);
    }
    assert_failed(ret, -ENOBUFS, &err);
    while (!snap_demand_is_quiet(demand)) {
        snap_co_pause();
    }
    snap_demand_free(demand);
}

static void coroutine_fn save_and_request_too_many(void *opaque)
{
    Snapshot *s = opaque;
    unsigned bits = s->blocks.page_bits;
    const SnapHostPages host_pages = {
        .ram = &s->blocks, .bits = &bits, .default_bits = bits,
    };
    g_autoptr(SnapImage) image = NULL;
    SnapPageMap map;

    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    snap_page_map_init(&map, &s->blocks, &host_pages, &error_abort);
    request_too_many(image, &map);
    snap_page_map_destroy(&map);
}

static void test_too_many(void)
{
    Snapshot s = { };

    snap_ram_blocks_init(&s.blocks, SNAP_MIN_PAGE_BITS);
    snap_ram_blocks_add(&s.blocks, "pc.ram",
                        (SNAP_DEMAND_MAX_WAITING + 100) << SNAP_MIN_PAGE_BITS,
                        0, &error_abort);
    s.blk = slow_disk_open(&s.disk);
    snapshot_begin(&s);
    run_in_coroutine(save_and_request_too_many, &s);
    snapshot_end(&s);
}

/* Request a page that is being read, is ready, and is given back. */
static void coroutine_fn request_from_memory(SomeRAM *ram, MemorySource *memory,
                                             uint64_t page)
{
    SnapPostcopyStats stats = { };
    SnapDemand *demand = snap_demand_new(&memory->source, &ram->map, &stats,
                                         ignore_ready, NULL);
    SnapFetch *fetch;

    snap_demand_request(demand, PAGES(page, 1), &error_abort);
    while (!(fetch = snap_demand_take(demand, SNAP_PUSH_REQUESTED))) {
        snap_co_pause();
    }
    g_assert_cmpint(fetch->ret, ==, 0);
    g_assert_cmpuint(fetch->item.pages.range.first, ==, page);
    g_assert_cmpuint(fetch->item.pages.range.count, ==, 1);
    assert_memory(memory, &fetch->item.pages);
    snap_demand_put(demand, fetch);
    g_assert_true(snap_demand_is_idle(demand));
    snap_demand_free(demand);
}

/* Whatever has the pages, here no image */
static void coroutine_fn save_nothing_and_request(void *opaque)
{
    SomeRAM *ram = opaque;
    g_autofree uint64_t *entries = g_new0(uint64_t, NB_PAGES);
    MemorySource memory;

    entries[RAM_FIRST + 5] = 12345;
    entries[RAM_FIRST + 6] = SNAP_PAGE_ZERO;
    memory_source_init(&memory, &ram->ram, entries);
    for (uint64_t page = RAM_FIRST + 4; page < RAM_FIRST + 7; page++) {
        request_from_memory(ram, &memory, page);
    }
    g_assert_cmpuint(memory.nb_started, ==, 3);
    g_assert_cmpuint(memory.nb_held, ==, 0);
    g_assert_cmpuint(memory.nb_readers, ==, 0);
}

static void test_any_source(void)
{
    SomeRAM ram;

    some_ram_init(&ram, PAGE_BITS);
    run_in_coroutine(save_nothing_and_request, &ram);
    some_ram_destroy(&ram);
}

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    g_test_add_func("/snap/demand/many/too-many-are-refused", test_too_many);
    g_test_add_func("/snap/demand/any-source-will-do", test_any_source);
    ADD_TESTS("/snap/demand/", tests, run_demand_test);
    return g_test_run();
}
