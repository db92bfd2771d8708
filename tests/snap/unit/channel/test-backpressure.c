/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of how far a source may run ahead
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "snap/channel/backpressure.h"
#include "snap-coroutine.h"
#include "test-table.h"

#define WIDEST (1 * MiB)

/* The smallest record of a page: as much can come for each at least. */
#define RECORD 9

/* Calls that leave a busy pipe alone */
#define RETRY_CALLS 7

/* A pipe, whose reading end is paced */
typedef struct Fixture {
    int fds[2];
    SnapTransport *transport;
    SnapInput *input;
    SnapBackpressure bp;
} Fixture;

static void fixture_open(Fixture *f)
{
    g_autofree char *uri = g_strdup_printf("fd:%d", f->fds[0]);

    f->transport = snap_transport_open(uri, false, NULL, &error_abort);
    f->input = snap_transport_input(f->transport);
    snap_backpressure_init(&f->bp, f->transport);
}

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    g_assert_true(g_unix_open_pipe(f->fds, FD_CLOEXEC, NULL));
    fixture_open(f);
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    snap_transport_close(f->transport);
    close(f->fds[0]);
    close(f->fds[1]);
}

static void write_bytes(Fixture *f, size_t length)
{
    g_autofree uint8_t *buf = g_malloc0(length);

    g_assert_cmpint(write(f->fds[1], buf, length), ==, length);
}

static void drain(Fixture *f, size_t length)
{
    g_autofree uint8_t *buf = g_malloc(length);

    while (length) {
        ssize_t n = read(f->fds[0], buf, length);

        g_assert_cmpint(n, >, 0);
        length -= n;
    }
}

static void coroutine_fn co_get_byte(void *opaque)
{
    SnapInput *input = opaque;

    snap_input_get_byte(input);
}

/* Read a byte, and what the input reads ahead with it; returns the latter. */
static size_t read_ahead(Fixture *f)
{
    run_in_coroutine(co_get_byte, f->input);
    g_assert_cmpint(snap_input_error(f->input, NULL), ==, 0);
    return snap_input_buffered(f->input);
}

static void take_all(Fixture *f)
{
    const uint8_t *data;

    while (snap_input_buffered(f->input)) {
        size_t n = snap_input_peek(f->input, &data, 1);

        snap_input_skip(f->input, n);
    }
}

/* What the system says, and what is known of it */
static void assert_holds(Fixture *f, int size)
{
    g_assert_cmpint(fcntl(f->fds[0], F_GETPIPE_SZ), ==, size);
    g_assert_cmpint(f->bp.size, ==, size);
}

static void test_pipe_is_wide_at_first(Fixture *f, gconstpointer data)
{
    assert_holds(f, WIDEST);
}

static void test_pipe_stays_wide_while_much_is_to_come(Fixture *f,
                                                       gconstpointer data)
{
    snap_backpressure_update(&f->bp, UINT32_MAX);
    snap_backpressure_update(&f->bp, WIDEST / RECORD + 1);
    assert_holds(f, WIDEST);
}

/* ... and not much less than that, as a narrow one is slow. */
static void test_pipe_holds_less_than_is_to_come(Fixture *f,
                                                 gconstpointer data)
{
    int least = qemu_real_host_page_size();

    for (uint64_t missing = WIDEST; missing; missing -= missing / 10 + 1) {
        int size;

        snap_backpressure_update(&f->bp, missing);
        size = f->bp.size;
        assert_holds(f, size);
        g_assert_true(size < missing * RECORD || size == least);
        g_assert_true(2 * (uint64_t)size >= MIN(missing * RECORD, WIDEST));
    }
    snap_backpressure_update(&f->bp, 0);
    assert_holds(f, least);
}

static void test_pipe_is_never_widened_again(Fixture *f, gconstpointer data)
{
    snap_backpressure_update(&f->bp, 64 * KiB / RECORD);
    assert_holds(f, 32 * KiB);
    snap_backpressure_update(&f->bp, WIDEST);
    assert_holds(f, 32 * KiB);
}

/* What was read from the pipe is ahead of the reader, too. */
static void test_bytes_read_ahead_count(Fixture *f, gconstpointer data)
{
    size_t ahead;

    write_bytes(f, 4 * KiB);
    ahead = read_ahead(f);
    g_assert_cmpuint(ahead, ==, 4 * KiB - 1);
    snap_backpressure_update(&f->bp, (WIDEST + ahead) / RECORD + 1);
    assert_holds(f, WIDEST);
    snap_backpressure_update(&f->bp, (WIDEST + ahead) / RECORD);
    assert_holds(f, WIDEST / 2);
}

static void test_busy_pipe_is_tried_again_later(Fixture *f,
                                                gconstpointer data)
{
    write_bytes(f, WIDEST);
    snap_backpressure_update(&f->bp, 0);
    assert_holds(f, WIDEST);
    drain(f, WIDEST);
    for (int i = 0; i < RETRY_CALLS; i++) {
        snap_backpressure_update(&f->bp, 0);
        assert_holds(f, WIDEST);
    }
    snap_backpressure_update(&f->bp, 0);
    assert_holds(f, qemu_real_host_page_size());
}

static void test_pipe_is_narrowed_as_far_as_its_content_lets(Fixture *f,
                                                             gconstpointer data)
{
    write_bytes(f, 100 * KiB);
    snap_backpressure_update(&f->bp, 0);
    assert_holds(f, 128 * KiB);
}

static void test_blind_source_has_a_narrow_pipe(Fixture *f,
                                                gconstpointer data)
{
    snap_backpressure_end_unpredictable(&f->bp);
    assert_holds(f, 16 * KiB);
    snap_backpressure_update(&f->bp, 0);
    assert_holds(f, 16 * KiB);
    snap_backpressure_ram_end(&f->bp);
    assert_holds(f, 8 * KiB);
}

static void test_final_section_is_nothing_new_if_pages_tell(Fixture *f,
                                                            gconstpointer data)
{
    snap_backpressure_ram_end(&f->bp);
    assert_holds(f, WIDEST);
}

/* Whatever is to come: blind, the number of pages means nothing. */
static void test_blind_source_is_tried_again_with_all_pages(Fixture *f,
                                                            gconstpointer data)
{
    write_bytes(f, WIDEST);
    snap_backpressure_end_unpredictable(&f->bp);
    assert_holds(f, WIDEST);
    drain(f, WIDEST);
    for (int i = 0; i <= RETRY_CALLS; i++) {
        snap_backpressure_update(&f->bp, UINT32_MAX);
    }
    assert_holds(f, 16 * KiB);
}

/* A new limit does not wait for its turn. */
static void test_new_limit_is_tried_at_once(Fixture *f, gconstpointer data)
{
    write_bytes(f, WIDEST);
    snap_backpressure_update(&f->bp, 0);
    drain(f, WIDEST);
    snap_backpressure_end_unpredictable(&f->bp);
    assert_holds(f, 16 * KiB);
}

/* All of a wide pipe is read at a time, and little of a narrow one. */
static void test_narrow_pipe_is_read_in_small_pieces(Fixture *f,
                                                     gconstpointer data)
{
    write_bytes(f, 16 * KiB);
    g_assert_cmpuint(read_ahead(f), ==, 16 * KiB - 1);
    take_all(f);

    snap_backpressure_update(&f->bp, 128 * KiB / RECORD);
    assert_holds(f, 64 * KiB);
    write_bytes(f, 16 * KiB);
    g_assert_cmpuint(read_ahead(f), ==, 8 * KiB - 1);
    take_all(f);
    drain(f, 8 * KiB);

    snap_backpressure_end_unpredictable(&f->bp);
    write_bytes(f, 16 * KiB);
    g_assert_cmpuint(read_ahead(f), ==, 4 * KiB - 1);
}

static void test_socket_is_left_alone(void)
{
    Fixture f = { };

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f.fds),
                    ==, 0);
    fixture_open(&f);
    g_assert_cmpint(f.bp.size, ==, 0);
    snap_backpressure_update(&f.bp, 0);
    snap_backpressure_end_unpredictable(&f.bp);
    snap_backpressure_ram_end(&f.bp);
    g_assert_cmpint(f.bp.size, ==, 0);
    fixture_tear_down(&f, NULL);
}

static const struct {
    const char *path;
    void (*fn)(Fixture *f, gconstpointer data);
} tests[] = {
    { "pipe-is-wide-at-first", test_pipe_is_wide_at_first },
    { "pages/pipe-stays-wide-while-many-are-to-come",
      test_pipe_stays_wide_while_much_is_to_come },
    { "pages/pipe-holds-less-than-is-to-come",
      test_pipe_holds_less_than_is_to_come },
    { "pages/pipe-is-never-widened-again", test_pipe_is_never_widened_again },
    { "pages/bytes-read-ahead-count", test_bytes_read_ahead_count },
    { "busy/pipe-is-tried-again-later", test_busy_pipe_is_tried_again_later },
    { "busy/pipe-is-narrowed-as-far-as-possible",
      test_pipe_is_narrowed_as_far_as_its_content_lets },
    { "busy/new-limit-is-tried-at-once", test_new_limit_is_tried_at_once },
    { "blind/pipe-is-narrow", test_blind_source_has_a_narrow_pipe },
    { "blind/pipe-is-tried-again-with-all-pages",
      test_blind_source_is_tried_again_with_all_pages },
    { "final/section-changes-nothing-if-pages-tell",
      test_final_section_is_nothing_new_if_pages_tell },
    { "read/narrow-pipe-is-read-in-small-pieces",
      test_narrow_pipe_is_read_in_small_pieces },
};

static void test_no_wide_pipe(void)
{
    g_test_skip("The user may not have a pipe of 1 MiB");
}

/* Users without privileges may have used up what they may have in pipes. */
static bool may_have_wide_pipe(void)
{
    int fds[2];
    int size;

    g_assert_true(g_unix_open_pipe(fds, FD_CLOEXEC, NULL));
    size = fcntl(fds[0], F_SETPIPE_SZ, WIDEST);
    close(fds[0]);
    close(fds[1]);
    return size == WIDEST;
}

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    if (may_have_wide_pipe()) {
        ADD_FIXTURE_TESTS("/snap/backpressure/", tests, Fixture, fixture_set_up,
                          fixture_tear_down);
    } else {
        g_test_add_func("/snap/backpressure/pipe", test_no_wide_pipe);
    }
    g_test_add_func("/snap/backpressure/socket-is-left-alone",
                    test_socket_is_left_alone);
    return g_test_run();
}
