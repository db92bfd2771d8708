/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come over several channels
 *
 * What sources send after SYNC: a packet without pages and flags.  QEMU before
 * 9.0 asks a thread for SYNC by a flag and one more job.  A thread that has not
 * begun the job before sends SYNC with the pages of that one, and has nothing
 * left for the job that was to send it (migration/multifd.c of QEMU 8.2:
 * multifd_send_sync_main, multifd_send_thread).  No page comes after the last
 * SYNC, and no channel sends more SYNCs than the main channel waits for.
 *
 * That packet may be late, as the thread may have to wait for a processor, and
 * the migration fails if it cannot be sent: the channels stay open for longer
 * than they are needed.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "snap/stream/multifd.h"
#include "snap/trace.h"
#include "snap/transfer/multifd-receiver.h"
#include "snap/util/task-group.h"

/* Packets without pages after the last SYNC; sources send one. */
#define MAX_EMPTY_PACKETS 16

typedef enum ChannelState {
    CHANNEL_RECEIVES,
    CHANNEL_IDLE,               /* all that has arrived was read */
    CHANNEL_AT_POINT,           /* waits for the others */
    CHANNEL_ENDED,
} ChannelState;

typedef struct Channel {
    SnapMultifdReceiver *receiver;
    QIOChannel *ioc;
    unsigned index;
    ChannelState state;

    /* what has come since the last point */
    bool has_pages;
    bool has_sync;
    unsigned nb_empty;          /* packets with neither */

    uint8_t *head;
    SnapMultifdPacket packet;
    QEMUIOVector qiov;
} Channel;

struct SnapMultifdReceiver {
    /* constant */
    SnapTransport *transport;
    const SnapRAMBlocks *blocks;
    SnapRAMWriter *ram;
    Channel *channels;
    unsigned nb_channels;

    SnapTaskGroup *tasks;       /* one for each channel */
    CoQueue at_point;           /* channels, for the point to be passed */
    CoQueue changed;            /* the main channel, for a channel's state */
    bool over;                  /* all pages have come */
};

/* Wake whoever waits for the main channel. */
static void multifd_receiver_failed(void *opaque)
{
    SnapMultifdReceiver *r = opaque;

    snap_transport_shutdown_input(r->transport);
}

SnapMultifdReceiver *snap_multifd_receiver_new(SnapTransport *transport,
                                               GPtrArray *channels,
                                               const SnapRAMBlocks *blocks,
                                               SnapRAMWriter *ram)
{
    SnapMultifdReceiver *r = g_new0(SnapMultifdReceiver, 1);

    r->transport = transport;
    r->blocks = blocks;
    r->ram = ram;
    r->nb_channels = channels->len;
    r->channels = g_new0(Channel, channels->len);
    for (unsigned i = 0; i < channels->len; i++) {
        Channel *c = &r->channels[i];

        c->receiver = r;
        c->ioc = g_ptr_array_index(channels, i);
        c->index = i;
        c->head = g_malloc(snap_multifd_head_size(blocks));
        qemu_iovec_init(&c->qiov, snap_multifd_packet_pages(blocks));
    }
    r->tasks = snap_task_group_new(multifd_receiver_failed, r);
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
    snap_task_group_free(r->tasks);
    g_free(r);
}

/* Read the pages of a packet with data into the image's buffers. */
static int coroutine_fn multifd_receive_pages(Channel *c, Error **errp)
{
    const SnapMultifdPacket *packet = &c->packet;
    SnapRAMWriter *ram = c->receiver->ram;
    unsigned done = 0;

    while (done < packet->nb_normal) {
        unsigned nb;
        int ret;

        qemu_iovec_reset(&c->qiov);
        nb = snap_ram_writer_reserve_several(ram, packet->pages + done,
                                             packet->nb_normal - done,
                                             &c->qiov);
        if (qio_channel_readv_all(c->ioc, c->qiov.iov, c->qiov.niov,
                                  errp) < 0) {
            snap_ram_writer_cancel(ram, packet->pages[done]);
            return -EIO;
        }
        ret = snap_ram_writer_commit_several(ram, packet->pages + done, nb,
                                             errp);
        if (ret < 0) {
            return ret;
        }
        done += nb;
    }
    return 0;
}

static int coroutine_fn multifd_receive_zero_pages(Channel *c, Error **errp)
{
    const SnapMultifdPacket *packet = &c->packet;
    int ret = 0;

    for (unsigned i = 0; i < packet->nb_zero && !ret; i++) {
        ret = snap_ram_writer_add_zero(c->receiver->ram,
                                       packet->pages[packet->nb_normal + i],
                                       errp);
    }
    return ret;
}

static void multifd_receiver_set_state(Channel *c, ChannelState state)
{
    c->state = state;
    qemu_co_queue_restart_all(&c->receiver->changed);
}

static void coroutine_fn multifd_receiver_wait_at_point(Channel *c)
{
    SnapMultifdReceiver *r = c->receiver;

    multifd_receiver_set_state(c, CHANNEL_AT_POINT);
    while (c->state == CHANNEL_AT_POINT && !r->over) {
        qemu_co_queue_wait(&r->at_point, NULL);
    }
    c->state = CHANNEL_RECEIVES;
}

static void multifd_receiver_name_channel(const Channel *c, Error **errp)
{
    error_prepend(errp, "Channel %u of multifd: ", c->index);
}

/* Returns: 1, 0 at the end of the channel, -errno with @errp set */
static int coroutine_fn multifd_receive_head(Channel *c, Error **errp)
{
    size_t size = snap_multifd_head_size(c->receiver->blocks);
    size_t done = 0;

    while (done < size) {
        ssize_t ret = qio_channel_read(c->ioc, (char *)c->head + done,
                                       size - done, errp);

        if (ret == QIO_CHANNEL_ERR_BLOCK) {
            multifd_receiver_set_state(c, CHANNEL_IDLE);
            qio_channel_yield(c->ioc, G_IO_IN);
            c->state = CHANNEL_RECEIVES;
        } else if (ret < 0) {
            return -EIO;
        } else if (ret == 0) {
            if (!done) {
                return 0;
            }
            error_setg(errp, "Unexpected end-of-file in the head of a packet");
            return -EIO;
        } else {
            done += ret;
        }
    }
    return 1;
}

static void multifd_receiver_note_packet(Channel *c)
{
    bool has_pages = c->packet.nb_normal + c->packet.nb_zero;

    c->has_pages |= has_pages;
    c->has_sync |= c->packet.sync;
    c->nb_empty += !has_pages && !c->packet.sync;
}

static void multifd_receiver_forget_packets(Channel *c)
{
    c->has_pages = false;
    c->has_sync = false;
    c->nb_empty = 0;
}

/* What must not come after the last point; see above for what may. */
static int multifd_receiver_check_late(const Channel *c, Error **errp)
{
    if (c->has_pages) {
        error_setg(errp, "multifd channel %u sent pages after the last SYNC",
                   c->index);
    } else if (c->has_sync) {
        error_setg(errp, "multifd channel %u sent more SYNCs than the main "
                   "channel", c->index);
    } else if (c->nb_empty > MAX_EMPTY_PACKETS) {
        error_setg(errp, "multifd channel %u sent more than %u packets after "
                   "the last SYNC", c->index, MAX_EMPTY_PACKETS);
    } else {
        return 0;
    }
    return -EINVAL;
}

/* Returns: 1, 0 at the end of the channel, -errno with @errp set */
static int coroutine_fn multifd_receive_packet(Channel *c, Error **errp)
{
    ERRP_GUARD();
    int ret = multifd_receive_head(c, errp);

    if (ret <= 0) {
        goto out;
    }
    ret = snap_multifd_decode(c->head, &c->packet, c->receiver->blocks, errp);
    if (ret < 0) {
        goto out;
    }
    multifd_receiver_note_packet(c);
    if (c->receiver->over) {
        ret = multifd_receiver_check_late(c, errp);
        return ret < 0 ? ret : 1;
    }
    ret = multifd_receive_pages(c, errp);
    if (!ret) {
        ret = multifd_receive_zero_pages(c, errp);
    }
    if (ret < 0) {
        goto out;
    }
    if (c->packet.sync) {
        multifd_receiver_wait_at_point(c);
    }
    return 1;

out:
    if (ret < 0) {
        multifd_receiver_name_channel(c, errp);
    }
    return ret;
}

static int coroutine_fn multifd_receive_init(Channel *c, Error **errp)
{
    ERRP_GUARD();
    uint8_t init[SNAP_MULTIFD_INIT_SIZE];
    int ret = qio_channel_read_all(c->ioc, (char *)init, sizeof(init), errp);

    ret = ret < 0 ? -EIO : snap_multifd_decode_init(init, errp);
    if (ret < 0) {
        multifd_receiver_name_channel(c, errp);
    }
    return ret;
}

static int coroutine_fn multifd_receive(Channel *c, Error **errp)
{
    int ret = multifd_receive_init(c, errp);

    if (ret < 0) {
        return ret;
    }
    do {
        ret = multifd_receive_packet(c, errp);
    } while (ret > 0);
    return ret;
}

static int coroutine_fn multifd_receiver_entry(void *opaque, Error **errp)
{
    Channel *c = opaque;
    int ret = multifd_receive(c, errp);

    multifd_receiver_set_state(c, CHANNEL_ENDED);
    return ret;
}

void coroutine_fn snap_multifd_receiver_start(SnapMultifdReceiver *r)
{
    for (unsigned i = 0; i < r->nb_channels; i++) {
        g_autofree char *name = g_strdup_printf("multifd channel %u", i);

        snap_task_group_start(r->tasks, name, multifd_receiver_entry,
                              &r->channels[i]);
    }
}

int snap_multifd_receiver_status(const SnapMultifdReceiver *r, Error **errp)
{
    return snap_task_group_status(r->tasks, errp);
}

/* How many channels are in a state */
static unsigned multifd_receiver_count(const SnapMultifdReceiver *r,
                                       ChannelState state)
{
    unsigned nb = 0;

    for (unsigned i = 0; i < r->nb_channels; i++) {
        nb += r->channels[i].state == state;
    }
    return nb;
}

/* Wait until each channel is in a state or has ended, or one has failed. */
static void coroutine_fn multifd_receiver_wait_for(SnapMultifdReceiver *r,
                                                   ChannelState state)
{
    while (!snap_multifd_receiver_status(r, NULL) &&
           multifd_receiver_count(r, state) +
           multifd_receiver_count(r, CHANNEL_ENDED) < r->nb_channels) {
        qemu_co_queue_wait(&r->changed, NULL);
    }
}

int coroutine_fn snap_multifd_receiver_sync(SnapMultifdReceiver *r,
                                            Error **errp)
{
    int ret;

    multifd_receiver_wait_for(r, CHANNEL_AT_POINT);
    ret = snap_multifd_receiver_status(r, errp);
    if (!ret && multifd_receiver_count(r, CHANNEL_ENDED)) {
        error_setg(errp, "A multifd channel ends too early");
        ret = -EIO;
    }
    trace_snap_multifd_receiver_sync(multifd_receiver_count(r,
                                                            CHANNEL_AT_POINT));
    for (unsigned i = 0; i < r->nb_channels; i++) {
        Channel *c = &r->channels[i];

        multifd_receiver_forget_packets(c);
        if (c->state == CHANNEL_AT_POINT) {
            c->state = CHANNEL_RECEIVES;
        }
    }
    qemu_co_queue_restart_all(&r->at_point);
    return ret;
}

/* Let a channel look whether more has arrived since it found nothing. */
static void multifd_receiver_look_again(Channel *c)
{
    if (c->state == CHANNEL_IDLE) {
        c->state = CHANNEL_RECEIVES;
        qio_channel_wake_read(c->ioc);
    }
}

int coroutine_fn snap_multifd_receiver_pages_end(SnapMultifdReceiver *r,
                                                 Error **errp)
{
    r->over = true;
    qemu_co_queue_restart_all(&r->at_point);
    for (unsigned i = 0; i < r->nb_channels; i++) {
        int ret = multifd_receiver_check_late(&r->channels[i], errp);

        if (ret < 0) {
            return ret;
        }
        multifd_receiver_look_again(&r->channels[i]);
    }
    multifd_receiver_wait_for(r, CHANNEL_IDLE);
    return snap_multifd_receiver_status(r, errp);
}

void coroutine_fn snap_multifd_receiver_end(SnapMultifdReceiver *r,
                                            int64_t timeout_ns)
{
    r->over = true;
    qemu_co_queue_restart_all(&r->at_point);
    snap_task_group_wait_until(r->tasks,
                               qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                               timeout_ns);
    snap_transport_shutdown_channels(r->transport);
    snap_task_group_wait(r->tasks, NULL);
}
