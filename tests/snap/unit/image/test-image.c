/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of writing, reading and checking a snapshot image
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "block/block.h"
#include "block/qdict.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qobject/qlist.h"
#include "snap/verb/check.h"
#include "snap/image/update.h"
#include "snap/verb/info.h"
#include "snap/image/ram-reader.h"
#include "snap/image/working-set.h"
#include "saved-snapshot.h"
#include "snap-coroutine.h"

#define NB_PAGES (2819 + 1 + 255)

static int coroutine_fn try_devices(Snapshot *s, const void *data,
                                    size_t length, Error **errp)
{
    g_byte_array_append(s->devices, data, length);
    return snap_image_writer_devices(s->image, data, length, errp);
}

/* Append @length bytes of device state in pieces of @step bytes. */
static void coroutine_fn send_devices(Snapshot *s, size_t length, size_t step)
{
    g_autofree uint8_t *data = g_malloc(length);

    for (size_t i = 0; i < length; i++) {
        data[i] = i * 31 + (i >> 8) * 17 + (i >> 16);
    }
    for (size_t pos = 0; pos < length; pos += step) {
        try_devices(s, data + pos, MIN(step, length - pos), &error_abort);
    }
}

static void coroutine_fn write_vmdesc(Snapshot *s, const char *vmdesc)
{
    snap_image_writer_vmdesc(s->image, vmdesc, strlen(vmdesc), &error_abort);
}

static SnapRAMReader *new_reader(SnapImage *image)
{
    return snap_ram_reader_new(image, MiB, NULL, NULL);
}

static void coroutine_fn assert_ram(const Snapshot *s, SnapImage *image)
{
    g_autoptr(SnapRAMReader) reader = new_reader(image);
    SnapRAMPiece piece;
    uint64_t next = 0;

    while (snap_ram_reader_next(reader, &piece, &error_abort) > 0) {
        uint64_t first = snap_layout_page(&image->layout,
                                          &image->layout.blocks[piece.block],
                                          piece.offset);

        g_assert_cmpuint(first, ==, next);
        assert_piece(s, &piece, first);
        next += piece.nb_pages;
    }
    g_assert_cmpuint(next, ==, s->layout.nb_pages);
}

static void assert_counts(const Snapshot *s, const SnapLayout *layout)
{
    for (unsigned i = 0; i < layout->nb_blocks; i++) {
        const SnapRAMBlock *block = &layout->blocks[i];
        uint64_t end = block->first_page +
                       snap_layout_block_pages(layout, block);
        uint64_t stored = 0, zero = 0;

        for (uint64_t page = block->first_page; page < end; page++) {
            stored += s->model[page] >= DATA;
            zero += s->model[page] == ZERO;
        }
        g_assert_cmpuint(block->stored_pages, ==, stored);
        g_assert_cmpuint(block->zero_pages, ==, zero);
    }
}

static void assert_layout(const Snapshot *s, const SnapLayout *layout)
{
    g_assert_cmpuint(layout->nb_blocks, ==, s->layout.nb_blocks);
    for (unsigned i = 0; i < s->layout.nb_blocks; i++) {
        g_assert_cmpstr(layout->blocks[i].name, ==, s->layout.blocks[i].name);
        g_assert_cmpuint(layout->blocks[i].length, ==,
                         s->layout.blocks[i].length);
        g_assert_cmpuint(layout->blocks[i].offset, ==,
                         s->layout.blocks[i].offset);
    }
}

static void coroutine_fn append(void *opaque, const void *data, size_t length)
{
    g_byte_array_append(opaque, data, length);
}

/* That a part of the image reads as expected, in either way. */
static void coroutine_fn assert_part(SnapImage *image, SnapPart part,
                                     const GByteArray *expected)
{
    g_autoptr(GByteArray) copy = g_byte_array_new();
    g_autoptr(GByteArray) whole = NULL;

    snap_image_copy_part(image, part, append, copy, &error_abort);
    g_assert_cmpmem(copy->data, copy->len, expected->data, expected->len);
    if (expected->len <= SNAP_MAX_PART_IN_MEMORY) {
        whole = snap_image_read_part(image, part, &error_abort);
        g_assert_cmpmem(whole->data, whole->len, expected->data,
                        expected->len);
    }
}

static void coroutine_fn check(Snapshot *s, SnapCheckResult *result)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    snap_check(image, result);
}

static void coroutine_fn assert_sound(Snapshot *s)
{
    SnapCheckResult result;
    uint64_t stored = 0;

    for (uint64_t page = 0; page < s->layout.nb_pages; page++) {
        stored += s->model[page] >= DATA;
    }
    check(s, &result);
    g_assert_cmpuint(result.pages_checked, ==, stored);
    g_assert_cmpuint(result.pages_corrupt, ==, 0);
    g_assert_cmpuint(result.corrupt_parts, ==, 0);
    g_assert_null(result.first);
}

/* That the image holds what the model says. */
static void coroutine_fn assert_snapshot(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    assert_layout(s, &image->layout);
    assert_counts(s, &image->layout);
    assert_ram(s, image);
    assert_part(image, SNAP_PART_CONFIGURATION, s->configuration);
    assert_part(image, SNAP_PART_SETUP, s->setup);
    assert_part(image, SNAP_PART_DEVICES, s->devices);
    assert_sound(s);
}

static void coroutine_fn assert_not_complete(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    image = snap_image_open(s->blk, &err);
    g_assert_null(image);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn flip_bit(Snapshot *s, uint64_t offset)
{
    uint8_t byte;

    g_assert_cmpint(blk_co_pread(s->blk, offset, 1, &byte, 0), ==, 0);
    byte ^= 0x04;
    g_assert_cmpint(blk_co_pwrite(s->blk, offset, 1, &byte, 0), ==, 0);
}

/* Where page number @page lies in the image. */
static uint64_t page_offset(const Snapshot *s, uint64_t page)
{
    return snap_layout_offset(&s->layout,
                              snap_layout_block_of(&s->layout, page), page);
}

static uint64_t coroutine_fn part_offset(Snapshot *s, SnapPart part)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    return image->header.parts[part].offset;
}

static void coroutine_fn assert_reads_as_zero(Snapshot *s, uint64_t page)
{
    size_t page_size = snap_layout_page_size(&s->layout);
    g_autofree uint8_t *buf = g_malloc(page_size);

    g_assert_cmpint(blk_co_pread(s->blk, page_offset(s, page), page_size, buf,
                                 0), ==, 0);
    g_assert_true(buffer_is_zero(buf, page_size));
}

static void coroutine_fn test_empty(Snapshot *s)
{
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_in_order(Snapshot *s)
{
    for (uint64_t page = 0; page < s->layout.nb_pages; page++) {
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
    for (unsigned i = 0; i < s->layout.nb_blocks; i++) {
        const SnapRAMBlock *block = &s->layout.blocks[i];
        uint64_t nb = snap_layout_block_pages(&s->layout, block);

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
           snap_layout_page_size(&s->layout));
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
    send_page(s, 0, DATA);
    send_page(s, 1, ZERO);
    send_page(s, 1, DATA);
    send_page(s, 2, DATA);
    send_page(s, 2, ZERO);
    assert_counts(s, &s->layout);
    snap_ram_writer_abort(s->ram);
}

/* Streaks of pages with jumps, pages that repeat and change what they are. */
static void coroutine_fn test_random(Snapshot *s)
{
    GRand *rand = g_rand_new_with_seed(20260105);
    uint64_t nb_ops = MIN(64 * MiB >> s->layout.page_bits, 8000);
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

/* RAM may go on behind a flush. */
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

/* --- pages of several channels --- */

#define NB_SENDERS  20
#define BATCH       128
#define MIB_PAGES   256

/* Pages that have places and no data yet */
typedef struct Held {
    const uint64_t *pages;
    unsigned nb_pages;
    QEMUIOVector qiov;
} Held;

static void coroutine_fn hold(Snapshot *s, Held *held, const uint64_t *pages,
                              unsigned nb_pages)
{
    held->pages = pages;
    qemu_iovec_init(&held->qiov, nb_pages);
    held->nb_pages = snap_ram_writer_reserve_several(s->ram, pages, nb_pages,
                                                     &held->qiov);
    g_assert_cmpuint(held->nb_pages, >, 0);
    g_assert_cmpuint(held->nb_pages, <=, nb_pages);
    g_assert_cmpuint(held->qiov.size, ==,
                     held->nb_pages << s->layout.page_bits);
}

static int coroutine_fn try_add_held(Snapshot *s, Held *held, uint32_t seed,
                                     Error **errp)
{
    size_t page_size = snap_layout_page_size(&s->layout);
    g_autofree uint8_t *data = g_malloc(page_size);

    for (unsigned i = 0; i < held->nb_pages; i++) {
        fill_page(s, data, seed + i);
        qemu_iovec_from_buf(&held->qiov, i * page_size, data, page_size);
        s->model[held->pages[i]] = seed + i;
    }
    qemu_iovec_destroy(&held->qiov);
    return snap_ram_writer_commit_several(s->ram, held->pages, held->nb_pages,
                                          errp);
}

static void coroutine_fn add_held(Snapshot *s, Held *held, uint32_t seed)
{
    g_assert_cmpint(try_add_held(s, held, seed, &error_abort), ==, 0);
}

/* As a channel does it with a packet; returns how many pieces it took. */
static unsigned coroutine_fn send_packet(Snapshot *s, const uint64_t *pages,
                                         unsigned nb_pages, uint32_t seed)
{
    unsigned done = 0, pieces = 0;

    while (done < nb_pages) {
        Held held;

        hold(s, &held, pages + done, nb_pages - done);
        add_held(s, &held, seed + done);
        done += held.nb_pages;
        pieces++;
    }
    return pieces;
}

static void coroutine_fn test_hold_in_order(Snapshot *s)
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

static void coroutine_fn test_hold_scattered(Snapshot *s)
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
static void coroutine_fn test_hold_places(Snapshot *s)
{
    const uint64_t pages[] = { 7, 8, 9, 11, 12, 14, 13, 5 };
    Held held;

    hold(s, &held, pages, ARRAY_SIZE(pages));
    g_assert_cmpuint(held.nb_pages, ==, ARRAY_SIZE(pages));
    g_assert_cmpint(held.qiov.niov, ==, 5);
    g_assert_cmpuint(held.qiov.iov[0].iov_len, ==, 3 * 4096);
    add_held(s, &held, DATA);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_hold_descending(Snapshot *s)
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
static void coroutine_fn test_hold_straddles(Snapshot *s)
{
    const uint64_t pages[] = {
        254, 255, 256, 257, 2815, 2816, 2817, 2818, 2819, 2820, 2821, 0,
    };
    static const unsigned expected[] = { 2, 2, 1, 3, 1, 2, 1 };
    unsigned done = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        Held held;

        hold(s, &held, pages + done, ARRAY_SIZE(pages) - done);
        g_assert_cmpuint(held.nb_pages, ==, expected[i]);
        add_held(s, &held, DATA + done);
        done += held.nb_pages;
    }
    g_assert_cmpuint(done, ==, ARRAY_SIZE(pages));
    commit(s);
    assert_snapshot(s);
}

/* Whatever is written meanwhile, and it is not written itself. */
static void coroutine_fn test_hold_keeps_buffer(Snapshot *s)
{
    const uint64_t pages[] = { 3, 4, 6 };
    Held held;

    send_page(s, 5, DATA);
    hold(s, &held, pages, ARRAY_SIZE(pages));
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
            send_page(s, page + round, DATA + page);
        }
    }
    send_page(s, 7, DATA + 1);
    add_held(s, &held, DATA + 20);
    commit(s);
    assert_snapshot(s);
}

/* Zeroes in a packet are a zero page, and what comes again wins. */
static void coroutine_fn test_hold_again(Snapshot *s)
{
    const uint64_t pages[] = { 10, 11, 12, 13 };
    Held held;

    send_packet(s, pages, 4, DATA);
    hold(s, &held, pages, 4);
    qemu_iovec_memset(&held.qiov, 0, 0, held.qiov.size);
    qemu_iovec_destroy(&held.qiov);
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
                Held held;

                hold(sender->s, &held, pages + done, nb - done);
                qemu_co_sleep_ns(QEMU_CLOCK_REALTIME,
                                 (sender->id * 7 + i) % 5 * 20 * SCALE_US);
                add_held(sender->s, &held, DATA + i + sender->round);
                done += held.nb_pages;
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
static void coroutine_fn test_hold_many(Snapshot *s)
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

/* All buffers are held: who comes next waits, also if the release fails. */
static void coroutine_fn test_hold_waits(Snapshot *s)
{
    uint64_t pages[8];
    Held held[8];
    Waiter waiter = { .s = s, .page = 9 * MIB_PAGES };

    for (unsigned i = 0; i < 8; i++) {
        pages[i] = i * MIB_PAGES + 1;
        hold(s, &held[i], &pages[i], 1);
    }
    qemu_coroutine_enter(qemu_coroutine_create(waiter_entry, &waiter));
    /* The others do not mind, and it is no matter who is the first. */
    send_page(s, MIB_PAGES + 2, DATA);
    qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 2 * SCALE_MS);
    g_assert_cmpuint(waiter.done, ==, 0);
    add_held(s, &held[5], DATA + 5);
    wait_until_equal(&waiter.done, 1);
    for (unsigned i = 0; i < 8; i++) {
        if (i != 5) {
            add_held(s, &held[i], DATA + i);
        }
    }
    commit(s);
    assert_snapshot(s);
}

/* Two that hold the same buffer */
static void coroutine_fn test_hold_twice(Snapshot *s)
{
    const uint64_t pages[] = { 1, 2, 3, 4 };
    Held one, other;

    hold(s, &one, pages, 2);
    hold(s, &other, pages + 2, 2);
    add_held(s, &one, DATA);
    for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
        send_page(s, page, DATA + page);
    }
    add_held(s, &other, DATA + 50);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_hold_error(Snapshot *s)
{
    const uint64_t pages[] = { 5, MIB_PAGES };
    Error *err = NULL;
    Held held;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    send_packet(s, pages, 1, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    hold(s, &held, pages + 1, 1);
    assert_failed(try_add_held(s, &held, DATA, &err), -ENOSPC, &err);
    snap_ram_writer_abort(s->ram);
}

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

static uint64_t nb_arrivals(Snapshot *s)
{
    bool truncated;

    return snap_ram_writer_arrivals(s->ram, &truncated);
}

/* --- runs of pages --- */

/* Get a place for a run, and make it dirty as a reader may do. */
static uint8_t *coroutine_fn place(Snapshot *s, uint64_t page,
                                   unsigned *nb_pages)
{
    unsigned wanted = *nb_pages;
    uint8_t *data = snap_ram_writer_reserve(s->ram, page, nb_pages);

    g_assert_cmpuint(*nb_pages, >, 0);
    g_assert_cmpuint(*nb_pages, <=, wanted);
    memset(data, 0xee, (size_t)*nb_pages << s->layout.page_bits);
    return data;
}

/* The first @nb_pages of a run have come. */
static void coroutine_fn fill_and_add(Snapshot *s, uint8_t *data,
                                      uint64_t page, unsigned nb_pages,
                                      uint32_t seed)
{
    for (unsigned i = 0; i < nb_pages; i++) {
        fill_page(s, data + ((size_t)i << s->layout.page_bits), seed + i);
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
    uint8_t *data = place(s, page, &room);

    fill_and_add(s, data, page, MIN(nb_pages, room), seed);
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
    for (uint64_t page = 0; page < s->layout.nb_pages; page++) {
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
static void coroutine_fn test_run_room(Snapshot *s)
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

/* Dirty room between pages, and where there are zero pages */
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
static void coroutine_fn test_run_again(Snapshot *s)
{
    unsigned room = 4;
    uint8_t *data;

    send_run(s, 10, 4, DATA);
    send_run(s, 13, 3, DATA + 10);
    g_assert_true(snap_ram_writer_repeated(s->ram));
    snap_ram_writer_flush(s->ram, &error_abort);
    data = place(s, 11, &room);
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
            place(s, page, &room);
            snap_ram_writer_cancel(s->ram, page);
        } else {
            data = place(s, page, &room);
            fill_and_add(s, data, page,
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

            data[i] = place(s, i * MIB_PAGES + 10 * round, &room);
        }
        qemu_coroutine_enter(qemu_coroutine_create(run_waiter_entry, &waiter));
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, 2 * SCALE_MS);
        g_assert_cmpuint(waiter.done, ==, 0);
        if (round) {
            snap_ram_writer_cancel(s->ram, 5 * MIB_PAGES + 10 * round);
        } else {
            fill_and_add(s, data[5], 5 * MIB_PAGES, 1, DATA + 5);
        }
        wait_until_equal(&waiter.done, 1);
        for (unsigned i = 0; i < 8; i++) {
            if (i != 5) {
                fill_and_add(s, data[i], i * MIB_PAGES + 10 * round, 2,
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
    Held held;

    place(s, 3, &room);
    g_assert_cmpuint(room, ==, 10);
    snap_ram_writer_cancel(s->ram, 3);
    assert_room(s, 1, UINT_MAX, MIB_PAGES - 1);
    hold(s, &held, pages, 3);
    qemu_iovec_memset(&held.qiov, 0, 0xee, held.qiov.size);
    qemu_iovec_destroy(&held.qiov);
    snap_ram_writer_cancel(s->ram, 3);
    g_assert_cmpuint(snap_ram_writer_missing(s->ram), ==, NB_PAGES);
    g_assert_cmpuint(nb_arrivals(s), ==, 0);

    /* More buffers than there are */
    for (uint64_t page = 0; page < NB_PAGES; page += 64) {
        room = 8;
        place(s, page, &room);
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
    uint8_t *data = place(s, 30, &room);

    room = 4;
    place(s, 20, &room);
    snap_ram_writer_cancel(s->ram, 20);
    for (uint64_t page = MIB_PAGES; page < NB_PAGES; page += MIB_PAGES) {
        send_page(s, page, DATA + page);
    }
    fill_and_add(s, data, 30, 4, DATA);
    commit(s);
    assert_snapshot(s);
    assert_no_garbage(s);
}

/* An error releases the buffer, too. */
static void coroutine_fn test_run_error(Snapshot *s)
{
    Error *err = NULL;

    s->disk->fail_ret = -ENOSPC;
    s->disk->fail_at = page_offset(s, 5);
    send_run(s, 5, 1, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
    for (uint64_t page = 0; page < NB_PAGES; page += MIB_PAGES) {
        unsigned room = 3;
        uint8_t *data = place(s, page, &room);

        fill_page(s, data, DATA);
        assert_failed(snap_ram_writer_commit(s->ram, page, 1, &err), -ENOSPC,
                      &err);
    }
    snap_ram_writer_abort(s->ram);
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

/* The source goes on behind the page that it jumped to. */
static void coroutine_fn test_order_goes_on_behind_jump(Snapshot *s)
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

static void coroutine_fn test_not_complete_before_commit(Snapshot *s)
{
    assert_not_complete(s);
    send_page(s, 0, DATA);
    send_devices(s, 200 * KiB, 4096);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_flush_ram(s->image, 0, &error_abort);
    assert_not_complete(s);
}

/* The commit writes what is missing. */
static void coroutine_fn test_commit_without_flush_ram(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 6, ZERO);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_commit(s->image, &s->info, &error_abort);
    assert_sound(s);
}

static void coroutine_fn test_invalidate(Snapshot *s)
{
    commit(s);
    snap_image_writer_invalidate(s->image, &error_abort);
    assert_not_complete(s);
}

static void coroutine_fn test_devices(Snapshot *s)
{
    static const size_t lengths[] = {
        1, 511, 4095, 1, SNAP_DEVICE_CHUNK, SNAP_DEVICE_CHUNK - 1,
        3 * SNAP_DEVICE_CHUNK + 7, 2,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        send_devices(s, lengths[i], lengths[i]);
    }
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_one_byte_of_devices(Snapshot *s)
{
    send_devices(s, 1, 1);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_whole_chunks_of_devices(Snapshot *s)
{
    send_devices(s, 2 * SNAP_DEVICE_CHUNK, 4096);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_devices_beyond_reserve(Snapshot *s)
{
    int64_t size = blk_co_getlength(s->blk);

    send_page(s, 0, DATA);
    send_devices(s, SNAP_DEVICE_RESERVE + 5 * MiB + 3, MiB - 1);
    commit(s);
    assert_snapshot(s);
    g_assert_cmpint(blk_co_getlength(s->blk), >, size);
}

static void coroutine_fn test_devices_after_commit(Snapshot *s)
{
    send_devices(s, 100001, 4096);
    commit(s);
    snap_image_writer_invalidate(s->image, &error_abort);
    send_devices(s, 50001, 4096);
    assert_not_complete(s);
    commit(s);
    assert_snapshot(s);
}

static void coroutine_fn test_copy_without_func(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    send_devices(s, 100001, 4096);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpint(snap_image_copy_part(image, SNAP_PART_DEVICES, NULL, NULL,
                                         &error_abort), ==, 0);
}

static void coroutine_fn test_vmdesc(Snapshot *s)
{
    static const char vmdesc[] = "{\"page_size\": 4096}";
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;

    s->info.vmdesc_length = strlen(vmdesc);
    commit(s);
    write_vmdesc(s, vmdesc);
    assert_snapshot(s);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpmem(read->data, read->len, vmdesc, strlen(vmdesc));
}

static void coroutine_fn test_no_vmdesc(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;

    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpuint(read->len, ==, 0);
}

/* As a process leaves it that was killed behind the commit. */
static void coroutine_fn test_vmdesc_not_written(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;
    Error *err = NULL;

    send_page(s, 0, DATA);
    send_devices(s, 1000, 1000);
    s->info.vmdesc_length = 5000;
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    assert_ram(s, image);
    assert_part(image, SNAP_PART_DEVICES, s->devices);
    read = snap_image_read_part(image, SNAP_PART_VMDESC, &err);
    g_assert_null(read);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_metadata(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(QDict) metadata = NULL;

    qdict_put_str(s->metadata, "host", "caf\xc3\xa9");
    qdict_put_int(s->metadata, "number", 42);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    metadata = snap_image_metadata(image, &error_abort);
    g_assert_true(qobject_is_equal(QOBJECT(metadata), QOBJECT(s->metadata)));
}

static void coroutine_fn test_header(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    s->info.flags = SNAP_FLAG_RAM_END;
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpuint(image->header.page_bits, ==, s->layout.page_bits);
    g_assert_cmpuint(image->header.nb_pages, ==, s->layout.nb_pages);
    g_assert_cmpuint(image->header.before_ram, ==, s->info.before_ram);
    g_assert_cmpuint(image->header.section.id, ==, 2);
    g_assert_cmpuint(image->header.section.instance, ==, 1);
    g_assert_true(image->header.section.footers);
    g_assert_true(image->header.flags & SNAP_FLAG_RAM_END);
    g_assert_false(image->header.flags & SNAP_FLAG_ARRIVALS_TRUNCATED);
    g_assert_cmpuint(image->header.created, >, 1700000000);
}

/* Whether there are footers is known late. */
static void coroutine_fn test_late_section(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    send_page(s, 0, DATA);
    s->section = (SnapRAMSection) { .id = 7, .instance = 3 };
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpuint(image->header.section.id, ==, 7);
    g_assert_cmpuint(image->header.section.instance, ==, 3);
    g_assert_false(image->header.section.footers);
}

static void coroutine_fn test_uuids_differ(Snapshot *s)
{
    const SnapRAMSection section = { };
    g_autoptr(SnapImageWriter) other = NULL;
    g_autoptr(SnapImage) image = NULL;
    QemuUUID uuid;

    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    uuid = image->header.uuid;
    g_clear_pointer(&image, snap_image_close);

    other = snap_image_writer_new(s->blk, &s->layout, &section);
    snap_image_writer_flush_ram(other, 0, &error_abort);
    snap_image_writer_commit(other, &s->info, &error_abort);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_false(qemu_uuid_is_equal(&image->header.uuid, &uuid));
}

static void coroutine_fn test_info(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(QDict) info = NULL;
    QDict *block;

    send_page(s, 0, DATA);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    info = snap_info(image, &error_abort);
    g_assert_cmpstr(qdict_get_str(info, "machine"), ==, "pc-q35-10.0");
    g_assert_cmpuint(qlist_size(qdict_get_qlist(info, "ram-blocks")), ==, 3);
    block = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "ram-blocks")));
    g_assert_cmpstr(qdict_get_str(block, "name"), ==, "pc.ram");
    g_assert_cmpint(qdict_get_int(block, "size"), ==,
                    s->layout.blocks[0].length);
}

static void coroutine_fn test_info_of_many_devices(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(QDict) info = NULL;
    Error *err = NULL;

    send_devices(s, SNAP_MAX_PART_IN_MEMORY + 1, 1 * MiB);
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    info = snap_info(image, &err);
    g_assert_nonnull(info);
    error_free(err);
}

/* Save a small snapshot with all parts, in which page 5 has data. */
static void coroutine_fn save_small(Snapshot *s)
{
    send_page(s, 5, DATA);
    send_page(s, 3, ZERO);
    send_devices(s, 70001, 4096);
    qdict_put_int(s->metadata, "number", 42);
    s->info.vmdesc_length = 2;
    commit(s);
    write_vmdesc(s, "{}");
    assert_sound(s);
}

static void coroutine_fn assert_damage(Snapshot *s, bool pages)
{
    SnapCheckResult result;

    check(s, &result);
    g_assert_cmpint(result.pages_corrupt > 0, ==, pages);
    g_assert_cmpint(result.corrupt_parts > 0, ==, !pages);
    g_assert_nonnull(result.first);
    error_free(result.first);
}

static void coroutine_fn assert_ram_corrupt(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(SnapRAMReader) reader = new_reader(image);
    SnapRAMPiece piece;
    Error *err = NULL;
    int ret;

    do {
        ret = snap_ram_reader_next(reader, &piece, &err);
    } while (ret > 0);
    assert_failed(ret, -EBADMSG, &err);
    snap_ram_reader_abort(reader);
}

static void coroutine_fn test_damaged_page(Snapshot *s)
{
    save_small(s);
    flip_bit(s, page_offset(s, 5) + 4000);
    assert_ram_corrupt(s);
    assert_damage(s, true);
}

/* A mapping that is lost reads as zeroes. */
static void coroutine_fn test_lost_page(Snapshot *s)
{
    save_small(s);
    blk_co_pwrite_zeroes(s->blk, page_offset(s, 0), 64 * KiB,
                         BDRV_REQ_MAY_UNMAP);
    assert_ram_corrupt(s);
    assert_damage(s, true);
}

static void coroutine_fn test_damaged_page_table(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_PAGE_TABLE) + 5 * 8);
    assert_ram_corrupt(s);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_unsent_entry(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_PAGE_TABLE) + 6 * 8);
    assert_ram_corrupt(s);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_parts(Snapshot *s)
{
    static const SnapPart parts[] = {
        SNAP_PART_ARRIVALS, SNAP_PART_CONFIGURATION, SNAP_PART_SETUP,
        SNAP_PART_METADATA, SNAP_PART_DEVICES, SNAP_PART_VMDESC,
    };

    save_small(s);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        uint64_t offset = part_offset(s, parts[i]);

        flip_bit(s, offset + 1);
        assert_damage(s, false);
        flip_bit(s, offset + 1);
    }
    assert_sound(s);
}

/* An arrival list that is whole, but names a page that is none */
static void coroutine_fn test_wild_arrival(Snapshot *s)
{
    SnapTable *arrivals = snap_image_writer_arrivals(s->image);

    save_small(s);
    snap_table_set(arrivals, 0, NB_PAGES, &error_abort);
    snap_table_flush(arrivals, 1, &error_abort);
    assert_damage(s, false);
}

static void coroutine_fn test_damaged_devices_are_not_read(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) read = NULL;
    Error *err = NULL;

    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_DEVICES) + 70000);
    image = snap_image_open(s->blk, &error_abort);
    read = snap_image_read_part(image, SNAP_PART_DEVICES, &err);
    assert_failed(read ? 0 : -1, -1, &err);
    g_assert_cmpint(snap_image_copy_part(image, SNAP_PART_DEVICES, NULL, NULL,
                                         &err), <, 0);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_damaged_metadata_is_not_read(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_METADATA));
    image = snap_image_open(s->blk, &error_abort);
    g_assert_null(snap_image_metadata(image, &err));
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_damaged_header(Snapshot *s)
{
    save_small(s);
    flip_bit(s, 100);
    assert_not_complete(s);
}

static void coroutine_fn test_damaged_block_table(Snapshot *s)
{
    save_small(s);
    flip_bit(s, part_offset(s, SNAP_PART_BLOCK_TABLE));
    assert_not_complete(s);
}

/* The tables of an image are no substitute for each other. */
static void coroutine_fn test_chunk_of_other_table(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapTable) table = NULL;
    const SnapPartInfo *parts;
    Error *err = NULL;
    uint64_t entry;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    parts = image->header.parts;
    memcpy(s->disk->bytes + parts[SNAP_PART_PAGE_TABLE].offset,
           s->disk->bytes + parts[SNAP_PART_ARRIVALS].offset,
           SNAP_CHUNK_SIZE);
    table = snap_image_page_table(image, 1);
    assert_failed(snap_table_get(table, 0, &entry, &err), -EBADMSG, &err);
}

/* A header that is valid in itself, with a part in the middle of RAM */
static void coroutine_fn test_part_within_ram(Snapshot *s)
{
    uint8_t buf[SNAP_HEADER_SIZE];
    SnapHeader header;

    save_small(s);
    g_assert_cmpint(blk_co_pread(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    snap_header_decode(&header, buf, INT64_MAX, &error_abort);
    header.parts[SNAP_PART_DEVICES].offset = SNAP_BLOCK_ALIGN;
    snap_header_encode(&header, buf);
    g_assert_cmpint(blk_co_pwrite(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    assert_not_complete(s);
}

/*
 * The header comes last, and everything else is on stable storage before, the
 * header's place included.
 */
static void coroutine_fn test_commit_order(Snapshot *s)
{
    save_small(s);
    g_string_truncate(s->disk->log, 0);
    snap_image_writer_commit(s->image, &s->info, &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "WHFHF"));
    g_assert_true(strchr(s->disk->log->str, 'H') ==
                  s->disk->log->str + s->disk->log->len - strlen("HFHF"));
}

static void coroutine_fn test_flush_ram_is_durable(Snapshot *s)
{
    send_page(s, 5, DATA);
    snap_ram_writer_flush(s->ram, &error_abort);
    snap_image_writer_flush_ram(s->image, nb_arrivals(s), &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "WF"));
}

static void coroutine_fn test_invalidate_is_durable(Snapshot *s)
{
    snap_image_writer_invalidate(s->image, &error_abort);
    g_assert_true(g_str_has_suffix(s->disk->log->str, "HF"));
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

/* A disk that cannot grow */
static void coroutine_fn test_no_room_for_devices(Snapshot *s)
{
    g_autofree uint8_t *data = g_malloc0(SLOW_DISK_SIZE);
    Error *err = NULL;

    g_assert_cmpint(snap_image_writer_devices(s->image, data, SLOW_DISK_SIZE,
                                              &err), <, 0);
    g_assert_nonnull(err);
    error_free(err);
    assert_not_complete(s);
}

static void coroutine_fn test_error_from_file(Snapshot *s)
{
    Error *err = NULL;

    send_page(s, 5, DATA);
    assert_failed(snap_ram_writer_flush(s->ram, &err), -ENOSPC, &err);
}

static void coroutine_fn test_read_error(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapRAMReader) reader = NULL;
    SnapRAMPiece piece;
    Error *err = NULL;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    reader = new_reader(image);
    s->disk->fail_reads = true;
    s->disk->fail_ret = -EIO;
    assert_failed(snap_ram_reader_next(reader, &piece, &err), -EIO, &err);
    snap_ram_reader_abort(reader);
    assert_not_complete(s);
}

/* A reader that is given up while reads are in flight */
static void coroutine_fn test_reader_abort(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(SnapRAMReader) reader = NULL;
    SnapRAMPiece piece;

    for (uint64_t page = 0; page < NB_PAGES; page++) {
        send_page(s, page, DATA + page);
    }
    commit(s);
    image = snap_image_open(s->blk, &error_abort);
    reader = new_reader(image);
    g_assert_cmpint(snap_ram_reader_next(reader, &piece, &error_abort), ==, 1);
    snap_ram_reader_abort(reader);
    g_assert_cmpuint(s->disk->in_flight, ==, 0);
}

static void coroutine_fn test_writer_abort(Snapshot *s)
{
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        send_page(s, page, DATA + page);
    }
    snap_ram_writer_abort(s->ram);
    g_assert_cmpuint(s->disk->in_flight, ==, 0);
}

/* --- a working set within the image --- */

/* A working set of @nb pages for @image */
static GArray *some_pages(unsigned nb)
{
    GArray *pages = g_array_new(false, false, sizeof(uint64_t));

    for (uint64_t i = 0; i < nb; i++) {
        uint64_t page = (i * 1031 + nb) % NB_PAGES;

        g_array_append_val(pages, page);
    }
    return pages;
}

static int coroutine_fn try_embed(SnapImage *image, unsigned nb, Error **errp)
{
    g_autoptr(GArray) pages = some_pages(nb);
    g_autoptr(GByteArray) data = snap_working_set_encode(pages,
                                                         &image->header.uuid);

    return snap_image_set_working_set(image, data, errp);
}

static void coroutine_fn embed(Snapshot *s, unsigned nb)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);

    g_assert_cmpint(try_embed(image, nb, &error_abort), ==, 0);
}

static void coroutine_fn assert_working_set(SnapImage *image, unsigned nb)
{
    g_autoptr(GArray) expected = some_pages(nb);
    g_autoptr(GArray) pages = NULL;

    g_assert_cmpint(snap_image_working_set(image, &pages, &error_abort), ==,
                    1);
    g_assert_cmpmem(pages->data, pages->len * sizeof(uint64_t),
                    expected->data, expected->len * sizeof(uint64_t));
}

/* That the image has a working set of @nb pages, 0 for none. */
static void coroutine_fn assert_embedded(Snapshot *s, unsigned nb)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(GArray) pages = NULL;

    if (nb) {
        assert_working_set(image, nb);
    } else {
        g_assert_cmpint(snap_image_working_set(image, &pages, &error_abort),
                        ==, 0);
    }
}

static void coroutine_fn assert_no_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    g_autoptr(GArray) pages = NULL;
    Error *err = NULL;

    g_assert_cmpint(snap_image_working_set(image, &pages, &err), <, 0);
    g_assert_null(pages);
    g_assert_nonnull(err);
    error_free(err);
}

static void coroutine_fn test_not_embedded(Snapshot *s)
{
    save_small(s);
    assert_embedded(s, 0);
}

static void coroutine_fn test_embed(Snapshot *s)
{
    save_small(s);
    embed(s, 300);
    assert_embedded(s, 300);
    assert_snapshot(s);
}

/* Nothing but the header and the working set is changed. */
static void coroutine_fn test_embed_keeps_rest(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GByteArray) vmdesc = NULL;
    g_autoptr(QDict) metadata = NULL;
    SnapHeader before;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    before = image->header;
    g_clear_pointer(&image, snap_image_close);
    embed(s, 300);
    image = snap_image_open(s->blk, &error_abort);
    g_assert_cmpmem(&image->header.parts, sizeof(SnapPartInfo) *
                    SNAP_PART_WORKING_SET, &before.parts, sizeof(SnapPartInfo) *
                    SNAP_PART_WORKING_SET);
    g_assert_true(qemu_uuid_is_equal(&image->header.uuid, &before.uuid));
    g_assert_cmpuint(image->header.created, ==, before.created);
    g_assert_cmpuint(image->header.flags, ==, before.flags);
    g_assert_cmpuint(image->header.incompatible, ==, before.incompatible);
    g_assert_cmpuint(image->header.compatible, ==, before.compatible |
                     SNAP_COMPATIBLE_WORKING_SET);
    vmdesc = snap_image_read_part(image, SNAP_PART_VMDESC, &error_abort);
    g_assert_cmpmem(vmdesc->data, vmdesc->len, "{}", 2);
    metadata = snap_image_metadata(image, &error_abort);
    g_assert_cmpint(qdict_get_int(metadata, "number"), ==, 42);
}

/* Who has the image open sees it as well. */
static void coroutine_fn test_embed_updates_header(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    try_embed(image, 300, &error_abort);
    assert_working_set(image, 300);
    try_embed(image, 20, &error_abort);
    assert_working_set(image, 20);
}

/* Whether the working set lies where anything else is, or was in @before. */
static void assert_place_is_free(const SnapImage *image,
                                 const SnapHeader *before)
{
    const SnapPartInfo *set = &image->header.parts[SNAP_PART_WORKING_SET];

    g_assert_cmpuint(set->offset, >=, image->layout.ram_end);
    g_assert_cmpuint(set->offset % SNAP_PART_ALIGN, ==, 0);
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        const SnapPartInfo *part = &before->parts[i];

        if (part->length) {
            g_assert_true(set->offset + set->length <= part->offset ||
                          part->offset + part->length <= set->offset);
        }
    }
}

static void coroutine_fn test_embed_again(Snapshot *s)
{
    static const unsigned sizes[] = { 300, 10, 8000, 9000, 20000, 1 };
    g_autoptr(SnapImage) image = NULL;

    send_devices(s, 3 * SNAP_DEVICE_CHUNK, 4096);
    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        SnapHeader before = image->header;

        try_embed(image, sizes[i], &error_abort);
        assert_place_is_free(image, &before);
        assert_embedded(s, sizes[i]);
    }
    assert_snapshot(s);
}

/* Cut what is behind the last part off the disk. */
static void coroutine_fn cut_reserve(Snapshot *s)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    uint64_t end = image->layout.ram_end;

    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        const SnapPartInfo *part = &image->header.parts[i];

        end = MAX(end, part->offset + part->length);
    }
    blk_co_truncate(s->blk, ROUND_UP(end, SNAP_PART_ALIGN), true,
                    PREALLOC_MODE_OFF, 0, &error_abort);
}

/* Where there is no place between the parts, the disk grows. */
static void coroutine_fn test_embed_largest(Snapshot *s)
{
    int64_t size;

    save_small(s);
    cut_reserve(s);
    size = blk_co_getlength(s->blk);
    for (unsigned i = 0; i < 3; i++) {
        embed(s, SNAP_MAX_WORKING_SET - i);
        assert_embedded(s, SNAP_MAX_WORKING_SET - i);
    }
    g_assert_cmpint(blk_co_getlength(s->blk), >, size);
    assert_snapshot(s);
}

static void coroutine_fn test_embed_empty(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    embed(s, 0);
    image = snap_image_open(s->blk, &error_abort);
    assert_working_set(image, 0);
}

/* What the header says is on stable storage before the header is. */
static void coroutine_fn test_embed_order(Snapshot *s)
{
    save_small(s);
    g_string_truncate(s->disk->log, 0);
    embed(s, 300);
    g_assert_cmpstr(s->disk->log->str, ==, "WFHF");
}

/* Let one write or flush fail; the working set before has @old pages. */
static void coroutine_fn check_embed_interrupted(Snapshot *s, unsigned nth,
                                                 unsigned old)
{
    g_autoptr(SnapImage) image = snap_image_open(s->blk, &error_abort);
    SnapHeader before = image->header;
    Error *err = NULL;

    s->disk->fail_nth = s->disk->log->len + nth;
    s->disk->fail_ret = -ENOSPC;
    assert_failed(try_embed(image, 500, &err), -ENOSPC, &err);
    s->disk->fail_nth = -1;
    g_assert_cmpmem(&image->header, sizeof(before), &before, sizeof(before));
    /* Behind the write of the header, it may be either. */
    assert_embedded(s, nth < 3 ? old : 500);
    assert_snapshot(s);
}

static void coroutine_fn test_embed_interrupted(Snapshot *s)
{
    save_small(s);
    for (unsigned nth = 0; nth < 3; nth++) {
        check_embed_interrupted(s, nth, 0);
    }
    for (unsigned nth = 0; nth < 4; nth++) {
        embed(s, 300);
        check_embed_interrupted(s, nth, 300);
    }
    embed(s, 20);
    assert_embedded(s, 20);
}

/* As a process leaves it that was killed between the two writes. */
static void coroutine_fn test_embed_killed(Snapshot *s)
{
    g_autofree uint8_t *header = NULL;

    save_small(s);
    embed(s, 300);
    header = g_memdup2(s->disk->bytes, SNAP_HEADER_SIZE);
    embed(s, 500);
    memcpy(s->disk->bytes, header, SNAP_HEADER_SIZE);
    assert_embedded(s, 300);
}

/* Change the features that the header says the image has. */
static void coroutine_fn set_compatible(Snapshot *s, uint64_t compatible)
{
    uint8_t buf[SNAP_HEADER_SIZE];
    SnapHeader header;

    g_assert_cmpint(blk_co_pread(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
    snap_header_decode(&header, buf, INT64_MAX, &error_abort);
    header.compatible = compatible;
    snap_header_encode(&header, buf);
    g_assert_cmpint(blk_co_pwrite(s->blk, 0, sizeof(buf), buf, 0), ==, 0);
}

/* An unknown feature may be about what would be changed. */
static void coroutine_fn check_unknown_feature(Snapshot *s, uint64_t features)
{
    g_autoptr(SnapImage) image = NULL;
    Error *err = NULL;

    set_compatible(s, features);
    g_string_truncate(s->disk->log, 0);
    image = snap_image_open(s->blk, &error_abort);
    assert_failed(try_embed(image, 500, &err), -ENOTSUP, &err);
    g_assert_cmpstr(s->disk->log->str, ==, "");
    assert_snapshot(s);
}

static void coroutine_fn test_embed_unknown_feature(Snapshot *s)
{
    save_small(s);
    check_unknown_feature(s, 2);
    check_unknown_feature(s, UINT64_C(1) << 63);
    set_compatible(s, 0);
    embed(s, 300);
    check_unknown_feature(s, SNAP_COMPATIBLE_WORKING_SET | 2);
    assert_embedded(s, 300);
}

/* Without the feature, what stands in its place in the header is nothing. */
static void coroutine_fn test_feature_is_cleared(Snapshot *s)
{
    save_small(s);
    embed(s, 300);
    set_compatible(s, 0);
    assert_embedded(s, 0);
    assert_snapshot(s);
}

static void coroutine_fn test_damaged_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;

    save_small(s);
    embed(s, 300);
    flip_bit(s, part_offset(s, SNAP_PART_WORKING_SET) + 100);
    assert_no_working_set(s);
    assert_damage(s, false);
    image = snap_image_open(s->blk, &error_abort);
    assert_ram(s, image);
}

static void coroutine_fn test_foreign_working_set(Snapshot *s)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GArray) pages = some_pages(20);
    g_autoptr(GByteArray) data = NULL;
    const QemuUUID other = { .data = { 1 } };

    save_small(s);
    image = snap_image_open(s->blk, &error_abort);
    data = snap_working_set_encode(pages, &other);
    snap_image_set_working_set(image, data, &error_abort);
    assert_no_working_set(s);
}

/* Everything that a save does, up to the first error. */
static int coroutine_fn try_save(Snapshot *s, Error **errp)
{
    int ret = snap_image_writer_invalidate(s->image, errp);

    for (uint64_t page = 0; !ret && page < 600; page += 37) {
        ret = try_send(s, page, DATA + page, errp);
    }
    if (!ret) {
        ret = try_devices(s, s->model, SNAP_DEVICE_CHUNK + 1000, errp);
    }
    return ret ?: try_commit(s, errp);
}

/*
 * A save in which one write or flush fails: it fails, and only where the
 * header was the last to be written there may be a snapshot.
 */
static void coroutine_fn save_with_error(void *opaque)
{
    Snapshot *s = opaque;
    Error *err = NULL;
    int ret = try_save(s, &err);

    if (s->disk->fail_nth >= s->disk->log->len) {
        g_assert_cmpint(ret, ==, 0);
        assert_snapshot(s);
        return;
    }
    snap_ram_writer_abort(s->ram);
    assert_failed(ret, -ENOSPC, &err);
    if (!g_str_has_suffix(s->disk->log->str, "HF")) {
        assert_not_complete(s);
    }
}

typedef struct Test {
    const char *path;
    void coroutine_fn (*fn)(Snapshot *s);
    const char *format;         /* of a file; NULL for the disk in memory */
    const char *options;        /* to create the file */
    unsigned page_bits;         /* 12 where that is 0 */
    bool many_pages;            /* room for all arrivals */
    bool fails;                 /* writes to the file fail */
} Test;

static const Test tests[] = {
    { "ram/empty", test_empty },
    { "ram/in-order/qcow2", test_in_order, "qcow2" },
    { "ram/in-order/raw", test_in_order, "raw" },
    { "ram/random-order/qcow2", test_random_order, "qcow2" },
    { "ram/random-order/raw", test_random_order, "raw" },
    { "ram/first-and-last-page-of-blocks",
      test_first_and_last_page_of_blocks },
    { "ram/last-one-wins", test_last_one_wins },
    { "hold/in-order", test_hold_in_order },
    { "hold/in-order/qcow2", test_hold_in_order, "qcow2" },
    { "hold/in-order/1k", test_hold_in_order, .page_bits = 10 },
    { "hold/in-order/64k", test_hold_in_order, "qcow2", .page_bits = 16 },
    { "hold/scattered", test_hold_scattered },
    { "hold/scattered/64k", test_hold_scattered, "raw", .page_bits = 16 },
    { "hold/places", test_hold_places },
    { "hold/descending", test_hold_descending },
    { "hold/straddles", test_hold_straddles },
    { "hold/keeps-buffer", test_hold_keeps_buffer },
    { "hold/again", test_hold_again },
    { "hold/many", test_hold_many },
    { "hold/many/qcow2", test_hold_many, "qcow2" },
    { "hold/many/1k", test_hold_many, .page_bits = 10 },
    { "hold/waits", test_hold_waits },
    { "hold/twice", test_hold_twice },
    { "hold/error", test_hold_error },
    { "run/in-order", test_run_in_order },
    { "run/in-order/qcow2", test_run_in_order, "qcow2" },
    { "run/in-order/1k", test_run_in_order, .page_bits = 10 },
    { "run/in-order/64k", test_run_in_order, "raw", .page_bits = 16 },
    { "run/room", test_run_room },
    { "run/garbage", test_run_garbage },
    { "run/garbage/qcow2", test_run_garbage, "qcow2" },
    { "run/garbage/1k", test_run_garbage, .page_bits = 10 },
    { "run/over-written", test_run_over_written },
    { "run/over-written/qcow2", test_run_over_written, "qcow2" },
    { "run/again", test_run_again },
    { "run/random", test_run_random },
    { "run/random/raw", test_run_random, "raw" },
    { "run/random/qcow2", test_run_random, "qcow2" },
    { "run/random/1k", test_run_random, .page_bits = 10 },
    { "run/random/64k", test_run_random, "qcow2", .page_bits = 16 },
    { "run/waits", test_run_waits },
    { "run/cancel", test_run_cancel },
    { "run/cancel/one", test_run_cancel_one },
    { "run/error", test_run_error },
    { "arrivals/no-list", test_no_arrival_list },
    { "ram/becomes-zero", test_becomes_zero },
    { "ram/becomes-zero/after-flush", test_becomes_zero_after_flush },
    { "ram/becomes-zero/after-flush/qcow2",
      test_becomes_zero_after_flush, "qcow2" },
    { "ram/data-again-after-zero", test_data_again_after_zero },
    { "ram/neighbours-come-later", test_neighbours_come_later },
    { "ram/neighbours-come-later/qcow2", test_neighbours_come_later, "qcow2" },
    { "ram/data-of-zeroes", test_data_of_zeroes },
    { "ram/never-sent", test_never_sent },
    { "ram/over-old-data", test_over_old_data },
    { "ram/after-flush", test_after_flush },
    { "ram/repeated", test_repeated },
    { "ram/repeated/zero", test_repeated_zero },
    { "ram/counts", test_counts },
    { "ram/random", test_random },
    { "ram/random/raw", test_random, "raw" },
    { "ram/random/qcow2", test_random, "qcow2" },
    { "ram/random/qcow2/subclusters", test_random, "qcow2",
      "cluster_size=128k,extended_l2=on" },
    { "ram/random/qcow2/large-clusters", test_random, "qcow2",
      "cluster_size=2M" },
    { "ram/random/qcow2/small-clusters", test_random, "qcow2",
      "cluster_size=512" },
    { "ram/random/small-pages", test_random, "qcow2", NULL, 10 },
    { "ram/random/large-pages", test_random, "qcow2", NULL, 16 },
    { "arrivals/none-in-order", test_no_arrivals_in_order },
    { "arrivals/jump", test_jump_is_arrival },
    { "arrivals/goes-on-behind-jump", test_order_goes_on_behind_jump },
    { "arrivals/skips-what-came", test_order_skips_what_came },
    { "arrivals/wraps", test_order_wraps },
    { "arrivals/wraps/over-what-came", test_order_wraps_over_what_came },
    { "arrivals/repeated", test_repeated_is_no_arrival },
    { "arrivals/most", test_most_arrivals, "raw", .page_bits = 10,
      .many_pages = true },
    { "arrivals/too-many", test_too_many_arrivals, "raw", .page_bits = 10,
      .many_pages = true },
    { "commit/not-complete-before", test_not_complete_before_commit },
    { "commit/invalidate", test_invalidate },
    { "commit/without-flush-ram", test_commit_without_flush_ram },
    { "commit/order", test_commit_order },
    { "commit/flush-ram-is-durable", test_flush_ram_is_durable },
    { "commit/invalidate-is-durable", test_invalidate_is_durable },
    { "devices/odd-lengths", test_devices },
    { "devices/one-byte", test_one_byte_of_devices },
    { "devices/whole-chunks", test_whole_chunks_of_devices },
    { "devices/beyond-reserve/raw", test_devices_beyond_reserve, "raw" },
    { "devices/beyond-reserve/qcow2", test_devices_beyond_reserve, "qcow2" },
    { "devices/after-commit", test_devices_after_commit },
    { "devices/copy-without-func", test_copy_without_func },
    { "vmdesc", test_vmdesc },
    { "vmdesc/none", test_no_vmdesc },
    { "vmdesc/not-written", test_vmdesc_not_written },
    { "metadata", test_metadata },
    { "header", test_header },
    { "header/late-section", test_late_section },
    { "uuids-differ", test_uuids_differ },
    { "info", test_info },
    { "info/many-devices", test_info_of_many_devices, "raw" },
    { "damaged/page", test_damaged_page },
    { "damaged/page/raw", test_damaged_page, "raw" },
    { "damaged/page/qcow2", test_damaged_page, "qcow2" },
    { "damaged/lost-page", test_lost_page, "qcow2" },
    { "damaged/page-table", test_damaged_page_table },
    { "damaged/chunk-of-other-table", test_chunk_of_other_table },
    { "damaged/unsent-entry", test_damaged_unsent_entry },
    { "damaged/parts", test_damaged_parts },
    { "damaged/wild-arrival", test_wild_arrival },
    { "damaged/devices-are-not-read", test_damaged_devices_are_not_read },
    { "damaged/metadata-is-not-read", test_damaged_metadata_is_not_read },
    { "damaged/header", test_damaged_header },
    { "damaged/block-table", test_damaged_block_table },
    { "damaged/part-within-ram", test_part_within_ram },
    { "embed", test_embed },
    { "embed/raw", test_embed, "raw" },
    { "embed/qcow2", test_embed, "qcow2" },
    { "embed/none", test_not_embedded },
    { "embed/empty", test_embed_empty },
    { "embed/keeps-rest", test_embed_keeps_rest },
    { "embed/updates-header", test_embed_updates_header },
    { "embed/again", test_embed_again },
    { "embed/again/raw", test_embed_again, "raw" },
    { "embed/largest/raw", test_embed_largest, "raw" },
    { "embed/largest/qcow2", test_embed_largest, "qcow2" },
    { "embed/order", test_embed_order },
    { "embed/interrupted", test_embed_interrupted },
    { "embed/killed", test_embed_killed },
    { "embed/unknown-feature", test_embed_unknown_feature },
    { "embed/feature-is-cleared", test_feature_is_cleared },
    { "embed/damaged", test_damaged_working_set },
    { "embed/foreign", test_foreign_working_set },
    { "error/ram-sticks", test_ram_error_sticks },
    { "error/ram-at-zero-page", test_ram_error_at_zero_page },
    { "error/no-room-for-devices", test_no_room_for_devices },
    { "error/file", test_error_from_file, "raw", .fails = true },
    { "error/read", test_read_error },
    { "abort/reader", test_reader_abort },
    { "abort/writer", test_writer_abort },
};

/* RAM blocks that do not fill the writer's buffers. */
static void fill_layout(SnapLayout *layout, const Test *test)
{
    unsigned page_bits = test->page_bits ?: 12;
    uint64_t lengths[] = { 2819, 1, 255 };

    if (test->many_pages) {
        lengths[0] = 2 * SNAP_MAX_ARRIVALS + 1000;
    }
    snap_layout_init(layout, page_bits);
    snap_layout_add(layout, "pc.ram", lengths[0] << page_bits, 0,
                    &error_abort);
    snap_layout_add(layout, "vga.vram", lengths[1] << page_bits, 4 * KiB,
                    &error_abort);
    snap_layout_add(layout, "/rom@etc/acpi/tables", lengths[2] << page_bits,
                    2 * MiB, &error_abort);
}

static char *create_file(const Test *test, const SnapLayout *layout)
{
    g_autofree char *options = g_strdup(test->options);
    char *path = NULL;
    int fd = g_file_open_tmp("test-snap-image-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    bdrv_img_create(path, test->format, NULL, NULL, options,
                    snap_image_writer_size(layout), 0, true, &error_abort);
    return path;
}

static BlockBackend *open_file(const Test *test, const char *path)
{
    g_autoptr(QDict) options = qdict_new();

    if (test->fails) {
        qdict_put_str(options, "driver", "blkdebug");
        qdict_put_str(options, "image.driver", "file");
        qdict_put_str(options, "image.filename", path);
        qdict_put_str(options, "inject-error.0.event", "none");
        qdict_put_str(options, "inject-error.0.iotype", "write");
        qdict_put_int(options, "inject-error.0.errno", ENOSPC);
        path = NULL;
    } else {
        qdict_put_str(options, "driver", test->format);
    }
    return blk_new_open(path, NULL, g_steal_pointer(&options),
                        BDRV_O_RDWR | BDRV_O_RESIZE, &error_abort);
}

typedef struct TestRun {
    const Test *test;
    Snapshot snapshot;
} TestRun;

static void coroutine_fn call_test(void *opaque)
{
    TestRun *run = opaque;

    run->test->fn(&run->snapshot);
}

static void run_test(gconstpointer data)
{
    TestRun run = { .test = data };
    Snapshot *s = &run.snapshot;
    g_autofree char *path = NULL;

    fill_layout(&s->layout, run.test);
    if (run.test->format) {
        path = create_file(run.test, &s->layout);
        s->blk = open_file(run.test, path);
    } else {
        s->blk = slow_disk_open(&s->disk);
    }
    snapshot_begin(s);
    run_in_coroutine(call_test, &run);
    snapshot_end(s);
    if (path) {
        g_unlink(path);
    }
}

static void test_size(void)
{
    const Test test = { };
    SnapLayout layout;
    uint64_t size;

    fill_layout(&layout, &test);
    size = snap_image_writer_size(&layout);
    g_assert_cmpuint(size, >=, layout.ram_end + SNAP_DEVICE_RESERVE +
                     snap_table_bytes(layout.nb_pages) +
                     snap_table_bytes(SNAP_MAX_ARRIVALS));
    g_assert_cmpuint(size, <=, SLOW_DISK_SIZE);
    snap_layout_destroy(&layout);
}

/* Let each write and flush of a save fail in turn. */
static void test_each_write_fails(void)
{
    const Test test = { };
    bool failed = true;

    for (int nth = 0; failed; nth++) {
        Snapshot s = { };

        fill_layout(&s.layout, &test);
        s.blk = slow_disk_open(&s.disk);
        s.disk->fail_nth = nth;
        s.disk->fail_ret = -ENOSPC;
        snapshot_begin(&s);
        run_in_coroutine(save_with_error, &s);
        failed = s.disk->log->len > nth;
        snapshot_end(&s);
    }
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();

    g_test_add_func("/snap/image/size", test_size);
    g_test_add_func("/snap/image/error/each-write", test_each_write_fails);
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strdup_printf("/snap/image/%s",
                                                tests[i].path);

        g_test_add_data_func(path, &tests[i], run_test);
    }
    return g_test_run();
}
