/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A channel that gives bytes from memory, a limited number a call
 */

#ifndef SNAP_TESTS_TEST_CHANNEL_H
#define SNAP_TESTS_TEST_CHANNEL_H

#include "io/channel.h"
#include "qapi/error.h"
#include "qemu/iov.h"

#define TYPE_TEST_CHANNEL "snap-test-channel"
OBJECT_DECLARE_SIMPLE_TYPE(TestChannel, TEST_CHANNEL)

/**
 * TestChannel: state of the channel
 * @data, @size: what it gives
 * @chunk: most bytes a call
 * @fails: with an error, instead of the end
 * @grows: bytes that are there once the end has been seen
 * @nb_reads: calls so far
 * @asked: the most that a call had room for
 * @pause: called before each read, if the channel makes its reader wait
 * @seed: for @pause
 */
struct TestChannel {
    QIOChannel parent;
    const uint8_t *data;
    size_t size;
    size_t chunk;
    bool fails;
    size_t grows;
    unsigned nb_reads;
    size_t asked;
    void coroutine_fn (*pause)(uint32_t *seed);
    uint32_t seed;
};

static ssize_t test_channel_readv(QIOChannel *ioc, const struct iovec *iov,
                                  size_t niov, int **fds, size_t *nfds,
                                  int flags, Error **errp)
{
    TestChannel *c = TEST_CHANNEL(ioc);
    size_t length;

    if (c->pause) {
        c->pause(&c->seed);
    }
    c->nb_reads++;
    c->asked = MAX(c->asked, iov_size(iov, niov));
    if (!c->size && c->fails) {
        error_setg(errp, "Injected failure");
        return -1;
    }
    if (!c->size) {
        c->size = c->grows;
        c->grows = 0;
        return 0;
    }
    length = MIN(c->chunk, c->size);
    length = iov_from_buf(iov, niov, 0, c->data, length);
    c->data += length;
    c->size -= length;
    return length;
}

static int test_channel_close(QIOChannel *ioc, Error **errp)
{
    return 0;
}

/* QEMU 10.1 made the data const. */
static void test_channel_class_init(ObjectClass *klass,
                                    typeof_field(TypeInfo, class_data) data)
{
    QIOChannelClass *k = QIO_CHANNEL_CLASS(klass);

    k->io_readv = test_channel_readv;
    k->io_close = test_channel_close;
}

static const TypeInfo test_channel_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_TEST_CHANNEL,
    .instance_size = sizeof(TestChannel),
    .class_init = test_channel_class_init,
};

static void test_channel_register(void)
{
    type_register_static(&test_channel_info);
}

type_init(test_channel_register);

static inline TestChannel *test_channel_new(const uint8_t *data, size_t size,
                                            size_t chunk)
{
    TestChannel *channel = TEST_CHANNEL(object_new(TYPE_TEST_CHANNEL));

    channel->data = data;
    channel->size = size;
    channel->chunk = chunk;
    return channel;
}

#endif /* SNAP_TESTS_TEST_CHANNEL_H */
