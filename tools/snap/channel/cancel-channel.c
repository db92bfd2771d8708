/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A channel whose input and output can be cancelled
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/main-loop.h"
#include "snap/channel/cancel-channel.h"

#define TYPE_SNAP_CANCEL_CHANNEL "snap-cancel-channel"
OBJECT_DECLARE_SIMPLE_TYPE(SnapCancelChannel, SNAP_CANCEL_CHANNEL)

struct SnapCancelChannel {
    QIOChannel parent;
    QIOChannel *master;
    bool cancelled;
};

static bool check_cancelled(SnapCancelChannel *c, Error **errp)
{
    if (c->cancelled) {
        errno = ECANCELED;
        error_setg(errp, "The channel is cancelled");
    }
    return c->cancelled;
}

static ssize_t cancel_channel_readv(QIOChannel *ioc, const struct iovec *iov,
                                    size_t niov, int **fds, size_t *nfds,
                                    int flags, Error **errp)
{
    SnapCancelChannel *c = SNAP_CANCEL_CHANNEL(ioc);

    return check_cancelled(c, errp) ? -1 :
           qio_channel_readv_full(c->master, iov, niov, fds, nfds, flags, errp);
}

static ssize_t cancel_channel_writev(QIOChannel *ioc, const struct iovec *iov,
                                     size_t niov, int *fds, size_t nfds,
                                     int flags, Error **errp)
{
    SnapCancelChannel *c = SNAP_CANCEL_CHANNEL(ioc);

    return check_cancelled(c, errp) ? -1 :
           qio_channel_writev_full(c->master, iov, niov, fds, nfds, flags,
                                   errp);
}

static int cancel_channel_close(QIOChannel *ioc, Error **errp)
{
    return qio_channel_close(SNAP_CANCEL_CHANNEL(ioc)->master, errp);
}

static int cancel_channel_shutdown(QIOChannel *ioc, QIOChannelShutdown how,
                                   Error **errp)
{
    return qio_channel_shutdown(SNAP_CANCEL_CHANNEL(ioc)->master, how, errp);
}

static void cancel_channel_set_aio_fd_handler(QIOChannel *ioc,
                                              AioContext *read_ctx,
                                              IOHandler *io_read,
                                              AioContext *write_ctx,
                                              IOHandler *io_write,
                                              void *opaque)
{
    qio_channel_set_aio_fd_handler(SNAP_CANCEL_CHANNEL(ioc)->master, read_ctx,
                                   io_read, write_ctx, io_write, opaque);
}

static void cancel_channel_finalize(Object *obj)
{
    object_unref(OBJECT(SNAP_CANCEL_CHANNEL(obj)->master));
}

/* QEMU 10.1 made the data const. */
static void cancel_channel_class_init(ObjectClass *klass,
                                      typeof_field(TypeInfo, class_data) data)
{
    QIOChannelClass *k = QIO_CHANNEL_CLASS(klass);

    k->io_readv = cancel_channel_readv;
    k->io_writev = cancel_channel_writev;
    k->io_close = cancel_channel_close;
    k->io_shutdown = cancel_channel_shutdown;
    k->io_set_aio_fd_handler = cancel_channel_set_aio_fd_handler;
}

static const TypeInfo cancel_channel_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_SNAP_CANCEL_CHANNEL,
    .instance_size = sizeof(SnapCancelChannel),
    .instance_finalize = cancel_channel_finalize,
    .class_init = cancel_channel_class_init,
};

static void cancel_channel_register_types(void)
{
    type_register_static(&cancel_channel_info);
}

type_init(cancel_channel_register_types);

QIOChannel *snap_cancel_channel_new(QIOChannel *master)
{
    SnapCancelChannel *c =
        SNAP_CANCEL_CHANNEL(object_new(TYPE_SNAP_CANCEL_CHANNEL));
    QIOChannel *ioc = QIO_CHANNEL(c);

    c->master = master;
    if (qio_channel_has_feature(master, QIO_CHANNEL_FEATURE_SHUTDOWN)) {
        qio_channel_set_feature(ioc, QIO_CHANNEL_FEATURE_SHUTDOWN);
    }
    return ioc;
}

void snap_cancel_channel_cancel(QIOChannel *ioc)
{
    Coroutine *writer;

    GLOBAL_STATE_CODE();
    SNAP_CANCEL_CHANNEL(ioc)->cancelled = true;
    qio_channel_wake_read(ioc);
    /* qio_channel_yield() lets others than its handlers wake it, too. */
    writer = qatomic_xchg(&ioc->write_coroutine, NULL);
    if (writer) {
        aio_co_wake(writer);
    }
}
