/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the buffered input from a channel
 */

#include "qemu/osdep.h"
#include "io/channel-file.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "snap/channel/input.h"
#include "snap-coroutine.h"
#include "test-channel.h"
#include "test-table.h"

#define NB_BYTES    (600 * KiB)
#define NB_RANDOM   3000
/* As far as is read ahead. */
#define AHEAD       (64 * KiB)

/* How many bytes a call of the channel gives. */
static const size_t chunks[] = { SIZE_MAX, 65537, 65536, 4096, 7, 1 };

/* Sizes around those that matter, to read or to hand back */
static const size_t sizes[] = {
    0, 1, 2, 4095, 4096, 4097, AHEAD - 1, AHEAD, AHEAD + 1, 2 * AHEAD,
    SNAP_INPUT_MAX_BACK - 1, SNAP_INPUT_MAX_BACK,
};

/**
 * Fixture: an input from memory
 * @bytes: what the channel has, NB_BYTES of them
 * @buf: room for as many
 * @pos: how many have been read
 */
typedef struct Fixture {
    TestChannel *channel;
    SnapInput *input;
    uint8_t *bytes;
    uint8_t *buf;
    size_t pos;
} Fixture;

/* Start anew, with @size bytes that come @chunk at a time. */
static void restart(Fixture *f, size_t size, size_t chunk)
{
    if (f->channel) {
        snap_input_free(f->input);
        object_unref(OBJECT(f->channel));
    }
    f->channel = test_channel_new(f->bytes, size, chunk);
    f->input = snap_input_new(QIO_CHANNEL(f->channel));
    f->pos = 0;
}

static void fixture_init(Fixture *f, size_t chunk)
{
    *f = (Fixture) {
        .bytes = g_malloc(NB_BYTES),
        .buf = g_malloc(NB_BYTES),
    };
    for (size_t i = 0; i < NB_BYTES; i++) {
        f->bytes[i] = i * 31 + (i >> 8) * 17 + (i >> 16) * 5 + 1;
    }
    restart(f, NB_BYTES, chunk);
}

static void fixture_destroy(Fixture *f)
{
    snap_input_free(f->input);
    object_unref(OBJECT(f->channel));
    g_free(f->bytes);
    g_free(f->buf);
}

static void assert_good(const SnapInput *input)
{
    Error *err = NULL;

    g_assert_cmpint(snap_input_error(input, &err), ==, 0);
    g_assert_null(err);
    g_assert_false(snap_input_ended(input));
}

static void assert_ended(const SnapInput *input)
{
    Error *err = NULL;

    g_assert_true(snap_input_ended(input));
    assert_failed(snap_input_error(input, &err), -EIO, &err);
    g_assert_cmpint(snap_input_error(input, NULL), ==, -EIO);
}

/* Not the end, and @why */
static void assert_broken(const SnapInput *input, const char *why)
{
    Error *err = NULL;

    g_assert_false(snap_input_ended(input));
    g_assert_cmpint(snap_input_error(input, &err), <, 0);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
}

static void coroutine_fn check_read(Fixture *f, size_t length)
{
    snap_input_read(f->input, f->buf, length);
    g_assert_cmpmem(f->buf, length, f->bytes + f->pos, length);
    f->pos += length;
}

/* A peek at @length bytes finds @expected of them. */
static void coroutine_fn check_short_peek(Fixture *f, size_t length,
                                          size_t expected)
{
    const uint8_t *p = NULL;
    size_t got = snap_input_peek(f->input, &p, length);

    g_assert_cmpmem(p, got, f->bytes + f->pos, expected);
    g_assert_cmpuint(snap_input_buffered(f->input), >=, got);
}

static void coroutine_fn check_peek(Fixture *f, size_t length)
{
    check_short_peek(f, length, length);
}

static void check_skip(Fixture *f, size_t length)
{
    size_t buffered = snap_input_buffered(f->input);

    snap_input_skip(f->input, length);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, buffered - length);
    f->pos += length;
}

/* Hand the last @length bytes back, from a buffer of them. */
static void check_unread(Fixture *f, size_t length)
{
    struct iovec iov = { f->bytes + f->pos - length, length };
    size_t buffered = snap_input_buffered(f->input);

    snap_input_unread(f->input, &iov, 1, 0, length);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, buffered + length);
    f->pos -= length;
}

/* Read two elements; returns how many bytes have come. */
static size_t coroutine_fn check_read_ahead(Fixture *f, size_t first,
                                            size_t second)
{
    g_autofree uint8_t *other = g_malloc(MAX(second, 1));
    struct iovec iov[] = { { f->buf, first }, { other, second } };
    size_t got = snap_input_read_ahead(f->input, iov, 2);

    g_assert_cmpuint(got, <=, first + second);
    g_assert_cmpmem(f->buf, MIN(got, first), f->bytes + f->pos,
                    MIN(got, first));
    if (got > first) {
        g_assert_cmpmem(other, got - first, f->bytes + f->pos + first,
                        got - first);
    }
    f->pos += got;
    return got;
}

/* That nothing more is read of the channel, whatever is asked for. */
static void coroutine_fn assert_no_more(Fixture *f)
{
    unsigned nb_reads = f->channel->nb_reads;
    struct iovec iov = { f->buf, 10 };
    const uint8_t *p;

    g_assert_cmpuint(snap_input_get_be64(f->input), ==, 0);
    g_assert_cmpuint(snap_input_peek_byte(f->input), ==, 0);
    g_assert_cmpuint(snap_input_peek(f->input, &p, 5), ==, 0);
    g_assert_cmpuint(snap_input_read_ahead(f->input, &iov, 1), ==, 0);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 0);
    g_assert_cmpuint(f->channel->nb_reads, ==, nb_reads);
}

static void coroutine_fn test_integers(Fixture *f)
{
    const uint8_t *p = f->bytes;

    while (p + 15 <= f->bytes + NB_BYTES) {
        g_assert_cmphex(snap_input_get_be64(f->input), ==, ldq_be_p(p));
        g_assert_cmphex(snap_input_get_byte(f->input), ==, p[8]);
        g_assert_cmphex(snap_input_get_be16(f->input), ==, lduw_be_p(p + 9));
        g_assert_cmphex(snap_input_get_be32(f->input), ==,
                        (uint32_t)ldl_be_p(p + 11));
        p += 15;
    }
    assert_good(f->input);
}

/* All bits are those of the channel. */
static void coroutine_fn test_integers_sign(Fixture *f)
{
    memset(f->bytes, 0xff, 15);
    g_assert_cmphex(snap_input_get_byte(f->input), ==, 0xff);
    g_assert_cmphex(snap_input_get_be16(f->input), ==, 0xffff);
    g_assert_cmphex(snap_input_get_be32(f->input), ==, 0xffffffff);
    g_assert_cmphex(snap_input_get_be64(f->input), ==, UINT64_MAX);
}

static void coroutine_fn test_read(Fixture *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        restart(f, NB_BYTES, f->channel->chunk);
        while (sizes[i] && f->pos + sizes[i] + 3 <= NB_BYTES) {
            check_read(f, sizes[i]);
            check_read(f, 3);
        }
        check_read(f, 0);
        assert_good(f->input);
        check_read(f, NB_BYTES - f->pos);
        assert_good(f->input);
    }
}

static void coroutine_fn test_read_whole(Fixture *f)
{
    check_read(f, NB_BYTES);
    assert_good(f->input);
    g_assert_cmpuint(snap_input_get_byte(f->input), ==, 0);
    assert_ended(f->input);
}

/* What is large is read to where it belongs, and not piece by piece. */
static void coroutine_fn test_read_direct(Fixture *f)
{
    check_read(f, 1);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, AHEAD);
    check_read(f, NB_BYTES - 1);
    g_assert_cmpuint(f->channel->nb_reads, ==, 2);
}

static void coroutine_fn test_peek(Fixture *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        check_peek(f, sizes[i]);
        check_peek(f, sizes[i] / 2);
    }
    g_assert_cmphex(snap_input_peek_byte(f->input), ==, f->bytes[0]);
    check_read(f, 5);
    g_assert_cmphex(snap_input_peek_byte(f->input), ==, f->bytes[5]);
    while (f->pos + SNAP_INPUT_MAX_BACK <= NB_BYTES) {
        check_peek(f, SNAP_INPUT_MAX_BACK);
        check_read(f, 4099);
    }
    assert_good(f->input);
}

static void coroutine_fn test_peek_at_end(Fixture *f)
{
    restart(f, 1000, f->channel->chunk);
    check_read(f, 10);
    check_peek(f, 990);
    assert_good(f->input);
    check_short_peek(f, 991, 990);
    assert_ended(f->input);
    check_short_peek(f, SNAP_INPUT_MAX_BACK, 990);
    check_read(f, 990);
    assert_no_more(f);
}

static void coroutine_fn test_skip(Fixture *f)
{
    for (size_t i = 0; f->pos + SNAP_INPUT_MAX_BACK + 10 <= NB_BYTES; i++) {
        size_t size = sizes[i % ARRAY_SIZE(sizes)];

        check_peek(f, MIN(size + 3, SNAP_INPUT_MAX_BACK));
        check_skip(f, size);
        check_peek(f, 3);
        check_skip(f, 0);
        check_skip(f, 3);
        check_read(f, 2);
    }
    assert_good(f->input);
}

static void coroutine_fn test_unread(Fixture *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        restart(f, NB_BYTES, f->channel->chunk);
        for (size_t pos = 0; pos < 3 * 1000; pos += 1000) {
            check_read(f, sizes[i] + 1000);
            check_unread(f, sizes[i]);
            check_peek(f, MIN(sizes[i] + 1, SNAP_INPUT_MAX_BACK));
            check_read(f, sizes[i]);
            check_unread(f, sizes[i]);
        }
        check_read(f, NB_BYTES - f->pos);
        assert_good(f->input);
    }
}

/* As much as possible, while as much as possible is buffered */
static void coroutine_fn test_unread_full(Fixture *f)
{
    check_peek(f, SNAP_INPUT_MAX_BACK);
    check_read(f, SNAP_INPUT_MAX_BACK);
    check_unread(f, SNAP_INPUT_MAX_BACK);
    check_read(f, 100);
    check_unread(f, 100);
    check_peek(f, SNAP_INPUT_MAX_BACK);

    /* Part of it has passed through the buffer, part of it has not. */
    check_read(f, SNAP_INPUT_MAX_BACK + AHEAD + 50);
    check_read(f, 1);
    check_unread(f, SNAP_INPUT_MAX_BACK);
    check_peek(f, SNAP_INPUT_MAX_BACK);
    check_read(f, SNAP_INPUT_MAX_BACK + 1);
    check_read(f, NB_BYTES - f->pos);
    assert_good(f->input);
}

/* Several times, each in front of what was handed back before */
static void coroutine_fn test_unread_again(Fixture *f)
{
    check_read(f, 3000);
    for (unsigned i = 0; i < 3; i++) {
        check_unread(f, 1000);
    }
    check_read(f, 2 * AHEAD);
}

/* A vector, parts of which are left out, across its elements */
static void coroutine_fn test_unread_vector(Fixture *f)
{
    uint8_t *bytes = f->bytes + 1;
    struct iovec iov[] = {
        { bytes, 100 }, { bytes + 100, 0 }, { bytes + 100, 8 },
        { bytes + 108, 5000 }, { bytes + 5108, 2 },
    };

    check_read(f, 1);
    for (size_t skip = 0; skip <= 5110; skip += skip < 112 ? 1 : 49) {
        check_read(f, 5110);
        snap_input_unread(f->input, iov, ARRAY_SIZE(iov), skip, 5110 - skip);
        f->pos = 1 + skip;
        check_read(f, 5110 - skip);
        check_unread(f, 5110);
    }
    assert_good(f->input);
}

/* The end follows what was handed back. */
static void coroutine_fn test_unread_at_end(Fixture *f)
{
    restart(f, 1000, f->channel->chunk);
    check_read(f, 1000);
    g_assert_cmpuint(snap_input_get_byte(f->input), ==, 0);
    assert_ended(f->input);
    check_unread(f, 1000);
    check_short_peek(f, 1001, 1000);
    check_read(f, 1000);
    assert_no_more(f);
}

static void coroutine_fn test_read_ahead(Fixture *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
            restart(f, NB_BYTES, f->channel->chunk);
            check_read(f, 3);
            while (sizes[i] && f->pos + sizes[i] + sizes[j] <= NB_BYTES) {
                g_assert_cmpuint(check_read_ahead(f, sizes[i], sizes[j]), >=,
                                 sizes[i]);
            }
            assert_good(f->input);
        }
    }
}

/* The first element takes as many reads as it needs, the others none. */
static void coroutine_fn test_read_ahead_available(Fixture *f)
{
    restart(f, NB_BYTES, 100);
    g_assert_cmpuint(check_read_ahead(f, 10, 1000), ==, 100);
    g_assert_cmpuint(f->channel->nb_reads, ==, 1);
    g_assert_cmpuint(check_read_ahead(f, 100, 1000), ==, 100);
    g_assert_cmpuint(f->channel->nb_reads, ==, 2);
    g_assert_cmpuint(check_read_ahead(f, 101, 1000), ==, 200);
    g_assert_cmpuint(f->channel->nb_reads, ==, 4);
    g_assert_cmpuint(check_read_ahead(f, 0, 1000), ==, 0);
    g_assert_cmpuint(f->channel->nb_reads, ==, 4);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 0);

    /* What is buffered is there, and is taken without a read. */
    check_peek(f, 100);
    g_assert_cmpuint(check_read_ahead(f, 10, 1000), ==, 100);
    g_assert_cmpuint(f->channel->nb_reads, ==, 5);
    check_peek(f, 100);
    g_assert_cmpuint(check_read_ahead(f, 10, 20), ==, 30);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 70);
    g_assert_cmpuint(check_read_ahead(f, 80, 20), ==, 100);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 70);
    g_assert_cmpuint(f->channel->nb_reads, ==, 7);
}

/* What there is no room for is buffered. */
static void coroutine_fn test_read_ahead_rest(Fixture *f)
{
    g_assert_cmpuint(check_read_ahead(f, 10, 1000), ==, 1010);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, AHEAD);
    check_read(f, AHEAD);
    g_assert_cmpuint(f->channel->nb_reads, ==, 1);
    check_read(f, NB_BYTES - f->pos);
}

/* As many elements as a run of pages has at most */
static void coroutine_fn test_read_ahead_vector(Fixture *f)
{
    struct iovec iov[255];
    size_t got;

    check_read(f, 1);
    check_unread(f, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(iov); i++) {
        iov[i] = (struct iovec) { f->buf + i * 1000, 1000 };
    }
    got = snap_input_read_ahead(f->input, iov, ARRAY_SIZE(iov));
    g_assert_cmpuint(got, >=, 1000);
    g_assert_cmpmem(f->buf, got, f->bytes, got);
    f->pos = got;
    check_read(f, NB_BYTES - got);
}

static void coroutine_fn test_read_ahead_end_in_first(Fixture *f)
{
    size_t chunk = f->channel->chunk;

    for (size_t size = 0; size < 100; size++) {
        restart(f, size, chunk);
        g_assert_cmpuint(check_read_ahead(f, 100, 1000), ==, size);
        assert_ended(f->input);
        assert_no_more(f);
    }
}

/* The end shows at the next read only. */
static void coroutine_fn test_read_ahead_end_in_others(Fixture *f)
{
    for (size_t size = 100; size < 200; size += 9) {
        restart(f, size, SIZE_MAX);
        g_assert_cmpuint(check_read_ahead(f, 100, 100), ==, size);
        assert_good(f->input);
        g_assert_cmpuint(check_read_ahead(f, 1, 100), ==, 0);
        assert_ended(f->input);
        assert_no_more(f);
    }
}

static void coroutine_fn test_read_ahead_fails(Fixture *f)
{
    restart(f, 150, 50);
    f->channel->fails = true;
    g_assert_cmpuint(check_read_ahead(f, 90, 100), ==, 100);
    assert_good(f->input);
    g_assert_cmpuint(check_read_ahead(f, 90, 100), ==, 50);
    assert_broken(f->input, "Injected failure");
    assert_no_more(f);
}

static void coroutine_fn test_readahead(Fixture *f)
{
    static const size_t limits[] = { 1, 2, 100, 4096, AHEAD + 1 };
    size_t chunk = f->channel->chunk;

    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        restart(f, NB_BYTES, chunk);
        snap_input_set_readahead(f->input, limits[i]);
        snap_input_get_byte(f->input);
        f->pos++;
        check_peek(f, 3);
        check_read(f, 5000);
        check_peek(f, 6000);
        check_unread(f, 4000);
        check_read(f, 10000);
        g_assert_cmpuint(check_read_ahead(f, 3000, 70000), >=, 3000);
        check_read(f, 100000);
        g_assert_cmpuint(f->channel->asked, <=, limits[i]);
        g_assert_cmpuint(snap_input_buffered(f->input), <, limits[i]);
        assert_good(f->input);
    }
}

/* What is asked for may be read at once, up to the limit. */
static void coroutine_fn test_readahead_reached(Fixture *f)
{
    snap_input_set_readahead(f->input, 1000);
    check_read(f, 10);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 990);
    check_read(f, 2990);
    g_assert_cmpuint(f->channel->nb_reads, ==, 3);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, 0);
    g_assert_cmpuint(check_read_ahead(f, 10, 5000), ==, 1000);
    g_assert_cmpuint(f->channel->nb_reads, ==, 4);
    snap_input_set_readahead(f->input, SIZE_MAX);
    check_read(f, 10);
    g_assert_cmpuint(snap_input_buffered(f->input), ==, AHEAD);
}

static void coroutine_fn test_error(Fixture *f)
{
    restart(f, 10, f->channel->chunk);
    f->channel->fails = true;
    check_read(f, 10);
    assert_good(f->input);
    g_assert_cmpuint(snap_input_get_byte(f->input), ==, 0);
    assert_broken(f->input, "Injected failure");
    /* It stays, and each time there is a copy. */
    assert_no_more(f);
    assert_broken(f->input, "Injected failure");
    g_assert_cmpint(snap_input_error(f->input, NULL), <, 0);
}

/* The channel gets no chance to be better. */
static void coroutine_fn test_error_stays(Fixture *f)
{
    restart(f, 10, f->channel->chunk);
    f->channel->fails = true;
    check_peek(f, 10);
    check_short_peek(f, 11, 10);
    assert_broken(f->input, "Injected failure");
    f->channel->fails = false;
    f->channel->size = 10;
    check_read(f, 10);
    assert_no_more(f);
    assert_broken(f->input, "Injected failure");
}

static void coroutine_fn test_end(Fixture *f)
{
    restart(f, 10, f->channel->chunk);
    f->channel->grows = 20;
    check_read(f, 10);
    assert_good(f->input);
    g_assert_cmpuint(snap_input_get_byte(f->input), ==, 0);
    assert_ended(f->input);
    assert_no_more(f);
    assert_ended(f->input);
    g_assert_cmpuint(f->channel->size, ==, 20);
}

static void coroutine_fn test_nothing(Fixture *f)
{
    restart(f, 0, SIZE_MAX);
    assert_good(f->input);
    snap_input_read(f->input, f->buf, 0);
    assert_good(f->input);
    g_assert_cmpuint(snap_input_peek_byte(f->input), ==, 0);
    assert_ended(f->input);
    assert_no_more(f);
}

/* What is not there is zero, in all of a value or in the rest of it. */
static void coroutine_fn test_zeroes(Fixture *f)
{
    size_t chunk = f->channel->chunk;

    for (size_t size = 0; size <= 8; size++) {
        uint64_t mask = size ? UINT64_MAX << (64 - 8 * size) : 0;

        restart(f, size, chunk);
        g_assert_cmphex(snap_input_get_be64(f->input), ==,
                        ldq_be_p(f->bytes) & mask);
        g_assert_cmpint(snap_input_ended(f->input), ==, size < 8);
    }
    for (size_t size = 0; size < 100000; size += 33333) {
        restart(f, size, chunk);
        memset(f->buf, 0xee, 100001);
        snap_input_read(f->input, f->buf, 100000);
        g_assert_cmpmem(f->buf, size, f->bytes, size);
        g_assert_true(buffer_is_zero(f->buf + size, 100000 - size));
        g_assert_cmphex(f->buf[100000], ==, 0xee);
        assert_ended(f->input);
    }
}

static void coroutine_fn test_reference(Fixture *f)
{
    TestChannel *channel = test_channel_new(f->bytes, 10, SIZE_MAX);
    SnapInput *input = snap_input_new(QIO_CHANNEL(channel));

    g_assert_cmpuint(OBJECT(channel)->ref, ==, 2);
    snap_input_free(input);
    g_assert_cmpuint(OBJECT(channel)->ref, ==, 1);
    object_unref(OBJECT(channel));
    snap_input_free(NULL);
}

/* Read a vector of up to four elements, and hand some of it back. */
static void coroutine_fn do_random_vector(Fixture *f, GRand *rand,
                                          size_t length)
{
    struct iovec iov[4];
    unsigned niov = g_rand_int_range(rand, 1, ARRAY_SIZE(iov) + 1);
    size_t room = 0, got, back;

    for (unsigned i = 0; i < niov; i++) {
        iov[i] = (struct iovec) { f->buf + room, length / niov };
        room += length / niov;
    }
    got = snap_input_read_ahead(f->input, iov, niov);
    g_assert_cmpuint(got, >=, MIN(length / niov, NB_BYTES - f->pos));
    g_assert_cmpmem(f->buf, got, f->bytes + f->pos, got);
    back = got ? g_rand_int_range(rand, 0, MIN(got, SNAP_INPUT_MAX_BACK)) : 0;
    snap_input_unread(f->input, iov, niov, got - back, back);
    f->pos += got - back;
}

static void coroutine_fn do_at_random(Fixture *f, GRand *rand)
{
    unsigned bits = g_rand_int_range(rand, 1, 18);
    size_t length = MIN(g_rand_int_range(rand, 0, 1 << bits),
                        NB_BYTES - f->pos);

    switch (g_rand_int_range(rand, 0, 7)) {
    case 0:
        check_read(f, length);
        break;
    case 1:
        check_peek(f, length);
        break;
    case 2:
        check_skip(f, MIN(length, snap_input_buffered(f->input)));
        break;
    case 3:
        check_read(f, length);
        check_unread(f, length);
        break;
    case 4:
        check_unread(f, MIN(length / 4, f->pos) *
                        !snap_input_buffered(f->input));
        break;
    case 5:
        snap_input_set_readahead(f->input, length + 1);
        f->channel->chunk = g_rand_int_range(rand, 1, 1 << bits);
        break;
    default:
        do_random_vector(f, rand, length);
    }
}

/* Whatever is done, the bytes come in order, and each of them once. */
static void coroutine_fn test_random(Fixture *f)
{
    GRand *rand = g_rand_new_with_seed(20260221);

    for (unsigned i = 0; i < NB_RANDOM; i++) {
        if (f->pos == NB_BYTES) {
            restart(f, NB_BYTES, 1000);
        }
        do_at_random(f, rand);
        assert_good(f->input);
    }
    check_read(f, NB_BYTES - f->pos);
    g_rand_free(rand);
}

/* --- channels that are waited for --- */

/**
 * Pair: an input from a pipe or socket
 * @fds: the one that is read, and the one to write to; -1 when it is closed
 * @piece: bytes that the writer writes at a time
 * @pause_ms: before each piece, and before the end
 * @nb_pieces: how many pieces
 */
typedef struct Pair {
    SnapInput *input;
    int fds[2];
    size_t piece;
    unsigned pause_ms;
    unsigned nb_pieces;
    QEMUTimer *tick;
    unsigned nb_ticks;
} Pair;

static uint8_t pair_byte(size_t i)
{
    return i * 7 + (i >> 8) + 1;
}

static void pair_open(Pair *p, bool is_socket)
{
    QIOChannel *ioc;

    if (is_socket) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0,
                                   p->fds), ==, 0);
        ioc = QIO_CHANNEL(qio_channel_socket_new_fd(p->fds[0], &error_abort));
    } else {
        g_assert_true(g_unix_open_pipe(p->fds, FD_CLOEXEC, NULL));
        ioc = QIO_CHANNEL(qio_channel_file_new_fd(p->fds[0]));
    }
    qio_channel_set_follow_coroutine_ctx(ioc, true);
    qio_channel_set_blocking(ioc, false, &error_abort);
    p->input = snap_input_new(ioc);
    object_unref(OBJECT(ioc));
}

static void pair_close_writer(Pair *p)
{
    close(p->fds[1]);
    p->fds[1] = -1;
}

static void pair_close(Pair *p)
{
    snap_input_free(p->input);
    if (p->fds[1] >= 0) {
        pair_close_writer(p);
    }
}

/* Write @length bytes, the first of which is number @first. */
static void pair_write(Pair *p, size_t first, size_t length)
{
    g_autofree uint8_t *data = g_malloc(length);

    for (size_t i = 0; i < length; i++) {
        data[i] = pair_byte(first + i);
    }
    g_assert_cmpint(qemu_write_full(p->fds[1], data, length), ==, length);
}

static void *writer_run(void *opaque)
{
    Pair *p = opaque;

    for (unsigned i = 0; i < p->nb_pieces; i++) {
        g_usleep(p->pause_ms * 1000);
        pair_write(p, i * p->piece, p->piece);
    }
    g_usleep(p->pause_ms * 1000);
    pair_close_writer(p);
    return NULL;
}

static void assert_pair_bytes(const uint8_t *data, size_t first, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        g_assert_cmphex(data[i], ==, pair_byte(first + i));
    }
}

/* The reader waits wherever it stands. */
static void coroutine_fn test_wait(Pair *p)
{
    GThread *thread;
    uint8_t data[100];
    struct iovec iov[] = { { data, 30 }, { data + 30, 70 } };
    const uint8_t *peeked;
    size_t got;

    p->piece = 13;
    p->pause_ms = 5;
    p->nb_pieces = 10;
    thread = g_thread_new("writer", writer_run, p);

    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(0));
    snap_input_read(p->input, data, 20);
    assert_pair_bytes(data, 1, 20);
    g_assert_cmpuint(snap_input_peek(p->input, &peeked, 20), ==, 20);
    assert_pair_bytes(peeked, 21, 20);
    got = snap_input_read_ahead(p->input, iov, 2);
    g_assert_cmpuint(got, >=, 30);
    assert_pair_bytes(data, 21, got);
    snap_input_read(p->input, data, 130 - 21 - got);
    assert_pair_bytes(data, 21 + got, 130 - 21 - got);
    assert_good(p->input);
    g_assert_cmpuint(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_thread_join(thread);
}

/* Much more than the channel holds */
static void coroutine_fn test_wait_much(Pair *p)
{
    g_autofree uint8_t *data = g_malloc(MiB);
    GThread *thread;
    size_t pos = 0;

    p->piece = 333333;
    p->nb_pieces = 10;
    thread = g_thread_new("writer", writer_run, p);
    while (pos < p->piece * p->nb_pieces) {
        size_t left = p->piece * p->nb_pieces - pos;
        struct iovec iov[] = {
            { data, MIN(5000, left) }, { data + 5000, MiB - 5000 },
        };
        size_t got = snap_input_read_ahead(p->input, iov, 2);

        g_assert_cmpuint(got, >=, MIN(5000, left));
        assert_pair_bytes(data, pos, got);
        pos += got;
    }
    assert_good(p->input);
    g_assert_cmpuint(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_thread_join(thread);
}

/* Only the first element is waited for. */
static void coroutine_fn test_wait_not_ahead(Pair *p)
{
    uint8_t data[1000];
    struct iovec iov[] = { { data, 50 }, { data + 50, 950 } };

    pair_write(p, 0, 60);
    g_assert_cmpuint(snap_input_read_ahead(p->input, iov, 2), ==, 60);
    assert_pair_bytes(data, 0, 60);
    pair_write(p, 60, 50);
    g_assert_cmpuint(snap_input_read_ahead(p->input, iov, 2), ==, 50);
    assert_pair_bytes(data, 60, 50);
    pair_write(p, 110, 30);
    pair_close_writer(p);
    g_assert_cmpuint(snap_input_read_ahead(p->input, iov, 2), ==, 30);
    assert_pair_bytes(data, 110, 30);
    assert_ended(p->input);
}

/* A socket whose peer has gone without having read all */
static void coroutine_fn test_reset(Pair *p)
{
    pair_write(p, 0, 10);
    g_assert_cmpint(write(p->fds[0], "x", 1), ==, 1);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(0));
    pair_close_writer(p);
    for (unsigned i = 1; i < 10; i++) {
        g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(i));
    }
    assert_good(p->input);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_broken(p->input, strerror(ECONNRESET));
    g_assert_cmpint(snap_input_error(p->input, NULL), ==, -ECONNRESET);
}

/* Silence is the end, which stays though bytes come. */
static void coroutine_fn test_timeout_silence(Pair *p)
{
    int64_t begin = g_get_monotonic_time();

    snap_input_set_timeout(p->input, 20);
    pair_write(p, 0, 3);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(i));
    }
    assert_good(p->input);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - begin, >=, 19 * 1000);
    assert_ended(p->input);
    pair_write(p, 3, 3);
    snap_input_set_timeout(p->input, -1);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
}

/* Zero: what is there is taken. */
static void coroutine_fn test_timeout_zero(Pair *p)
{
    const uint8_t *peeked;

    snap_input_set_timeout(p->input, 0);
    pair_write(p, 0, 3);
    g_assert_cmpuint(snap_input_peek(p->input, &peeked, 4), ==, 3);
    assert_pair_bytes(peeked, 0, 3);
    assert_ended(p->input);
}

/* What is buffered is no silence, and nothing is waited for. */
static void coroutine_fn test_timeout_buffered(Pair *p)
{
    uint8_t data[10];
    struct iovec iov[] = { { data, 4 }, { data + 4, 6 } };

    pair_write(p, 0, 8);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(0));
    snap_input_set_timeout(p->input, 0);
    g_assert_cmphex(snap_input_peek_byte(p->input), ==, pair_byte(1));
    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(1));
    g_assert_cmpuint(snap_input_read_ahead(p->input, iov, 2), ==, 6);
    assert_pair_bytes(data, 2, 6);
    assert_good(p->input);
    snap_input_unread(p->input, iov, 2, 0, 6);
    g_assert_cmphex(snap_input_peek_byte(p->input), ==, pair_byte(2));
    assert_good(p->input);
    snap_input_set_timeout(p->input, -1);
    assert_good(p->input);
}

/* Bytes that come in time, each of which starts the time anew */
static void coroutine_fn test_timeout_in_time(Pair *p)
{
    GThread *thread;
    uint8_t data[10];

    p->piece = 2;
    p->pause_ms = 20;
    p->nb_pieces = 5;
    thread = g_thread_new("writer", writer_run, p);
    snap_input_set_timeout(p->input, 5000);
    snap_input_read(p->input, data, 10);
    assert_pair_bytes(data, 0, 10);
    assert_good(p->input);
    /* The real end comes before the timeout. */
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_thread_join(thread);
}

/* Without a timeout, again, the wait has no end. */
static void coroutine_fn test_no_timeout(Pair *p)
{
    GThread *thread;

    p->piece = 1;
    p->pause_ms = 50;
    p->nb_pieces = 1;
    thread = g_thread_new("writer", writer_run, p);
    snap_input_set_timeout(p->input, 0);
    snap_input_set_timeout(p->input, -1);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(0));
    assert_good(p->input);
    g_thread_join(thread);
}

static QEMUTimer *main_timer_new(QEMUTimerCB *func, Pair *p)
{
    return aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME, SCALE_MS,
                         func, p);
}

static void count_tick(void *opaque)
{
    Pair *p = opaque;

    p->nb_ticks++;
    timer_mod(p->tick, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 1);
}

/* Timers of the main loop go off while a read waits for its timeout. */
static void coroutine_fn test_timeout_main_loop_runs(Pair *p)
{
    p->tick = main_timer_new(count_tick, p);
    count_tick(p);
    snap_input_set_timeout(p->input, 200);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_assert_cmpuint(p->nb_ticks, >, 2);
    timer_free(p->tick);
}

static void hurry(void *opaque)
{
    Pair *p = opaque;

    snap_input_hurry(p->input, 1);
}

/* A read that waits without a timeout gets one. */
static void coroutine_fn test_hurry(Pair *p)
{
    QEMUTimer *timer = main_timer_new(hurry, p);

    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 5);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    timer_free(timer);
}

/* More comes at a time than is written at a time. */
static void coroutine_fn test_coalescing(Pair *p)
{
    uint8_t data[200];
    struct iovec iov[] = { { data, 10 }, { data + 10, 190 } };
    GThread *thread;
    size_t got;

    p->piece = 10;
    p->pause_ms = 1;
    p->nb_pieces = 10;
    snap_input_set_coalescing(p->input, 200 * SCALE_MS);
    thread = g_thread_new("writer", writer_run, p);
    snap_input_read(p->input, data, 1);
    assert_pair_bytes(data, 0, 1);
    got = snap_input_buffered(p->input);
    snap_input_read(p->input, data, got);
    assert_pair_bytes(data, 1, got);
    /* That one brought little. */
    got = 1 + got;
    got += snap_input_read_ahead(p->input, iov, 2);
    g_assert_cmpuint(got, >, 20);
    snap_input_read(p->input, data, 100 - got);
    assert_pair_bytes(data, got, 100 - got);
    assert_good(p->input);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_thread_join(thread);
}

/* Who comes later than that is waited for all the same. */
static void coroutine_fn test_coalescing_and_wait(Pair *p)
{
    snap_input_set_coalescing(p->input, 100 * SCALE_US);
    test_wait(p);
}

/* Neither before the first read, nor with a timeout */
static void coroutine_fn test_no_coalescing(Pair *p)
{
    int64_t begin = g_get_monotonic_time();

    snap_input_set_coalescing(p->input, INT64_C(10) * NANOSECONDS_PER_SECOND);
    pair_write(p, 0, 3);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(i));
    }
    snap_input_set_timeout(p->input, 1);
    pair_write(p, 3, 1);
    g_assert_cmphex(snap_input_get_byte(p->input), ==, pair_byte(3));
    g_assert_cmphex(snap_input_get_byte(p->input), ==, 0);
    assert_ended(p->input);
    g_assert_cmpint(g_get_monotonic_time() - begin, <, 5 * G_USEC_PER_SEC);
}

/* --- the tests --- */

/**
 * InputTest: a test of an input from memory
 * @each_chunk: for all sizes of what the channel gives at a time
 */
typedef struct InputTest {
    const char *path;
    void coroutine_fn (*fn)(Fixture *f);
    bool each_chunk;
} InputTest;

static const InputTest tests[] = {
    { "integers/are-big-endian", test_integers, true },
    { "integers/have-all-their-bits", test_integers_sign },
    { "read/gives-the-bytes-in-order", test_read, true },
    { "read/all-there-is-is-not-the-end", test_read_whole, true },
    { "read/large-one-is-not-buffered", test_read_direct },
    { "peek/takes-nothing", test_peek, true },
    { "peek/finds-the-rest-at-the-end", test_peek_at_end, true },
    { "skip/takes-what-was-peeked-at", test_skip, true },
    { "unread/bytes-are-read-again", test_unread, true },
    { "unread/most-bytes-while-most-are-buffered", test_unread_full, true },
    { "unread/may-be-repeated", test_unread_again, true },
    { "unread/takes-the-rest-of-a-vector", test_unread_vector, true },
    { "unread/end-follows-what-was-handed-back", test_unread_at_end, true },
    { "read-ahead/fills-the-first-element", test_read_ahead },
    { "read-ahead/reads-for-the-first-element-only",
      test_read_ahead_available },
    { "read-ahead/buffers-what-has-no-room", test_read_ahead_rest },
    { "read-ahead/takes-as-many-elements-as-a-run-has",
      test_read_ahead_vector, true },
    { "read-ahead/may-end-within-the-first-element",
      test_read_ahead_end_in_first, true },
    { "read-ahead/end-in-others-shows-at-the-next-read",
      test_read_ahead_end_in_others },
    { "read-ahead/failure-follows-what-came", test_read_ahead_fails },
    { "readahead-size/is-never-exceeded", test_readahead, true },
    { "readahead-size/may-come-at-once", test_readahead_reached },
    { "error/follows-what-came", test_error, true },
    { "error/stays-though-bytes-come", test_error_stays, true },
    { "end/stays-though-bytes-come", test_end, true },
    { "end/may-come-at-once", test_nothing },
    { "end/missing-bytes-are-zero", test_zeroes, true },
    { "channel-is-referenced", test_reference },
    { "random-calls-give-each-byte-once", test_random },
};

typedef enum PairKind {
    PIPE = 1,
    SOCKET = 2,
    EITHER = PIPE | SOCKET,
} PairKind;

/* A test of an input that is waited for */
typedef struct PairTest {
    const char *path;
    void coroutine_fn (*fn)(Pair *p);
    PairKind kind;
} PairTest;

static const PairTest pair_tests[] = {
    { "wait/each-call-waits-for-its-bytes", test_wait, EITHER },
    { "wait/for-more-than-the-channel-holds", test_wait_much, EITHER },
    { "wait/for-the-first-element-only", test_wait_not_ahead, EITHER },
    { "error/reset-is-not-the-end", test_reset, SOCKET },
    { "timeout/silence-is-the-end", test_timeout_silence, EITHER },
    { "timeout/of-zero-takes-what-is-there", test_timeout_zero, EITHER },
    { "timeout/buffered-bytes-are-no-silence", test_timeout_buffered, PIPE },
    { "timeout/begins-anew-with-each-byte", test_timeout_in_time, EITHER },
    { "timeout/may-be-removed", test_no_timeout, PIPE },
    { "timeout/main-loop-runs", test_timeout_main_loop_runs, EITHER },
    { "timeout/may-be-set-for-a-read-that-waits", test_hurry, EITHER },
    { "coalescing/brings-several-writes-at-a-time", test_coalescing, PIPE },
    { "coalescing/waits-for-late-bytes", test_coalescing_and_wait, EITHER },
    { "coalescing/not-at-first-nor-with-a-timeout",
      test_no_coalescing, EITHER },
};

typedef struct TestRun {
    const InputTest *test;
    Fixture fixture;
} TestRun;

static void coroutine_fn call_input_test(void *opaque)
{
    TestRun *run = opaque;

    run->test->fn(&run->fixture);
}

static void run_test(gconstpointer data)
{
    TestRun run = { .test = data };
    size_t nb_chunks = run.test->each_chunk ? ARRAY_SIZE(chunks) : 1;

    for (size_t i = 0; i < nb_chunks; i++) {
        fixture_init(&run.fixture, chunks[i]);
        run_in_coroutine(call_input_test, &run);
        fixture_destroy(&run.fixture);
    }
}

typedef struct PairRun {
    const PairTest *test;
    Pair pair;
} PairRun;

static void coroutine_fn call_pair_test(void *opaque)
{
    PairRun *run = opaque;

    run->test->fn(&run->pair);
}

static void run_pair_test(gconstpointer data)
{
    const PairTest *test = data;

    for (PairKind kind = PIPE; kind <= SOCKET; kind++) {
        PairRun run = { .test = test };

        if (test->kind & kind) {
            pair_open(&run.pair, kind == SOCKET);
            run_in_coroutine(call_pair_test, &run);
            pair_close(&run.pair);
        }
    }
}

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/input/", tests, run_test);
    ADD_TESTS("/snap/input/", pair_tests, run_pair_test);
    return g_test_run();
}
