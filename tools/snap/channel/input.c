/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered input from a channel
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "snap/channel/input.h"
#include "snap/trace.h"

/* Readahead size; pushed-back bytes are stored in front of it. */
#define READ_SIZE   (64 * KiB)
#define BUFFER_SIZE (SNAP_INPUT_MAX_BACK + READ_SIZE)

/* A read that returns less came too early. */
#define SHORT_READ (64 * KiB)

/* Stay well below IOV_MAX. */
#define MAX_IOV 256

struct SnapInput {
    /* constant */
    QIOChannel *ioc;

    /* settings */
    int timeout_ms;             /* negative to wait indefinitely */
    size_t readahead;           /* most to read at a time, in bytes */
    int64_t coalesce_ns;

    /* a read of the channel */
    QEMUTimer timer;
    bool timed_out;
    size_t last;                /* bytes that the last one has returned */

    /* what was read ahead */
    uint8_t *buffer;
    size_t pos;
    size_t end;

    /* why nothing more comes */
    bool ended;
    bool reset;                 /* that is what @err says */
    Error *err;
};

static void input_timed_out(void *opaque)
{
    SnapInput *in = opaque;

    in->timed_out = true;
    qio_channel_wake_read(in->ioc);
}

SnapInput *snap_input_new(QIOChannel *ioc)
{
    SnapInput *in = g_new0(SnapInput, 1);

    in->ioc = QIO_CHANNEL(object_ref(ioc));
    in->timeout_ms = -1;
    in->readahead = SIZE_MAX;
    in->last = SIZE_MAX;
    in->buffer = g_malloc(BUFFER_SIZE);
    aio_timer_init(qemu_get_aio_context(), &in->timer, QEMU_CLOCK_REALTIME,
                   SCALE_MS, input_timed_out, in);
    return in;
}

void snap_input_free(SnapInput *in)
{
    if (!in) {
        return;
    }
    timer_del(&in->timer);
    object_unref(OBJECT(in->ioc));
    g_free(in->buffer);
    error_free(in->err);
    g_free(in);
}

/* Wait for bytes, the timeout, or snap_input_hurry(). */
static void coroutine_fn wait_for_bytes(SnapInput *in)
{
    if (in->timeout_ms >= 0) {
        timer_mod(&in->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                              in->timeout_ms);
    }
    qio_channel_yield(in->ioc, G_IO_IN);
    timer_del(&in->timer);
    trace_snap_input_wait(in->timeout_ms, in->timed_out);
}

/* Returns: bytes read, 0 after an error or the end */
static size_t coroutine_fn read_channel(SnapInput *in, struct iovec *iov,
                                        unsigned niov)
{
    ssize_t ret;

    if (in->ended || in->err) {
        return 0;
    }
    if (in->coalesce_ns && in->last < SHORT_READ && in->timeout_ms < 0) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, in->coalesce_ns);
    }
    in->timed_out = false;
    errno = 0;
    /* Bytes may have come with the timeout: it counts if a read finds none. */
    while ((ret = qio_channel_readv(in->ioc, iov, niov, &in->err)) ==
           QIO_CHANNEL_ERR_BLOCK && !in->timed_out) {
        wait_for_bytes(in);
        errno = 0;
    }
    in->reset = in->err && errno == ECONNRESET;
    in->last = MAX(ret, 0);
    if (ret == 0 || ret == QIO_CHANNEL_ERR_BLOCK) {
        in->ended = true;
    }
    return MAX(ret, 0);
}

/* Move what is buffered to the front, so that @length bytes fit after it. */
static void make_room(SnapInput *in, size_t length)
{
    size_t buffered = in->end - in->pos;

    if (in->pos == in->end || in->end + length > BUFFER_SIZE) {
        memmove(in->buffer, in->buffer + in->pos, buffered);
        in->pos = 0;
        in->end = buffered;
    }
    assert(in->end + length <= BUFFER_SIZE);
}

/* Have @length bytes in the buffer, as far as they can be had. */
static void coroutine_fn input_fill(SnapInput *in, size_t length)
{
    assert(length <= SNAP_INPUT_MAX_BACK);
    while (in->end - in->pos < length) {
        struct iovec iov;
        size_t n;

        make_room(in, READ_SIZE);
        iov = (struct iovec) { in->buffer + in->end,
                               MIN(READ_SIZE, in->readahead) };
        n = read_channel(in, &iov, 1);
        if (!n) {
            return;
        }
        in->end += n;
    }
}

static size_t input_take(SnapInput *in, const struct iovec *iov, unsigned niov)
{
    size_t n = iov_from_buf(iov, niov, 0, in->buffer + in->pos,
                            in->end - in->pos);

    in->pos += n;
    return n;
}

size_t coroutine_fn snap_input_read_ahead(SnapInput *in,
                                          const struct iovec *iov,
                                          unsigned niov)
{
    struct iovec offer[MAX_IOV + 1];
    size_t wanted = iov[0].iov_len;
    size_t done = input_take(in, iov, niov);

    assert(niov <= MAX_IOV);
    while (done < wanted) {
        size_t room = MIN(iov_size(iov, niov) - done, in->readahead);
        unsigned n = iov_copy(offer, MAX_IOV, iov, niov, done, room);
        size_t got;

        make_room(in, READ_SIZE);
        offer[n++] = (struct iovec) { in->buffer + in->end,
                                      MIN(READ_SIZE, in->readahead - room) };
        got = read_channel(in, offer, n);
        if (!got) {
            break;
        }
        done += MIN(got, room);
        in->end += got - MIN(got, room);
    }
    return done;
}

void coroutine_fn snap_input_read(SnapInput *in, void *buf, size_t length)
{
    struct iovec iov = { buf, length };
    size_t done;

    if (length <= in->end - in->pos) {
        memcpy(buf, in->buffer + in->pos, length);
        in->pos += length;
        return;
    }
    done = snap_input_read_ahead(in, &iov, 1);
    memset((uint8_t *)buf + done, 0, length - done);
}

void snap_input_unread(SnapInput *in, const struct iovec *iov, unsigned niov,
                       size_t skip, size_t length)
{
    size_t buffered = in->end - in->pos;

    assert(length <= SNAP_INPUT_MAX_BACK && length + buffered <= BUFFER_SIZE);
    if (length > in->pos) {
        memmove(in->buffer + length, in->buffer + in->pos, buffered);
        in->pos = length;
        in->end = length + buffered;
    }
    in->pos -= length;
    iov_to_buf(iov, niov, skip, in->buffer + in->pos, length);
}

size_t coroutine_fn snap_input_peek(SnapInput *in, const uint8_t **data,
                                    size_t length)
{
    input_fill(in, length);
    *data = in->buffer + in->pos;
    return MIN(length, in->end - in->pos);
}

uint8_t coroutine_fn snap_input_peek_byte(SnapInput *in)
{
    const uint8_t *p;

    return snap_input_peek(in, &p, 1) ? *p : 0;
}

void snap_input_skip(SnapInput *in, size_t length)
{
    assert(length <= in->end - in->pos);
    in->pos += length;
}

/* @length bytes as an integer, 0 if they are not there. */
static uint64_t coroutine_fn get_be(SnapInput *in, size_t length)
{
    uint8_t value[8] = { };

    snap_input_read(in, value + sizeof(value) - length, length);
    return ldq_be_p(value);
}

uint8_t coroutine_fn snap_input_get_byte(SnapInput *in)
{
    return get_be(in, 1);
}

uint16_t coroutine_fn snap_input_get_be16(SnapInput *in)
{
    return get_be(in, 2);
}

uint32_t coroutine_fn snap_input_get_be32(SnapInput *in)
{
    return get_be(in, 4);
}

uint64_t coroutine_fn snap_input_get_be64(SnapInput *in)
{
    return get_be(in, 8);
}

size_t snap_input_buffered(const SnapInput *in)
{
    return in->end - in->pos;
}

int snap_input_error(const SnapInput *in, Error **errp)
{
    if (in->err) {
        error_propagate(errp, error_copy(in->err));
        return in->reset ? -ECONNRESET : -EIO;
    }
    if (in->ended) {
        error_setg(errp, "The channel has ended");
        return -EIO;
    }
    return 0;
}

bool snap_input_ended(const SnapInput *in)
{
    return in->ended;
}

void snap_input_set_timeout(SnapInput *in, int ms)
{
    in->timeout_ms = ms;
}

void snap_input_hurry(SnapInput *in, int ms)
{
    in->timeout_ms = ms;
    qio_channel_wake_read(in->ioc);
}

void snap_input_set_readahead(SnapInput *in, size_t bytes)
{
    in->readahead = bytes;
}

void snap_input_set_coalescing(SnapInput *in, int64_t ns)
{
    in->coalesce_ns = ns;
}
