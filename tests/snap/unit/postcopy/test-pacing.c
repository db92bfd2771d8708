/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of how fast pages are pushed
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/pacing.h"

#define QUIET_NS  (INT64_C(20) * SCALE_MS)
#define BACKLOG   (16 * KiB)
#define LARGE     (256 * KiB)

#define BATCH_SMALL 8
#define BATCH_LARGE 32

/* Any time; 0 would be never. */
#define NOW       (INT64_C(1000) * NANOSECONDS_PER_SECOND)

/* A pipe, whose writing end is paced */
typedef struct Fixture {
    int fds[2];
    SnapTransport *transport;
    SnapPacing pacing;
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    g_autofree char *uri = NULL;

    g_assert_true(g_unix_open_pipe(f->fds, FD_CLOEXEC, NULL));
    uri = g_strdup_printf("fd:%d", f->fds[1]);
    f->transport = snap_transport_open(uri, false, NULL, &error_abort);
    g_assert_nonnull(snap_transport_output(f->transport));
    snap_pacing_init(&f->pacing, f->transport, 0, BACKLOG);
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    snap_pacing_destroy(&f->pacing);
    snap_transport_close(f->transport);
    close(f->fds[0]);
    close(f->fds[1]);
}

static bool adapt(Fixture *f, int64_t ns_since_request)
{
    return snap_pacing_adapt(&f->pacing, NOW - ns_since_request, NOW);
}

static int channel_size(Fixture *f)
{
    return fcntl(f->fds[1], F_GETPIPE_SZ);
}

static void assert_small(Fixture *f)
{
    g_assert_cmpint(channel_size(f), ==, BACKLOG);
    g_assert_cmpuint(snap_pacing_batch(&f->pacing), ==, BATCH_SMALL);
}

static void assert_large(Fixture *f)
{
    g_assert_cmpint(channel_size(f), >, BACKLOG);
    g_assert_cmpuint(snap_pacing_batch(&f->pacing), ==, BATCH_LARGE);
}

static void test_without_requests_channel_is_large(Fixture *f,
                                                   gconstpointer data)
{
    assert_large(f);
    g_assert_true(snap_pacing_adapt(&f->pacing, 0, NOW));
    assert_large(f);
    /* Also right after the start of the clock */
    g_assert_true(snap_pacing_adapt(&f->pacing, 0, 1));
    assert_large(f);
}

static void test_request_makes_channel_small(Fixture *f, gconstpointer data)
{
    g_assert_true(adapt(f, 0));
    assert_small(f);
    g_assert_true(adapt(f, 1));
    assert_small(f);
}

static void test_channel_is_large_again_after_quiet_time(Fixture *f,
                                                         gconstpointer data)
{
    g_assert_true(adapt(f, QUIET_NS - 1));
    assert_small(f);
    g_assert_true(adapt(f, QUIET_NS));
    assert_large(f);
    g_assert_cmpint(channel_size(f), ==, LARGE);
}

static void test_full_channel_stays_large_until_it_is_read(Fixture *f,
                                                           gconstpointer data)
{
    g_autofree char *buf = g_malloc0(4 * BACKLOG);

    g_assert_cmpint(write(f->fds[1], buf, 2 * BACKLOG), ==, 2 * BACKLOG);
    for (int i = 0; i < 3; i++) {
        g_assert_false(adapt(f, 0));
        assert_large(f);
    }
    g_assert_cmpint(read(f->fds[0], buf, 4 * BACKLOG), ==, 2 * BACKLOG);
    g_assert_true(adapt(f, 0));
    assert_small(f);
}

/* Batches are small all the same, where the channel is what it is. */
static void test_file_has_batches_that_depend_on_requests(void)
{
    Fixture f = { };
    g_autofree char *uri = NULL;
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    uri = g_strdup_printf("fd:%d", fd);
    f.transport = snap_transport_open(uri, false, NULL, &error_abort);
    g_assert_nonnull(snap_transport_output(f.transport));
    snap_pacing_init(&f.pacing, f.transport, 0, BACKLOG);
    g_assert_true(adapt(&f, 0));
    g_assert_cmpuint(snap_pacing_batch(&f.pacing), ==, BATCH_SMALL);
    g_assert_true(adapt(&f, QUIET_NS));
    g_assert_cmpuint(snap_pacing_batch(&f.pacing), ==, BATCH_LARGE);
    snap_pacing_destroy(&f.pacing);
    snap_transport_close(f.transport);
    close(fd);
}

static void test_held_push_waits_until_its_time(Fixture *f,
                                                gconstpointer data)
{
    snap_pacing_hold(&f->pacing, NOW);
    g_assert_cmpint(snap_pacing_delay_ns(&f->pacing, NOW - 1000), ==, 1000);
    g_assert_cmpint(snap_pacing_delay_ns(&f->pacing, NOW), <=, 0);
    g_assert_cmpint(snap_pacing_delay_ns(&f->pacing, NOW + 1000), <=, 0);
}

static void test_without_rate_next_batch_goes_at_once(Fixture *f,
                                                      gconstpointer data)
{
    g_assert_cmpint(snap_pacing_delay_ns(&f->pacing, NOW), <=, 0);
    snap_pacing_sent(&f->pacing, 1 * GiB, NOW);
    g_assert_cmpint(snap_pacing_delay_ns(&f->pacing, NOW), <=, 0);
}

static void test_rate_delays_next_batch_by_what_was_sent(Fixture *f,
                                                         gconstpointer data)
{
    SnapPacing limited;
    int64_t first, second;

    snap_pacing_init(&limited, f->transport, 1 * MiB, BACKLOG);
    g_assert_cmpint(snap_pacing_delay_ns(&limited, NOW), <=, 0);
    snap_pacing_sent(&limited, 1 * MiB, NOW);
    first = snap_pacing_delay_ns(&limited, NOW);
    g_assert_cmpint(first, >, 900 * SCALE_MS);
    g_assert_cmpint(first, <=, 1100 * SCALE_MS);
    g_assert_cmpint(snap_pacing_delay_ns(&limited, NOW + first), <=, 0);
    /* Too early: it comes on top, less the time that has passed. */
    snap_pacing_sent(&limited, 100 * MiB, NOW);
    second = snap_pacing_delay_ns(&limited, NOW);
    g_assert_cmpint(second, >, first);
    snap_pacing_destroy(&limited);
}

static void add(const char *name, void (*test)(Fixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/snap/pacing/%s", name);

    g_test_add(path, Fixture, NULL, fixture_set_up, test, fixture_tear_down);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    add("channel/large-without-requests",
        test_without_requests_channel_is_large);
    add("channel/small-after-request", test_request_makes_channel_small);
    add("channel/large-after-quiet-time",
        test_channel_is_large_again_after_quiet_time);
    add("channel/full-stays-large",
        test_full_channel_stays_large_until_it_is_read);
    g_test_add_func("/snap/pacing/channel/file",
                    test_file_has_batches_that_depend_on_requests);
    add("delay/held", test_held_push_waits_until_its_time);
    add("delay/none-without-rate", test_without_rate_next_batch_goes_at_once);
    add("delay/rate", test_rate_delays_next_batch_by_what_was_sent);
    return g_test_run();
}
