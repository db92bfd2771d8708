/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of reserving places for pages in the buffers of the RAM writer
 */

#include "qemu/osdep.h"
#include "image-model.h"
#include "image-test.h"

/* --- pages of several channels --- */

#define NB_SENDERS  20
#define BATCH       128
#define MIB_PAGES   256

/* Pages that have places and no data yet */
typedef struct Reserved {
    const uint64_t *pages;
    unsigned nb_pages;
    QEMUIOVector qiov;
} Reserved;

static void coroutine_fn reserve(Snapshot *s, Reserved *r,
                                 const uint64_t *pages, unsigned nb_pages)
{
    r->pages = pages;
    qemu_iovec_init(&r->qiov, nb_pages);
    r->nb_pages = snap_ram_writer_reserve_several(s->ram, pages, nb_pages,
                                                  &r->qiov);
    g_assert_cmpuint(r->nb_pages, >, 0);
    g_assert_cmpuint(r->nb_pages, <=, nb_pages);
    g_assert_cmpuint(r->qiov.size, ==, r->nb_pages << s->blocks.page_bits);
}

static int coroutine_fn try_commit_reserved(Snapshot *s, Reserved *r,
                                            uint32_t seed, Error **errp)
{
    size_t page_size = snap_ram_page_size(&s->blocks);
    g_autofree uint8_t *data = g_malloc(page_size);

    for (unsigned i = 0; i < r->nb_pages; i++) {
        fill_page(s, data, seed + i);
        qemu_iovec_from_buf(&r->qiov, i * page_size, data, page_size);
        s->model[r->pages[i]] = seed + i;
    }
    qemu_iovec_destroy(&r->qiov);
    return snap_ram_writer_commit_several(s->ram, r->pages, r->nb_pages, errp);
}

static void coroutine_fn commit_reserved(Snapshot *s, Reserved *r,
                                         uint32_t seed)
{
    g_assert_cmpint(try_commit_reserved(s, r, seed, &error_abort), ==, 0);
}

/* As a channel does it with a packet; returns how many pieces it took. */
static unsigned coroutine_fn send_packet(Snapshot *s, const uint64_t *pages,
                                         unsigned nb_pages, uint32_t seed)
{
    unsigned done = 0, pieces = 0;

    while (done < nb_pages) {
        Reserved r;

        reserve(s, &r, pages + done, nb_pages - done);
        commit_reserved(s, &r, seed + done);
        done += r.nb_pages;
        pieces++;
    }
    return pieces;
}

static void coroutine_fn test_several_in_order(Snapshot *s)
{
    uint64_t pages[BATCH];

    for (uint64_t first = 0; first < NB_PAGES; first += BATCH) {
        unsigned nb = MIN(BATCH, NB_PAGES - first);

        for (unsigned i = 0; i < nb; i++) {
            pages[i] = first + i;
        }
        send_packet(s, pages, nb, DATA + first);
    }
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, 0);
    g_assert_false(snap_ram_writer_repeated(s->ram));
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_several_scattered(Snapshot *s)
{
    uint64_t pages[BATCH];

    for (unsigned i = 0; i + BATCH <= NB_PAGES; i += BATCH) {
        for (unsigned j = 0; j < BATCH; j++) {
            pages[j] = (i + j) * 1031 % NB_PAGES;
        }
        send_packet(s, pages, BATCH, DATA + i);
    }
    commit(s);
    assert_snapshot(s);
}

/* Neighbours have one place, if they come in order. */
static void coroutine_fn test_several_neighbours(Snapshot *s)
{
    const uint64_t pages[] = { 7, 8, 9, 11, 12, 14, 13, 5 };
    Reserved r;

    reserve(s, &r, pages, ARRAY_SIZE(pages));
    g_assert_cmpuint(r.nb_pages, ==, ARRAY_SIZE(pages));
    g_assert_cmpint(r.qiov.niov, ==, 5);
    g_assert_cmpuint(r.qiov.iov[0].iov_len, ==, 3 * 4096);
    commit_reserved(s, &r, DATA);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_several_descending(Snapshot *s)
{
    uint64_t pages[BATCH];

    for (unsigned i = 0; i < BATCH; i++) {
        pages[i] = 320 - i;
    }
    g_assert_cmpuint(send_packet(s, pages, BATCH, DATA), ==, 2);
    commit(s);
    assert_snapshot(s);
}

/* The places are those up to the end of a buffer, or of a block. */
static void coroutine_fn test_several_end_of_buffer(Snapshot *s)
{
    const uint64_t pages[] = {
        254, 255, 256, 257, 2815, 2816, 2817, 2818, 2819, 2820, 2821, 0,
    };
    static const unsigned expected[] = { 2, 2, 1, 3, 1, 2, 1 };
    unsigned done = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        Reserved r;

        reserve(s, &r, pages + done, ARRAY_SIZE(pages) - done);
        g_assert_cmpuint(r.nb_pages, ==, expected[i]);
        commit_reserved(s, &r, DATA + done);
        done += r.nb_pages;
    }
    g_assert_cmpuint(done, ==, ARRAY_SIZE(pages));
    commit(s);
    assert_snapshot(s);
}

/* Whatever is written meanwhile, and it is not written itself. */
static void coroutine_fn test_several_keeps_buffer(Snapshot *s)
{
    const uint64_t pages[] = { 3, 4, 6 };
    Reserved r;

    send_page(s, 5, DATA);
    reserve(s, &r, pages, ARRAY_SIZE(pages));
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
            send_page(s, page + round, DATA + page);
        }
    }
    send_page(s, 7, DATA + 1);
    commit_reserved(s, &r, DATA + 20);
    commit(s);
    assert_snapshot(s);
}

/* Zeroes in a packet are a zero page, and what comes again wins. */
static void coroutine_fn test_several_last_page_wins(Snapshot *s)
{
    const uint64_t pages[] = { 10, 11, 12, 13 };
    Reserved r;

    send_packet(s, pages, 4, DATA);
    reserve(s, &r, pages, 4);
    qemu_iovec_memset(&r.qiov, 0, 0, r.qiov.size);
    qemu_iovec_destroy(&r.qiov);
    snap_ram_writer_commit_several(s->ram, pages, 4, &error_abort);
    for (unsigned i = 0; i < 4; i++) {
        s->model[pages[i]] = ZERO;
    }
    g_assert_true(snap_ram_writer_repeated(s->ram));
    snap_ram_writer_flush(s->ram, &error_abort);
    send_packet(s, pages + 1, 2, DATA + 10);
    send_page(s, 12, ZERO);
    commit(s);
    assert_snapshot(s);
    assert_reads_as_zero(s, 10);
    assert_reads_as_zero(s, 12);
}

/* One of several coroutines that bring pages */
typedef struct Sender {
    Snapshot *s;
    unsigned id;
    unsigned round;
    unsigned *nb_done;
} Sender;

static void coroutine_fn sender_entry(void *opaque)
{
    const Sender *sender = opaque;
    uint64_t pages[BATCH];
    unsigned nb = 0;

    for (uint64_t i = 0; i < NB_PAGES; i++) {
        uint64_t page = sender->id % 2 ? i : NB_PAGES - 1 - i;

        if ((page / 3 + sender->round * 7) % NB_SENDERS == sender->id) {
            pages[nb++] = page;
        }
        if (nb == BATCH || i == NB_PAGES - 1) {
            unsigned done = 0;

            while (done < nb) {
                Reserved r;

                reserve(sender->s, &r, pages + done, nb - done);
                qemu_co_sleep_ns(QEMU_CLOCK_REALTIME,
                                 (sender->id * 7 + i) % 5 * 20 * SCALE_US);
                commit_reserved(sender->s, &r, DATA + i + sender->round);
                done += r.nb_pages;
            }
            nb = 0;
        }
    }
    ++*sender->nb_done;
}

static void coroutine_fn wait_until_equal(const unsigned *value, unsigned to)
{
    while (*value != to) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 100 * SCALE_US);
    }
}

/* More of them than there are buffers, which each page comes from in turn */
static void coroutine_fn test_several_senders(Snapshot *s)
{
    Sender senders[NB_SENDERS];

    for (unsigned round = 0; round < 3; round++) {
        unsigned nb_done = 0;

        for (unsigned i = 0; i < NB_SENDERS; i++) {
            senders[i] = (Sender) { s, i, round, &nb_done };
            qemu_coroutine_enter(qemu_coroutine_create(sender_entry,
                                                       &senders[i]));
        }
        wait_until_equal(&nb_done, NB_SENDERS);
    }
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, 0);
    commit(s);
    assert_snapshot(s);
}

/* A coroutine that wants a buffer */
typedef struct Waiter {
    Snapshot *s;
    uint64_t page;
    unsigned done;
} Waiter;

static void coroutine_fn waiter_entry(void *opaque)
{
    Waiter *waiter = opaque;

    send_packet(waiter->s, &waiter->page, 1, DATA + 100);
    waiter->done = 1;
}

/* All buffers have places: who comes next waits for a commit. */
static void coroutine_fn test_several_waits(Snapshot *s)
{
    uint64_t pages[8];
    Reserved r[8];
    Waiter waiter = { .s = s, .page = 9 * MIB_PAGES };

    for (unsigned i = 0; i < 8; i++) {
        pages[i] = i * MIB_PAGES + 1;
        reserve(s, &r[i], &pages[i], 1);
    }
    qemu_coroutine_enter(qemu_coroutine_create(waiter_entry, &waiter));
    /* The others do not mind, and it is no matter who is the first. */
    send_page(s, MIB_PAGES + 2, DATA);
    qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 2 * SCALE_MS);
    g_assert_cmpuint(waiter.done, ==, 0);
    commit_reserved(s, &r[5], DATA + 5);
    wait_until_equal(&waiter.done, 1);
    for (unsigned i = 0; i < 8; i++) {
        if (i != 5) {
            commit_reserved(s, &r[i], DATA + i);
        }
    }
    commit(s);
    assert_snapshot(s);
}

/* Two that have places in the same buffer */
static void coroutine_fn test_several_in_one_buffer(Snapshot *s)
{
    const uint64_t pages[] = { 1, 2, 3, 4 };
    Reserved one, other;

    reserve(s, &one, pages, 2);
    reserve(s, &other, pages + 2, 2);
    commit_reserved(s, &one, DATA);
    for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
        send_page(s, page, DATA + page);
    }
    commit_reserved(s, &other, DATA + 50);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_several_failed_write(Snapshot *s)
{
    const uint64_t pages[] = { 5, MIB_PAGES };
    Error *err = NULL;
    Reserved r;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    send_packet(s, pages, 1, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    reserve(s, &r, pages + 1, 1);
    assert_failed(try_commit_reserved(s, &r, DATA, &err), -ENOSPC, &err);
    snap_ram_writer_abort(s->ram);
}

/* --- runs of pages --- */

/* Get a place for a run, and make it dirty as a reader may do. */
static uint8_t *coroutine_fn reserve_run(Snapshot *s, uint64_t page,
                                         unsigned *nb_pages)
{
    unsigned wanted = *nb_pages;
    uint8_t *data = snap_ram_writer_reserve(s->ram, page, nb_pages);

    g_assert_cmpuint(*nb_pages, >, 0);
    g_assert_cmpuint(*nb_pages, <=, wanted);
    memset(data, 0xee, (size_t)*nb_pages << s->blocks.page_bits);
    return data;
}

/* The first @nb_pages of a run have come. */
static void coroutine_fn fill_and_commit(Snapshot *s, uint8_t *data,
                                         uint64_t page, unsigned nb_pages,
                                         uint32_t seed)
{
    for (unsigned i = 0; i < nb_pages; i++) {
        fill_page(s, data + ((size_t)i << s->blocks.page_bits), seed + i);
        s->model[page + i] = seed + i;
    }
    g_assert_cmpint(snap_ram_writer_commit(s->ram, page, nb_pages,
                                           &error_abort), ==, 0);
}

/* Send up to @nb_pages of a run; returns how many there was room for. */
static unsigned coroutine_fn send_run(Snapshot *s, uint64_t page,
                                      unsigned nb_pages, uint32_t seed)
{
    unsigned room = UINT_MAX;
    uint8_t *data = reserve_run(s, page, &room);

    fill_and_commit(s, data, page, MIN(nb_pages, room), seed);
    return room;
}

static void coroutine_fn assert_room(Snapshot *s, uint64_t page,
                                     unsigned wanted, unsigned expected)
{
    unsigned room = wanted;

    snap_ram_writer_reserve(s->ram, page, &room);
    g_assert_cmpuint(room, ==, expected);
    snap_ram_writer_cancel(s->ram, page);
}

/* That all pages without data are zero in the image, too. */
static void coroutine_fn assert_no_garbage(Snapshot *s)
{
    for (uint64_t page = 0; page < s->blocks.nb_pages; page++) {
        if (s->model[page] < DATA) {
            assert_reads_as_zero(s, page);
        }
    }
}

static void coroutine_fn test_run_in_order(Snapshot *s)
{
    uint64_t page = 0;

    while (page < NB_PAGES) {
        unsigned room = send_run(s, page, 100, DATA + page);

        page += MIN(room, 100);
    }
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, 0);
    g_assert_false(snap_ram_writer_repeated(s->ram));
    g_assert_cmpuint(nb_arrivals(s), ==, 0);
    commit(s);
    assert_snapshot(s);
}

/* Up to the end of a buffer or of a block, and to what has been sent. */
static void coroutine_fn test_run_ends(Snapshot *s)
{
    assert_room(s, 0, UINT_MAX, MIB_PAGES);
    assert_room(s, 0, 1, 1);
    assert_room(s, 0, 7, 7);
    assert_room(s, MIB_PAGES - 1, UINT_MAX, 1);
    assert_room(s, MIB_PAGES, UINT_MAX, MIB_PAGES);
    assert_room(s, 2817, UINT_MAX, 2);
    assert_room(s, 2819, UINT_MAX, 1);
    assert_room(s, 2820, UINT_MAX, 255);
    assert_room(s, NB_PAGES - 1, UINT_MAX, 1);

    send_page(s, 10, DATA);
    send_page(s, 20, DATA + 1);
    assert_room(s, 0, UINT_MAX, 10);
    assert_room(s, 9, UINT_MAX, 1);
    /* One that comes again is overwritten, and nothing else is. */
    assert_room(s, 10, UINT_MAX, 10);
    assert_room(s, 11, 20, 9);
    assert_room(s, 20, UINT_MAX, MIB_PAGES - 20);

    snap_ram_writer_flush(s->ram, &error_abort);
    assert_room(s, 0, UINT_MAX, MIB_PAGES);
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, NB_PAGES - 2);
    commit(s);
    assert_snapshot(s);
}

/* Dirty room between pages, and in place of zero pages */
static void coroutine_fn test_run_garbage(Snapshot *s)
{
    send_page(s, 4, ZERO);
    send_page(s, 40, DATA);
    g_assert_cmpuint(send_run(s, 1, 2, DATA + 1), ==, 39);
    send_page(s, 10, ZERO);
    g_assert_cmpuint(send_run(s, 20, 3, DATA + 4), ==, 20);
    send_page(s, 21, ZERO);
    send_run(s, 2819, 1, DATA + 7);
    send_run(s, 2820, 1, DATA + 8);
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* What was written before stays, though there is room over it. */
static void coroutine_fn test_run_over_written(Snapshot *s)
{
    send_run(s, 10, 10, DATA);
    snap_ram_writer_flush(s->ram, &error_abort);
    g_assert_cmpuint(send_run(s, 5, 2, DATA + 20), ==, MIB_PAGES - 5);
    g_assert_cmpuint(send_run(s, 12, 1, DATA + 30), ==, MIB_PAGES - 12);
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* Zeroes amid a run are zero pages, and the last of all wins. */
static void coroutine_fn test_run_last_page_wins(Snapshot *s)
{
    unsigned room = 4;
    uint8_t *data;

    send_run(s, 10, 4, DATA);
    send_run(s, 13, 3, DATA + 10);
    g_assert_true(snap_ram_writer_repeated(s->ram));
    snap_ram_writer_flush(s->ram, &error_abort);
    data = reserve_run(s, 11, &room);
    memset(data, 0, 4 * 4096);
    fill_page(s, data + 4096, DATA + 20);
    snap_ram_writer_commit(s->ram, 11, 4, &error_abort);
    s->model[11] = s->model[13] = s->model[14] = ZERO;
    s->model[12] = DATA + 20;
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* Runs of any length, parts of which come, or nothing at all */
static void coroutine_fn test_run_random(Snapshot *s)
{
    GRand *rand = g_rand_new_with_seed(20260223);

    for (unsigned op = 0; op < 600; op++) {
        uint64_t page = g_rand_int_range(rand, 0, NB_PAGES);
        unsigned room = g_rand_boolean(rand) ? UINT_MAX :
                                               g_rand_int_range(rand, 1, 40);
        uint8_t *data;

        if (op % 5 == 4) {
            send_page(s, page, op % 2 ? ZERO : DATA + op);
            continue;
        }
        if (s->model[page] == UNSENT && op % 3 == 0) {
            reserve_run(s, page, &room);
            snap_ram_writer_cancel(s->ram, page);
        } else {
            data = reserve_run(s, page, &room);
            fill_and_commit(s, data, page,
                            g_rand_int_range(rand, 1, MIN(room, 20) + 1),
                            DATA + op);
        }
        if (op % 151 == 150) {
            snap_ram_writer_flush(s->ram, &error_abort);
        }
    }
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
    g_rand_free(rand);
}

static void coroutine_fn run_waiter_entry(void *opaque)
{
    Waiter *waiter = opaque;

    send_run(waiter->s, waiter->page, 1, DATA + 100);
    waiter->done = 1;
}

/* All buffers have places that wait: who comes next waits for a release. */
static void coroutine_fn test_run_waits(Snapshot *s)
{
    for (unsigned round = 0; round < 2; round++) {
        Waiter waiter = { .s = s, .page = 9 * MIB_PAGES + round };
        uint8_t *data[8];

        for (unsigned i = 0; i < 8; i++) {
            unsigned room = 3;

            data[i] = reserve_run(s, i * MIB_PAGES + 10 * round, &room);
        }
        qemu_coroutine_enter(qemu_coroutine_create(run_waiter_entry, &waiter));
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 2 * SCALE_MS);
        g_assert_cmpuint(waiter.done, ==, 0);
        if (round) {
            snap_ram_writer_cancel(s->ram, 5 * MIB_PAGES + 10 * round);
        } else {
            fill_and_commit(s, data[5], 5 * MIB_PAGES, 1, DATA + 5);
        }
        wait_until_equal(&waiter.done, 1);
        for (unsigned i = 0; i < 8; i++) {
            if (i != 5) {
                fill_and_commit(s, data[i], i * MIB_PAGES + 10 * round, 2,
                                DATA + 10 * i);
            }
        }
    }
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* Nothing of it is entered, and the buffer is free, in either way. */
static void coroutine_fn test_run_cancel(Snapshot *s)
{
    const uint64_t pages[] = { 3, 5, 4 };
    unsigned room = 10;
    Reserved r;

    reserve_run(s, 3, &room);
    g_assert_cmpuint(room, ==, 10);
    snap_ram_writer_cancel(s->ram, 3);
    assert_room(s, 1, UINT_MAX, MIB_PAGES - 1);
    reserve(s, &r, pages, 3);
    qemu_iovec_memset(&r.qiov, 0, 0xee, r.qiov.size);
    qemu_iovec_destroy(&r.qiov);
    snap_ram_writer_cancel(s->ram, 3);
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, NB_PAGES);
    g_assert_cmpuint(nb_arrivals(s), ==, 0);

    /* More buffers than there are */
    for (uint64_t page = 0; page < NB_PAGES; page += 64) {
        room = 8;
        reserve_run(s, page, &room);
        snap_ram_writer_cancel(s->ram, page);
    }
    send_page(s, 4, DATA);
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* It is only one of two that gives up. */
static void coroutine_fn test_run_cancel_one(Snapshot *s)
{
    unsigned room = 4;
    uint8_t *data = reserve_run(s, 30, &room);

    room = 4;
    reserve_run(s, 20, &room);
    snap_ram_writer_cancel(s->ram, 20);
    for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
        send_page(s, page, DATA + page);
    }
    fill_and_commit(s, data, 30, 4, DATA);
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* An error releases the buffer, too. */
static void coroutine_fn test_run_failed_write(Snapshot *s)
{
    Error *err = NULL;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    send_run(s, 5, 1, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    for (uint64_t page = 0; page < NB_PAGES; page += MIB_PAGES) {
        unsigned room = 3;
        uint8_t *data = reserve_run(s, page, &room);

        fill_page(s, data, DATA);
        assert_failed(snap_ram_writer_commit(s->ram, page, 1, &err), -ENOSPC,
                      &err);
    }
    snap_ram_writer_abort(s->ram);
}

static const ImageTest tests[] = {
    { "several/in-order-pages-are-stored", test_several_in_order },
    { "several/in-order-pages-are-stored/qcow2",
      test_several_in_order, "qcow2" },
    { "several/in-order-pages-are-stored/1k-pages",
      test_several_in_order, .page_bits = 10 },
    { "several/in-order-pages-are-stored/64k-pages",
      test_several_in_order, "qcow2", .page_bits = 16 },
    { "several/scattered-pages-are-stored", test_several_scattered },
    { "several/scattered-pages-are-stored/64k-pages",
      test_several_scattered, "raw", .page_bits = 16 },
    { "several/neighbours-share-a-place", test_several_neighbours },
    { "several/descending-pages-are-cut-at-the-end-of-a-buffer",
      test_several_descending },
    { "several/places-end-with-buffer-or-block", test_several_end_of_buffer },
    { "several/buffer-with-places-is-not-written", test_several_keeps_buffer },
    { "several/zeroes-are-zero-pages-and-the-last-page-wins",
      test_several_last_page_wins },
    { "several/more-senders-than-buffers-get-places-in-turn",
      test_several_senders },
    { "several/more-senders-than-buffers-get-places-in-turn/qcow2",
      test_several_senders, "qcow2" },
    { "several/more-senders-than-buffers-get-places-in-turn/1k-pages",
      test_several_senders, .page_bits = 10 },
    { "several/next-one-waits-if-all-buffers-have-places", test_several_waits },
    { "several/two-may-have-places-in-one-buffer", test_several_in_one_buffer },
    { "several/failed-write-releases-the-buffer", test_several_failed_write },
    { "run/in-order-pages-are-stored", test_run_in_order },
    { "run/in-order-pages-are-stored/qcow2", test_run_in_order, "qcow2" },
    { "run/in-order-pages-are-stored/1k-pages",
      test_run_in_order, .page_bits = 10 },
    { "run/in-order-pages-are-stored/64k-pages",
      test_run_in_order, "raw", .page_bits = 16 },
    { "run/ends-with-buffer-block-or-what-was-sent", test_run_ends },
    { "run/unused-places-leave-no-garbage", test_run_garbage },
    { "run/unused-places-leave-no-garbage/qcow2", test_run_garbage, "qcow2" },
    { "run/unused-places-leave-no-garbage/1k-pages",
      test_run_garbage, .page_bits = 10 },
    { "run/places-over-written-pages-keep-them", test_run_over_written },
    { "run/places-over-written-pages-keep-them/qcow2",
      test_run_over_written, "qcow2" },
    { "run/zeroes-are-zero-pages-and-the-last-page-wins",
      test_run_last_page_wins },
    { "run/random-runs-are-stored", test_run_random },
    { "run/random-runs-are-stored/raw", test_run_random, "raw" },
    { "run/random-runs-are-stored/qcow2", test_run_random, "qcow2" },
    { "run/random-runs-are-stored/1k-pages", test_run_random, .page_bits = 10 },
    { "run/random-runs-are-stored/64k-pages",
      test_run_random, "qcow2", .page_bits = 16 },
    { "run/next-one-waits-if-all-buffers-have-places", test_run_waits },
    { "run/cancelled-places-store-nothing", test_run_cancel },
    { "run/cancelling-one-keeps-the-others", test_run_cancel_one },
    { "run/failed-write-releases-the-buffer", test_run_failed_write },
};

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/ram-writer-reserve/", tests, run_test);
    return g_test_run();
}
