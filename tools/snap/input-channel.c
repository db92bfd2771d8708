/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Input that can tell silence
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "io/channel-watch.h"
#include "snap/input-channel.h"
#include "trace.h"

#include <poll.h>

/**
 * SnapInputChannel: what is between QEMUFile and @inner
 * @inner: channel to read from, a reference
 * @fd: its descriptor
 * @patience: milliseconds to wait for bytes, negative for no limit
 * @ended: a read has found the end
 */
struct SnapInputChannel {
    QIOChannel parent;
    QIOChannel *inner;
    int fd;
    int patience;
    bool ended;
};

static bool input_channel_wait(SnapInputChannel *channel)
{
    struct pollfd pollfd = { .fd = channel->fd, .events = POLLIN };
    int ret = RETRY_ON_EINTR(poll(&pollfd, 1, channel->patience));

    trace_snap_input_channel_wait(channel->patience, ret);
    return ret != 0;
}

static ssize_t input_channel_readv(QIOChannel *ioc, const struct iovec *iov,
                                   size_t niov, int **fds, size_t *nfds,
                                   int flags, Error **errp)
{
    SnapInputChannel *channel = SNAP_INPUT_CHANNEL(ioc);
    ssize_t ret = qio_channel_readv(channel->inner, iov, niov, errp);

    if (ret == QIO_CHANNEL_ERR_BLOCK && channel->patience >= 0) {
        ret = input_channel_wait(channel) ?
              qio_channel_readv(channel->inner, iov, niov, errp) : 0;
    }
    if (ret == 0) {
        channel->ended = true;
    }
    return ret;
}

static int input_channel_set_blocking(QIOChannel *ioc, bool enabled,
                                      Error **errp)
{
    QIOChannel *inner = SNAP_INPUT_CHANNEL(ioc)->inner;

    /* What qio_channel_set_blocking() returns depends on QEMU's version. */
    return QIO_CHANNEL_GET_CLASS(inner)->io_set_blocking(inner, enabled, errp);
}

static int input_channel_close(QIOChannel *ioc, Error **errp)
{
    return qio_channel_close(SNAP_INPUT_CHANNEL(ioc)->inner, errp);
}

static GSource *input_channel_create_watch(QIOChannel *ioc,
                                           GIOCondition condition)
{
    SnapInputChannel *channel = SNAP_INPUT_CHANNEL(ioc);

    /* Not of @inner: the callback is to be called with this channel. */
    return qio_channel_create_fd_watch(ioc, channel->fd, condition);
}

static void input_channel_set_aio_fd_handler(QIOChannel *ioc,
                                             AioContext *read_ctx,
                                             IOHandler *io_read,
                                             AioContext *write_ctx,
                                             IOHandler *io_write,
                                             void *opaque)
{
    qio_channel_set_aio_fd_handler(SNAP_INPUT_CHANNEL(ioc)->inner,
                                   read_ctx, io_read, write_ctx, io_write,
                                   opaque);
}

static void input_channel_init(Object *obj)
{
    SNAP_INPUT_CHANNEL(obj)->patience = -1;
}

static void input_channel_finalize(Object *obj)
{
    object_unref(OBJECT(SNAP_INPUT_CHANNEL(obj)->inner));
}

/* QEMU 10.1 made the data const. */
static void input_channel_class_init(ObjectClass *klass,
                                     typeof_field(TypeInfo, class_data) data)
{
    QIOChannelClass *ioc_class = QIO_CHANNEL_CLASS(klass);

    ioc_class->io_readv = input_channel_readv;
    ioc_class->io_set_blocking = input_channel_set_blocking;
    ioc_class->io_close = input_channel_close;
    ioc_class->io_create_watch = input_channel_create_watch;
    ioc_class->io_set_aio_fd_handler = input_channel_set_aio_fd_handler;
}

static const TypeInfo input_channel_info = {
    .name = TYPE_SNAP_INPUT_CHANNEL,
    .parent = TYPE_QIO_CHANNEL,
    .instance_size = sizeof(SnapInputChannel),
    .instance_init = input_channel_init,
    .instance_finalize = input_channel_finalize,
    .class_init = input_channel_class_init,
};

static void input_channel_register(void)
{
    type_register_static(&input_channel_info);
}

type_init(input_channel_register);

SnapInputChannel *snap_input_channel_new(QIOChannel *inner, int fd)
{
    SnapInputChannel *channel =
        SNAP_INPUT_CHANNEL(object_new(TYPE_SNAP_INPUT_CHANNEL));

    channel->inner = QIO_CHANNEL(object_ref(inner));
    channel->fd = fd;
    return channel;
}

SnapInputChannel *snap_input_channel_cast(QIOChannel *ioc)
{
    return (SnapInputChannel *)object_dynamic_cast(OBJECT(ioc),
                                                   TYPE_SNAP_INPUT_CHANNEL);
}

void snap_input_channel_set_patience(SnapInputChannel *channel, int ms)
{
    channel->patience = ms;
}

bool snap_input_channel_ended(const SnapInputChannel *channel)
{
    return channel->ended;
}
