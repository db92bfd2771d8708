/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come over several channels
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/multifd.h"
#include "snap/multifd-receiver.h"
#include "trace.h"

typedef struct Channel {
    SnapMultifdReceiver *receiver;
    QIOChannel *ioc;
    unsigned index;
    uint8_t *head;
    SnapMultifdPacket packet;
    uint64_t pages[SNAP_MULTIFD_MAX_PAGES];
    QEMUIOVector qiov;
} Channel;

struct SnapMultifdReceiver {
    /* constant */
    SnapTransport *transport;
    const SnapLayout *layout;
    SnapRAMWriter *ram;
    Channel *channels;
    unsigned nb_channels;

    /* synchronization: who has come to the point, and who never will */
    unsigned nb_waiting;
    unsigned nb_ended;
    bool unsynced;              /* a packet has come since the last point */
    uint64_t round;
    CoQueue at_point;           /* channels */
    CoQueue changed;            /* the main channel, for the above to change */

    bool over;                  /* all that is expected has come */
    Error *err;                 /* of the first channel that failed */
    int ret;
};

SnapMultifdReceiver *snap_multifd_receiver_new(SnapTransport *transport,
                                               GPtrArray *channels,
                                               const SnapLayout *layout,
                                               SnapRAMWriter *ram)
{
    SnapMultifdReceiver *r = g_new0(SnapMultifdReceiver, 1);

    r->transport = transport;
    r->layout = layout;
    r->ram = ram;
    r->nb_channels = channels->len;
    r->channels = g_new0(Channel, channels->len);
    for (unsigned i = 0; i < channels->len; i++) {
        Channel *c = &r->channels[i];

        c->receiver = r;
        c->ioc = g_ptr_array_index(channels, i);
        c->index = i;
        c->head = g_malloc(snap_multifd_head_size(layout));
        qemu_iovec_init(&c->qiov, snap_multifd_packet_pages(layout));
    }
    /* None has started */
    r->nb_ended = r->nb_channels;
    qemu_co_queue_init(&r->at_point);
    qemu_co_queue_init(&r->changed);
    return r;
}

void snap_multifd_receiver_free(SnapMultifdReceiver *r)
{
    if (!r) {
        return;
    }
    for (unsigned i = 0; i < r->nb_channels; i++) {
        g_free(r->channels[i].head);
        qemu_iovec_destroy(&r->channels[i].qiov);
    }
    g_free(r->channels);
    error_free(r->err);
    g_free(r);
}

/* The pages of a packet with data, to where the image is made of them. */
static int coroutine_fn receive_pages(Channel *c, Error **errp)
{
    SnapRAMWriter *ram = c->receiver->ram;
    unsigned done = 0;

    while (done < c->packet.nb_normal) {
        unsigned nb;
        int ret;

        qemu_iovec_reset(&c->qiov);
        nb = snap_ram_writer_place_several(ram, c->pages + done,
                                           c->packet.nb_normal - done,
                                           &c->qiov);
        if (qio_channel_readv_all(c->ioc, c->qiov.iov, c->qiov.niov,
                                  errp) < 0) {
            snap_ram_writer_cancel(ram, c->pages[done]);
            return -EIO;
        }
        ret = snap_ram_writer_add_several(ram, c->pages + done, nb, errp);
        if (ret < 0) {
            return ret;
        }
        done += nb;
    }
    return 0;
}

static int coroutine_fn receive_zero_pages(Channel *c, Error **errp)
{
    const SnapMultifdPacket *packet = &c->packet;
    int ret = 0;

    for (unsigned i = 0; i < packet->nb_zero && !ret; i++) {
        ret = snap_ram_writer_add_zero(c->receiver->ram,
                                       c->pages[packet->nb_normal + i], errp);
    }
    return ret;
}

static int coroutine_fn wait_at_point(Channel *c)
{
    SnapMultifdReceiver *r = c->receiver;
    uint64_t round = r->round;

    r->nb_waiting++;
    qemu_co_queue_restart_all(&r->changed);
    while (r->round == round && !r->over) {
        qemu_co_queue_wait(&r->at_point, NULL);
    }
    return 0;
}

/* Returns: 1, 0 at the end of the channel, -errno with @errp set */
static int coroutine_fn receive_packet(Channel *c, Error **errp)
{
    const SnapLayout *layout = c->receiver->layout;
    const SnapMultifdPacket *packet = &c->packet;
    int ret;

    ret = qio_channel_read_all_eof(c->ioc, (char *)c->head,
                                   snap_multifd_head_size(layout), errp);
    if (ret <= 0) {
        return ret < 0 ? -EIO : 0;
    }
    c->receiver->unsynced = true;
    ret = snap_multifd_decode(c->head, &c->packet, layout, errp);
    if (ret < 0) {
        return ret;
    }
    for (unsigned i = 0; i < packet->nb_normal + packet->nb_zero; i++) {
        c->pages[i] = snap_layout_page(layout, &layout->blocks[packet->block],
                                       packet->offsets[i]);
    }
    ret = receive_pages(c, errp);
    if (!ret) {
        ret = receive_zero_pages(c, errp);
    }
    if (!ret && packet->sync) {
        ret = wait_at_point(c);
    }
    return ret < 0 ? ret : 1;
}

static int coroutine_fn receive(Channel *c, Error **errp)
{
    uint8_t init[SNAP_MULTIFD_INIT_SIZE];
    int ret;

    if (qio_channel_read_all(c->ioc, (char *)init, sizeof(init), errp) < 0) {
        return -EIO;
    }
    ret = snap_multifd_decode_init(init, errp);
    if (ret < 0) {
        return ret;
    }
    do {
        ret = receive_packet(c, errp);
    } while (ret > 0);
    return ret;
}

static void coroutine_fn channel_entry(void *opaque)
{
    Channel *c = opaque;
    SnapMultifdReceiver *r = c->receiver;
    Error *err = NULL;
    int ret = receive(c, &err);

    trace_snap_multifd_receiver_end(c->index, ret);
    if (ret < 0 && !r->ret) {
        r->ret = ret;
        error_propagate_prepend(&r->err, err, "Channel %u of multifd: ",
                                c->index);
        snap_transport_shutdown_input(r->transport);
    } else {
        error_free(err);
    }
    r->nb_ended++;
    qemu_co_queue_restart_all(&r->changed);
}

void coroutine_fn snap_multifd_receiver_start(SnapMultifdReceiver *r)
{
    r->nb_ended = 0;
    for (unsigned i = 0; i < r->nb_channels; i++) {
        qemu_coroutine_enter(qemu_coroutine_create(channel_entry,
                                                   &r->channels[i]));
    }
}

int snap_multifd_receiver_status(const SnapMultifdReceiver *r, Error **errp)
{
    if (r->ret < 0) {
        error_propagate(errp, error_copy(r->err));
    }
    return r->ret;
}

int coroutine_fn snap_multifd_receiver_sync(SnapMultifdReceiver *r,
                                            Error **errp)
{
    int ret;

    while (!r->ret && r->nb_waiting + r->nb_ended < r->nb_channels) {
        qemu_co_queue_wait(&r->changed, NULL);
    }
    ret = snap_multifd_receiver_status(r, errp);
    if (!ret && r->nb_ended) {
        error_setg(errp, "A channel of multifd ends too early");
        ret = -EIO;
    }
    trace_snap_multifd_receiver_sync(r->nb_waiting);
    r->nb_waiting = 0;
    r->unsynced = false;
    r->round++;
    qemu_co_queue_restart_all(&r->at_point);
    return ret;
}

int coroutine_fn snap_multifd_receiver_end(SnapMultifdReceiver *r,
                                           Error **errp)
{
    int ret;

    r->over = true;
    qemu_co_queue_restart_all(&r->at_point);
    /* What is on its way can be read all the same. */
    snap_transport_shutdown_channels(r->transport);
    while (r->nb_ended < r->nb_channels) {
        qemu_co_queue_wait(&r->changed, NULL);
    }
    ret = snap_multifd_receiver_status(r, errp);
    if (!ret && r->unsynced) {
        error_setg(errp, "A channel of multifd has a packet behind the last "
                   "point where the channels wait for each other");
        ret = -EINVAL;
    }
    return ret;
}
