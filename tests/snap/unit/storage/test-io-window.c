/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of a bounded window of requests in flight
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "snap/storage/io-window.h"
#include "slow-disk.h"
#include "snap-coroutine.h"
#include "test-table.h"

#define NB_BUFFERS  4
#define PAGE_BITS   12
#define PAGE        (1 << PAGE_BITS)
#define NB_PAGES    16
#define BUFFER_SIZE (NB_PAGES * PAGE)

typedef struct Fixture {
    BlockBackend *blk;
    SlowDisk *disk;
    SnapIOWindow *window;
} Fixture;

/* Take a buffer for @offset and fill it. */
static SnapIOBuffer *coroutine_fn filled(Fixture *f, uint64_t offset,
                                         uint8_t value)
{
    SnapIOBuffer *buffer = snap_io_window_get(f->window);

    buffer->offset = offset;
    memset(buffer->data, value, BUFFER_SIZE);
    return buffer;
}

/* Start to write @count pages at page @first of a buffer full of @value. */
static void coroutine_fn write_pages(Fixture *f, uint64_t offset,
                                     unsigned first, unsigned count,
                                     uint8_t value)
{
    const SnapExtent extent = { .first = first, .count = count };

    snap_io_window_write(f->window, filled(f, offset, value), PAGE_BITS,
                         &extent, 1);
}

static void coroutine_fn write_all(Fixture *f, uint64_t offset, uint8_t value)
{
    write_pages(f, offset, 0, NB_PAGES, value);
}

static void assert_disk(Fixture *f, uint64_t offset, size_t length,
                        uint8_t value)
{
    g_autofree uint8_t *expected = g_malloc(length);

    memset(expected, value, length);
    g_assert_cmpmem(f->disk->bytes + offset, length, expected, length);
}

static void coroutine_fn test_write(Fixture *f)
{
    write_all(f, 1 * MiB, 7);
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, 0);
    assert_disk(f, 1 * MiB, BUFFER_SIZE, 7);
    assert_disk(f, 1 * MiB - PAGE, PAGE, 0);
    assert_disk(f, 1 * MiB + BUFFER_SIZE, PAGE, 0);
}

static void coroutine_fn test_only_extents_are_written(Fixture *f)
{
    const SnapExtent extents[] = { { 1, 2 }, { 5, 1 } };

    snap_io_window_write(f->window, filled(f, 0, 7), PAGE_BITS, extents, 2);
    snap_io_window_drain(f->window);
    assert_disk(f, 0, PAGE, 0);
    assert_disk(f, 1 * PAGE, 2 * PAGE, 7);
    assert_disk(f, 3 * PAGE, 2 * PAGE, 0);
    assert_disk(f, 5 * PAGE, PAGE, 7);
    assert_disk(f, 6 * PAGE, BUFFER_SIZE - 6 * PAGE, 0);
}

static void coroutine_fn test_extents_are_copied(Fixture *f)
{
    SnapExtent extent = { 0, NB_PAGES };

    snap_io_window_write(f->window, filled(f, 0, 7), PAGE_BITS, &extent, 1);
    extent = (SnapExtent) { 0, 1 };
    snap_io_window_drain(f->window);
    assert_disk(f, 0, BUFFER_SIZE, 7);
}

static void coroutine_fn test_no_extents(Fixture *f)
{
    for (unsigned i = 0; i < 2 * NB_BUFFERS; i++) {
        snap_io_window_write(f->window, filled(f, 0, 7), PAGE_BITS, NULL, 0);
    }
    snap_io_window_drain(f->window);
    g_assert_cmpuint(f->disk->nb_writes, ==, 0);
}

static void coroutine_fn test_buffers_are_aligned(Fixture *f)
{
    SnapIOBuffer *buffer = snap_io_window_get(f->window);

    g_assert_true(QEMU_PTR_IS_ALIGNED(buffer->data,
                                      bdrv_opt_mem_align(blk_bs(f->blk))));
    snap_io_window_put(f->window, buffer);
}

static void coroutine_fn test_buffers_are_distinct(Fixture *f)
{
    SnapIOBuffer *buffers[NB_BUFFERS];

    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        buffers[i] = snap_io_window_get(f->window);
        for (unsigned j = 0; j < i; j++) {
            g_assert_true(buffers[i]->data >= buffers[j]->data + BUFFER_SIZE ||
                          buffers[j]->data >= buffers[i]->data + BUFFER_SIZE);
        }
    }
    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        snap_io_window_put(f->window, buffers[i]);
    }
}

static void coroutine_fn test_put_gives_back(Fixture *f)
{
    for (unsigned i = 0; i < 3 * NB_BUFFERS; i++) {
        snap_io_window_put(f->window, snap_io_window_get(f->window));
    }
    g_assert_cmpuint(f->disk->nb_writes, ==, 0);
}

static void coroutine_fn test_requests_run_together(Fixture *f)
{
    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        write_all(f, i * BUFFER_SIZE, i + 1);
    }
    g_assert_cmpuint(f->disk->in_flight, ==, NB_BUFFERS);
    snap_io_window_drain(f->window);
    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        assert_disk(f, i * BUFFER_SIZE, BUFFER_SIZE, i + 1);
    }
}

static void coroutine_fn test_window_is_bounded(Fixture *f)
{
    for (unsigned i = 0; i < 50; i++) {
        write_all(f, i * BUFFER_SIZE, i + 1);
    }
    snap_io_window_drain(f->window);
    g_assert_cmpuint(f->disk->max_in_flight, ==, NB_BUFFERS);
    for (unsigned i = 0; i < 50; i++) {
        assert_disk(f, i * BUFFER_SIZE, BUFFER_SIZE, i + 1);
    }
}

static void coroutine_fn test_last_write_wins(Fixture *f)
{
    for (unsigned i = 1; i <= 100; i++) {
        write_all(f, 0, i);
    }
    snap_io_window_drain(f->window);
    assert_disk(f, 0, BUFFER_SIZE, 100);
}

static void coroutine_fn test_last_write_wins_where_shifted(Fixture *f)
{
    for (unsigned i = 1; i <= 100; i++) {
        write_all(f, i * PAGE, i);
    }
    snap_io_window_drain(f->window);
    for (unsigned i = 1; i < 100; i++) {
        assert_disk(f, i * PAGE, PAGE, i);
    }
    assert_disk(f, 100 * PAGE, BUFFER_SIZE, 100);
}

static void coroutine_fn test_random_writes(Fixture *f)
{
    GRand *rand = g_rand_new_with_seed(20260104);
    const unsigned nb_pages = 8 * NB_PAGES;
    g_autofree uint8_t *model = g_malloc0(nb_pages);

    for (unsigned round = 0; round < 2000; round++) {
        unsigned start = g_rand_int_range(rand, 0, nb_pages - NB_PAGES + 1);
        unsigned first = g_rand_int_range(rand, 0, NB_PAGES);
        unsigned count = g_rand_int_range(rand, 1, NB_PAGES - first + 1);

        write_pages(f, (uint64_t)start * PAGE, first, count, round % 255 + 1);
        memset(model + start + first, round % 255 + 1, count);
    }
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, 0);
    for (unsigned page = 0; page < nb_pages; page++) {
        assert_disk(f, page * PAGE, PAGE, model[page]);
    }
    g_rand_free(rand);
}

static void coroutine_fn test_drain_waits(Fixture *f)
{
    write_all(f, 0, 1);
    write_all(f, BUFFER_SIZE, 1);
    snap_io_window_drain(f->window);
    g_assert_cmpuint(f->disk->in_flight, ==, 0);
    assert_disk(f, 0, 2 * BUFFER_SIZE, 1);
}

static void coroutine_fn test_drain_of_nothing(Fixture *f)
{
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, 0);
}

static void coroutine_fn test_read(Fixture *f)
{
    SnapIOBuffer *buffer = filled(f, 3 * PAGE, 0xff);
    g_autofree uint8_t *expected = g_malloc0(BUFFER_SIZE);

    for (unsigned i = 0; i < 2 * BUFFER_SIZE; i++) {
        f->disk->bytes[i] = i / 7;
    }
    snap_io_window_read(f->window, buffer, BUFFER_SIZE);
    g_assert_cmpint(snap_io_window_wait(f->window, buffer), ==, 0);
    g_assert_cmpmem(buffer->data, BUFFER_SIZE, f->disk->bytes + 3 * PAGE,
                    BUFFER_SIZE);
    snap_io_window_put(f->window, buffer);
}

static void coroutine_fn test_short_read(Fixture *f)
{
    SnapIOBuffer *buffer = filled(f, 0, 0xff);

    snap_io_window_read(f->window, buffer, PAGE);
    g_assert_cmpint(snap_io_window_wait(f->window, buffer), ==, 0);
    g_assert_cmpmem(buffer->data, PAGE, f->disk->bytes, PAGE);
    g_assert_cmpuint(buffer->data[PAGE], ==, 0xff);
    snap_io_window_put(f->window, buffer);
}

static void coroutine_fn test_reads_ahead(Fixture *f)
{
    SnapIOBuffer *buffers[NB_BUFFERS];

    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        memset(f->disk->bytes + i * BUFFER_SIZE, i + 1, BUFFER_SIZE);
        buffers[i] = filled(f, i * BUFFER_SIZE, 0xff);
        snap_io_window_read(f->window, buffers[i], BUFFER_SIZE);
    }
    g_assert_cmpuint(f->disk->in_flight, ==, NB_BUFFERS);
    for (unsigned i = 0; i < NB_BUFFERS; i++) {
        g_assert_cmpint(snap_io_window_wait(f->window, buffers[i]), ==, 0);
        g_assert_cmpuint(buffers[i]->data[0], ==, i + 1);
        g_assert_cmpuint(buffers[i]->data[BUFFER_SIZE - 1], ==, i + 1);
        snap_io_window_put(f->window, buffers[i]);
    }
}

static void coroutine_fn test_read_error(Fixture *f)
{
    SnapIOBuffer *buffer = filled(f, 0, 0);

    f->disk->fail_reads = true;
    f->disk->fail_ret = -EIO;
    snap_io_window_read(f->window, buffer, PAGE);
    g_assert_cmpint(snap_io_window_wait(f->window, buffer), ==, -EIO);

    f->disk->fail_reads = false;
    snap_io_window_read(f->window, buffer, PAGE);
    g_assert_cmpint(snap_io_window_wait(f->window, buffer), ==, 0);
    snap_io_window_put(f->window, buffer);
}

static void coroutine_fn test_read_error_is_no_write_error(Fixture *f)
{
    SnapIOBuffer *buffer = filled(f, 0, 0);

    f->disk->fail_reads = true;
    f->disk->fail_ret = -EIO;
    snap_io_window_read(f->window, buffer, PAGE);
    snap_io_window_wait(f->window, buffer);
    g_assert_cmpint(snap_io_window_status(f->window), ==, 0);
    snap_io_window_put(f->window, buffer);
}

static void coroutine_fn test_write_error(Fixture *f)
{
    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_at = 5;
    write_all(f, 0, 1);
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, -ENOSPC);
}

static void coroutine_fn test_error_of_later_extent(Fixture *f)
{
    const SnapExtent extents[] = { { 0, 1 }, { 5, 1 } };

    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_at = 5 * PAGE;
    snap_io_window_write(f->window, filled(f, 0, 7), PAGE_BITS, extents, 2);
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, -ENOSPC);
}

static void coroutine_fn test_first_error_sticks(Fixture *f)
{
    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_at = 0;
    write_all(f, 0, 1);
    snap_io_window_drain(f->window);
    f->disk->fail_ret = -EIO;
    write_all(f, 0, 1);
    snap_io_window_drain(f->window);
    f->disk->fail_ret = 0;
    write_all(f, 0, 1);
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, -ENOSPC);
}

/* Two writes in flight fail, each in its own way. */
static void coroutine_fn test_first_of_two_errors_sticks(Fixture *f)
{
    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_nth = 0;
    f->disk->fail_at = BUFFER_SIZE;
    write_all(f, 0, 1);
    write_all(f, BUFFER_SIZE, 1);
    while (!snap_io_window_status(f->window)) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, SCALE_US);
    }
    f->disk->fail_ret = -EIO;
    snap_io_window_drain(f->window);
    g_assert_cmpint(snap_io_window_status(f->window), ==, -ENOSPC);
}

static void coroutine_fn test_nothing_after_an_error(Fixture *f)
{
    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_at = 0;
    write_all(f, 0, 1);
    snap_io_window_drain(f->window);
    write_all(f, BUFFER_SIZE, 1);
    snap_io_window_drain(f->window);
    assert_disk(f, BUFFER_SIZE, BUFFER_SIZE, 0);
    g_assert_cmpuint(f->disk->nb_writes, ==, 1);
}

/* The error comes while the second write waits for the first. */
static void coroutine_fn test_nothing_after_an_overlapping_error(Fixture *f)
{
    f->disk->fail_ret = -ENOSPC;
    f->disk->fail_at = 0;
    write_all(f, 0, 1);
    write_pages(f, 0, 1, 1, 2);
    snap_io_window_drain(f->window);
    assert_disk(f, PAGE, PAGE, 0);
    g_assert_cmpuint(f->disk->nb_writes, ==, 1);
}

static void coroutine_fn test_buffers_return_after_an_error(Fixture *f)
{
    f->disk->fail_ret = -EIO;
    f->disk->fail_at = 0;
    for (unsigned i = 0; i < 3 * NB_BUFFERS; i++) {
        write_all(f, 0, 1);
    }
    snap_io_window_drain(f->window);
    test_buffers_are_distinct(f);
}

typedef struct WindowTest {
    const char *path;
    void coroutine_fn (*fn)(Fixture *f);
} WindowTest;

static const WindowTest tests[] = {
    { "buffers/are-aligned", test_buffers_are_aligned },
    { "buffers/are-distinct", test_buffers_are_distinct },
    { "buffers/come-back-without-a-write", test_put_gives_back },
    { "write/is-on-the-disk-after-a-drain", test_write },
    { "write/only-extents-are-written", test_only_extents_are_written },
    { "write/extents-are-copied", test_extents_are_copied },
    { "write/nothing-without-extents", test_no_extents },
    { "write/requests-run-together", test_requests_run_together },
    { "write/requests-in-flight-are-bounded", test_window_is_bounded },
    { "order/last-write-wins", test_last_write_wins },
    { "order/last-write-wins-if-they-overlap",
      test_last_write_wins_where_shifted },
    { "order/random-writes-take-effect-in-order", test_random_writes },
    { "drain/waits-for-all-writes", test_drain_waits },
    { "drain/may-have-nothing-to-wait-for", test_drain_of_nothing },
    { "read/gives-what-is-on-the-disk", test_read },
    { "read/may-be-shorter-than-a-buffer", test_short_read },
    { "read/several-run-together", test_reads_ahead },
    { "error/of-a-read-is-reported", test_read_error },
    { "error/read-is-no-write-error", test_read_error_is_no_write_error },
    { "error/of-a-write-is-reported", test_write_error },
    { "error/of-a-later-extent-is-reported", test_error_of_later_extent },
    { "error/first-one-stays", test_first_error_sticks },
    { "error/first-of-two-in-flight-stays", test_first_of_two_errors_sticks },
    { "error/nothing-is-written-after-it", test_nothing_after_an_error },
    { "error/no-write-that-waits-is-started-after-it",
      test_nothing_after_an_overlapping_error },
    { "error/buffers-come-back", test_buffers_return_after_an_error },
};

typedef struct TestRun {
    const WindowTest *test;
    Fixture fixture;
} TestRun;

static void coroutine_fn call_window_test(void *opaque)
{
    TestRun *run = opaque;

    run->test->fn(&run->fixture);
}

static void run_test(gconstpointer data)
{
    TestRun run = { .test = data };
    Fixture *f = &run.fixture;

    f->blk = slow_disk_open(&f->disk);
    f->window = snap_io_window_new(f->blk, NB_BUFFERS, BUFFER_SIZE);
    run_in_coroutine(call_window_test, &run);
    snap_io_window_free(f->window);
    blk_unref(f->blk);
}

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/io-window/", tests, run_test);
    return g_test_run();
}
